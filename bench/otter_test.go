package bench

import (
	"strings"
	"testing"

	"github.com/maypok86/otter/v2"
)

// openOtter returns a reader of an otter.Cache with room for everything, bound
// by bytes as the others are.
func openOtter(b *testing.B, _ server, d dataset) (getFunc, func()) {
	b.Helper()
	cache, err := otter.New(&otter.Options[string, string]{
		MaximumWeight: 1 << 30,
		Weigher:       func(_, value string) uint32 { return uint32(len(value)) },
	})
	if err != nil {
		b.Fatal(err)
	}
	for _, key := range d.keys {
		cache.Set(strings.Clone(key), strings.Clone(d.value))
	}
	cache.CleanUp()
	return cache.GetIfPresent, func() { cache.StopAllGoroutines() }
}
