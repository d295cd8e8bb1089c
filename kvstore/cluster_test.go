package kvstore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nearkv/nearkv/kvstore"
)

// clusterOf returns the place of each of three voters.
func clusterOf(t *testing.T) func(slot int) fleetArgs {
	t.Helper()
	root, voters := t.TempDir(), make(map[string]string)
	name := func(slot int) string { return fmt.Sprintf("voter%d", slot) }
	for slot := range fleetChildren {
		voters[name(slot)] = freeAddress(t)
	}
	return func(slot int) fleetArgs {
		return fleetArgs{Dir: filepath.Join(root, name(slot)), Voter: name(slot), Voters: voters}
	}
}

// freeAddress returns an address on which nobody listens, nor will: where all of 127.0.0.0/8 is this machine it is one that
// others have no reason to use.
func freeAddress(t *testing.T) string {
	t.Helper()
	host := "127.0.0.1"
	if runtime.GOOS == "linux" {
		host = fmt.Sprintf("127.%d.%d.%d", 1+rand.N(254), rand.N(255), 1+rand.N(254))
	}
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// Three voters in one process: what one of them writes all have, and two go on when one has gone.
func TestCluster(t *testing.T) {
	place := clusterOf(t)
	stores := openCluster(t, place)
	for i, s := range stores {
		key := fmt.Sprintf("key%d", i)
		revision, err := s.Put(t.Context(), key, []byte("value"))
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range stores {
			if e, err := other.Get(t.Context(), key, kvstore.AtLeast(revision)); err != nil || e.Text() != "value" {
				t.Fatalf("Get returns %q, %v", e.Text(), err)
			}
		}
	}
	large := strings.Repeat("large", 200_000)
	for i, s := range stores {
		revision, err := s.Batch(t.Context(), kvstore.OpPut("large", []byte(large)), kvstore.OpPut("small", []byte(fmt.Sprint(i))))
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range stores {
			all, err := other.GetAll(t.Context(), []string{"large", "small"}, kvstore.AtLeast(revision))
			if err != nil || all["large"].Text() != large || all["small"].Text() != fmt.Sprint(i) {
				t.Fatalf("GetAll returns %d bytes and %q, %v", all["large"].Len(), all["small"].Text(), err)
			}
		}
	}
	if err := stores[0].Close(); err != nil {
		t.Fatal(err)
	}
	revision, err := stores[1].Put(t.Context(), "key0", []byte("without the first"))
	if err != nil {
		t.Fatal(err)
	}
	back := opened(t, "fleet", place(0).options())
	if e, err := back.Get(t.Context(), "key0", kvstore.AtLeast(revision)); err != nil || e.Text() != "without the first" {
		t.Fatalf("Get returns %q, %v", e.Text(), err)
	}
	if e, err := back.Get(t.Context(), "large"); err != nil || e.Text() != large {
		t.Fatalf("Get returns %d bytes, %v", e.Len(), err)
	}
}

// openCluster opens a Store on each voter, at the same time: none of them can alone.
func openCluster(t *testing.T, place func(int) fleetArgs) (stores [fleetChildren]*kvstore.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // this is a hang
	defer cancel()
	var all errgroup.Group
	for slot := range stores {
		all.Go(func() (err error) {
			stores[slot], err = kvstore.Open(ctx, "fleet", place(slot).options())
			return err
		})
	}
	err := all.Wait()
	t.Cleanup(func() {
		for _, s := range stores {
			if s != nil {
				_ = s.Close()
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return stores
}

// A voter alone is no cluster: Open waits for the others, and no longer than its context.
func TestClusterWaitsForQuorum(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := kvstore.Open(ctx, "fleet", clusterOf(t)(0).options())
	wantErrors(t, err, kvstore.ErrUnavailable, context.DeadlineExceeded)
}

// TestClusterKill9 has three processes with a voter each, kills and restarts them in all the ways that an operator and his
// machines do, and compares what comes of it with what was acknowledged.
//
// NEARKV_CLUSTER_KILLS is the number of kills.
func TestClusterKill9(t *testing.T) {
	kills := envInt(t, "NEARKV_CLUSTER_KILLS", 2)
	if testing.Short() {
		t.Skip("elections take seconds")
	}
	place := clusterOf(t)
	stores := openCluster(t, place)
	for _, s := range stores {
		wantPut(t, s, "fill/0000000", "value")
	}
	for _, s := range stores {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}

	m := newFleet(t, place)
	for slot := range m.children {
		m.start(slot)
	}
	m.settle()
	for range kills {
		slot := rand.N(fleetChildren)
		m.kill(slot)
		m.settle() // the others
		m.start(slot)
		m.settle()
	}
	m.longest = 0
	m.rollingRestart()
	rolling := m.longest
	m.loseDisk(rand.N(fleetChildren))
	m.loseQuorum()
	for slot := range m.children {
		m.end(slot)
	}

	for _, s := range openCluster(t, place) {
		wantSync(t, s)
		m.verify(s)
	}
	t.Logf("soak: kills=%d operations=%d", kills, m.acked)
	t.Logf("%d kills, %d writes acknowledged, %d of them increments; without writes p50 %v, p99 %v, most %v, in a rolling restart %v",
		kills, m.acked, len(m.increments), quantile(m.gaps, 0.5), quantile(m.gaps, 0.99), quantile(m.gaps, 1), rolling.Round(time.Millisecond))
}

// rollingRestart restarts one after the other, as an upgrade does.
func (m *fleet) rollingRestart() {
	m.t.Helper()
	for slot := range m.children {
		m.end(slot)
		m.settle()
		m.start(slot)
		m.settle()
	}
}

// loseDisk has a voter come back with an empty directory.
func (m *fleet) loseDisk(slot int) {
	m.t.Helper()
	m.kill(slot)
	if err := os.RemoveAll(m.place(slot).Dir); err != nil {
		m.t.Fatal(err)
	}
	m.start(slot)
	m.settle()
}

// loseQuorum leaves one alone, which must not acknowledge anything, and brings the others back.
func (m *fleet) loseQuorum() {
	m.t.Helper()
	m.kill(0)
	m.kill(1)
	m.hearFor(time.Second) // what was under way before
	before := m.acked
	m.hearFor(time.Second)
	if m.acked != before {
		m.t.Errorf("one voter of three has acknowledged %d writes", m.acked-before)
	}
	m.start(0)
	m.start(1)
	m.settle()
}
