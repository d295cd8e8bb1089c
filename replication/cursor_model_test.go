package replication

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
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

func (l *modelLog) write(subject string, stamp int64) modelRecord {
	l.remove(subject)
	l.last++
	r := modelRecord{subject, l.last, stamp}
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
}

func (f *modelFeed) attach() {
	v := f.log.view()
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
	f.attached, f.next, f.sent, f.wire = true, from, 0, nil
	if f.cursor.following(uint64(len(f.log.from(f.next)))) {
		f.sweep()
	}
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
	f.wire, f.asked, f.taken = nil, false, nil
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
	}
	if f.ahead[d.subject] <= d.seq {
		delete(f.ahead, d.subject)
	}
	f.hold(d.modelRecord)
	l := landmark{subject: d.subject, revision: d.seq, stored: d.stamp}
	if f.cursor.applied(l, d.pending) {
		f.sweep()
	}
	f.check()
}

func (f *modelFeed) hold(r modelRecord) bool {
	if h, ok := f.held[r.subject]; ok && h.epoch == f.cursor.epoch && (h.seq > r.seq || h.modelRecord == r) {
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
	f.check()
}

func (f *modelFeed) check() {
	if !f.cursor.due() {
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
			f.ask()
		}
		f.take()
		f.look()
	}
}

var modelSubjects = rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"})

// actions are what can happen.
func (f *modelFeed) actions() map[string]func(*rapid.T) {
	subject := func(t *rapid.T) string { return modelSubjects.Draw(t, "subject") }
	return map[string]func(*rapid.T){
		"write": func(t *rapid.T) {
			f.clock++
			f.log.write(subject(t), f.clock)
		},
		"write of our own": func(t *rapid.T) {
			if !f.attached {
				return
			}
			f.clock++
			f.acks = append(f.acks, modelHeld{f.log.write(subject(t), f.clock), f.cursor.epoch})
		},
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
		f.log = modelLog{incarnation: f.log.incarnation + 1}
		f.next, f.wire = 1<<63, nil // the consumer is gone, and nobody tells
	}
	actions["save"] = func(*rapid.T) { f.saved = f.log.clone() }
	actions["restore"] = func(*rapid.T) { // from the last save; no connection survives it
		for _, r := range f.saved.records {
			if f.saved.incarnation == f.log.incarnation && f.log.lastOf(r.subject) == 0 {
				f.revived = true
			}
		}
		f.log = f.saved.clone()
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
		t.Repeat(actions)
		f.calm()
		held := make(map[string]modelRecord)
		for subject, h := range f.held {
			held[subject] = h.modelRecord
		}
		if want := f.log.content(); !maps.Equal(held, want) {
			t.Fatalf("the replica holds\n%v, the log\n%v", held, want)
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
