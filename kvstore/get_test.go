package kvstore_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
)

func openForGet(t *testing.T) *kvstore.Store {
	t.Helper()
	s, err := kvstore.Open(context.Background(), "get", kvstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func putForGet(t *testing.T, s *kvstore.Store, key string, value []byte, opts ...kvstore.WriteOption) kvstore.Revision {
	t.Helper()
	revision, err := s.Put(context.Background(), key, value, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

// A Get of a value in memory allocates nothing.
func TestGetAllocs(t *testing.T) {
	ctx, s := context.Background(), openForGet(t)
	const meta = `{"content-type":"text/plain"}`
	revision := putForGet(t, s, "key", []byte(strings.Repeat("v", 1000)), kvstore.WithMetadata(map[string]string{"content-type": "text/plain"}))
	putForGet(t, s, "empty", nil)
	putForGet(t, s, "session", []byte("alice"), kvstore.WithTTL(1e15))
	for key, want := range map[string]int{"key": 1000, "empty": 0, "session": 5} {
		n := 0
		allocs := testing.AllocsPerRun(2000, func() {
			e, err := s.Get(ctx, key)
			if err == nil {
				n += e.Len() + len(e.Text()) - len(e.Key()) + len(key)
			}
		})
		if allocs != 0 || n == 0 && want != 0 {
			t.Errorf("Get of %q: %v allocations", key, allocs)
		}
	}
	absent := testing.AllocsPerRun(2000, func() {
		if _, err := s.Get(ctx, "absent"); !errors.Is(err, kvstore.ErrNotFound) {
			t.Error(err)
		}
	})
	if absent != 0 {
		t.Errorf("Get of an absent key: %v allocations", absent)
	}
	// With an option that holds there are few: of the option, its slice and its
	// result.
	bounded := testing.AllocsPerRun(2000, func() {
		if e, err := s.Get(ctx, "key", kvstore.AtLeast(revision)); err != nil || e.Revision() != revision {
			t.Error(err)
		}
	})
	if bounded > 4 {
		t.Errorf("Get with AtLeast: %v allocations", bounded)
	}
	t.Logf("with AtLeast: %v allocations", bounded)
	e, err := s.Get(ctx, "key")
	if err != nil || string(e.Metadata()) != meta {
		t.Errorf("metadata is %s, %v", e.Metadata(), err)
	}
}

// What is done to the slices that a caller passed in or was given changes
// nothing of what is stored.
func TestGetIsImmutable(t *testing.T) {
	ctx := context.Background()
	spoil := func(b []byte) {
		for i := range b {
			b[i] = 'X'
		}
		_ = append(b[:0], "XXXX"...)
	}
	for name, cacheBytes := range map[string]int64{"cached": 0, "not cached": -1} {
		t.Run(name, func(t *testing.T) {
			s, err := kvstore.Open(ctx, "get", kvstore.Options{CacheBytes: cacheBytes})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			value, meta := []byte("a value"), []byte(`{"a": "<&>"}`)
			revision := putForGet(t, s, "key", value, kvstore.WithMetadata(rawJSON(meta)))
			spoil(value)
			spoil(meta)
			first, err := s.Get(ctx, "key")
			if err != nil {
				t.Fatal(err)
			}
			intact := func(what string) {
				t.Helper()
				e, err := s.Get(ctx, "key")
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range []kvstore.Entry{e, first} {
					if e.Text() != "a value" || string(e.Value()) != "a value" || string(e.Metadata()) != `{"a":"<&>"}` || e.Revision() != revision || e.Key() != "key" {
						t.Errorf("after %s: %q, %q, %s, %d", what, e.Text(), e.Value(), e.Metadata(), e.Revision())
					}
				}
			}
			intact("Put")
			spoil(first.Value())
			spoil(first.Metadata())
			intact("Get")
			all, err := s.GetAll(ctx, []string{"key"})
			if err != nil {
				t.Fatal(err)
			}
			spoil(all["key"].Value())
			intact("GetAll")
			page, err := s.List(kvstore.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			spoil(page.Keys[0].Metadata)
			for _, info := range keysOf(t, s, "") {
				spoil(info.Metadata)
			}
			intact("List")
			ctx, stop := context.WithCancel(ctx)
			for event, err := range s.Watch(ctx, "") {
				if err != nil {
					t.Error(err)
				}
				spoil(event.Entry.Value())
				spoil(event.Entry.Metadata())
				stop()
			}
			stop()
			intact("Watch")
		})
	}
}

// Who reads a key while it is written finds the old value or the new one in
// memory, at any instant, and never has to ask the log.
func TestGetWhileReplaced(t *testing.T) {
	s := openForGet(t)
	view := kvstore.NewView(s, codec.JSON[int]())
	putForGet(t, s, "key", []byte("0"))
	ctx, stop := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for last := kvstore.Revision(0); ctx.Err() == nil; runtime.Gosched() {
				entry, err := s.Get(ctx, "key")
				if err != nil || entry.Revision() < last {
					t.Errorf("after revision %d: %d, %v", last, entry.Revision(), err)
					return
				}
				last = entry.Revision()
				if _, entry, err = view.GetEntry(ctx, "key"); err != nil || entry.Revision() < last {
					t.Errorf("after revision %d a view has %d, %v", last, entry.Revision(), err)
					return
				}
			}
		})
	}
	for i := range 5000 {
		putForGet(t, s, "key", []byte(strconv.Itoa(i)))
	}
	stop()
	readers.Wait()
	if stats := s.Stats(); stats.Loads != 0 || stats.Misses != 0 {
		t.Errorf("%d values were not in memory, %d were loaded", stats.Misses, stats.Loads)
	}
}

// rawJSON is metadata as its owner has it in memory.
type rawJSON []byte

func (r rawJSON) MarshalJSON() ([]byte, error) { return r, nil }

// An Entry stays what it was when its key is written again, deleted, or the Store
// is closed.
func TestEntryStays(t *testing.T) {
	ctx, s := context.Background(), openForGet(t)
	revision := putForGet(t, s, "key", []byte("first"), kvstore.WithMetadata(1))
	old, err := s.Get(ctx, "key")
	if err != nil {
		t.Fatal(err)
	}
	modified := old.Modified()
	intact := func(after string) {
		t.Helper()
		if old.Text() != "first" || string(old.Metadata()) != "1" || old.Revision() != revision || !old.Expires().IsZero() || old.Len() != 5 {
			t.Errorf("after %s: %q, %s, %d", after, old.Text(), old.Metadata(), old.Revision())
		}
	}
	putForGet(t, s, "key", []byte("second"), kvstore.WithTTL(1e12))
	intact("Put")
	if err := s.Delete(ctx, "key"); err != nil {
		t.Fatal(err)
	}
	intact("Delete")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	intact("Close")
	if modified.IsZero() {
		t.Error("it has no time")
	}
}

func TestZeroEntry(t *testing.T) {
	var e kvstore.Entry
	if e.Key() != "" || e.Text() != "" || e.Len() != 0 || len(e.Value()) != 0 || e.Metadata() != nil || e.Revision() != 0 || !e.Modified().IsZero() || !e.Expires().IsZero() {
		t.Errorf("the zero Entry is %+v", e)
	}
}

func specBulkGet(s *spec) {
	var keys []string
	for i := range 2500 {
		keys = append(keys, fmt.Sprint(i))
		if i%2 == 0 {
			s.put(keys[i], "value of "+keys[i])
		}
	}
	s.catchUp()
	all, err := s.far.GetAll(s.ctx, append(keys, "0", "0"))
	if err != nil || len(all) != 1250 {
		s.Fatalf("%d entries, %v", len(all), err)
	}
	for key, e := range all {
		if e.Key() != key || e.Text() != "value of "+key {
			s.Errorf("%q is %q: %q", key, e.Key(), e.Text())
		}
	}
	if all, err := s.far.GetAll(s.ctx, nil); err != nil || all == nil || len(all) != 0 {
		s.Errorf("of no keys: %v, %v", all, err)
	}
}

func specPropagation(s *spec) {
	for i := range 100 {
		key := fmt.Sprint(i)
		// That it is absent is known, and is not remembered for longer than it is so.
		if _, err := s.far.Get(s.ctx, key); !errors.Is(err, kvstore.ErrNotFound) {
			s.Fatalf("Get(%q): %v", key, err)
		}
		began := time.Now()
		revision := s.put(key, "v")
		e, err := s.far.Get(s.ctx, key, kvstore.AtLeast(revision))
		if err != nil || e.Revision() != revision {
			s.Fatalf("Get(%q): %d, %v", key, e.Revision(), err)
		}
		if took := time.Since(began); took >= time.Second {
			s.Errorf("it took %v", took)
		}
	}
}

func specReadYourWrites(s *spec) {
	for i := range 200 {
		key, value := fmt.Sprint(i%10), fmt.Sprint(i)
		revision := s.put(key, value)
		if e, err := s.near.Get(s.ctx, key); err != nil || e.Text() != value || e.Revision() != revision {
			s.Fatalf("after Put: %q, %v", e.Text(), err)
		}
		if i%2 == 0 {
			if e, err := s.far.Get(s.ctx, key, kvstore.AtLeast(revision)); err != nil || e.Text() != value {
				s.Fatalf("AtLeast: %q, %v", e.Text(), err)
			}
			if all, err := s.far.GetAll(s.ctx, []string{key, "other"}, kvstore.AtLeast(revision)); err != nil || all[key].Text() != value {
				s.Fatalf("GetAll AtLeast: %q, %v", all[key].Text(), err)
			}
		}
		if i%7 == 0 {
			s.delete(key)
			if _, err := s.near.Get(s.ctx, key); !errors.Is(err, kvstore.ErrNotFound) {
				s.Fatalf("after Delete: %v", err)
			}
			s.catchUp()
			if _, err := s.far.Get(s.ctx, key); !errors.Is(err, kvstore.ErrNotFound) {
				s.Fatalf("after Delete and Sync: %v", err)
			}
		}
	}
	last := s.put("key", "v")
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	if _, err := s.far.Get(ctx, "key", kvstore.AtLeast(last+1)); !errors.Is(err, kvstore.ErrStale) || !errors.Is(err, context.DeadlineExceeded) {
		s.Errorf("AtLeast what is not there: %v", err)
	}
	go func() {
		time.Sleep(time.Second)
		_, _ = s.near.Put(s.ctx, "other", nil) // far tells whether it happened
	}()
	if _, err := s.far.Get(s.ctx, "key", kvstore.AtLeast(last+1)); err != nil {
		s.Errorf("AtLeast what is to come: %v", err)
	}
	if status := s.far.Status(); status.Applied < last+1 || status.Lag() != 0 {
		s.Errorf("%+v", status)
	}
}

func specMaxStaleness(s *spec) {
	if _, err := s.far.Get(s.ctx, "key", kvstore.MaxStaleness(-1)); !errors.Is(err, kvstore.ErrInvalidOptions) {
		s.Errorf("negative: %v", err)
	}
	for i := range 100 {
		value := fmt.Sprint(i)
		s.put("key", value)
		if e, err := s.far.Get(s.ctx, "key", kvstore.MaxStaleness(0)); err != nil || e.Text() != value {
			s.Fatalf("MaxStaleness(0): %q, %v, not %q", e.Text(), err, value)
		}
	}
	time.Sleep(20 * time.Minute) // it has compared itself with the log meanwhile
	s.server.SetDown(true)
	if _, err := s.far.Get(s.ctx, "key", kvstore.MaxStaleness(15*time.Minute)); err != nil {
		s.Errorf("within bounds: %v", err)
	}
	time.Sleep(time.Minute)
	ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
	defer cancel()
	if _, err := s.far.Get(ctx, "key", kvstore.MaxStaleness(30*time.Second)); !errors.Is(err, kvstore.ErrStale) || !errors.Is(err, context.DeadlineExceeded) {
		s.Errorf("without the log: %v", err)
	}
	if _, err := s.far.Get(s.ctx, "key", kvstore.MaxStaleness(time.Hour)); err != nil {
		s.Errorf("without the log, within bounds: %v", err)
	}
	s.server.SetDown(false)
	if e, err := s.far.Get(s.ctx, "key", kvstore.MaxStaleness(time.Second)); err != nil || e.Text() != "99" {
		s.Errorf("when the log is back: %q, %v", e.Text(), err)
	}
}

func specOutage(s *spec) {
	s.put("key", "old")
	s.has("key", "old")
	s.server.SetDown(true)
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	if err := s.far.Sync(ctx); !errors.Is(err, kvstore.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		s.Errorf("Sync: %v", err)
	}
	if _, err := s.far.Put(ctx, "key", []byte("lost")); !errors.Is(err, kvstore.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		s.Errorf("Put: %v", err)
	}
	if e, err := s.far.Get(s.ctx, "key"); err != nil || e.Text() != "old" {
		s.Errorf("Get: %q, %v", e.Text(), err)
	}
	time.AfterFunc(kvstore.DefaultWriteTimeout/2, func() { s.server.SetDown(false) })
	if _, err := s.far.Put(s.ctx, "key", []byte("new")); err != nil {
		s.Errorf("Put: %v", err)
	}
	if err := s.near.Sync(s.ctx); err != nil {
		s.Error(err)
	}
	s.has("key", "new")
}

// A replica that opens a log whose last records have expired and are gone is at
// its end: nothing waits for them, nothing is doubted.
func TestOpenAfterExpiry(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		server := kvstoretest.NewServer(t, "")
		s := &spec{T: t, ctx: context.Background(), server: server, near: openSpec(t, server)}
		s.put("key", "v")
		last := s.put("session", "v", kvstore.WithTTL(time.Second))
		time.Sleep(time.Hour)
		s.far = openSpec(t, server)
		began := time.Now()
		if status := s.far.Status(); status.State != kvstore.Live || status.Lag() != 0 || status.Applied < last {
			t.Errorf("%+v", status)
		}
		s.catchUp()
		for _, opt := range []kvstore.ReadOption{kvstore.AtLeast(last), kvstore.MaxStaleness(0)} {
			if _, err := s.far.Get(s.ctx, "session", opt); !errors.Is(err, kvstore.ErrNotFound) {
				t.Error(err)
			}
		}
		if took := time.Since(began); took >= time.Second {
			t.Errorf("to be at the end of the log took %v", took)
		}
		s.has("key", "v")
		time.Sleep(time.Hour)
		if n := s.far.Stats().Resyncs; n != 1 {
			t.Errorf("the log was read %d times", n)
		}
	})
}

// Records that had expired while the server was down are removed after it has
// started, some time: that is no damage.
func TestReopenAfterExpiry(t *testing.T) {
	for _, closed := range []time.Duration{0, 10 * time.Second, 45 * time.Second, time.Minute, time.Hour} {
		t.Run(closed.String(), func(t *testing.T) {
			kvstoretest.Run(t, func(t *testing.T) {
				opts := kvstore.Options{Dir: t.TempDir(), Exclusive: true, CheckInterval: time.Second}
				s := &spec{T: t, ctx: context.Background()}
				open := func() {
					store, err := kvstore.Open(s.ctx, "spec", opts)
					if err != nil {
						t.Fatal(err)
					}
					s.near = store
				}
				open()
				for i := range 50 {
					s.put(fmt.Sprint("session:", i), "v", kvstore.WithTTL(time.Second))
				}
				s.put("key", "v")
				if err := s.near.Close(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(closed)
				open()
				defer s.near.Close()
				for range 100 {
					time.Sleep(time.Second)
					stats, status := s.near.Stats(), s.near.Status()
					if stats.Resyncs != 1 || status.State != kvstore.Live {
						t.Fatalf("%+v, %+v", status, stats)
					}
				}
				if e, err := s.near.Get(s.ctx, "key"); err != nil || e.Text() != "v" {
					t.Errorf("%q, %v", e.Text(), err)
				}
			})
		})
	}
}
