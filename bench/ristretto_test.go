package bench

import (
	"strings"
	"testing"

	"github.com/dgraph-io/ristretto/v2"
)

// openRistretto returns a reader of a ristretto.Cache with room for everything.
func openRistretto(b *testing.B, _ server, d dataset) (getFunc, func()) {
	b.Helper()
	cache, err := ristretto.NewCache(&ristretto.Config[string, string]{
		NumCounters: 10 * int64(len(d.keys)),
		MaxCost:     1 << 30,
		BufferItems: 64,
	})
	if err != nil {
		b.Fatal(err)
	}
	for _, key := range d.keys {
		for !cache.Set(key, strings.Clone(d.value), int64(len(d.value))) { // its queue was full
			cache.Wait()
		}
	}
	cache.Wait()
	return cache.Get, cache.Close
}
