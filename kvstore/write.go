package kvstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nuid"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/replication"
)

// write carries one change through to its end: it plans, appends, and where the
// log did not answer finds out what became of it.
//
// An append without an answer is no failure and no success. The record may be
// in the log, may come to be there a little later, or never. So after one, the
// last record of the key is read from the log's leader. If it is ours, that was
// it. If the key is still where it was, the append is repeated: with an
// expectation it cannot happen twice, without one twice is the same as once. If
// the key has moved on, a change without a condition is repeated, and one with a
// condition cannot be resolved.
type write struct {
	store  *Store
	change *change

	replaces string                  // name of the object that the key had
	id       string                  // in the record, if it has an expectation
	answer   *known                  // of the log's leader, for the next plan
	appended bool                    // an append had no answer
	doubtful string                  // name of the object of the last of these
	before   uint64                  // revision of the key when the first of them was planned
	expected replication.Expectation // of the last append
	last     error                   // the reason for waiting
	allowed  allowance               // if the context has no deadline
	of       *batch                  // whose allowance counts; nil: its own
}

// bound returns ctx, or one that ends with what the write is allowed.
func (w *write) bound(ctx context.Context) context.Context { return w.allowance().bound(ctx) }

func (w *write) allowance() *allowance {
	if w.of != nil {
		return &w.of.allowed
	}
	return &w.allowed
}

var (
	// errRetry makes run try again at once.
	errRetry = errors.New("try again")
	// errMovedOn ends a write with a condition of which it cannot be found out
	// whether it happened.
	errMovedOn = errors.New("the key has moved on")
	// errBehind refuses an answer from the past: of a leader that was deposed and
	// does not know it yet.
	errBehind = fmt.Errorf("kvstore: %w: the leader is behind this replica", ErrUnavailable)
)

// run carries the write out.
func (w *write) run(ctx context.Context) (Revision, error) {
	if w.allowed.begun.IsZero() {
		w.allowed.begin(w.store.writeTimeout)
	}
	defer w.allowed.end()
	ctx, stop := w.change.lifetime(ctx)
	defer stop()
	ctx, cancel := w.limit(ctx)
	defer cancel()
	if err := w.upload(ctx); err != nil {
		return 0, w.change.lapse(err)
	}
	revision, err := w.carry(ctx)
	w.tidy(err)
	return revision, w.change.lapse(err)
}

func (w *write) carry(ctx context.Context) (Revision, error) {
	return w.repeat(ctx, w.try, w.refused)
}

// repeat tries until that ends the write, or the disk refuses it.
func (w *write) repeat(
	ctx context.Context,
	try func(ctx context.Context, epoch uint64) (uint64, error),
	refused func(ctx context.Context, cause error) (Revision, error),
) (Revision, error) {
	retry := replication.NewBackoff()
	for {
		epoch, err := w.attach(ctx)
		switch {
		case errors.Is(err, ErrNoSpace), errors.Is(err, ErrReadOnly):
			return refused(ctx, err)
		case err != nil && replication.Lasting(err):
			return 0, w.final(err)
		case err != nil:
			return 0, w.giveUp(err)
		}
		if w.change.late() {
			return 0, w.giveUp(errLate)
		}
		revision, err := try(ctx, epoch)
		if err != nil {
			ctx = w.bound(ctx) // the first try is bounded by what the log takes to answer
		}
		switch {
		case err == nil:
			return Revision(revision), nil
		case errors.Is(err, errRetry):
			continue
		case !w.passing(err):
			return 0, w.final(err)
		}
		w.last = err
		w.store.trouble.Store(time.Now().UnixNano())
		w.store.backend.disk.failed()
		if err := retry.Wait(ctx, w.store.done); err != nil {
			return 0, w.giveUp(err)
		}
	}
}

// diskEvery is how often a write that waits for the log looks whether the disk is
// to blame.
const diskEvery = time.Second

// attach waits for the log, unless its disk is known to refuse the write.
func (w *write) attach(ctx context.Context) (uint64, error) {
	disk := &w.store.backend.disk
	if disk.probe == nil {
		if epoch, err := w.store.feed.Attached(ended); err == nil {
			return epoch, nil
		}
		return w.store.feed.Attached(w.bound(ctx))
	}
	for {
		if err := disk.check(w.change.needs()); err != nil {
			return 0, err
		}
		if epoch, err := w.store.feed.Attached(ended); err == nil {
			return epoch, nil
		}
		ctx := w.bound(ctx)
		short, cancel := context.WithTimeout(ctx, diskEvery)
		epoch, err := w.store.feed.Attached(short)
		cancel()
		if err == nil || ctx.Err() != nil || errors.Is(err, replication.ErrClosed) || replication.Lasting(err) {
			return epoch, err
		}
		disk.failed()
	}
}

// ended is for calls that are not to wait.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// refused ends a write that the disk does not take. An append that had no answer
// may have been the last that it took.
func (w *write) refused(ctx context.Context, cause error) (Revision, error) {
	if !w.appended {
		return 0, cause
	}
	ctx, cancel := context.WithTimeout(ctx, diskEvery)
	defer cancel()
	epoch, err := w.store.feed.Attached(ctx)
	if err == nil {
		var done bool
		var revision uint64
		if done, revision, err = w.resolve(ctx, epoch); done {
			return Revision(revision), nil
		}
	}
	if err != nil {
		return 0, fmt.Errorf("kvstore: %w: %w", ErrIndeterminate, cause)
	}
	return 0, cause
}

// passing tells whether it can help to try again after err.
func (w *write) passing(err error) bool {
	return !replication.Lasting(err) && (errors.Is(err, ErrUnavailable) || errors.Is(err, ErrOverloaded) || errors.Is(err, replication.ErrUncertain))
}

// final is the error of a write that will not be tried again: the log refused.
func (w *write) final(err error) error {
	if w.store.closing(err) {
		return w.giveUp(ErrClosed)
	}
	if w.appended && !errors.Is(err, ErrConflict) {
		return fmt.Errorf("kvstore: %w: %w", ErrIndeterminate, err)
	}
	return err
}

// giveUp is the error of a write whose time is over.
func (w *write) giveUp(cause error) error {
	if errors.Is(cause, replication.ErrClosed) {
		cause = ErrClosed
	}
	switch {
	case w.appended:
		return fmt.Errorf("kvstore: %w: %w", ErrIndeterminate, cause)
	case errors.Is(cause, ErrClosed):
		return cause
	case errors.Is(cause, errLate) && w.last == nil:
		return w.change.expired()
	case w.last != nil:
		return fmt.Errorf("kvstore: %w: %w", w.last, cause)
	}
	return fmt.Errorf("kvstore: %w: %w", ErrUnavailable, cause)
}

func (w *write) try(ctx context.Context, epoch uint64) (uint64, error) {
	if w.appended && w.answer == nil {
		if done, revision, err := w.resolve(ctx, epoch); done || err != nil {
			return revision, err
		}
		if err := w.uploadAgain(ctx); err != nil {
			return 0, err
		}
	}
	told := w.answer != nil
	k := w.known()
	step, rec, expect := w.change.plan(k, time.Now().UnixMilli())
	switch step {
	case stepDone:
		return 0, nil
	case stepConflict:
		if w.id != "" && !told {
			return w.inTheWay(ctx, epoch, 0)
		}
		return 0, w.conflict(k)
	case stepAsk:
		if k.aged {
			if err := w.store.log.Refresh(ctx); err != nil {
				return 0, err
			}
		}
		_, err := w.ask(ctx, epoch)
		return 0, retryUnless(err)
	}
	return w.append(ctx, epoch, k, rec, expect)
}

func retryUnless(err error) error {
	if err != nil {
		return err
	}
	return errRetry
}

// known is what the next plan is based on: the leader's answer, once.
func (w *write) known() known {
	if w.answer == nil {
		return w.store.index.lookUp(w.change.key)
	}
	k := *w.answer
	w.answer = nil
	return k
}

func (w *write) conflict(k known) error {
	e := &ConflictError{Key: w.change.key, Expected: w.change.condition.revision}
	if k.visible {
		e.Actual = Revision(k.revision)
	}
	return e
}

// ask asks the leader for the last record of the key. The result is nil if the
// log has none.
func (w *write) ask(ctx context.Context, epoch uint64) (*replication.Message, error) {
	m, err := w.store.refresh(w.bound(ctx), epoch, w.change.key)
	if err != nil {
		return nil, err
	}
	if m == nil {
		w.answer = &known{sure: true}
		return nil, nil
	}
	if w.store.log.Replicated() && m.Revision < w.store.index.lookUp(w.change.key).revision {
		return nil, errBehind
	}
	k := knownFrom(m, time.Now().UnixMilli())
	w.answer = &k
	return m, nil
}

func (w *write) append(ctx context.Context, epoch uint64, k known, rec codec.Record, expect replication.Expectation) (uint64, error) {
	w.prepare(&rec, expect, k)
	if w.store.log.CanGroup() { // it may wait for others
		ctx = w.bound(ctx)
	}
	revision, err := w.store.log.Append(ctx, w.change.key, rec, expect)
	switch {
	case err == nil:
		w.applied(ctx, epoch, revision, rec)
		return revision, nil
	case errors.Is(err, replication.ErrUncertain):
		w.uncertain(k.revision)
		return 0, err
	case errors.Is(err, replication.ErrWrongRevision):
		var seen uint64
		if wrong, ok := errors.AsType[*replication.WrongRevisionError](err); ok {
			seen = wrong.Actual
		}
		return w.inTheWay(ctx, epoch, seen)
	}
	return 0, err
}

// inTheWay looks what has made an expectation fail. It may be our own record: of
// an earlier append that had no answer; or of one that was refused, because while
// a cluster changes its leader two servers can take a record, one of which stores
// it and the other, which leads no more, refuses.
//
// seen is the revision that the server had which refused, 0 if it did not say. If
// the key is still there, that is why.
func (w *write) inTheWay(ctx context.Context, epoch, seen uint64) (uint64, error) {
	if w.appended {
		return 0, errRetry // resolve
	}
	m, err := w.ask(ctx, epoch)
	if err != nil {
		return 0, err
	}
	if m != nil && m.Record.Write == w.id {
		return m.Revision, nil
	}
	if m != nil && m.Revision > w.expected.Revision && m.Revision != seen && w.change.once() && w.store.unsettled() {
		w.appended = true // another record may have come after ours
		return 0, fmt.Errorf("%w to revision %d", errMovedOn, m.Revision)
	}
	return 0, errRetry
}

// unsettling is for how long after trouble there may be two servers that lead.
const unsettling = 30 * time.Second

// unsettled tells whether a cluster may be changing its leader: then a refusal does
// not say much.
func (s *Store) unsettled() bool {
	return s.log.Replicated() && time.Since(time.Unix(0, s.trouble.Load())) < unsettling
}

// prepare notes what is about to be appended, and what is known of its key.
func (w *write) prepare(rec *codec.Record, expect replication.Expectation, k known) {
	w.sign(rec, expect)
	w.expected = expect
	if rec.Object == nil || k.object != rec.Object.Name {
		w.replaces = k.object
	}
}

// sign marks a record as that of this write, if that may have to be recognised.
func (w *write) sign(rec *codec.Record, expect replication.Expectation) {
	if !expect.Set {
		return
	}
	if w.id == "" {
		w.id = nuid.Next()
	}
	rec.Write = w.id
}

// uncertain notes an append without an answer.
func (w *write) uncertain(before uint64) {
	if !w.appended {
		w.before = before
	}
	w.appended = true
	if w.change.object != nil {
		w.doubtful = w.change.object.Name
	}
}

// applied brings an acknowledged record into the index, for reads after this
// write. If the log is being read anew, the index takes what that log has.
func (w *write) applied(ctx context.Context, epoch, revision uint64, rec codec.Record) {
	rec.Value = bytes.Clone(rec.Value)
	for done := w.apply(epoch, revision, rec); !done; {
		ctx := w.bound(ctx)
		epoch, err := w.store.feed.Attached(ctx)
		if err != nil {
			return // the write has happened; only the replica is late
		}
		last, err := w.store.refresh(ctx, epoch, w.change.key)
		if err != nil || last == nil {
			return
		}
		done = w.store.index.applyAhead(epoch, last, last.Record.Value)
	}
}

// apply is applied, unless the log is being read anew. The bytes of the record
// become the index's.
func (w *write) apply(epoch, revision uint64, rec codec.Record) bool {
	w.store.feed.Heard(revision)
	m := w.store.log.Written(w.change.key, revision, time.Now(), rec)
	return w.store.index.applyAhead(epoch, &m, rec.Value)
}

// resolve finds out what became of an append without an answer. done: it
// happened, with this revision.
func (w *write) resolve(ctx context.Context, epoch uint64) (done bool, revision uint64, err error) {
	m, err := w.ask(ctx, epoch)
	if err != nil {
		return false, 0, err
	}
	if m != nil && w.wrote(m) {
		return true, m.Revision, nil
	}
	if w.change.condition.kind != unconditional && w.answer.revision != w.expected.Revision {
		return false, 0, fmt.Errorf("%w to revision %d", errMovedOn, w.answer.revision)
	}
	return false, 0, nil
}

// wrote tells whether m is the record of this write, or cannot be told from it.
func (w *write) wrote(m *replication.Message) bool {
	if w.expected.Set {
		return m.Record.Write == w.id
	}
	c := w.change
	if c.object != nil || m.Record.Object != nil {
		return c.object != nil && m.Record.Object != nil && c.object.Name == m.Record.Object.Name
	}
	return m.Revision > w.before && m.Record.Op == c.op && m.Record.Expires == c.expires && m.Err == nil &&
		bytes.Equal(m.Record.Metadata, c.metadata) && bytes.Equal(m.Record.Value, c.value)
}
