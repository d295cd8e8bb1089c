package kvstore

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/btree"

	"github.com/nearkv/nearkv/replication"
)

const (
	// removalSlack is by how much the log may be late, in milliseconds, in
	// removing a record that needs to hide nothing any more: the margin of the
	// writer, the rounding to seconds and the server's own slowness.
	removalSlack = int64(ttlMargin/time.Millisecond) + 3000
	// retention is for how long the index keeps such a record, longer than the
	// log does.
	retention = removalSlack + 30_000
)

// index holds a record for every key in the log, also for deleted and expired
// ones as long as the log has them. It is the truth about which keys exist and
// at which revision; the cache only decides which values are in memory.
//
// Readers look keys up without a lock, and list them in snapshots. Writers hold
// mu.
//
// Invariant: every change goes through set or drop, which keep the parts in
// step and tell the watchers.
type index struct {
	records *keyMap
	cache   *cache
	store   *Store                  // for those who read large values
	witness atomic.Pointer[witness] // nil: there is none

	// snapshot is a copy of ordered that is as new as ordered, or nil.
	snapshot atomic.Pointer[tree]

	// turns is odd while records are being applied that are to become visible at
	// once.
	turns atomic.Uint64

	mu          sync.Mutex // no user code and no I/O under it
	ordered     *tree      // the visible records by key, and expired ones until they are told
	deadlines   *tree      // by (due, key)
	epoch       uint64
	current     int               // records of this epoch
	unconfirmed map[string]uint64 // revisions applied ahead of the feed
	foreign     map[string]uint64 // epochs, by subjects that are no keys
	leavers     leavers
	watchers    map[*watcher]struct{}
	told        []Event        // of a batch that is being applied
	objects     map[string]int // how many records refer to an object
	followers   map[*follower]struct{}
	closed      bool
	wake        chan struct{} // of capacity 1: an earlier deadline than before

	unsure    int // damaged records of which only the server knows for how long it keeps them
	permanent int // records that the log keeps forever

	counts counts
}

// counts are read without mu.
type counts struct {
	visible, hidden, foreign, damaged atomic.Int64
}

type tree = btree.BTreeG[*record]

func newTree(less func(a, b *record) bool) *tree {
	return btree.NewBTreeGOptions(less, btree.Options{NoLocks: true})
}

func byKey(a, b *record) bool { return a.key() < b.key() }

func byDue(a, b *record) bool {
	if a.rare.due != b.rare.due {
		return a.rare.due < b.rare.due
	}
	return a.key() < b.key()
}

func newIndex(c *cache) *index {
	return &index{
		records: newKeyMap(), cache: c,
		ordered: newTree(byKey), deadlines: newTree(byDue),
		unconfirmed: make(map[string]uint64), foreign: make(map[string]uint64),
		watchers: make(map[*watcher]struct{}), followers: make(map[*follower]struct{}),
		objects: make(map[string]int), wake: make(chan struct{}, 1), leavers: newLeavers(time.Now().UnixMilli()),
	}
}

// Apply implements replication.Replica.
func (x *index) Apply(epoch uint64, m replication.Message) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.apply(epoch, m)
}

// ApplyAll implements replication.Replica.
func (x *index) ApplyAll(epoch uint64, ms []replication.Message) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.atOnce(func() {
		for _, m := range ms {
			x.apply(epoch, m)
		}
	})
}

// atOnce makes what apply changes visible at once. It needs mu.
func (x *index) atOnce(apply func()) {
	x.turns.Add(1)
	apply()
	x.turns.Add(1)
	x.notifyAll()
}

// apply needs mu.
func (x *index) apply(epoch uint64, m replication.Message) {
	x.enter(epoch)
	x.follow(epoch, &m)
	if m.Foreign() {
		x.foreign[m.Subject] = epoch
		x.counts.foreign.Store(int64(len(x.foreign)))
		return
	}
	if m.Err != nil || m.Forged {
		x.counts.damaged.Add(1)
	}
	if revision, ok := x.unconfirmed[m.Key]; ok && m.Revision >= revision {
		delete(x.unconfirmed, m.Key)
	}
	if r := x.merge(epoch, &m, m.Record.Value); r.revision == m.Revision {
		r.stored.Store(m.Stored.UnixNano()) // of one of our own, the log's own time
	}
}

// applyAhead applies a record that the log's leader has told of before the feed
// has. value is what the index may keep of m.Record.Value. The result is false
// if the record may be of a log that is no more: a later epoch has begun.
func (x *index) applyAhead(epoch uint64, m *replication.Message, value []byte) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if epoch < x.epoch || x.closed {
		return false
	}
	x.ahead(epoch, m, value)
	return true
}

// applyBatchAhead is applyAhead for the records of a batch. Their values become the
// index's.
func (x *index) applyBatchAhead(epoch uint64, ms []replication.Message) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if epoch < x.epoch || x.closed {
		return false
	}
	x.atOnce(func() {
		for i := range ms {
			x.ahead(epoch, &ms[i], ms[i].Record.Value)
		}
	})
	return true
}

func (x *index) ahead(epoch uint64, m *replication.Message, value []byte) {
	x.enter(epoch)
	before := x.records.find(m.Key)
	if x.merge(epoch, m, value) != before {
		x.unconfirmed[m.Key] = m.Revision
	}
}

// enter begins a new epoch, if it is one: the log is read from its start.
func (x *index) enter(epoch uint64) {
	if epoch == x.epoch {
		return
	}
	x.epoch, x.current = epoch, 0
	clear(x.unconfirmed) // what was acknowledged is told again, or lost
}

// merge puts a record in the place of its key, unless that or a newer one is
// there. It returns the record that is there afterwards.
func (x *index) merge(epoch uint64, m *replication.Message, value []byte) *record {
	old := x.records.find(m.Key)
	if old != nil {
		known := old.revision == m.Revision
		switch {
		case old.epoch == uint32(epoch) && (old.revision > m.Revision || known && old.like(m)):
			return old
		case old.epoch != uint32(epoch) && m.Again && old.revision > m.Revision:
			old.epoch = uint32(epoch) // the newer one was read, from a server that does not lag
			x.current++
			return old
		case old.epoch != uint32(epoch) && known && old.lives(m) && (old.stored.Load() == m.Stored.UnixNano() || old.same(m)):
			old.epoch = uint32(epoch) // read again
			x.current++
			return old
		}
	}
	r := x.newRecord(epoch, m)
	x.set(old, r, value)
	return r
}

// set replaces old, which may be nil, by r.
func (x *index) set(old, r *record, value []byte) {
	now := time.Now().UnixMilli()
	wasVisible, told := false, false
	if old != nil {
		x.retire(old, r)
		told = old.revision == r.revision && old.stored.Load() == r.stored.Load()
		wasVisible = !old.hidden()
		x.cache.release(old)
		x.unschedule(old)
		x.count(old, -1)
	}
	if old == nil || old.epoch != uint32(x.epoch) {
		x.current++
	}
	r.expired = !r.deleted && !r.visibleAt(now)
	isVisible := !r.hidden()
	if isVisible {
		x.cache.put(r, value, x.records)
	}
	x.records.set(r)
	x.count(r, +1)
	x.order(r, wasVisible, isVisible)
	x.schedule(r)
	if !told || wasVisible != isVisible {
		x.tell(r, wasVisible, isVisible)
	}
}

// order keeps the ordered tree.
func (x *index) order(r *record, wasVisible, isVisible bool) {
	switch {
	case isVisible:
		x.ordered.Set(r)
	case wasVisible:
		x.ordered.Delete(r)
	default:
		return
	}
	x.snapshot.Store(nil)
}

func (x *index) tell(r *record, wasVisible, isVisible bool) {
	switch {
	case isVisible:
		x.notify(EventPut, r)
	case wasVisible && r.expired:
		x.notify(EventExpire, r)
	case wasVisible:
		x.notify(EventDelete, r)
	}
}

// drop removes a record that the log has no more.
func (x *index) drop(r *record) {
	wasVisible := !r.hidden()
	x.cache.release(r)
	x.unschedule(r)
	x.count(r, -1)
	x.records.remove(r.key())
	delete(x.unconfirmed, r.key())
	if r.epoch == uint32(x.epoch) {
		x.current--
	}
	x.order(r, wasVisible, false)
	if wasVisible {
		x.notify(EventDelete, r)
	}
}

func (x *index) count(r *record, by int64) {
	if hides := r.particulars().hides; hides != 0 {
		x.leavers.add(hides, int(by))
	}
	switch p := r.particulars(); {
	case p.unsure:
		x.unsure += int(by)
	case p.hides == 0:
		x.permanent += int(by)
	}
	if r.hidden() {
		x.counts.hidden.Add(by)
		return
	}
	x.counts.visible.Add(by)
	if l := r.large(); l != nil {
		x.objects[l.Name] += int(by)
		if x.objects[l.Name] == 0 {
			delete(x.objects, l.Name)
		}
	}
}

// retire notes that the object of a record is not needed any more, because r has
// replaced the record in the log.
func (x *index) retire(old, r *record) {
	l := old.large()
	if l == nil || x.store == nil || old.epoch != r.epoch || old.revision >= r.revision {
		return
	}
	if is := r.large(); is == nil || is.Name != l.Name {
		x.store.sweeper.retire(l.Name, time.Now())
	}
}

// refers tells whether a record that readers see refers to an object.
func (x *index) refers(object string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.objects[object] > 0
}

// Sweep implements replication.Replica.
func (x *index) Sweep(epoch uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.enter(epoch)
	x.begunAnew()
	for subject, e := range x.foreign {
		if e != epoch {
			delete(x.foreign, subject)
		}
	}
	x.counts.foreign.Store(int64(len(x.foreign)))
	if x.current == x.records.size {
		return
	}
	for r := range x.records.all() {
		if r.epoch != uint32(epoch) {
			x.drop(r)
		}
	}
}

// Tally implements replication.Replica.
func (x *index) Tally(now time.Time) replication.Tally {
	x.mu.Lock()
	defer x.mu.Unlock()
	t := replication.Tally{Most: x.records.size + len(x.foreign)}
	t.Least = t.Most - len(x.unconfirmed) - x.unsure - x.leavers.count(now.UnixMilli())
	for key, revision := range x.unconfirmed {
		if r := x.records.find(key); r == nil || r.particulars().unsure || r.leaving(now.UnixMilli()) {
			continue // it may have gone before the feed could tell of it
		}
		if t.Unconfirmed == 0 || revision < t.Unconfirmed {
			t.Unconfirmed = revision
		}
	}
	return t
}

// schedule notes when the index has to look at a record: when it expires, and
// when the log has removed it.
func (x *index) schedule(r *record) {
	p := r.rare
	switch {
	case p == nil:
		return
	case p.expires != 0 && !r.hidden():
		p.due = p.expires
	case p.hides != 0:
		p.due = max(p.hides, time.Now().UnixMilli()) + retention
	default:
		p.due = 0
		return
	}
	x.deadlines.Set(r)
	if first, _ := x.deadlines.Min(); first == r {
		x.alarm()
	}
}

func (x *index) unschedule(r *record) {
	if r.particulars().due != 0 {
		x.deadlines.Delete(r)
	}
}

// alarm wakes the expirer. It never waits.
func (x *index) alarm() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// expireSome works off deadlines until now, and returns when the next one is
// due, in unix milliseconds: 0 if there is none. It does a bounded number at a
// time, so that writers are not kept waiting.
func (x *index) expireSome(now int64) (next int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for range 1000 {
		r, ok := x.deadlines.Min()
		if !ok {
			return 0
		}
		if r.rare.due > now {
			return r.rare.due
		}
		x.expire(r)
	}
	return now
}

func (x *index) expire(r *record) {
	if r.hidden() {
		x.drop(r)
		return
	}
	x.unschedule(r)
	x.count(r, -1)
	r.expired = true
	x.count(r, +1)
	x.cache.release(r)
	x.order(r, true, false)
	x.schedule(r)
	x.notify(EventExpire, r)
}

// entry returns the entry of a key, and whether it can be read and its value is
// in memory, as it is between two changes.
func (x *index) entry(key string) (Entry, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r := x.records.find(key)
	if r == nil {
		return Entry{}, false
	}
	text, ok := r.text()
	return Entry{r, text}, ok && r.visible()
}

// fill puts a value that was loaded into memory, if its record is current.
func (x *index) fill(r *record, value []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.records.find(r.key()) != r || x.closed || r.hidden() || r.data.Load() != nil {
		return
	}
	x.cache.put(r, value, x.records)
}

// list returns the visible records in order. The tree must not be changed.
func (x *index) list() *tree {
	if t := x.snapshot.Load(); t != nil {
		return t
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.listLocked()
}

func (x *index) listLocked() *tree {
	t := x.snapshot.Load()
	if t == nil {
		t = x.ordered.Copy()
		x.snapshot.Store(t)
	}
	return t
}

// close ends all changes. The cache can be closed afterwards.
func (x *index) close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed = true
}
