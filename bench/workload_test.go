package bench

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

// fullEnv makes the benchmarks of sizesOf run with a million keys too.
const fullEnv = "NEARKV_BENCH_FULL"

// sizesOf returns the numbers of keys that are to be measured. Without fullEnv
// those beyond 100,000 are left out: to write a million takes half a minute.
func sizesOf(sizes ...int) []int {
	if os.Getenv(fullEnv) != "" {
		return sizes
	}
	return slices.DeleteFunc(sizes, func(n int) bool { return n > 100_000 })
}

// dataset is what a benchmark stores: the same value for each key.
type dataset struct {
	keys  []string
	value string
}

const valueSize = 100 // bytes, where nothing else is said

var value = strings.Repeat("v", valueSize)

func datasetOf(n, size int) dataset { return dataset{keysOf(n), strings.Repeat("v", size)} }

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

// run names the sub-benchmark of a peer last, and adjacent to those of the
// others: what else the machine does hits all of them.
func run(b *testing.B, peer string, f func(b *testing.B), format string, args ...any) {
	b.Run(fmt.Sprintf(format, args...)+"/peer="+peer, f)
}
