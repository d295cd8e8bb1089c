package kvstore

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/replication"
)

// An index that is fed by a simulated log, with writes ahead of the feed and
// logs that are made anew, agrees with a plain map at every step.
func TestIndexModel(t *testing.T) {
	for range 10 { // times the usual number of checks: they are cheap
		rapid.Check(t, func(rt *rapid.T) {
			var end any
			synctest.Test(t, func(*testing.T) {
				defer func() { end = recover() }()
				checkIndex(rt)
			})
			switch { // rapid tells failures by the place of the panic: these two are not the same
			case end == nil:
			case fmt.Sprintf("%T", end) == "rapid.invalidData":
				panic(end)
			default:
				panic(end)
			}
		})
	}
}

func checkIndex(rt *rapid.T) {
	c := newCache(rapid.SampledFrom([]int64{-1, 20, 1000}).Draw(rt, "cache bytes"))
	defer c.close()
	m := &indexModel{
		rt: rt, x: newIndex(c), epoch: 1, revision: 1,
		log: make(map[string]replication.Message), known: make(map[string]knownRecord), told: make(map[string]uint64),
		watcher: &watcher{pending: make(map[string]pending), ready: make(chan struct{}, 1)},
	}
	m.x.watch(m.watcher)
	rt.Repeat(map[string]func(*rapid.T){
		"append": m.append, "append2": m.append, "ahead": m.ahead, "deliver": m.deliver, "deliver2": m.deliver,
		"refresh": m.refresh, "late": m.late, "remake": m.remake, "sleep": m.sleep, "fill": m.fill, "foreign": m.foreign,
		"": m.check,
	})
}

// indexModel is a log, the feed's place in it, and what the index is to hold.
type indexModel struct {
	rt       *rapid.T
	x        *index
	epoch    uint64
	heard    uint64                         // the last epoch that the index has heard of
	revision uint64                         // of the next record of the log
	log      map[string]replication.Message // the last of each subject, foreign ones too
	at       uint64                         // last revision that was delivered
	swept    bool                           // the feed has been at the end of the log in this epoch
	asked    *knownRecord                   // what the leader has said, not applied yet
	missed   bool                           // the log has removed what the feed had not delivered
	known    map[string]knownRecord
	writes   int
	watcher  *watcher
	told     map[string]uint64 // what the watcher adds up to: revisions of what is there
}

type knownRecord struct {
	epoch   uint64
	message replication.Message
}

func (m *indexModel) draw(rt *rapid.T) replication.Message {
	m.writes++
	time.Sleep(1) // no two records have the same time
	key := rapid.SampledFrom([]string{"a", "ab", "b", "c"}).Draw(rt, "key")
	msg := message(key, m.revision, strings.Repeat(fmt.Sprint(m.writes%10), rapid.IntRange(0, 12).Draw(rt, "size")))
	now := time.Now().UnixMilli()
	switch rapid.IntRange(0, 3).Draw(rt, "kind") {
	case 0:
		msg.VisibleUntil = now + rapid.Int64Range(-1000, 5000).Draw(rt, "ttl")
		msg.HidesUntil = msg.VisibleUntil + rapid.SampledFrom([]int64{0, 0, 3000}).Draw(rt, "hides")
	case 1:
		msg.Record = codec.Record{Op: codec.OpDelete}
		msg.HidesUntil = rapid.SampledFrom([]int64{0, now + 2000}).Draw(rt, "until")
	}
	if msg.HidesUntil != 0 {
		msg.KeptUntil = max(msg.HidesUntil, now) + ttlMargin.Milliseconds()
	}
	return msg
}

// append appends to the log.
func (m *indexModel) append(rt *rapid.T) {
	msg := m.draw(rt)
	m.revision++
	m.log[msg.Subject] = msg
	rt.Logf("append %q at %d, visible until %d, hides until %d, op %v", msg.Key, msg.Revision, msg.VisibleUntil, msg.HidesUntil, msg.Record.Op)
}

// ahead appends to the log and applies that at once.
func (m *indexModel) ahead(rt *rapid.T) {
	m.append(rt)
	for _, msg := range m.log {
		if msg.Revision == m.revision-1 {
			m.applyAhead(m.epoch, msg)
		}
	}
}

// refresh applies what the leader says of a key, or said a while ago.
func (m *indexModel) refresh(rt *rapid.T) {
	if m.asked != nil && rapid.Bool().Draw(rt, "slow answer") {
		m.applyAhead(m.asked.epoch, m.asked.message)
	}
	m.asked = nil
	if keys := m.keys(); len(keys) > 0 {
		m.asked = &knownRecord{m.epoch, m.log[rapid.SampledFrom(keys).Draw(rt, "subject")]}
	}
}

// late applies what was acknowledged by a log that is no more. That counts
// until the index hears of the new one.
func (m *indexModel) late(rt *rapid.T) {
	if m.epoch > 1 {
		msg := m.draw(rt)
		msg.Revision += 1000 + uint64(m.writes)
		m.applyAhead(m.epoch-1, msg)
	}
}

func (m *indexModel) keys() (subjects []string) {
	for _, subject := range slices.Sorted(maps.Keys(m.log)) {
		if msg := m.log[subject]; !msg.Foreign() {
			subjects = append(subjects, subject)
		}
	}
	return subjects
}

func (m *indexModel) applyAhead(epoch uint64, msg replication.Message) {
	m.x.applyAhead(epoch, &msg, []byte(string(msg.Record.Value)))
	if epoch >= m.heard {
		m.learn(epoch, msg)
	}
}

// learn notes what the index must know now.
func (m *indexModel) learn(epoch uint64, msg replication.Message) {
	m.heard = max(m.heard, epoch)
	if old, ok := m.known[msg.Key]; !ok || old.epoch != epoch || old.message.Revision < msg.Revision {
		m.known[msg.Key] = knownRecord{epoch, msg}
	}
}

// deliver makes the feed apply the next records, and sweep at the end.
func (m *indexModel) deliver(rt *rapid.T) {
	for range rapid.IntRange(1, 5).Draw(rt, "records") {
		next := replication.Message{}
		for _, msg := range m.log {
			if msg.Revision > m.at && (next.Revision == 0 || msg.Revision < next.Revision) {
				next = msg
			}
		}
		if next.Revision == 0 {
			m.sweep()
			return
		}
		m.at = next.Revision
		rt.Logf("deliver %d", m.at)
		next.Record.Value = slices.Clone(next.Record.Value)
		m.x.Apply(m.epoch, next)
		if next.Foreign() {
			m.heard = m.epoch
		} else {
			m.learn(m.epoch, next)
		}
	}
}

func (m *indexModel) sweep() {
	if m.swept {
		return
	}
	m.swept, m.heard = true, m.epoch
	m.rt.Logf("sweep")
	m.x.Sweep(m.epoch)
	for key, k := range m.known {
		if k.epoch != m.epoch {
			delete(m.known, key)
		}
	}
}

// remake replaces the log by one that has lost and kept some of it.
func (m *indexModel) remake(rt *rapid.T) {
	if !m.swept {
		rt.Skip("still reading")
	}
	m.epoch++
	m.at, m.swept, m.missed = 0, false, false
	if rapid.Bool().Draw(rt, "shorter") {
		m.revision = max(m.revision/2, 1)
	}
	for _, subject := range slices.Sorted(maps.Keys(m.log)) {
		msg := m.log[subject]
		fate := rapid.IntRange(0, 3).Draw(rt, "fate")
		if msg.Revision >= m.revision || fate == 0 {
			delete(m.log, subject) // lost
			continue
		}
		if fate == 1 && !msg.Foreign() { // written again
			msg.Stored = msg.Stored.Add(1)
			if msg.HidesUntil != 0 {
				msg.HidesUntil += 1000
				msg.KeptUntil += 1000
			}
			m.log[subject] = msg
		}
	}
	rt.Logf("epoch %d, next is %d, %d records", m.epoch, m.revision, len(m.log))
}

// sleep lets time pass, and the index and the log do what is due.
func (m *indexModel) sleep(rt *rapid.T) {
	d := rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, 3 * time.Second, time.Minute}).Draw(rt, "sleep")
	time.Sleep(d)
	if d > 5*time.Second {
		m.asked = nil // nobody waits that long for an answer
	}
	now := time.Now().UnixMilli()
	rt.Logf("it is %d", now)
	for next := now; next != 0 && next <= now; {
		next = m.x.expireSome(now)
	}
	for subject, msg := range m.log {
		if msg.KeptUntil != 0 && msg.KeptUntil <= now {
			m.missed = m.missed || msg.Revision > m.at
			delete(m.log, subject)
		}
	}
}

func (m *indexModel) fill(rt *rapid.T) {
	keys := slices.Sorted(maps.Keys(m.known))
	if len(keys) == 0 {
		return
	}
	k := m.known[rapid.SampledFrom(keys).Draw(rt, "key")]
	r := m.x.records.find(k.message.Key)
	if r != nil && r.revision == k.message.Revision && r.size > 0 {
		m.x.fill(r, slices.Clone(k.message.Record.Value))
		m.x.fill(m.x.newRecord(uint64(r.epoch), &k.message), slices.Clone(k.message.Record.Value)) // not the current one
	}
}

func (m *indexModel) foreign(rt *rapid.T) {
	subject := rapid.SampledFrom([]string{"$KV.x.=", "$KV.x.a=61"}).Draw(rt, "foreign")
	m.log[subject] = replication.Message{Subject: subject, Revision: m.revision, Stored: time.Now(), Err: codec.ErrForeignSubject}
	m.revision++
}

// check compares the index with the map.
func (m *indexModel) check(rt *rapid.T) {
	if err := checkInvariants(m.x); err != nil {
		rt.Fatal(err)
	}
	now, visible := time.Now().UnixMilli(), make(map[string]uint64)
	for key, k := range m.known {
		if msg := k.message; msg.Record.Op == codec.OpPut && (msg.VisibleUntil == 0 || now < msg.VisibleUntil) {
			visible[key] = msg.Revision
		}
		m.checkRecord(k, now)
	}
	for r := range m.x.records.all() {
		if _, ok := m.known[r.key()]; !ok {
			rt.Fatalf("%q is there, at %d", r.key(), r.revision)
		}
	}
	listed := make(map[string]uint64)
	for r := range m.x.ascend("", "") {
		listed[r.key()] = r.revision
	}
	if !maps.Equal(listed, visible) {
		rt.Fatalf("listed is %v, not %v", listed, visible)
	}
	m.checkWatcher(visible)
	m.checkTally(now)
}

func (m *indexModel) checkRecord(k knownRecord, now int64) {
	msg := k.message
	r := m.x.records.find(msg.Key)
	if r == nil {
		if msg.HidesUntil != 0 && msg.HidesUntil+retention <= now {
			return // it has nothing to hide any more
		}
		m.rt.Fatalf("%q is not there, at %d", msg.Key, msg.Revision)
	}
	p := r.particulars()
	if r.revision != msg.Revision || uint64(r.epoch) != k.epoch || r.deleted != (msg.Record.Op == codec.OpDelete) || p.expires != msg.VisibleUntil || p.hides != msg.HidesUntil {
		m.rt.Fatalf("%q is %+v, not %+v", msg.Key, r, k)
	}
	if text, ok := r.text(); ok && r.visibleAt(now) && text != string(msg.Record.Value) {
		m.rt.Fatalf("%q has the value %q, not %q", msg.Key, text, msg.Record.Value)
	}
}

// checkWatcher: what the watcher was told adds up to what is visible, but for
// what has expired and was not told yet.
func (m *indexModel) checkWatcher(visible map[string]uint64) {
	for e, ok := m.watcher.take(); ok; e, ok = m.watcher.take() {
		if e.Kind == EventPut {
			m.told[e.Entry.Key()] = uint64(e.Entry.Revision())
		} else {
			delete(m.told, e.Entry.Key())
		}
	}
	for key, revision := range m.told {
		if r := m.x.records.find(key); r != nil && r.revision == revision && !r.expired && !r.visible() {
			continue
		}
		if visible[key] != revision {
			m.rt.Fatalf("the watcher has %q at %d, not %v", key, revision, visible)
		}
	}
	for key, revision := range visible {
		if m.told[key] != revision {
			m.rt.Fatalf("the watcher has not %q at %d", key, revision)
		}
	}
}

// checkTally: at the end of a log the bounds hold what it has, though the log may
// have removed some records and not others.
func (m *indexModel) checkTally(now int64) {
	if !m.swept || m.missed || m.at != m.revision-1 {
		return
	}
	tally := m.x.Tally(time.Now())
	if n := len(m.log); n < tally.Least || n > tally.Most {
		m.rt.Fatalf("%d records in the log at %d, not %d to %d", n, now, tally.Least, tally.Most)
	}
	if tally.Unconfirmed != 0 && tally.Unconfirmed <= m.at {
		m.rt.Fatalf("%d is unconfirmed, %d was delivered", tally.Unconfirmed, m.at)
	}
}
