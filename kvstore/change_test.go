package kvstore

import (
	"math"
	"testing"
	"time"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/replication"
)

// A record stays as long as anything that it hides could come back (DESIGN.md,
// section 4). The times are in seconds after now.
func TestExpiryShadow(t *testing.T) {
	const (
		now   = int64(1_700_000_000_000)
		never = 0
		put   = codec.OpPut
		del   = codec.OpDelete
	)
	at := func(seconds int64) int64 { return now + seconds*1000 }
	nothing := known{}
	value := func(hides int64) known { return known{revision: 7, visible: true, hides: hides} }
	tombstone := func(hides int64) known { return known{revision: 7, hides: hides} }
	for _, test := range []struct {
		name    string
		op      codec.Op
		expires int64
		known   known
		ttl     int64 // seconds, with the margin; 0: the record stays
		hides   int64 // as the record says; 0: no longer than it is visible
	}{
		{"value for ever over nothing", put, never, nothing, 0, 0},
		{"value for ever over one that expires", put, never, value(at(10)), 0, 0},
		{"value for ever over one that does not", put, never, value(never), 0, 0},

		{"value that expires over nothing", put, at(10), nothing, 15, 0},
		{"over one that expires earlier", put, at(10), value(at(5)), 15, 0},
		{"over one that expires at the same time", put, at(10), value(at(10)), 15, 0},
		{"over one that expires later", put, at(10), value(at(60)), 65, at(60)},
		{"over one that has expired", put, at(10), tombstone(at(-5)), 15, 0},
		{"over one that never expires", put, at(10), value(never), 0, 0},
		{"over a tombstone until later", put, at(10), tombstone(at(60)), 65, at(60)},
		{"over a tombstone until earlier", put, at(10), tombstone(at(5)), 15, 0},
		{"over a tombstone for ever", put, at(10), tombstone(never), 0, 0},

		{"deletion of one that expires", del, never, value(at(60)), 65, at(60)},
		{"deletion of one that never expires", del, never, value(never), 0, 0},
		{"deletion of one that hides until later", del, never, value(at(90)), 95, at(90)},
		{"deletion of one that has just expired", del, never, value(at(-1)), 5, at(-1)},

		{"value beyond what a duration can hold", put, math.MaxInt64, nothing, 0, 0},
		{"over one that expires beyond it", put, at(10), value(math.MaxInt64 - 1), 0, math.MaxInt64 - 1},
		{"a thousand years", put, at(1000 * 365 * 86400), nothing, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := change{key: "k", op: test.op, expires: test.expires, value: []byte("v"), metadata: []byte("1")}
			step, rec, expect := c.plan(test.known, now)
			if step != stepAppend {
				t.Fatalf("step is %d", step)
			}
			if rec.Op != test.op || rec.Expires != test.expires || string(rec.Value) != "v" || string(rec.Metadata) != "1" {
				t.Errorf("the record is %+v", rec)
			}
			if rec.TTL != time.Duration(test.ttl)*time.Second {
				t.Errorf("TTL is %v, not %ds", rec.TTL, test.ttl)
			}
			if rec.Hides != test.hides {
				t.Errorf("hides until %d, not %d", rec.Hides, test.hides)
			}
			// Who lets a record be removed must know what lies beneath it.
			want := replication.Expectation{}
			if test.ttl != 0 {
				want = replication.Expectation{Set: true, Revision: test.known.revision}
			}
			if expect != want {
				t.Errorf("expects %+v, not %+v", expect, want)
			}
		})
	}
}

// What a record hides can be asked of it again: of what the log stores, read as
// a replica does.
func TestExpiryShadowAddsUp(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	until := func(seconds int64) int64 { return now.UnixMilli() + seconds*1000 }
	write := func(k known, c change) known {
		_, rec, _ := c.plan(k, now.UnixMilli())
		got, err := codec.DecodeRecord(rec.Header(), rec.Value)
		if err != nil {
			t.Fatal(err)
		}
		m := replication.Message{
			Key: "k", Revision: k.revision + 1, Stored: now, Record: got,
			VisibleUntil: got.VisibleUntil(now, 0), HidesUntil: got.HidesUntil(now, 0),
		}
		return knownFrom(&m, now.UnixMilli())
	}
	k := known{}
	for i, step := range []struct {
		change change
		want   known
	}{
		{change{op: codec.OpPut, expires: until(60)}, known{visible: true, hides: until(60)}},
		{change{op: codec.OpPut, expires: until(10)}, known{visible: true, hides: until(60)}},
		{change{op: codec.OpDelete}, known{hides: until(60)}},
		{change{op: codec.OpPut, expires: until(5)}, known{visible: true, hides: until(60)}},
		{change{op: codec.OpPut, expires: until(90)}, known{visible: true, hides: until(90)}},
		{change{op: codec.OpDelete}, known{hides: until(90)}},
		{change{op: codec.OpPut}, known{visible: true}},
		{change{op: codec.OpPut, expires: until(5)}, known{visible: true}},
		{change{op: codec.OpDelete}, known{}},
		{change{op: codec.OpPut, expires: until(5)}, known{visible: true}},
	} {
		step.want.revision, step.want.sure = k.revision+1, true
		if k = write(k, step.change); k != step.want {
			t.Fatalf("step %d: %+v, not %+v", i, k, step.want)
		}
	}
}

func TestKeepFor(t *testing.T) {
	const now = int64(1_700_000_000_000)
	longest := int64((math.MaxInt64 - int64(time.Hour)) / int64(time.Millisecond))
	for _, test := range []struct {
		left int64 // milliseconds
		want time.Duration
	}{
		{-1, ttlMargin},
		{-math.MaxInt64 / 2, ttlMargin},
		{0, ttlMargin},
		{1, ttlMargin + time.Second},
		{999, ttlMargin + time.Second},
		{1000, ttlMargin + time.Second},
		{1001, ttlMargin + 2*time.Second},
		{3_600_000, ttlMargin + time.Hour},
		{longest + 1000, 0},
		{math.MaxInt64 - now, 0},
	} {
		if got := keepFor(now+test.left, now); got != test.want {
			t.Errorf("keepFor(%d) = %v, not %v", test.left, got, test.want)
		}
	}
	for left := range int64(3000) {
		d := keepFor(now+left, now)
		if d%time.Second != 0 || d < time.Duration(left)*time.Millisecond+ttlMargin || d >= time.Duration(left)*time.Millisecond+ttlMargin+time.Second {
			t.Fatalf("keepFor(%d) = %v", left, d)
		}
	}
	if d := keepFor(now+longest-1000, now); d <= 0 || d%time.Second != 0 {
		t.Errorf("just below the longest: %v", d)
	}
}

// A condition is decided by what is known, if that settles it; otherwise the
// leader is asked.
func TestCondition(t *testing.T) {
	const put, del = codec.OpPut, codec.OpDelete
	var (
		none   = condition{}
		absent = condition{kind: ifAbsent}
		five   = condition{ifRevision, 5}
	)
	k := func(revision uint64, visible, sure bool) known {
		return known{revision: revision, visible: visible, sure: sure}
	}
	free, at5 := replication.Expectation{}, replication.Expectation{Set: true, Revision: 5}
	for _, test := range []struct {
		name      string
		op        codec.Op
		condition condition
		known     known
		step      step
		expect    replication.Expectation // if step is stepAppend
	}{
		{"put, nothing there", put, none, k(0, false, false), stepAppend, free},
		{"put, a value there", put, none, k(5, true, false), stepAppend, free},
		{"put, a tombstone there", put, none, k(5, false, true), stepAppend, free},

		{"absent, never seen", put, absent, k(0, false, false), stepAppend, replication.Expectation{Set: true}},
		{"absent, surely not there", put, absent, k(0, false, true), stepAppend, replication.Expectation{Set: true}},
		{"absent, a tombstone", put, absent, k(5, false, false), stepAppend, at5},
		{"absent, seems to be there", put, absent, k(5, true, false), stepAsk, free},
		{"absent, is there", put, absent, k(5, true, true), stepConflict, free},

		{"revision, the same", put, five, k(5, true, false), stepAppend, at5},
		{"revision, the same, surely", put, five, k(5, true, true), stepAppend, at5},
		{"revision, deleted", put, five, k(5, false, false), stepConflict, free},
		{"revision, newer", put, five, k(6, true, false), stepConflict, free},
		{"revision, newer tombstone", put, five, k(6, false, false), stepConflict, free},
		{"revision, seems older", put, five, k(4, true, false), stepAsk, free},
		{"revision, is older", put, five, k(4, true, true), stepConflict, free},
		{"revision, never seen", put, five, k(0, false, false), stepAsk, free},
		{"revision, not there", put, five, k(0, false, true), stepConflict, free},

		{"delete, there", del, none, k(5, true, false), stepAppend, free},
		{"delete, surely there", del, none, k(5, true, true), stepAppend, free},
		{"delete, never seen", del, none, k(0, false, false), stepAsk, free},
		{"delete, not there", del, none, k(0, false, true), stepDone, free},
		{"delete, a tombstone", del, none, k(5, false, false), stepAsk, free},
		{"delete, surely a tombstone", del, none, k(5, false, true), stepDone, free},
		{"delete revision, the same", del, five, k(5, true, false), stepAppend, at5},
		{"delete revision, seems older", del, five, k(4, true, false), stepAsk, free},
		{"delete revision, not there", del, five, k(0, false, true), stepConflict, free},
		{"delete revision, deleted", del, five, k(6, false, true), stepConflict, free},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := change{key: "k", op: test.op, condition: test.condition}
			step, _, expect := c.plan(test.known, 0)
			if step != test.step {
				t.Fatalf("step is %d, not %d", step, test.step)
			}
			if step == stepAppend && expect != test.expect {
				t.Errorf("expects %+v, not %+v", expect, test.expect)
			}
		})
	}
}

// What the log's leader says is visible by the clock, not by what was told.
func TestKnownFrom(t *testing.T) {
	message := func(op codec.Op, visibleUntil int64) *replication.Message {
		return &replication.Message{Revision: 3, VisibleUntil: visibleUntil, HidesUntil: 9, Record: codec.Record{Op: op}}
	}
	for _, test := range []struct {
		m       *replication.Message
		visible bool
	}{
		{message(codec.OpPut, 0), true},
		{message(codec.OpPut, 101), true},
		{message(codec.OpPut, 100), false},
		{message(codec.OpPut, 99), false},
		{message(codec.OpDelete, 0), false},
		{message(codec.OpDelete, 101), false},
	} {
		want := known{revision: 3, visible: test.visible, hides: 9, sure: true}
		if got := knownFrom(test.m, 100); got != want {
			t.Errorf("%+v: %+v, not %+v", test.m, got, want)
		}
	}
}
