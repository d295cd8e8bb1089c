package kvstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// told is what a watch yields, in words: "put key=value", "delete key".
func told(e Event, err error) string {
	switch {
	case err != nil:
		return "error: " + err.Error()
	case e.Kind == EventPut:
		return fmt.Sprintf("put %s=%s", e.Entry.Key(), e.Entry.Text())
	}
	return fmt.Sprint(e.Kind, " ", e.Entry.Key())
}

// listener writes down what a watch yields.
type listener struct {
	stop context.CancelFunc
	done chan struct{}

	mu   sync.Mutex
	all  []string
	errs []error
	last Event
}

// listen starts one, and returns when it has got all there is.
func (l *lab) listen(s *Store, prefix string, opts ...WatchOption) *listener {
	ctx, stop := context.WithCancel(l.ctx)
	li := &listener{stop: stop, done: make(chan struct{})}
	go func() {
		defer close(li.done)
		for e, err := range s.Watch(ctx, prefix, opts...) {
			li.mu.Lock()
			li.all = append(li.all, told(e, err))
			li.last = e
			if err != nil {
				li.errs = append(li.errs, err)
			}
			li.mu.Unlock()
		}
	}()
	l.cleanup = append(l.cleanup, li.end)
	synctest.Wait()
	return li
}

func (li *listener) end() {
	li.stop()
	<-li.done
}

// heard returns what has come since the last time.
func (li *listener) heard() []string {
	synctest.Wait()
	li.mu.Lock()
	defer li.mu.Unlock()
	all := li.all
	li.all = nil
	return all
}

func (l *lab) wantHeard(li *listener, want ...string) {
	l.t.Helper()
	if got := li.heard(); !slices.Equal(got, want) {
		l.t.Errorf("a watch yields\n%q, not\n%q", got, want)
	}
}

// unwatched wants nothing to be left of any watch.
func (l *lab) unwatched(s *Store) {
	l.t.Helper()
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	if n := len(s.index.watchers); n != 0 {
		l.t.Errorf("%d watchers are left", n)
	}
}

func TestWatch(t *testing.T) {
	for _, cacheBytes := range []int64{0, -1} {
		inLab(t, func(l *lab) {
			s, _ := l.open(Options{CacheBytes: cacheBytes})
			other, _ := l.open(Options{CacheBytes: cacheBytes})
			for _, key := range []string{"b", "a", "user:2", "user:1", "user:", "user;", "c"} {
				l.put(s, key, "1")
			}
			l.must(s.Delete(l.ctx, "c"))
			l.must(other.Sync(l.ctx))
			all, users := l.listen(other, ""), l.listen(other, "user:")
			exact, none := l.listen(other, "user:1"), l.listen(other, "nothing")
			changes := l.listen(other, "", ChangesOnly())

			l.wantHeard(all, "put a=1", "put b=1", "put user:=1", "put user:1=1", "put user:2=1", "put user;=1")
			l.wantHeard(users, "put user:=1", "put user:1=1", "put user:2=1")
			l.wantHeard(exact, "put user:1=1")
			l.wantHeard(none)
			l.wantHeard(changes)

			steps := []struct {
				do   func() error
				want string // "": nothing
			}{
				{func() error { _, err := s.Put(l.ctx, "user:1", []byte("2")); return err }, "put user:1=2"},
				{func() error { _, err := s.Put(l.ctx, "user:1", []byte("2")); return err }, "put user:1=2"},
				{func() error { _, err := s.Put(l.ctx, "user:1", nil); return err }, "put user:1="},
				{func() error { return s.Delete(l.ctx, "user:1") }, "delete user:1"},
				{func() error { return s.Delete(l.ctx, "user:1") }, ""},
				{func() error { return s.Delete(l.ctx, "user:none") }, ""},
				{func() error { _, err := s.Put(l.ctx, "user:1", []byte("3"), IfAbsent()); return err }, "put user:1=3"},
			}
			for i, step := range steps {
				l.must(step.do())
				want := []string{step.want}
				if step.want == "" {
					want = nil
				}
				for _, li := range []*listener{all, users, exact, changes} {
					l.wantHeard(li, want...)
				}
				if l.t.Failed() {
					l.t.Fatalf("step %d", i)
				}
			}
			l.wantHeard(none)
			for _, li := range []*listener{all, users, exact, none, changes} {
				li.end()
				l.wantHeard(li) // the end of a context is no event
			}
			l.unwatched(other)
		})
	}
}

// Keys expire for a watch when they do, to the millisecond, on every replica.
func TestWatchExpiry(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{CheckInterval: time.Hour})
		other, _ := l.open(Options{CheckInterval: time.Hour})
		li := l.listen(other, "")
		put := func(value string, d time.Duration) Revision {
			t.Helper()
			revision := l.put(s, "k", value, WithTTL(d))
			l.wantHeard(li, "put k="+value)
			return revision
		}
		revision := put("1", 5*time.Second)
		time.Sleep(5*time.Second - time.Millisecond)
		l.wantHeard(li)
		time.Sleep(time.Millisecond)
		l.wantHeard(li, "expire k")
		if e := li.last.Entry; e.Revision() != revision || e.Len() != 0 || e.Metadata() != nil || !e.Expires().IsZero() {
			l.t.Errorf("the entry of an expiry is %+v", e)
		}
		l.must(s.Delete(l.ctx, "k")) // nothing is there
		time.Sleep(time.Hour)
		l.wantHeard(li)
		// A put that lives longer, or for ever, takes the place of an expiry.
		put("2", 5*time.Second)
		time.Sleep(4 * time.Second)
		put("3", 5*time.Second)
		time.Sleep(4 * time.Second)
		l.put(s, "k", "4")
		l.wantHeard(li, "put k=4")
		time.Sleep(time.Hour)
		l.wantHeard(li)
		// One that lives shorter expires earlier.
		put("5", time.Hour)
		put("6", time.Second)
		time.Sleep(time.Second)
		l.wantHeard(li, "expire k")
		time.Sleep(2 * time.Hour)
		l.wantHeard(li)
		// A watch that begins later does not hear of it.
		l.wantHeard(l.listen(other, ""))
	})
}

// A slow loop is given the last value of each key that changed, costs no more
// than those keys, and holds nobody up.
func TestWatchSlowly(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		const keys, rounds = 10, 300
		var got []string
		go l.put(s, "first", "x")
		for e, err := range s.Watch(l.ctx, "", ChangesOnly()) {
			got = append(got, told(e, err))
			if len(got) == 1+keys {
				break
			}
			if len(got) > 1 {
				continue
			}
			// In the middle of the first event.
			for round := range rounds {
				for i := range keys {
					l.put(s, fmt.Sprint("key", i), fmt.Sprint(round))
				}
				l.must(s.Delete(l.ctx, "key3"))
			}
			l.must(s.Sync(l.ctx))
			for x := range s.index.watchers {
				if len(x.pending) != keys || len(x.order) != keys {
					l.t.Errorf("%d keys are pending, in an order of %d", len(x.pending), len(x.order))
				}
			}
		}
		slices.Sort(got)
		var want []string
		for i := range keys {
			want = append(want, fmt.Sprintf("put key%d=%d", i, rounds-1))
		}
		want[3] = "delete key3"
		want = append(want, "put first=x")
		slices.Sort(want)
		if !slices.Equal(got, want) {
			l.t.Errorf("got\n%q, not\n%q", got, want)
		}
		l.unwatched(s)
	})
}

// Whatever is written by whomever, the events of a key come in its order, and
// their sum is what there is.
func TestWatchOrder(t *testing.T) {
	inLab(t, func(l *lab) {
		var stores []*Store
		var looks []*onlooker
		for range 3 {
			s, _ := l.open(Options{})
			stores = append(stores, s)
			looks = append(looks, l.look(s, true), l.lookSlowly(s))
		}
		var writers sync.WaitGroup
		for id, s := range stores {
			writers.Go(func() {
				for i := range 500 {
					key := fmt.Sprint("key", i%7)
					if i%5 == 0 {
						l.must(s.Delete(l.ctx, key))
					} else {
						l.put(s, key, fmt.Sprint(id, "-", i))
					}
				}
			})
		}
		writers.Wait()
		time.Sleep(time.Minute)
		for i, s := range stores {
			l.agree(s, looks[2*i], looks[2*i+1])
		}
	})
}

// A watch goes on while the log cannot be reached, and then tells what it
// missed.
func TestWatchWhileDown(t *testing.T) {
	inLab(t, func(l *lab) {
		s, w := l.open(Options{})
		l.put(s, "a", "1")
		l.put(s, "b", "1")
		l.put(s, "c", "1", WithTTL(time.Minute))
		li := l.listen(s, "")
		l.wantHeard(li, "put a=1", "put b=1", "put c=1")
		w.setDown(true)
		time.Sleep(time.Second)
		l.foreign("a", "2")
		l.foreign("a", "3")
		l.foreign("d", "1")
		l.wantHeard(li)
		time.Sleep(time.Minute)
		l.wantHeard(li, "expire c") // needs no log
		l.wantHeard(l.listen(s, ""), "put a=1", "put b=1")
		w.setDown(false)
		time.Sleep(5 * time.Second)
		l.wantHeard(li, "put a=3", "put d=1")
	})
}

// The last thing that a watch yields when its Store closes is ErrClosed.
func TestWatchClosed(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		l.put(s, "a", "1")
		watches := map[string]*listener{
			"all": l.listen(s, ""), "nothing": l.listen(s, "x"), "changes": l.listen(s, "", ChangesOnly()),
		}
		l.wantHeard(watches["all"], "put a=1")
		l.must(s.Close())
		watches["later"] = l.listen(s, "")
		watches["later, nothing"] = l.listen(s, "x")
		watches["later, changes"] = l.listen(s, "", ChangesOnly())
		for name, li := range watches {
			<-li.done
			if len(li.errs) != 1 || !errors.Is(li.errs[0], ErrClosed) || len(li.heard()) != 1 {
				l.t.Errorf("%s: %q", name, li.errs)
			}
		}
		l.unwatched(s)
	})
}

func TestWatchInvalidPrefix(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		l.put(s, "a", "1")
		for _, prefix := range []string{"\xff", "a\xc3", strings.Repeat("x", 513)} {
			n := 0
			for e, err := range s.Watch(l.ctx, prefix) {
				if n++; !errors.Is(err, ErrInvalidKey) || e != (Event{}) {
					l.t.Errorf("%.10q: %+v, %v", prefix, e, err)
				}
			}
			if n != 1 {
				l.t.Errorf("%.10q yields %d times", prefix, n)
			}
		}
		for _, prefix := range []string{"", ".", "..", strings.Repeat("x", 512)} {
			l.listen(s, prefix).end()
		}
		l.unwatched(s)
	})
}

// However a loop ends, nothing is left of it.
func TestWatchEnds(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{CheckInterval: time.Hour})
		keys := l.keys(s, 100)
		// In the initial state, and in the changes.
		for _, opts := range [][]WatchOption{nil, {ChangesOnly()}} {
			watch := func(ctx context.Context) iter.Seq2[Event, error] {
				time.AfterFunc(time.Second, func() { l.put(s, keys[7], "again") })
				return s.Watch(ctx, "", opts...)
			}
			for range watch(l.ctx) {
				break
			}
			l.unwatched(s)

			ctx, cancel := context.WithCancel(l.ctx)
			n := 0
			for _, err := range watch(ctx) {
				l.must(err)
				n++
				cancel()
			}
			if n != 1 {
				l.t.Errorf("%d events, after the context has ended with the first", n)
			}
			for e, err := range watch(ctx) { // it is over
				l.t.Errorf("an event: %s", told(e, err))
			}
			l.unwatched(s)

			func() {
				defer func() {
					if recover() != "of the loop" {
						l.t.Error("the panic is gone")
					}
				}()
				for range watch(l.ctx) {
					panic("of the loop")
				}
			}()
			l.unwatched(s)

			ctx, cancel = context.WithTimeout(l.ctx, time.Hour)
			began := time.Now()
			for range s.Watch(ctx, "nothing", opts...) {
				l.t.Error("an event of nothing")
			}
			cancel()
			if took := time.Since(began); took != time.Hour {
				l.t.Errorf("a watch of an hour takes %v", took)
			}
			l.unwatched(s)

			next, stop := iter.Pull2(watch(l.ctx))
			if _, err, ok := next(); err != nil || !ok {
				l.t.Errorf("pulling: %v, %v", err, ok)
			}
			stop()
			l.unwatched(s)
			time.Sleep(time.Minute)
		}
	})
}

// One watch can be looped over again, and by many at once.
func TestWatchAgain(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		l.keys(s, 3)
		watch := s.Watch(l.ctx, "")
		for range 3 {
			var got []string
			for e, err := range watch {
				if got = append(got, told(e, err)); len(got) == 3 {
					break
				}
			}
			if fmt.Sprint(got) != "[put key0=first put key1=first put key2=first]" {
				l.t.Errorf("got %q", got)
			}
		}
		l.unwatched(s)
	})
}

func TestManyWatchers(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		l.keys(s, 10)
		var listeners []*listener
		for i := range 300 {
			listeners = append(listeners, l.listen(s, fmt.Sprint("key", i%10)))
		}
		for i := range 100 {
			l.put(s, fmt.Sprint("key", i%10), fmt.Sprint(i))
			synctest.Wait()
		}
		for i, li := range listeners {
			want := []string{fmt.Sprintf("put key%d=first", i%10)}
			for k := range 10 {
				want = append(want, fmt.Sprintf("put key%d=%d", i%10, 10*k+i%10))
			}
			l.wantHeard(li, want...)
			li.end()
		}
		l.unwatched(s)
	})
}

// In a loop everything may be called, Close too.
func TestWatchCallsBack(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		l.keys(s, 5)
		n := 0
		var last error
		for e, err := range s.Watch(l.ctx, "") {
			n++
			if last = err; err != nil {
				continue // there must be no more
			}
			if n == 30 {
				l.must(s.Close())
				continue
			}
			key := e.Entry.Key()
			l.put(s, key, fmt.Sprint(n))
			if got, err := s.Get(l.ctx, key); err != nil || got.Text() != fmt.Sprint(n) {
				l.t.Errorf("Get returns %q, %v", got.Text(), err)
			}
			if _, err := s.GetAll(l.ctx, []string{key}); err != nil {
				l.t.Error(err)
			}
			if page, err := s.List(ListOptions{Prefix: "key"}); err != nil || len(page.Keys) == 0 {
				l.t.Errorf("List returns %+v, %v", page, err)
			}
			for range s.Watch(l.ctx, key) {
				break
			}
			l.must(s.Sync(l.ctx), s.Delete(l.ctx, "other"))
			_, _ = s.Status(), s.Stats()
		}
		if !errors.Is(last, ErrClosed) || n != 31 {
			l.t.Errorf("%d events, the last is %v", n, last)
		}
		l.unwatched(s)
	})
}

// Values that are not in memory are loaded for a watch, the newest only.
func TestWatchLoads(t *testing.T) {
	inLab(t, func(l *lab) {
		s, w := l.open(Options{CacheBytes: -1})
		keys := l.keys(s, 20)
		held, n := make(map[string]string), 0
		for e, err := range s.Watch(l.ctx, "") {
			l.must(err)
			held[e.Entry.Key()] = e.Entry.Text()
			if n++; n == 1 {
				// The rest of the initial state is superseded now.
				for _, key := range keys[:15] {
					l.put(s, key, "second")
				}
				l.must(s.Delete(l.ctx, keys[19]))
			}
			if len(held) == 20 && held[keys[19]] == "" && held[keys[14]] == "second" && held[keys[0]] == "second" {
				break
			}
		}
		want := make(map[string]string)
		for i, key := range keys {
			want[key] = []string{"second", "first"}[i/15]
		}
		want[keys[19]] = ""
		if !maps.Equal(held, want) {
			l.t.Errorf("the sum is %v", held)
		}
		// Without the log, a watch waits for it; its context is honoured.
		w.setDown(true)
		time.Sleep(time.Second)
		li := l.listen(s, "")
		time.Sleep(time.Minute)
		l.wantHeard(li)
		li.end()
		li = l.listen(s, keys[0])
		w.setDown(false)
		time.Sleep(time.Minute)
		l.wantHeard(li, "put "+keys[0]+"=second")
		li.end()
		l.unwatched(s)
	})
}

// An entry stays what it was, whatever happens to its key.
func TestWatchEntriesStay(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{CacheBytes: 100})
		var entries []Entry
		stop := l.put(s, "k", "0", WithMetadata(0)) + 20
		for e, err := range s.Watch(l.ctx, "") {
			l.must(err)
			entries = append(entries, e.Entry)
			if e.Entry.Revision() == stop {
				break
			}
			l.put(s, "k", fmt.Sprint(len(entries)), WithMetadata(len(entries)))
		}
		l.must(s.Delete(l.ctx, "k"))
		l.must(s.Close())
		for i, e := range entries {
			if e.Text() != fmt.Sprint(i) || string(e.Metadata()) != fmt.Sprint(i) || e.Revision() != entries[0].Revision()+Revision(i) {
				l.t.Errorf("entry %d is %q %s at %d", i, e.Text(), e.Metadata(), e.Revision())
			}
		}
	})
}
