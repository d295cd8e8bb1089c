package bench

import (
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/replication/embedded"
)

// startServer starts a server in this process: in memory, or in dir.
func startServer(b *testing.B, dir string) *embedded.Server {
	b.Helper()
	server, err := embedded.Start(context.Background(), embedded.Options{Dir: dir})
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

func connect(b *testing.B, server *embedded.Server) *nats.Conn {
	b.Helper()
	conn, err := server.Connect()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(conn.Close)
	return conn
}

// openStore opens a replica of the namespace "bench" on a connection of its own.
func openStore(b *testing.B, server *embedded.Server) *kvstore.Store {
	b.Helper()
	store, err := kvstore.Open(context.Background(), "bench", kvstore.Options{
		Conn: connect(b, server), Memory: server.Dir() == "", CacheBytes: 1 << 30,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := store.Close(); err != nil {
			b.Error(err)
		}
	})
	return store
}

// openNearKV returns a reader of a Store with room for everything.
func openNearKV(b *testing.B, keys []string) getFunc {
	b.Helper()
	server := startServer(b, "")
	store := openStore(b, server)
	fill(b, connect(b, server), keys)
	ctx := context.Background()
	if err := store.Sync(ctx); err != nil {
		b.Fatal(err)
	}
	return func(key string) (string, bool) {
		entry, err := store.Get(ctx, key)
		if errors.Is(err, kvstore.ErrNotFound) {
			return "", false
		}
		return entry.Text(), err == nil
	}
}
