package bench

import (
	"context"
	"fmt"
	"iter"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/kvstore"
)

// BenchmarkPutAll writes 20,000 keys at once, to a stream that somebody follows:
// nearkv always does.
func BenchmarkPutAll(b *testing.B) {
	d := datasetOf(20_000, valueSize)
	for _, storage := range []string{"memory", "file"} {
		for _, peer := range []struct {
			name string
			open func(b *testing.B, s server) func(d dataset) error
		}{
			{"nearkv", putAllNearKV},
			{"publish-async", publishAllFollowed},
		} {
			run(b, peer.name, func(b *testing.B) {
				dir := ""
				if storage == "file" {
					dir = b.TempDir()
				}
				benchmarkPutAll(b, peer.open(b, startServer(b, dir)), d)
			}, "storage=%s", storage)
		}
	}
}

// benchmarkPutAll writes all once before it begins, as timed does: the keys are
// there, for every peer and every round.
func benchmarkPutAll(b *testing.B, putAll func(d dataset) error, d dataset) {
	b.Helper()
	if err := putAll(d); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := putAll(d); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*len(d.keys))/b.Elapsed().Seconds(), "keys/s")
}

func putAllNearKV(b *testing.B, s server) func(dataset) error {
	store := openStore(b, s)
	return func(d dataset) error {
		n, err := store.PutAll(context.Background(), pairsOf(d))
		if err == nil && n != len(d.keys) {
			err = fmt.Errorf("%d keys", n)
		}
		return err
	}
}

func pairsOf(d dataset) iter.Seq[kvstore.Pair] {
	data := []byte(d.value)
	return func(yield func(kvstore.Pair) bool) {
		for _, key := range d.keys {
			if !yield(kvstore.Pair{Key: key, Value: data}) {
				return
			}
		}
	}
}

func publishAllFollowed(b *testing.B, s server) func(dataset) error {
	makeNamespace(b, s, dataset{})
	follow(b, openStreamOf(b, s, "KV_bench"), func(jetstream.Msg) {})
	p := newPublisher(b, connect(b, s))
	return p.publishAll
}
