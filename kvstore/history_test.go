package kvstore_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/nearkv/nearkv/kvstore"
)

// history is what several workers did to a few keys, on several Stores, and what came of it.
type history struct {
	t      *testing.T
	stores []*kvstore.Store
	began  time.Time

	mu        sync.Mutex
	ops       []porcupine.Operation
	revisions map[kvstore.Revision]historyOp // that were acknowledged
	newest    map[string]kvstore.Revision    // of each key
	acked     []int                          // by store
	outcomes  map[historyOutcome]int
}

// historyOp is one write. A value is written once only, so that it says which write it is of.
type historyOp struct {
	key       string
	condition bool   // on what the key holds
	expected  string // with a condition: the value; "": none
	value     string // "": it deletes
}

type historyOutcome string

const (
	historyDone     historyOutcome = "done"
	historyConflict historyOutcome = "conflict"
	historyUnknown  historyOutcome = "unknown"  // it may have happened, and may yet
	historyRefused  historyOutcome = "not done" // it has not happened and will not

	historyNamespace = "history"

	historyKeys    = 5
	historyWorkers = 2 // of each Store
	historyTimeout = 2 * time.Second
	historyRetry   = 4 * time.Millisecond // a write that took less was not repeated
)

// historyModel is a register for each key, with compare-and-set. An unknown write may have happened or not. One whose time was
// over may happen at any time after its call.
var historyModel = (&porcupine.NondeterministicModel{
	Partition: func(all []porcupine.Operation) (parts [][]porcupine.Operation) {
		byKey := make(map[string][]porcupine.Operation)
		for _, op := range all {
			key := op.Input.(historyOp).key
			byKey[key] = append(byKey[key], op)
		}
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() []any { return []any{""} },
	Step: func(state, input, output any) []any {
		op := input.(historyOp)
		holds := !op.condition || state == op.expected
		switch {
		case output == historyUnknown && holds:
			return []any{state, op.value}
		case output == historyUnknown, output == historyConflict && !holds:
			return []any{state}
		case output == historyDone && holds:
			return []any{op.value}
		}
		return nil
	},
}).ToModel()

func newHistory(t *testing.T, stores []*kvstore.Store) *history {
	return &history{
		t: t, stores: stores, began: time.Now(), acked: make([]int, len(stores)),
		revisions: make(map[kvstore.Revision]historyOp), newest: make(map[string]kvstore.Revision), outcomes: make(map[historyOutcome]int),
	}
}

// write has workers write until the context ends. It returns when they have.
func (h *history) write(ctx context.Context) {
	var work sync.WaitGroup
	for i := range h.stores {
		for w := range historyWorkers {
			work.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					h.step(i, fmt.Sprintf("store%d.%d.%d", i, w, n))
					time.Sleep(rand.N(4 * time.Millisecond))
				}
			})
		}
	}
	work.Wait()
}

// step carries out one write and notes it.
func (h *history) step(i int, value string) {
	s := h.stores[i]
	op := historyOp{key: fmt.Sprintf("key%d", rand.N(historyKeys)), value: value, condition: rand.N(4) > 0}
	remove := rand.N(8) == 0
	e, err := s.Get(h.t.Context(), op.key) // whatever this replica has
	if err == nil {
		op.expected = e.Text()
	}
	var conditions []kvstore.Condition
	if op.condition && err == nil {
		conditions = append(conditions, kvstore.IfRevision(e.Revision()))
	}
	remove = remove && err == nil
	if remove {
		op.value = ""
	}

	ctx, cancel := context.WithTimeout(context.Background(), historyTimeout)
	defer cancel()
	began := time.Since(h.began)
	var revision kvstore.Revision
	switch {
	case remove && op.condition:
		err = s.Delete(ctx, op.key, conditions[0])
	case remove:
		err = s.Delete(ctx, op.key)
	case op.condition && len(conditions) == 0:
		revision, err = s.Put(ctx, op.key, []byte(value), kvstore.IfAbsent())
	case op.condition:
		revision, err = s.Put(ctx, op.key, []byte(value), conditions[0])
	default:
		revision, err = s.Put(ctx, op.key, []byte(value))
	}
	h.note(i, op, began, revision, err)
}

func (h *history) note(i int, op historyOp, began time.Duration, revision kvstore.Revision, err error) {
	ended := int64(time.Since(h.began))
	var outcome historyOutcome
	switch {
	case err == nil:
		outcome = historyDone
	case errors.Is(err, kvstore.ErrConflict):
		outcome = historyConflict
	case errors.Is(err, kvstore.ErrIndeterminate):
		outcome = historyUnknown
		if !op.condition || errors.Is(err, context.DeadlineExceeded) {
			ended = math.MaxInt64
		}
	case errors.Is(err, kvstore.ErrUnavailable), errors.Is(err, kvstore.ErrOverloaded):
		outcome = historyRefused
	default:
		h.t.Errorf("%+v: %v", op, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.outcomes[outcome]++
	if outcome != historyRefused {
		h.ops = append(h.ops, porcupine.Operation{ClientId: i, Input: op, Call: int64(began), Output: outcome, Return: ended})
	}
	if !op.condition && ended-int64(began) > int64(historyRetry) {
		// Without a condition, a write that had no answer and was overwritten is repeated: it may have happened before, too.
		h.ops = append(h.ops, porcupine.Operation{ClientId: i, Input: op, Call: int64(began), Output: historyUnknown, Return: ended})
	}
	if outcome != historyDone {
		return
	}
	h.acked[i]++
	if revision == 0 { // a delete
		return
	}
	if other, twice := h.revisions[revision]; twice {
		h.t.Errorf("revision %d was given to %+v and to %+v", revision, other, op)
	}
	h.revisions[revision] = op
	h.newest[op.key] = max(h.newest[op.key], revision)
}

// ackedBy tells how many writes of a Store were acknowledged.
func (h *history) ackedBy(i int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.acked[i]
}

// verify checks that there is an order in which all happened as it was told, and that all Stores have the same end of it.
func (h *history) verify() {
	h.t.Helper()
	result := porcupine.CheckOperationsTimeout(historyModel, h.ops, time.Minute)
	if result != porcupine.Ok {
		h.t.Errorf("the history of %d operations: %v", len(h.ops), result)
	}
	want := h.keys(h.stores[0])
	for i, s := range h.stores {
		if got := h.keys(s); !slices.EqualFunc(got, want, sameEntry) {
			h.t.Errorf("store %d has %v, store 0 has %v", i, got, want)
		}
	}
	for _, e := range want {
		op, acked := h.revisions[e.Revision()]
		if acked && (op.key != e.Key() || op.value != e.Text()) {
			h.t.Errorf("revision %d is %s of %s, acknowledged was %+v", e.Revision(), e.Text(), e.Key(), op)
		}
		if e.Revision() < h.newest[e.Key()] {
			h.t.Errorf("%s has revision %d, %d was acknowledged", e.Key(), e.Revision(), h.newest[e.Key()])
		}
	}
}

func sameEntry(a, b kvstore.Entry) bool {
	return a.Key() == b.Key() && a.Text() == b.Text() && a.Revision() == b.Revision()
}

// keys returns what a Store has when it has all.
func (h *history) keys(s *kvstore.Store) (all []kvstore.Entry) {
	h.t.Helper()
	wantSync(h.t, s)
	for i := range historyKeys {
		e, err := s.Get(h.t.Context(), fmt.Sprintf("key%d", i))
		if err == nil {
			all = append(all, e)
		} else if !errors.Is(err, kvstore.ErrNotFound) {
			h.t.Fatal(err)
		}
	}
	return all
}

// replay follows a Store and checks that what Watch tells is an order of each key, and ends with what is.
type replay struct {
	revisions map[string]kvstore.Revision
	values    map[string]string
	events    int
	fault     error
	done      chan struct{}
	stop      context.CancelFunc
}

func startReplay(s *kvstore.Store) *replay {
	ctx, stop := context.WithCancel(context.Background())
	r := &replay{
		revisions: make(map[string]kvstore.Revision), values: make(map[string]string), done: make(chan struct{}), stop: stop,
	}
	go func() {
		defer close(r.done)
		for event, err := range s.Watch(ctx, "") {
			if err != nil {
				r.fault = err
				return
			}
			r.events++
			key, revision := event.Entry.Key(), event.Entry.Revision()
			if revision <= r.revisions[key] {
				r.fault = fmt.Errorf("%v of %s: revision %d, %q, was told after %d, %q", event.Kind, key, revision, event.Entry.Text(), r.revisions[key], r.values[key])
				return
			}
			r.revisions[key] = revision
			if event.Kind == kvstore.EventPut {
				r.values[key] = event.Entry.Text()
			} else {
				delete(r.values, key)
			}
		}
	}()
	return r
}

// end waits until the replay has come to what is there, and checks it.
func (r *replay) end(t *testing.T, want []kvstore.Entry) {
	t.Helper()
	time.Sleep(200 * time.Millisecond) // a watch tells a little later than the replica knows
	r.stop()
	<-r.done
	if r.fault != nil {
		t.Error(r.fault)
	}
	if len(r.values) != len(want) {
		t.Errorf("the watch ends with %v, the store with %v", r.values, want)
	}
	for _, e := range want {
		if r.values[e.Key()] != e.Text() || r.revisions[e.Key()] != e.Revision() {
			t.Errorf("the watch ends with %s as %q, the store with %q", e.Key(), r.values[e.Key()], e.Text())
		}
	}
}
