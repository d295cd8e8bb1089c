package kvstore

import (
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/dgraph-io/ristretto/v2"
)

// cache decides which values stay in memory, within a bound in bytes. It never
// decides what a key's value is: a value is found through its record, and the
// cache only takes it from there when there is no room for it.
//
// ristretto's policy is used, and nothing else of it is relied upon: it may
// drop or refuse what it is given, keep the first of two values, or tell late
// of what it gave up. In each case the value of one load of one record is no
// longer in memory, and is loaded again when it is read.
type cache struct {
	limit   int64
	lfu     *ristretto.Cache[uint64, resident] // nil: nothing is held
	held    atomic.Int64                       // bytes of all values that records point at
	dropped atomic.Uint64                      // values that had to go, or found no room

	gate   sync.RWMutex // ristretto may not be told of hits while it closes
	closed bool
}

// resident is one load of a value.
type resident struct {
	rec  *record
	data *byte
}

func newCache(limit int64) (*cache, error) {
	c := &cache{limit: max(limit, 0)}
	if limit <= 0 {
		return c, nil
	}
	lfu, err := ristretto.NewCache(&ristretto.Config[uint64, resident]{
		// Ten per value, were values of 256 bytes; three bytes of memory each.
		NumCounters:        min(max(limit/25, 1<<10), 1<<22),
		MaxCost:            limit,
		BufferItems:        64,
		IgnoreInternalCost: true,
		OnExit:             c.exit,
		KeyToHash:          func(id uint64) (uint64, uint64) { return spread(id), 0 },
		// The records' own expiry is exact; ristretto's is not used.
		TtlTickerDurationInSec: 3600,
	})
	c.lfu = lfu
	return c, err
}

// spread makes a hash of a counter, without collisions: ristretto takes shards
// and counters from its bits.
func spread(id uint64) uint64 {
	id ^= id >> 32
	id *= 0x9e3779b97f4a7c15
	return id ^ id>>29
}

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
// cache's.
func (c *cache) put(r *record, value []byte) {
	if len(value) == 0 {
		return
	}
	if c.lfu == nil || int64(len(value)) > c.limit {
		c.dropped.Add(1)
		return
	}
	c.settle()
	res := resident{r, unsafe.SliceData(value)}
	r.data.Store(res.data)
	c.held.Add(int64(len(value)))
	if r.cached { // and given up since
		c.lfu.Del(r.id)
	}
	r.cached = true
	if !c.lfu.Set(r.id, res, int64(len(value))) {
		c.lfu.Wait() // its queue was full
		if !c.lfu.Set(r.id, res, int64(len(value))) {
			c.exit(res)
		}
	}
}

// settle waits for ristretto when more is held than it would keep: values
// arrive faster than its queue is worked off.
func (c *cache) settle() {
	if c.held.Load() > c.limit+c.limit/16 {
		c.lfu.Wait()
	}
}

// release takes the value from a record that is no longer current, and the key
// out of ristretto: an update in place would not make room for what it adds, as
// a new item does. It is called under index.mu, before put of a successor.
func (c *cache) release(r *record) {
	c.take(resident{r, r.data.Load()})
	if r.cached {
		c.lfu.Del(r.id)
		r.cached = false
	}
}

// hit tells the policy that a value was read.
func (c *cache) hit(r *record) {
	c.gate.RLock()
	defer c.gate.RUnlock()
	if c.lfu != nil && !c.closed {
		c.lfu.Get(r.id)
	}
}

// close stops ristretto. put must not be called any more.
func (c *cache) close() {
	c.gate.Lock()
	defer c.gate.Unlock()
	if c.lfu != nil && !c.closed {
		c.lfu.Close()
	}
	c.closed = true
}
