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

// MaxBatch is how many operations a Batch can have.
const MaxBatch = codec.MaxBatch

// maxBatchBytes bounds the values of a Batch that are part of their records.
const maxBatchBytes = 8 << 20

// Op is an operation of a Batch.
type Op struct {
	key     string
	prepare func(s *Store) (*change, error)
}

// OpPut is a Put. The value must not be changed before Batch has returned.
func OpPut(key string, value []byte, opts ...WriteOption) Op {
	return Op{key, func(s *Store) (*change, error) { return s.newPut(key, value, opts) }}
}

// OpDelete is a Delete.
func OpDelete(key string, opts ...DeleteOption) Op {
	return Op{key, func(s *Store) (*change, error) { return s.newDelete(key, opts) }}
}

// Batch carries out operations on different keys, all or none, and returns the
// revision of the last. Conditions hold for all together: if one does not, nothing
// is written, and the *ConflictError names its key. With no operations it does
// nothing.
//
// No replica shows a part of it: a GetAll, a List, a loop over Keys, Export, or a
// Get when a Watch has told of one of its changes, sees all of it or nothing. Two
// Gets are two looks, between which it may come. Of keys that have been written
// again since, the newer values are seen. After Batch this Store has it.
//
// It has at most MaxBatch operations, and at most 8 MiB of values, those not
// counted that are large: else ErrTooLarge. It costs about ten times as much as a
// Put, and little more for each operation.
//
// A Batch ends with ErrExpired when the first of its entries expires before the log
// has acknowledged all of them.
//
// Errors are those of Put, and before anything is sent ErrInvalidOptions, for two
// operations on one key, and ErrUnsupported, if the bucket does not take atomic
// batches (Status.Missing).
func (s *Store) Batch(ctx context.Context, ops ...Op) (Revision, error) {
	b, err := s.newBatch(ops)
	if err != nil || len(ops) == 0 {
		return 0, failed("batch", "", err)
	}
	revision, err := b.run(ctx)
	for range ops {
		s.stats.wrote(err)
	}
	return revision, failed("batch", "", err)
}

// batch carries a Batch through to its end, as write does for one change.
type batch struct {
	write // what they have in common; its change is for its limits, and is not written
	parts []*write
}

func (s *Store) newBatch(ops []Op) (*batch, error) {
	if len(ops) > MaxBatch {
		return nil, fmt.Errorf("kvstore: %w: a batch of %d operations, the most is %d", ErrTooLarge, len(ops), MaxBatch)
	}
	if !s.log.CanBatch() {
		return nil, fmt.Errorf("kvstore: %w: the bucket takes no atomic batches (allow_atomic)", ErrUnsupported)
	}
	b := &batch{write: write{store: s, change: &change{}, id: nuid.Next()}}
	keys, size := make(map[string]bool, len(ops)), 0
	for _, op := range ops {
		if op.prepare == nil {
			return nil, fmt.Errorf("kvstore: %w: an empty Op", ErrInvalidOptions)
		}
		c, err := op.prepare(s)
		if err != nil {
			return nil, fmt.Errorf("%.64q: %w", op.key, err)
		}
		if keys[op.key] {
			return nil, fmt.Errorf("kvstore: %w: two operations on %.64q", ErrInvalidOptions, op.key)
		}
		keys[op.key] = true
		size += len(c.value)
		c.always = true
		b.change.join(c)
		b.change.batch += 2 * len(c.value) // the server stages it, and then stores it
		b.parts = append(b.parts, &write{store: s, change: c, id: b.id, of: b})
	}
	if size > maxBatchBytes {
		return nil, fmt.Errorf("kvstore: %w: a batch with %d bytes of values, the most is %d", ErrTooLarge, size, maxBatchBytes)
	}
	return b, nil
}

// join makes a batch one that has to end when c has to, if that is earlier.
func (c *change) join(part *change) {
	if part.expires != 0 && (c.expires == 0 || part.expires < c.expires) {
		c.key, c.expires = part.key, part.expires
	}
}

func (b *batch) run(ctx context.Context) (Revision, error) {
	b.allowed.begin(b.store.writeTimeout)
	defer b.allowed.end()
	ctx, stop := b.change.lifetime(ctx)
	defer stop()
	ctx, cancel := b.limit(ctx)
	defer cancel()
	revision, err := b.carry(ctx)
	for _, w := range b.parts {
		w.tidy(err)
	}
	return revision, b.change.lapse(err)
}

// limit bounds the time of a batch with large values.
func (b *batch) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	for _, w := range b.parts {
		if w.change.body != nil {
			return w.limit(ctx)
		}
	}
	return b.bound(ctx), func() {}
}

func (b *batch) carry(ctx context.Context) (Revision, error) {
	for _, w := range b.parts {
		if err := w.upload(ctx); err != nil {
			return 0, err
		}
	}
	return b.repeat(ctx, b.try, func(_ context.Context, cause error) (Revision, error) { return 0, b.final(cause) })
}

// try plans all parts and appends them.
func (b *batch) try(ctx context.Context, epoch uint64) (uint64, error) {
	if b.appended && b.parts[0].answer == nil {
		if revision, err := b.resolve(ctx, epoch); revision != 0 || err != nil {
			return revision, err
		}
	}
	writes, err := b.plan(ctx, epoch)
	if err != nil {
		return 0, err
	}
	last, err := b.store.log.AppendBatch(ctx, writes)
	switch {
	case err == nil:
		b.applied(ctx, epoch, last, writes)
		return last, nil
	case errors.Is(err, replication.ErrUncertain):
		b.appended = true
	case errors.Is(err, replication.ErrWrongRevision):
		if revision, err := b.resolve(ctx, epoch); revision != 0 || err != nil {
			return revision, err
		}
		return 0, errRetry
	}
	return 0, err
}

// plan decides what to write. The conditions are looked at here too, so that the
// one that does not hold is known by its key.
func (b *batch) plan(ctx context.Context, epoch uint64) ([]replication.Write, error) {
	writes := make([]replication.Write, len(b.parts))
	now := time.Now().UnixMilli()
	for i, w := range b.parts {
		k := w.known()
		step, rec, expect := w.change.plan(k, now)
		switch step {
		case stepConflict:
			return nil, w.conflict(k)
		case stepDone, stepAsk: // stepDone does not happen: a batch has its deletes written always
			return nil, b.askAll(ctx, epoch)
		}
		if !b.appended {
			w.before = k.revision
		}
		w.prepare(&rec, expect, k)
		rec.Write = b.id
		writes[i] = replication.Write{Key: w.change.key, Record: rec, Expect: expect}
	}
	return writes, nil
}

// askAll asks the log's leader for the keys that have conditions. The next plan is
// based on all of the answers.
func (b *batch) askAll(ctx context.Context, epoch uint64) error {
	for _, w := range b.parts {
		if w.change.condition.kind == unconditional {
			continue
		}
		if _, err := w.ask(ctx, epoch); err != nil {
			return err
		}
	}
	return errRetry
}

// resolve asks the log's leader for all keys of the batch. The revision is that of
// its last part, if it has happened.
//
// If one key is where it was when the batch was planned, the batch has not happened.
// If all have moved on, and it has conditions, that cannot be known.
func (b *batch) resolve(ctx context.Context, epoch uint64) (uint64, error) {
	conditional, moved := false, true
	for i, w := range b.parts {
		m, err := w.ask(ctx, epoch)
		if err != nil {
			return 0, err
		}
		if m != nil && m.Record.Write == b.id {
			last := m.Revision + uint64(len(b.parts)-1-i)
			b.await(ctx, last)
			return last, nil
		}
		conditional = conditional || w.change.once()
		moved = moved && w.answer.revision != w.before
	}
	if conditional && moved && (b.appended || b.store.unsettled()) {
		b.appended = true
		return 0, errMovedOn
	}
	return 0, nil
}

// await waits until the replica has the batch, which has happened.
func (b *batch) await(ctx context.Context, last uint64) {
	b.store.feed.Heard(last)
	_ = b.store.feed.Reached(ctx, last) // else the replica is late
}

// applied brings the batch into the index, for reads after it.
func (b *batch) applied(ctx context.Context, epoch, last uint64, writes []replication.Write) {
	b.store.feed.Heard(last)
	now := time.Now()
	ms := make([]replication.Message, len(writes))
	for i, w := range writes {
		w.Record.Value = bytes.Clone(w.Record.Value)
		w.Record.Batch = codec.Batch{Index: i + 1, Count: len(writes)}
		ms[i] = b.store.log.Written(w.Key, last-uint64(len(writes)-1-i), now, w.Record)
	}
	if !b.store.index.applyBatchAhead(epoch, ms) {
		b.await(ctx, last)
	}
}
