package kvstore

import (
	"encoding/json"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/replication"
)

// record is what the index knows of one revision of one key. All but the
// atomic fields and those that index.mu guards never changes after the record
// is in the index.
//
// There is one for each key, and a reader has nothing of it in the processor's
// caches: it is small, what few have is elsewhere, and the bytes of the key are
// in the same memory, behind it. So it can only be made by allocate.
type record struct {
	revision uint64
	stored   atomic.Int64 // unix nanoseconds

	// data points at the value's bytes while the cache holds them, and is nil
	// while it does not. Every load of the value has memory of its own, so that
	// the pointer names the load: who clears it by compare-and-swap can never
	// hit another.
	data atomic.Pointer[byte]

	rare    *rare  // nil: all of it is zero
	size    uint32 // of the value in bytes
	keySize uint16
	deleted bool

	// Guarded by index.mu:
	expired bool   // was told as expired
	epoch   uint32 // of the feed, in which the log last told it
	cached  bool   // was given to the cache
}

// rare is what few records have.
type rare struct {
	metadata string // compact JSON; "": none
	expires  int64  // unix milliseconds; 0: never
	large    *large // where the value is, if it is not in the record
	hides    int64  // unix milliseconds until when it hides older records that could come back; 0: for ever
	unsure   bool   // only the server knows for how long it keeps the record
	aged     bool   // it expires because the log removes it, not because the entry says so
	due      int64  // when the index has to look at it, in unix milliseconds; 0: never. Guarded by index.mu
}

func (x *index) newRecord(epoch uint64, m *replication.Message) *record {
	r := allocate(m.Key)
	r.revision, r.epoch = m.Revision, uint32(epoch) // nobody begins four billion times
	r.size, r.deleted = uint32(m.Record.Size()), m.Record.Op == codec.OpDelete
	r.stored.Store(m.Stored.UnixNano())
	if len(m.Record.Metadata) > 0 || m.VisibleUntil != 0 || m.HidesUntil != 0 || m.Record.Object != nil || m.Unsure {
		r.rare = &rare{
			metadata: string(m.Record.Metadata), expires: m.VisibleUntil, hides: m.HidesUntil,
			unsure: m.Unsure, aged: !r.deleted && m.VisibleUntil != m.Record.Expires,
		}
	}
	if m.Record.Object != nil {
		r.rare.large = &large{Object: *m.Record.Object, store: x.store}
	}
	return r
}

// withKey is a record with room for a key behind it.
type withKey[Room any] struct {
	record
	_ Room
}

func allocateFor[Room any]() *record { return &new(withKey[Room]).record }

// allocate makes a record for a key, in one of the sizes that Go allocates.
func allocate(key string) *record {
	var r *record
	switch n := len(key); {
	case n <= 16:
		r = allocateFor[[16]byte]()
	case n <= 32:
		r = allocateFor[[32]byte]()
	case n <= 48:
		r = allocateFor[[48]byte]()
	case n <= 64:
		r = allocateFor[[64]byte]()
	case n <= 96:
		r = allocateFor[[96]byte]()
	case n <= 160:
		r = allocateFor[[160]byte]()
	case n <= 272:
		r = allocateFor[[272]byte]()
	default:
		r = allocateFor[[codec.MaxKeyLen]byte]()
	}
	r.keySize = uint16(len(key)) // at most codec.MaxKeyLen
	copy(unsafe.Slice((*byte)(r.keyData()), len(key)), key)
	return r
}

func (r *record) keyData() unsafe.Pointer { return unsafe.Add(unsafe.Pointer(r), unsafe.Sizeof(*r)) }

// key returns the key, without a copy.
func (r *record) key() string { return unsafe.String((*byte)(r.keyData()), int(r.keySize)) }

var none rare

// particulars returns what few records have, for reading.
func (r *record) particulars() *rare {
	if r.rare == nil {
		return &none
	}
	return r.rare
}

// visible tells whether readers may see the record now. The clock is read only
// for a record that expires.
func (r *record) visible() bool {
	return !r.deleted && (r.rare == nil || r.rare.expires == 0 || time.Now().UnixMilli() < r.rare.expires)
}

func (r *record) visibleAt(now int64) bool {
	expires := r.particulars().expires
	return !r.deleted && (expires == 0 || now < expires)
}

// hidden tells whether the index has it as one that readers do not see.
func (r *record) hidden() bool { return r.deleted || r.expired }

// leaving tells whether the log may have removed the record at now.
func (r *record) leaving(now int64) bool {
	hides := r.particulars().hides
	return hides != 0 && secondOf(hides) <= leavingSecond(now)
}

// lives reports whether the record has the life that m says. The log may have
// been given another age limit since the record was made.
func (r *record) lives(m *replication.Message) bool {
	p := r.particulars()
	return p.expires == m.VisibleUntil && p.hides == m.HidesUntil
}

// same tells whether m is certainly what the record was made of.
func (r *record) same(m *replication.Message) bool {
	_, ok := r.text()
	return (ok || r.large() != nil) && r.like(m) && r.lives(m)
}

// like tells whether m can be what the record was made of. Another record can
// have its revision, if the log was rolled back meanwhile.
func (r *record) like(m *replication.Message) bool {
	return r.likeValue(m) && r.particulars().metadata == string(m.Record.Metadata) && r.deleted == (m.Record.Op == codec.OpDelete)
}

func (r *record) likeValue(m *replication.Message) bool {
	if l, object := r.large(), m.Record.Object; l != nil || object != nil {
		return l != nil && object != nil && l.Object == *object
	}
	text, ok := r.text()
	return (!ok || text == string(m.Record.Value)) && int(r.size) == len(m.Record.Value)
}

// madeOf reports whether the log answered with the very record: the same place, key,
// time and size. A mirror of the log may have another one there, of a stream that was
// deleted since. For a write of this Store the time is known when the feed has told
// of it; until then the answer does not count.
func (r *record) madeOf(m *replication.Message) bool {
	return m.Revision == r.revision && m.Key == r.key() && m.Stored.UnixNano() == r.stored.Load() &&
		m.Err == nil && m.Record.Object == nil && len(m.Record.Value) == int(r.size)
}

// large tells where the value is if it is not in the record; nil: it is.
func (r *record) large() *large { return r.particulars().large }

// text returns the value if it is in memory.
func (r *record) text() (string, bool) {
	if r.size == 0 {
		return "", true
	}
	p := r.data.Load()
	if p == nil {
		return "", false
	}
	return unsafe.String(p, int(r.size)), true
}

func (r *record) expiry() time.Time {
	expires := r.particulars().expires
	if expires == 0 {
		return time.Time{}
	}
	return time.UnixMilli(expires)
}

func (r *record) meta() json.RawMessage {
	metadata := r.particulars().metadata
	if metadata == "" {
		return nil
	}
	return json.RawMessage(metadata)
}

func (r *record) info() KeyInfo {
	return KeyInfo{Name: r.key(), Expires: r.expiry(), Metadata: r.meta(), Revision: Revision(r.revision), Size: int(r.size)}
}
