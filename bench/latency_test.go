package bench

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// patience is how long a benchmark waits for what takes milliseconds.
const patience = 30 * time.Second

// timed calls op for each number below b.N, from a number of goroutines, and
// reports percentiles of what one call took. It calls op once before, so that
// nothing is counted that only the first call has to do.
func timed(b *testing.B, goroutines int, op func(i int) error) {
	b.Helper()
	if err := op(0); err != nil {
		b.Fatal(err)
	}
	took := make([]time.Duration, b.N)
	var next atomic.Int64
	var workers sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range goroutines {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < b.N && !b.Failed(); i = int(next.Add(1)) - 1 {
				begin := time.Now()
				if err := op(i); err != nil {
					b.Error(err)
				}
				took[i] = time.Since(begin)
			}
		})
	}
	workers.Wait()
	b.StopTimer()
	reportLatency(b, took)
}

// reportLatency leaves a percentile out that so few calls do not have: it would
// be the longest of them.
func reportLatency(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	for _, p := range []struct {
		unit   string
		beyond int // one call of so many took longer
	}{{"p50-ns/op", 2}, {"p90-ns/op", 10}, {"p99-ns/op", 100}, {"p999-ns/op", 1000}} {
		if n := len(took); n >= p.beyond {
			b.ReportMetric(float64(took[n-n/p.beyond]), p.unit)
		}
	}
}
