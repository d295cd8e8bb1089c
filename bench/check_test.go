package bench

import (
	"context"
	"fmt"
	"iter"
	"testing"

	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/replication/embedded"
)

// BenchmarkCheckOfDir opens a Store of a Dir, which checks the directory first, and
// does the check alone: what Open would take without it is the difference. The bar is
// that Open takes at most 1.15 times that.
func BenchmarkCheckOfDir(b *testing.B) {
	for _, n := range sizesOf(10_000, 1_000_000) {
		dir := b.TempDir()
		fillDir(b, dir, n)
		run(b, "open", func(b *testing.B) {
			for b.Loop() {
				store := openDir(b, dir)
				b.StopTimer()
				if keys := store.Stats().Keys; keys != n {
					b.Fatalf("%d keys", keys)
				}
				closeStore(b, store)
				b.StartTimer()
			}
		}, "n=%d", n)
		run(b, "check", func(b *testing.B) {
			for b.Loop() {
				if r, err := embedded.Check(context.Background(), dir); err != nil || len(r.Damage) > 0 {
					b.Fatal(r, err)
				}
			}
		}, "n=%d", n)
	}
}

func openDir(b *testing.B, dir string) *kvstore.Store {
	store, err := kvstore.Open(context.Background(), "bench", kvstore.Options{Dir: dir, Exclusive: true})
	if err != nil {
		b.Fatal(err)
	}
	return store
}

func fillDir(b *testing.B, dir string, n int) {
	store := openDir(b, dir)
	value := make([]byte, valueSize)
	var pairs iter.Seq[kvstore.Pair] = func(yield func(kvstore.Pair) bool) {
		for i := range n {
			if !yield(kvstore.Pair{Key: fmt.Sprintf("key:%08d", i), Value: value}) {
				return
			}
		}
	}
	if _, err := store.PutAll(context.Background(), pairs); err != nil {
		b.Fatal(err)
	}
	closeStore(b, store)
}
