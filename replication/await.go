package replication

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Attached waits until the log is followed and known to be the one that was
// followed before, and returns the epoch. Writes that begin before could be
// acknowledged by a log that the replica does not know yet. If something keeps the
// log from being followed that does not pass by itself (Lasting), that is the error.
func (f *Feed) Attached(ctx context.Context) (epoch uint64, err error) {
	for {
		f.mu.Lock()
		attached, epoch, refusal, refused := f.attached, f.epoch, f.refusal, f.refused
		f.mu.Unlock()
		switch {
		case closed(attached):
			return epoch, nil
		case refused != nil:
			return 0, refused
		}
		select {
		case <-attached:
		case <-refusal:
		case <-f.done:
			return 0, ErrClosed
		case <-ctx.Done():
			return 0, fmt.Errorf("replication: %w: %w", ErrUnavailable, Ended(ctx))
		}
	}
}

// Reached waits until every record up to seq is applied.
func (f *Feed) Reached(ctx context.Context, seq uint64) error {
	if f.applied.Load() >= seq {
		return nil
	}
	w := f.wait(seq)
	if f.applied.Load() >= seq { // applied while the waiter was being put up
		f.unwait(w)
		return nil
	}
	f.nudge()
	select {
	case <-w:
		return nil
	case <-f.done:
		f.unwait(w)
		return ErrClosed
	case <-ctx.Done():
		f.unwait(w)
		return Ended(ctx)
	}
}

// refuse notes why the log cannot be followed, if that lasts. It needs mu.
func (f *Feed) refuse(err error) {
	f.refused = nil
	if closed(f.refusal) {
		f.refusal = make(chan struct{})
	}
	// A cluster that is changing says that it has no room for a consumer.
	if err != nil && Lasting(err) && !errors.Is(err, ErrNoSpace) {
		f.refused = err
		close(f.refusal)
	}
}

// rest waits before the log is followed again after err. What does not pass by
// itself is looked at every CheckInterval: somebody may have mended it.
func (f *Feed) rest(ctx context.Context, retry *Backoff, err error) {
	if err == nil || !Lasting(err) {
		_ = retry.Wait(ctx, nil)
		return
	}
	timer := time.NewTimer(f.log.cfg.CheckInterval)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (f *Feed) wait(seq uint64) chan struct{} {
	w := make(chan struct{})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiters[w] = seq
	f.waiting.Store(int32(len(f.waiters))) // as many as there are goroutines
	return w
}

func (f *Feed) unwait(w chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget(w)
}

// forget needs mu.
func (f *Feed) forget(w chan struct{}) {
	delete(f.waiters, w)
	f.waiting.Store(int32(len(f.waiters))) // as many as there are goroutines
}

// Settled waits until the feed is Live, or follows a log with damage that a
// resync does not mend. If something keeps it from following the log that does not
// pass by itself (Lasting), that is the error.
func (f *Feed) Settled(ctx context.Context) error {
	for {
		f.mu.Lock()
		changed, s, follows, refused := f.changed, f.status, closed(f.attached), f.refused
		f.mu.Unlock()
		switch {
		case s.State == Live || (s.State == Degraded && follows):
			return nil
		case refused != nil:
			return refused
		}
		select {
		case <-changed:
		case <-f.done:
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("replication: %w: %s: %w", ErrUnavailable, s.Reason, Ended(ctx))
		}
	}
}

// Sync waits until all that the log has now is applied: it asks the stream's
// leader, which costs a round trip.
func (f *Feed) Sync(ctx context.Context) error {
	retry := NewBackoff()
	for {
		if _, err := f.Attached(ctx); err != nil {
			return err
		}
		asked, before := time.Now(), f.applied.Load()
		view, err := f.log.view(ctx)
		if err != nil {
			return unanswered(err)
		}
		if f.incarnation() != view.Incarnation || view.Last < before {
			f.nudge() // the feed has not noticed yet that the log is another one
			if err := retry.Wait(ctx, f.done); err != nil {
				return fmt.Errorf("replication: %w: %w", ErrUnavailable, err)
			}
			continue
		}
		f.note(view.Last)
		if err := f.Reached(ctx, view.Last); err != nil {
			return err
		}
		f.freshen(asked)
		return nil
	}
}
