package kvstore

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/nearkv/nearkv/replication"
)

const (
	// grace is how long the object of a value that was replaced stays, for those
	// who are reading it.
	grace = 5 * time.Minute
	// orphanAge is how old an object has to be that no record refers to, to be
	// one that a process left behind which died, or a value that expired: a younger
	// one may be about to get its record.
	orphanAge = time.Hour
	// sweepEvery is how often a Store looks for such objects.
	sweepEvery = 15 * time.Minute
)

// sweeper removes objects to which no record refers. Those that this Store has
// replaced it knows, and removes after a grace period. All others are found by
// looking at which there are.
type sweeper struct {
	wake chan struct{} // of capacity 1: there is more to do

	mu       sync.Mutex // held for moments; taken under index.mu
	replaced []condemned
	retired  map[string]time.Time // when objects were replaced, by anybody; at most maxRetired
}

// maxRetired is how many replaced objects a Store remembers. The others are found
// when they are older than orphanAge.
const maxRetired = 4096

// closeTime is for how long Close removes objects.
const closeTime = 2 * time.Second

// retire notes that an object was replaced.
func (w *sweeper) retire(name string, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.retired == nil {
		w.retired = make(map[string]time.Time)
	}
	if len(w.retired) >= maxRetired {
		for other := range w.retired {
			delete(w.retired, other)
			break
		}
	}
	w.retired[name] = now
}

// retiredBefore reports whether an object is known to have been replaced before then.
func (w *sweeper) retiredBefore(name string, then time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	at, known := w.retired[name]
	return known && !at.After(then)
}

// forget drops from retired what is not among the names of what there is.
func (w *sweeper) forget(names []string) {
	there := make(map[string]bool, len(names))
	for _, name := range names {
		there[name] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.retired, func(name string, _ time.Time) bool { return !there[name] })
}

// all returns the objects that this Store has to remove, whether they are due or not.
func (w *sweeper) all() []condemned {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.replaced
	w.replaced = nil
	return all
}

// condemned is an object that is to be removed.
type condemned struct {
	name string
	due  time.Time
}

// later notes an object that is to be removed. The due times only grow.
func (w *sweeper) later(name string, due time.Time) {
	w.mu.Lock()
	w.replaced = append(w.replaced, condemned{name, due})
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// next returns the objects that are due, and when the next one is; zero: there
// is none.
func (w *sweeper) next(now time.Time) (due []condemned, then time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := slices.IndexFunc(w.replaced, func(c condemned) bool { return c.due.After(now) })
	if n < 0 {
		due, w.replaced = w.replaced, nil
		return due, time.Time{}
	}
	due, w.replaced = slices.Clone(w.replaced[:n]), w.replaced[n:]
	return due, w.replaced[0].due
}

// sweepLoop removes objects until the Store closes.
func (s *Store) sweepLoop(ctx context.Context) {
	// Not all replicas at once, and soon also those that do not live long.
	sweep := time.NewTimer(time.Minute + rand.N(time.Minute))
	defer sweep.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.sweeper.wake:
		case <-due.C:
		case <-sweep.C:
			s.sweep(ctx)
			sweep.Reset(sweepEvery + rand.N(sweepEvery/4))
		}
		due.Stop()
		if then := s.removeDue(ctx); !then.IsZero() {
			due.Reset(time.Until(then))
		}
	}
}

// removeDue removes the objects whose time has come. What cannot be removed now
// sweep finds.
func (s *Store) removeDue(ctx context.Context) (then time.Time) {
	names, then := s.sweeper.next(time.Now())
	for _, c := range names {
		s.remove(ctx, c.name)
	}
	return then
}

// remove removes an object, and reports whether it is gone.
func (s *Store) remove(ctx context.Context, name string) bool {
	if s.index.refers(name) {
		return false // the log is not what it was when this was noted
	}
	err := s.log.Objects().Remove(ctx, name)
	if err != nil && ctx.Err() == nil && !errors.Is(err, ErrForbidden) {
		s.logger.Warn("nearkv: a large value that is not needed any more cannot be removed", "object", name, "error", err)
	}
	return err == nil
}

// makeRoom removes the objects that are known to have been replaced, by anybody, also
// those that are kept for readers. It reports whether there were any. Nothing that a
// record may still come to refer to is removed: an object has one record at the most
// (change.plan).
func (s *Store) makeRoom(ctx context.Context) bool {
	if s.backend.disk.doubt.Load() {
		return false // it is the disk that is full, and the server does not answer then
	}
	names, err := s.log.Objects().Names(ctx)
	if err != nil {
		return false
	}
	removed := false
	for _, name := range names {
		if s.sweeper.retiredBefore(name, time.Now()) && s.remove(ctx, name) {
			removed = true
		}
	}
	return removed
}

// removeAll removes what this Store has replaced, before it closes: nobody may be
// there to do it later. What cannot be removed now another Store finds.
func (s *Store) removeAll() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	for _, c := range s.sweeper.all() {
		if !s.remove(ctx, c.name) && !s.index.refers(c.name) {
			return
		}
	}
}

// sweep removes the objects of ours that no record refers to and that are old
// enough that none will. Which there are is asked first, then the replica is brought
// up to date: so all their records are known.
func (s *Store) sweep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	names, err := s.log.Objects().Names(ctx)
	if err != nil || len(names) == 0 || s.feed.Sync(ctx) != nil {
		return // later
	}
	for _, name := range names {
		made, ours := replication.NamedAt(name)
		if ours && (time.Since(made) > orphanAge || s.sweeper.retiredBefore(name, time.Now().Add(-grace))) {
			s.remove(ctx, name)
		}
	}
	s.sweeper.forget(names)
}
