package kvstore

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nearkv/nearkv/codec"
)

// View reads and writes the values of a Store as values of type T. It decodes a
// revision of a key once and keeps what comes of it, a T or an error, for as
// long as the Store keeps the value in memory. A Store can have any number of
// Views, each with what it has decoded; a View needs no closing.
//
// What is decoded is shared: every reader of a revision is given the same T. What
// a T refers to, by slices, maps and pointers, must not be changed. Update gives
// its function a T of its own.
//
// Decoded values need memory beside CacheBytes, and about 50 bytes more each.
// What is decoded of a value that was replaced or removed, or is no longer in the
// Store's memory, is dropped when its key is read, and otherwise when another is
// decoded or not found and the View has more than twice as many as the Store has
// keys, or twice as many as it needed when it last looked, plus about 1000.
//
// A View may be used concurrently. Readers of one revision wait for its first
// decoding.
type View[T any] struct {
	store *Store
	codec codec.Codec[T]
	seed  maphash.Seed

	mu    sync.Mutex // for changes; no user code and no I/O under it
	table atomic.Pointer[viewTable[T]]
	used  atomic.Int64 // slots of table
}

// viewTable finds what was decoded by key. The slots of one table are given to
// keys for ever; what is no longer needed is left behind when it is replaced.
//
// Lookups take no lock. It exists because a Get of the Store waits twice for
// memory: for a bucket and for the record. So does one here, as a slot leads to
// the record and to what was decoded of it at once. With xsync.Map, where an entry
// comes between, a Get of one in 100,000 keys took about twice as long as the
// Store's.
type viewTable[T any] []viewSlot[T]

// viewSlot belongs to the key of rec.
type viewSlot[T any] struct {
	hash    atomic.Uint64 // of the key; 0: the slot is free. Written after the rest
	rec     atomic.Pointer[record]
	decoded atomic.Pointer[decoded[T]] // of rec, but for moments; nil: dropped
}

// decoded is what came of the value of one record.
type decoded[T any] struct {
	rec   *record
	once  sync.Once // guards the rest; the codec is called in it
	err   error     // a *DecodeError
	value T
}

// viewSpare is how many slots a View has at least.
const viewSpare = 1024

// NewView returns a View of s. The codec must be safe for concurrent use, as
// those of package codec are.
func NewView[T any](s *Store, c codec.Codec[T]) *View[T] {
	v := &View[T]{store: s, codec: c, seed: maphash.MakeSeed()}
	v.table.Store(new(make(viewTable[T], viewSpare)))
	return v
}

// DecodeError tells that a value is not what the codec of a View makes. Other
// keys, and later revisions of this one, can be read.
type DecodeError struct {
	Key      string
	Revision Revision
	Err      error // of the codec
}

func (e *DecodeError) Error() string {
	return fmt.Sprintf("kvstore: decode %.64q at revision %d: %s", e.Key, e.Revision, plain(e.Err))
}

// Unwrap returns the error of the codec.
func (e *DecodeError) Unwrap() error { return e.Err }

// EncodeError tells that a View's codec refused a value. Nothing was written.
type EncodeError struct {
	Key string
	Err error // of the codec
}

func (e *EncodeError) Error() string {
	return fmt.Sprintf("kvstore: encode %.64q: %s", e.Key, plain(e.Err))
}

// Unwrap returns the error of the codec.
func (e *EncodeError) Unwrap() error { return e.Err }

// Get returns the value of a key, as current as that of Store.Get. If it has
// been decoded and is in memory, that costs no lock and no allocation. The T is
// shared with other readers.
//
// Errors: those of Store.Get, and a *DecodeError.
func (v *View[T]) Get(ctx context.Context, key string, opts ...ReadOption) (T, error) {
	d, _, err := v.get(ctx, key, opts)
	if err != nil {
		var zero T
		return zero, err
	}
	return d.value, d.err
}

// GetEntry is Get, and returns the entry as well: its revision, its metadata, and
// also with a *DecodeError, its bytes.
func (v *View[T]) GetEntry(ctx context.Context, key string, opts ...ReadOption) (value T, e Entry, err error) {
	d, e, err := v.get(ctx, key, opts)
	if err != nil {
		return value, e, err
	}
	return d.value, e, d.err
}

// get finds what is decoded by its address: a T can be large, and every return
// of one is a copy.
func (v *View[T]) get(ctx context.Context, key string, opts []ReadOption) (*decoded[T], Entry, error) {
	s := v.store
	if s.closed.Load() {
		return nil, Entry{}, ErrClosed
	}
	if len(opts) > 0 {
		if _, err := s.awaitRead(ctx, opts, key); err != nil {
			return nil, Entry{}, failed("get", key, err)
		}
	}
	if _, d := v.find(key); d != nil {
		if e, ok := v.current(d.rec); ok {
			if rand.Uint32()%sample == 0 {
				s.hits(d.rec)
			}
			return v.settle(d, e), e, nil
		}
	}
	e, err := s.get(ctx, key, false)
	if err != nil {
		v.drop(key)
		return nil, e, err
	}
	return v.decodeOnce(e), e, nil
}

// current returns the entry of a record if that is, at this moment, what a read
// of its key finds, and its value is in memory.
//
// A record that has a value in memory is the current one of its key: it is given
// one only while it is (index.fill), and loses it before a successor can be found
// (index.set, drop and expire). That spares the lookup in the index.
func (v *View[T]) current(r *record) (Entry, bool) {
	text, ok := r.text()
	if !ok || !r.visible() || r.size == 0 && v.store.index.records.find(r.key()) != r {
		return Entry{}, false
	}
	return Entry{r, text}, true
}

// decodeOnce returns what comes of an entry, and keeps it if the entry is current.
func (v *View[T]) decodeOnce(e Entry) *decoded[T] {
	if _, ok := v.current(e.rec); ok {
		if d := v.keep(e.rec); d.rec == e.rec { // else it was current, a moment ago
			return v.settle(d, e)
		}
	}
	d := &decoded[T]{rec: e.rec}
	d.value, d.err = v.decode(e)
	return d
}

// settle decodes, once for all readers, the entry that d is for.
func (v *View[T]) settle(d *decoded[T], e Entry) *decoded[T] {
	d.once.Do(func() {
		d.err = &DecodeError{e.Key(), e.Revision(), errPanic} // in case of
		d.value, d.err = v.decode(e)
	})
	return d
}

var errPanic = errors.New("the codec panicked")

func (v *View[T]) decode(e Entry) (T, error) {
	value, err := v.codec.Decode(e.Value())
	if err != nil {
		var zero T
		return zero, &DecodeError{e.Key(), e.Revision(), err}
	}
	return value, nil
}

// find returns the slot of a key and what it has, which can be nil. If there is no
// slot it returns a free one, which by now may have been given to another key.
func (v *View[T]) find(key string) (*viewSlot[T], *decoded[T]) {
	return v.table.Load().find(v.hash(key), key)
}

func (v *View[T]) hash(key string) uint64 { return maphash.String(v.seed, key) | 1 }

func (t viewTable[T]) find(hash uint64, key string) (*viewSlot[T], *decoded[T]) {
	i, _ := bits.Mul64(hash, uint64(len(t)))
	for ; ; i++ {
		if i == uint64(len(t)) {
			i = 0
		}
		s := &t[i]
		switch s.hash.Load() {
		case 0:
			return s, nil
		case hash:
			if s.rec.Load().key() == key {
				return s, s.decoded.Load()
			}
		}
	}
}

func (s *viewSlot[T]) set(hash uint64, d *decoded[T]) {
	s.rec.Store(d.rec)
	s.decoded.Store(d)
	s.hash.Store(hash)
}

// keep returns what is kept for the key of r: what was decoded of r, or will be,
// unless a later record has taken its place.
func (v *View[T]) keep(r *record) *decoded[T] {
	v.mu.Lock()
	defer v.mu.Unlock()
	s, d := v.find(r.key())
	if d != nil && (d.rec == r || v.needed(d)) {
		return d
	}
	if s.hash.Load() == 0 {
		v.used.Add(1)
	}
	d = &decoded[T]{rec: r}
	s.set(v.hash(r.key()), d)
	if v.crowded() {
		v.renew()
	}
	return d
}

// drop forgets what was decoded of a key that has no value now.
func (v *View[T]) drop(key string) {
	if _, d := v.find(key); d == nil && !v.crowded() {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if s, d := v.find(key); d != nil && !v.needed(d) {
		s.decoded.Store(nil)
	}
	if v.crowded() {
		v.renew()
	}
}

func (v *View[T]) needed(d *decoded[T]) bool {
	_, ok := v.current(d.rec)
	return ok
}

// crowded tells whether three quarters of the table are used, or more of it than
// can be needed.
func (v *View[T]) crowded() bool {
	used := v.used.Load()
	return used > int64(len(*v.table.Load()))*3/4 || used > 2*v.store.index.counts.visible.Load()+viewSpare/2
}

// renew replaces the table by one that has only what is needed, and room for as
// much again. It costs about as much per slot as it took to fill it.
func (v *View[T]) renew() {
	old := *v.table.Load()
	var needed []*decoded[T]
	for i := range old {
		if d := old[i].decoded.Load(); d != nil && v.needed(d) {
			needed = append(needed, d)
		}
	}
	table := make(viewTable[T], max(viewSpare, 2*len(needed)))
	for _, d := range needed {
		hash := v.hash(d.rec.key())
		slot, _ := table.find(hash, d.rec.key())
		slot.set(hash, d)
	}
	v.table.Store(&table)
	v.used.Store(int64(len(needed)))
}

// Put writes a value, as Store.Put does, and keeps nothing of it.
//
// Errors: those of Store.Put, and before anything is sent an *EncodeError.
func (v *View[T]) Put(ctx context.Context, key string, value T, opts ...WriteOption) (Revision, error) {
	data, err := v.codec.Append(nil, value)
	if err != nil {
		return 0, &EncodeError{key, err}
	}
	return v.store.Put(ctx, key, data, opts...)
}

// Delete is Store.Delete.
func (v *View[T]) Delete(ctx context.Context, key string, opts ...DeleteOption) error {
	err := v.store.Delete(ctx, key, opts...)
	v.drop(key)
	return err
}

// updateTries is how many conflicts end an Update.
const updateTries = 256

// updatePause bounds the random wait of an Update after a conflict with another
// Store. It is some times what an update takes, short against a usual deadline, and
// the shorter the more often the Update has lost, so that it does not lose for long.
func updatePause(try int) time.Duration {
	return max(64*time.Millisecond>>min(try-1, 10), 8*time.Millisecond)
}

// Update writes what f makes of the value of a key, the zero T if there is none,
// unless the key has changed meanwhile: then it does so again, from the second time
// on after a random wait of up to 32 ms. So f can be called several times; what it
// returned last is what was written, and returned. f may change and keep the T that
// it is given. An error of f ends the Update and is returned as it is.
//
// The Updates of one key in one Store, by all of its Views, take turns in the order
// in which they were called, so that each needs about as long as the others. No lock
// is held while f runs: a turn ends after 100 ms even if f has not returned, and then
// the next one goes on. So f may update the same key, but must not do so always: that
// is a conflict with itself.
//
// The options are those of Put, less conditions: ErrInvalidOptions. As with Put,
// metadata and expiry that no option gives are cleared. A TTL counts from when f has
// returned.
//
// Errors: those of Put, an *EncodeError, and a *DecodeError if the value that is
// there cannot be decoded; f is not called then. ErrConflict comes after 256
// conflicts, or one after which the context ended. ErrUnavailable: the context ended
// before f was called. With all of these nothing was written. ErrIndeterminate: it
// may have been; f is not applied again.
func (v *View[T]) Update(ctx context.Context, key string, f func(old T) (T, error), opts ...WriteOption) (T, error) {
	var zero T
	for _, opt := range opts {
		if _, ok := opt.(condition); ok {
			return zero, failed("update", key, fmt.Errorf("%w: Update has a condition of its own", ErrInvalidOptions))
		}
	}
	end, err := v.store.takeTurn(ctx, key)
	if err != nil {
		return zero, err
	}
	defer end()
	for try := 1; ; try++ {
		old, is, err := v.before(ctx, key)
		if err != nil {
			return zero, err
		}
		next, err := f(old)
		if err != nil {
			return zero, err
		}
		_, err = v.Put(ctx, key, next, append(opts[:len(opts):len(opts)], is)...)
		switch {
		case err == nil:
			return next, nil
		case !errors.Is(err, ErrConflict) || try == updateTries:
			return zero, err
		case try == 1:
			continue
		}
		if ended := pause(ctx, v.store.done, updatePause(try)); ended != nil {
			if v.store.closed.Load() {
				return zero, ErrClosed
			}
			return zero, failed("update", key, fmt.Errorf("%w: %w", err, ended))
		}
	}
}

// before returns the value of a key, for an update that holds only as long as
// that is so.
func (v *View[T]) before(ctx context.Context, key string) (old T, is WriteOption, err error) {
	ctx, cancel := v.store.limited(ctx)
	defer cancel()
	e, err := v.store.Get(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return old, IfAbsent(), nil
	}
	if err != nil {
		return old, nil, err
	}
	old, err = v.decode(e)
	return old, IfRevision(e.Revision()), err
}

// TypedEvent is an Event with its value.
type TypedEvent[T any] struct {
	Event
	Value T     // of a put; shared with other readers. Else the zero T
	Err   error // a *DecodeError or *ValueError if the value of a put cannot be decoded
}

// eager overrules Lazy: a value that is to be decoded is needed.
var eager = watchOption(func(w *watcher) { w.lazy = false })

// Watch is Store.Watch with decoded values. One that cannot be decoded does not
// end it: the error is in its event.
func (v *View[T]) Watch(ctx context.Context, prefix string, opts ...WatchOption) iter.Seq2[TypedEvent[T], error] {
	return func(yield func(TypedEvent[T], error) bool) {
		for event, err := range v.store.Watch(ctx, prefix, append(opts[:len(opts):len(opts)], eager)...) {
			e := TypedEvent[T]{Event: event}
			if errors.Is(err, ErrDamaged) {
				e.Err, err = err, nil
			} else if err == nil && event.Kind == EventPut {
				d := v.decodeOnce(event.Entry)
				e.Value, e.Err = d.value, d.err
			}
			if !yield(e, err) {
				return
			}
		}
	}
}
