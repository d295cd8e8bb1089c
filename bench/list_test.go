package bench

import (
	"context"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/kvstore"
)

// BenchmarkList lists 1000 keys out of n: the first ones, and those of a prefix
// in the middle. The NATS client has no order and no pages: it has to list all
// to know which are the first.
func BenchmarkList(b *testing.B) {
	for _, n := range sizesOf(1000, 100_000, 1_000_000) {
		server := startServer(b, "")
		makeNamespace(b, server, datasetOf(n, valueSize))
		store, bucket := openStore(b, server), openBucket(b, server)
		prefix := fmt.Sprintf("g%06d.", n/1000/2)
		for _, c := range []struct {
			name, prefix, filter string
			listed               int // by the NATS client
		}{
			{"page", "", ">", n},
			{"prefix", prefix, prefix + ">", 1000},
		} {
			run(b, "nearkv", func(b *testing.B) { listNearKV(b, store, c.prefix) }, "case=%s/n=%d", c.name, n)
			run(b, "jetstream", func(b *testing.B) { listJetStream(b, bucket, c.filter, c.listed) }, "case=%s/n=%d", c.name, n)
		}
	}
}

func listNearKV(b *testing.B, store *kvstore.Store, prefix string) {
	b.ReportAllocs()
	for b.Loop() {
		page, err := store.List(kvstore.ListOptions{Prefix: prefix})
		if err != nil || len(page.Keys) != 1000 {
			b.Fatalf("%d keys, %v", len(page.Keys), err)
		}
	}
}

func listJetStream(b *testing.B, bucket jetstream.KeyValue, filter string, want int) {
	b.ReportAllocs()
	for b.Loop() {
		lister, err := bucket.ListKeysFiltered(context.Background(), filter)
		if err != nil {
			b.Fatal(err)
		}
		count := 0
		for range lister.Keys() {
			count++
		}
		if count != want {
			b.Fatalf("%d keys", count)
		}
	}
}
