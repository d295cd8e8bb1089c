package kvstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
)

// pairs yields n pairs of which several have the same key. Their values share
// one buffer.
func pairs(n, keys int, want map[string]string) iter.Seq[kvstore.Pair] {
	return func(yield func(kvstore.Pair) bool) {
		var value []byte
		for i := range n {
			key := fmt.Sprint("key", rand.IntN(keys))
			value = fmt.Appendf(value[:0], "value %d", i)
			want[key] = string(value)
			p := kvstore.Pair{Key: key, Value: value}
			switch i % 300 {
			case 0:
				p.TTL = time.Hour // has to be written by itself
			case 150:
				p.Metadata = i
			}
			if !yield(p) {
				return
			}
		}
	}
}

func contentOf(t *testing.T, s *kvstore.Store) map[string]string {
	t.Helper()
	content := make(map[string]string)
	for _, info := range keysOf(t, s, "") {
		content[info.Name] = wantText(t, s, info.Name, mustGet(t, s, info.Name)).Text()
	}
	return content
}

func mustGet(t *testing.T, s *kvstore.Store, key string) string {
	t.Helper()
	e, err := s.Get(context.Background(), key)
	if err != nil {
		t.Fatalf("Get(%q): %v", key, err)
	}
	return e.Text()
}

func openBulk(t *testing.T, server *kvstoretest.Server) *kvstore.Store {
	t.Helper()
	s, err := kvstore.Open(context.Background(), "bulk", kvstore.Options{Conn: server.Conn(t), Memory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

// Of many pairs, also with the same key and while connections are cut, the last
// of each key is what both replicas have in the end.
func TestPutAll(t *testing.T) {
	for _, cuts := range []int{0, 30} {
		t.Run(fmt.Sprint("cuts=", cuts), func(t *testing.T) {
			kvstoretest.Run(t, func(t *testing.T) {
				server := kvstoretest.NewServer(t, "")
				near, far := openBulk(t, server), openBulk(t, server)
				cutting := make(chan struct{})
				go func() {
					defer close(cutting)
					for range cuts {
						time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
						server.Cut()
					}
				}()
				want, told := make(map[string]string), 0
				progress := kvstore.OnProgress(func(done int) {
					if done < told {
						t.Errorf("%d are done after %d", done, told)
					}
					told = done
				})
				n, err := near.PutAll(t.Context(), pairs(20_000, 3000, want), progress)
				if err != nil || n != 20_000 || told != n {
					t.Fatalf("%d are in, told %d: %v", n, told, err)
				}
				if got := contentOf(t, near); !maps.Equal(got, want) { // it has read its writes
					t.Errorf("%d keys, not %d, or other values", len(got), len(want))
				}
				<-cutting
				for _, s := range []*kvstore.Store{near, far} {
					if err := s.Sync(t.Context()); err != nil {
						t.Fatal(err)
					}
					if got := contentOf(t, s); !maps.Equal(got, want) {
						t.Errorf("%d keys, not %d, or other values", len(got), len(want))
					}
				}
			})
		})
	}
}

// What a pair can have besides a value is what the options of Put give.
func TestPutAllOptions(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		s := openBulk(t, kvstoretest.NewServer(t, ""))
		wantPut(t, s, "stays", "old")
		at := time.Now().Add(time.Hour)
		n, err := s.PutAll(t.Context(), slices.Values([]kvstore.Pair{
			{Key: "ttl", Value: []byte("1"), TTL: time.Minute, Metadata: "m"},
			{Key: "at", Value: []byte("2"), Expires: at},
			{Key: "stays", Value: []byte("3"), TTL: time.Minute},
			{Key: "empty"},
			{Key: "ttl", Value: []byte("5"), TTL: time.Hour}, // over one that expires earlier
		}))
		if n != 5 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		if e := wantText(t, s, "ttl", "5"); time.Until(e.Expires()) != time.Hour || e.Metadata() != nil {
			t.Errorf("%v, %s", e.Expires(), e.Metadata())
		}
		if e := wantText(t, s, "at", "2"); !e.Expires().Equal(at) {
			t.Errorf("it expires at %v", e.Expires())
		}
		wantText(t, s, "empty", "")
		time.Sleep(time.Minute)
		if _, err := s.Get(t.Context(), "stays"); !errors.Is(err, kvstore.ErrNotFound) {
			t.Errorf("after its TTL: %v", err)
		}
	})
}

// An error tells what is in, so that the rest can be written from there.
func TestPutAllFails(t *testing.T) {
	for name, bad := range map[string]struct {
		pair kvstore.Pair
		want error
	}{
		"key":      {kvstore.Pair{Key: ""}, kvstore.ErrInvalidKey},
		"size":     {kvstore.Pair{Key: "k", Value: make([]byte, 30<<20)}, kvstore.ErrTooLarge},
		"ttl":      {kvstore.Pair{Key: "k", TTL: time.Millisecond}, kvstore.ErrInvalidExpiry},
		"both":     {kvstore.Pair{Key: "k", TTL: time.Hour, Expires: time.Now().Add(time.Hour)}, kvstore.ErrInvalidOptions},
		"metadata": {kvstore.Pair{Key: "k", Metadata: func() {}}, kvstore.ErrInvalidMetadata},
	} {
		t.Run(name, func(t *testing.T) {
			s := opened(t, "bulk", kvstore.Options{})
			asked := 0
			n, err := s.PutAll(t.Context(), func(yield func(kvstore.Pair) bool) {
				for i := range 100 {
					p := kvstore.Pair{Key: fmt.Sprint(i), Value: []byte("v")}
					if i == 70 {
						p = bad.pair
					}
					if asked++; !yield(p) {
						return
					}
				}
			})
			var failed *kvstore.BulkError
			if !errors.As(err, &failed) || !errors.Is(err, bad.want) {
				t.Fatalf("the error is %v", err)
			}
			if n != 70 || failed.Index != 70 || failed.Key != bad.pair.Key || len(failed.Also) != 0 || asked != 71 {
				t.Errorf("%d are in, %d were asked for: %+v", n, asked, failed)
			}
			if got := len(contentOf(t, s)); got != 70 {
				t.Errorf("%d keys", got)
			}
		})
	}
}

// When the log refuses some, the error says exactly which are in.
func TestPutAllRefused(t *testing.T) {
	s := opened(t, "bulk", kvstore.Options{MaxBytes: 1 << 20})
	const all = 5000
	value := bytes.Repeat([]byte("v"), 1000)
	n, err := s.PutAll(t.Context(), func(yield func(kvstore.Pair) bool) {
		for i := range all {
			p := kvstore.Pair{Key: fmt.Sprint("key", i), Value: value}
			if i%2 == 0 {
				p.Value = nil // there is room for a little one now and then
			}
			if !yield(p) {
				return
			}
		}
	})
	var failed *kvstore.BulkError
	if !errors.As(err, &failed) || !errors.Is(err, kvstore.ErrNoSpace) {
		t.Fatalf("%d, %v", n, err)
	}
	want := make(map[string]bool)
	for i := range failed.Index {
		want[fmt.Sprint("key", i)] = true
	}
	for _, i := range failed.Also {
		want[fmt.Sprint("key", i)] = true
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]bool)
	for _, info := range keysOf(t, s, "") {
		got[info.Name] = true
	}
	if !maps.Equal(got, want) || n != len(want) || n == 0 || want[failed.Key] {
		t.Errorf("%d keys, %d are told to be in: %v", len(got), n, err)
	}
}

// The context and Close end it, and what was under way is told to be uncertain.
func TestPutAllEnds(t *testing.T) {
	for _, name := range []string{"context", "close"} {
		t.Run(name, func(t *testing.T) {
			kvstoretest.Run(t, func(t *testing.T) {
				server := kvstoretest.NewServer(t, "")
				s := openBulk(t, server)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				end, want := cancel, error(context.Canceled)
				if name == "close" {
					end, want = func() { closeStore(t, s) }, kvstore.ErrClosed
				}
				n, err := s.PutAll(ctx, func(yield func(kvstore.Pair) bool) {
					for i := 0; yield(kvstore.Pair{Key: fmt.Sprint(i)}); i++ {
						if i == 10_000 {
							server.SetDown(true)
							time.AfterFunc(5*time.Second, end) // before WriteTimeout does
						}
					}
				})
				var failed *kvstore.BulkError
				if !errors.As(err, &failed) || !errors.Is(err, want) {
					t.Fatalf("%d, %v", n, err)
				}
				if n < 1000 || failed.Index > 10_001 || n != failed.Index+len(failed.Also) {
					t.Errorf("%d are in: %v", n, err)
				}
				server.SetDown(false)
			})
		})
	}
	s := opened(t, "bulk", kvstore.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := s.PutAll(ctx, slices.Values([]kvstore.Pair{{Key: "k"}})); n != 0 || !errors.Is(err, context.Canceled) || !errors.Is(err, kvstore.ErrUnavailable) {
		t.Errorf("a context that had ended: %d, %v", n, err)
	}
	if n, err := s.PutAll(ctx, slices.Values([]kvstore.Pair{})); n != 0 || err != nil {
		t.Errorf("nothing to do: %d, %v", n, err)
	}
}

// Large values: never more of them under way than agreed.
func TestPutAllLargeValues(t *testing.T) {
	s := opened(t, "bulk", kvstore.Options{CacheBytes: -1})
	value := make([]byte, 5<<20)
	n, err := s.PutAll(t.Context(), func(yield func(kvstore.Pair) bool) {
		for i := range 20 {
			value[0] = byte(i)
			if !yield(kvstore.Pair{Key: fmt.Sprint(i), Value: value}) {
				return
			}
		}
	})
	if n != 20 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	for i := range 20 {
		if text := mustGet(t, s, fmt.Sprint(i)); len(text) != len(value) || text[0] != byte(i) {
			t.Errorf("value %d begins with %d", i, text[0])
		}
	}
}

func TestDeleteAll(t *testing.T) {
	s := opened(t, "bulk", kvstore.Options{})
	if _, err := s.PutAll(t.Context(), func(yield func(kvstore.Pair) bool) {
		for i := range 3000 {
			if !yield(kvstore.Pair{Key: fmt.Sprintf("%d/%d", i%3, i)}) {
				return
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	keys := []string{"0/0", "absent", "0/3", "0/0", "1/1"}
	if n, err := s.DeleteAll(t.Context(), slices.Values(keys)); n != len(keys) || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if n, err := s.DeletePrefix(t.Context(), "1/"); n != 999 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if n := len(contentOf(t, s)); n != 1998 {
		t.Errorf("%d keys are left", n)
	}
	if n, err := s.DeletePrefix(t.Context(), ""); n != 1998 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	for name, wrong := range map[string]func() (int, error){
		"key":    func() (int, error) { return s.DeleteAll(t.Context(), slices.Values([]string{"."})) },
		"prefix": func() (int, error) { return s.DeletePrefix(t.Context(), "\xff") },
	} {
		if n, err := wrong(); n != 0 || !errors.Is(err, kvstore.ErrInvalidKey) {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
}
