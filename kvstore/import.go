package kvstore

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sort"
	"time"

	"github.com/nearkv/nearkv/codec"
)

// ImportInfo tells what was imported.
type ImportInfo struct {
	Namespace string    // that was exported; "" of bulk JSON
	Revision  Revision  // as of which; 0 of bulk JSON
	Created   time.Time // when; zero of bulk JSON

	Written int   // entries that are in the log now: values, and removals
	Bytes   int64 // of values that were given to the log
	Expired int   // entries that were left out, since they have expired
	Deleted int   // keys that the file does not have (DeleteOthers)
}

// An ImportOption changes one Import or ImportJSON.
type ImportOption interface{ imports(*imports) }

type importOption func(*imports)

func (f importOption) imports(i *imports) { f(i) }

// OnlyIfEmpty makes an import refuse a namespace that has keys: ErrNotEmpty. It
// looks before it begins; nobody else should write then.
func OnlyIfEmpty() ImportOption { return importOption(func(i *imports) { i.onlyIfEmpty = true }) }

// DeleteOthers makes the namespace what the file is: once the whole file is in,
// all keys are deleted that were written last before the import began. Nobody
// else should write meanwhile.
func DeleteOthers() ImportOption { return importOption(func(i *imports) { i.deleteOthers = true }) }

// StartAt makes an import go on after an error: it writes nothing of the entries
// of the file before the n-th, counted from 0, that is the Index of a *BulkError.
// It cannot be combined with DeleteOthers or OnlyIfEmpty: ErrInvalidOptions.
func StartAt(n int) ImportOption { return importOption(func(i *imports) { i.startAt = n }) }

// Import writes the entries of an archive that Export has written into the
// namespace, over what is there, with their values, metadata and expiry; keys
// that the archive does not have stay (but see DeleteOthers). Revisions are new.
// What has expired is left out, also what expires while it is imported. A key that was deleted while the export ran is
// deleted.
//
// Every part of the archive is checked before it is written, but that it is
// complete is known only at its end. So of a file, check the whole of it first
// (codec.VerifyArchive); when an archive that comes through a pipe turns out to be
// damaged or cut off, what came before is in. Values are held one at a time, but
// for those under way: see PutAll.
//
// Errors: those of Sync and of r; codec.ErrDamagedArchive, ErrNotEmpty,
// ErrInvalidOptions; and as a *BulkError, whose numbers are those of the entries
// in the file, that of a write, as PutAll has it. To go on after it, import again,
// if the file is long with StartAt. With an error, too, ImportInfo tells what was
// done.
func (s *Store) Import(ctx context.Context, r io.Reader, opts ...ImportOption) (ImportInfo, error) {
	i, err := s.newImport(opts)
	if err != nil {
		return ImportInfo{}, failed("import", "", err)
	}
	in, err := codec.NewArchiveReader(bufio.NewReaderSize(r, 256<<10))
	if err != nil {
		return ImportInfo{}, failed("import", "", err)
	}
	header := in.Header()
	i.info.Namespace, i.info.Created = header.Namespace, header.Created
	err = i.run(ctx, archiveEntries(in))
	i.info.Revision = Revision(in.Trailer().Revision)
	return i.info, failed("import", "", err)
}

// ImportJSON is Import of the bulk JSON of Workers KV (codec.ReadBulk), which
// ExportJSON writes. Of pairs with the same key the last counts. An expiration_ttl
// counts from when its pair is read. It cannot be checked beyond what JSON can;
// errors of it are *codec.BulkFileError, with line and column.
func (s *Store) ImportJSON(ctx context.Context, r io.Reader, opts ...ImportOption) (ImportInfo, error) {
	i, err := s.newImport(opts)
	if err != nil {
		return ImportInfo{}, failed("import", "", err)
	}
	err = i.run(ctx, bulkEntries(r))
	return i.info, failed("import", "", err)
}

// imports is one import.
type imports struct {
	store        *Store
	bulk         []BulkOption
	onlyIfEmpty  bool
	deleteOthers bool
	startAt      int

	info   ImportInfo
	entry  int     // the number in the file of the next one
	sent   int     // writes
	shifts []shift // in order
	err    error   // of the file
}

// shift says that from a write on the numbers of entries are higher by so much.
type shift struct{ from, by int }

// imported is an entry of a file.
type imported struct {
	key      string
	op       codec.Op
	changed  bool // the file can have the key already
	metadata []byte
	expires  int64 // unix milliseconds; 0: never
	value    func() ([]byte, error)
}

func (s *Store) newImport(opts []ImportOption) (*imports, error) {
	i := &imports{store: s}
	for _, opt := range opts {
		opt.imports(i)
	}
	if i.startAt < 0 {
		return nil, fmt.Errorf("kvstore: %w: StartAt(%d)", ErrInvalidOptions, i.startAt)
	}
	if i.startAt > 0 && (i.deleteOthers || i.onlyIfEmpty) {
		return nil, fmt.Errorf("kvstore: %w: StartAt with DeleteOthers or OnlyIfEmpty", ErrInvalidOptions)
	}
	return i, nil
}

func (i *imports) run(ctx context.Context, entries iter.Seq2[imported, error]) error {
	if err := i.store.syncForWrite(ctx); err != nil {
		return err
	}
	before := i.store.Status()
	if i.onlyIfEmpty {
		for r := range i.store.index.ascend("", "") {
			return fmt.Errorf("%w: it has %.64q", ErrNotEmpty, r.key())
		}
	}
	var err error
	b := i.store.newBulk(ctx, i.bulk)
	b.lapse = true
	i.info.Written, err = b.runAll(i.writes(entries))
	i.info.Expired += b.expiredOnTheWay()
	if err != nil {
		return i.inTheFile(err)
	}
	if i.err != nil || !i.deleteOthers {
		return i.err
	}
	return i.deleteUntil(ctx, before)
}

// writes yields what is to be written of the file. It ends with the first error
// of it.
func (i *imports) writes(entries iter.Seq2[imported, error]) prepared {
	return func(yield func(string, func() (*change, error)) bool) {
		for e, err := range entries {
			number := i.entry
			i.entry++
			if err == nil && (number < i.startAt || i.expired(&e)) {
				continue
			}
			var c *change
			if err == nil {
				c, err = i.change(&e)
			}
			if i.fileError(err) {
				return
			}
			i.numbered(number)
			if !yield(e.key, func() (*change, error) { return c, err }) {
				return
			}
		}
	}
}

// expired tells whether an entry is to be left out, because it has expired. If
// the file may have an earlier one of its key, that has to go.
func (i *imports) expired(e *imported) bool {
	if e.op == codec.OpDelete || !expiredAt(e.expires, time.Now()) {
		return false
	}
	i.info.Expired++
	e.op = codec.OpDelete
	return !e.changed
}

// errFile is around errors of the file, to tell them from those of writes.
type errFile struct{ error }

func (i *imports) fileError(err error) bool {
	if f, ok := err.(errFile); ok { //nolint:errorlint // never wrapped
		i.err = f.error
		return true
	}
	return false
}

// change is where an entry is made a write.
func (i *imports) change(e *imported) (*change, error) {
	if e.op == codec.OpDelete {
		return i.store.newDelete(e.key, nil)
	}
	value, err := e.value()
	if err != nil {
		return nil, errFile{err}
	}
	i.info.Bytes += int64(len(value))
	c, err := i.store.newPut(e.key, value, []WriteOption{asItWas(e.metadata, e.expires)})
	if err == nil {
		c.orDelete = e.changed
	}
	return c, err
}

// asItWas gives a write metadata and expiry that were valid when they were
// written, to the byte and the millisecond.
func asItWas(metadata []byte, expires int64) WriteOption {
	return writeOption(func(c *change) error {
		c.metadata, c.expires = metadata, expires
		return nil
	})
}

// numbered notes the number in the file of the next write.
func (i *imports) numbered(number int) {
	by := number - i.sent
	if n := len(i.shifts); n == 0 || i.shifts[n-1].by != by {
		i.shifts = append(i.shifts, shift{i.sent, by})
	}
	i.sent++
}

// inTheFile makes the numbers of a *BulkError those of entries.
func (i *imports) inTheFile(err error) error {
	var bulk *BulkError
	if !errors.As(err, &bulk) {
		return err
	}
	number := func(write int) int {
		n := sort.Search(len(i.shifts), func(k int) bool { return i.shifts[k].from > write })
		if n == 0 {
			return write
		}
		return write + i.shifts[n-1].by
	}
	bulk.Index = number(bulk.Index)
	for k := range bulk.Also {
		bulk.Also[k] = number(bulk.Also[k])
	}
	return bulk
}

// deleteUntil deletes what the import has not written: what has a revision that
// the log had before it.
func (i *imports) deleteUntil(ctx context.Context, before Status) error {
	if i.store.Status().Log != before.Log {
		return fmt.Errorf("kvstore: %w: the log was made anew during the import; nothing was deleted", ErrUnavailable)
	}
	var err error
	i.info.Deleted, err = i.store.DeleteAll(ctx, func(yield func(string) bool) {
		for r := range i.store.index.ascend("", "") {
			if r.revision <= uint64(before.Applied) && !yield(r.key()) {
				return
			}
		}
	})
	var bulk *BulkError
	if errors.As(err, &bulk) {
		err = bulk.Err // its numbers are not those of the file
	}
	return err
}

// archiveEntries yields the entries of an archive.
func archiveEntries(in *codec.ArchiveReader) iter.Seq2[imported, error] {
	return func(yield func(imported, error) bool) {
		for {
			e, err := in.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(imported{}, errFile{err})
				return
			}
			next := imported{
				key: e.Key, op: e.Op, changed: e.Changed, metadata: e.Metadata, expires: e.Expires,
				value: func() ([]byte, error) { return readValue(in, make([]byte, 0, min(e.Size, 1<<20)), e.Size) },
			}
			if !yield(next, nil) {
				return
			}
		}
	}
}

// bulkEntries yields the pairs of bulk JSON.
func bulkEntries(r io.Reader) iter.Seq2[imported, error] {
	return func(yield func(imported, error) bool) {
		for p, err := range codec.ReadBulk(r, codec.BulkOptions{}) {
			if err != nil {
				yield(imported{}, errFile{err})
				return
			}
			next := imported{
				key: p.Key, metadata: bytes.Clone(p.Metadata),
				value: func() ([]byte, error) { return bytes.Clone(p.Value), nil },
			}
			switch {
			case p.TTL != 0:
				next.expires = ceilMilli(time.Now().Add(p.TTL))
			case !p.Expires.IsZero():
				next.expires = p.Expires.UnixMilli()
			}
			if !yield(next, nil) {
				return
			}
		}
	}
}
