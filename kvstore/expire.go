package kvstore

import (
	"context"
	"time"
)

// ttlMargin is by how much the log keeps a record longer than it has to hide
// something: the clocks of writers and of the server may differ by that much.
const ttlMargin = 5 * time.Second

// expireLoop removes keys from the index when they expire. Readers do not
// depend on it: they look at the clock. Lists, watchers and memory do.
func (s *Store) expireLoop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := time.Now().UnixMilli()
		next := s.index.expireSome(now)
		wait := 24 * time.Hour // the clock may be set meanwhile
		if next != 0 {
			left := min(max(next-now, 0), wait.Milliseconds()) // a record may say any time
			wait = time.Duration(left) * time.Millisecond
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-s.index.wake:
		case <-ctx.Done():
			return
		}
	}
}
