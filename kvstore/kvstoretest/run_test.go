package kvstoretest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
)

// A session that lives for a day is tested in no time.
func TestSessionExpires(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		ctx := context.Background()
		store, err := kvstore.Open(ctx, "sessions", kvstore.Options{CheckInterval: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		if _, err := store.Put(ctx, "session:1", []byte("alice"), kvstore.WithTTL(24*time.Hour)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24*time.Hour - time.Millisecond)
		if _, err := store.Get(ctx, "session:1"); err != nil {
			t.Fatalf("a millisecond before: %v", err)
		}
		time.Sleep(time.Millisecond)
		if _, err := store.Get(ctx, "session:1"); !errors.Is(err, kvstore.ErrNotFound) {
			t.Fatalf("after its TTL: %v", err)
		}
	})
}

// A replica serves what it has while the server cannot be reached, and a write
// waits for it.
func TestOutage(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		kvstoretest.Run(t, func(t *testing.T) {
			ctx := context.Background()
			server := kvstoretest.NewServer(t, dir)
			store, err := kvstore.Open(ctx, "flags", kvstore.Options{Conn: server.Conn(t), Memory: dir == "", WriteTimeout: -1})
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			if _, err := store.Put(ctx, "flag", []byte("on")); err != nil {
				t.Fatal(err)
			}
			server.SetDown(true)
			time.Sleep(10 * time.Minute)
			if state := store.Status().State; state != kvstore.Stale {
				t.Fatalf("state is %v", state)
			}
			if e, err := store.Get(ctx, "flag"); err != nil || e.Text() != "on" {
				t.Fatalf("Get returns %q, %v", e.Text(), err)
			}
			time.AfterFunc(time.Minute, func() { server.SetDown(false) })
			if _, err := store.Put(ctx, "flag", []byte("off")); err != nil {
				t.Fatal(err)
			}
			if e, err := store.Get(ctx, "flag"); err != nil || e.Text() != "off" {
				t.Fatalf("Get returns %q, %v", e.Text(), err)
			}
			if err := store.Sync(ctx); err != nil {
				t.Fatal(err)
			}
			if state := store.Status().State; state != kvstore.Live {
				t.Fatalf("state is %v", state)
			}
		})
	}
}

// A server without a directory takes Stores with Memory and without, and all that
// they hold.
func TestServerWithoutDir(t *testing.T) {
	for name, run := range map[string]func(*testing.T, func(*testing.T)){
		"real time": func(t *testing.T, f func(*testing.T)) { f(t) }, "virtual time": kvstoretest.Run,
	} {
		for _, memory := range []bool{false, true} {
			run(t, func(t *testing.T) {
				ctx := context.Background()
				server := kvstoretest.NewServer(t, "")
				store, err := kvstore.Open(ctx, "files", kvstore.Options{Conn: server.Conn(t), Memory: memory})
				if err != nil {
					t.Fatal(err)
				}
				defer store.Close()
				for i := range 5 {
					if _, err := store.Put(ctx, fmt.Sprint("key", i), make([]byte, 100_000*i)); err != nil {
						t.Fatalf("%s, Memory %v, Put %d: %v", name, memory, i, err)
					}
				}
				if n := store.Stats().Keys; n != 5 {
					t.Errorf("%s, Memory %v: %d keys", name, memory, n)
				}
			})
		}
	}
}
