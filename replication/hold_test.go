package replication

import (
	"slices"
	"testing"

	"github.com/nearkv/nearkv/codec"
)

// part is a record at a revision, which is part of a batch if count is not 0.
func part(revision uint64, index, count int) Message {
	return Message{Revision: revision, Record: codec.Record{Batch: codec.Batch{Index: index, Count: count}}}
}

// holdRun feeds records to the hold of a cursor that has read its log once.
type holdRun struct {
	cursor
	forged []uint64 // of those that were released
	shown  []uint64
}

func newHoldRun() *holdRun { return &holdRun{cursor: cursor{served: true, live: true}} }

func (h *holdRun) record(m Message) {
	if !h.keep(&m) {
		h.show([]Message{m})
	}
	h.applied(landmark{revision: m.Revision}, 0)
	h.release()
}

func (h *holdRun) release() {
	ms, _ := h.cursor.release()
	h.show(ms)
}

func (h *holdRun) show(ms []Message) {
	for _, m := range ms {
		h.shown = append(h.shown, m.Revision)
		if m.Forged {
			h.forged = append(h.forged, m.Revision)
		}
	}
}

// pursue answers all that is asked for, of a log that ends at last and has these
// records after what has come.
func (h *holdRun) pursue(last uint64, left ...Message) {
	for range 10 {
		view, next := h.wants()
		switch {
		case view:
			h.ask()
			h.inspect(View{Last: last, Replicas: 1})
		case next:
			h.look()
			h.seen(len(left) > 0)
		case len(left) > 0:
			h.record(left[0])
			left = left[1:]
		}
		h.release()
	}
}

func TestHold(t *testing.T) {
	tests := map[string]struct {
		came   []Message
		shown  int       // of them, before anything is asked for
		last   uint64    // where the log ends
		left   []Message // records that come after the leader was asked
		forged []uint64
	}{
		"whole":               {[]Message{part(5, 1, 3), part(6, 2, 3), part(7, 3, 3)}, 3, 7, nil, nil},
		"of two":              {[]Message{part(5, 1, 2), part(6, 2, 2)}, 2, 6, nil, nil},
		"the rest comes late": {[]Message{part(5, 1, 3)}, 0, 7, []Message{part(6, 2, 3), part(7, 3, 3)}, nil},
		"first is missing":    {[]Message{part(6, 2, 3), part(7, 3, 3)}, 0, 9, []Message{part(9, 0, 0)}, nil},
		"middle is missing":   {[]Message{part(5, 1, 3), part(7, 3, 3)}, 0, 9, []Message{part(9, 0, 0)}, nil},
		"last is missing":     {[]Message{part(5, 1, 3), part(6, 2, 3), part(9, 0, 0)}, 0, 9, nil, nil},
		"last has expired":    {[]Message{part(5, 1, 3), part(6, 2, 3)}, 0, 7, nil, nil},
		"all after it is gone": {
			[]Message{part(5, 1, 3), part(6, 2, 3)}, 0, 99, nil, nil,
		},
		"only the last":      {[]Message{part(7, 3, 3)}, 0, 7, nil, nil},
		"cut by another":     {[]Message{part(5, 1, 3), part(8, 1, 2), part(9, 2, 2)}, 0, 9, nil, nil},
		"after a missing":    {[]Message{part(7, 3, 3), part(8, 1, 2), part(9, 2, 2)}, 0, 9, nil, nil},
		"forged and alone":   {[]Message{part(5, 1, 1000)}, 0, 5, nil, []uint64{5}},
		"forged, then plain": {[]Message{part(5, 1, 1000), part(6, 0, 0)}, 2, 6, nil, []uint64{5}},
		"forged, then real":  {[]Message{part(5, 1, 1000), part(6, 1, 2), part(7, 2, 2)}, 3, 7, nil, []uint64{5}},
		"two forged":         {[]Message{part(5, 1, 1000), part(6, 1, 1000)}, 0, 6, nil, []uint64{5, 6}},
		"forged end":         {[]Message{part(4, 0, 0), part(5, 2, 2)}, 2, 5, nil, []uint64{5}},
		"forged middle":      {[]Message{part(4, 0, 0), part(5, 3, 9)}, 2, 5, nil, []uint64{5}},
		"before the first":   {[]Message{part(1, 9, 9)}, 1, 1, nil, []uint64{1}},
		"other count":        {[]Message{part(5, 1, 3), part(6, 2, 4)}, 2, 6, nil, []uint64{5, 6}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHoldRun()
			for _, m := range tt.came {
				h.record(m)
			}
			if len(h.shown) != tt.shown {
				t.Fatalf("shown are %d before anything is asked for", h.shown)
			}
			h.pursue(tt.last, tt.left...)
			if len(h.shown) != len(tt.came)+len(tt.left) || h.hold.active() {
				t.Errorf("shown are %d, and the hold is %+v", h.shown, h.hold)
			}
			if !slices.Equal(h.forged, tt.forged) {
				t.Errorf("forged are %d, not %d", h.forged, tt.forged)
			}
		})
	}
}

// A leader that was deposed may tell the past, and another server may have stored
// what the leader is about to: with copies one short view says nothing.
func TestHoldWithCopies(t *testing.T) {
	h := newHoldRun()
	h.record(part(5, 1, 1000))
	for tick := range 6 {
		h.tick()
		h.ask()
		h.inspect(View{Last: 5, Replicas: 3})
		h.release()
		if shown := len(h.shown) > 0; shown != (tick > 2) {
			t.Fatalf("after %d ticks shown are %d", tick, h.shown)
		}
	}
}

// Batches of which parts are missing, one after the other, hold up nobody for longer
// than it takes to reach the end that was asked for first, and an interval.
func TestHoldIsNotExtendedForever(t *testing.T) {
	h := newHoldRun()
	revision := uint64(10)
	for range 100 {
		h.record(part(revision, 3, 3))
		if view, next := h.wants(); next {
			h.look()
			h.seen(true)
		} else if view {
			h.ask()
			h.inspect(View{Last: revision + 10, Replicas: 1})
		}
		revision += 10
	}
	if len(h.shown) > 0 {
		t.Fatalf("shown are %d before an interval has passed", h.shown)
	}
	h.tick()
	h.tick()
	h.release()
	if len(h.shown) != 100 {
		t.Errorf("shown are %d records after an interval", len(h.shown))
	}
}

// TestHoldIsBounded: what is kept back does not grow forever.
func TestHoldIsBounded(t *testing.T) {
	h := newHoldRun()
	large := part(6, 2, 3) // its beginning is missing
	large.Record.Value = make([]byte, maxHoldBytes/2)
	h.record(large)
	if len(h.shown) > 0 {
		t.Error("complete at once")
	}
	large.Revision, large.Record.Batch = 9, codec.Batch{}
	h.record(large)
	if len(h.shown) != 2 {
		t.Error("not complete at the most that is held")
	}
}
