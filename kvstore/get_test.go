package kvstore_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/nearkv/nearkv/kvstore"
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
			for info := range s.Keys("") {
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
