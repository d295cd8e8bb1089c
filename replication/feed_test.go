package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
	"github.com/nearkv/nearkv/replication/embedded"
)

// recorder is a Replica that writes down what it is told.
type recorder struct {
	mu       sync.Mutex
	epoch    uint64
	applied  []uint64          // revisions of this epoch
	subjects map[string]uint64 // last epoch
	sweeps   []uint64
	values   map[string]string
}

func newRecorder() *recorder {
	return &recorder{subjects: make(map[string]uint64), values: make(map[string]string)}
}

func (r *recorder) Apply(epoch uint64, m Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if epoch != r.epoch {
		r.epoch, r.applied = epoch, nil
	}
	r.applied = append(r.applied, m.Revision)
	r.subjects[m.Subject] = epoch
	r.values[m.Key] = string(m.Record.Value)
}

func (r *recorder) ApplyAll(epoch uint64, ms []Message) {
	for _, m := range ms {
		r.Apply(epoch, m)
	}
}

func (r *recorder) Sweep(epoch uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweeps = append(r.sweeps, epoch)
	maps.DeleteFunc(r.subjects, func(_ string, e uint64) bool { return e != epoch })
}

func (r *recorder) Applied(Position)            {}
func (r *recorder) Landmarks(uint64) []Landmark { return nil }
func (r *recorder) Holds(*Message, uint64) bool { return false }

func (r *recorder) Tally(time.Time) Tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Tally{Least: len(r.subjects), Most: len(r.subjects)}
}

func (r *recorder) revisions() []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.applied)
}

func (r *recorder) swept() []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sweeps)
}

// wants the revisions from 1 to last, each once and in order.
func (r *recorder) wants(t *testing.T, last uint64) {
	t.Helper()
	got := r.revisions()
	for i, revision := range got {
		if revision != uint64(i+1) {
			t.Fatalf("record %d is revision %d", i, revision)
		}
	}
	if uint64(len(got)) != last {
		t.Fatalf("%d records were applied, not %d", len(got), last)
	}
}

// feedLab is a feed on a wire, and a log on another connection to write with.
type feedLab struct {
	server *embedded.Server
	wire   *wire
	log    *Log // writes
	feed   *Feed
	got    *recorder
	js     jetstream.JetStream
}

func withFeed(t *testing.T, cfg Config, test func(t *testing.T, lab *feedLab)) {
	kvstoretest.Run(t, func(t *testing.T) {
		server := startServer(t, embedded.Options{})
		nc := connect(t, server)
		cfg.Memory = true
		lab := &feedLab{server: server, wire: &wire{to: server}, log: openLog(t, nc, "test", cfg), got: newRecorder(), js: newJetStream(t, nc)}
		lab.feed = openLog(t, lab.wire.tough(t), "test", cfg).Follow(lab.got)
		defer lab.feed.Close()
		if err := lab.feed.Settled(t.Context()); err != nil {
			t.Fatal(err)
		}
		test(t, lab)
	})
}

func (lab *feedLab) settle(t *testing.T, last uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := errors.Join(lab.feed.Reached(ctx, last), lab.feed.Settled(ctx)); err != nil {
		t.Fatalf("%v: %+v", err, lab.feed.Status())
	}
}

// Whenever and wherever its connections are cut, a feed applies every record
// once and in order, and has no doubt about the log.
func TestFeedFaults(t *testing.T) {
	withFeed(t, Config{}, func(t *testing.T, lab *feedLab) {
		random, limits := newRand(t, 1), newRand(t, 2)
		lab.wire.setLimit(func() int {
			if limits.IntN(3) == 0 {
				return 1 << 30
			}
			return 500 + limits.IntN(5000) // a connection takes about 450 bytes to begin
		})
		lab.wire.cut()
		last := uint64(0)
		for lab.wire.count() < 300 {
			for range random.IntN(20) {
				last = put(t, lab.log, fmt.Sprint(last), strings.Repeat("x", random.IntN(200)))
			}
			switch random.IntN(8) {
			case 0:
				lab.wire.cut()
			case 1:
				lab.wire.deafen()
				time.Sleep(time.Duration(random.IntN(30)) * time.Second)
				lab.wire.cut()
			}
			time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
		}
		lab.wire.setLimit(nil)
		lab.wire.cut()
		time.Sleep(10 * time.Second)
		lab.settle(t, last)
		lab.got.wants(t, last)
		if s := lab.feed.Status(); s.Resyncs != 1 || s.State != Live || s.Lag() != 0 || s.Applied.Sequence != last {
			t.Errorf("the status is %+v", s)
		}
		t.Logf("%d cuts, %d records", lab.wire.count(), last)
	})
}

// A feed that goes away leaves no consumer, also if its connection was cut
// often; what was left is gone in a minute.
func TestFeedLeavesNoConsumer(t *testing.T) {
	withFeed(t, Config{}, func(t *testing.T, lab *feedLab) {
		consumers := func() (names []string) {
			s, err := lab.js.Stream(t.Context(), "KV_test")
			if err != nil {
				t.Fatal(err)
			}
			list := s.ConsumerNames(t.Context())
			for name := range list.Name() {
				names = append(names, name)
			}
			return names
		}
		for range 10 {
			lab.wire.cut()
			time.Sleep(5 * time.Second)
		}
		time.Sleep(time.Minute)
		if names := consumers(); len(names) != 1 {
			t.Errorf("while the feed is there the consumers are %v", names)
		}
		lab.feed.Close()
		lab.feed.Close()
		synctest.Wait()
		if names := consumers(); len(names) != 0 {
			t.Errorf("after Close the consumers are %v", names)
		}
		if s := lab.feed.Status(); s.State != Closed {
			t.Errorf("the status is %+v", s)
		}
	})
}

// Somebody removes the consumer of a feed.
func TestFeedLosesItsConsumer(t *testing.T) {
	withFeed(t, Config{}, func(t *testing.T, lab *feedLab) {
		s, err := lab.js.Stream(t.Context(), "KV_test")
		if err != nil {
			t.Fatal(err)
		}
		last := uint64(0)
		for i := range 10 {
			list := s.ConsumerNames(t.Context())
			for name := range list.Name() {
				if err := s.DeleteConsumer(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
			last = put(t, lab.log, fmt.Sprint(i), "x")
			lab.settle(t, last)
		}
		lab.got.wants(t, last)
		if s := lab.feed.Status(); s.Resyncs != 1 {
			t.Errorf("the status is %+v", s)
		}
	})
}

// Many records, and large ones, more than one pull request brings.
func TestFeedBacklog(t *testing.T) {
	t.Run("many", func(t *testing.T) {
		l, nc := memoryLog(t, Config{})
		js := newJetStream(t, nc)
		const n = 3*tapBatch + 17
		for i := range n {
			if _, err := js.Publish(t.Context(), fmt.Sprintf("$KV.test.%d", i), []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		catchUp(t, l, n)
	})
	t.Run("large", func(t *testing.T) {
		l, _ := memoryLog(t, Config{})
		value := bytes.Repeat([]byte("x"), 12<<20)
		for i := range 5 {
			put(t, l, fmt.Sprint(i), string(value))
			put(t, l, fmt.Sprintf("small%d", i), "x")
		}
		catchUp(t, l, 10)
	})
}

func catchUp(t *testing.T, l *Log, n uint64) {
	t.Helper()
	got := newRecorder()
	feed := l.Follow(got)
	defer feed.Close()
	if err := feed.Settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	got.wants(t, n)
	if sweeps := got.swept(); !slices.Equal(sweeps, []uint64{1}) {
		t.Errorf("swept %v", sweeps)
	}
	put(t, l, "another", "x")
	if err := feed.Reached(t.Context(), n+1); err != nil {
		t.Fatal(err)
	}
	got.wants(t, n+1)
}

// Doubt makes a feed read everything again, and end that with a sweep.
func TestFeedDoubt(t *testing.T) {
	withFeed(t, Config{}, func(t *testing.T, lab *feedLab) {
		for i := range 100 {
			put(t, lab.log, fmt.Sprint(i%60), "x")
		}
		lab.settle(t, 100)
		lab.feed.Doubt("of a test")
		time.Sleep(time.Second)
		lab.settle(t, 100)
		want := make([]uint64, 0, 60)
		for revision := uint64(41); revision <= 100; revision++ {
			want = append(want, revision)
		}
		if got := lab.got.revisions(); !slices.Equal(got, want) {
			t.Errorf("applied %v", got)
		}
		if sweeps := lab.got.swept(); len(sweeps) < 2 || sweeps[1] != 2 {
			t.Errorf("swept %v", sweeps)
		}
		if s := lab.feed.Status(); s.Resyncs != 2 {
			t.Errorf("the status is %+v", s)
		}
	})
}

func TestFeedWaits(t *testing.T) {
	withFeed(t, Config{CheckInterval: time.Hour}, func(t *testing.T, lab *feedLab) {
		hour, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := lab.feed.Reached(t.Context(), 0); err != nil {
			t.Errorf("Reached(0): %v", err)
		}
		if err := lab.feed.Reached(hour, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Reached in vain: %v", err)
		}
		reached := make(chan error, 8)
		for i := range uint64(cap(reached)) {
			go func() { reached <- lab.feed.Reached(t.Context(), 1+i) }()
		}
		synctest.Wait()
		for i := range cap(reached) {
			put(t, lab.log, "key", "x")
			synctest.Wait()
			if len(reached) != i+1 {
				t.Errorf("at %d, %d have been told", i+1, len(reached))
			}
		}
		if n := lab.feed.waiting.Load(); n != 0 {
			t.Errorf("%d wait", n)
		}
		// Sync knows of what has been written by others.
		last := put(t, lab.log, "key", "x")
		if err := lab.feed.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := lab.feed.Status(); s.Applied.Sequence < last || time.Since(s.Fresh) > time.Second {
			t.Errorf("after Sync the status is %+v", s)
		}
	})
}

// Who waits for a feed is told when it closes.
func TestFeedCloseEndsWaits(t *testing.T) {
	withFeed(t, Config{}, func(t *testing.T, lab *feedLab) {
		cfg := bucketConfig("test")
		if err := lab.js.DeleteStream(t.Context(), cfg.Name); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if s := lab.feed.Status(); s.State != Degraded || !strings.Contains(s.Reason, "does not exist") {
			t.Errorf("without a stream the status is %+v", s)
		}
		waits := []func(context.Context) error{
			func(ctx context.Context) error { return lab.feed.Reached(ctx, 1) },
			func(ctx context.Context) error { _, err := lab.feed.Attached(ctx); return err },
			lab.feed.Settled, lab.feed.Sync,
		}
		for i, wait := range waits {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if err := wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("wait %d ends with %v", i, err)
			}
			cancel()
		}
		done := make(chan error, len(waits))
		for _, wait := range waits {
			go func() { done <- wait(t.Context()) }()
		}
		synctest.Wait()
		lab.feed.Close()
		for range waits {
			if err := <-done; !errors.Is(err, ErrClosed) {
				t.Errorf("a wait ends with %v", err)
			}
		}
	})
}

// The state tells how a feed stands, and it finds its way back from each.
func TestFeedState(t *testing.T) {
	withFeed(t, Config{}, func(t *testing.T, lab *feedLab) {
		expect := func(after time.Duration, want State) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if s := lab.feed.Status(); s.State != want || (s.State != Live) != (s.Reason != "") || s.Since.After(time.Now()) {
				t.Errorf("the status is %+v", s)
			}
		}
		expect(0, Live)
		// Nobody to connect to.
		lab.wire.setLimit(func() int { return 0 })
		lab.wire.cut()
		expect(time.Minute, Stale)
		lab.wire.setLimit(nil)
		expect(10*time.Second, Live)
		// Connected to a server that says nothing.
		lab.wire.deafen()
		expect(30*time.Second, Stale)
		lab.wire.cut()
		expect(10*time.Second, Live)
		// A stream that is none of a bucket.
		if err := lab.js.DeleteStream(t.Context(), "KV_test"); err != nil {
			t.Fatal(err)
		}
		cfg := bucketConfig("test")
		cfg.Retention = jetstream.InterestPolicy
		if _, err := lab.js.CreateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		expect(10*time.Second, Degraded)
		if err := lab.js.DeleteStream(t.Context(), "KV_test"); err != nil {
			t.Fatal(err)
		}
		expect(10*time.Second, Degraded)
		if _, err := lab.js.CreateStream(t.Context(), bucketConfig("test")); err != nil {
			t.Fatal(err)
		}
		expect(10*time.Second, Live)
		if s := lab.feed.Status(); s.Resyncs != 2 {
			t.Errorf("the status is %+v", s)
		}
		lab.feed.Close()
		if s := lab.feed.Status(); s.State != Closed {
			t.Errorf("the status is %+v", s)
		}
	})
}

// A record with a header that looks like a status of the server stops nobody,
// also when it is the landmark by which the log is to be recognised.
func TestFeedHostileLandmarks(t *testing.T) {
	withFeed(t, Config{}, func(t *testing.T, lab *feedLab) {
		last := uint64(0)
		for i, h := range hostile {
			subject := fmt.Sprintf("$KV.test.%d", i)
			last = store(t, lab.server, subject, h.header, h.data)
			lab.settle(t, last)
			lab.wire.cut()
			last = put(t, lab.log, "good", h.name)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			if err := lab.feed.Reached(ctx, last); err != nil {
				t.Fatalf("%s: %v: %+v", h.name, err, lab.feed.Status())
			}
			cancel()
		}
		if s := lab.feed.Status(); s.Resyncs != 1 {
			t.Errorf("the status is %+v", s)
		}
	})
}

// Foreign subjects are told, too.
func TestFeedForeign(t *testing.T) {
	withFeed(t, Config{}, func(t *testing.T, lab *feedLab) {
		store(t, lab.server, "$KV.test.=zz", "NATS/1.0\r\n\r\n", "x")
		lab.settle(t, 1)
		lab.got.mu.Lock()
		defer lab.got.mu.Unlock()
		if value, ok := lab.got.values[""]; !ok || value != "" {
			t.Errorf("told %q", lab.got.values)
		}
	})
}

// Written is what the feed tells of the same record.
func TestWrittenIsDelivered(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		l, _ := memoryLog(t, Config{})
		var told []Message
		feed := l.Follow(replicaFunc(func(m Message) { told = append(told, m) }))
		defer feed.Close()
		now := time.Now().UnixMilli()
		for i, rec := range []codec.Record{
			{Value: []byte("x")},
			{Value: []byte("x"), Metadata: []byte(`"m"`), Expires: now + 5000, TTL: 10 * time.Second},
			{Value: []byte{}, Expires: now + 5000, Hides: now + 9000, TTL: 14 * time.Second, Write: "id"},
			{Op: codec.OpDelete},
		} {
			revision, err := l.Append(t.Context(), fmt.Sprint("key:", i), rec, Expectation{})
			if err != nil {
				t.Fatal(err)
			}
			if err := feed.Reached(t.Context(), revision); err != nil {
				t.Fatal(err)
			}
			got := told[len(told)-1]
			want := l.Written(fmt.Sprint("key:", i), revision, got.Stored, rec)
			want.Subject = l.prefix + codec.Subject(want.Key)
			if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
				t.Errorf("told\n%+v, written\n%+v", got, want)
			}
		}
	})
}

// replicaFunc is a Replica that has any number of records.
type replicaFunc func(Message)

func (f replicaFunc) Apply(_ uint64, m Message) { f(m) }
func (f replicaFunc) ApplyAll(_ uint64, ms []Message) {
	for _, m := range ms {
		f(m)
	}
}
func (f replicaFunc) Sweep(uint64)                {}
func (f replicaFunc) Applied(Position)            {}
func (f replicaFunc) Landmarks(uint64) []Landmark { return nil }
func (f replicaFunc) Holds(*Message, uint64) bool { return false }
func (f replicaFunc) Tally(time.Time) Tally       { return Tally{Most: 1 << 30} }

// A server that counts records which it does not have delivers nothing, however often
// it is asked: its leader's word that there is nothing more is the end of the log.
func TestFeedIsNotHeldUpByACount(t *testing.T) {
	l, _ := memoryLog(t, Config{})
	last := put(t, l, "a", "1")
	view, err := l.view(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	view.Last = last + 2 // these were removed
	f := &Feed{log: l, replica: newRecorder()}
	f.cursor.begin(view)
	f.cursor.at.Sequence = last
	counts := &tap{pending: 22}
	if err := f.begun(t.Context(), counts, view); err != nil || f.cursor.live {
		t.Fatalf("at first the count is believed; live %v, %v", f.cursor.live, err)
	}
	f.stalled = true
	if err := f.begun(t.Context(), counts, view); err != nil || !f.cursor.live || f.cursor.at.Sequence != view.Last {
		t.Errorf("live %v at %d: %v", f.cursor.live, f.cursor.at.Sequence, err)
	}
}

// appliedRecorder counts the calls of Applied.
type appliedRecorder struct {
	*recorder
	told int
}

func (r *appliedRecorder) Applied(Position) { r.told++ }

// A log that was made anew may end within a batch that is kept back. Until that is
// released the replica has records of the log before, and nothing is to be noted of it.
func TestAppliedIsToldAfterTheSweep(t *testing.T) {
	got := &appliedRecorder{recorder: newRecorder()}
	f := &Feed{replica: got}
	c := &f.cursor
	c.served = true
	c.begin(View{Incarnation: "b", Last: 3})
	m := Message{Key: "k", Revision: 3, Record: codec.Record{Batch: codec.Batch{Index: 2, Count: 3}}}
	c.keep(&m)
	f.settled(c.applied(landmark{revision: 3}, 0))
	f.tellApplied()
	if !c.live || got.told != 0 {
		t.Fatalf("live %v, told %d times", c.live, got.told)
	}
	c.hold = hold{}
	if f.tellApplied(); got.told != 1 {
		t.Errorf("told %d times", got.told)
	}
}
