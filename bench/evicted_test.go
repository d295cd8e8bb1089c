package bench

import (
	"context"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/nearkv/nearkv/kvstore"
)

// BenchmarkGetEvicted reads values that are not in memory: nearkv without a
// cache, and the request that it has to make, on the same server.
func BenchmarkGetEvicted(b *testing.B) {
	d := datasetOf(10_000, valueSize)
	server := startServer(b, "")
	makeNamespace(b, server, d)
	conn := connect(b, server)
	store := openStoreOn(b, conn, server, -1)
	defer closeStore(b, store)
	for _, goroutines := range []int{1, 64} {
		for _, peer := range []struct {
			name string
			get  func(i int) error
		}{
			{"nearkv", func(i int) error { return getEvicted(store, d.keys[scattered(i)]) }},
			{"direct-get", func(i int) error { return directGet(conn, d.keys, scattered(i)) }},
		} {
			run(b, peer.name, func(b *testing.B) { timed(b, goroutines, peer.get) }, "goroutines=%d", goroutines)
		}
	}
}

// scattered visits 10,000 keys in an order that is none.
func scattered(i int) int { return i * 7919 % 10_000 }

func getEvicted(store *kvstore.Store, key string) error {
	entry, err := store.Get(context.Background(), key)
	if err == nil && entry.Len() != valueSize {
		err = fmt.Errorf("%s has %d bytes", key, entry.Len())
	}
	return err
}

// directGet reads the record of the i-th key, which fill has written as the
// (i+1)-th of the stream.
func directGet(conn *nats.Conn, keys []string, i int) error {
	m, err := conn.Request("$JS.API.DIRECT.GET.KV_bench", fmt.Appendf(nil, `{"seq":%d}`, i+1), patience)
	if err != nil {
		return err
	}
	if subject := m.Header.Get("Nats-Subject"); subject != "$KV.bench."+keys[i] || len(m.Data) != valueSize {
		return fmt.Errorf("%s has %d bytes", subject, len(m.Data))
	}
	return nil
}
