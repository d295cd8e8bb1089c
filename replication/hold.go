package replication

// hold keeps records back until the batch that they are of is complete, so that
// a replica is told all of a batch at once.
//
// The records of a batch are in the log one behind the other. But a replica that
// is behind gets only those that were not replaced since: if parts of a batch are
// missing, what replaced them is still to come. Then all is kept back until the
// end that the log has now, which is asked for: after that readers see nothing
// that is older than the batch beside what is of it.
type hold struct {
	msgs  []Message
	bytes int
	end   uint64 // revision of the last part, or, when parts are missing, of the log
	start uint64 // of the batch whose end is awaited
	count int    // parts of it
	found int    // of these that have come
	ask   bool   // parts are missing: the end of the log is to be asked for
	asked bool   // it was
	sweep bool   // the replica is to be swept afterwards
}

const (
	// maxHold and maxHoldBytes bound what is kept back: of a replica that was away
	// for long some may be told before the rest.
	maxHold      = 1 << 16
	maxHoldBytes = 64 << 20
)

func (h *hold) active() bool { return len(h.msgs) > 0 }

// add keeps a record back. It tells whether all can be told now.
func (h *hold) add(m Message) (complete bool) {
	h.msgs = append(h.msgs, m)
	h.bytes += len(m.Record.Value)
	if b := m.Record.Batch; b.Count > 1 {
		h.part(m.Revision, b.Index, b.Count)
	}
	if len(h.msgs) >= maxHold || h.bytes >= maxHoldBytes {
		return true
	}
	return h.reached(m.Revision)
}

// part notes a part of a batch.
func (h *hold) part(revision uint64, index, count int) {
	start := revision - uint64(index) + 1
	if start != h.start {
		h.leave()
		h.start, h.count, h.found = start, count, 0
		h.end = max(h.end, start+uint64(count)-1)
	}
	h.found++
}

// leave is called when no more parts of the batch can come.
func (h *hold) leave() {
	if h.start != 0 && h.found < h.count {
		h.ask = true
	}
	h.start = 0
}

// reached is told how far the log has been read. It tells whether all can be told
// now.
func (h *hold) reached(revision uint64) bool {
	if revision >= h.end {
		h.leave()
	}
	return h.active() && revision >= h.end && !h.ask
}

// told is told the end of the log, after it was asked for.
func (h *hold) told(end uint64) {
	h.ask, h.asked = false, false
	h.end = max(h.end, end)
}
