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
type record struct {
	key      string
	metadata string // compact JSON; "": none
	revision uint64
	expires  int64        // unix milliseconds; 0: never
	hides    int64        // unix milliseconds until when it hides older records that could come back; 0: for ever
	stored   atomic.Int64 // unix nanoseconds
	id       uint64       // of the key, in the cache
	size     int          // of the value in bytes
	deleted  bool

	// data points at the value's bytes while the cache holds them, and is nil
	// while it does not. Every load of the value has memory of its own, so that
	// the pointer names the load: who clears it by compare-and-swap can never
	// hit another.
	data atomic.Pointer[byte]

	// Guarded by index.mu:
	epoch   uint64 // of the feed, in which the log last told it
	due     int64  // when the index has to look at it, in unix milliseconds; 0: never
	expired bool   // was told as expired
	cached  bool   // was given to the cache
}

func newRecord(epoch uint64, m *replication.Message) *record {
	r := &record{
		key: m.Key, metadata: string(m.Record.Metadata), revision: m.Revision,
		expires: m.VisibleUntil, hides: m.HidesUntil,
		size: len(m.Record.Value), deleted: m.Record.Op == codec.OpDelete, epoch: epoch,
	}
	r.stored.Store(m.Stored.UnixNano())
	return r
}

// visible tells whether readers may see the record now. The clock is read only
// for a record that expires.
func (r *record) visible() bool {
	return !r.deleted && (r.expires == 0 || time.Now().UnixMilli() < r.expires)
}

func (r *record) visibleAt(now int64) bool {
	return !r.deleted && (r.expires == 0 || now < r.expires)
}

// leaving tells whether the log may have removed the record at now, by the
// server's clock, which rounds to seconds.
func (r *record) leaving(now int64) bool { return r.hides != 0 && r.hides <= now+1000 }

// same tells whether m is certainly what the record was made of.
func (r *record) same(m *replication.Message) bool {
	_, ok := r.text()
	return ok && r.like(m) && r.expires == m.VisibleUntil && r.hides == m.HidesUntil
}

// like tells whether m can be what the record was made of. Another record can
// have its revision, if the log was rolled back meanwhile.
func (r *record) like(m *replication.Message) bool {
	text, ok := r.text()
	return (!ok || text == string(m.Record.Value)) && r.size == len(m.Record.Value) &&
		r.metadata == string(m.Record.Metadata) && r.deleted == (m.Record.Op == codec.OpDelete)
}

// text returns the value if it is in memory.
func (r *record) text() (string, bool) {
	if r.size == 0 {
		return "", true
	}
	p := r.data.Load()
	if p == nil {
		return "", false
	}
	return unsafe.String(p, r.size), true
}

func (r *record) expiry() time.Time {
	if r.expires == 0 {
		return time.Time{}
	}
	return time.UnixMilli(r.expires)
}

func (r *record) meta() json.RawMessage {
	if r.metadata == "" {
		return nil
	}
	return json.RawMessage(r.metadata)
}

func (r *record) info() KeyInfo {
	return KeyInfo{Name: r.key, Expires: r.expiry(), Metadata: r.meta(), Revision: Revision(r.revision), Size: r.size}
}
