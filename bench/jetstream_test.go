package bench

import (
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func newJetStream(b *testing.B, conn *nats.Conn) jetstream.JetStream {
	b.Helper()
	js, err := jetstream.New(conn)
	if err != nil {
		b.Fatal(err)
	}
	return js
}

// openBucket returns the namespace "bench" as the NATS client sees it.
func openBucket(b *testing.B, s server) jetstream.KeyValue {
	b.Helper()
	bucket, err := newJetStream(b, connect(b, s)).KeyValue(context.Background(), "bench")
	if err != nil {
		b.Fatal(err)
	}
	return bucket
}

// openJetStreamLoopback is openJetStream with a nats-server process.
func openJetStreamLoopback(b *testing.B, _ server, d dataset) (getFunc, func()) {
	b.Helper()
	s := startProcess(b)
	makeNamespace(b, s, d)
	return openJetStream(b, s, d)
}

// openJetStream returns a reader of the key-value bucket of the NATS client.
func openJetStream(b *testing.B, s server, _ dataset) (getFunc, func()) {
	b.Helper()
	bucket := openBucket(b, s)
	return func(key string) (string, bool) {
		entry, err := bucket.Get(context.Background(), key)
		if err != nil {
			if !errors.Is(err, jetstream.ErrKeyNotFound) {
				b.Error(err)
			}
			return "", false
		}
		return string(entry.Value()), true
	}, func() {}
}

// makeStream makes a stream with the configuration that a namespace has, for
// writing to it without nearkv, below "raw.", and returns its name.
func makeStream(b *testing.B, js jetstream.JetStream) string {
	b.Helper()
	ctx := context.Background()
	bucket, err := js.Stream(ctx, "KV_bench")
	if err != nil {
		b.Fatal(err)
	}
	config := bucket.CachedInfo().Config
	config.Name, config.Subjects, config.Metadata = "RAW", []string{"raw.>"}, nil
	if _, err := js.CreateStream(ctx, config); err != nil {
		b.Fatal(err)
	}
	return config.Name
}

// follow reads a stream with an ordered consumer, as a replica does, and calls
// seen with each message, until the benchmark ends.
func follow(b *testing.B, stream jetstream.Stream, seen func(jetstream.Msg)) {
	b.Helper()
	consumer, err := stream.OrderedConsumer(context.Background(), jetstream.OrderedConsumerConfig{})
	if err != nil {
		b.Fatal(err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			m, err := messages.Next()
			if err != nil { // it was stopped
				return
			}
			seen(m)
		}
	}()
	b.Cleanup(func() {
		messages.Stop()
		<-done
	})
}

// openStreamOf opens a stream on a connection of its own.
func openStreamOf(b *testing.B, s server, name string) jetstream.Stream {
	b.Helper()
	stream, err := newJetStream(b, connect(b, s)).Stream(context.Background(), name)
	if err != nil {
		b.Fatal(err)
	}
	return stream
}
