package kvstore

import (
	"hash/maphash"
	"iter"
	"math/bits"
	"sync/atomic"
)

// keyMap finds records by their keys. Any number of goroutines look up, without
// a lock and without waiting, while one at a time changes it.
//
// It exists because a lookup costs what it misses in the processor's caches:
// here one line for the bucket and one for the record, which has its key beside
// it. A general map has an entry with a header of the key between the two.
type keyMap struct {
	seed  maphash.Seed
	table atomic.Pointer[[]bucket] // a power of two of them
	size  int                      // the changer's
}

// bucket is one cache line. A record never moves within a table, so that a
// reader who walks a chain while it changes misses nothing that stays.
type bucket struct {
	tags  atomic.Uint64 // a byte for each slot, 0 for an empty one
	slots [bucketSlots]atomic.Pointer[record]
	next  atomic.Pointer[bucket] // where a bucket overflows
}

const (
	bucketSlots = 6
	bucketLoad  = 4 // records per bucket, beyond which the table grows

	lowBits  = 0x0000_0101_0101_0101 // of each of the six tags
	highBits = 0x0000_8080_8080_8080
)

func newKeyMap() *keyMap {
	m := &keyMap{seed: maphash.MakeSeed()}
	table := make([]bucket, 1)
	m.table.Store(&table)
	return m
}

// tagOf takes other bits of the hash than the bucket does. It is never 0.
func tagOf(hash uint64) uint64 { return hash>>57 | 0x80 }

// matches returns a high bit for each slot that has the tag.
func matches(tags, tag uint64) uint64 {
	x := tags ^ tag*lowBits
	return ^((x&^highBits + ^uint64(highBits)&0x0000_ffff_ffff_ffff) | x) & highBits
}

// find returns the record of a key, nil if there is none.
func (m *keyMap) find(key string) *record {
	hash := maphash.String(m.seed, key)
	table := *m.table.Load()
	tag := tagOf(hash)
	for b := &table[hash&uint64(len(table)-1)]; b != nil; b = b.next.Load() {
		for found := matches(b.tags.Load(), tag); found != 0; found &= found - 1 {
			r := b.slots[bits.TrailingZeros64(found)/8].Load()
			if r != nil && r.key() == key {
				return r
			}
		}
	}
	return nil
}

// set puts a record in the place of the one that has its key, or adds it.
func (m *keyMap) set(r *record) {
	table := *m.table.Load()
	if m.size >= len(table)*bucketLoad {
		m.grow()
		table = *m.table.Load()
	}
	hash := maphash.String(m.seed, r.key())
	if b, i := locate(table, hash, r.key()); b != nil {
		b.slots[i].Store(r)
		return
	}
	m.size++
	insert(table, hash, r)
}

func (m *keyMap) remove(key string) {
	b, i := locate(*m.table.Load(), maphash.String(m.seed, key), key)
	if b == nil {
		return
	}
	m.size--
	b.tags.Store(b.tags.Load() &^ (0xff << (8 * i)))
	b.slots[i].Store(nil)
}

// locate returns the slot of a key, a nil bucket if there is none.
func locate(table []bucket, hash uint64, key string) (*bucket, int) {
	for b := &table[hash&uint64(len(table)-1)]; b != nil; b = b.next.Load() {
		for found := matches(b.tags.Load(), tagOf(hash)); found != 0; found &= found - 1 {
			i := bits.TrailingZeros64(found) / 8
			if b.slots[i].Load().key() == key {
				return b, i
			}
		}
	}
	return nil, 0
}

// insert adds a record whose key is not there.
func insert(table []bucket, hash uint64, r *record) {
	b := &table[hash&uint64(len(table)-1)]
	for {
		if empty := matches(b.tags.Load(), 0); empty != 0 {
			i := bits.TrailingZeros64(empty) / 8
			b.slots[i].Store(r)
			b.tags.Store(b.tags.Load() | tagOf(hash)<<(8*i))
			return
		}
		next := b.next.Load()
		if next == nil {
			next = new(bucket)
			b.next.Store(next)
		}
		b = next
	}
}

// grow moves all records to a table of twice the size. Readers that are in the
// old one find there what was current when they came.
func (m *keyMap) grow() {
	table := make([]bucket, 2*len(*m.table.Load()))
	for r := range m.all() {
		insert(table, maphash.String(m.seed, r.key()), r)
	}
	m.table.Store(&table)
}

// all yields the records, in no order. Records may be removed meanwhile.
func (m *keyMap) all() iter.Seq[*record] {
	table := *m.table.Load()
	return func(yield func(*record) bool) {
		for i := range table {
			if !table[i].all(yield) {
				return
			}
		}
	}
}

// walk visits the records that are in the table now, bit by bit.
type walk struct{ rest []bucket }

func (m *keyMap) walk() walk { return walk{*m.table.Load()} }

// next visits the records of one more bucket, and tells whether there was one.
// Some may have been replaced or removed since.
func (w *walk) next(visit func(*record)) bool {
	if len(w.rest) == 0 {
		w.rest = nil
		return false
	}
	w.rest[0].all(func(r *record) bool {
		visit(r)
		return true
	})
	w.rest = w.rest[1:]
	return true
}

// all yields the records of a bucket and those that it overflows into, and
// tells whether to go on.
func (b *bucket) all(yield func(*record) bool) bool {
	for ; b != nil; b = b.next.Load() {
		for i := range b.slots {
			if r := b.slots[i].Load(); r != nil && !yield(r) {
				return false
			}
		}
	}
	return true
}
