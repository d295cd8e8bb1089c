package bench

import (
	"math/rand/v2"
	"testing"
)

// getFunc reads one key. It may be called concurrently.
type getFunc func(key string) (string, bool)

// readers are ways to read n keys from memory, and one to read them from the
// log. Each takes the keys that it is to hold.
var readers = []struct {
	name string
	open func(b *testing.B, keys []string) getFunc
}{
	{"nearkv", openNearKV},
	{"ristretto", openRistretto},
	{"otter", openOtter},
	{"syncmap", openSyncMap},
	{"rwmutex", openRWMutex},
	{"jetstream", openJetStream},
}

// BenchmarkGet reads from all processors at once, with 100,000 keys present.
func BenchmarkGet(b *testing.B) {
	all := keysOf(200_000)
	keys, absent := all[:100_000], all[100_000:]
	cases := []struct {
		name  string
		drawn []string
		found bool
	}{
		{"uniform", drawUniform(keys), true},
		{"zipf", drawZipf(keys), true},
		{"hot", drawUniform(keys[:1]), true},
		{"miss", drawUniform(absent), false},
	}
	for _, reader := range readers {
		b.Run("peer="+reader.name, func(b *testing.B) {
			get := reader.open(b, keys)
			for _, c := range cases {
				b.Run("case="+c.name, func(b *testing.B) { benchmarkGet(b, get, c.drawn, c.found) })
			}
		})
	}
}

// benchmarkGet reads the drawn keys, from a random one on in each goroutine, and
// looks at each value.
func benchmarkGet(b *testing.B, get getFunc, drawn []string, found bool) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.Int(); pb.Next(); i++ {
			key := drawn[i%draws]
			if v, ok := get(key); ok != found || (ok && v[0] != value[0]) {
				b.Errorf("%s: found is %v", key, ok)
				return
			}
		}
	})
}
