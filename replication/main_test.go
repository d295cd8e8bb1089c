package replication

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/nearkv/nearkv/replication/embedded"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startServer starts a server that stops with the test. Without opts it keeps
// everything in memory.
func startServer(t testing.TB, opts embedded.Options) *embedded.Server {
	t.Helper()
	server, err := embedded.Start(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// connect returns a connection that closes with the test.
func connect(t testing.TB, server nats.InProcessConnProvider) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(server),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // hostile headers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func newJetStream(t testing.TB, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// openLog opens a log that closes with the test.
func openLog(t testing.TB, nc *nats.Conn, namespace string, cfg Config) *Log {
	t.Helper()
	l, err := Open(t.Context(), nc, namespace, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// memoryLog is a log in the memory of a server of its own.
func memoryLog(t testing.TB, cfg Config) (*Log, *nats.Conn) {
	t.Helper()
	cfg.Memory = true
	nc := connect(t, startServer(t, embedded.Options{}))
	return openLog(t, nc, "test", cfg), nc
}

// bucketConfig is the plainest stream that is laid out as a bucket.
func bucketConfig(namespace string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: "KV_" + namespace, Subjects: []string{"$KV." + namespace + ".>"},
		Storage: jetstream.MemoryStorage, MaxMsgsPerSubject: 1, AllowDirect: true,
	}
}
