package bench

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const valueSize = 100 // bytes

var value = strings.Repeat("v", valueSize)

// keysOf returns n keys, a thousand for each prefix "g<number>.". All are
// literal NATS subjects, so that every peer can have them.
func keysOf(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("g%06d.%03d", i/1000, i%1000)
	}
	return keys
}

// draws is how many keys are drawn before a benchmark begins. A power of two.
const draws = 1 << 18

// drawUniform draws each key with the same probability.
func drawUniform(keys []string) []string {
	r := rand.New(rand.NewPCG(1, 2))
	return draw(func() string { return keys[r.IntN(len(keys))] })
}

// drawZipf draws the k-th key with a probability in proportion to k^-1.1. Which
// keys are popular has nothing to do with their names.
func drawZipf(keys []string) []string {
	r := rand.New(rand.NewPCG(1, 2))
	shuffled := slices.Clone(keys)
	r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	z := rand.NewZipf(r, 1.1, 1, uint64(len(keys)-1))
	return draw(func() string { return shuffled[z.Uint64()] })
}

// draw copies the keys, since those of a request are not the very strings that
// a cache holds either: comparing equal pointers would be too easy.
func draw(next func() string) []string {
	drawn := make([]string, draws)
	for i := range drawn {
		drawn[i] = strings.Clone(next())
	}
	return drawn
}

// timed calls op for each number below b.N, from a number of goroutines, and
// reports the median and the 99th percentile of what one call took. It calls op
// once before, so that nothing is counted that only the first call has to do.
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

func reportLatency(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2]), "p50-ns/op")
	b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns/op")
}
