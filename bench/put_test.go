package bench

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/kvstore"
)

// BenchmarkPut writes to 10,000 keys in turn and waits for the acknowledgement
// of each write. publish has nobody who reads the stream; publish-followed has
// an ordered consumer, as nearkv has.
func BenchmarkPut(b *testing.B) {
	keys := keysOf(10_000)
	for _, storage := range []string{"memory", "file"} {
		for _, ttl := range []time.Duration{0, time.Hour} {
			for _, goroutines := range []int{1, 64} {
				for _, writer := range writers {
					run(b, writer.name, func(b *testing.B) {
						dir := ""
						if storage == "file" {
							dir = b.TempDir()
						}
						put := writer.open(b, dir, ttl)
						timed(b, goroutines, func(i int) error { return put(keys[i%len(keys)]) })
					}, "storage=%s/ttl=%v/goroutines=%d", storage, ttl, goroutines)
				}
			}
		}
	}
}

// putFunc writes one key. It may be called concurrently.
type putFunc func(key string) error

var writers = []struct {
	name string
	open func(b *testing.B, dir string, ttl time.Duration) putFunc
}{
	{"nearkv", putNearKV},
	{"publish", func(b *testing.B, dir string, ttl time.Duration) putFunc { return publish(b, dir, ttl, false) }},
	{"publish-followed", func(b *testing.B, dir string, ttl time.Duration) putFunc { return publish(b, dir, ttl, true) }},
}

func putNearKV(b *testing.B, dir string, ttl time.Duration) putFunc {
	store := openStore(b, startServer(b, dir))
	var opts []kvstore.WriteOption
	if ttl != 0 {
		opts = append(opts, kvstore.WithTTL(ttl))
	}
	return func(key string) error {
		_, err := store.Put(context.Background(), key, []byte(value), opts...)
		return err
	}
}

func publish(b *testing.B, dir string, ttl time.Duration, followed bool) putFunc {
	return publishTo(b, startServer(b, dir), ttl, followed)
}

func publishTo(b *testing.B, server server, ttl time.Duration, followed bool) putFunc {
	b.Helper()
	makeNamespace(b, server, dataset{}) // openStream copies its configuration
	js := newJetStream(b, connect(b, server))
	stream := makeStream(b, js)
	if followed {
		follow(b, openStreamOf(b, server, stream), func(jetstream.Msg) {})
	}
	var opts []jetstream.PublishOpt
	if ttl != 0 {
		opts = append(opts, jetstream.WithMsgTTL(ttl))
	}
	return func(key string) error {
		_, err := js.Publish(context.Background(), "raw."+key, []byte(value), opts...)
		return err
	}
}
