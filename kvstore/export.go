package kvstore

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/replication"
)

// ExportInfo tells what was exported.
type ExportInfo struct {
	Revision Revision // the namespace was like this when it had this revision
	Keys     int      // that it had then
	Bytes    int64    // of values that were written
	Skipped  int      // entries that were left out because their values are damaged (SkipDamaged)
}

// An ExportOption changes one Export or ExportJSON.
type ExportOption interface{ export(*export) }

// Export writes all entries of the namespace, exactly as of one revision, with
// their values, metadata, and expiry to the millisecond, to w as an archive: a
// file that checks itself (package codec has its format, and VerifyArchive).
// Import reads it. The revision is not older than what was acknowledged, to
// anybody, before the call. Others may write meanwhile; none of it waits.
//
// Values that are not in memory are loaded from the log, up to 64 at a time. An
// export needs memory for about 16 MiB of values, and for the keys that are
// written while it runs, with up to 64 MiB of their values. It ends at a moment
// at which it knows all that the log had up to a revision: while keys are
// written again faster than the log can tell of it, it tries until it finds one.
//
// A damaged value ends it, unless SkipDamaged leaves it out.
//
// Errors: those of Sync and of w, and a *ValueError, which names the key. What was
// written to w then is no archive.
func (s *Store) Export(ctx context.Context, w io.Writer, opts ...ExportOption) (ExportInfo, error) {
	info, err := newExport(s, opts).run(ctx, w)
	return info, failed("export", "", err)
}

// export writes one archive: first the keys as they are, in order, then what
// becomes of them meanwhile, until it knows the whole log up to a revision.
type export struct {
	store    *Store
	follower *follower
	out      *codec.ArchiveWriter
	progress func(done int)
	skip     *skipDamaged // nil: a damaged value ends the export
	told     time.Time

	present *tree                  // what was there at the beginning
	absent  map[string]struct{}    // the keys of it that were not written
	changed map[string]int         // the number, from 1, of the last entry of what was written again; 0: removed
	skipped map[string]*ValueError // the keys that are not in the archive because their values are damaged
	entries int                    // in the archive
	info    ExportInfo
}

func newExport(s *Store, opts []ExportOption) *export {
	e := &export{
		store: s, progress: func(int) {}, told: time.Now(),
		absent: make(map[string]struct{}), changed: make(map[string]int),
		skipped: make(map[string]*ValueError),
	}
	for _, opt := range opts {
		opt.export(e)
	}
	return e
}

func (e *export) run(ctx context.Context, w io.Writer) (ExportInfo, error) {
	if err := e.store.Sync(ctx); err != nil {
		return ExportInfo{}, err
	}
	buffered := bufio.NewWriterSize(w, 256<<10)
	var err error
	header := codec.ArchiveHeader{Namespace: e.store.log.Namespace(), Created: time.Now()}
	if e.out, err = codec.NewArchiveWriter(buffered, header); err != nil {
		return ExportInfo{}, err
	}
	if err := e.writeAll(ctx); err != nil {
		return ExportInfo{}, err
	}
	err = e.out.Close(codec.ArchiveTrailer{Revision: uint64(e.info.Revision), Keys: uint64(e.info.Keys)})
	if err != nil {
		return ExportInfo{}, err
	}
	e.progress(e.entries)
	if e.info.Skipped = len(e.skipped); e.info.Skipped > 0 {
		e.skip.tell(e.skipped)
	}
	return e.info, buffered.Flush()
}

// writeAll writes everything, and what becomes of it, up to a revision. When the
// log is read anew meanwhile, so is everything written.
func (e *export) writeAll(ctx context.Context) error {
	for {
		e.follower = &follower{}
		present := e.store.index.join(e.follower)
		err := e.writeFrom(ctx, present)
		e.store.index.leave(e.follower)
		if !errors.Is(err, errLogAnew) {
			return err
		}
		if err := e.store.Sync(ctx); err != nil { // that it has been read
			return err
		}
	}
}

func (e *export) writeFrom(ctx context.Context, present *tree) error {
	again := e.present != nil
	if !again {
		e.present = present
	} else if err := e.writeRemovals(present); err != nil {
		return err
	}
	clear(e.skipped) // what is damaged still is found again
	if err := e.writePresent(ctx, present, again); err != nil {
		return err
	}
	return e.writeUntilSettled(ctx)
}

// writeUntilSettled writes what became of keys until that is all up to a
// revision.
func (e *export) writeUntilSettled(ctx context.Context) error {
	for tries := 0; ; tries++ {
		taken, err := e.store.index.take(e.follower)
		if err != nil {
			return err
		}
		if err := e.writeChanges(ctx, taken); err != nil {
			return err
		}
		since := e.store.index.fence(e.follower, e.applied())
		if err := e.store.Sync(ctx); err != nil {
			return err
		}
		rest, at, ok, err := e.store.index.settle(e.follower, since, e.applied())
		if err != nil {
			return err
		}
		if ok {
			e.info.Revision = Revision(at)
			return e.writeChanges(ctx, rest)
		}
		if err := e.pause(ctx, tries); err != nil {
			return err
		}
	}
}

func (e *export) applied() uint64 { return e.store.feed.Status().Applied.Sequence }

// pause spares the server and the feed, which looks for trouble when it is asked
// for an end that it has not reached. It gets longer, up to 20 ms.
func (e *export) pause(ctx context.Context, tries int) error {
	select {
	case <-time.After(time.Duration(min(1+tries, 20)) * time.Millisecond):
		return nil
	case <-ctx.Done():
		return unsent(replication.Ended(ctx))
	case <-e.store.done:
		return ErrClosed
	}
}

const (
	exportWindow      = 256      // entries whose values are loaded at the same time
	exportWindowBytes = 16 << 20 // of their values, or one
	exportLoads       = 64       // at a time
)

// item is an entry on its way into the archive.
type item struct {
	codec.ArchiveEntry
	rec     *record // from which its value is to be had; nil: it is there, or there is none
	value   string
	gone    bool        // the value is not to be had any more
	damaged *ValueError // and is skipped for that
}

// writePresent writes what was there when the following began, again if that is
// not the first time. What has moved since is left out: that will be told.
func (e *export) writePresent(ctx context.Context, present *tree, again bool) (err error) {
	w := e.newWindow(ctx)
	present.Scan(func(r *record) bool {
		switch {
		case r.visible() && e.store.index.records.find(r.key()) == r:
			it := itemOf(r)
			it.Changed = again
			err = w.add(it)
		case !again:
			e.absent[r.key()] = struct{}{}
		case e.has(r.key()):
			err = w.add(removal(r.key(), r.revision))
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	return w.flush()
}

// writeRemovals removes from the archive what was not present when the log had
// been read anew.
func (e *export) writeRemovals(present *tree) (err error) {
	remove := func(key string) bool {
		if _, ok := present.Get(allocate(key)); !ok && e.has(key) {
			err = e.write(removal(key, 0))
		}
		return err == nil
	}
	e.present.Scan(func(r *record) bool { return remove(r.key()) })
	for key := range e.changed {
		if err != nil {
			break
		}
		remove(key)
	}
	return err
}

func itemOf(r *record) *item {
	return &item{rec: r, ArchiveEntry: codec.ArchiveEntry{
		Key: r.key(), Revision: r.revision, Modified: time.Unix(0, r.stored.Load()), Expires: r.particulars().expires,
		Metadata: []byte(r.meta()), Size: int64(r.size),
	}}
}

// writeChanges writes what has become of keys.
func (e *export) writeChanges(ctx context.Context, c changes) error {
	w := e.newWindow(ctx)
	for _, key := range c.order {
		if err := w.add(e.changedItem(key, c.moved[key])); err != nil {
			return err
		}
	}
	return w.flush()
}

func (e *export) changedItem(key string, m moved) *item {
	r := m.large
	switch {
	case m.deleted:
		return removal(key, m.revision)
	case r != nil:
	case m.held:
		return &item{value: string(m.value), ArchiveEntry: codec.ArchiveEntry{
			Changed: true, Key: key, Revision: m.revision, Modified: time.Unix(0, m.stored), Expires: m.expires,
			Metadata: m.metadata, Size: int64(len(m.value)),
		}}
	default:
		if r = e.store.index.records.find(key); r == nil || r.revision != m.revision {
			return removal(key, m.revision) // it has moved on, and that will be told
		}
	}
	it := itemOf(r)
	it.Changed = true
	return it
}

func removal(key string, revision uint64) *item {
	return &item{ArchiveEntry: codec.ArchiveEntry{Op: codec.OpDelete, Changed: true, Key: key, Revision: revision}}
}

// window collects entries whose values are loaded at the same time.
type window struct {
	export *export
	ctx    context.Context
	items  []*item
	size   int // of the values that may have to be loaded
}

func (e *export) newWindow(ctx context.Context) *window { return &window{export: e, ctx: ctx} }

func (w *window) add(it *item) error {
	size := 0
	if it.rec != nil {
		size = int(it.rec.size)
	}
	if w.size+size > exportWindowBytes || len(w.items) == exportWindow {
		if err := w.flush(); err != nil {
			return err
		}
	}
	w.items = append(w.items, it)
	w.size += size
	return nil
}

// flush writes the entries in their order, once their values are there.
func (w *window) flush() error {
	if err := w.export.loadValues(w.ctx, w.items); err != nil {
		return err
	}
	for _, it := range w.items {
		if err := w.export.write(it); err != nil {
			return err
		}
	}
	w.items, w.size = w.items[:0], 0
	if w.ctx.Err() != nil {
		return unsent(replication.Ended(w.ctx))
	}
	return nil
}

func (e *export) write(it *item) error {
	if it.damaged != nil {
		e.skipped[it.Key] = it.damaged
	}
	switch {
	case it.gone && !it.Changed:
		e.absent[it.Key] = struct{}{}
		return nil
	case it.damaged != nil && !e.has(it.Key): // an import is not to delete what there may be elsewhere
		return nil
	}
	if it.gone { // what the archive may have of the key is not true any more
		damaged := it.damaged
		it = removal(it.Key, it.Revision)
		it.damaged = damaged
	}
	if err := e.out.Write(it.ArchiveEntry, strings.NewReader(it.value)); err != nil {
		return err
	}
	if it.damaged == nil {
		delete(e.skipped, it.Key)
	}
	e.count(it)
	return nil
}

// loadValues loads the values that are not in memory, several at a time.
func (e *export) loadValues(ctx context.Context, items []*item) error {
	var missing []*item
	for _, it := range items {
		if it.rec == nil {
			continue
		}
		if text, ok := it.rec.text(); ok {
			it.value = text
		} else {
			missing = append(missing, it)
		}
	}
	queue := make(chan *item, len(missing))
	for _, it := range missing {
		queue <- it
	}
	close(queue)
	errs := make([]error, min(len(missing), exportLoads))
	var workers sync.WaitGroup
	for i := range errs {
		workers.Go(func() {
			for it := range queue {
				if errs[i] == nil {
					errs[i] = e.load(ctx, it)
				}
			}
		})
	}
	workers.Wait()
	for _, err := range errs {
		if err != nil {
			return err // one: they are of different keys
		}
	}
	return nil
}

// load is where the value of an entry comes from.
func (e *export) load(ctx context.Context, it *item) (err error) {
	it.value, err = e.store.fetch(ctx, it.rec)
	if it.damaged = e.skip.damagedValue(err); it.damaged != nil || errors.Is(err, errSuperseded) {
		it.gone = true
		return nil
	}
	return err
}

// count keeps account of what the archive has.
func (e *export) count(it *item) {
	e.entries++
	is := it.Op == codec.OpPut
	if it.Changed {
		if e.has(it.Key) {
			e.info.Keys--
		}
		e.changed[it.Key] = 0
		if is {
			e.changed[it.Key] = e.entries
		}
	}
	if is {
		e.info.Keys++
		e.info.Bytes += it.Size
	}
	if time.Since(e.told) >= progressEvery {
		e.told = time.Now()
		e.progress(e.entries)
	}
}

// has tells whether the archive has a key by now.
func (e *export) has(key string) bool {
	if number, ok := e.changed[key]; ok {
		return number != 0
	}
	if _, ok := e.absent[key]; ok {
		return false
	}
	_, ok := e.present.Get(allocate(key))
	return ok
}
