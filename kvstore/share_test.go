package kvstore_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nearkv/nearkv/kvstore"
)

// TestShareKill9 has processes share a Dir and kills the one that serves it, again and again, at any moment. How long nobody
// could write is logged, beside how long the server needed to start.
//
// NEARKV_SHARE_KILLS is the number of kills, NEARKV_SHARE_KEYS that of the keys in the Dir before the first.
func TestShareKill9(t *testing.T) {
	kills := envInt(t, "NEARKV_SHARE_KILLS", 10)
	if testing.Short() {
		kills = min(kills, 3)
	}
	dir := t.TempDir()
	fillKeys(t, kvstore.Options{Dir: dir}, envInt(t, "NEARKV_SHARE_KEYS", 1000))
	m := newFleet(t, func(int) fleetArgs { return fleetArgs{Dir: dir} })
	for i := range m.children {
		m.start(i)
	}
	var beyond []time.Duration
	for range kills {
		m.settle()
		slot := m.serving
		m.kill(slot)
		m.start(slot)
		m.settle()
		beyond = append(beyond, m.gaps[len(m.gaps)-1]-m.starts[len(m.starts)-1])
	}
	for range fleetChildren {
		m.settle()
		m.end(m.serving)
	}
	m.verify(opened(t, "fleet", kvstore.Options{Dir: dir, Exclusive: true}))
	t.Logf("soak: kills=%d operations=%d", kills, m.acked)
	t.Logf("%d kills, %d writes acknowledged, %d of them increments; without writes p50 %v, p99 %v, beyond the start of the server p50 %v, p99 %v",
		kills, m.acked, len(m.increments), quantile(m.gaps, 0.5), quantile(m.gaps, 0.99), quantile(beyond, 0.5), quantile(beyond, 0.99))
}

// Two Stores of one process, of two namespaces or one, share a Dir like those of two processes.
func TestShareInOneProcess(t *testing.T) {
	opts := kvstore.Options{Dir: t.TempDir()}
	first, err := kvstore.Open(t.Context(), "one", opts)
	if err != nil {
		t.Fatal(err)
	}
	second, other := opened(t, "one", opts), opened(t, "two", opts)
	revision := wantPut(t, first, "key", "first")
	if e, err := second.Get(t.Context(), "key", kvstore.AtLeast(revision)); err != nil || e.Text() != "first" {
		t.Fatalf("Get returns %q, %v", e.Text(), err)
	}
	wantPut(t, other, "key", "other")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	wantPut(t, second, "key", "second")
	wantSync(t, other)
	if e, err := other.Get(t.Context(), "key"); err != nil || e.Text() != "other" {
		t.Fatalf("Get returns %q, %v", e.Text(), err)
	}
}

// fillKeys puts keys into a namespace.
func fillKeys(t *testing.T, opts kvstore.Options, keys int) {
	t.Helper()
	s, err := kvstore.Open(t.Context(), "fleet", opts)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.PutAll(t.Context(), func(yield func(kvstore.Pair) bool) {
		for i := range keys {
			if !yield(kvstore.Pair{Key: fmt.Sprintf("fill/%07d", i), Value: make([]byte, 100)}) {
				return
			}
		}
	})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
}
