package kvstore

import (
	"cmp"
	"math/bits"
	"slices"
	"time"

	"github.com/nearkv/nearkv/replication"
)

// Landmarks implements replication.Replica. Of the records that lie between a and 2a
// revisions before upTo it returns the newest, for each power of two a: so one of
// them is at most twice as far back as the newest record that the log still has.
//
// It holds no lock: what is replaced or removed meanwhile may be among them, as what
// was replaced a moment before.
func (x *index) Landmarks(upTo uint64) []replication.Landmark {
	var spread [64]*record
	for r := range x.records.all() {
		if r.revision > upTo {
			continue
		}
		i := max(bits.Len64(upTo-r.revision), 1) - 1
		if spread[i] == nil || spread[i].revision < r.revision {
			spread[i] = r
		}
	}
	var landmarks []replication.Landmark
	for _, r := range spread {
		if r != nil {
			landmarks = append(landmarks, replication.Landmark{
				Key: r.key(), Revision: r.revision, Stored: r.stored.Load(), KeptUntil: r.particulars().hides,
			})
		}
	}
	slices.SortFunc(landmarks, func(a, b replication.Landmark) int { return cmp.Compare(b.Revision, a.Revision) })
	return landmarks
}

// Holds implements replication.Replica. A record that may be removed by now, and has
// been forgotten here, counts as held.
func (x *index) Holds(m *replication.Message, upTo uint64) bool {
	if m.Foreign() {
		x.mu.Lock()
		defer x.mu.Unlock()
		_, known := x.foreign[m.Subject]
		return known
	}
	r := x.records.find(m.Key)
	switch {
	case r == nil:
		return m.HidesUntil != 0 && m.HidesUntil <= time.Now().UnixMilli()
	case r.revision != m.Revision:
		return r.revision > upTo
	}
	return r.stored.Load() == m.Stored.UnixNano()
}
