package kvstore

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/dgraph-io/ristretto/v2"
)

// cache decides which values stay in memory, within a bound in bytes. It never
// decides what a key's value is: a value is found through its record, and the
// cache only takes it from there when there is no room for it.
//
// While there is room for all there is nothing to decide, and it only counts.
// From the first value on that does not fit ristretto's policy decides, and
// nothing else of it is relied upon: it may drop or refuse what it is given, keep
// the first of two values, or tell late of what it gave up. In each case the
// value of one load of one record is no longer in memory, and is loaded again
// when it is read.
type cache struct {
	limit   int64
	seed    maphash.Seed
	held    atomic.Int64  // bytes of all values that records point at
	dropped atomic.Uint64 // values that had to go, or found no room

	lfu    atomic.Pointer[policy] // nil: there is room for all, or for nothing
	others walk                   // records that lfu has not been told of yet. The index's, as put

	gate   sync.RWMutex // ristretto may not be told of hits while it closes
	closed bool
}

// policy has values by the hashes of their keys, so that what it knows of a key's
// popularity outlives the value. Two keys with one hash cost each other the memory.
type policy = ristretto.Cache[uint64, resident]

// resident is one load of a value.
type resident struct {
	rec  *record
	data *byte
}

func newCache(limit int64) *cache { return &cache{limit: max(limit, 0), seed: maphash.MakeSeed()} }

func (c *cache) newPolicy() (*policy, error) {
	return ristretto.NewCache(&ristretto.Config[uint64, resident]{
		// Ten per value, were values of 256 bytes; three bytes of memory each.
		NumCounters:        min(max(c.limit/25, 1<<10), 1<<22),
		MaxCost:            c.limit,
		BufferItems:        64,
		IgnoreInternalCost: true,
		OnExit:             c.exit,
		// The records' own expiry is exact; ristretto's is not used.
		TtlTickerDurationInSec: 3600,
	})
}

func (c *cache) hash(r *record) uint64 { return maphash.String(c.seed, r.key()) }

// exit is called by ristretto for whatever it does not hold any more, also for
// what it never held.
func (c *cache) exit(r resident) {
	if r.rec != nil && c.take(r) {
		c.dropped.Add(1)
	}
}

// take removes one load of a value from its record, unless that has happened.
func (c *cache) take(r resident) bool {
	if r.data == nil || !r.rec.data.CompareAndSwap(r.data, nil) {
		return false
	}
	c.held.Add(-int64(r.rec.size))
	return true
}

// put gives a record its value, as long as the cache will hold it. It is called
// under index.mu, for the current record of a key only. The bytes become the
// cache's. records are all that the index has.
func (c *cache) put(r *record, value []byte, records *keyMap) {
	size := int64(len(value))
	if size == 0 {
		return
	}
	if size > c.limit {
		c.dropped.Add(1)
		return
	}
	if c.lfu.Load() == nil && c.held.Load()+size > c.limit && !c.engage(records) {
		return
	}
	res := resident{r, unsafe.SliceData(value)}
	r.data.Store(res.data)
	c.held.Add(size)
	if c.lfu.Load() != nil {
		c.admit(res)
		c.makeRoom()
	}
}

// engage lets the policy decide from now on. What is there already it is told
// bit by bit.
func (c *cache) engage(records *keyMap) bool {
	p, err := c.newPolicy()
	if err != nil { // it does not like the limit
		c.dropped.Add(1)
		return false
	}
	c.lfu.Store(p)
	c.others = records.walk()
	return true
}

// admit tells the policy of a value.
func (c *cache) admit(res resident) {
	p, hash := c.lfu.Load(), c.hash(res.rec)
	if res.rec.cached { // and given up since
		p.Del(hash)
	}
	res.rec.cached = true
	if !p.Set(hash, res, int64(res.rec.size)) {
		p.Wait() // its queue was full
		if !p.Set(hash, res, int64(res.rec.size)) {
			c.exit(res)
		}
	}
}

// makeRoom tells the policy of some values that were there before it. When
// more is held than it would keep, because it does not know of enough or values
// arrive faster than its queue is worked off, it waits until that has passed.
func (c *cache) makeRoom() {
	p, more := c.lfu.Load(), c.tell(16)
	for c.held.Load() > c.limit+c.limit/16 {
		p.Wait()
		if !more {
			return
		}
		more = c.tell(256)
	}
}

// tell tells the policy of the values in n buckets, and returns whether there
// are more.
func (c *cache) tell(n int) bool {
	for range n {
		if !c.others.next(c.adopt) {
			return false
		}
	}
	return true
}

func (c *cache) adopt(r *record) {
	if data := r.data.Load(); data != nil && !r.cached {
		c.admit(resident{r, data})
	}
}

// release takes the value from a record that is no longer current, and the key
// out of the policy: an update in place would not make room for what it adds, as
// a new item does. It is called under index.mu, before put of a successor.
func (c *cache) release(r *record) {
	c.take(resident{r, r.data.Load()})
	if r.cached {
		c.lfu.Load().Del(c.hash(r))
		r.cached = false
	}
}

// hit tells the policy that a value was read.
func (c *cache) hit(r *record) {
	if c.lfu.Load() == nil {
		return
	}
	c.gate.RLock()
	defer c.gate.RUnlock()
	if !c.closed {
		c.lfu.Load().Get(c.hash(r))
	}
}

// close stops the policy. put must not be called any more.
func (c *cache) close() {
	c.gate.Lock()
	defer c.gate.Unlock()
	if p := c.lfu.Load(); p != nil && !c.closed {
		p.Close()
	}
	c.closed = true
}
