package kvstore

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/nearkv/nearkv/codec"
)

// MaxListLimit is the most keys that one page of List holds, and the default.
const MaxListLimit = 1000

// KeyInfo describes a key without its value.
type KeyInfo struct {
	Name     string
	Expires  time.Time       // zero: never
	Metadata json.RawMessage // nil: none; the caller's own copy
	Revision Revision
	Size     int // of the value, in bytes
}

// ListOptions say what List returns.
type ListOptions struct {
	Prefix string // of the keys; "" for all
	Limit  int    // keys on a page, 1 to MaxListLimit; 0: MaxListLimit
	Cursor string // "" for the first page; then Page.Cursor, with the same Prefix
}

// Page is a part of a list of keys.
type Page struct {
	Keys     []KeyInfo // ordered by the bytes of their names
	Cursor   string    // for the next page; "" if Complete
	Complete bool      // there are no more keys
}

// List returns a page of the keys that begin with a prefix, from memory. A page
// shows the replica as of one moment; its cost depends on its length and not on
// the size of the namespace. Only a complete page can be empty. Cursors stay
// valid for ever: they mean "after this key".
//
// Errors: ErrInvalidOptions for a limit out of range or a cursor that is
// malformed or belongs to another prefix, ErrInvalidKey for the prefix,
// ErrClosed.
func (s *Store) List(opts ListOptions) (Page, error) {
	if s.closed.Load() {
		return Page{}, ErrClosed
	}
	if err := codec.CheckPrefix(opts.Prefix); err != nil {
		return Page{}, failed("list", "", err)
	}
	limit := opts.Limit
	if limit == 0 {
		limit = MaxListLimit
	}
	if limit < 0 || limit > MaxListLimit {
		return Page{}, fmt.Errorf("%w: Limit is %d, not 1 to %d", ErrInvalidOptions, opts.Limit, MaxListLimit)
	}
	after, err := parseCursor(opts.Cursor, opts.Prefix)
	if err != nil {
		return Page{}, err
	}
	records := s.index.page(opts.Prefix, after, limit+1)
	page := Page{Complete: len(records) <= limit}
	if !page.Complete {
		records = records[:limit]
		page.Cursor = newCursor(opts.Prefix, records[limit-1].key())
	}
	page.Keys = make([]KeyInfo, len(records))
	for i, r := range records {
		page.Keys[i] = r.info()
	}
	return page, nil
}

// Keys yields the keys that begin with a prefix, in the order of their bytes,
// from memory. The loop sees the replica as it was when the loop began, less
// what expires meanwhile; it holds no lock and may take its time.
//
// A loop that yields no error has seen all keys. An error is the last thing that
// is yielded, with a zero KeyInfo: ErrInvalidKey for the prefix, or ErrClosed if
// the Store is closed, also while the loop runs. A caller that treats missing
// keys as deleted must check it.
func (s *Store) Keys(prefix string) iter.Seq2[KeyInfo, error] {
	return func(yield func(KeyInfo, error) bool) {
		if err := codec.CheckPrefix(prefix); err != nil {
			yield(KeyInfo{}, failed("keys", "", err))
			return
		}
		for r := range s.index.ascend(prefix, "") {
			if s.closed.Load() {
				break
			}
			if !yield(r.info(), nil) {
				return
			}
		}
		if s.closed.Load() {
			yield(KeyInfo{}, ErrClosed)
		}
	}
}

// page returns the first records that ascend yields, up to limit. It comes before
// the KeyInfos are made, which are large, so that they need not grow one by one.
func (x *index) page(prefix, after string, limit int) []*record {
	var records []*record
	for r := range x.ascend(prefix, after) {
		if records = append(records, r); len(records) == limit {
			break
		}
	}
	return records
}

// ascend yields the visible records whose keys begin with prefix and come after
// a key.
func (x *index) ascend(prefix, after string) iter.Seq[*record] {
	return func(yield func(*record) bool) {
		x.list().Ascend(allocate(max(prefix, after)), func(r *record) bool {
			if !strings.HasPrefix(r.key(), prefix) {
				return false
			}
			if r.key() == after || !r.visible() {
				return true
			}
			return yield(r)
		})
	}
}

// A cursor is "1", the length of the prefix and the last key: the key begins
// with the prefix, so that the length tells all of it.
func newCursor(prefix, last string) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "1 %d %s", len(prefix), last))
}

// maxCursor is the length of the longest cursor.
var maxCursor = base64.RawURLEncoding.EncodedLen(len("1 512 ") + codec.MaxKeyLen)

func parseCursor(cursor, prefix string) (after string, err error) {
	if cursor == "" {
		return "", nil
	}
	refuse := func(why string) (string, error) {
		return "", fmt.Errorf("%w: Cursor %s", ErrInvalidOptions, why)
	}
	if len(cursor) > maxCursor { // before it costs memory: anybody may have made it
		return refuse("is malformed")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil {
		return refuse("is malformed")
	}
	var length int
	last, found := strings.CutPrefix(string(raw), "1 ")
	digits, last, more := strings.Cut(last, " ")
	if _, err := fmt.Sscanf(digits, "%d", &length); err != nil || !found || !more || codec.CheckKey(last) != nil {
		return refuse("is malformed")
	}
	if length != len(prefix) || !strings.HasPrefix(last, prefix) {
		return refuse("belongs to another Prefix")
	}
	return last, nil
}
