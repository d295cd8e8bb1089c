package kvstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/replication"
)

// Pair is a key with what PutAll writes there. TTL and Expires are as for
// WithTTL and WithExpiry, zero for never, and not both; Metadata is as for
// WithMetadata.
type Pair struct {
	Key      string
	Value    []byte
	TTL      time.Duration
	Expires  time.Time
	Metadata any
}

func (p *Pair) options() (opts []WriteOption) {
	if p.TTL != 0 {
		opts = append(opts, WithTTL(p.TTL))
	}
	if !p.Expires.IsZero() {
		opts = append(opts, WithExpiry(p.Expires))
	}
	if p.Metadata != nil {
		opts = append(opts, WithMetadata(p.Metadata))
	}
	return opts
}

// A BulkOption changes one PutAll, DeleteAll or DeletePrefix.
type BulkOption interface{ bulk(*bulk) }

// A ProgressOption is a BulkOption, an ExportOption and an ImportOption.
type ProgressOption interface {
	BulkOption
	ExportOption
	ImportOption
}

type onProgress func(done int)

func (f onProgress) bulk(b *bulk)       { b.progress = f }
func (f onProgress) export(e *export)   { e.progress = f }
func (f onProgress) imports(i *imports) { i.bulk = append(i.bulk, f) }

// OnProgress has f called now and then with the number of writes that are in the
// log by now, of an export with the number of entries that were written, and at
// the end. It is called by the goroutine that called PutAll, Export or the like.
func OnProgress(f func(done int)) ProgressOption { return onProgress(f) }

// BulkError tells how far a PutAll, DeleteAll or DeletePrefix has come. The
// writes are numbered from 0 in the order in which they were given. All before
// Index are in the log, that of Index is not, and of those behind it only those
// in Also are: to go on, begin at Index. What is not in may be nevertheless if
// the error is ErrIndeterminate, or, where nobody can see it, ErrExpired.
type BulkError struct {
	Index int
	Key   string
	Also  []int // in order
	Err   error // of one of the writes that are not in
}

func (e *BulkError) Error() string {
	return fmt.Sprintf("kvstore: write %d, of %.64q: %s", e.Index, e.Key, plain(e.Err))
}

func (e *BulkError) Unwrap() error { return e.Err }

// PutAll puts pairs, any number of them, and returns how many are in. Each is
// what a Put is; together they are neither atomic nor isolated. Of pairs with
// the same key the last counts. The value of a pair may be changed when the next
// one is asked for. It is much faster than one Put after another, because it
// does not wait for an answer before it goes on: at most 1,024 writes and 16 MiB,
// or one write, are under way. Where the stream allows it, a long row of pairs
// without expiry and of up to 4 KiB is not answered one by one: of these at most
// 4,096 are under way. When PutAll returns this replica has applied what is in,
// unless the context has ended.
//
// A TTL counts from when its pair is asked for. A pair that expires before the log
// has acknowledged it counts as not in, with ErrExpired.
//
// With the first error it asks for no more pairs, and waits for what is under
// way. The error is a *BulkError, which tells what is in; it is that of Put.
func (s *Store) PutAll(ctx context.Context, pairs iter.Seq[Pair], opts ...BulkOption) (int, error) {
	return s.newBulk(ctx, opts).runAll(func(yield func(string, func() (*change, error)) bool) {
		for p := range pairs {
			ok := yield(p.Key, func() (*change, error) { return s.newPut(p.Key, bytes.Clone(p.Value), p.options()) })
			if !ok {
				return
			}
		}
	})
}

// DeleteAll deletes keys, any number of them, and returns how many are gone,
// those included that did not exist. It is to Delete what PutAll is to Put.
func (s *Store) DeleteAll(ctx context.Context, keys iter.Seq[string], opts ...BulkOption) (int, error) {
	return s.newBulk(ctx, opts).runAll(func(yield func(string, func() (*change, error)) bool) {
		for key := range keys {
			if !yield(key, func() (*change, error) { return s.newDelete(key, nil) }) {
				return
			}
		}
	})
}

// DeletePrefix deletes all keys that begin with a prefix, "" for all, and
// returns how many it has deleted. They are those that exist when it begins,
// for which it asks the log; what is written meanwhile may stay or go. Errors
// are those of DeleteAll and of Sync, and ErrInvalidKey for the prefix.
func (s *Store) DeletePrefix(ctx context.Context, prefix string, opts ...BulkOption) (int, error) {
	if err := codec.CheckPrefix(prefix); err != nil {
		return 0, failed("delete prefix", "", err)
	}
	if err := s.syncForWrite(ctx); err != nil {
		return 0, err
	}
	return s.DeleteAll(ctx, func(yield func(string) bool) {
		for r := range s.index.ascend(prefix, "") {
			if !yield(r.key()) {
				return
			}
		}
	}, opts...)
}

const (
	maxFlight      = 1024     // writes under way that are answered one by one
	maxFlightBytes = 16 << 20 // of their values
	progressEvery  = 100 * time.Millisecond
)

// bulk carries many writes through, each of them by itself. It sends one after
// the other without waiting for the answers. A write that is not simply
// acknowledged goes on as one like any other, on a goroutine of its own.
//
// Plain writes are sent in runs (replication.Ingest), once there are many of them.
// What a run does not bring into the log goes on one after the other.
type bulk struct {
	store    *Store
	ctx      context.Context
	writes   *timeContext // of the writes: it ends also when one has used up its time
	progress func(done int)
	told     time.Time
	some     chan struct{} // of capacity 1: it is worth looking again
	plain    int           // writes in a row that a run could take
	lapse    bool          // entries that expire on the way are left out
	run      *run          // the one that takes more; nil: none

	mu     sync.Mutex // held for moments only
	over   bool       // nobody waits for what is under way any more
	next   int        // the write to be sent
	first  int        // all before it are in
	also   map[int]bool
	lapsed int // entries of an import that expired on the way
	gone   int // writes that were left out for that
	failed map[int]failedWrite
	flight map[string]int // writes under way by their keys, without those of runs
	bytes  int            // of their values
	runs   []*run         // those with writes under way
	ran    bool           // there have been runs
}

type failedWrite struct {
	key string
	err error
}

func (s *Store) newBulk(ctx context.Context, opts []BulkOption) *bulk {
	b := &bulk{
		store: s, ctx: ctx, progress: func(int) {}, told: time.Now(), some: make(chan struct{}, 1),
		also: make(map[int]bool), failed: make(map[int]failedWrite), flight: make(map[string]int),
	}
	b.writes = newTimeContext(ctx)
	for _, opt := range opts {
		opt.bulk(b)
	}
	return b
}

// prepared yields keys, each with a function that makes what is to be done.
type prepared = iter.Seq2[string, func() (*change, error)]

func (b *bulk) runAll(all prepared) (int, error) {
	defer b.writes.finish(context.Canceled)
	for key, prepare := range all {
		c, err := prepare()
		if err == nil {
			err = b.send(c)
		}
		if err != nil {
			b.fail(key, err)
			break
		}
	}
	b.endRun()
	err := b.await(func() bool { return len(b.flight)+b.queued() == 0 })
	if err != nil {
		b.abandon(err)
	}
	if b.ran {
		_ = b.store.syncForWrite(b.ctx) // nothing was applied ahead of the feed; what is in is in
	}
	n, err := b.result()
	b.progress(n)
	return n, err
}

// errStopped ends the sending, because a write has failed.
var errStopped = errors.New("an earlier write has failed")

func unsent(cause error) error { return fmt.Errorf("kvstore: %w: %w", ErrUnavailable, cause) }

// room tells whether another write can get under way by itself. The writes of
// one key do one after the other.
func (b *bulk) room(c *change) bool {
	if _, busy := b.flight[c.key]; busy {
		return false
	}
	n := len(b.flight)
	return n == 0 || n < maxFlight && b.bytes+c.size() <= maxFlightBytes
}

// await waits for what ready, which is called under mu, asks for. errStopped:
// it has come, and there is no point in going on.
func (b *bulk) await(ready func() bool) error {
	for {
		b.mu.Lock()
		ok, stop, n := ready(), len(b.failed) > 0, b.first+len(b.also)-b.gone
		b.mu.Unlock()
		if time.Since(b.told) >= progressEvery {
			b.told = time.Now()
			b.progress(n)
		}
		switch {
		case ok && stop:
			return errStopped
		case ok:
			return nil
		}
		select {
		case <-b.some:
		case <-b.ctx.Done():
			return unsent(replication.Ended(b.ctx))
		case <-b.store.done:
			return ErrClosed
		}
	}
}

// send gets a write under way, when there is room for it.
func (b *bulk) send(c *change) error {
	if b.ctx.Err() != nil {
		return unsent(replication.Ended(b.ctx))
	}
	if k, rec, ok := b.joins(c); ok {
		if err := b.await(func() bool { return b.roomInRun(c) }); err != nil {
			return err
		}
		if b.join(c, k.revision, rec) {
			return nil
		}
	}
	b.endRun()
	if err := b.await(func() bool { return b.queued() == 0 && b.room(c) }); err != nil {
		return err
	}
	b.mu.Lock()
	i := b.next
	b.next++
	b.flight[c.key] = i
	b.bytes += c.size()
	b.mu.Unlock()
	w := &write{store: b.store, change: c}
	if !b.start(i, w) {
		b.finish(i, w)
	}
	return nil
}

// start sends the record of a write, if it is clear which one that is.
func (b *bulk) start(i int, w *write) bool {
	if b.store.backend.disk.doubt.Load() || w.change.body != nil {
		return false
	}
	ctx, stop := w.change.lifetime(b.writes)
	defer stop()
	w.allowed.begin(b.store.writeTimeout)
	epoch, err := w.attach(ctx)
	if err != nil || w.change.late() {
		return false
	}
	w.allowed.end()
	k := b.store.index.lookUp(w.change.key)
	step, rec, expect := w.change.plan(k, time.Now().UnixMilli())
	if step != stepAppend {
		return false
	}
	w.prepare(&rec, expect, k)
	err = b.store.log.Send(w.change.key, rec, expect, func(revision uint64, err error) {
		switch {
		case err == nil && w.apply(epoch, revision, rec):
			w.tidy(nil)
			b.ended(i, w.change, w.change.lapse(nil))
			return
		case err == nil || errors.Is(err, replication.ErrUncertain):
			w.uncertain(k.revision) // if it is in a log that is no more, or another has it: that will be found out
		}
		b.finish(i, w)
	})
	return err == nil
}

// finish has a write go on by itself.
func (b *bulk) finish(i int, w *write) {
	if !b.store.begin() {
		b.ended(i, w.change, w.giveUp(ErrClosed))
		return
	}
	go func() {
		defer b.store.work.Done()
		_, err := w.run(b.writes)
		if b.lapse && w.change.orDelete && errors.Is(err, ErrExpired) {
			err = b.deleteInstead(w.change)
		}
		b.ended(i, w.change, err)
	}()
}

// deleteInstead deletes the key of an entry that has expired before it was written:
// the value that the key has may be an earlier one of the same file.
func (b *bulk) deleteInstead(c *change) error {
	w := &write{store: b.store, change: &change{key: c.key, op: codec.OpDelete, keep: c.keep}}
	_, err := w.run(b.writes)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lapsed++
	return err
}

func (b *bulk) ended(i int, c *change, err error) {
	b.outOfTime(err)
	b.store.stats.wrote(err)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return
	}
	delete(b.flight, c.key)
	b.bytes -= c.size()
	if b.lapse && errors.Is(err, ErrExpired) {
		b.lapsed++
		b.gone++
		err = nil
	}
	if err != nil {
		b.failed[i] = failedWrite{c.key, err}
	} else {
		b.in(i)
	}
	if len(b.flight) <= maxFlight/2 { // who waits for room finds a lot of it
		b.look()
	}
}

// outOfTime ends all writes when one has used up its time: the log is away, and those
// that wait one after the other would add up theirs.
func (b *bulk) outOfTime(err error) {
	if errors.Is(err, errWriteTimeout) {
		b.writes.finish(errWriteTimeout)
	}
}

// in notes that a write is in the log. It needs mu.
func (b *bulk) in(i int) {
	b.also[i] = true
	for b.also[b.first] {
		delete(b.also, b.first)
		b.first++
	}
}

// look has await look again.
func (b *bulk) look() {
	select {
	case b.some <- struct{}{}:
	default:
	}
}

// fail notes a write that was not sent.
func (b *bulk) fail(key string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed[b.next] = failedWrite{key, err}
}

// abandon leaves what is under way to itself.
func (b *bulk) abandon(cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	uncertain := fmt.Errorf("kvstore: %w: %w", ErrIndeterminate, cause)
	for key, i := range b.flight {
		b.failed[i] = failedWrite{key, uncertain}
	}
	for _, r := range b.runs {
		for _, q := range r.queue {
			b.failed[q.i] = failedWrite{q.change.key, uncertain}
		}
	}
}

// expiredOnTheWay returns how many entries of an import have expired before they were
// written.
func (b *bulk) expiredOnTheWay() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lapsed
}

func (b *bulk) result() (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.first + len(b.also) - b.gone
	if len(b.failed) == 0 {
		return n, nil
	}
	// All writes are in, or under failed: the first that is not in is there.
	f := b.failed[b.first]
	if errors.Is(f.err, errStopped) {
		f.err = b.failed[slices.Min(slices.Collect(maps.Keys(b.failed)))].err
	}
	return n, &BulkError{Index: b.first, Key: f.key, Also: slices.Sorted(maps.Keys(b.also)), Err: f.err}
}
