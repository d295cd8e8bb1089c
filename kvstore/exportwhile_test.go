package kvstore

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nearkv/nearkv/kvstore/kvstoretest"
)

// wrote is an acknowledged write.
type wrote struct {
	revision uint64
	key      string
	is       string // all of the entry in words; "": deleted
}

func entryInWords(value, metadata string, expires time.Time) string {
	is := fmt.Sprintf("%q metadata %s", value, metadata)
	if !expires.IsZero() {
		is += fmt.Sprint(" expires ", expires.UnixMilli())
	}
	return is
}

// stateAt is what there was at a revision.
func stateAt(revision Revision, all []wrote) map[string]string {
	slices.SortFunc(all, func(a, b wrote) int { return int(a.revision) - int(b.revision) })
	state := make(map[string]string)
	for _, w := range all {
		switch {
		case w.revision > uint64(revision):
			return state
		case w.is == "":
			delete(state, w.key)
		default:
			state[w.key] = w.is
		}
	}
	return state
}

// stateOf is what there is.
func stateOf(t *testing.T, s *Store) map[string]string {
	t.Helper()
	state := make(map[string]string)
	for _, info := range keysOf(t, s, "") {
		e, err := s.Get(context.Background(), info.Name)
		if err != nil {
			t.Fatal(err)
		}
		state[info.Name] = entryInWords(e.Text(), string(e.Metadata()), e.Expires())
	}
	return state
}

func openReal(t *testing.T, server *kvstoretest.Server, namespace string, cacheBytes int64) *Store {
	t.Helper()
	s, err := Open(t.Context(), namespace, Options{Conn: server.Conn(t), Memory: true, CacheBytes: cacheBytes})
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

// scribe writes keys of its own as fast as it can, and notes what it wrote.
func scribe(t *testing.T, s *Store, name string, keys int, done *atomic.Bool) (all []wrote) {
	ctx := context.Background()
	random := rand.New(rand.NewPCG(1, uint64(len(name))))
	for i := 0; !done.Load(); i++ {
		key := fmt.Sprintf("%s:%d", name, random.IntN(keys))
		if random.IntN(4) == 0 {
			if err := s.Delete(ctx, key); err != nil {
				t.Error(err)
				return all
			}
			if r := s.index.records.find(key); r != nil {
				all = append(all, wrote{r.revision, key, ""}) // nobody else writes it
			}
			continue
		}
		value := strings.Repeat(fmt.Sprint(i, ","), random.IntN(200))
		metadata := fmt.Sprintf(`{"i":%d}`, i)
		opts := []WriteOption{WithMetadata(map[string]int{"i": i})}
		var expires time.Time
		if i%3 == 0 {
			expires = time.UnixMilli(time.Now().Add(time.Hour).UnixMilli() + int64(i))
			opts = append(opts, WithExpiry(expires))
		}
		revision, err := s.Put(ctx, key, []byte(value), opts...)
		if err != nil {
			t.Error(err)
			return all
		}
		all = append(all, wrote{uint64(revision), key, entryInWords(value, metadata, expires)})
	}
	return all
}

// While several write and delete as fast as they can, on this replica and on
// another, and hardly any value is in memory, exports are exactly the namespace
// as of their revisions, both ways.
func TestExportWhileWritten(t *testing.T) {
	for _, keys := range []int{3, 300} { // of each writer
		t.Run(fmt.Sprint("keys=", keys), func(t *testing.T) {
			server := kvstoretest.NewServer(t, "")
			near, far := openReal(t, server, "busy", 2000), openReal(t, server, "busy", 2000)
			var done atomic.Bool
			var writers sync.WaitGroup
			histories := make([][]wrote, 6)
			for i := range histories {
				s := near
				if i%3 == 0 {
					s = far
				}
				writers.Go(func() { histories[i] = scribe(t, s, strings.Repeat("w", i+1), keys, &done) })
			}
			type export struct {
				at         ExportInfo
				file, json bytes.Buffer
				jsonAt     ExportInfo
			}
			exports := make([]export, 8)
			for i := range exports {
				e := &exports[i]
				var err, err2 error
				e.at, err = near.Export(t.Context(), &e.file)
				e.jsonAt, err2 = near.ExportJSON(t.Context(), &e.json)
				if err != nil || err2 != nil {
					t.Error(err, err2)
				}
			}
			done.Store(true)
			writers.Wait()
			all := slices.Concat(histories...)
			t.Logf("%d writes", len(all))
			for i := range exports {
				e := &exports[i]
				into := openReal(t, server, fmt.Sprint("restored", i), 0)
				info, err := into.Import(t.Context(), &e.file)
				if err != nil || info.Revision != e.at.Revision || info.Namespace != "busy" {
					t.Fatalf("%+v, %v", info, err)
				}
				want := stateAt(e.at.Revision, all)
				sameState(t, stateOf(t, into), want)
				if e.at.Keys != len(want) {
					t.Errorf("an export of %d keys says %d", len(want), e.at.Keys)
				}
				_, err = into.ImportJSON(t.Context(), &e.json, DeleteOthers())
				if err != nil {
					t.Fatal(err)
				}
				want = stateAt(e.jsonAt.Revision, all)
				sameState(t, rounded(stateOf(t, into)), rounded(want))
				if e.jsonAt.Keys != len(want) {
					t.Errorf("an export of %d keys as JSON says %d", len(want), e.jsonAt.Keys)
				}
			}
			if len(near.index.followers) != 0 {
				t.Error("a follower is left")
			}
		})
	}
}

func sameState(t *testing.T, got, want map[string]string) {
	t.Helper()
	if maps.Equal(got, want) {
		return
	}
	for key := range want {
		if got[key] != want[key] {
			t.Errorf("%s is %.80s, not %.80s", key, got[key], want[key])
		}
	}
	for key := range got {
		if _, ok := want[key]; !ok {
			t.Errorf("%s is %.80s, and should not be", key, got[key])
		}
	}
}

// rounded is a state with expiry in whole seconds, rounded up.
func rounded(state map[string]string) map[string]string {
	out := make(map[string]string)
	for key, is := range state {
		words, number, ok := strings.Cut(is, " expires ")
		if ok {
			var ms int64
			_, _ = fmt.Sscan(number, &ms)
			words += fmt.Sprint(" expires ", (ms+999)/1000)
		}
		out[key] = words
	}
	return out
}

// keysOf returns what Keys yields, which must be no error.
func keysOf(t interface{ Fatalf(string, ...any) }, s *Store, prefix string) (infos []KeyInfo) {
	for info, err := range s.Keys(prefix) {
		if err != nil {
			t.Fatalf("Keys(%.40q): %v", prefix, err)
		}
		infos = append(infos, info)
	}
	return infos
}
