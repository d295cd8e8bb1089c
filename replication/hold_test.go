package replication

import (
	"testing"

	"github.com/nearkv/nearkv/codec"
)

// part is a record at a revision, which is part of a batch if count is not 0.
func part(revision uint64, index, count int) Message {
	return Message{Revision: revision, Record: codec.Record{Batch: codec.Batch{Index: index, Count: count}}}
}

func TestHold(t *testing.T) {
	type step struct {
		m        Message
		complete bool
	}
	tests := map[string]struct {
		steps []step
		ask   bool // afterwards
	}{
		"whole":               {[]step{{part(5, 1, 3), false}, {part(6, 2, 3), false}, {part(7, 3, 3), true}}, false},
		"of two":              {[]step{{part(5, 1, 2), false}, {part(6, 2, 2), true}}, false},
		"first is missing":    {[]step{{part(6, 2, 3), false}, {part(7, 3, 3), false}}, true},
		"middle is missing":   {[]step{{part(5, 1, 3), false}, {part(7, 3, 3), false}}, true},
		"last is missing":     {[]step{{part(5, 1, 3), false}, {part(6, 2, 3), false}, {part(9, 0, 0), false}}, true},
		"only the last":       {[]step{{part(7, 3, 3), false}}, true},
		"cut by another":      {[]step{{part(5, 1, 3), false}, {part(8, 1, 2), false}, {part(9, 2, 2), false}}, true},
		"behind a missing":    {[]step{{part(7, 3, 3), false}, {part(8, 1, 2), false}, {part(9, 2, 2), false}}, true},
		"record in a batch":   {[]step{{part(5, 1, 3), false}, {part(6, 0, 0), false}, {part(7, 3, 3), false}}, true},
		"one that is whole":   {[]step{{part(5, 1, 2), false}, {part(6, 2, 2), true}}, false},
		"far beyond the last": {[]step{{part(5, 1, 2), false}, {part(100, 0, 0), false}}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var h hold
			for i, s := range tt.steps {
				if got := h.add(s.m); got != s.complete {
					t.Fatalf("step %d: complete %v", i, got)
				}
			}
			if h.ask != tt.ask {
				t.Fatalf("ask is %v", h.ask)
			}
			if !h.ask {
				return
			}
			last := tt.steps[len(tt.steps)-1].m.Revision
			h.told(last + 10)
			if h.reached(last + 9) {
				t.Error("complete before the end of the log")
			}
			if !h.reached(last + 10) {
				t.Error("not complete at the end of the log")
			}
		})
	}
}

// TestHoldIsBounded: what is kept back does not grow for ever.
func TestHoldIsBounded(t *testing.T) {
	var h hold
	large := part(6, 2, 3) // its beginning is missing
	large.Record.Value = make([]byte, maxHoldBytes/2)
	if h.add(large) {
		t.Error("complete at once")
	}
	large.Revision, large.Record.Batch = 9, codec.Batch{}
	if !h.add(large) {
		t.Error("not complete at the most that is held")
	}
}
