package bench

import (
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/replication/embedded"
)

// A server is one in this process or in another.
type server interface {
	Connect(...nats.Option) (*nats.Conn, error)
	Dir() string // of its streams; "" if they are in memory
}

// startServer starts a server in this process: in memory, or in dir.
func startServer(b *testing.B, dir string) *embedded.Server {
	b.Helper()
	return startServerWith(b, embedded.Options{Dir: dir})
}

func startServerWith(b *testing.B, opts embedded.Options) *embedded.Server {
	b.Helper()
	server, err := embedded.Start(context.Background(), opts)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := server.Shutdown(); err != nil {
			b.Error(err)
		}
	})
	return server
}

func connect(b *testing.B, s server) *nats.Conn {
	b.Helper()
	conn, err := s.Connect()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(conn.Close)
	return conn
}

// cacheBytes has room for the values of every benchmark.
const cacheBytes = 1 << 30

// openStore opens a replica of the namespace "bench" on a connection of its own.
func openStore(b *testing.B, s server) *kvstore.Store {
	b.Helper()
	store := openStoreOn(b, connect(b, s), s, cacheBytes)
	b.Cleanup(func() { closeStore(b, store) })
	return store
}

// openStoreOn opens a replica that the caller closes.
func openStoreOn(b *testing.B, conn *nats.Conn, s server, cacheBytes int64) *kvstore.Store {
	b.Helper()
	store, err := kvstore.Open(context.Background(), "bench", kvstore.Options{
		Conn: conn, Memory: s.Dir() == "", CacheBytes: cacheBytes,
	})
	if err != nil {
		b.Fatal(err)
	}
	return store
}

func closeStore(b *testing.B, store *kvstore.Store) {
	b.Helper()
	if err := store.Close(); err != nil {
		b.Error(err)
	}
}

// makeNamespace makes the namespace "bench" and fills it.
func makeNamespace(b *testing.B, s server, d dataset) {
	b.Helper()
	conn := connect(b, s)
	closeStore(b, openStoreOn(b, conn, s, cacheBytes))
	fill(b, conn, d)
}

// openNearKV returns a reader of a new replica.
func openNearKV(b *testing.B, s server, _ dataset) (getFunc, func()) {
	b.Helper()
	ctx := context.Background()
	store := openStoreOn(b, connect(b, s), s, cacheBytes)
	get := func(key string) (string, bool) {
		entry, err := store.Get(ctx, key)
		if errors.Is(err, kvstore.ErrNotFound) {
			return "", false
		}
		return entry.Text(), err == nil
	}
	return get, func() { closeStore(b, store) }
}
