package bench

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/kvstore"
)

// BenchmarkPropagation measures from the begin of a write, which is
// acknowledged, until a reader on another connection has it. A write begins
// when the one before it has arrived.
func BenchmarkPropagation(b *testing.B) {
	for _, c := range []struct {
		name string
		run  func(b *testing.B)
	}{
		{"nearkv-watch", propagateWatch},
		{"nearkv-get", propagateGet},
		{"jetstream-watch", propagateBucket},
		{"consumer", propagateConsumer},
	} {
		b.Run("peer="+c.name, c.run)
	}
}

const watched = "g000000.000"

// propagate calls write b.N times, and once before that nothing is counted that
// only the first call has to do. The reader sends the time of each arrival,
// which can be before write returns.
func propagate(b *testing.B, arrivals <-chan time.Time, write func() error) {
	b.Helper()
	took := make([]time.Duration, 0, b.N)
	once := func() time.Duration {
		begin := time.Now()
		if err := write(); err != nil {
			b.Fatal(err)
		}
		return (<-arrivals).Sub(begin)
	}
	once()
	b.ReportAllocs()
	for b.Loop() {
		took = append(took, once())
	}
	reportLatency(b, took)
}

func propagateWatch(b *testing.B) {
	server := startServer(b, "")
	writer, reader := openStore(b, server), openStore(b, server)
	ctx, cancel := context.WithCancel(context.Background())
	arrivals, done := make(chan time.Time), make(chan struct{})
	go func() {
		defer close(done)
		for _, err := range reader.Watch(ctx, watched) {
			if err != nil {
				b.Error(err)
				return
			}
			arrivals <- time.Now()
		}
	}()
	defer func() { cancel(); <-done }()
	propagate(b, arrivals, func() error { return put(writer) })
}

func put(store *kvstore.Store) error {
	_, err := store.Put(context.Background(), watched, []byte(value))
	return err
}

// propagateGet reads with AtLeast: until the reader's Get returns the write.
func propagateGet(b *testing.B) {
	server := startServer(b, "")
	writer, reader := openStore(b, server), openStore(b, server)
	arrivals := make(chan time.Time, 1)
	propagate(b, arrivals, func() error {
		revision, err := writer.Put(context.Background(), watched, []byte(value))
		if err != nil {
			return err
		}
		entry, err := reader.Get(context.Background(), watched, kvstore.AtLeast(revision))
		if err == nil && entry.Revision() != revision {
			err = errors.New("another revision")
		}
		arrivals <- time.Now()
		return err
	})
}

func propagateBucket(b *testing.B) {
	server := startServer(b, "")
	if err := openStore(b, server).Close(); err != nil { // it made the bucket
		b.Fatal(err)
	}
	writer, reader := openBucket(b, server), openBucket(b, server)
	watch, err := reader.Watch(context.Background(), watched, jetstream.UpdatesOnly())
	if err != nil {
		b.Fatal(err)
	}
	arrivals, done := make(chan time.Time), make(chan struct{})
	go func() {
		defer close(done)
		for range watch.Updates() {
			arrivals <- time.Now()
		}
	}()
	defer func() {
		if err := watch.Stop(); err != nil {
			b.Error(err)
		}
		<-done
	}()
	propagate(b, arrivals, func() error {
		_, err := writer.Put(context.Background(), watched, []byte(value))
		return err
	})
}

func propagateConsumer(b *testing.B) {
	server := startServer(b, "")
	if err := openStore(b, server).Close(); err != nil { // openStream copies what it made
		b.Fatal(err)
	}
	js := newJetStream(b, connect(b, server))
	stream := openStream(b, js)
	reader, err := newJetStream(b, connect(b, server)).Stream(context.Background(), stream.CachedInfo().Config.Name)
	if err != nil {
		b.Fatal(err)
	}
	arrivals := make(chan time.Time)
	follow(b, reader, func(jetstream.Msg) { arrivals <- time.Now() })
	propagate(b, arrivals, func() error {
		_, err := js.Publish(context.Background(), "raw."+watched, []byte(value))
		return err
	})
}
