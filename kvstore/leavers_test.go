package kvstore

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nearkv/nearkv/codec"
)

// slowly counts what leavers counts, by looking at each record.
func (x *index) slowly(now int64) (n int) {
	for r := range x.records.all() {
		if r.leaving(now) {
			n++
		}
	}
	return n
}

// The count of the records that the log may have removed is that of a look at each
// of them, whatever comes, goes and expires, and wherever the clock goes.
func TestTallyCountsWhatLeaves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := newIndex(newCache(1 << 20))
		start := time.Now().UnixMilli()
		now, revision, epoch := start, uint64(0), uint64(1)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 6).Draw(t, "what") {
			case 0, 1, 2:
				revision++
				m := message(fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "key")), revision, "x")
				if rapid.Bool().Draw(t, "mortal") {
					m.HidesUntil = now + rapid.Int64Range(-50_000, 50_000).Draw(t, "hides")
					m.VisibleUntil = m.HidesUntil - rapid.Int64Range(0, 2000).Draw(t, "before")
				}
				if rapid.Bool().Draw(t, "deleted") {
					m.Record.Op, m.VisibleUntil = codec.OpDelete, 0
				}
				x.Apply(epoch, m)
			case 3:
				x.expireSome(now)
			case 4:
				now += rapid.Int64Range(0, 5000).Draw(t, "pass")
			case 5:
				now += rapid.Int64Range(-200_000, 200_000).Draw(t, "set")
			case 6:
				epoch++
				x.Sweep(epoch)
			}
			tally := x.Tally(time.UnixMilli(now))
			if got, want := tally.Most-tally.Least-len(x.unconfirmed), x.slowly(now); got != want {
				t.Fatalf("%d records leave, counted %d", want, got)
			}
		}
		if err := checkInvariants(x); err != nil {
			t.Fatal(err)
		}
	})
}

// A million keys expire within the second.
func BenchmarkTally(b *testing.B) {
	const keys = 1_000_000
	x := newIndex(newCache(0))
	until := time.Now().Add(25 * time.Second).UnixMilli()
	for i := range keys {
		m := message(fmt.Sprint("key", i), uint64(i+1), "")
		m.VisibleUntil, m.HidesUntil = until, until
		x.Apply(1, m)
	}
	for now := time.Now(); b.Loop(); now = now.Add(2 * time.Second) {
		x.Tally(now)
	}
}
