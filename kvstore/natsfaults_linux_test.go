package kvstore_test

import (
	"context"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nearkv/nearkv/kvstore"
)

// TestNATSCluster has three Stores, each on a server of its own of a cluster of nats-server processes, and kills, halts and
// parts these servers, while all write to the same keys under conditions. The history has to be linearizable, and what each
// Store tells its watchers in order and complete.
//
// NEARKV_NATS_FAULTS is the number of faults of each kind. The short form does not part the leader: what two leaders at a time
// can do is not all mended (replication/DESIGN.md).
func TestNATSCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("elections take seconds")
	}
	faults, long := envInt(t, "NEARKV_NATS_FAULTS", 1), os.Getenv("NEARKV_NATS_FAULTS") != ""
	c := startNATSCluster(t)
	stores := c.open()
	h := newHistory(t, stores)
	var replays []*replay
	for _, s := range stores {
		replays = append(replays, startReplay(s))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var work errgroup.Group
	work.Go(func() error { h.write(ctx); return nil })
	for range faults {
		c.killLeader(h)
		c.haltFollower(h)
		c.partFollower(h)
		if long {
			c.partLeader(h)
		}
	}
	cancel()
	_ = work.Wait() // nil
	h.verify()
	events := 0
	for i, r := range replays {
		r.end(t, h.keys(stores[i]))
		events += r.events
	}
	t.Logf("%d faults of each kind, %d operations: %v, %d events watched", faults, len(h.ops), h.outcomes, events)
	t.Logf("soak: server_faults=%d operations=%d", 4*faults, len(h.ops)+events)
	if h.outcomes[historyDone] == 0 || h.outcomes[historyConflict] == 0 {
		t.Error("this has tested nothing")
	}
}

// open opens a Store on each server.
func (c *natsCluster) open() []*kvstore.Store {
	c.t.Helper()
	stores := make([]*kvstore.Store, natsServers)
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Minute) // this is a hang
	defer cancel()
	var all errgroup.Group
	for i := range stores {
		all.Go(func() (err error) {
			stores[i], err = kvstore.Open(ctx, historyNamespace, kvstore.Options{URL: c.url(i), Replicas: natsServers})
			return err
		})
	}
	err := all.Wait()
	c.t.Cleanup(func() {
		for _, s := range stores {
			if s != nil {
				_ = s.Close()
			}
		}
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return stores
}

// progress waits until writes of these Stores are acknowledged.
func (c *natsCluster) progress(h *history, stores ...int) {
	c.t.Helper()
	for _, i := range stores {
		before := h.ackedBy(i)
		for end := time.Now().Add(2 * time.Minute); h.ackedBy(i) < before+20; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				c.t.Fatalf("store %d does not write: %+v", i, h.stores[i].Status())
			}
		}
	}
}

func (c *natsCluster) killLeader(h *history) {
	c.t.Helper()
	c.progress(h, 0, 1, 2)
	l := c.leader()
	a, b := others(l)
	c.kill(l)
	c.progress(h, a, b)
	c.start(l)
	c.progress(h, 0, 1, 2)
}

func (c *natsCluster) haltFollower(h *history) {
	c.t.Helper()
	a, b := others(c.leader())
	c.signal(a, syscall.SIGSTOP)
	c.progress(h, b)
	time.Sleep(2 * time.Second)
	c.progress(h, b)
	c.signal(a, syscall.SIGCONT)
	c.progress(h, 0, 1, 2)
}

// partLeader leaves the leader in a minority: the others elect another one.
func (c *natsCluster) partLeader(h *history) {
	c.t.Helper()
	l := c.leader()
	a, b := others(l)
	c.part(l, true)
	c.progress(h, a, b)
	c.part(l, false)
	c.progress(h, 0, 1, 2)
}

func (c *natsCluster) partFollower(h *history) {
	c.t.Helper()
	l := c.leader()
	a, b := others(l)
	c.part(a, true)
	c.progress(h, l, b)
	time.Sleep(2 * time.Second)
	c.part(a, false)
	c.progress(h, 0, 1, 2)
}
