package replication

import (
	"cmp"
	"slices"
)

// hold keeps records back until the batch that they are part of is complete, so
// that a replica applies all of a batch at once. It is a plain value, part of the
// cursor: no goroutine, no clock, no socket.
//
// The records of a batch are in the log one after the other, and nobody who reads
// a record from the leader does so while the leader stores a batch. A consumer, and
// a view of the log, do see the middle of one. Three rules follow from that:
//
//   - A record within the range of a batch that is no part of it shows that there
//     is no such batch. So does a view that ends before the batch does, if it was
//     asked for after the leader has answered a read: the barrier. Anybody who may
//     write a key can put a batch header on a record; it must not hold up the records
//     of others.
//   - A part that does not come was replaced or removed since. What replaced it is
//     still to come, before the end that the log has now. That end is asked for, and
//     everything is kept back until it is reached: then readers see nothing older
//     than the batch beside a part of it.
//   - What the log has no more does not come either. The leader says whether there
//     is anything between the last record that came and the end of the log.
type hold struct {
	msgs  []Message
	bytes int

	// The batch whose parts come now. start is the revision of its first part; 0:
	// there is none.
	start        uint64
	count, found int

	// What was found out about that batch. Each step begins after the one before, and
	// another batch begins again.
	reading          bool   // the leader is asked for a record
	barrier          bool   // it has answered
	asked            bool   // a view was asked for
	viewed           bool   // it has come
	short, shortened uint64 // where a view ended that was too short for the batch, 0: none was; the tick of the first

	missing bool   // parts of an earlier batch do not come
	sought  bool   // and the end of the log was asked for
	until   uint64 // everything up to this revision has to come first
	first   uint64 // until as it was at first; 0: it is not known
	seeking bool   // first was asked for

	ticks, began uint64 // now, and when the first record was kept back
	overdue      bool   // what is kept back because of missing parts has to be released
	sweep        bool   // the replica is to be swept after the release
}

const (
	// maxHold and maxHoldBytes bound what is kept back: a replica that was away for
	// long may apply a part of a batch before the rest.
	maxHold      = 1 << 16
	maxHoldBytes = 64 << 20
)

// begin has everything about the batch whose parts come now found out, again.
func (h *hold) begin() {
	h.reading, h.barrier, h.asked, h.viewed, h.short = false, false, false, false, 0
}

// forget is called when what was asked for will not be answered any more.
func (h *hold) forget() {
	h.begin()
	h.sought = false
}

func (h *hold) active() bool { return len(h.msgs) > 0 }

// has reports whether the record of a revision is kept back.
func (h *hold) has(revision uint64) bool {
	_, found := slices.BinarySearchFunc(h.msgs, revision, byRevision)
	return found
}

// end returns the revision of the last part of the batch whose parts come now.
func (h *hold) end() uint64 { return h.start + uint64(h.count) - 1 }

// startOf returns the revision of the first part of the batch that a record says it
// is part of; 0: of none.
func startOf(m *Message) uint64 {
	b := m.Record.Batch
	if b.Count <= 1 || m.Revision < uint64(b.Index) {
		return 0
	}
	return m.Revision - uint64(b.Index) + 1
}

// add is told of a record, and of the revision of the record that came before it.
// It reports whether the record is kept back.
func (h *hold) add(m *Message, before uint64) bool {
	start := startOf(m)
	if h.start != 0 && (start != h.start || m.Record.Batch.Count != h.count) {
		if m.Revision <= h.end() {
			h.disown() // this record is where a part of the batch should be
		} else {
			h.leave()
		}
	}
	switch {
	case start == 0:
		if m.Record.Batch.Count > 1 {
			m.disown()
		}
	case start == h.start:
		h.found++
	case before >= start: // and what came there is no part of it
		m.disown()
	default:
		h.start, h.count, h.found = start, m.Record.Batch.Count, 1
		h.begin()
	}
	if !h.active() {
		if h.start == 0 {
			return false
		}
		h.began = h.ticks
	}
	h.msgs = append(h.msgs, *m)
	h.bytes += len(m.Record.Value)
	if h.start != 0 && m.Revision == h.end() {
		h.leave()
	}
	return true
}

// disown makes a record one that is part of no batch, although it says it is.
func (m *Message) disown() {
	m.Record.Batch.Index, m.Record.Batch.Count = 0, 0
	m.Forged = true
}

// disown ends a batch that does not exist.
func (h *hold) disown() {
	for i := len(h.msgs) - 1; i >= 0 && h.msgs[i].Revision >= h.start; i-- {
		h.msgs[i].disown()
	}
	h.start = 0
}

// leave is called when no more parts of the batch can come.
func (h *hold) leave() {
	if h.found < h.count {
		h.missing, h.sought = true, false
	}
	h.start = 0
}

// passed is told that everything up to a revision has come that there is.
func (h *hold) passed(at uint64) {
	if h.start != 0 && at >= h.end() {
		h.leave()
	}
}

// ask notes that a view is asked for.
func (h *hold) ask() {
	h.asked = h.start != 0 && h.barrier
	h.sought = h.missing
	h.seeking = h.seeking || h.missing
}

// view is told where the log ends. sure: it cannot be a view of the past.
func (h *hold) view(last uint64, sure bool) {
	if h.start != 0 && h.asked {
		h.viewed = true
		if last < h.end() {
			h.tooShort(last, sure)
		}
	}
	if h.seeking && h.first == 0 {
		h.first = last
	}
	if h.sought {
		h.missing, h.sought = false, false
		h.until = max(h.until, last)
	}
}

// tooShort is told of a view that ends before the batch does. The leader of a log
// with copies may be about to store what another server has stored already; so there
// the log has to stay like this from one tick to another.
func (h *hold) tooShort(last uint64, sure bool) {
	switch {
	case sure, last == h.short && h.ticks > h.shortened+1:
		h.disown()
	case last != h.short:
		h.short, h.shortened = last, h.ticks
	}
}

// tick is called every CheckInterval. Records that keep coming with parts missing
// could hold up all others for as long as they come; so, after an interval and when
// the first end that was asked for is reached, it has to do. A leader that does not
// answer has long stored the batch.
func (h *hold) tick(at uint64) {
	h.ticks++
	if !h.active() || h.ticks < h.began+2 {
		return
	}
	h.barrier = true
	h.overdue = h.first != 0 && at >= h.first
}

// cut removes what can be applied, at once, if everything up to at has come.
func (h *hold) cut(at uint64) (ms []Message, sweep bool) {
	full := len(h.msgs) >= maxHold || h.bytes >= maxHoldBytes
	switch {
	case !h.active():
		return nil, false
	case full, h.start == 0 && !h.missing && at >= h.until:
		ms, sweep = h.msgs, h.sweep
		*h = hold{ticks: h.ticks}
		return ms, sweep
	case h.overdue:
		return h.cutBefore(h.start)
	}
	return nil, false
}

// cutBefore removes what came before a revision, 0 for all.
func (h *hold) cutBefore(start uint64) (ms []Message, sweep bool) {
	n := len(h.msgs)
	if start != 0 {
		n, _ = slices.BinarySearchFunc(h.msgs, start, byRevision)
	}
	ms, h.msgs = h.msgs[:n:n], h.msgs[n:]
	for i := range ms {
		h.bytes -= len(ms[i].Record.Value)
	}
	h.missing, h.sought, h.seeking, h.overdue = false, false, false, false
	h.until, h.first, h.began = 0, 0, h.ticks
	if h.active() {
		return ms, false
	}
	sweep, h.sweep = h.sweep, false
	return ms, sweep
}

func byRevision(m Message, revision uint64) int { return cmp.Compare(m.Revision, revision) }
