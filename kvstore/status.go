package kvstore

import (
	"time"

	"github.com/nearkv/nearkv/replication"
)

// State is how a replica stands to its log.
type State = replication.State

// The states of a Store.
const (
	Syncing  = replication.Syncing  // connected, and not yet at the end of the log
	Live     = replication.Live     // hears of every change at once
	Stale    = replication.Stale    // cannot reach the log
	Degraded = replication.Degraded // the log is missing or damaged
	Closed   = replication.Closed
)

// Status tells how current a replica is. Reads are served in every state but
// Closed.
type Status struct {
	State   State
	Since   time.Time // when it came into this state
	Reason  string    // why it is not Live; what is damaged
	Applied Revision  // the last revision of the log that was applied
	Head    Revision  // the last revision of the log that is known of
	Fresh   time.Time // a moment at which the log had nothing that is not applied now
	Log     string    // the incarnation of the log: changes when it is made anew

	Durability DurabilityStatus
	Missing    []string // what the log does without, since its server is older or the bucket was made without
}

// Lag returns how many revisions are known of and not applied.
func (s Status) Lag() uint64 { return uint64(s.Head - min(s.Head, s.Applied)) }

// Status returns the state of the replica. It costs a lock, held for moments.
func (s *Store) Status() Status {
	f := s.feed.Status()
	if s.closed.Load() {
		f.State = Closed
	}
	if err := s.backend.trouble(); err != nil && (f.State == Stale || f.State == Syncing) {
		f.State, f.Reason = Degraded, err.Error()
	}
	return Status{
		State: f.State, Since: f.Since, Reason: f.Reason, Fresh: f.Fresh,
		Applied: Revision(f.Applied.Sequence), Head: Revision(f.Head), Log: string(f.Applied.Incarnation),
		Durability: s.durabilityStatus(), Missing: s.log.Missing(),
	}
}

// Stats counts what a Store holds and has done since it was opened.
type Stats struct {
	Keys       int   // that exist
	Tombstones int   // deleted and expired keys that the log still has
	CacheBytes int64 // of the values in memory

	Hits    uint64 // reads of a value in memory, counted by a sample of one in 16
	Misses  uint64 // reads of a value that was not in memory
	Absent  uint64 // reads of a key that does not exist
	Loads   uint64 // requests to the log for a value
	Dropped uint64 // values that had to leave memory, or found no room

	Writes    uint64 // calls of Put and Delete with valid arguments
	Failed    uint64 // those that returned an error
	Conflicts uint64 // those that returned ErrConflict

	Foreign int    // subjects in the log that are no keys
	Damaged uint64 // records that could not be read
	Resyncs uint64 // how often the whole log was read, the first time included
}

// Stats returns the counters. It costs a lock, held for moments.
func (s *Store) Stats() Stats {
	c, n := &s.index.counts, &s.stats
	return Stats{
		Keys: int(c.visible.Load()), Tombstones: int(c.hidden.Load()), CacheBytes: s.cache.held.Load(),
		Hits: uint64(max(n.hits.Value(), 0)), Misses: n.misses.Load(), Absent: uint64(max(n.absent.Value(), 0)),
		Loads: n.loads.Load(), Dropped: s.cache.dropped.Load(),
		Writes: n.writes.Load(), Failed: n.failed.Load(), Conflicts: n.conflicts.Load(),
		Foreign: int(c.foreign.Load()), Damaged: uint64(max(c.damaged.Load(), 0)), Resyncs: s.feed.Status().Resyncs,
	}
}
