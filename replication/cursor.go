package replication

import "time"

// cursor decides what a replica does with what it hears of the log: apply it,
// ignore it, follow again from where it is, or begin anew. It is a plain value:
// no goroutine, no clock, no socket. Feed feeds it and does what it says.
type cursor struct {
	// at is the last record that was delivered. Invariant: within one epoch
	// at.Sequence only grows.
	at Position

	// epoch counts the beginnings: what was applied in an earlier epoch and is
	// not delivered again in this one does not exist any more.
	epoch uint64

	resyncing bool   // from the start of the log, until target
	live      bool   // has reached target since it attached
	target    uint64 // the end of the log when it attached

	consumer uint64 // last sequence of the consumer, which has no holes
	recent   recent

	// skipped counts the sequences that were passed over: of records that were
	// replaced or removed before they were delivered.
	skipped uint64

	// The two-sided check of an inspection.
	asked   inquiry
	asking  bool        // and the view has not come
	hasty   bool        // asked out of turn
	lagging uint64      // 1 + at.Sequence at the last inspection that found more to come; 0: none did
	compare *comparison // to be made when at reaches its end

	// overdue is a revision that was acknowledged and lies beyond the end of a
	// view, and the last inquiry before that was seen: a later view has it, or
	// the log has lost it.
	overdue        uint64
	overdueInquiry uint64

	doubt doubt

	hold   hold
	told   uint64 // revision of the last record that came in this epoch; 0: none
	served bool   // the log has been read once: there are readers

	// head is where the log ended by the last view. looked is at.Sequence+1 when the
	// leader was last asked for the record after at; 0: it was not.
	head, looked uint64
	lookedHead   uint64 // head at that time
	looking      bool   // and its answer is awaited
	refused      bool   // and it did not say

	// reread is from where records come again that were applied before; 0: they do
	// not. See recognise.
	reread uint64

	maxAge time.Duration // of the stream, from which the life of records was derived
}

// doubt is about a difference in the number of subjects. A resync mends it, or
// the log is damaged: then its count will not be what it delivers. Or other
// records have been removed meanwhile, as many; one cannot tell. So the log is
// read again, but ever more seldom.
type doubt struct {
	difference int
	resyncs    int // that were begun because of it
	unmended   int // comparisons that have found it since the last of them
}

// patience returns how many comparisons have to find a difference after the
// n-th resync because of it until there is another: about three hours of them at
// the most.
func patience(n int) int { return 1 << min(n, 12) }

// damage is the difference that a resync did not mend.
func (d *doubt) damage() int {
	if d.unmended == 0 && d.resyncs < 2 {
		return 0
	}
	return d.difference
}

// found is told the difference that a comparison has found. It tells whether to
// read the log again.
func (d *doubt) found(difference int) bool {
	if difference != d.difference {
		*d = doubt{difference: difference}
	} else {
		d.unmended++
	}
	if difference == 0 || d.resyncs > 0 && d.unmended < patience(d.resyncs) {
		return false
	}
	d.resyncs++
	d.unmended = 0
	return true
}

// inquiry is where the cursor was when a view was asked for.
type inquiry struct {
	number, sequence, skipped uint64
}

// comparison is a view that is to be compared with the replica.
type comparison struct {
	View
	asked inquiry
}

// verdict is what the cursor makes of what it is told.
type verdict uint8

const (
	inStep  verdict = iota // nothing to do
	apply                  // apply the record
	ignore                 // it says nothing
	gap                    // something was missed: follow again from where we are
	verify                 // look whether the log still has what was delivered last
	resync                 // the log is not the one that was followed: begin anew
	confirm                // the replica should have the record already
)

const ageChanged = "the age limit of the stream was changed"

// attach is told what the log looks like before it is followed (again).
func (c *cursor) attach(v View) (verdict, string) {
	c.compare, c.lagging, c.live, c.consumer = nil, 0, false, 0
	c.hold.forget()
	c.asking, c.looking, c.refused, c.looked, c.reread = false, false, false, 0, 0
	c.target, c.head = v.Last, v.Last
	switch {
	case c.at.Incarnation == "":
		return resync, "first look at the log"
	case c.at.Incarnation != v.Incarnation:
		return resync, "the stream was created anew"
	case c.maxAge != v.MaxAge:
		return resync, ageChanged
	case v.Last < c.at.Sequence:
		return resync, "the stream was rolled back"
	case c.at.Sequence == 0:
		return inStep, ""
	}
	return verify, ""
}

// begin starts a new epoch at the start of the log.
func (c *cursor) begin(v View) {
	c.at = Position{Incarnation: v.Incarnation}
	c.epoch++
	c.resyncing, c.live = true, false
	c.target = v.Last
	c.recent = recent{}
	c.overdue = 0
	c.hold, c.told, c.maxAge = hold{ticks: c.hold.ticks}, 0, v.MaxAge
}

// following is told how many records the new consumer will deliver. When there
// are none the end of the log is reached, even if its last records are gone.
// It reports whether that completes a resync.
func (c *cursor) following(pending uint64) (swept bool) {
	if pending > 0 {
		return false
	}
	c.at.Sequence = max(c.at.Sequence, c.target)
	return c.reached()
}

// delivered is told of a record before it is applied.
func (c *cursor) delivered(seq, consumerSeq uint64) verdict {
	c.consumer++
	if consumerSeq != c.consumer {
		return gap
	}
	if seq > c.at.Sequence {
		return apply
	}
	if c.reread != 0 && seq >= c.reread {
		return confirm
	}
	return resync // the log has there what it had not when we passed
}

// confirmed is told that the replica has a record that came again, with how many
// more the consumer says it has to deliver.
func (c *cursor) confirmed(pending uint64) {
	switch {
	case pending > 0 || c.live:
	case c.at.Sequence >= c.target:
		c.reached()
	default:
		c.lagging = c.at.Sequence + 1
	}
}

// keep is told of a record before it is applied. It reports whether it is kept
// back with its batch: release returns it later. Nobody reads a replica that has
// not read the log once: it does not matter in which order that comes about.
func (c *cursor) keep(m *Message) bool {
	b := m.Record.Batch
	if !c.hold.active() && (b.Count <= 1 || !c.served && m.Revision+uint64(b.Count-b.Index) <= c.target) {
		return false
	}
	return c.hold.add(m, c.told)
}

// release returns what was kept back and is to be applied now, at once, and
// whether the replica is to be swept afterwards.
func (c *cursor) release() (ms []Message, sweep bool) {
	c.hold.passed(c.at.Sequence)
	return c.hold.cut(c.at.Sequence)
}

// visible returns up to which revision the replica has been given everything.
func (c *cursor) visible() uint64 {
	if c.hold.active() {
		return min(c.at.Sequence, c.hold.msgs[0].Revision-1)
	}
	return c.at.Sequence
}

// wants returns what is to be asked for while records are kept back: a view of the
// log, or the record that comes next. It is called when all that has arrived is
// handled.
func (c *cursor) wants() (view, next bool) {
	h, at := &c.hold, c.at.Sequence
	switch {
	case !h.active():
		return false, false
	case h.start != 0 && !h.barrier:
		next = true
	case h.start != 0 && !h.asked, h.missing && !h.sought:
		return !c.asking, false
	}
	goal := h.until
	if h.start != 0 && h.viewed {
		goal = h.end()
	}
	goal = min(goal, c.head)
	next = next || at < goal && (c.looked != at+1 || c.lookedHead < goal)
	return false, next && !c.looking && !c.refused
}

// look notes that the leader is asked for the first record after at.
func (c *cursor) look() (from uint64) {
	c.looking, c.looked, c.lookedHead = true, c.at.Sequence+1, c.head
	c.hold.reading = true
	return c.looked
}

// seen is told of the leader's answer: whether there is such a record. If there is
// none, what the view before that counted is gone. It reports whether that completes
// a resync.
func (c *cursor) seen(exists bool) (swept bool) {
	c.looking = false
	c.hold.barrier = c.hold.barrier || c.hold.reading
	if exists || c.looked != c.at.Sequence+1 || c.lookedHead < c.looked {
		return false
	}
	c.skipped += c.lookedHead - c.at.Sequence
	c.at.Sequence = c.lookedHead
	if c.live || c.at.Sequence < c.target {
		return false
	}
	return c.reached()
}

// unseen is told that the leader did not say. It is asked again after a tick.
func (c *cursor) unseen() { c.looking, c.refused = false, true }

// tick is called every CheckInterval.
func (c *cursor) tick() {
	c.hold.tick(c.at.Sequence)
	c.looking, c.refused, c.looked = false, false, 0
}

// applied is told of a record after it was applied, with how many more the
// consumer says it has to deliver. It reports whether that completes a resync.
//
// The server counts too few while records are replaced, so that what it says is
// not the end. But if none follow, the last records of the log may have been
// removed: then an inspection that finds no progress is enough to look.
func (c *cursor) applied(l landmark, pending uint64) (swept bool) {
	c.skipped += l.revision - c.at.Sequence - 1
	c.at.Sequence, c.told, c.reread = l.revision, l.revision, 0
	c.recent.add(l)
	if c.live {
		return false
	}
	if l.revision >= c.target {
		return c.reached()
	}
	if pending == 0 {
		c.lagging = c.at.Sequence + 1
	}
	return false
}

// perhapsEnded tells whether it is worth while to inspect now.
func (c *cursor) perhapsEnded() bool { return !c.live && c.lagging == c.at.Sequence+1 }

func (c *cursor) reached() (swept bool) {
	swept = c.resyncing
	c.live, c.resyncing = true, false
	if !swept {
		return false
	}
	c.served = true
	if c.hold.active() {
		c.hold.sweep = true // after the release
		return false
	}
	return true
}

// ask notes that a view is asked for.
func (c *cursor) ask() {
	c.asked, c.hasty = inquiry{c.asked.number + 1, c.at.Sequence, c.skipped}, false
	c.hold.ask()
	c.asking = true
}

// hasten notes that the view was asked for out of turn. That nothing has come since
// an inspection of a moment ago says nothing about a log that is followed.
func (c *cursor) hasten() { c.hasty = true }

// inspect is told the view that was asked for.
func (c *cursor) inspect(v View) (verdict, string) {
	c.asking = false
	if v.Incarnation != c.at.Incarnation {
		return resync, "the stream was created anew"
	}
	if v.Last < c.asked.sequence {
		return resync, "the stream was rolled back"
	}
	if v.MaxAge != c.maxAge {
		return resync, ageChanged
	}
	c.head = v.Last
	c.hold.view(v.Last, v.Replicas <= 1)
	if v.Last < c.at.Sequence {
		return inStep, "" // the view is older than what was delivered since
	}
	if !c.resyncing {
		c.compare = &comparison{v, c.asked}
	}
	if v.Last == c.at.Sequence {
		c.lagging = 0
		return inStep, ""
	}
	// There is more to come. If none of it came since the last inspection, either
	// it does not exist (removed before it was delivered) or it will not come.
	stuck := c.lagging == c.at.Sequence+1
	c.lagging = c.at.Sequence + 1
	if stuck && (!c.live || !c.hasty) {
		return gap, "records do not come"
	}
	return inStep, ""
}

// Tally is what a replica believes to be in the log.
type Tally struct {
	// Least and Most bound the number of subjects that hold a record. They
	// differ by the records that the log removes about now.
	Least, Most int
	// Unconfirmed is the oldest revision that was acknowledged to this process
	// and that the feed has not delivered yet; 0: none.
	Unconfirmed uint64
}

// due tells whether a view waits for exactly this point to be compared.
func (c *cursor) due() bool { return c.compare != nil && c.at.Sequence >= c.compare.Last }

// check compares the view that is due with the replica. Nobody who removes
// records from a log tells the consumers; only the count can show it.
func (c *cursor) check(t Tally) (verdict, string) {
	v := c.compare
	c.compare = nil
	if v == nil || c.at.Sequence != v.Last {
		return inStep, ""
	}
	// What was passed over since the view was asked for it may count: such a
	// record was replaced by one that is still to come, or removed.
	replaced := int(c.skipped - v.asked.skipped)
	if c.lost(t.Unconfirmed, v, replaced) {
		return resync, "an acknowledged write is not in the log"
	}
	difference := v.Subjects - min(max(v.Subjects, t.Least), t.Most+replaced)
	exact := t.Least == t.Most && replaced == 0
	if (exact || difference != 0) && c.doubt.found(difference) {
		return resync, "records were removed from the stream"
	}
	return inStep, ""
}

// lost tells whether the log has lost a revision that was acknowledged.
func (c *cursor) lost(unconfirmed uint64, v *comparison, replaced int) bool {
	if unconfirmed <= v.Last {
		c.overdue = 0
		return unconfirmed != 0 && replaced == 0
	}
	if c.overdue == unconfirmed && v.asked.number > c.overdueInquiry {
		return true
	}
	c.overdue, c.overdueInquiry = unconfirmed, c.asked.number
	return false
}

// landmark is a delivered record, by which a log can be recognised.
type landmark struct {
	subject   string
	revision  uint64
	stored    int64 // unix nanoseconds
	keptUntil int64 // unix milliseconds, 0: for ever
}

// recent holds the last landmarks in a ring.
type recent struct {
	ring [128]landmark
	n    int
}

func (r *recent) add(l landmark) {
	r.ring[r.n%len(r.ring)] = l
	r.n++
}

// newest yields the landmarks from the newest to the oldest, each subject once,
// until yield returns false.
func (r *recent) newest(yield func(landmark) bool) {
	seen := make(map[string]bool)
	for i := r.n - 1; i >= 0 && i >= r.n-len(r.ring); i-- {
		l := r.ring[i%len(r.ring)]
		if seen[l.subject] {
			continue
		}
		seen[l.subject] = true
		if !yield(l) {
			return
		}
	}
}

// sighting is what the log holds now where a landmark was.
type sighting struct {
	same bool   // the very record
	last uint64 // otherwise: last revision of the subject; 0: none
	now  int64  // unix milliseconds, by the server's clock
}

// recognise judges one landmark. inStep: the log up to the landmark is the one
// that was followed, and whatever was delivered after it will be delivered
// again in its newer form; ignore: it was replaced by something still to come,
// or it has expired, so look at an older one; resync: the log has been changed.
func (c *cursor) recognise(l landmark, s sighting) verdict {
	switch {
	case s.same:
		return inStep
	case s.last > c.at.Sequence:
		return ignore
	case s.last == 0 && l.keptUntil != 0 && l.keptUntil <= s.now:
		return ignore
	}
	return resync
}
