package bench

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// BenchmarkWatch delivers every write to many replicas in this process: one
// write after the other, and so many at a time that all are busy. The writer is
// the same for all peers.
func BenchmarkWatch(b *testing.B) {
	for _, replicas := range []int{1, 10, 100} {
		for _, inflight := range []int{1, 256} {
			for _, f := range followers {
				run(b, f.name, func(b *testing.B) { benchmarkWatch(b, replicas, inflight, f.follow) },
					"replicas=%d/inflight=%d", replicas, inflight)
			}
		}
	}
}

// followers call seen with the sequence of each write, until the benchmark ends.
var followers = []struct {
	name   string
	follow func(b *testing.B, s server, seen func(sequence uint64))
}{
	{"nearkv", followStore},
	{"consumer", func(b *testing.B, s server, seen func(uint64)) {
		follow(b, openStreamOf(b, s, "KV_bench"), func(m jetstream.Msg) {
			meta, err := m.Metadata()
			if err != nil {
				b.Error(err)
				return
			}
			seen(meta.Sequence.Stream)
		})
	}},
	{"jetstream", followBucket},
}

func followStore(b *testing.B, s server, seen func(uint64)) {
	store := openStore(b, s)
	ctx, cancel := context.WithCancel(context.Background())
	var watch sync.WaitGroup
	watch.Go(func() {
		for event, err := range store.Watch(ctx, "") {
			if err != nil {
				b.Error(err)
				return
			}
			seen(uint64(event.Entry.Revision()))
		}
	})
	b.Cleanup(func() {
		cancel()
		watch.Wait()
	})
}

func followBucket(b *testing.B, s server, seen func(uint64)) {
	watch, err := openBucket(b, s).WatchAll(context.Background(), jetstream.UpdatesOnly())
	if err != nil {
		b.Fatal(err)
	}
	var loop sync.WaitGroup
	loop.Go(func() {
		for entry := range watch.Updates() {
			seen(entry.Revision())
		}
	})
	b.Cleanup(func() {
		if err := watch.Stop(); err != nil {
			b.Error(err)
		}
		loop.Wait()
	})
}

// arrivals keeps when each write began and arrived where.
type arrivals struct {
	begins  []time.Time
	missing []atomic.Int32    // replicas that do not have the write yet
	took    [][]time.Duration // by replica
	slots   chan struct{}     // one for each write that is under way
}

func newArrivals(writes, replicas, inflight int) *arrivals {
	a := &arrivals{
		begins: make([]time.Time, writes), missing: make([]atomic.Int32, writes),
		took: make([][]time.Duration, replicas), slots: make(chan struct{}, inflight),
	}
	for i := range a.missing {
		a.missing[i].Store(int32(replicas))
	}
	for i := range a.took {
		a.took[i] = make([]time.Duration, 0, writes)
	}
	return a
}

// arrived is called by each replica for each write. The sequence of the first
// is 1.
func (a *arrivals) arrived(replica int, sequence uint64) {
	a.took[replica] = append(a.took[replica], time.Since(a.begins[sequence-1]))
	if a.missing[sequence-1].Add(-1) == 0 {
		<-a.slots
	}
}

// begin waits until there is room for one more write.
func (a *arrivals) begin(i int) error {
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case a.slots <- struct{}{}:
		a.begins[i] = time.Now()
		return nil
	case <-late.C:
		return errors.New("a write did not arrive everywhere")
	}
}

// benchmarkWatch writes to 10,000 keys in turn, more than there are writes under
// way, so that no watch may leave one out.
func benchmarkWatch(b *testing.B, replicas, inflight int, follow func(*testing.B, server, func(uint64))) {
	keys := keysOf(10_000)
	server := startServer(b, "")
	makeNamespace(b, server, dataset{})
	a := newArrivals(b.N+1, replicas, inflight)
	for i := range replicas {
		follow(b, server, func(sequence uint64) { a.arrived(i, sequence) })
	}
	p, data := newPublisher(b, connect(b, server)), []byte(value)
	write := func(i int) {
		if err := a.begin(i); err != nil {
			b.Fatal(err)
		}
		if err := p.publish("$KV.bench."+keys[i%len(keys)], data); err != nil {
			b.Fatal(err)
		}
	}
	write(0) // nothing is counted that only the first has to do
	a.drain(b)
	b.ResetTimer()
	for i := range b.N {
		write(i + 1)
	}
	a.drain(b)
	b.StopTimer()
	if err := p.flush(); err != nil {
		b.Fatal(err)
	}
	a.report(b)
}

// drain waits until every write has arrived.
func (a *arrivals) drain(b *testing.B) {
	b.Helper()
	for end := time.Now().Add(patience); len(a.slots) > 0; time.Sleep(10 * time.Microsecond) {
		if time.Now().After(end) {
			b.Fatal("a write did not arrive everywhere")
		}
	}
}

func (a *arrivals) report(b *testing.B) {
	b.Helper()
	for i := range a.took {
		a.took[i] = a.took[i][1:]
	}
	took := slices.Concat(a.took...)
	reportLatency(b, took)
	b.ReportMetric(float64(len(took))/b.Elapsed().Seconds(), "applied/s")
}
