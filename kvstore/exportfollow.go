package kvstore

import (
	"errors"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/replication"
)

// follower is told of every record that the feed applies, in the log's order, so
// that an export can end exactly at a revision. A watch could not: it is told of
// what was applied ahead of the feed too, which at no moment is the whole log
// up to a revision while this Store writes.
type follower struct {
	epoch uint64 // the one in which it began

	// Guarded by index.mu:
	last  uint64 // the revision told last; 0: none
	gaps  int    // how often revisions were passed over: of records that were replaced before they were told
	lost  bool   // the log was read anew
	order []string
	moved map[string]moved // by the keys of order, the latest of each
	held  int              // bytes of their values
	loose int              // how many of them are without their value
}

// moved is what became of a key.
type moved struct {
	revision uint64
	stored   int64 // unix nanoseconds
	expires  int64 // unix milliseconds; 0: never
	deleted  bool
	held     bool // has its value, if it has one
	metadata []byte
	value    []byte
	large    *record // of a large value, which can still be read for a while when it was replaced
}

// maxHeld is how many bytes of values a follower keeps, so that they need not be
// loaded. What comes beyond them has to be.
const maxHeld = 64 << 20

// join has f told of everything from now on, and returns what is there.
func (x *index) join(f *follower) *tree {
	x.mu.Lock()
	defer x.mu.Unlock()
	f.epoch, f.moved = x.epoch, make(map[string]moved)
	x.followers[f] = struct{}{}
	return x.listLocked()
}

func (x *index) leave(f *follower) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.followers, f)
}

// follow tells the followers of a record that the feed applies. It is called
// under mu.
func (x *index) follow(epoch uint64, m *replication.Message) {
	for f := range x.followers {
		f.note(x, epoch, m)
	}
}

// begunAnew tells the followers that the log was read from its start. It is
// called under mu.
func (x *index) begunAnew() {
	for f := range x.followers {
		f.lost = true
	}
}

func (f *follower) note(x *index, epoch uint64, m *replication.Message) {
	if epoch != f.epoch {
		f.lost = true
		return
	}
	if m.Revision != f.last+1 {
		f.gaps++
	}
	f.last = m.Revision
	if m.Foreign() {
		return
	}
	before, again := f.moved[m.Key]
	if again {
		f.drop(before)
	} else {
		f.order = append(f.order, m.Key)
	}
	now := moved{
		revision: m.Revision, stored: m.Stored.UnixNano(), expires: m.VisibleUntil,
		deleted: m.Record.Op == codec.OpDelete, metadata: m.Record.Metadata,
	}
	now.held = now.deleted || f.held+len(m.Record.Value) <= maxHeld
	if !now.held {
		f.loose++
	} else if !now.deleted {
		now.value = m.Record.Value // never changed: the cache has the same
		f.held += len(now.value)
	}
	if m.Record.Object != nil {
		now.large = x.newRecord(epoch, m)
	}
	f.moved[m.Key] = now
}

func (f *follower) drop(m moved) {
	f.held -= len(m.value)
	if !m.held {
		f.loose--
	}
}

// changes are keys with what became of them, in the order in which they moved.
type changes struct {
	order []string
	moved map[string]moved
}

// takeLocked returns what was not taken before. It needs index.mu.
func (f *follower) takeLocked() changes {
	c := changes{f.order, f.moved}
	f.order, f.moved, f.held, f.loose = nil, make(map[string]moved), 0, 0
	return c
}

func (x *index) take(f *follower) (changes, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if f.lost {
		return changes{}, errLogAnew
	}
	return f.takeLocked(), nil
}

// errLogAnew: the log was read from its start, so that a follower does not know
// what has gone.
var errLogAnew = errors.New("the log was read anew")

// fence is a moment of a follower.
type fence struct {
	gaps    int
	applied uint64 // by the feed, before that moment
}

func (x *index) fence(f *follower, applied uint64) fence {
	x.mu.Lock()
	defer x.mu.Unlock()
	return fence{f.gaps, applied}
}

// settle ends the following if what f was told is, with what was there when it
// began, all of the log up to a revision, which it returns with what was not
// taken yet. since is a fence from before the log was asked for its end, and
// applied is how far the feed has come since then: to that end or farther.
//
// Invariant: a record up to that revision that f was not told of was replaced
// by one that is not behind it either. For had it been passed over before the
// fence, its successor was in the log when that was asked for its end; and since
// the fence nothing was passed over.
func (x *index) settle(f *follower, since fence, applied uint64) (rest changes, at uint64, ok bool, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case f.lost:
		return changes{}, 0, false, errLogAnew
	case f.gaps != since.gaps, f.loose > 0:
		return changes{}, 0, false, nil
	case applied > f.last && applied != since.applied: // it went on without a record to tell of
		return changes{}, 0, false, nil
	}
	delete(x.followers, f)
	return f.takeLocked(), max(applied, f.last), true, nil
}
