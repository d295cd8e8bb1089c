package kvstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/codec"
)

// openAs opens another namespace of the lab.
func (l *lab) openAs(namespace string) *Store {
	l.t.Helper()
	w := &wire{to: l.server}
	conn := l.connect(w)
	s, err := Open(l.ctx, namespace, Options{Conn: conn, Memory: l.dir == "", CacheBytes: 1 << 20})
	l.must(err)
	l.cleanup = append(l.cleanup, func() {
		l.must(s.Close())
		conn.Close()
	})
	return s
}

func (l *lab) export(s *Store) []byte {
	l.t.Helper()
	var file bytes.Buffer
	_, err := s.Export(l.ctx, &file)
	l.must(err)
	return file.Bytes()
}

// All of an entry comes back: bytes, metadata, and expiry to the millisecond. What
// has expired meanwhile does not.
func TestImport(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{CacheBytes: 1000})
		l.put(s, "plain", "value")
		l.put(s, "empty", "")
		l.put(s, "k:\x00é/=", "\x00\xff", WithMetadata("<é\u2028>"))
		l.put(s, "big", strings.Repeat("0123456789", 50_000), WithMetadata(map[string]any{"a": []int{1}}))
		l.put(s, "short", "x", WithExpiry(time.Now().Add(10*time.Second+time.Millisecond)))
		l.put(s, "long", "x", WithExpiry(time.Now().Add(time.Hour+time.Millisecond)))
		l.put(s, "gone", "x")
		l.must(s.Delete(l.ctx, "gone"))
		var file, text bytes.Buffer
		done := 0
		info, err := s.Export(l.ctx, &file, OnProgress(func(n int) { done = n }))
		l.must(err)
		if want := (ExportInfo{Revision: 8, Keys: 6, Bytes: 5 + 2 + 500_000 + 2}); info != want || done != 6 {
			t.Errorf("exported %+v, not %+v; progress %d", info, want, done)
		}
		_, err = s.ExportJSON(l.ctx, &text)
		l.must(err)
		created := time.Now()
		time.Sleep(10*time.Second + time.Millisecond) // "short" ends now
		want := stateOf(t, s)
		if len(want) != 5 {
			t.Fatal(want)
		}

		into := l.openAs("into")
		l.put(into, "plain", "is overwritten", WithTTL(time.Minute))
		l.put(into, "other", "stays")
		l.put(into, "short", "stays")
		got, err := into.Import(l.ctx, bytes.NewReader(file.Bytes()), OnProgress(func(n int) { done = n }))
		l.must(err)
		if !got.Created.Equal(created) || got.Namespace != labNamespace || got.Revision != 8 || got.Written != 5 ||
			got.Expired != 1 || got.Bytes != info.Bytes-1 || done != 5 {
			t.Errorf("imported %+v; progress %d", got, done)
		}
		more := maps.Clone(want)
		more["other"] = entryInWords("stays", "", time.Time{})
		more["short"] = more["other"]
		sameState(t, stateOf(t, into), more)

		got, err = into.Import(l.ctx, bytes.NewReader(file.Bytes()), DeleteOthers())
		if err != nil || got.Deleted != 2 {
			t.Errorf("imported %+v, %v", got, err)
		}
		sameState(t, stateOf(t, into), want)

		_, err = into.Import(l.ctx, bytes.NewReader(file.Bytes()), OnlyIfEmpty())
		if !errors.Is(err, ErrNotEmpty) {
			t.Errorf("into what is not empty: %v", err)
		}
		fromJSON := l.openAs("json")
		got, err = fromJSON.ImportJSON(l.ctx, &text, OnlyIfEmpty())
		if err != nil || got.Written != 6 || got.Expired != 0 { // "short" has a second more
			t.Errorf("imported %+v, %v", got, err)
		}
		state := rounded(stateOf(t, fromJSON))
		delete(state, "short")
		sameState(t, state, rounded(want))
	})
}

// Whatever a Store can have comes back from bulk JSON, and from an archive. What
// another client has written, and bulk JSON cannot have, is an error with the key.
func TestExportJSONOfEdges(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		for i, metadata := range []string{`"\ud800"`, `{"\udc00":["\ud800\ud800","\ud800\n","\\ud800"]}`, `[-0,1E400]`} {
			l.put(s, fmt.Sprint("metadata", i), "v", WithMetadata(json.RawMessage(metadata)))
		}
		l.put(s, "last", "v", WithExpiry(latestExpiry))
		l.put(s, "last second", "v", WithExpiry(latestExpiry.Truncate(time.Second)))
		var text, archive bytes.Buffer
		_, err := s.ExportJSON(l.ctx, &text)
		l.must(err)
		_, err = s.Export(l.ctx, &archive)
		l.must(err)
		want := stateOf(t, s)
		fromArchive, fromJSON := l.openAs("archive"), l.openAs("json")
		_, err = fromArchive.Import(l.ctx, &archive)
		l.must(err)
		sameState(t, stateOf(t, fromArchive), want)
		info, err := fromJSON.ImportJSON(l.ctx, &text)
		l.must(err)
		want["last"] = want["last second"] // whole seconds, and no year 10000
		sameState(t, stateOf(t, fromJSON), want)
		if info.Written != 5 {
			t.Errorf("imported %+v", info)
		}

		msg := nats.NewMsg("$KV." + labNamespace + "." + codec.Subject("of another client"))
		msg.Header.Set("KV-Expires", fmt.Sprint(latestExpiry.UnixMilli()+1))
		conn := l.connect(&wire{to: l.server})
		_, err = conn.RequestMsgWithContext(l.ctx, msg)
		conn.Close()
		l.must(err)
		l.must(s.Sync(l.ctx))
		_, err = s.ExportJSON(l.ctx, io.Discard)
		if !errors.Is(err, codec.ErrInvalidBulk) || !strings.Contains(err.Error(), `"of another client"`) {
			t.Errorf("an expiry after the year 9999: %v", err)
		}
	})
}

// An export as JSON has no file with a name, which could stay, while it runs; nor does one that fails leave any.
func TestExportJSONCleansUp(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir) // elsewhere than on Unix it changes nothing
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		l.put(s, "a", "1")
		seen := -1
		look := &trigger{w: io.Discard, do: func() {
			files, err := filepath.Glob(filepath.Join(dir, "nearkv-export-*"))
			l.must(err)
			seen = len(files)
		}}
		_, err := s.ExportJSON(l.ctx, look)
		l.must(err)
		if seen != 0 && runtime.GOOS != "windows" {
			t.Errorf("while it runs there are %d files", seen)
		}
		broken := errors.New("broken")
		if _, err := s.ExportJSON(l.ctx, brokenWriter{broken}); !errors.Is(err, broken) {
			t.Errorf("a writer that fails: %v", err)
		}
	})
	if files, err := filepath.Glob(filepath.Join(dir, "nearkv-export-*")); err != nil || len(files) != 0 {
		t.Errorf("left are %v, %v", files, err)
	}
}

// A namespace without keys can be exported, and makes another one empty.
func TestImportNothing(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		file := l.export(s)
		l.put(s, "a", "1")
		got, err := s.Import(l.ctx, bytes.NewReader(file), DeleteOthers())
		if err != nil || got.Deleted != 1 || s.Stats().Keys != 0 {
			t.Errorf("%+v, %v, %d keys", got, err, s.Stats().Keys)
		}
	})
}

// Whatever byte of an archive is another one, and wherever it is cut off, an
// import says so, and writes nothing that was not exported.
func TestImportDamaged(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		l.put(s, "a", "1", WithMetadata(7))
		l.put(s, "b", "22")
		file, want := l.export(s), stateOf(t, s)
		into := l.openAs("into")
		l.put(into, "other", "stays")
		want["other"] = entryInWords("stays", "", time.Time{})
		try := func(what string, damaged []byte) {
			t.Helper()
			_, err := into.Import(l.ctx, bytes.NewReader(damaged), DeleteOthers())
			var a *codec.ArchiveError
			if !errors.As(err, &a) {
				t.Errorf("%s: %v", what, err)
			}
			for key, is := range stateOf(t, into) {
				if want[key] != is {
					t.Errorf("%s: %s is %s", what, key, is)
				}
			}
			mustText(l, into, "other")
		}
		for i := range file {
			file[i] ^= 0x10
			try(fmt.Sprint("byte ", i), file)
			file[i] ^= 0x10
			try(fmt.Sprint("cut off at ", i), file[:i])
		}
		broken := errors.New("broken")
		_, err := into.Import(l.ctx, io.MultiReader(bytes.NewReader(file[:len(file)-1]), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) {
			t.Errorf("a reader that fails: %v", err)
		}
	})
}

func mustText(l *lab, s *Store, key string) {
	l.t.Helper()
	_, err := s.Get(l.ctx, key)
	l.must(err)
}

// An import that was interrupted goes on where its error says, also when
// entries before that have expired.
func TestImportGoesOn(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		const n = 20_000
		_, err := s.PutAll(l.ctx, func(yield func(Pair) bool) {
			for i := range n {
				p := Pair{Key: fmt.Sprintf("key%05d", i), Value: fmt.Append(nil, i)}
				if i%10 == 3 {
					p.TTL = time.Minute
				}
				if !yield(p) {
					return
				}
			}
		})
		l.must(err)
		file := l.export(s)
		var text bytes.Buffer
		_, err = s.ExportJSON(l.ctx, &text)
		l.must(err)
		time.Sleep(2 * time.Minute)
		want := stateOf(t, s)
		if len(want) != n-n/10 {
			t.Fatalf("%d keys", len(want))
		}
		for name, do := range map[string]func(s *Store, ctx context.Context, r io.Reader, opts ...ImportOption) (ImportInfo, error){
			"archive": (*Store).Import, "json": (*Store).ImportJSON,
		} {
			data := map[string][]byte{"archive": file, "json": text.Bytes()}[name]
			into := l.openAs(name)
			ctx, cancel := context.WithCancel(l.ctx)
			half := &trigger{r: bytes.NewReader(data), after: len(data) / 2, do: cancel}
			_, err = do(into, ctx, half)
			var bulk *BulkError
			if !errors.As(err, &bulk) {
				t.Fatalf("%s: %v", name, err)
			}
			if bulk.Key != fmt.Sprintf("key%05d", bulk.Index) || bulk.Index < 2000 {
				t.Errorf("%s: entry %d is not %s", name, bulk.Index, bulk.Key)
			}
			time.Sleep(time.Second) // what is under way
			before := into.Stats().Writes
			_, err = do(into, l.ctx, bytes.NewReader(data), StartAt(bulk.Index))
			l.must(err)
			if wrote, most := into.Stats().Writes-before, uint64(n-bulk.Index); wrote > most {
				t.Errorf("%s: %d writes, and %d entries were left", name, wrote, most)
			}
			sameState(t, stateOf(t, into), want)
		}
		for _, opts := range [][]ImportOption{{StartAt(-1)}, {StartAt(1), DeleteOthers()}, {OnlyIfEmpty(), StartAt(1)}} {
			if _, err := s.Import(l.ctx, bytes.NewReader(file), opts...); !errors.Is(err, ErrInvalidOptions) {
				t.Errorf("options that contradict each other: %v", err)
			}
		}
	})
}

// trigger does something once so many bytes have been read or written.
type trigger struct {
	r     io.Reader
	w     io.Writer
	after int
	do    func()
}

func (g *trigger) count(n int) {
	if g.after -= n; g.after < 0 && g.do != nil {
		g.do()
		g.do = nil
	}
}

func (g *trigger) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	g.count(n)
	return n, err
}

func (g *trigger) Write(p []byte) (int, error) {
	g.count(len(p))
	return g.w.Write(p)
}

// An export goes on when the log is read anew, or made anew, and is then what
// there is in the end.
func TestExportLogAnew(t *testing.T) {
	for name, harm := range map[string]func(l *lab, s *Store){
		"read": func(_ *lab, s *Store) { s.feed.Doubt("a test") },
		"made": func(l *lab, _ *Store) {
			info, err := l.stream().Info(l.ctx)
			l.must(err)
			l.recreate(jetstream.StreamConfig{
				Name: info.Config.Name, Subjects: info.Config.Subjects, MaxMsgsPerSubject: 1, AllowDirect: true,
				Discard: jetstream.DiscardNew, AllowMsgTTL: true, Storage: info.Config.Storage,
			})
			for i := range 5 {
				l.foreign(fmt.Sprintf("key%03d", 2*i), "new") // revisions that were others' before
			}
			l.foreign("new", "new")
		},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				s, _ := l.open(Options{CacheBytes: 1000})
				for i := range 500 {
					l.put(s, fmt.Sprintf("key%03d", i), strings.Repeat(fmt.Sprint(i), 1000))
				}
				var file bytes.Buffer
				out := &trigger{w: &file, after: 500_000, do: func() {
					l.must(s.Delete(l.ctx, "key001"))
					l.put(s, "key002", "again")
					time.Sleep(time.Second) // no record of another log has the time of one of this
					resyncs := s.Stats().Resyncs
					harm(l, s)
					for s.Stats().Resyncs == resyncs || s.Status().State != Live {
						time.Sleep(time.Millisecond)
					}
					l.must(s.Delete(l.ctx, "key004"))
				}}
				info, err := s.Export(l.ctx, out)
				l.must(err)
				if out.do != nil {
					t.Fatal("nothing happened to the log")
				}
				want := stateOf(t, s)
				if info.Keys != len(want) || info.Revision != s.Status().Applied {
					t.Errorf("%d keys at %d, not %d at %d", info.Keys, info.Revision, len(want), s.Status().Applied)
				}
				into := l.openAs("into")
				_, err = into.Import(l.ctx, &file)
				l.must(err)
				sameState(t, stateOf(t, into), want)
			})
		})
	}
}

// An export ends with its context, its Store, and its writer.
func TestExportEnds(t *testing.T) {
	inLab(t, func(l *lab) {
		s, w := l.open(Options{CacheBytes: 1000})
		l.keys(s, 2000)
		broken := errors.New("broken")
		_, err := s.Export(l.ctx, brokenWriter{broken})
		if !errors.Is(err, broken) {
			t.Errorf("a writer that fails: %v", err)
		}
		w.setDown(true)
		ctx, cancel := context.WithTimeout(l.ctx, time.Second)
		defer cancel()
		if _, err = s.Export(ctx, io.Discard); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without the log: %v", err)
		}
		if _, err = s.Import(ctx, bytes.NewReader(nil)); !errors.Is(err, codec.ErrDamagedArchive) {
			t.Errorf("nothing to import: %v", err)
		}
		w.setDown(false)
		time.Sleep(5 * time.Second)
		l.must(s.Close())
		if _, err = s.Export(l.ctx, io.Discard); !errors.Is(err, ErrClosed) {
			t.Errorf("closed: %v", err)
		}
		if len(s.index.followers) != 0 {
			t.Error("a follower is left")
		}
	})
}

type brokenWriter struct{ err error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.err }
