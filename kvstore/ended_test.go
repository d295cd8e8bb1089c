package kvstore_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
)

var errCause = errors.New("the caller has given up")

// endings are contexts that end, at once or in a while, with a cause of their own.
var endings = map[string]func() (context.Context, context.CancelFunc){
	"canceled": func() (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(errCause)
		return ctx, func() {}
	},
	"canceled later": func() (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancelCause(context.Background())
		stop := time.AfterFunc(3*time.Second, func() { cancel(errCause) })
		return ctx, func() { stop.Stop(); cancel(nil) }
	},
	"timed out": func() (context.Context, context.CancelFunc) {
		return context.WithTimeoutCause(context.Background(), 3*time.Second, errCause)
	},
	"without a cause": func() (context.Context, context.CancelFunc) {
		return context.WithTimeout(context.Background(), 3*time.Second)
	},
}

// waiting are the calls that wait for the log. The Store has "key" and "large" and no values in memory.
func waiting(t *testing.T, s *kvstore.Store, server *kvstoretest.Server, archive string) map[string]func(ctx context.Context) error {
	conn, view := server.Conn(t), kvstore.NewView(s, codec.String())
	lazily, err := s.Get(t.Context(), "large", kvstore.Lazy())
	if err != nil {
		t.Fatal(err)
	}
	get := func(key string, opts ...kvstore.ReadOption) func(context.Context) error {
		return func(ctx context.Context) error { _, err := s.Get(ctx, key, opts...); return err }
	}
	return map[string]func(ctx context.Context) error{
		"Get":          get("key"),
		"Get large":    get("large"),
		"AtLeast":      get("key", kvstore.AtLeast(1000)),
		"MaxStaleness": get("key", kvstore.MaxStaleness(0)),
		"GetAll":       func(ctx context.Context) error { _, err := s.GetAll(ctx, []string{"key", "large"}); return err },
		"Sync":         s.Sync,
		"Put":          func(ctx context.Context) error { _, err := s.Put(ctx, "new", []byte("value")); return err },
		"Put large": func(ctx context.Context) error {
			_, err := s.Put(ctx, "new", make([]byte, 1<<20))
			return err
		},
		"Put if": func(ctx context.Context) error { _, err := s.Put(ctx, "new", nil, kvstore.IfAbsent()); return err },
		"Delete": func(ctx context.Context) error { return s.Delete(ctx, "key") },
		"Batch": func(ctx context.Context) error {
			_, err := s.Batch(ctx, kvstore.OpPut("a", nil), kvstore.OpDelete("key"))
			return err
		},
		"PutAll": func(ctx context.Context) error {
			_, err := s.PutAll(ctx, slices.Values([]kvstore.Pair{{Key: "a"}, {Key: "b"}}))
			return err
		},
		"DeleteAll": func(ctx context.Context) error { _, err := s.DeleteAll(ctx, slices.Values([]string{"a"})); return err },
		"DeletePrefix": func(ctx context.Context) error {
			_, err := s.DeletePrefix(ctx, "")
			return err
		},
		"PutFrom": func(ctx context.Context) error {
			_, err := s.PutFrom(ctx, "new", strings.NewReader(strings.Repeat("v", 1<<20)))
			return err
		},
		"PutFrom once": func(ctx context.Context) error {
			_, err := s.PutFrom(ctx, "new", io.MultiReader(strings.NewReader(strings.Repeat("v", 1<<20))))
			return err
		},
		"Export":     func(ctx context.Context) error { _, err := s.Export(ctx, io.Discard); return err },
		"ExportJSON": func(ctx context.Context) error { _, err := s.ExportJSON(ctx, io.Discard); return err },
		"Import": func(ctx context.Context) error {
			_, err := s.Import(ctx, strings.NewReader(archive))
			return err
		},
		"ImportJSON": func(ctx context.Context) error {
			_, err := s.ImportJSON(ctx, strings.NewReader(`[{"key": "a", "value": "b"}]`))
			return err
		},
		"Entry.Open": func(ctx context.Context) error {
			r, err := lazily.Open(ctx)
			if err != nil {
				return err
			}
			_, err = io.ReadAll(r)
			return errors.Join(err, r.Close())
		},
		"View.Get": func(ctx context.Context) error { _, err := view.Get(ctx, "key"); return err },
		"View.Put": func(ctx context.Context) error { _, err := view.Put(ctx, "new", "value"); return err },
		"View.Update": func(ctx context.Context) error {
			_, err := view.Update(ctx, "key", func(old string) (string, error) { return old + "x", nil })
			return err
		},
		"Open": func(ctx context.Context) error {
			_, err := kvstore.Open(ctx, "ended", kvstore.Options{Conn: conn})
			return err
		},
		"Namespaces": func(ctx context.Context) error {
			_, err := kvstore.Namespaces(ctx, kvstore.Options{Conn: conn})
			return err
		},
	}
}

// TestEndedByItsContext: an error of a call that ended because of its context is that of the context and its cause.
func TestEndedByItsContext(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		server := kvstoretest.NewServer(t, t.TempDir())
		s := opened(t, "ended", kvstore.Options{Conn: server.Conn(t), CacheBytes: -1})
		wantPut(t, s, "key", "value")
		wantPut(t, s, "large", strings.Repeat("v", 1<<20))
		var archive strings.Builder
		if _, err := s.Export(t.Context(), &archive); err != nil {
			t.Fatal(err)
		}
		calls := waiting(t, s, server, archive.String())
		server.SetDown(true)
		time.Sleep(time.Second)
		for how, begin := range endings {
			for name, call := range calls {
				ctx, cancel := begin()
				err := call(ctx)
				if err == nil || !errors.Is(err, ctx.Err()) || !errors.Is(err, context.Cause(ctx)) {
					t.Errorf("%s, %s: %v; must be %v and %v", name, how, err, ctx.Err(), context.Cause(ctx))
				}
				cancel()
			}
		}
		server.SetDown(false)
		if err := s.Sync(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestOpenEndedByItsContext is TestEndedByItsContext for the ways in which Open waits before it has a connection.
func TestOpenEndedByItsContext(t *testing.T) {
	dir := t.TempDir()
	opened(t, "ended", kvstore.Options{Dir: dir, Exclusive: true})
	silent := listener(t) // accepts, and says nothing
	for name, opts := range map[string]kvstore.Options{
		"in memory":  {},
		"Dir":        {Dir: t.TempDir()},
		"locked Dir": {Dir: dir},
		"nobody":     {URL: "nats://127.0.0.1:1"},
		"silent":     {URL: "nats://" + silent.Addr().String()},
	} {
		for how, begin := range map[string]func() (context.Context, context.CancelFunc){
			"canceled": endings["canceled"],
			"timed out": func() (context.Context, context.CancelFunc) {
				return context.WithTimeoutCause(context.Background(), 200*time.Millisecond, errCause)
			},
		} {
			ctx, cancel := begin()
			s, err := kvstore.Open(ctx, "ended", opts)
			switch {
			case err == nil && how != "canceled": // it was quick
				closeStore(t, s)
			case err == nil || !errors.Is(err, ctx.Err()) || !errors.Is(err, context.Cause(ctx)) || !errors.Is(err, kvstore.ErrUnavailable):
				t.Errorf("%s, %s: %v; must be %v and %v", name, how, err, ctx.Err(), context.Cause(ctx))
			}
			cancel()
		}
	}
}
