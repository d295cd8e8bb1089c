package bench

import (
	"strings"
	"testing"

	"github.com/dgraph-io/ristretto/v2"
)

// openRistretto returns a reader of a ristretto.Cache with room for everything.
func openRistretto(b *testing.B, keys []string) getFunc {
	b.Helper()
	cache, err := ristretto.NewCache(&ristretto.Config[string, string]{
		NumCounters: 10 * int64(len(keys)),
		MaxCost:     1 << 30,
		BufferItems: 64,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(cache.Close)
	for _, key := range keys {
		for !cache.Set(key, strings.Clone(value), valueSize) { // its queue was full
			cache.Wait()
		}
	}
	cache.Wait()
	return cache.Get
}
