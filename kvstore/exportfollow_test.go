package kvstore

import (
	"errors"
	"testing"
	"time"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/replication"
)

// When a follower may end, by what it was told since the fence. Deliveries are
// those of the feed, so 0 is one that nothing is told of.
func TestFollowerSettles(t *testing.T) {
	const begun, size = 10, 100 // it was told of 10, and the feed is there
	tests := []struct {
		name    string
		before  []uint64 // told between the beginning and the fence
		after   []uint64 // told since
		applied uint64   // by the feed, then
		at      uint64   // 0: not yet
	}{
		{"nothing happens", nil, nil, begun, begun},
		{"one after the other", []uint64{11, 12}, []uint64{13, 14}, 14, 14},
		{"the feed is about to tell how far it is", nil, []uint64{11, 12}, 11, 12},
		{"something was passed over before", []uint64{11, 15}, []uint64{16}, 16, 16},
		{"something was passed over since", []uint64{11}, []uint64{13}, 13, 0},
		{"that came last", []uint64{11}, []uint64{12, 14}, 14, 0},
		{"the last ones are no more", nil, nil, begun + 2, 0},
		{"some that follow are no more", []uint64{11}, []uint64{12}, 14, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := newIndex(newCache(0))
			tell := func(revisions ...uint64) {
				for _, r := range revisions {
					rec := codec.Record{Value: make([]byte, size)}
					x.Apply(1, replication.Message{Key: "k", Subject: "k", Revision: r, Stored: time.Unix(0, int64(r)), Record: rec})
				}
			}
			tell(begun - 1)
			var f follower
			x.join(&f)
			tell(begun)
			tell(tt.before...)
			applied := uint64(begun)
			if n := len(tt.before); n > 0 {
				applied = tt.before[n-1]
			}
			since := x.fence(&f, applied)
			tell(tt.after...)
			rest, at, ok, err := x.settle(&f, since, tt.applied)
			if at != tt.at || ok != (tt.at != 0) || err != nil {
				t.Fatalf("at %d, %v, %v, not at %d", at, ok, err, tt.at)
			}
			if left := len(x.followers); ok == (left == 1) {
				t.Errorf("%d followers are left", left)
			}
			if ok && (len(rest.order) != 1 || len(rest.moved["k"].value) != size) {
				t.Errorf("left over is %+v", rest)
			}
		})
	}
}

// A follower keeps so many bytes of values, and cannot end while it has keys
// without theirs.
func TestFollowerIsBounded(t *testing.T) {
	x := newIndex(newCache(0))
	revision := uint64(0)
	tell := func(key string, size int, op codec.Op) {
		revision++
		rec := codec.Record{Op: op, Value: make([]byte, size)}
		x.Apply(1, replication.Message{Key: key, Subject: key, Revision: revision, Stored: time.Unix(0, 1), Record: rec})
	}
	settles := func(f *follower, want bool) changes {
		t.Helper()
		rest, _, ok, err := x.settle(f, x.fence(f, revision), revision)
		if ok != want || err != nil {
			t.Fatalf("settles: %v, %v", ok, err)
		}
		return rest
	}
	tell("a", 1, codec.OpPut)
	var f follower
	x.join(&f)
	tell("a", maxHeld-5, codec.OpPut)
	tell("b", 6, codec.OpPut)
	if f.held != maxHeld-5 || f.loose != 1 {
		t.Fatalf("%d bytes are held, %d are loose", f.held, f.loose)
	}
	settles(&f, false)
	tell("a", 0, codec.OpDelete)
	tell("b", 7, codec.OpPut)
	if f.held != 7 || f.loose != 0 {
		t.Fatalf("%d bytes are held, %d are loose", f.held, f.loose)
	}
	rest := settles(&f, true)
	if len(rest.order) != 2 || !rest.moved["a"].deleted || rest.moved["b"].revision != revision {
		t.Errorf("left over is %+v", rest)
	}
}

// A follower whose log is read anew says so.
func TestFollowerLogAnew(t *testing.T) {
	for name, harm := range map[string]func(x *index){
		"record": func(x *index) {
			x.Apply(2, replication.Message{Key: "k", Subject: "k", Revision: 1, Stored: time.Unix(0, 1)})
		},
		"sweep": func(x *index) { x.Sweep(1) },
	} {
		x := newIndex(newCache(0))
		var f follower
		x.Apply(1, replication.Message{Key: "k", Subject: "k", Revision: 1, Stored: time.Unix(0, 1)})
		x.join(&f)
		since := x.fence(&f, 1)
		harm(x)
		if _, _, ok, err := x.settle(&f, since, 1); ok || !errors.Is(err, errLogAnew) {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
		if _, err := x.take(&f); !errors.Is(err, errLogAnew) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
