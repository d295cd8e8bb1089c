package kvstore

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/replication"
)

// message is a put, stored now.
func message(key string, revision uint64, value string) replication.Message {
	return replication.Message{
		Subject: "$KV.x." + codec.Subject(key), Key: key, Revision: revision, Stored: time.Now(),
		Record: codec.Record{Value: []byte(value)},
	}
}

// checkInvariants returns what is wrong with an index.
func checkInvariants(x *index) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cache.wait()
	return firstError(x.checkRecords, x.checkOrdered, x.checkDeadlines, x.checkCounts)
}

func firstError(checks ...func() error) error {
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (x *index) checkRecords() error {
	n, current, held := 0, 0, int64(0)
	for r := range x.records.all() {
		n++
		key, epoch := r.key(), uint64(r.epoch)
		if x.records.find(key) != r {
			return fmt.Errorf("%q is not found", key)
		}
		if epoch > x.epoch {
			return fmt.Errorf("%q is of epoch %d after %d", key, epoch, x.epoch)
		}
		if epoch == x.epoch {
			current++
		}
		if r.data.Load() != nil {
			held += int64(r.size)
			if r.deleted || r.expired || r.size == 0 {
				return fmt.Errorf("%q has no value, but memory for one", key)
			}
		}
	}
	if n != x.records.size {
		return fmt.Errorf("%d records, counted %d", n, x.records.size)
	}
	if current != x.current {
		return fmt.Errorf("%d records of this epoch, counted %d", current, x.current)
	}
	if held != x.cache.held.Load() {
		return fmt.Errorf("%d bytes in memory, counted %d", held, x.cache.held.Load())
	}
	return nil
}

// checkOrdered: the tree and its snapshot have the visible records, in order.
func (x *index) checkOrdered() error {
	for _, t := range []*tree{x.ordered, x.snapshot.Load()} {
		if t == nil {
			continue
		}
		n, last := 0, ""
		var wrong error
		t.Scan(func(r *record) bool {
			n++
			if x.records.find(r.key()) != r || r.hidden() {
				wrong = fmt.Errorf("%q at %d is in the tree", r.key(), r.revision)
			}
			if r.key() <= last {
				wrong = fmt.Errorf("%q comes after %q", r.key(), last)
			}
			last = r.key()
			return wrong == nil
		})
		if wrong != nil {
			return wrong
		}
		if int64(n) != x.counts.visible.Load() {
			return fmt.Errorf("%d records in the tree, counted %d", n, x.counts.visible.Load())
		}
	}
	return nil
}

// checkDeadlines: whatever has something to come is among the deadlines, at its
// time.
func (x *index) checkDeadlines() error {
	due := 0
	for r := range x.records.all() {
		key, p := r.key(), r.particulars()
		switch {
		case p.expires != 0 && !r.hidden():
			if p.due != p.expires {
				return fmt.Errorf("%q expires at %d, is due at %d", key, p.expires, p.due)
			}
		case p.hides != 0:
			if p.due < p.hides+retention {
				return fmt.Errorf("%q hides until %d, is due at %d", key, p.hides, p.due)
			}
		case p.due != 0:
			return fmt.Errorf("%q stays, is due at %d", key, p.due)
		}
		if p.due == 0 {
			continue
		}
		due++
		if found, ok := x.deadlines.Get(r); !ok || found != r {
			return fmt.Errorf("%q is not among the deadlines", key)
		}
	}
	if n := x.deadlines.Len(); n != due {
		return fmt.Errorf("%d deadlines for %d records", n, due)
	}
	return nil
}

func (x *index) checkCounts() error {
	visible, hidden := int64(0), int64(0)
	for r := range x.records.all() {
		if r.hidden() {
			hidden++
		} else {
			visible++
		}
	}
	if visible != x.counts.visible.Load() || hidden != x.counts.hidden.Load() {
		return fmt.Errorf("%d visible and %d hidden, counted %d and %d", visible, hidden, x.counts.visible.Load(), x.counts.hidden.Load())
	}
	if int64(len(x.foreign)) != x.counts.foreign.Load() {
		return fmt.Errorf("%d foreign, counted %d", len(x.foreign), x.counts.foreign.Load())
	}
	for key, revision := range x.unconfirmed {
		if r := x.records.find(key); r == nil || uint64(r.epoch) != x.epoch || r.revision < revision {
			return fmt.Errorf("%q is unconfirmed at %d, and is not there", key, revision)
		}
	}
	return nil
}

// A log that was rolled back has other records under the same revisions. Until
// that is noticed the last that is told counts, and the books stay in order.
func TestIndexSameRevision(t *testing.T) {
	x := newIndex(newCache(-1))
	first, second := message("k", 5, "first"), message("k", 5, "second")
	second.Stored = first.Stored.Add(1)
	x.applyAhead(1, &first, nil)
	x.Apply(1, second)
	if r := x.records.find("k"); int(r.size) != len("second") {
		t.Errorf("the record has %d bytes", r.size)
	}
	if err := checkInvariants(x); err != nil {
		t.Error(err)
	}
	x.Apply(1, message("old", 6, "v"))
	x.Apply(2, second)
	x.Sweep(2)
	if x.records.find("old") != nil {
		t.Error("what the log has no more is there")
	}
}

// What a new log has at the same revision and time is the same: it is not told
// again. What it has not is told as deleted.
func TestIndexResync(t *testing.T) {
	x := newIndex(newCache(-1))
	w := &watcher{pending: make(map[string]pending), ready: make(chan struct{}, 1)}
	same, changed, lost := message("same", 1, "v"), message("changed", 2, "v"), message("lost", 3, "v")
	for _, m := range []replication.Message{same, changed, lost} {
		x.Apply(1, m)
	}
	x.watch(w)
	changed.Revision, changed.Stored = 1, changed.Stored.Add(1)
	x.Apply(2, same)
	x.Apply(2, changed)
	x.Sweep(2)
	var told []string
	for e, ok := w.take(); ok; e, ok = w.take() {
		told = append(told, fmt.Sprintf("%v %s %d", e.Kind, e.Entry.Key(), e.Entry.Revision()))
	}
	if want := []string{"put changed 1", "delete lost 3"}; !slices.Equal(told, want) {
		t.Errorf("told is %q, not %q", told, want)
	}
	if err := checkInvariants(x); err != nil {
		t.Error(err)
	}
}
