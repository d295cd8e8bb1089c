package kvstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/kvstore"
)

// A server that takes little in one message works, or is refused with what it needs.
func TestSmallMaxPayload(t *testing.T) {
	for _, payload := range []int32{512, 2047, 2048, 2049, 4095, 4096, 4097, 8192, 10_000, 70_000} {
		t.Run(fmt.Sprint(payload), func(t *testing.T) {
			address := "nats://" + startNATS(t, func(o *server.Options) { o.MaxPayload = payload }).Addr().String()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			s, err := kvstore.Open(ctx, strings.Repeat("n", 200), kvstore.Options{URL: address})
			if payload < 2048 {
				wantErrors(t, err, kvstore.ErrUnsupported)
				if !strings.Contains(fmt.Sprint(err), fmt.Sprintf("max_payload of %d bytes, needed are 2048", payload)) || ctx.Err() != nil {
					t.Errorf("the error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer closeStore(t, s)
			metadata := strings.Repeat("m", 1022)
			n := int(payload)
			for i, size := range []int{0, 1, n / 2, n - 4097, n - 4096, n - 1793, n - 1792, n - 1791, n - 1024, n - 1, n, n + 1, 3 * n, 300_000} {
				if size < 0 {
					continue
				}
				key, value := fmt.Sprint(strings.Repeat("k", 500), i), bytes.Repeat([]byte("v"), size)
				for _, opts := range [][]kvstore.WriteOption{{kvstore.WithMetadata(metadata), kvstore.WithTTL(time.Hour), kvstore.IfAbsent()}, nil} {
					if _, err := s.Put(ctx, key, value, opts...); err != nil {
						t.Errorf("Put of %d bytes: %v", size, err)
					}
					e, err := s.Get(ctx, key)
					if err != nil || !bytes.Equal(e.Value(), value) {
						t.Errorf("Get of %d bytes: %v", size, err)
					}
				}
				if _, err := s.Batch(ctx, kvstore.OpPut("a", value, kvstore.WithMetadata(metadata)), kvstore.OpPut("b", value, kvstore.WithMetadata(metadata))); err != nil {
					t.Errorf("Batch of %d bytes: %v", size, err)
				}
			}
			if err := s.Sync(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// A connection that comes to a server with another max_payload.
func TestSmallMaxPayloadChanges(t *testing.T) {
	var now *server.Options
	srv := startNATS(t, func(o *server.Options) { now = o })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := kvstore.Open(ctx, "app", kvstore.Options{URL: "nats://" + srv.Addr().String(), CheckInterval: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	for _, payload := range []int32{4096, 1 << 20, 512, 8192} {
		o := now.Clone()
		o.MaxPayload = payload
		if err := srv.ReloadOptions(o); err != nil {
			t.Fatal(err)
		}
		conns, err := srv.Connz(nil) // as if the connection came to another server
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range conns.Conns {
			if err := srv.DisconnectClientByID(c.Cid); err != nil {
				t.Error(err)
			}
		}
		if payload < 2048 {
			eventually(t, "Degraded", func() bool {
				return s.Status().State == kvstore.Degraded && strings.Contains(s.Status().Reason, "max_payload of 512")
			})
			_, err := s.Put(ctx, "key", nil)
			wantErrors(t, err, kvstore.ErrUnsupported)
			continue
		}
		eventually(t, fmt.Sprint(payload), func() bool {
			for _, size := range []int{1, 3000, 60_000, 400_000} {
				if _, err := s.Put(ctx, "key", bytes.Repeat([]byte("v"), size)); err != nil {
					if !errors.Is(err, kvstore.ErrTooLarge) && !errors.Is(err, kvstore.ErrUnsupported) {
						t.Error(err)
					}
					return false // it has not noticed yet
				}
			}
			return true
		})
	}
}

// A pull asks for no more than the server, the account and the stream allow.
func TestPullLimits(t *testing.T) {
	srv := startNATS(t, func(o *server.Options) { o.JetStreamLimits.MaxRequestBatch = 1000 })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	address := "nats://" + srv.Addr().String()
	nc := dialNATS(t, srv)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for name, limits := range map[string]jetstream.StreamConsumerLimits{
		"of the server": {}, "idle": {InactiveThreshold: 2 * time.Second}, "short idle": {InactiveThreshold: time.Millisecond * 500},
	} {
		t.Run(name, func(t *testing.T) {
			bucket := strings.ReplaceAll(name, " ", "_")
			if _, err := js.CreateStream(ctx, jetstream.StreamConfig{
				Name: "KV_" + bucket, Subjects: []string{"$KV." + bucket + ".>"}, MaxMsgsPerSubject: 1, AllowDirect: true, ConsumerLimits: limits,
			}); err != nil {
				t.Fatal(err)
			}
			s, err := kvstore.Open(ctx, bucket, kvstore.Options{URL: address})
			if err != nil {
				t.Fatal(err)
			}
			defer closeStore(t, s)
			for i := range 5000 {
				if err := nc.Publish(fmt.Sprintf("$KV.%s.%d", bucket, i), bytes.Repeat([]byte("v"), 100)); err != nil {
					t.Fatal(err)
				}
			}
			if err := nc.FlushWithContext(ctx); err != nil {
				t.Fatal(err)
			}
			eventually(t, "all", func() bool { return s.Stats().Keys == 5000 })
			again, err := kvstore.Open(ctx, bucket, kvstore.Options{URL: address})
			if err != nil {
				t.Fatal(err)
			}
			defer closeStore(t, again)
			if again.Stats().Keys != 5000 || again.Status().State != kvstore.Live {
				t.Errorf("%d keys, %v", again.Stats().Keys, again.Status().State)
			}
		})
	}
}

// What a server, an account or a stream refuses for good is told at once, by Open or by
// the write that meets it.
func TestRefusedForGood(t *testing.T) {
	limited := startConfig(t, fmt.Sprintf(`
listen: "127.0.0.1:-1"
jetstream { store_dir: %q }
accounts: {
  BYTES: { jetstream: {max_bytes_required: true}, users: [{user: bytes, password: bytes}] }
  SMALL: { jetstream: {disk_max_stream_bytes: 1MB, max_bytes_required: true}, users: [{user: small, password: small}] }
  STREAMS: { jetstream: {max_streams: 1}, users: [{user: streams, password: streams}] }
  CONSUMERS: { jetstream: {max_consumers: 2}, users: [{user: consumers, password: consumers}] }
  STORE: { jetstream: {max_store: 1MB}, users: [{user: store, password: store}] }
  NONE: { users: [{user: none, password: none}] }
}
`, t.TempDir()))
	at := func(user string) string { return "nats://" + user + ":" + user + "@" + limited.Addr().String() }
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	open := func(t *testing.T, user, namespace string, opts kvstore.Options) (*kvstore.Store, error) {
		t.Helper()
		opts.URL = at(user)
		s, err := kvstore.Open(ctx, namespace, opts)
		if err == nil {
			t.Cleanup(func() { _ = s.Close() })
		}
		return s, err
	}
	want := func(t *testing.T, err error, target error, text string) {
		t.Helper()
		wantErrors(t, err, target)
		if ctx.Err() != nil || errors.Is(err, kvstore.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), text) {
			t.Errorf("the error is %v, without %q, or has waited", err, text)
		}
	}
	t.Run("max bytes required", func(t *testing.T) {
		_, err := open(t, "bytes", "app", kvstore.Options{})
		want(t, err, kvstore.ErrUnsupported, "set Options.MaxBytes")
		s, err := open(t, "bytes", "app", kvstore.Options{MaxBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		wantPut(t, s, "key", "value")
	})
	t.Run("max stream bytes", func(t *testing.T) {
		_, err := open(t, "small", "app", kvstore.Options{MaxBytes: 2 << 20})
		want(t, err, kvstore.ErrLimit, "MaxBytes")
	})
	t.Run("streams", func(t *testing.T) {
		s, err := open(t, "streams", "one", kvstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = open(t, "streams", "two", kvstore.Options{})
		want(t, err, kvstore.ErrLimit, "max_streams")
		_, err = s.Put(ctx, "large", make([]byte, 1<<20)) // its object store is a second stream
		want(t, err, kvstore.ErrLimit, "max_streams")
		wantPut(t, s, "small", "value")
	})
	t.Run("consumers", func(t *testing.T) {
		var stores []*kvstore.Store
		for range 2 {
			s, err := open(t, "consumers", "app", kvstore.Options{CheckInterval: 20 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			stores = append(stores, s)
		}
		_, err := open(t, "consumers", "app", kvstore.Options{})
		want(t, err, kvstore.ErrLimit, "max_consumers")
		closeStore(t, stores[0])
		eventually(t, "room again", func() bool { _, err := open(t, "consumers", "app", kvstore.Options{}); return err == nil })
	})
	t.Run("store", func(t *testing.T) {
		s, err := open(t, "store", "app", kvstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var full error
		for i := 0; full == nil; i++ {
			_, full = s.Put(ctx, fmt.Sprint(i), make([]byte, 50_000))
		}
		want(t, full, kvstore.ErrNoSpace, "")
	})
	t.Run("no JetStream", func(t *testing.T) {
		_, err := open(t, "none", "app", kvstore.Options{})
		want(t, err, kvstore.ErrUnsupported, "Options.Domain")
		_, err = kvstore.Namespaces(ctx, kvstore.Options{URL: at("none")})
		want(t, err, kvstore.ErrUnsupported, "Options.Domain")
	})
}

// A stream that is sealed or gets a transform under an open Store.
func TestStreamChangesForGood(t *testing.T) {
	for name, change := range map[string]func(*jetstream.StreamConfig){
		"is sealed": func(c *jetstream.StreamConfig) { c.Sealed = true },
		"transforms subjects": func(c *jetstream.StreamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "$KV.app.>", Destination: "$KV.app.x.>"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv := startNATS(t, nil)
			nc := dialNATS(t, srv)
			js, err := jetstream.New(nc)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			stream, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "KV_app", Subjects: []string{"$KV.app.>"}, MaxMsgsPerSubject: 1, AllowDirect: true})
			if err != nil {
				t.Fatal(err)
			}
			s, err := kvstore.Open(ctx, "app", kvstore.Options{Conn: nc, CheckInterval: 20 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer closeStore(t, s)
			wantPut(t, s, "key", "value")
			config := stream.CachedInfo().Config
			change(&config)
			if _, err := js.UpdateStream(ctx, config); err != nil {
				t.Fatal(err)
			}
			eventually(t, "Degraded", func() bool { return s.Status().State == kvstore.Degraded && strings.Contains(s.Status().Reason, name) })
			_, put := s.Put(ctx, "key", nil)
			_, all := s.PutAll(ctx, func(yield func(kvstore.Pair) bool) { yield(kvstore.Pair{Key: "k"}) })
			_, opened := kvstore.Open(ctx, "app", kvstore.Options{Conn: nc})
			for _, err := range []error{put, all, s.Delete(ctx, "key"), s.Sync(ctx), opened} {
				wantErrors(t, err, kvstore.ErrUnsupported)
			}
			if e, err := s.Get(ctx, "key"); err != nil || e.Text() != "value" {
				t.Errorf("Get returns %q, %v", e.Text(), err)
			}
			if ctx.Err() != nil {
				t.Error("something has waited")
			}
		})
	}
}
