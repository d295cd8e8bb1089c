package kvstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/nearkv/nearkv/kvstore"
)

// slowness is what a slow watcher needs for one event.
const slowness = 700 * time.Millisecond

// fold is a watcher that keeps a copy of what it was told of.
type fold struct {
	name   string
	prefix string
	slow   bool
	hurry  atomic.Bool // be slow no more
	stop   context.CancelFunc
	done   chan struct{}

	// Owned by run until everything in the bubble waits, or done is closed.
	state map[string]kvstore.Entry
	last  map[string]kvstore.Revision
	wrong error // the first thing that cannot be
	err   error // that ended the watch
}

// watch starts the watchers that a replica always has.
func (w *world) watch(r *replica) {
	w.fold(r, &fold{name: "all"})
	w.fold(r, &fold{name: "slow", slow: true})
	w.fold(r, &fold{name: "changes"}, kvstore.ChangesOnly())
}

// watchPrefix starts one that begins in the middle.
func (w *world) watchPrefix(rt *rapid.T, r *replica) {
	if len(r.folds) > 6 {
		rt.Skip("enough of them")
	}
	f := &fold{name: "prefix", prefix: rapid.SampledFrom(prefixes).Draw(rt, "prefix"), slow: rapid.Bool().Draw(rt, "slow")}
	rt.Logf("%v: %s.Watch(%.20q)", w.clock(), r.name, f.prefix)
	w.fold(r, f)
}

func (w *world) fold(r *replica, f *fold, opts ...kvstore.WatchOption) {
	ctx, stop := context.WithCancel(w.ctx)
	f.stop, f.done = stop, make(chan struct{})
	f.state, f.last = make(map[string]kvstore.Entry), make(map[string]kvstore.Revision)
	if len(opts) > 0 { // not told of what is there
		entries, err := r.store.GetAll(w.ctx, w.keys)
		if err != nil {
			w.fail("%v", err)
		}
		f.state = entries
	}
	r.folds = append(r.folds, f)
	go f.run(ctx, r.store, opts)
	if len(opts) > 0 {
		synctest.Wait() // until it watches
	}
}

func (f *fold) run(ctx context.Context, s *kvstore.Store, opts []kvstore.WatchOption) {
	defer close(f.done)
	for event, err := range s.Watch(ctx, f.prefix, opts...) {
		if err != nil {
			f.err = err
			continue // there must be nothing more
		}
		f.take(event)
		if f.slow && !f.hurry.Load() {
			time.Sleep(slowness)
		}
	}
}

func (f *fold) take(e kvstore.Event) {
	key, revision := e.Entry.Key(), e.Entry.Revision()
	last := f.last[key]
	f.last[key] = revision
	switch {
	case f.wrong != nil:
	case f.err != nil:
		f.wrong = fmt.Errorf("%v of %q after the error %w", e.Kind, key, f.err)
	case !strings.HasPrefix(key, f.prefix):
		f.wrong = fmt.Errorf("%v of %q, which has not the prefix %q", e.Kind, key, f.prefix)
	case revision < last, revision == last && e.Kind != kvstore.EventExpire:
		f.wrong = fmt.Errorf("%v of %q at %d after %d", e.Kind, key, revision, last)
	case e.Kind != kvstore.EventPut && (e.Entry.Len() != 0 || e.Entry.Metadata() != nil || !e.Entry.Expires().IsZero()):
		f.wrong = fmt.Errorf("%v of %q has more than key and revision", e.Kind, key)
	}
	if e.Kind == kvstore.EventPut {
		f.state[key] = e.Entry
	} else {
		delete(f.state, key)
	}
}

// check compares the copy with what is visible. The fold must be at rest.
func (f *fold) check(w *world, visible map[string]*put) {
	if f.wrong != nil || f.err != nil {
		w.fail("watcher %s: %v, %v", f.name, f.wrong, f.err)
	}
	want := 0
	for key, p := range visible {
		if !strings.HasPrefix(key, f.prefix) {
			continue
		}
		want++
		e, ok := f.state[key]
		if !ok || e.Revision() != p.revision || e.Text() != p.value || string(e.Metadata()) != p.metadata || !e.Expires().Equal(p.expires) {
			w.fail("watcher %s of %q has %q at %d, %.40q, not %v", f.name, f.prefix, key, e.Revision(), e.Text(), p)
		}
	}
	if len(f.state) != want {
		w.fail("watcher %s of %q has %d keys, not %d", f.name, f.prefix, len(f.state), want)
	}
}

// closed is called when the Store was closed: the watcher was told so.
func (f *fold) closed(w *world) {
	<-f.done
	f.stop()
	if f.wrong != nil || !errors.Is(f.err, kvstore.ErrClosed) {
		w.fail("watcher %s ended with %v, %v", f.name, f.wrong, f.err)
	}
}
