package kvstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// turns has those who update the same key of a Store come one after the other, in the
// order in which they asked. Without it each of them would have to win a race, and
// some would lose it for seconds.
//
// A turn is not a lock. It ends by itself after turnTime, so that a function that
// takes long, or that updates the same key itself, holds nobody up for longer: from
// then on the log decides, as it does between Stores.
type turns struct {
	mu sync.Mutex // held for moments
	of map[string]*turnQueue
}

// turnTime is how long a turn lasts at the most.
const turnTime = 100 * time.Millisecond

// turnQueue is of one key. It exists while it is somebody's turn.
type turnQueue struct {
	waiting []chan struct{} // each is closed when it is its turn
}

// takeTurn waits until the caller may update a key. The turn ends with the function
// that is returned, if not before.
//
// Errors: ErrUnavailable when the context ends first, ErrClosed.
func (s *Store) takeTurn(ctx context.Context, key string) (end func(), err error) {
	t := &s.turns
	if turn := t.join(key); turn != nil {
		select {
		case <-turn:
		case <-ctx.Done():
			t.leave(key, turn)
			return nil, fmt.Errorf("kvstore: %w: waiting for other updates of key %.64q: %w", ErrUnavailable, key, context.Cause(ctx))
		case <-s.done:
			t.leave(key, turn)
			return nil, ErrClosed
		}
	}
	next := sync.OnceFunc(func() { t.next(key) })
	timer := time.AfterFunc(turnTime, next)
	return func() {
		timer.Stop()
		next()
	}, nil
}

// pause waits for a random time of up to d, unless ctx or the Store ends first.
func pause(ctx context.Context, done <-chan struct{}, d time.Duration) error {
	timer := time.NewTimer(rand.N(d)) // needs no secrecy
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-done:
		return ErrClosed
	}
}

// join asks for a turn; nil: it is now.
func (t *turns) join(key string) chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		t.of = make(map[string]*turnQueue)
	}
	q := t.of[key]
	if q == nil {
		t.of[key] = new(turnQueue)
		return nil
	}
	turn := make(chan struct{})
	q.waiting = append(q.waiting, turn)
	return turn
}

// leave gives up waiting for a turn, or the turn, if it has just come.
func (t *turns) leave(key string, turn chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	q := t.of[key]
	for i, other := range q.waiting {
		if other == turn {
			q.waiting = append(q.waiting[:i:i], q.waiting[i+1:]...)
			return
		}
	}
	t.pass(key, q)
}

// next ends a turn.
func (t *turns) next(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pass(key, t.of[key])
}

// pass needs mu.
func (t *turns) pass(key string, q *turnQueue) {
	if len(q.waiting) == 0 {
		delete(t.of, key)
		return
	}
	close(q.waiting[0])
	q.waiting[0] = nil
	q.waiting = q.waiting[1:]
}
