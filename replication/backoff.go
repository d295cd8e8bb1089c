package replication

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff spaces the tries of one loop: from 10 ms, doubling to about 2 s, each
// with jitter so that the replicas of a fleet do not return all at once.
type Backoff struct{ next time.Duration }

const (
	backoffFirst = 10 * time.Millisecond
	backoffMost  = 500 * time.Millisecond
)

// NewBackoff returns a Backoff for a new loop.
func NewBackoff() *Backoff { return &Backoff{backoffFirst} }

// Wait sleeps, unless ctx ends first; then it returns the cause. If stop, which
// may be nil, is closed first, it returns ErrClosed.
func (b *Backoff) Wait(ctx context.Context, stop <-chan struct{}) error {
	d := b.next/2 + rand.N(b.next) // jitter needs no secrecy
	b.next = min(2*b.next, backoffMost)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return Ended(ctx)
	case <-stop:
		return ErrClosed
	}
}

// Reset begins again with the shortest wait.
func (b *Backoff) Reset() { b.next = backoffFirst }
