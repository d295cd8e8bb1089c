package bench

import (
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/replication/embedded"
)

func newJetStream(b *testing.B, conn *nats.Conn) jetstream.JetStream {
	b.Helper()
	js, err := jetstream.New(conn, jetstream.WithPublishAsyncMaxPending(1<<10))
	if err != nil {
		b.Fatal(err)
	}
	return js
}

// fill writes the value of every key to the namespace "bench", the way of any
// NATS client: it is faster than one Put after another.
func fill(b *testing.B, conn *nats.Conn, keys []string) {
	b.Helper()
	js := newJetStream(b, conn)
	acks := make([]jetstream.PubAckFuture, 0, len(keys))
	for _, key := range keys {
		ack, err := js.PublishAsync("$KV.bench."+key, []byte(value))
		if err != nil {
			b.Fatal(err)
		}
		acks = append(acks, ack)
	}
	<-js.PublishAsyncComplete()
	for _, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			b.Fatal(err)
		}
	}
}

// openBucket returns the namespace "bench" as the NATS client sees it.
func openBucket(b *testing.B, server *embedded.Server) jetstream.KeyValue {
	b.Helper()
	bucket, err := newJetStream(b, connect(b, server)).KeyValue(context.Background(), "bench")
	if err != nil {
		b.Fatal(err)
	}
	return bucket
}

// openJetStream returns a reader of the key-value bucket of the NATS client.
func openJetStream(b *testing.B, keys []string) getFunc {
	b.Helper()
	server := startServer(b, "")
	if err := openStore(b, server).Close(); err != nil { // it made the bucket
		b.Fatal(err)
	}
	fill(b, connect(b, server), keys)
	bucket := openBucket(b, server)
	return func(key string) (string, bool) {
		entry, err := bucket.Get(context.Background(), key)
		if err != nil {
			if !errors.Is(err, jetstream.ErrKeyNotFound) {
				b.Error(err)
			}
			return "", false
		}
		return string(entry.Value()), true
	}
}

// openStream makes a stream with the configuration that a namespace has, for
// writing to it without nearkv, below "raw.".
func openStream(b *testing.B, js jetstream.JetStream) jetstream.Stream {
	b.Helper()
	ctx := context.Background()
	bucket, err := js.Stream(ctx, "KV_bench")
	if err != nil {
		b.Fatal(err)
	}
	config := bucket.CachedInfo().Config
	config.Name, config.Subjects, config.Metadata = "RAW", []string{"raw.>"}, nil
	stream, err := js.CreateStream(ctx, config)
	if err != nil {
		b.Fatal(err)
	}
	return stream
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
