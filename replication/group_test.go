package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
	"github.com/nearkv/nearkv/replication/embedded"
)

// syncedLog is a log in a directory of a server that syncs.
func syncedLog(t testing.TB) (*Log, *nats.Conn, *wire) {
	t.Helper()
	w := &wire{to: startServer(t, embedded.Options{Dir: t.TempDir(), SyncAlways: true})}
	nc := w.tough(t)
	return openLog(t, nc, "test", Config{Synced: true}), nc, w
}

// outcome is what an append that a test has begun returned.
type outcome struct {
	revision uint64
	err      error
}

// gather has something under way until the function that it returns is called:
// what is appended meanwhile waits.
func gather(t testing.TB, l *Log) (release func()) {
	t.Helper()
	for !l.group.takeOff() {
		time.Sleep(time.Millisecond)
	}
	return l.group.landed
}

// begin appends, and returns when the append waits.
func begin(ctx context.Context, t testing.TB, l *Log, key string, rec codec.Record, expect Expectation) <-chan outcome {
	t.Helper()
	before := waiting(l)
	done := make(chan outcome, 1)
	go func() {
		revision, err := l.Append(ctx, key, rec, expect)
		done <- outcome{revision, err}
	}()
	for waiting(l) == before {
		time.Sleep(time.Millisecond)
	}
	return done
}

func waiting(l *Log) int {
	l.group.mu.Lock()
	defer l.group.mu.Unlock()
	return len(l.group.queue)
}

// batchOf returns the batch in which the last record of a key came, "" if in none.
func batchOf(t testing.TB, nc *nats.Conn, key string) string {
	t.Helper()
	s, err := newJetStream(t, nc).Stream(t.Context(), "KV_test")
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.GetLastMsgForSubject(t.Context(), "$KV.test."+codec.Subject(key))
	if err != nil {
		t.Fatal(err)
	}
	return m.Header.Get(headerBatchID)
}

// holds wants a key to have a value, with the revision that its append returned.
func holds(t testing.TB, l *Log, key, value string, revision uint64) {
	t.Helper()
	m, err := l.Last(t.Context(), key)
	if err != nil {
		t.Errorf("%s: %v", key, err)
		return
	}
	if m.Revision != revision || string(m.Record.Value) != value {
		t.Errorf("%s is %q at %d, not %q at %d", key, m.Record.Value, m.Revision, value, revision)
	}
}

// Each of many writers gets the revision of its own record.
func TestGroupRevisions(t *testing.T) {
	l, nc, _ := syncedLog(t)
	const writers, each = 64, 10
	var wg sync.WaitGroup
	var seen sync.Map
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				key := fmt.Sprintf("w%d.%d", w, i)
				revision := put(t, l, key, key+"!")
				if other, twice := seen.Swap(revision, key); twice {
					t.Errorf("%s and %v are both at %d", key, other, revision)
				}
				holds(t, l, key, key+"!", revision)
			}
		})
	}
	wg.Wait()
	batched := 0
	for w := range writers {
		for i := range each {
			if batchOf(t, nc, fmt.Sprintf("w%d.%d", w, i)) != "" {
				batched++
			}
		}
	}
	if t.Logf("%d of %d in batches", batched, writers*each); batched == 0 {
		t.Error("nothing was written together")
	}
}

// An append that finds nothing under way is a message of its own.
func TestGroupOfOne(t *testing.T) {
	l, nc, _ := syncedLog(t)
	holds(t, l, "key", "value", put(t, l, "key", "value"))
	if id := batchOf(t, nc, "key"); id != "" {
		t.Errorf("it came in batch %s", id)
	}
}

// Those who count with conditions come out right, beside others who do not care.
func TestGroupCounter(t *testing.T) {
	l, _, _ := syncedLog(t)
	const writers, each = 24, 4
	var wg sync.WaitGroup
	var refusals atomic.Int64
	for w := range writers {
		wg.Go(func() {
			for range each {
				for !increment(t, l) {
					refusals.Add(1)
				}
			}
		})
		wg.Go(func() {
			for i := range each {
				put(t, l, fmt.Sprint("other", w), fmt.Sprint(i))
				put(t, l, "hot", fmt.Sprint(w))
			}
		})
	}
	wg.Wait()
	t.Log(refusals.Load(), "refusals")
	if n, _ := counted(t, l); n != writers*each {
		t.Errorf("counted %d, not %d", n, writers*each)
	}
}

func counted(t testing.TB, l *Log) (n int, revision uint64) {
	t.Helper()
	m, err := l.Last(t.Context(), "counter")
	if errors.Is(err, ErrNoRecord) {
		return 0, 0
	}
	if err != nil {
		t.Error(err)
		return 0, 0
	}
	if n, err = strconv.Atoi(string(m.Record.Value)); err != nil {
		t.Error(err)
	}
	return n, m.Revision
}

func increment(t testing.TB, l *Log) bool {
	t.Helper()
	n, revision := counted(t, l)
	_, err := l.Append(t.Context(), "counter", codec.Record{Value: []byte(strconv.Itoa(n + 1))}, Expectation{true, revision})
	if err != nil && !errors.Is(err, ErrWrongRevision) {
		t.Error(err)
		return true
	}
	return err == nil
}

// Who comes when the last request has just landed, and those of the last batch do
// not come again, is sent nevertheless.
func TestGroupLatecomer(t *testing.T) {
	l, _, _ := syncedLog(t)
	g := l.group
	g.expectAgain(64, time.Millisecond)
	done := make(chan outcome, 1)
	if _, err := g.join("key", nil, []byte("x"), Expectation{}, 0, func(revision uint64, err error) { done <- outcome{revision, err} }); err != nil {
		t.Fatal(err)
	}
	select {
	case o := <-done:
		if o.err != nil {
			t.Error(o.err)
		}
		holds(t, l, "key", "x", o.revision)
	case <-time.After(10 * time.Second):
		t.Fatal("it was forgotten")
	}
}

// A condition that fails is nobody else's business.
func TestGroupRefused(t *testing.T) {
	l, nc, _ := syncedLog(t)
	first := put(t, l, "taken", "first")
	release := gather(t, l)
	var plain []<-chan outcome
	for i := range 2 * groupLeast {
		plain = append(plain, begin(t.Context(), t, l, fmt.Sprint("key", i), codec.Record{Value: []byte("x")}, Expectation{}))
	}
	fails := begin(t.Context(), t, l, "taken", codec.Record{Value: []byte("second")}, Expectation{Set: true})
	fits := begin(t.Context(), t, l, "free", codec.Record{Value: []byte("x")}, Expectation{Set: true})
	later := begin(t.Context(), t, l, "free", codec.Record{Value: []byte("y")}, Expectation{Set: true})
	release()
	if o := <-fails; !errors.Is(o.err, ErrWrongRevision) || errors.Is(o.err, ErrUncertain) {
		t.Errorf("the condition that fails: %d, %v", o.revision, o.err)
	}
	holds(t, l, "taken", "first", first)
	o := <-fits
	if o.err != nil {
		t.Errorf("the condition that holds: %v", o.err)
	}
	holds(t, l, "free", "x", o.revision)
	if o := <-later; !errors.Is(o.err, ErrWrongRevision) {
		t.Errorf("the condition that has ceased to hold: %d, %v", o.revision, o.err)
	}
	for i, done := range plain {
		o := <-done
		if o.err != nil {
			t.Errorf("key%d: %v", i, o.err)
		}
		holds(t, l, fmt.Sprint("key", i), "x", o.revision)
		if batchOf(t, nc, fmt.Sprint("key", i)) == "" {
			t.Errorf("key%d came by itself", i)
		}
	}
}

// What the server says of a batch, and not of the records, reaches nobody.
func TestGroupBatchImpossible(t *testing.T) {
	l, _, _ := syncedLog(t)
	release := gather(t, l)
	var all []<-chan outcome
	large := codec.Record{Metadata: bytes.Repeat([]byte("m"), 70_000)} // more than a header holds
	for i := range groupLeast {
		all = append(all, begin(t.Context(), t, l, fmt.Sprint("key", i), codec.Record{Value: []byte("x")}, Expectation{}))
	}
	tooLarge := begin(t.Context(), t, l, "large", large, Expectation{})
	release()
	for i, done := range all {
		o := <-done
		if o.err != nil {
			t.Errorf("key%d: %v", i, o.err)
		}
		holds(t, l, fmt.Sprint("key", i), "x", o.revision)
	}
	refused(t, l, "large", (<-tooLarge).err, ErrTooLarge)
}

// A stream that is full takes no batch, and says so to each.
func TestGroupNoSpace(t *testing.T) {
	nc := connect(t, startServer(t, embedded.Options{Dir: t.TempDir(), SyncAlways: true}))
	l := openLog(t, nc, "test", Config{Synced: true, MaxBytes: 12_000})
	var acked, full int
	for round := range 4 {
		release := gather(t, l)
		var all []<-chan outcome
		for i := range groupLeast {
			all = append(all, begin(t.Context(), t, l, fmt.Sprintf("r%d.%d", round, i), codec.Record{Value: make([]byte, 500)}, Expectation{}))
		}
		release()
		for i, done := range all {
			key := fmt.Sprintf("r%d.%d", round, i)
			switch o := <-done; {
			case o.err == nil:
				acked++
				holds(t, l, key, string(make([]byte, 500)), o.revision)
			default:
				full++
				refused(t, l, key, o.err, ErrNoSpace)
			}
		}
	}
	if acked < groupLeast || full < groupLeast {
		t.Errorf("%d acknowledged, %d refused", acked, full)
	}
}

// Those who do not wait for each answer share syncs too, and those of one key
// keep their order.
func TestGroupSend(t *testing.T) {
	l, nc, _ := syncedLog(t)
	if l.CanIngest() {
		t.Error("runs, which are synced record by record, are offered")
	}
	const keys, times = 100, 5
	var wg sync.WaitGroup
	var last [keys]atomic.Uint64
	var value []byte // used again, as it is not kept
	for i := range keys * times {
		key := i % keys
		wg.Add(1)
		value = fmt.Append(value[:0], i/keys)
		err := l.Send(fmt.Sprint("key", key), codec.Record{Value: value}, Expectation{}, func(revision uint64, err error) {
			defer wg.Done()
			if before := last[key].Swap(revision); err != nil || revision <= before {
				t.Errorf("write %d of key%d is at %d, the one before at %d: %v", i/keys, key, revision, before, err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	copy(value, "X")
	wg.Wait()
	batches := make(map[string]bool)
	for key := range keys {
		holds(t, l, fmt.Sprint("key", key), fmt.Sprint(times-1), last[key].Load())
		batches[batchOf(t, nc, fmt.Sprint("key", key))] = true
	}
	if t.Logf("the last %d records came in %d batches", keys, len(batches)); batches[""] || len(batches) > keys/groupLeast {
		t.Error("they were not sent together")
	}
}

func TestGroupTTL(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		l, _, _ := syncedLog(t)
		release := gather(t, l)
		var all []<-chan outcome
		for i := range groupLeast {
			all = append(all, begin(t.Context(), t, l, fmt.Sprint("key", i), codec.Record{Value: []byte("x"), TTL: time.Second}, Expectation{}))
		}
		release()
		for i, done := range all {
			holds(t, l, fmt.Sprint("key", i), "x", (<-done).revision)
		}
		time.Sleep(10 * time.Second)
		for i := range groupLeast {
			if _, err := l.Last(t.Context(), fmt.Sprint("key", i)); !errors.Is(err, ErrNoRecord) {
				t.Errorf("after its TTL: %v", err)
			}
		}
	})
}

// Connections break at any byte. What was acknowledged is there, what was
// refused is not.
func TestGroupCutConnections(t *testing.T) {
	l, _, w := syncedLog(t)
	rng := newRand(t, uint64(time.Now().UnixNano()))
	w.setLimit(func() int { return 500 + rng.IntN(40_000) }) // called under a lock
	w.cut()
	outcomes := make([][]error, 64)
	var wg sync.WaitGroup
	for g := range outcomes {
		wg.Go(func() {
			for i := range 30 {
				_, err := l.Append(t.Context(), fmt.Sprintf("w%d.%d", g, i), codec.Record{Value: make([]byte, 100)}, Expectation{Set: i%2 == 0})
				outcomes[g] = append(outcomes[g], err)
				if errors.Is(err, ErrUnavailable) {
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
	w.setLimit(nil)
	w.cut()
	checkOutcomes(t, l, outcomes)
	t.Log(w.count(), "cuts")
}

// A batch whose answer is lost is uncertain, and not sent again.
func TestGroupAnswerLost(t *testing.T) {
	server := startServer(t, embedded.Options{Dir: t.TempDir(), SyncAlways: true})
	w := &wire{to: server}
	l := openLog(t, w.tough(t), "test", Config{Synced: true})
	other := openLog(t, connect(t, server), "test", Config{})
	release := gather(t, l)
	var all []<-chan outcome
	for i := range groupLeast {
		all = append(all, begin(t.Context(), t, l, fmt.Sprint("key", i), codec.Record{}, Expectation{Set: true}))
	}
	w.deafen()
	release()
	for errors.Is(lastSoon(t, other, "key0"), ErrNoRecord) {
		time.Sleep(time.Millisecond)
	}
	w.cut()
	for i, done := range all {
		if o := <-done; !errors.Is(o.err, ErrUncertain) || errors.Is(o.err, ErrUnavailable) {
			t.Errorf("the error is %v", o.err)
		}
		if err := lastSoon(t, other, fmt.Sprint("key", i)); err != nil {
			t.Errorf("key%d: %v", i, err)
		}
	}
}

func checkOutcomes(t *testing.T, l *Log, outcomes [][]error) {
	t.Helper()
	var acked, uncertain, not int
	for g := range outcomes {
		for i, err := range outcomes[g] {
			key := fmt.Sprintf("w%d.%d", g, i)
			last := lastSoon(t, l, key)
			switch {
			case errors.Is(err, ErrUncertain):
				uncertain++
			case err == nil:
				acked++
				if last != nil {
					t.Errorf("%s was acknowledged: %v", key, last)
				}
			default:
				not++
				if !errors.Is(last, ErrNoRecord) {
					t.Errorf("%s was refused with %v, and is there: %v", key, err, last)
				}
			}
		}
	}
	if t.Logf("%d acknowledged, %d uncertain, %d not written", acked, uncertain, not); acked == 0 || uncertain == 0 {
		t.Error("this has tested nothing")
	}
}

// lastSoon is the error of Last, when the log can be asked.
func lastSoon(t *testing.T, l *Log, key string) error {
	for {
		_, err := l.Last(t.Context(), key)
		if err == nil || errors.Is(err, ErrNoRecord) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestGroupContext(t *testing.T) {
	t.Run("waiting", func(t *testing.T) {
		l, _, _ := syncedLog(t)
		release := gather(t, l)
		ctx, cancel := context.WithCancel(t.Context())
		done := begin(ctx, t, l, "key", codec.Record{}, Expectation{})
		cancel()
		o := <-done
		release()
		put(t, l, "other", "x")
		refused(t, l, "key", o.err, ErrUnavailable, context.Canceled)
	})
	t.Run("under way", func(t *testing.T) {
		l, _, w := syncedLog(t)
		release := gather(t, l)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var all []<-chan outcome
		for i := range groupLeast {
			all = append(all, begin(ctx, t, l, fmt.Sprint("key", i), codec.Record{}, Expectation{}))
		}
		w.deafen()
		release()
		for waiting(l) > 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
		for _, done := range all {
			if o := <-done; !errors.Is(o.err, ErrUncertain) || !errors.Is(o.err, context.Canceled) || errors.Is(o.err, ErrUnavailable) {
				t.Errorf("the error is %v", o.err)
			}
		}
		w.cut()
	})
}

// Close ends those that wait and those that are under way, and who comes later.
func TestGroupClose(t *testing.T) {
	l, _, w := syncedLog(t)
	release := gather(t, l)
	var sent []<-chan outcome
	for i := range groupLeast {
		sent = append(sent, begin(t.Context(), t, l, fmt.Sprint("key", i), codec.Record{}, Expectation{}))
	}
	w.deafen()
	release()
	for waiting(l) > 0 {
		time.Sleep(time.Millisecond)
	}
	waits := begin(t.Context(), t, l, "key", codec.Record{}, Expectation{})
	told := make(chan error, 1)
	if err := l.Send("key", codec.Record{}, Expectation{}, func(_ uint64, err error) { told <- err }); err != nil {
		t.Fatal(err)
	}
	l.Close()
	for _, done := range sent {
		if o := <-done; !errors.Is(o.err, ErrUncertain) {
			t.Errorf("under way: %v", o.err)
		}
	}
	_, after := l.Append(t.Context(), "key", codec.Record{}, Expectation{})
	for _, err := range []error{(<-waits).err, <-told, after} {
		if !errors.Is(err, ErrUnavailable) || !errors.Is(err, ErrClosed) || errors.Is(err, ErrUncertain) {
			t.Errorf("waiting or later: %v", err)
		}
	}
}

// What the log does not sync cannot be said to be.
func TestSyncedRefuses(t *testing.T) {
	nc := connect(t, startServer(t, embedded.Options{Dir: t.TempDir(), SyncAlways: true}))
	js := newJetStream(t, nc)
	for name, change := range map[string]func(*jetstream.StreamConfig){
		"memory": func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage },
		"async":  func(c *jetstream.StreamConfig) { c.PersistMode = jetstream.AsyncPersistMode },
	} {
		cfg := bucketConfig(name)
		cfg.Storage = jetstream.FileStorage
		change(&cfg)
		if _, err := js.CreateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), nc, name, Config{Synced: true}); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A bucket of others may take no batches: its appends go one by one.
func TestSyncedWithoutBatches(t *testing.T) {
	nc := connect(t, startServer(t, embedded.Options{Dir: t.TempDir(), SyncAlways: true}))
	cfg := bucketConfig("test")
	cfg.Storage = jetstream.FileStorage
	if _, err := newJetStream(t, nc).CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	l := openLog(t, nc, "test", Config{Synced: true})
	if l.CanGroup() {
		t.Error("it takes batches")
	}
	var wg sync.WaitGroup
	for i := range 4 * groupLeast {
		wg.Go(func() {
			key := fmt.Sprint("key", i)
			holds(t, l, key, "x", put(t, l, key, "x"))
		})
	}
	wg.Wait()
}

func TestCut(t *testing.T) {
	plain := func(key string) *member { return &member{key: key} }
	expecting := func(key string) *member { return &member{key: key, expect: Expectation{Set: true}} }
	large := func(key string) *member { return &member{key: key, data: make([]byte, groupMaxBytes)} }
	alone := func(m *member) *member { m.alone = true; return m }
	again := func(m *member) *member { m.again = true; return m }
	gone := func(m *member) *member { m.left = true; return m }
	for _, test := range []struct {
		name    string
		queue   []*member
		members []int
		rest    []int
	}{
		{"none", nil, nil, nil},
		{"all", []*member{plain("a"), expecting("b"), plain("c")}, []int{0, 1, 2}, nil},
		{"one key, again and again", []*member{plain("a"), plain("a"), plain("a")}, []int{0, 1, 2}, nil},
		{"a condition first", []*member{expecting("a"), plain("a")}, []int{0, 1}, nil},
		{"a condition behind", []*member{plain("a"), expecting("a"), plain("a"), plain("b")}, []int{0, 3}, []int{1, 2}},
		{"refused before", []*member{alone(expecting("a")), plain("a"), plain("b")}, []int{2}, []int{0, 1}},
		{"refused because of another", []*member{again(plain("a")), expecting("b"), plain("b"), plain("c")}, []int{0, 3}, []int{1, 2}},
		{"left", []*member{gone(plain("a")), plain("b")}, []int{1}, nil},
		{"large", []*member{plain("a"), large("b"), large("c"), plain("d")}, []int{0, 1}, []int{2, 3}},
		{"larger", []*member{{key: "a", data: make([]byte, groupMaxBytes+1)}, plain("b")}, nil, []int{0, 1}},
	} {
		members, rest := cut(test.queue)
		if !same(test.queue, members, test.members) || !same(test.queue, rest, test.rest) {
			t.Errorf("%s: %d and %d members", test.name, len(members), len(rest))
		}
	}
	var many []*member
	for i := range groupMost + 5 {
		many = append(many, plain(fmt.Sprint(i)))
	}
	if members, rest := cut(many); len(members) != groupMost || len(rest) != 5 {
		t.Errorf("of many: %d and %d", len(members), len(rest))
	}
}

func same(queue, got []*member, want []int) bool {
	for i, at := range want {
		if i >= len(got) || got[i] != queue[at] {
			return false
		}
	}
	return len(got) == len(want)
}

// An append that waits for others is not sent when its entry has expired.
func TestGroupLeavesOutWhatHasExpired(t *testing.T) {
	l, _, _ := syncedLog(t)
	release := gather(t, l)
	late, good := make(chan outcome, 1), make(chan outcome, 1)
	for expires, done := range map[int64]chan outcome{
		time.Now().Add(-time.Second).UnixMilli(): late, time.Now().Add(time.Hour).UnixMilli(): good,
	} {
		rec := codec.Record{Value: []byte("x"), Expires: expires}
		err := l.Send(fmt.Sprint("k", expires), rec, Expectation{}, func(revision uint64, err error) { done <- outcome{revision, err} })
		if err != nil {
			t.Fatal(err)
		}
	}
	release()
	if o := <-late; !errors.Is(o.err, ErrUnavailable) {
		t.Errorf("the late one: %+v", o)
	}
	if o := <-good; o.err != nil || o.revision != 1 {
		t.Errorf("the other: %+v", o)
	}
}
