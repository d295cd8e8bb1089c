package bench

import (
	"context"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/kvstore"
)

// BenchmarkList lists the 1000 keys of a prefix, out of n.
func BenchmarkList(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		server := startServer(b, "")
		store := openStore(b, server)
		fill(b, connect(b, server), keysOf(n))
		if err := store.Sync(context.Background()); err != nil {
			b.Fatal(err)
		}
		bucket := openBucket(b, server)
		prefix := fmt.Sprintf("g%06d.", n/1000/2) // in the middle
		b.Run(fmt.Sprintf("n=%d/peer=nearkv", n), func(b *testing.B) { listNearKV(b, store, prefix) })
		b.Run(fmt.Sprintf("n=%d/peer=jetstream", n), func(b *testing.B) { listJetStream(b, bucket, prefix) })
	}
}

func listNearKV(b *testing.B, store *kvstore.Store, prefix string) {
	b.ReportAllocs()
	for b.Loop() {
		page, err := store.List(kvstore.ListOptions{Prefix: prefix})
		if err != nil || len(page.Keys) != 1000 || !page.Complete {
			b.Fatalf("%d keys, complete: %v, %v", len(page.Keys), page.Complete, err)
		}
	}
}

func listJetStream(b *testing.B, bucket jetstream.KeyValue, prefix string) {
	b.ReportAllocs()
	for b.Loop() {
		lister, err := bucket.ListKeysFiltered(context.Background(), prefix+">")
		if err != nil {
			b.Fatal(err)
		}
		count := 0
		for range lister.Keys() {
			count++
		}
		if count != 1000 {
			b.Fatalf("%d keys", count)
		}
	}
}
