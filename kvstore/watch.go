package kvstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"

	"github.com/nearkv/nearkv/codec"
)

// EventKind says what happened to a key.
type EventKind uint8

// The kinds of events.
const (
	EventPut    EventKind = iota // written, or there when the watch began
	EventDelete                  // deleted
	EventExpire                  // expired
)

func (k EventKind) String() string {
	switch k {
	case EventPut:
		return "put"
	case EventDelete:
		return "delete"
	case EventExpire:
		return "expire"
	}
	return "unknown"
}

// MarshalText makes logs and JSON show the name.
func (k EventKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads a name: put, delete or expire.
func (k *EventKind) UnmarshalText(name []byte) error {
	for _, known := range []EventKind{EventPut, EventDelete, EventExpire} {
		if string(name) == known.String() {
			*k = known
			return nil
		}
	}
	return fmt.Errorf("kvstore: %.64q is no kind of event: it is put, delete or expire", name)
}

// Event is a change of one key. The Entry of a removal has only the Key, and
// the Revision of the deletion or of what expired.
type Event struct {
	Kind  EventKind
	Entry Entry
}

// Watch yields first the keys that begin with prefix as they are (unless
// ChangesOnly), ordered by key, and then their changes, those of one key in
// their order. It begins with the loop and ends with it, or with the context.
//
// A slow loop holds nobody up and loses no end state: of the changes of one key
// that it did not get to, it is given only the last. It costs memory only for
// the keys that changed and were not yielded yet. A key that was removed and
// was never told of can be told as removed.
//
// The changes of a Batch come one behind the other, and when the first comes this
// replica has all of them.
//
// The watch goes on while the log cannot be reached, and when the log was made
// anew or rolled back it tells the differences.
//
// A value that is damaged comes with ErrDamaged beside its event; the watch goes on.
//
// If the prefix is invalid, or the Store is closed, the last thing to be
// yielded is an error: ErrInvalidKey, ErrClosed. The end of the context yields
// none.
func (s *Store) Watch(ctx context.Context, prefix string, opts ...WatchOption) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if err := codec.CheckPrefix(prefix); err != nil {
			yield(Event{}, failed("watch", "", err))
			return
		}
		w := &watcher{store: s, prefix: prefix, pending: make(map[string]pending), ready: make(chan struct{}, 1)}
		for _, opt := range opts {
			opt.watch(w)
		}
		present := s.index.watch(w)
		defer s.index.unwatch(w)
		if w.initial(ctx, present, yield) {
			w.changes(ctx, yield)
		}
	}
}

// watcher is the state of one loop over Watch.
type watcher struct {
	store       *Store
	prefix      string
	changesOnly bool
	lazy        bool
	ready       chan struct{} // of capacity 1: something is pending

	mu      sync.Mutex // held for moments only; taken under index.mu
	order   []place    // of pending, oldest first; some have been given up
	places  uint64     // so many have been given out
	pending map[string]pending
	most    int // so many have been pending at a time since pending was made
}

// watchSpare is how many places that were given up a watcher keeps at least, and
// how many changes it has room for when nothing is pending.
const watchSpare = 64

// place is a key's in the order of its watcher.
type place struct {
	key    string
	number uint64
}

// pending is a change that was not yielded yet.
type pending struct {
	Event
	place uint64
}

// watch registers w and returns what is there at that moment.
func (x *index) watch(w *watcher) *tree {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.watchers[w] = struct{}{}
	return x.listLocked()
}

func (x *index) unwatch(w *watcher) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.watchers, w)
}

// notify tells the watchers of a change. It is called under mu and never waits.
func (x *index) notify(kind EventKind, r *record) {
	if len(x.watchers) == 0 {
		return
	}
	e := Event{kind, Entry{rec: r}}
	if x.turns.Load()%2 == 1 {
		x.told = append(x.told, e)
		return
	}
	for w := range x.watchers {
		w.offer([]Event{e}, false)
	}
}

// notifyAll tells the watchers of the changes of a batch.
func (x *index) notifyAll() {
	for w := range x.watchers {
		w.offer(x.told, true)
	}
	x.told = nil
}

// offer has changes yielded. Those of a batch come one behind the other: they give
// up the places of what is pending of their keys.
func (w *watcher) offer(events []Event, batch bool) {
	w.mu.Lock()
	for _, e := range events {
		key := e.Entry.rec.key()
		if !strings.HasPrefix(key, w.prefix) {
			continue
		}
		p, ok := w.pending[key]
		if !ok || batch {
			w.places++
			p.place = w.places
			w.order = append(w.order, place{key, p.place})
		}
		w.pending[key] = pending{e, p.place}
	}
	w.most = max(w.most, len(w.pending))
	w.compact()
	w.mu.Unlock()
	select {
	case w.ready <- struct{}{}:
	default: // it is awake
	}
}

// compact forgets the places that were given up, when they are more than the others.
// It needs mu.
func (w *watcher) compact() {
	if len(w.order) <= 2*len(w.pending)+watchSpare {
		return
	}
	order := make([]place, 0, len(w.pending)+watchSpare)
	for _, p := range w.order {
		if w.pending[p.key].place == p.number {
			order = append(order, p)
		}
	}
	w.order = order
}

// take returns the oldest pending change.
func (w *watcher) take() (Event, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.order) > 0 {
		first := w.order[0]
		w.order = w.order[1:]
		if p, ok := w.pending[first.key]; ok && p.place == first.number {
			delete(w.pending, first.key)
			return p.Event, true
		}
	}
	w.order = nil // gives the memory back
	if w.most > watchSpare {
		w.pending, w.most = make(map[string]pending), 0
	}
	return Event{}, false
}

// initial yields what is there. It reports whether to go on.
func (w *watcher) initial(ctx context.Context, present *tree, yield func(Event, error) bool) bool {
	if w.changesOnly {
		return true
	}
	goOn := true
	present.Ascend(allocate(w.prefix), func(r *record) bool {
		if !strings.HasPrefix(r.key(), w.prefix) {
			return false
		}
		if r.visible() {
			goOn = w.yield(ctx, Event{EventPut, Entry{rec: r}}, yield)
		}
		return goOn
	})
	return goOn
}

// changes yields changes until the loop, the context or the Store ends.
func (w *watcher) changes(ctx context.Context, yield func(Event, error) bool) {
	for {
		for e, ok := w.take(); ok; e, ok = w.take() {
			if !w.yield(ctx, e, yield) {
				return
			}
		}
		select {
		case <-w.ready:
		case <-ctx.Done():
			return
		case <-w.store.done:
			yield(Event{}, ErrClosed)
			return
		}
	}
}

// yield completes the event with its value. A put whose value is not to be had
// any more is left out: the change that took it is pending, or will be.
func (w *watcher) yield(ctx context.Context, e Event, yield func(Event, error) bool) bool {
	if ctx.Err() != nil {
		return false
	}
	if w.store.closed.Load() {
		yield(Event{}, ErrClosed)
		return false
	}
	r := e.Entry.rec
	if e.Kind != EventPut {
		gone := allocate(r.key())
		gone.revision = r.revision
		return yield(Event{e.Kind, Entry{rec: gone}}, nil)
	}
	value, ok := r.text()
	if !ok && !(w.lazy && r.large() != nil) {
		var err error
		value, err = w.store.fetch(ctx, r)
		if errors.Is(err, ErrDamaged) {
			return yield(Event{EventPut, Entry{rec: r}}, err)
		}
		if err != nil {
			return ctx.Err() == nil
		}
	}
	return yield(Event{EventPut, Entry{r, value}}, nil)
}
