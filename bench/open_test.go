package bench

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// BenchmarkOpen reads all keys from a log that is in files, on a connection
// that there is: the whole of Open, an ordered consumer that does nothing with
// what it reads, and a watch of the NATS client up to where it has all.
func BenchmarkOpen(b *testing.B) {
	for _, n := range sizesOf(10_000, 100_000, 1_000_000) {
		server := startServer(b, b.TempDir())
		makeNamespace(b, server, datasetOf(n, valueSize))
		conn := connect(b, server)
		for _, peer := range []struct {
			name string
			read func(b *testing.B) (count int, release func())
		}{
			{"nearkv", func(b *testing.B) (int, func()) { return readAllNearKV(b, conn, server) }},
			{"consumer", func(b *testing.B) (int, func()) { return readAllConsumer(b, conn, n) }},
			{"jetstream", func(b *testing.B) (int, func()) { return readAllBucket(b, conn) }},
		} {
			run(b, peer.name, func(b *testing.B) { benchmarkOpen(b, n, peer.read) }, "n=%d", n)
		}
	}
}

func benchmarkOpen(b *testing.B, n int, read func(b *testing.B) (int, func())) {
	b.ReportAllocs()
	for b.Loop() {
		count, release := read(b)
		if count != n {
			b.Fatalf("%d keys", count)
		}
		b.StopTimer()
		release()
		b.StartTimer()
	}
}

func readAllNearKV(b *testing.B, conn *nats.Conn, s server) (int, func()) {
	store := openStoreOn(b, conn, s, cacheBytes)
	return store.Stats().Keys, func() { closeStore(b, store) }
}

func readAllConsumer(b *testing.B, conn *nats.Conn, n int) (int, func()) {
	consumer, err := newJetStream(b, conn).OrderedConsumer(context.Background(), "KV_bench", jetstream.OrderedConsumerConfig{})
	if err != nil {
		b.Fatal(err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		b.Fatal(err)
	}
	count := 0
	for ; count < n; count++ {
		m, err := messages.Next()
		if err != nil || len(m.Data()) != valueSize {
			b.Fatal(err)
		}
	}
	return count, messages.Stop
}

func readAllBucket(b *testing.B, conn *nats.Conn) (int, func()) {
	bucket, err := newJetStream(b, conn).KeyValue(context.Background(), "bench")
	if err != nil {
		b.Fatal(err)
	}
	watch, err := bucket.WatchAll(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	count := 0
	for entry := range watch.Updates() {
		if entry == nil { // that was all
			break
		}
		count++
	}
	return count, func() {
		if err := watch.Stop(); err != nil {
			b.Error(err)
		}
	}
}
