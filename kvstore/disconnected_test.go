package kvstore_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
)

// A password that is refused for a while does not end a Store.
func TestPasswordRefusedForAWhile(t *testing.T) {
	var now *server.Options
	s := startNATS(t, func(o *server.Options) { o.Username, o.Password = "app", "first"; now = o })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	store, err := kvstore.Open(ctx, "app", kvstore.Options{URL: "nats://app:first@" + s.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, store)
	wantPut(t, store, "key", "1")
	refused := func() int64 { v, _ := s.Varz(nil); return int64(v.TotalConnections) }
	change := func(password string) {
		t.Helper()
		o := now.Clone()
		o.Password = password
		if err := s.ReloadOptions(o); err != nil {
			t.Fatal(err)
		}
	}
	change("second")
	before := refused()
	eventually(t, "refused several times", func() bool { return refused() > before+4 && store.Status().State == kvstore.Stale })
	change("first")
	eventually(t, "Live", func() bool { return store.Status().State == kvstore.Live })
	wantPut(t, store, "key", "2")
}

// A connection that is closed for good ends calls at once, and Status says so.
func TestConnectionClosedForGood(t *testing.T) {
	for name, end := range map[string]func(*kvstoretest.Server, *nats.Conn){
		"by its owner":  func(_ *kvstoretest.Server, nc *nats.Conn) { nc.Close() },
		"drained":       func(_ *kvstoretest.Server, nc *nats.Conn) { _ = nc.Drain() },
		"MaxReconnects": func(s *kvstoretest.Server, _ *nats.Conn) { s.SetDown(true) },
	} {
		for _, busy := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				kvstoretest.Run(t, func(t *testing.T) {
					server := kvstoretest.NewServer(t, "")
					nc := server.Conn(t, nats.MaxReconnects(3))
					s, err := kvstore.Open(t.Context(), "app", kvstore.Options{Conn: nc, Memory: true, WriteTimeout: -1, CacheBytes: -1})
					if err != nil {
						t.Fatal(err)
					}
					wantPut(t, s, "key", "value")
					waiting := make(chan error, 1)
					if busy {
						server.SetDown(true)
						go func() {
							_, err := s.Put(context.Background(), "key", nil)
							waiting <- err
						}()
						time.Sleep(10 * time.Millisecond)
					}
					end(server, nc)
					if busy {
						wantErrors(t, <-waiting, kvstore.ErrDisconnected, kvstore.ErrUnavailable, nats.ErrConnectionClosed)
					}
					for s.Status().State == kvstore.Live || !nc.IsClosed() {
						time.Sleep(10 * time.Millisecond)
					}
					time.Sleep(10 * time.Millisecond)
					if status := s.Status(); status.State != kvstore.Stale || status.Reason != "replication: "+kvstore.ErrDisconnected.Error() {
						t.Errorf("the status is %v, %s", status.State, status.Reason)
					}
					ctx := context.Background()
					_, put := s.Put(ctx, "key", nil)
					_, large := s.Put(ctx, "key", make([]byte, 1<<20))
					_, batch := s.Batch(ctx, kvstore.OpPut("key", nil))
					_, all := s.PutAll(ctx, func(yield func(kvstore.Pair) bool) { yield(kvstore.Pair{Key: "key"}) })
					_, get := s.Get(ctx, "key")
					_, fresh := s.Get(ctx, "key", kvstore.MaxStaleness(0))
					for _, err := range []error{put, large, batch, all, s.Delete(ctx, "key"), s.Sync(ctx), get, fresh} {
						wantErrors(t, err, kvstore.ErrDisconnected, nats.ErrConnectionClosed)
						if errors.Is(err, kvstore.ErrIndeterminate) {
							t.Errorf("the error is %v", err)
						}
					}
					closeStore(t, s)
					_, err = kvstore.Open(ctx, "app", kvstore.Options{Conn: nc})
					wantErrors(t, err, kvstore.ErrDisconnected)
				})
			})
		}
	}
}

// More reconnections than nats.go has room for events: the replica follows
// afterwards.
func TestStormOfReconnections(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		server := kvstoretest.NewServer(t, "")
		s, err := kvstore.Open(t.Context(), "app", kvstore.Options{
			Conn: server.Conn(t, nats.ReconnectWait(time.Nanosecond), nats.ReconnectJitter(0, 0)), Memory: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer closeStore(t, s)
		for range 30 {
			for range 40 {
				server.Cut()
				time.Sleep(time.Microsecond)
			}
			wantPut(t, s, "key", "value")
			for s.Status().State != kvstore.Live {
				time.Sleep(time.Second)
			}
		}
	})
}
