package replication

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nearkv/nearkv/codec"
)

// The slow, obvious model: a log is a list of records, and what a replica has
// to hold is whatever the list holds now. The cursor is driven as Feed drives
// it, and everything that can happen to a log happens, at any moment: writes by
// anybody, purges, recreation, rollback, lost connections, answers that are
// late.

// modelRecord is a record of the model's log. Two are the same only if their
// stamps are, which stand for the time at which they were stored.
type modelRecord struct {
	subject string
	seq     uint64
	stamp   int64
	batch   codec.Batch
}

// modelLog keeps the last record of each subject.
type modelLog struct {
	incarnation int
	last        uint64
	records     []modelRecord // by seq
}

func (l *modelLog) clone() modelLog {
	return modelLog{l.incarnation, l.last, slices.Clone(l.records)}
}

func (l *modelLog) write(subject string, stamp int64, batch codec.Batch) modelRecord {
	l.remove(subject)
	l.last++
	r := modelRecord{subject, l.last, stamp, batch}
	l.records = append(l.records, r)
	return r
}

func (l *modelLog) remove(subject string) {
	l.records = slices.DeleteFunc(l.records, func(r modelRecord) bool { return r.subject == subject })
}

func (l *modelLog) view() View {
	return View{Incarnation: Incarnation(fmt.Sprint(l.incarnation)), Last: l.last, Subjects: len(l.records)}
}

// from returns the records from a sequence on.
func (l *modelLog) from(seq uint64) []modelRecord {
	i := slices.IndexFunc(l.records, func(r modelRecord) bool { return r.seq >= seq })
	if i < 0 {
		return nil
	}
	return l.records[i:]
}

func (l *modelLog) at(seq uint64) (modelRecord, bool) {
	r := l.from(seq)
	if len(r) == 0 || r[0].seq != seq {
		return modelRecord{}, false
	}
	return r[0], true
}

func (l *modelLog) lastOf(subject string) uint64 {
	for _, r := range l.records {
		if r.subject == subject {
			return r.seq
		}
	}
	return 0
}

func (l *modelLog) content() map[string]modelRecord {
	m := make(map[string]modelRecord)
	for _, r := range l.records {
		m[r.subject] = r
	}
	return m
}

// modelDelivery is a record on its way to the replica.
type modelDelivery struct {
	modelRecord
	consumer, pending uint64
}

type modelHeld struct {
	modelRecord
	epoch uint64
}

// modelFeed is a log and a replica that follows it.
type modelFeed struct {
	t     *rapid.T
	log   modelLog
	saved modelLog
	clock int64
	lost  int // resyncs because no landmark was left

	revived bool // a record that was purged has come back

	cursor  cursor
	restart string
	held    map[string]modelHeld
	acks    []modelHeld       // of writes of our own, on their way
	ahead   map[string]uint64 // acknowledged, and not delivered

	attached bool
	next     uint64 // sequence, for the consumer to go on with
	sent     uint64
	wire     []modelDelivery
	asked    bool  // a view is to be taken
	taken    *View // a view is on its way
	looks    bool  // the leader is asked for the next record

	committing []modelRecord // the parts of a batch that are not stored yet, by subject
	batches    [][]modelRecord
	opened     uint64 // where the log ended when its first reading began, at last
}

func (f *modelFeed) attach() {
	v := f.log.view()
	if !f.cursor.served {
		f.opened = v.Last
	}
	what, why := f.cursor.attach(v)
	if f.restart != "" {
		what, why = resync, f.restart
	}
	from := f.cursor.at.Sequence + 1
	if what == verify {
		what, why, from = f.recognise()
	}
	if what == resync {
		f.t.Logf("resync: %s", why)
		f.restart = ""
		f.cursor.begin(v)
		clear(f.ahead)
		from = 1
	}
	f.attached, f.next, f.sent, f.wire, f.looks = true, from, 0, nil, false
	f.settled(f.cursor.following(uint64(len(f.log.from(f.next)))))
	f.ask()
}

func (f *modelFeed) recognise() (what verdict, why string, from uint64) {
	for l := range f.cursor.recent.newest {
		r, found := f.log.at(l.revision)
		s := sighting{same: found && r.subject == l.subject && r.stamp == l.stored, last: f.log.lastOf(l.subject)}
		if v := f.cursor.recognise(l, s); v != ignore {
			return v, "the log has lost or changed records", l.revision + 1
		}
	}
	older := slices.SortedFunc(maps.Values(f.held), func(a, b modelHeld) int { return cmp.Compare(b.seq, a.seq) })
	for _, h := range older {
		if r, found := f.log.at(h.seq); h.seq <= f.cursor.visible() && found && r == h.modelRecord {
			f.cursor.reread = h.seq + 1
			return inStep, "", h.seq + 1
		}
	}
	f.lost++
	return resync, "the log cannot be recognised", 1
}

// detach ends the following, perhaps with a reason to begin anew, which stays
// until that has happened.
func (f *modelFeed) detach(restart string) {
	f.attached = false
	if restart != "" {
		f.restart = restart
	}
	f.wire, f.asked, f.taken, f.looks = nil, false, nil, false
}

// send puts the next record on the wire.
func (f *modelFeed) send() {
	records := f.log.from(f.next)
	if len(records) == 0 {
		return
	}
	f.sent++
	f.next = records[0].seq + 1
	f.wire = append(f.wire, modelDelivery{records[0], f.sent, uint64(len(records) - 1)})
}

func (f *modelFeed) receive() {
	if len(f.wire) == 0 {
		return
	}
	d := f.wire[0]
	f.wire = f.wire[1:]
	switch f.cursor.delivered(d.seq, d.consumer) {
	case gap:
		f.detach("")
		return
	case resync:
		f.detach("the log has records that it had not")
		return
	case confirm:
		h := f.held[d.subject]
		if !f.cursor.hold.has(d.seq) && h.modelRecord != d.modelRecord && h.seq <= f.cursor.visible() {
			f.detach("the log has records that the replica does not have")
			return
		}
		f.cursor.confirmed(d.pending)
		f.pursue()
		return
	}
	m := Message{Subject: d.subject, Revision: d.seq, Stored: time.Unix(0, d.stamp), Record: codec.Record{Batch: d.batch}}
	if !f.cursor.keep(&m) {
		f.apply(d.modelRecord)
	}
	f.settled(f.cursor.applied(landmark{subject: d.subject, revision: d.seq, stored: d.stamp}, d.pending))
	f.check()
	f.pursue()
}

func (f *modelFeed) apply(r modelRecord) {
	if f.ahead[r.subject] <= r.seq {
		delete(f.ahead, r.subject)
	}
	f.hold(r)
}

// settled applies what was kept back, as Feed does.
func (f *modelFeed) settled(swept bool) {
	ms, sweep := f.cursor.release()
	for _, m := range ms {
		r, found := f.log.at(m.Revision)
		if !found || r.subject != m.Subject { // it has been replaced since
			r = modelRecord{m.Subject, m.Revision, m.Stored.UnixNano(), m.Record.Batch}
		}
		f.apply(r)
	}
	if swept || sweep {
		f.sweep()
	}
}

// pursue asks for what ends the keeping back of records, as Feed does.
func (f *modelFeed) pursue() {
	if !f.attached || len(f.wire) > 0 {
		return
	}
	switch view, next := f.cursor.wants(); {
	case view:
		f.ask()
		f.cursor.hasten()
	case next:
		f.cursor.look()
		f.looks = true
	}
}

// seen is the leader's answer to what comes next. It does not answer while it stores
// a batch.
func (f *modelFeed) seen() {
	if !f.looks || len(f.committing) > 0 {
		return
	}
	f.looks = false
	f.settled(f.cursor.seen(len(f.log.from(f.cursor.looked)) > 0))
	f.pursue()
}

// commit stores the next part of a batch.
func (f *modelFeed) commit() {
	if len(f.committing) == 0 {
		return
	}
	r := f.committing[0]
	f.committing = f.committing[1:]
	f.clock++
	last := len(f.batches) - 1
	f.batches[last] = append(f.batches[last], f.log.write(r.subject, f.clock, r.batch))
}

func (f *modelFeed) hold(r modelRecord) bool {
	if h, ok := f.held[r.subject]; ok && h.epoch == f.cursor.epoch && (h.seq > r.seq || h.seq == r.seq && h.stamp == r.stamp) {
		return false
	}
	f.held[r.subject] = modelHeld{r, f.cursor.epoch}
	return true
}

// acknowledge applies a write of our own ahead of the feed. If the log is being
// read anew, what that log has of the key is applied.
func (f *modelFeed) acknowledge() {
	if len(f.acks) == 0 {
		return
	}
	ack := f.acks[0]
	f.acks = f.acks[1:]
	r, found := ack.modelRecord, true
	if ack.epoch != f.cursor.epoch {
		r, found = f.log.at(f.log.lastOf(r.subject))
	}
	if found && f.hold(r) {
		f.ahead[r.subject] = r.seq
	}
}

func (f *modelFeed) sweep() {
	maps.DeleteFunc(f.held, func(_ string, h modelHeld) bool { return h.epoch != f.cursor.epoch })
}

func (f *modelFeed) ask() {
	f.cursor.ask()
	f.asked, f.taken = true, nil
}

func (f *modelFeed) take() {
	if f.asked {
		v := f.log.view()
		f.asked, f.taken = false, &v
	}
}

func (f *modelFeed) look() {
	if f.taken == nil {
		return
	}
	v := *f.taken
	f.taken = nil
	switch what, why := f.cursor.inspect(v); what {
	case resync:
		f.detach(why)
		return
	case gap:
		f.detach("")
		return
	}
	f.settled(false)
	f.check()
	f.pursue()
}

// tick is what Feed does at each CheckInterval.
func (f *modelFeed) tick() {
	if !f.attached {
		return
	}
	f.cursor.tick()
	f.looks = false
	f.settled(false)
	f.ask()
	f.pursue()
}

func (f *modelFeed) check() {
	if !f.cursor.due() || f.cursor.hold.active() {
		return
	}
	t := Tally{Least: len(f.held) - len(f.ahead), Most: len(f.held)}
	for _, seq := range f.ahead {
		if t.Unconfirmed == 0 || seq < t.Unconfirmed {
			t.Unconfirmed = seq
		}
	}
	if what, why := f.cursor.check(t); what == resync {
		f.detach(why)
	}
}

// calm lets everything arrive, and a few inspections pass.
func (f *modelFeed) calm() {
	for len(f.committing) > 0 {
		f.commit()
	}
	for len(f.acks) > 0 {
		f.acknowledge()
	}
	for range 12 {
		if !f.attached {
			f.attach()
		}
		for len(f.wire) > 0 || len(f.log.from(f.next)) > 0 {
			f.send()
			f.receive()
			if !f.attached {
				break
			}
		}
		if f.attached && f.taken == nil && !f.asked {
			f.tick()
		}
		f.quiet()
	}
}

// quiet answers whatever was asked.
func (f *modelFeed) quiet() {
	for f.asked || f.taken != nil || f.looks {
		f.take()
		f.look()
		f.seen()
	}
}

var modelSubjects = rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"})

// actions are what can happen.
func (f *modelFeed) actions() map[string]func(*rapid.T) {
	subject := func(t *rapid.T) string { return modelSubjects.Draw(t, "subject") }
	return map[string]func(*rapid.T){
		"write": func(t *rapid.T) {
			if len(f.committing) == 0 {
				f.clock++
				f.log.write(subject(t), f.clock, codec.Batch{})
			}
		},
		"write of our own": func(t *rapid.T) {
			if !f.attached || len(f.committing) > 0 {
				return
			}
			f.clock++
			f.acks = append(f.acks, modelHeld{f.log.write(subject(t), f.clock, codec.Batch{}), f.cursor.epoch})
		},
		"batch": func(t *rapid.T) {
			if len(f.committing) > 0 {
				return
			}
			subjects := rapid.SliceOfNDistinct(modelSubjects, 2, 4, rapid.ID).Draw(t, "subjects")
			for i, s := range subjects {
				f.committing = append(f.committing, modelRecord{subject: s, batch: codec.Batch{Index: i + 1, Count: len(subjects)}})
			}
			f.batches = append(f.batches, nil)
			f.commit()
		},
		"commit":      func(*rapid.T) { f.commit() },
		"seen":        func(*rapid.T) { f.seen() },
		"tick":        func(*rapid.T) { f.tick() },
		"acknowledge": func(*rapid.T) { f.acknowledge() },
		"send":        func(*rapid.T) { f.send() },
		"receive":     func(*rapid.T) { f.receive() },
		"cut":         func(*rapid.T) { f.detach("") },
		"attach": func(*rapid.T) {
			if !f.attached {
				f.attach()
			}
		},
		"ask": func(*rapid.T) {
			if f.attached {
				f.ask()
			}
		},
		"take": func(*rapid.T) { f.take() },
		"look": func(*rapid.T) { f.look() },
	}
}

// forge puts the header of a batch on a record that is part of none.
func (f *modelFeed) forge(actions map[string]func(*rapid.T)) {
	actions["forge"] = func(t *rapid.T) {
		if len(f.committing) > 0 {
			return
		}
		count := rapid.IntRange(2, 9).Draw(t, "count")
		f.clock++
		f.log.write(modelSubjects.Draw(t, "subject"), f.clock, codec.Batch{Index: rapid.IntRange(1, count).Draw(t, "index"), Count: count})
	}
}

// harm is what should not happen to a log. A restore that brings back a record
// that was purged, and a purge of another, are one thing that nobody can see: the
// log has as many records as before, and ends where it did. So after the one
// there is none of the other.
func (f *modelFeed) harm(actions map[string]func(*rapid.T)) {
	actions["purge of a key"] = func(t *rapid.T) {
		if subject := modelSubjects.Draw(t, "subject"); !f.revived {
			f.log.remove(subject)
		}
	}
	actions["purge"] = func(*rapid.T) {
		if !f.revived {
			f.log.records = nil
		}
	}
	actions["recreate"] = func(*rapid.T) {
		f.log, f.committing = modelLog{incarnation: f.log.incarnation + 1}, nil
		f.next, f.wire = 1<<63, nil // the consumer is gone, and nobody tells
	}
	actions["save"] = func(*rapid.T) { f.saved = f.log.clone() }
	actions["restore"] = func(*rapid.T) { // from the last save; no connection survives it
		for _, r := range f.saved.records {
			if f.saved.incarnation == f.log.incarnation && f.log.lastOf(r.subject) == 0 {
				f.revived = true
			}
		}
		f.log, f.committing = f.saved.clone(), nil
		f.detach("")
	}
}

func newModelFeed(t *rapid.T) *modelFeed {
	return &modelFeed{t: t, held: make(map[string]modelHeld), ahead: make(map[string]uint64)}
}

// checkOften checks a cheap property fifty times as often as rapid does.
func checkOften(t *testing.T, property func(*rapid.T)) {
	for range 50 {
		rapid.Check(t, property)
	}
}

// Whatever has happened to a log, a replica that is left alone for a few
// inspections holds exactly what the log holds.
func TestCursorConverges(t *testing.T) {
	checkOften(t, func(t *rapid.T) {
		f := newModelFeed(t)
		actions := f.actions()
		f.harm(actions)
		f.forge(actions)
		t.Repeat(actions)
		f.calm()
		held := make(map[string]modelRecord)
		for subject, h := range f.held {
			held[subject] = h.modelRecord
		}
		want := f.log.content()
		for _, m := range []map[string]modelRecord{held, want} {
			for subject, r := range m { // a forged one loses its header
				r.batch = codec.Batch{}
				m[subject] = r
			}
		}
		if !maps.Equal(held, want) {
			t.Fatalf("the replica holds\n%v, the log\n%v", held, want)
		}
		if f.cursor.hold.active() {
			t.Fatalf("records are still kept back: %+v", f.cursor.hold)
		}
	})
}

// No replica shows a part of a batch, however late its parts come, and whatever has
// replaced some of them; and when it is left alone it shows all. Not counted are the
// batches that the log had when it was read first: what replaced a part of them may
// come a moment later.
func TestCursorShowsBatchesWhole(t *testing.T) {
	checkOften(t, func(t *rapid.T) {
		f := newModelFeed(t)
		actions := f.actions()
		delete(actions, "write of our own") // is seen at once, also before an older batch
		delete(actions, "tick")             // of which two in a row end the waiting
		actions[""] = func(t *rapid.T) {
			for _, parts := range f.batches {
				if len(parts) == 0 || parts[0].seq <= f.opened {
					continue
				}
				shown, told := 0, false
				for _, p := range parts {
					told = told || f.held[p.subject].seq == p.seq
					if f.held[p.subject].seq >= p.seq {
						shown++
					}
				}
				if f.cursor.served && told && shown != len(parts) {
					t.Fatalf("of the batch\n%v the replica shows %d, it holds\n%v", parts, shown, f.held)
				}
			}
		}
		t.Repeat(actions)
		f.calm()
		if at := f.cursor.visible(); at < f.log.last {
			t.Fatalf("the replica shows all up to %d, the log ends at %d", at, f.log.last)
		}
	})
}

// While nobody does to a log what should not be done, it is read once; again
// only if everything that was delivered lately was replaced while the replica
// was away.
func TestCursorDoesNotDoubtInVain(t *testing.T) {
	checkOften(t, func(t *rapid.T) {
		f := newModelFeed(t)
		f.attach()
		t.Repeat(f.actions())
		f.calm()
		if again := int(f.cursor.epoch) - 1 - f.lost; again != 0 || f.restart != "" {
			t.Fatalf("the log was read again %d times", again)
		}
	})
}
