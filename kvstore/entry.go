package kvstore

import (
	"encoding/json"
	"time"
)

// Revision numbers the writes of a namespace: each gets one that is higher
// than all before it. 0 is no revision.
type Revision uint64

// Entry is a key with its value as of one revision. It is a small handle on
// memory that never changes: it can be copied, kept, and used concurrently, and
// stays what it was when the key is written again. While it is kept, so is the
// value.
type Entry struct {
	rec   *record
	value string
}

// Key returns the key.
func (e Entry) Key() string {
	if e.rec == nil {
		return ""
	}
	return e.rec.key()
}

// Text returns the value as a string, without a copy. It is "" if the value is not
// Loaded.
func (e Entry) Text() string { return e.value }

// Value returns a copy of the value, which is the caller's. It is empty if the value
// is not Loaded.
func (e Entry) Value() []byte { return []byte(e.value) }

// Len returns the length of the value in bytes, Loaded or not.
func (e Entry) Len() int {
	if e.rec == nil {
		return 0
	}
	return int(e.rec.size)
}

// Metadata returns a copy of the metadata, nil if there is none.
func (e Entry) Metadata() json.RawMessage {
	if e.rec == nil {
		return nil
	}
	return e.rec.meta()
}

// Revision returns the revision of the write that made this entry.
func (e Entry) Revision() Revision {
	if e.rec == nil {
		return 0
	}
	return Revision(e.rec.revision)
}

// Modified returns when the entry was written, by the server's clock. For a
// write of this Store it is this process' clock until the log has told.
func (e Entry) Modified() time.Time {
	if e.rec == nil {
		return time.Time{}
	}
	return time.Unix(0, e.rec.stored.Load())
}

// Expires returns when the entry expires; the zero time means never.
func (e Entry) Expires() time.Time {
	if e.rec == nil {
		return time.Time{}
	}
	return e.rec.expiry()
}
