package kvstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unsafe"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/replication"
)

// A large value is not in its record: it is an object in the object store of the
// namespace, put there before the record that refers to it. An object is never
// written twice; sweep.go removes those that no record refers to any more.

// DefaultInlineBytes is the longest value that is part of its record, where
// Options do not say.
const DefaultInlineBytes = 64 << 10

// uploadTime is how long it may take to put a large value and its record. Objects
// without a record that are older than orphanAge are removed.
const uploadTime = orphanAge / 2

// large is what is known of a value that is an object.
type large struct {
	codec.Object
	store *Store
}

// inline returns the length of the longest value that is part of its record.
func (s *Store) inline() int64 { return min(s.inlineBytes, s.log.MaxValue()) }

// most returns the length of the longest value that can be put.
func (s *Store) most() int64 {
	if s.inlineBytes == codec.MaxValueLen { // never as an object
		return s.log.MaxValue()
	}
	return codec.MaxValueLen
}

// PutFrom is Put of what r holds, up to io.EOF. It holds InlineBytes of it and about
// 2 MiB more. It reads r on the caller's goroutine, and does not close it. That
// the value is too large may only be found when 26,214,400 bytes of it have been
// read and sent; then, and when r fails, nothing is written, and the error is
// ErrTooLarge, or that of r.
//
// If the log cannot be reached on the way PutFrom begins again if r is an
// io.Seeker, which it seeks to where it was; otherwise it fails with
// ErrUnavailable. All else is as with Put. A condition is looked at before
// anything is sent, and decided at the end.
func (s *Store) PutFrom(ctx context.Context, key string, r io.Reader, opts ...WriteOption) (Revision, error) {
	c, err := s.newPut(key, nil, opts)
	if err != nil {
		return 0, failed("put", key, err)
	}
	if r == nil {
		return 0, failed("put", key, fmt.Errorf("%w: the reader is nil", ErrInvalidOptions))
	}
	if err := s.fill(c, r); err != nil {
		return 0, failed("put", key, err)
	}
	revision, err := s.commit(ctx, c)
	return revision, failed("put", key, err)
}

// fill reads the value of a change, or as much as tells that it is large.
func (s *Store) fill(c *change, r io.Reader) error {
	seeker, start, size := startOf(r)
	head, err := io.ReadAll(io.LimitReader(r, s.inline()+1))
	if err != nil {
		return fmt.Errorf("kvstore: %w", &replication.ReadError{Err: err})
	}
	switch {
	case int64(len(head)) <= s.inline():
		c.value = head
	case int64(len(head)) > s.most():
		return s.tooLarge(int64(len(head)))
	default:
		c.body = &body{head: head, rest: r, seeker: seeker, start: start, size: size}
	}
	return nil
}

func (s *Store) tooLarge(size int64) error {
	return fmt.Errorf("kvstore: %w: the value has %d bytes or more, the most is %d", ErrTooLarge, size, s.most())
}

// startOf tells where r begins, if it can be read again from there, and how many bytes
// it has from there on, 0 if that is not known.
func startOf(r io.Reader) (seeker io.Seeker, start, size int64) {
	seeker, ok := r.(io.Seeker)
	if !ok {
		return nil, 0, 0
	}
	start, err := seeker.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, 0, 0 // a pipe, for instance: it only looks like one that can
	}
	end, err := seeker.Seek(0, io.SeekEnd)
	if err != nil {
		end = start
	}
	if _, err := seeker.Seek(start, io.SeekStart); err != nil {
		return nil, 0, 0 // the next Read says why
	}
	return seeker, start, max(end-start, 0)
}

// body is a large value that is to be written.
type body struct {
	head []byte    // its beginning
	rest io.Reader // nil: head is all of it

	seeker io.Seeker // nil: rest can be read only once
	start  int64     // where head begins
	size   int64     // of all, if known from the beginning
	begun  bool
}

// repeats reports whether the value can be read again.
func (b *body) repeats() bool { return b.rest == nil || b.seeker != nil }

var errSpent = fmt.Errorf("%w: the value cannot be read a second time", ErrUnavailable)

// reader returns a reader of the whole value.
func (b *body) reader() (io.Reader, error) {
	first := !b.begun
	b.begun = true
	switch {
	case b.rest == nil:
		return bytes.NewReader(b.head), nil
	case first:
		return io.MultiReader(bytes.NewReader(b.head), b.rest), nil
	case b.seeker == nil:
		return nil, errSpent
	}
	if _, err := b.seeker.Seek(b.start, io.SeekStart); err != nil {
		return nil, fmt.Errorf("%w: %w", errSpent, err)
	}
	return b.rest, nil
}

// limit bounds the time of a write of which the value is large.
func (w *write) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if w.change.body == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithTimeout(w.bound(ctx), uploadTime)
	if a := w.allowance(); a.ctx != nil {
		a.ctx = ctx
	}
	return ctx, cancel
}

// upload puts the value, if it is large, into the object store, as often as it
// takes, unless the condition does not hold. Its change refers to the object then.
func (w *write) upload(ctx context.Context) error {
	if w.change.body == nil {
		return nil
	}
	if err := w.foresee(ctx); err != nil {
		return err
	}
	retry := replication.NewBackoff()
	for tries := 0; ; tries++ {
		err := w.uploadOnce(ctx)
		switch {
		case err == nil:
			return nil
		case tries == 0 && errors.Is(err, ErrNoSpace) && w.store.makeRoom(ctx) && w.change.body.repeats():
			continue
		case !w.passing(err), errors.Is(err, errSpent), isReadError(err):
			return err
		}
		// What is uncertain is only an object, to which nothing refers.
		w.last = fmt.Errorf("kvstore: %w: %s", ErrUnavailable, err.Error())
		w.store.backend.disk.failed()
		if err := retry.Wait(ctx, w.store.done); err != nil {
			return w.giveUp(err)
		}
	}
}

// uploadAgain uploads the value again, under another name, if the record that had no
// answer may have been in the log and have been replaced: its object may be gone.
func (w *write) uploadAgain(ctx context.Context) error {
	if w.change.object == nil || w.change.object.Name != w.doubtful || w.answer.revision == w.expected.Revision {
		return nil
	}
	if !w.change.body.repeats() {
		return fmt.Errorf("%w to revision %d", errMovedOn, w.answer.revision)
	}
	w.change.object, w.answer = nil, nil
	return w.upload(ctx)
}

func isReadError(err error) bool {
	_, is := errors.AsType[*replication.ReadError](err)
	return is
}

func (w *write) uploadOnce(ctx context.Context) error {
	if _, err := w.attach(ctx); err != nil {
		if errors.Is(err, ErrReadOnly) || replication.Lasting(err) {
			return w.final(err)
		}
		return w.giveUp(err)
	}
	r, err := w.change.body.reader()
	if err != nil {
		return fmt.Errorf("kvstore: %w", errors.Join(err, w.last))
	}
	object, err := w.store.log.Objects().Put(ctx, w.allowance().read(r))
	if err != nil {
		return fmt.Errorf("kvstore: %w", err)
	}
	w.change.object = object
	return nil
}

// foresee finds a condition that does not hold before anything large is sent.
func (w *write) foresee(ctx context.Context) error {
	if w.change.condition.kind == unconditional {
		return nil
	}
	epoch, err := w.attach(ctx)
	if err != nil {
		return nil // upload will find it too
	}
	for range 2 {
		k := w.known()
		switch step, _ := w.change.check(k); step {
		case stepConflict:
			return w.conflict(k)
		case stepAsk:
			if _, err := w.ask(ctx, epoch); err != nil {
				return nil
			}
			continue
		}
		return nil
	}
	return nil
}

// fetchObject returns a large value. An error that is ErrUnavailable may pass.
func (s *Store) fetchObject(ctx context.Context, epoch uint64, r *record) (string, error) {
	object := &r.large().Object
	reader := s.log.Objects().Open(ctx, object)
	defer func() { _ = reader.Close() }()
	value, err := readObject(reader, object.Size)
	if err == nil { // the digest is looked at behind the end
		_, err = reader.Read(make([]byte, 1))
	}
	if errors.Is(err, io.EOF) {
		s.index.fill(r, value)
		return unsafe.String(unsafe.SliceData(value), len(value)), nil
	}
	if !lost(err) {
		return "", err
	}
	return "", s.lostObject(ctx, epoch, r, err)
}

// readObject reads a value. Anybody may have said how long it is: there is room for
// all of it only when a part of it has come.
func readObject(r io.Reader, size int64) ([]byte, error) {
	value := make([]byte, min(size, 64<<10))
	if _, err := io.ReadFull(r, value); err != nil || int64(len(value)) == size {
		return value, err
	}
	part := value
	value = make([]byte, size)
	_, err := io.ReadFull(r, value[copy(value, part):])
	return value, err
}

// lost tells whether err says that an object is not there, or not whole.
func lost(err error) bool {
	return errors.Is(err, replication.ErrNoObject) || errors.Is(err, replication.ErrDamagedObject)
}

// lostObject explains why the object of a record is not there: because the record
// was replaced, or because the log has lost it.
func (s *Store) lostObject(ctx context.Context, epoch uint64, r *record, cause error) error {
	m, err := s.refresh(ctx, epoch, r.key())
	if err != nil {
		return err
	}
	if m == nil || m.Revision != r.revision {
		return errSuperseded
	}
	s.index.counts.damaged.Add(1)
	return &ValueError{Key: r.key(), Revision: Revision(r.revision), Err: cause}
}

// ValueError tells that a large value is missing, or is not what was written. It
// is an ErrDamaged. Other keys, and later revisions of this one, can be read.
type ValueError struct {
	Key      string
	Revision Revision
	Err      error // what is wrong with it
}

func (e *ValueError) Error() string {
	return fmt.Sprintf("%v: %.64q at revision %d: %s", ErrDamaged, e.Key, e.Revision, plain(e.Err))
}

// Unwrap returns ErrDamaged and the Err.
func (e *ValueError) Unwrap() []error { return []error{ErrDamaged, e.Err} }

// Open returns a reader of the value. What is in memory is read from there.
// Otherwise the value is large: it is read from the object store, holding about
// 2 MiB of it at a time, and nothing is kept. It is read as long as ctx lasts; what
// waits for the log does so as long. Close it when you are done.
//
// The value is that of the Entry, also if the key is written again meanwhile. But a
// large value that was replaced or deleted stays for five minutes only: to begin or
// go on after that is ErrReplaced. The last Read, the one that returns io.EOF,
// has compared the digest (SHA-256) of the whole value with that of what was
// written; if it differs, or a part is missing, the error is ErrDamaged instead.
//
// Errors, of Open or Read: ErrReplaced, ErrDamaged, ErrUnavailable when ctx ended
// first, ErrClosed. The reader is not for concurrent use.
func (e Entry) Open(ctx context.Context) (io.ReadCloser, error) {
	text, ok := e.value, e.Loaded()
	if !ok {
		text, ok = e.rec.text()
	}
	if ok {
		return io.NopCloser(strings.NewReader(text)), nil
	}
	l := e.rec.large()
	if l.store.closed.Load() {
		return nil, ErrClosed
	}
	return &valueReader{ReadCloser: l.store.log.Objects().Open(ctx, &l.Object), ctx: ctx, rec: e.rec}, nil
}

// Loaded tells whether Text and Value have the value. It is false only for a large
// value that was read with Lazy.
func (e Entry) Loaded() bool { return e.rec == nil || len(e.value) == int(e.rec.size) }

// valueReader reads a large value, and explains what goes wrong.
type valueReader struct {
	io.ReadCloser
	ctx context.Context // of Open
	rec *record
}

func (v *valueReader) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	return n, failed("read", v.rec.key(), v.explain(err))
}

func (v *valueReader) explain(err error) error {
	s := v.rec.large().store
	switch {
	case errors.Is(err, replication.ErrClosed):
		return ErrClosed
	case !lost(err):
		return err
	}
	epoch, attachErr := s.feed.Attached(v.ctx)
	if attachErr != nil {
		return err
	}
	if err := s.lostObject(v.ctx, epoch, v.rec, err); !errors.Is(err, errSuperseded) {
		return err
	}
	return fmt.Errorf("%w: %.64q at revision %d", ErrReplaced, v.rec.key(), v.rec.revision)
}

type lazy struct{}

func (lazy) read(o *readOptions) error { o.lazy = true; return nil }
func (lazy) watch(w *watcher)          { w.lazy = true }

// Lazy leaves large values that are not in memory where they are: the Entry has
// all but the value (Loaded is false, Text and Value are empty), and Open reads
// that. It is for values that are to be streamed, or may not be needed.
func Lazy() interface {
	ReadOption
	WatchOption
} {
	return lazy{}
}

// tidy is told how the write has ended. It has the object removed that was
// replaced, when nobody is likely to read it any more, or its own, if nothing refers
// to that.
func (w *write) tidy(err error) {
	switch {
	case err == nil && w.replaces != "":
		w.store.sweeper.later(w.replaces, time.Now().Add(grace))
	case err != nil && w.change.object != nil && !errors.Is(err, ErrIndeterminate):
		w.store.log.Objects().Discard(w.change.object.Name)
	}
}
