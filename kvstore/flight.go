package kvstore

import (
	"context"
	"fmt"
	"sync"

	"github.com/nearkv/nearkv/replication"
)

// flights are the values that are being loaded, each once for all who wait for
// it. The first of them loads it, on its own goroutine and for as long as its
// own context lasts: to hand that over to another goroutine would cost a third
// of what the log takes to answer.
type flights struct {
	mu sync.Mutex // held for moments
	of map[*record]*flight
}

// flight is the loading of one value.
type flight struct {
	landed chan struct{}
	entry  Entry // entry and err are valid when landed is closed
	err    error
}

// join returns the flight of a record; mine: the caller has to carry it out.
func (fs *flights) join(r *record) (f *flight, mine bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.of[r]; f != nil {
		return f, false
	}
	if fs.of == nil {
		fs.of = make(map[*record]*flight)
	}
	f = &flight{landed: make(chan struct{})}
	fs.of[r] = f
	return f, true
}

// land ends a flight.
func (fs *flights) land(r *record, f *flight, e Entry, err error) {
	f.entry, f.err = e, err
	fs.mu.Lock()
	delete(fs.of, r)
	fs.mu.Unlock()
	close(f.landed)
}

// fetchOnce asks the log once for all that wait for the same record.
func (s *Store) fetchOnce(ctx context.Context, r *record) (Entry, error) {
	f, mine := s.flights.join(r)
	if mine {
		e, err := s.fetchNow(ctx, r)
		shared := err
		if err != nil && ctx.Err() != nil {
			shared = errLeft
		}
		s.flights.land(r, f, e, shared)
		return e, err
	}
	select {
	case <-f.landed:
		return f.entry, f.err
	case <-ctx.Done():
		return Entry{}, fmt.Errorf("%w: %w", ErrUnavailable, replication.Ended(ctx))
	case <-s.done:
		return Entry{}, ErrClosed
	}
}

// errLeft is told to those who waited for one whose context has ended.
var errLeft = fmt.Errorf("%w: who was about to load it has left", ErrUnavailable)
