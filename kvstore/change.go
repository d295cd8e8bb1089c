package kvstore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/replication"
)

// change is what a Put or a Delete asks for.
type change struct {
	key       string
	op        codec.Op
	value     []byte        // the caller's; not kept
	body      *body         // the value, if it is large
	object    *codec.Object // where it is
	metadata  []byte
	expires   int64 // unix milliseconds; 0: never
	condition condition
	always    bool // a delete is written also if there is nothing to delete
	batch     int  // bytes of the disk that a batch needs, of which this change is the whole
	orDelete  bool // if it expires on the way the key is to be deleted
	keep      bool // the log cannot remove records by itself
}

// errLate ends a write when its entry expires.
var errLate = errors.New("its time is over")

// once reports whether the change must not happen twice: what it refers to could be
// gone the second time, or its condition be one of the past.
func (c *change) once() bool { return c.condition.kind != unconditional || c.object != nil }

// late reports whether the entry has expired, so that nothing of it is to be sent
// any more.
func (c *change) late() bool { return c.expires != 0 && time.Now().UnixMilli() >= c.expires }

// lifetime ends the write when its entry expires. The context has no deadline for
// that: Options.WriteTimeout applies nevertheless.
func (c *change) lifetime(ctx context.Context) (context.Context, func()) {
	if c.expires == 0 {
		return ctx, func() {}
	}
	life := newTimeContext(ctx)
	timer := time.AfterFunc(time.Until(time.UnixMilli(c.expires)), func() { life.finish(errLate) })
	return life, func() { timer.Stop(); life.finish(context.Canceled) }
}

// lapse returns the error of a write that ended with err, maybe after its entry had
// expired. Nobody can see such an entry, even if the log has just acknowledged it:
// to tell of success would give two callers the same lock.
func (c *change) lapse(err error) error {
	switch {
	case !c.late() && !errors.Is(err, errLate), errors.Is(err, ErrExpired), errors.Is(err, ErrClosed):
		return err
	case err == nil:
		return c.expired()
	}
	for _, why := range []error{ErrIndeterminate, ErrOverloaded, ErrUnavailable} {
		if errors.Is(err, why) && errors.Is(err, errLate) {
			return fmt.Errorf("%w: %w", c.expired(), why) // it was not the caller who ended it
		}
		if errors.Is(err, why) {
			return fmt.Errorf("%w: %w", c.expired(), err)
		}
	}
	return err
}

func (c *change) expired() error { return fmt.Errorf("%w: key %.64q", ErrExpired, c.key) }

// needs is how many bytes the disk has to take for the change, as far as is known.
func (c *change) needs() int {
	if c.body != nil {
		return int(max(int64(len(c.body.head)), c.body.size)) + c.batch
	}
	return len(c.value) + c.batch
}

// size is what the value takes in memory.
func (c *change) size() int {
	if c.body != nil {
		return len(c.body.head)
	}
	return len(c.value)
}

// known is what is known of a key before it is changed.
type known struct {
	revision uint64 // of its last record; 0: the log has none
	visible  bool
	hides    int64  // until when that record hides what lies beneath it; 0: for ever
	object   string // name of the object that the record refers to; "": none
	sure     bool   // the log's leader has just said so
	aged     bool   // it is invisible because of the age limit of the log, as far as that is known
}

func knownFrom(m *replication.Message, now int64) known {
	visible := m.Record.Op == codec.OpPut && (m.VisibleUntil == 0 || now < m.VisibleUntil)
	k := known{revision: m.Revision, visible: visible, hides: m.HidesUntil, sure: true}
	if m.Record.Object != nil {
		k.object = m.Record.Object.Name
	}
	return k
}

// lookUp tells what the index knows of a key.
func (x *index) lookUp(key string) known {
	r := x.records.find(key)
	if r == nil {
		return known{}
	}
	k := known{revision: r.revision, visible: r.visible(), hides: r.particulars().hides}
	k.aged = !k.visible && r.particulars().aged
	if l := r.large(); l != nil {
		k.object = l.Name
	}
	return k
}

// step is what to do next about a change.
type step uint8

const (
	stepAppend   step = iota // append the record
	stepAsk                  // ask the log's leader what it knows, and decide again
	stepConflict             // the condition does not hold
	stepDone                 // there is nothing to do
)

// plan decides what a change comes to, given what is known of the key. It has
// no effects.
func (c *change) plan(k known, now int64) (step, codec.Record, replication.Expectation) {
	step, expect := c.check(k)
	if step != stepAppend {
		return step, codec.Record{}, expect
	}
	rec := codec.Record{Op: c.op, Value: c.value, Object: c.object, Metadata: c.metadata, Expires: c.expires}
	if until := c.hidesUntil(k); until != forever && !c.keep {
		if until > c.expires {
			rec.Hides = until
		}
		rec.TTL = keepFor(until, now)
	}
	if rec.TTL != 0 || rec.Object != nil {
		// A record with a TTL will be removed, on the strength of what is known to be
		// beneath it. That must still be all there is. And no two records may refer
		// to one object: it can be removed as soon as the one that does is replaced.
		expect = replication.Expectation{Set: true, Revision: k.revision}
	}
	return stepAppend, rec, expect
}

// check decides whether the condition holds.
func (c *change) check(k known) (step, replication.Expectation) {
	exactly := replication.Expectation{Set: true, Revision: k.revision}
	switch c.condition.kind {
	case ifAbsent:
		if k.visible || k.aged {
			return refuse(k), exactly
		}
		return stepAppend, exactly
	case ifRevision:
		want := uint64(c.condition.revision)
		switch {
		case k.revision == want && k.visible:
			return stepAppend, exactly
		case k.revision == want && k.aged:
			return refuse(k), exactly
		case k.revision >= want:
			return stepConflict, exactly // revisions only grow
		}
		return refuse(k), exactly
	}
	if c.op == codec.OpDelete && !k.visible && !c.always {
		if k.sure {
			return stepDone, replication.Expectation{}
		}
		return stepAsk, replication.Expectation{}
	}
	return stepAppend, replication.Expectation{}
}

// refuse is for a condition that does not hold as far as is known.
func refuse(k known) step {
	if k.sure {
		return stepConflict
	}
	return stepAsk
}

const forever = math.MaxInt64

// hidesUntil returns until when the new record has to be there: as long as it is
// visible itself, and as long as anything that lies beneath it could come back.
// A server that dies may forget that it has removed a record, and find the one
// before it (nats-server#8505). A record that is removed only when all that it
// hides has expired cannot do harm by this.
func (c *change) hidesUntil(k known) int64 {
	own := c.expires
	if c.op == codec.OpPut && own == 0 {
		return forever
	}
	if k.revision == 0 {
		return own
	}
	if k.hides == 0 {
		return forever
	}
	return max(own, k.hides)
}

// keepFor returns the TTL of a record in the log: whole seconds, rounded up,
// with the margin, so that until is past by every clock.
func keepFor(until, now int64) time.Duration {
	left := max(until-now, 0)
	if left > int64(math.MaxInt64/time.Millisecond)-int64(time.Hour/time.Millisecond) {
		return 0 // 292 years: for ever
	}
	d := time.Duration(left)*time.Millisecond + ttlMargin
	if part := d % time.Second; part != 0 {
		d += time.Second - part
	}
	return d
}
