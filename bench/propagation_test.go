package bench

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/kvstore"
)

// BenchmarkPropagation measures from the begin of a write, which is
// acknowledged, until a reader on another connection has it. A write begins
// when the one before it has arrived. To have it means: a Get returns it, or the
// NATS client has handed it over. The readers differ in what they do until then.
// Those named poll read again and again, and let others go first in between.
func BenchmarkPropagation(b *testing.B) {
	for _, c := range []struct {
		name string
		run  func(b *testing.B)
	}{
		{"nearkv-poll", propagatePoll},
		{"nearkv-atleast", propagateAtLeast},
		{"nearkv-watch", propagateWatch},
		{"jetstream-watch", propagateBucket},
		{"consumer", propagateConsumer},
		{"consumer-poll", propagateConsumerPoll},
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

// propagateWatch reads when Watch has told of a change: later than a Get could
// have had it.
func propagateWatch(b *testing.B) {
	server := startServer(b, "")
	writer, reader := openStore(b, server), openStore(b, server)
	ctx, cancel := context.WithCancel(context.Background())
	arrivals, done := make(chan time.Time), make(chan struct{})
	go func() {
		defer close(done)
		for event, err := range reader.Watch(ctx, watched) {
			if err != nil {
				b.Error(err)
				return
			}
			entry, err := reader.Get(ctx, watched)
			if err != nil || entry.Revision() < event.Entry.Revision() {
				b.Errorf("after revision %d Get returns %d, %v", event.Entry.Revision(), entry.Revision(), err)
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

// propagatePoll reads again and again, until Get returns another revision.
func propagatePoll(b *testing.B) {
	server := startServer(b, "")
	writer, reader := openStore(b, server), openStore(b, server)
	read := func() (uint64, error) {
		entry, err := reader.Get(context.Background(), watched)
		if errors.Is(err, kvstore.ErrNotFound) {
			err = nil
		}
		return uint64(entry.Revision()), err
	}
	propagatePolled(b, read, func() error { return put(writer) })
}

// propagatePolled is propagate to a reader that reads again and again, and has
// the write when it reads another number than before. The first is 0.
func propagatePolled(b *testing.B, read func() (uint64, error), write func() error) {
	arrivals := make(chan time.Time, 1)
	ctx, cancel := context.WithCancel(context.Background())
	var poll sync.WaitGroup
	poll.Go(func() {
		for last := uint64(0); ctx.Err() == nil; runtime.Gosched() {
			now, err := read()
			if err != nil {
				b.Error(err)
				return
			}
			if now != last {
				last = now
				arrivals <- time.Now()
			}
		}
	})
	defer func() { cancel(); poll.Wait() }()
	propagate(b, arrivals, write)
}

// propagateAtLeast reads once, after the write has returned its revision: the
// time is that of the write, and what the reader waits longer.
func propagateAtLeast(b *testing.B) {
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
	makeNamespace(b, server, dataset{})
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
	arrivals := make(chan time.Time)
	propagate(b, arrivals, consumed(b, func() { arrivals <- time.Now() }))
}

// consumed returns what publishes to a stream, on one connection, and calls
// arrived for every message that a consumer on another one is given.
func consumed(b *testing.B, arrived func()) (write func() error) {
	server := startServer(b, "")
	makeNamespace(b, server, dataset{}) // makeStream copies its configuration
	js := newJetStream(b, connect(b, server))
	follow(b, openStreamOf(b, server, makeStream(b, js)), func(jetstream.Msg) { arrived() })
	return func() error {
		_, err := js.Publish(context.Background(), "raw."+watched, []byte(value))
		return err
	}
}

// propagateConsumerPoll is propagatePoll for a reader of one number in memory,
// which the consumer counts up.
func propagateConsumerPoll(b *testing.B) {
	var messages atomic.Uint64
	write := consumed(b, func() { messages.Add(1) })
	propagatePolled(b, func() (uint64, error) { return messages.Load(), nil }, write)
}
