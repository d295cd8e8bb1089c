package bench

import (
	"context"
	"fmt"
	"testing"

	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/replication/embedded"
)

// BenchmarkPutSynced writes to 10,000 keys in turn, and each write has been
// synced when it is acknowledged. publish is what a server with SyncAlways takes
// from its own client.
func BenchmarkPutSynced(b *testing.B) {
	keys := keysOf(10_000)
	for _, goroutines := range []int{1, 64} {
		for _, writer := range []struct {
			name string
			open func(b *testing.B) putFunc
		}{{"nearkv", putSynced}, {"publish", publishSynced}} {
			run(b, writer.name, func(b *testing.B) {
				put := writer.open(b)
				timed(b, goroutines, func(i int) error { return put(keys[i%len(keys)]) })
			}, "durability=powerloss/goroutines=%d", goroutines)
		}
	}
}

// BenchmarkPutAllSynced writes 20,000 keys at once, synced.
func BenchmarkPutAllSynced(b *testing.B) {
	d := datasetOf(20_000, valueSize)
	run(b, "nearkv", func(b *testing.B) {
		store := openSynced(b)
		benchmarkPutAll(b, func(d dataset) error {
			n, err := store.PutAll(context.Background(), pairsOf(d))
			if err == nil && n != len(d.keys) {
				err = fmt.Errorf("%d keys", n)
			}
			return err
		}, d)
	}, "durability=powerloss")
}

func openSynced(b *testing.B) *kvstore.Store {
	b.Helper()
	store, err := kvstore.Open(context.Background(), "bench", kvstore.Options{
		Dir: b.TempDir(), Durability: kvstore.SurvivePowerLoss, CacheBytes: cacheBytes,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { closeStore(b, store) })
	return store
}

func putSynced(b *testing.B) putFunc {
	store := openSynced(b)
	return func(key string) error {
		_, err := store.Put(context.Background(), key, []byte(value))
		return err
	}
}

func publishSynced(b *testing.B) putFunc {
	server := startServerWith(b, embedded.Options{Dir: b.TempDir(), SyncAlways: true})
	return publishTo(b, server, 0, false)
}
