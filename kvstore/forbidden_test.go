package kvstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/nearkv/nearkv/kvstore"
)

// startUsers starts a server with users of the given permissions to publish; admin may do
// everything. Each has its name as its password.
func startUsers(t *testing.T, deny map[string][]string) *server.Server {
	t.Helper()
	return startNATS(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "admin", Password: "admin"}}
		for name, subjects := range deny {
			o.Users = append(o.Users, &server.User{Username: name, Password: name, Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Deny: subjects},
			}})
		}
	})
}

func openAs(t *testing.T, s *server.Server, user string, opts kvstore.Options) *kvstore.Store {
	t.Helper()
	store, err := tryOpenAs(t, s, user, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

func tryOpenAs(t *testing.T, s *server.Server, user string, opts kvstore.Options) (*kvstore.Store, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	opts.URL = "nats://" + user + ":" + user + "@" + s.Addr().String()
	store, err := kvstore.Open(ctx, "app", opts)
	if ctx.Err() != nil {
		t.Errorf("Open has waited for its context: %v", err)
	}
	return store, err
}

// wantForbidden checks that err came at once and says what was refused.
func wantForbidden(ctx context.Context, t *testing.T, err error, subject string) {
	t.Helper()
	wantErrors(t, err, kvstore.ErrForbidden, nats.ErrPermissionViolation)
	if errors.Is(err, kvstore.ErrIndeterminate) || ctx.Err() != nil || !strings.Contains(fmt.Sprint(err), subject) {
		t.Errorf("the error is %v, does not name %s, or has waited", err, subject)
	}
}

// What the server does not permit ends at once with ErrForbidden, and nothing else
// suffers.
func TestForbiddenWrites(t *testing.T) {
	server := startUsers(t, map[string][]string{"writer": {"$KV.app.no=3A.>", "$KV.app.no"}})
	openAs(t, server, "admin", kvstore.Options{})
	logged := new(syncBuffer)
	s := openAs(t, server, "writer", kvstore.Options{Logger: slog.New(slog.NewTextHandler(logged, nil))})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	t.Run("alone", func(t *testing.T) {
		_, err := s.Put(ctx, "no:1", []byte("v"))
		wantForbidden(ctx, t, err, "$KV.app.no=3A.1")
		_, err = s.Put(ctx, "no:1", []byte("v"), kvstore.IfAbsent())
		wantForbidden(ctx, t, err, "$KV.app.no=3A.1")
		_, err = s.Put(ctx, "no:1", make([]byte, 1<<20))
		wantForbidden(ctx, t, err, "$KV.app.no=3A.1")
		wantPut(t, s, "yes:1", "v")
	})
	t.Run("beside others", func(t *testing.T) {
		var work sync.WaitGroup
		for i := range 8 {
			work.Go(func() {
				for range 100 {
					if _, err := s.Put(ctx, fmt.Sprint("yes:", i), []byte("v")); err != nil {
						t.Error(err)
					}
				}
			})
			work.Go(func() {
				for range 100 {
					_, err := s.Put(ctx, fmt.Sprint("no:", i), []byte("v"))
					wantForbidden(ctx, t, err, fmt.Sprint("$KV.app.no=3A.", i))
				}
			})
		}
		work.Wait()
	})
	for _, size := range []int{1, 2, 10, 1000} {
		for _, bad := range []int{0, size / 2, size - 1} {
			t.Run(fmt.Sprintf("batch/%d/%d", size, bad), func(t *testing.T) {
				ops := make([]kvstore.Op, size)
				for i := range ops {
					ops[i] = kvstore.OpPut(fmt.Sprint("batch:", size, ":", bad, ":", i), []byte("v"))
				}
				ops[bad] = kvstore.OpPut("no:batch", []byte("v"))
				_, err := s.Batch(ctx, ops...)
				wantForbidden(ctx, t, err, "$KV.app.no=3A.batch")
				if keys := keysOf(t, s, fmt.Sprint("batch:", size, ":", bad, ":")); len(keys) != 0 {
					t.Errorf("%d keys of the batch are there", len(keys))
				}
			})
		}
	}
	t.Run("many batches", func(t *testing.T) { // the server stages 50 at a time
		for range 120 {
			_, err := s.Batch(ctx, kvstore.OpPut("yes:1", nil), kvstore.OpPut("no:last", nil))
			wantForbidden(ctx, t, err, "$KV.app.no=3A.last")
		}
		if _, err := s.Batch(ctx, kvstore.OpPut("yes:1", nil), kvstore.OpPut("yes:2", nil)); err != nil {
			t.Error(err)
		}
	})
	if n := strings.Count(logged.String(), `subject="$KV.app.no=3A.1" `); n != 1 {
		t.Errorf("the log has %d warnings of a subject:\n%s", n, logged)
	}
}

// A PutAll tells exactly what is in, where ever the forbidden write is, also in a run.
func TestForbiddenPutAll(t *testing.T) {
	server := startUsers(t, map[string][]string{"writer": {"$KV.app.no=3A.>"}})
	openAs(t, server, "admin", kvstore.Options{})
	s := openAs(t, server, "writer", kvstore.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, size := range []int{1, 64, 65, 66, 67, 200, 3000} {
		for _, bad := range []int{0, 63, 64, 65, 66, size / 2, size - 2, size - 1} {
			if bad < 0 || bad >= size {
				continue
			}
			t.Run(fmt.Sprintf("%d/%d", size, bad), func(t *testing.T) {
				prefix := fmt.Sprintf("k:%d:%d:", size, bad)
				n, err := s.PutAll(ctx, func(yield func(kvstore.Pair) bool) {
					for i := range size {
						key := fmt.Sprint(prefix, i)
						if i == bad {
							key = "no:here"
						}
						if !yield(kvstore.Pair{Key: key, Value: []byte("v")}) {
							return
						}
					}
				})
				wantForbidden(ctx, t, err, "$KV.app.no=3A.here")
				var bulk *kvstore.BulkError
				if !errors.As(err, &bulk) || bulk.Index != bad || bulk.Key != "no:here" {
					t.Fatalf("%d are in, %v", n, err)
				}
				if err := s.Sync(ctx); err != nil {
					t.Fatal(err)
				}
				if there := len(keysOf(t, s, prefix)); there != n || n != bad+len(bulk.Also) {
					t.Errorf("%d are said to be in, %d are, %d also", n, there, len(bulk.Also))
				}
			})
		}
	}
}

// A Store whose user lacks a permission that it needs does not open, and says which.
func TestForbiddenOpen(t *testing.T) {
	deny := map[string][]string{
		"info":     {"$JS.API.STREAM.INFO.KV_app"},
		"consumer": {"$JS.API.CONSUMER.CREATE.>"},
		"next":     {"$JS.API.CONSUMER.MSG.NEXT.>"},
		"delete":   {"$JS.API.CONSUMER.DELETE.>"},
		"values":   {"$JS.API.DIRECT.GET.>"},
		"leader":   {"$JS.API.STREAM.MSG.GET.>"},
		"object":   {"$O.app.C.>"},
		"objects":  {"$JS.API.STREAM.INFO.OBJ_app"},
		"names":    {"$JS.API.STREAM.NAMES"},
	}
	server := startUsers(t, deny)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	admin := openAs(t, server, "admin", kvstore.Options{})
	wantPut(t, admin, "key", "value")
	large := strings.Repeat("large", 1<<18)
	wantPut(t, admin, "large", large)
	for _, user := range []string{"info", "consumer", "next"} {
		s, err := tryOpenAs(t, server, user, kvstore.Options{})
		wantForbidden(ctx, t, err, strings.TrimSuffix(deny[user][0], ".>"))
		if err == nil {
			_ = s.Close()
		}
	}
	t.Run("delete", func(t *testing.T) {
		s := openAs(t, server, "delete", kvstore.Options{})
		wantPut(t, s, "key", "value")
	})
	t.Run("values", func(t *testing.T) {
		s := openAs(t, server, "values", kvstore.Options{CacheBytes: -1})
		_, err := s.Get(ctx, "key")
		wantForbidden(ctx, t, err, "$JS.API.DIRECT.GET.KV_app")
		_, err = s.Get(ctx, "large")
		wantForbidden(ctx, t, err, "$JS.API.DIRECT.GET.OBJ_app")
		e, err := s.Get(ctx, "large", kvstore.Lazy())
		if err != nil {
			t.Fatal(err)
		}
		r, err := e.Open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(r)
		wantForbidden(ctx, t, err, "$JS.API.DIRECT.GET.OBJ_app")
		_ = r.Close()
	})
	t.Run("leader", func(t *testing.T) {
		s := openAs(t, server, "leader", kvstore.Options{})
		wantForbidden(ctx, t, s.Delete(ctx, "never"), "$JS.API.STREAM.MSG.GET.KV_app")
	})
	for user, subject := range map[string]string{"object": "$O.app.C.", "objects": "$JS.API.STREAM.INFO.OBJ_app"} {
		t.Run(user, func(t *testing.T) {
			s := openAs(t, server, user, kvstore.Options{})
			_, err := s.Put(ctx, "large2", []byte(large))
			wantForbidden(ctx, t, err, subject)
			_, err = s.PutFrom(ctx, "large2", strings.NewReader(large))
			wantForbidden(ctx, t, err, subject)
		})
	}
	t.Run("names", func(t *testing.T) {
		_, err := kvstore.Namespaces(ctx, kvstore.Options{URL: "nats://names:names@" + server.Addr().String()})
		wantForbidden(ctx, t, err, "$JS.API.STREAM.NAMES")
	})
}

// A user who may not subscribe where answers come is told so.
func TestForbiddenInbox(t *testing.T) {
	s := startNATS(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "app", Password: "app", Permissions: &server.Permissions{
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX_app.>"}},
		}}}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := tryOpenAs(t, s, "app", kvstore.Options{})
	wantForbidden(ctx, t, err, "_INBOX.")
	store := openAs(t, s, "app", kvstore.Options{NATS: []nats.Option{nats.CustomInboxPrefix("_INBOX_app")}})
	wantPut(t, store, "key", "value")
}

// A permission that is taken away and given again: the replica says why it follows no
// more, calls fail at once, and it comes back.
func TestForbiddenForAWhile(t *testing.T) {
	users := func(deny ...string) *server.Options {
		o := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir()}
		o.Users = []*server.User{{Username: "app", Password: "app"}}
		if len(deny) > 0 {
			o.Users[0].Permissions = &server.Permissions{Publish: &server.SubjectPermission{Deny: deny}}
		}
		return o
	}
	var now *server.Options
	nats := startNATS(t, func(o *server.Options) { o.Users = users().Users; now = o })
	s := openAs(t, nats, "app", kvstore.Options{CheckInterval: 50 * time.Millisecond})
	wantPut(t, s, "key", "value")
	change := func(deny ...string) {
		t.Helper()
		o := now.Clone()
		o.Users = users(deny...).Users
		if err := nats.ReloadOptions(o); err != nil {
			t.Fatal(err)
		}
	}
	change("$JS.API.STREAM.INFO.>")
	eventually(t, "Degraded", func() bool {
		status := s.Status()
		return status.State == kvstore.Degraded && strings.Contains(status.Reason, "$JS.API.STREAM.INFO.KV_app")
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := s.Put(ctx, "key", []byte("x"))
	wantForbidden(ctx, t, err, "$JS.API.STREAM.INFO.KV_app")
	wantForbidden(ctx, t, s.Sync(ctx), "$JS.API.STREAM.INFO.KV_app")
	if e, err := s.Get(ctx, "key"); err != nil || e.Text() != "value" {
		t.Errorf("Get returns %q, %v", e.Text(), err)
	}
	change()
	eventually(t, "Live", func() bool { return s.Status().State == kvstore.Live })
	wantPut(t, s, "key", "again")
}

// The error handler of a connection is told too, and is there again after Close.
func TestForbiddenHandler(t *testing.T) {
	s := startUsers(t, map[string][]string{"writer": {"$KV.app.no"}})
	openAs(t, s, "admin", kvstore.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	told := make(chan error, 100)
	handler := nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { told <- err })
	address := "nats://writer:writer@" + s.Addr().String()
	t.Run("NATS", func(t *testing.T) {
		store := openAs(t, s, "writer", kvstore.Options{NATS: []nats.Option{handler}})
		_, err := store.Put(ctx, "no", nil)
		wantForbidden(ctx, t, err, "$KV.app.no")
		wantErrors(t, <-told, nats.ErrPermissionViolation)
	})
	t.Run("Conn", func(t *testing.T) {
		conn, err := nats.Connect(address, handler)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		var stores []*kvstore.Store
		for range 3 {
			store, err := kvstore.Open(ctx, "app", kvstore.Options{Conn: conn})
			if err != nil {
				t.Fatal(err)
			}
			stores = append(stores, store)
		}
		for _, store := range stores {
			_, err := store.Put(ctx, "no", nil)
			wantForbidden(ctx, t, err, "$KV.app.no")
			wantErrors(t, <-told, nats.ErrPermissionViolation)
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		}
		if conn.ErrorHandler() == nil {
			t.Fatal("the handler is gone")
		}
		probe := errors.New("probe")
		conn.ErrorHandler()(conn, nil, probe)
		if err := <-told; !errors.Is(err, probe) {
			t.Errorf("the handler is told %v", err)
		}
	})
}

// syncBuffer is what a logger may write to while the test reads.
type syncBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// eventually waits until ready.
func eventually(t *testing.T, what string, ready func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !ready() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("it does not come: %s", what)
		}
	}
}
