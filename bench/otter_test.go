package bench

import (
	"strings"
	"testing"

	"github.com/maypok86/otter/v2"
)

// openOtter returns a reader of an otter.Cache with room for everything, bound
// by bytes as the others are.
func openOtter(b *testing.B, keys []string) getFunc {
	b.Helper()
	cache, err := otter.New(&otter.Options[string, string]{
		MaximumWeight: 1 << 30,
		Weigher:       func(_, value string) uint32 { return uint32(len(value)) },
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { cache.StopAllGoroutines() })
	for _, key := range keys {
		cache.Set(key, strings.Clone(value))
	}
	cache.CleanUp()
	return cache.GetIfPresent
}
