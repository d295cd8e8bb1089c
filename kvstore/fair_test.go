package kvstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
	"github.com/nearkv/nearkv/replication"
)

// A watcher that is slow holds only what is pending, and tells it in the order that
// Watch promises: that of the first change of each key that it did not tell, but of
// what came in a batch that of the batch.
func TestWatchHoldsWhatIsPending(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := newIndex(newCache(1 << 20))
		w := &watcher{pending: make(map[string]pending), ready: make(chan struct{}, 1)}
		x.watch(w)
		var want []string // keys, in order
		latest := make(map[string]uint64)
		revision := uint64(0)
		write := func() replication.Message {
			revision++
			key := strconv.Itoa(rapid.IntRange(0, 5).Draw(t, "key"))
			latest[key] = revision
			return message(key, revision, "x")
		}
		drop := func(key string) { want = slices.DeleteFunc(want, func(k string) bool { return k == key }) }
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				m := write()
				if !slices.Contains(want, m.Key) {
					want = append(want, m.Key)
				}
				x.Apply(1, m)
			case 1:
				e, ok := w.take()
				if ok != (len(want) > 0) || ok && (e.Entry.Key() != want[0] || uint64(e.Entry.Revision()) != latest[want[0]]) {
					t.Fatalf("took %q at %d, %v; to come are %q", e.Entry.Key(), e.Entry.Revision(), ok, want)
				}
				if ok {
					want = want[1:]
				}
			default:
				var ms []replication.Message
				for range rapid.IntRange(1, 4).Draw(t, "parts") {
					m := write()
					drop(m.Key)
					want = append(want, m.Key)
					ms = append(ms, m)
				}
				x.ApplyAll(1, ms)
			}
			if len(w.order) > 2*len(want)+watchSpare || len(w.pending) != len(want) {
				t.Fatalf("%d places and %d changes are kept for %d keys", len(w.order), len(w.pending), len(want))
			}
		}
	})
}

// Who reads a key that is written all the time, and is not kept in memory, gets what
// the leader answers, and never goes back.
func TestHotKeyIsLoadedOnce(t *testing.T) {
	const writers, readers, reads = 16, 2, 300
	server := kvstoretest.NewServer(t, "")
	ctx, s := t.Context(), openAt(t, server, -1)
	other := openAt(t, server, -1)
	if _, err := s.Put(ctx, "hot", []byte("0")); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var writing, reading sync.WaitGroup
	for i := range writers {
		to := []*Store{s, other}[i%2]
		writing.Go(func() {
			for n := 0; !stop.Load(); n++ {
				op := OpPut("hot", fmt.Appendf(nil, "%d.%d", i, n))
				var err error
				if n%50 == 49 { // also as a part of a batch
					_, err = to.Batch(ctx, OpPut(fmt.Sprint("other", i), nil), op)
				} else {
					_, err = to.Put(ctx, "hot", fmt.Appendf(nil, "%d.%d", i, n))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var seen atomic.Uint64
	var values sync.Map
	for range readers {
		reading.Go(func() {
			for range reads {
				before := seen.Load()
				e, err := s.Get(ctx, "hot")
				if err != nil || uint64(e.Revision()) < before {
					t.Errorf("read revision %d, %v, after %d", e.Revision(), err, before)
					return
				}
				if value, known := values.LoadOrStore(e.Revision(), e.Text()); known && value != e.Text() {
					t.Errorf("revision %d is %q and %q", e.Revision(), value, e.Text())
				}
				for r := seen.Load(); r < uint64(e.Revision()) && !seen.CompareAndSwap(r, uint64(e.Revision())); r = seen.Load() {
				}
			}
		})
	}
	reading.Wait()
	stop.Store(true)
	writing.Wait()
	stats := s.Stats()
	if t.Logf("%d loads for %d reads", stats.Loads, readers*reads); stats.Loads > 2*readers*reads {
		t.Errorf("%d loads for %d reads", stats.Loads, readers*reads)
	}
}

// A load that takes longer than the key keeps its value ends nevertheless.
func TestHotKeyIsLoadedSlowly(t *testing.T) {
	const reads = 20
	inLab(t, func(l *lab) {
		writer, _ := l.open(Options{})
		l.put(writer, "hot", "0")
		s, w := l.open(Options{CacheBytes: -1})
		w.delay.Store(int64(5 * time.Millisecond))
		ctx, stop := context.WithCancel(l.ctx)
		var writing sync.WaitGroup
		writing.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				l.put(writer, "hot", strconv.Itoa(n))
				time.Sleep(time.Millisecond)
			}
		})
		last := Revision(0)
		for range reads {
			ctx, cancel := context.WithTimeout(l.ctx, time.Minute)
			e, err := s.Get(ctx, "hot")
			cancel()
			if err != nil || e.Revision() < last {
				t.Fatalf("revision %d, %v, after %d", e.Revision(), err, last)
			}
			last = e.Revision()
			time.Sleep(10 * time.Millisecond)
		}
		stop()
		writing.Wait()
		if t.Logf("%d loads for %d reads", s.Stats().Loads, reads); s.Stats().Loads > 2*reads {
			t.Errorf("%d loads for %d reads", s.Stats().Loads, reads)
		}
	})
}

// Those who update one key of a Store all the time come equally often.
func TestUpdatesTakeTurns(t *testing.T) {
	const workers, updates = 8, 4000
	ctx := t.Context()
	v := NewView(openForView(t, Options{}), codec.JSON[int]())
	var left atomic.Int64
	left.Store(updates)
	var done [workers]int
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := v.Update(ctx, "counter", func(n int) (int, error) { return n + 1, nil }); err != nil {
					t.Error(err)
					return
				}
				done[i]++
			}
		})
	}
	all.Wait()
	if t.Log(done); slices.Min(done[:])*2 < slices.Max(done[:]) {
		t.Errorf("some updated twice as often as others: %v", done)
	}
	if n, err := v.Get(ctx, "counter"); err != nil || n != updates {
		t.Errorf("the counter is %d, %v", n, err)
	}
	if n := v.store.Stats().Conflicts; n > workers {
		t.Errorf("%d conflicts in one Store", n)
	}
	if n := len(v.store.turns.of); n != 0 {
		t.Errorf("%d queues are left", n)
	}
}

// A turn goes to those who wait in their order, is over after turnTime, and leaves
// nothing behind; who stops waiting holds nobody up.
func TestTurns(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		v := NewView(s, codec.String())
		var order []string
		var wait sync.WaitGroup
		hold := make(chan struct{})
		update := func(ctx context.Context, name string, f func()) (err error) {
			_, err = v.Update(ctx, "key", func(string) (string, error) {
				order = append(order, name) // one at a time
				f()
				return name, nil
			})
			return err
		}
		begun := time.Now()
		wait.Go(func() { _ = update(l.ctx, "slow", func() { <-hold }) })
		synctest.Wait()
		impatient, cancel := context.WithTimeout(l.ctx, turnTime/2)
		defer cancel()
		wait.Go(func() {
			if err := update(impatient, "impatient", func() {}); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrUnavailable) {
				t.Errorf("who has no time gets %v", err)
			}
		})
		synctest.Wait()
		for _, name := range []string{"a", "b", "c"} {
			wait.Go(func() { l.must(update(l.ctx, name, func() {})) })
			synctest.Wait()
		}
		time.Sleep(turnTime)
		synctest.Wait()
		if want := []string{"slow", "a", "b", "c"}; !slices.Equal(order, want) || time.Since(begun) > 2*turnTime {
			t.Errorf("after %v the order is %q, not %q", time.Since(begun), order, want)
		}
		close(hold)
		wait.Wait()
		l.want(s, "key", "slow") // it has lost, and was called again

		// An Update in an Update of the same key does not wait for itself.
		nested := false
		l.must(update(l.ctx, "outer", func() {
			if !nested {
				nested = true
				l.must(update(l.ctx, "inner", func() {}))
			}
		}))
		l.want(s, "key", "outer")
		if n := len(s.turns.of); n != 0 {
			t.Errorf("%d queues are left", n)
		}
	})
}

// Several Stores that update one key all come to it, none of them late.
func TestUpdatesOfSeveralStores(t *testing.T) {
	const stores, each = 6, 40
	inLab(t, func(l *lab) {
		var all sync.WaitGroup
		for range stores {
			s, w := l.open(Options{})
			w.delay.Store(int64(time.Millisecond))
			v := NewView(s, codec.JSON[int]())
			all.Go(func() {
				for range each {
					ctx, cancel := context.WithTimeout(l.ctx, time.Second)
					if _, err := v.Update(ctx, "counter", func(n int) (int, error) { return n + 1, nil }); err != nil {
						t.Error(err)
					}
					cancel()
				}
			})
		}
		all.Wait()
	})
}
