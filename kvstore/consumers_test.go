package kvstore_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
)

// consume adds consumers to the stream of a namespace.
func consume(ctx context.Context, nc *nats.Conn, namespace string, n int) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	var work errgroup.Group
	work.SetLimit(16)
	for i := range n {
		work.Go(func() error {
			_, err := js.CreateConsumer(ctx, "KV_"+namespace, jetstream.ConsumerConfig{
				Name: fmt.Sprint("other", i), AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: time.Hour,
			})
			return err
		})
	}
	return work.Wait()
}

// More than 1000 replicas: a stream that Open made has no limit of consumers on any
// server, and a server of ours has none for a bucket that others made.
func TestManyConsumers(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	bucket := func(t *testing.T, nc *nats.Conn) {
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "app", Storage: jetstream.MemoryStorage}); err != nil {
			t.Fatal(err)
		}
	}
	plain := func(t *testing.T) *nats.Conn { return dialNATS(t, startNATS(t, nil)) }
	ours := func(t *testing.T) *nats.Conn { return kvstoretest.NewServer(t, "").Conn(t) }
	for _, test := range []struct {
		name    string
		connect func(*testing.T) *nats.Conn
		foreign bool
		limited bool
	}{
		{"a stream of ours", plain, false, false},
		{"a stream of ours on a server of ours", ours, false, false},
		{"a bucket of others on a server of ours", ours, true, false},
		{"a bucket of others", plain, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			nc := test.connect(t)
			if test.foreign {
				bucket(t, nc)
			} else {
				s, err := kvstore.Open(ctx, "app", kvstore.Options{Conn: nc, Memory: true})
				if err != nil {
					t.Fatal(err)
				}
				closeStore(t, s)
			}
			n := 1001
			if test.limited {
				n = 1000
			}
			if err := consume(ctx, nc, "app", n); err != nil {
				t.Fatal(err)
			}
			s, err := kvstore.Open(ctx, "app", kvstore.Options{Conn: nc, Memory: true})
			if test.limited {
				wantErrors(t, err, kvstore.ErrLimit)
				if ctx.Err() != nil || !strings.Contains(fmt.Sprint(err), "default_max_consumers") {
					t.Errorf("the error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			wantPut(t, s, "key", "value")
			closeStore(t, s)
		})
	}
}

// A replica that comes back when others have taken its place says why it cannot
// follow, and follows when there is room.
func TestConsumersLimitReached(t *testing.T) {
	srv := startNATS(t, func(o *server.Options) { o.JetStreamLimits.DefaultMaxConsumers = 5 })
	others, way := dialNATS(t, srv), new(barrier)
	nc, err := nats.Connect(srv.ClientURL(), nats.SetCustomDialer(way), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	js, err := jetstream.New(others)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "app"}); err != nil {
		t.Fatal(err)
	}
	s, err := kvstore.Open(ctx, "app", kvstore.Options{Conn: nc, CheckInterval: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	wantPut(t, s, "key", "value")
	if err := consume(ctx, others, "app", 4); err != nil {
		t.Fatal(err)
	}
	way.closed.Store(true)
	if err := nc.ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "Stale", func() bool { return s.Status().State == kvstore.Stale })
	names := consumerNames(ctx, t, js)
	for name := range names {
		if strings.HasPrefix(name, "nearkv-") {
			if err := js.DeleteConsumer(ctx, "KV_app", name); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, err = js.CreateConsumer(ctx, "KV_app", jetstream.ConsumerConfig{Name: "last", AckPolicy: jetstream.AckNonePolicy, InactiveThreshold: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	way.closed.Store(false)
	eventually(t, "Degraded", func() bool {
		return s.Status().State == kvstore.Degraded && strings.Contains(s.Status().Reason, "maximum consumers limit reached")
	})
	_, err = s.Put(ctx, "key", nil)
	wantErrors(t, err, kvstore.ErrLimit)
	if err := js.DeleteConsumer(ctx, "KV_app", "last"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "Live", func() bool { return s.Status().State == kvstore.Live })
	wantPut(t, s, "key", "again")
}

// barrier is a way to a server that can be closed.
type barrier struct{ closed atomic.Bool }

func (b *barrier) Dial(network, address string) (net.Conn, error) {
	if b.closed.Load() {
		return nil, net.ErrClosed
	}
	return net.Dial(network, address)
}

func consumerNames(ctx context.Context, t *testing.T, js jetstream.JetStream) map[string]bool {
	t.Helper()
	stream, err := js.Stream(ctx, "KV_app")
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for name := range stream.ConsumerNames(ctx).Name() {
		names[name] = true
	}
	return names
}
