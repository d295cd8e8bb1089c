package bench

import (
	"math/rand/v2"
	"testing"
)

// getFunc reads one key. It may be called concurrently.
type getFunc func(key string) (string, bool)

// A reader is a way to read from memory, or from the log. open stores the data,
// unless it takes them from the server, which has them; it returns how to read
// them and how to let go of them.
type reader struct {
	name string
	open func(b *testing.B, s server, d dataset) (getFunc, func())
}

var readers = []reader{
	{"nearkv", openNearKV},
	{"ristretto", openRistretto},
	{"otter", openOtter},
	{"syncmap", openSyncMap},
	{"rwmutex", openRWMutex},
	{"jetstream", openJetStream},
	{"jetstream-loopback", openJetStreamLoopback},
}

// BenchmarkGet reads from all processors at once: with 100,000 keys and values
// of 100 bytes every kind of request, otherwise fewer keys and zipf alone.
func BenchmarkGet(b *testing.B) {
	all := keysOf(200_000)
	keys, absent := all[:100_000], all[100_000:]
	benchmarkReaders(b, dataset{keys, value}, []request{
		{"uniform", drawUniform(keys), true},
		{"zipf", drawZipf(keys), true},
		{"hot", drawUniform(keys[:1]), true},
		{"miss", drawUniform(absent), false},
	})
	for _, c := range []struct{ keys, size int }{{10_000, 16}, {10_000, 1 << 10}, {1000, 64 << 10}} {
		d := datasetOf(c.keys, c.size)
		benchmarkReaders(b, d, []request{{"zipf", drawZipf(d.keys), true}})
	}
}

// request is the keys that are read, and whether they are there.
type request struct {
	name  string
	drawn []string
	found bool
}

func benchmarkReaders(b *testing.B, d dataset, requests []request) {
	server := startServer(b, "")
	makeNamespace(b, server, d)
	gets := make(map[string]getFunc, len(readers))
	for _, r := range readers {
		get, release := r.open(b, server, d)
		gets[r.name] = get
		defer release()
	}
	for _, q := range requests {
		for _, r := range readers {
			get := gets[r.name]
			run(b, r.name, func(b *testing.B) { benchmarkGet(b, get, q) }, "size=%d/case=%s", len(d.value), q.name)
		}
	}
}

// benchmarkGet reads the drawn keys, from a random one on in each goroutine, and
// touches each value: none begins with a zero.
func benchmarkGet(b *testing.B, get getFunc, q request) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.Int(); pb.Next(); i++ {
			key := q.drawn[i%draws]
			if v, ok := get(key); ok != q.found || (ok && v[0] == 0) {
				b.Errorf("%s: found is %v", key, ok)
				return
			}
		}
	})
}
