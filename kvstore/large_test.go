package kvstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/codec"
)

// largeValue is a large value that differs from others in every chunk.
func largeValue(id string, size int) string {
	return strings.Repeat(id+"/", size/(len(id)+1)+1)[:size]
}

// largeSize is that of a value of several chunks.
const largeSize = 300 << 10

func (l *lab) objects(s *Store) []string {
	l.t.Helper()
	names, err := s.log.Objects().Names(l.ctx)
	l.must(err)
	return names
}

func (l *lab) wantObjects(s *Store, n int) {
	l.t.Helper()
	if names := l.objects(s); len(names) != n {
		l.t.Errorf("there are %d objects, want %d: %q", len(names), n, names)
	}
}

func (l *lab) want(s *Store, key, value string) Entry {
	l.t.Helper()
	e, err := s.Get(l.ctx, key)
	if err != nil || e.Text() != value || e.Len() != len(value) || !e.Loaded() {
		l.t.Fatalf("Get %q: %d bytes, %.20q, %v; want %d bytes, %.20q", key, e.Len(), e.Text(), err, len(value), value)
	}
	return e
}

func (l *lab) read(e Entry) string {
	l.t.Helper()
	r, err := e.Open(l.ctx)
	l.must(err)
	data, err := io.ReadAll(r)
	l.must(err, r.Close())
	return string(data)
}

// unsized hides what kind of reader it is.
func unsized(value string) io.Reader { return io.MultiReader(strings.NewReader(value)) }

func TestLargeValue(t *testing.T) {
	inLab(t, func(l *lab) {
		near, _ := l.open(Options{})
		far, _ := l.open(Options{})
		for i, size := range []int{0, 1, DefaultInlineBytes, DefaultInlineBytes + 1, largeSize, codec.MaxValueLen} {
			value := largeValue(fmt.Sprint("put", size), size)
			revision := l.put(near, "key", value, WithMetadata(i), WithTTL(time.Hour))
			if e := l.want(near, "key", value); e.Revision() != revision || string(e.Metadata()) != fmt.Sprint(i) || e.Expires().IsZero() {
				t.Errorf("%d bytes: revision %d, metadata %s, expires %v", size, e.Revision(), e.Metadata(), e.Expires())
			}
			streamed := largeValue(fmt.Sprint("from", size), size)
			revision, err := near.PutFrom(l.ctx, "key", unsized(streamed), WithMetadata(i))
			l.must(err, far.Sync(l.ctx))
			if e := l.want(far, "key", streamed); e.Revision() != revision || string(e.Metadata()) != fmt.Sprint(i) || !e.Expires().IsZero() {
				t.Errorf("%d bytes: revision %d, metadata %s, expires %v", size, e.Revision(), e.Metadata(), e.Expires())
			}
			e, err := far.Get(l.ctx, "key", Lazy())
			l.must(err)
			if got := l.read(e); got != streamed {
				t.Errorf("%d bytes: Open reads %d", size, len(got))
			}
		}
	})
}

func TestLargeTooLarge(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		l.put(s, "key", "old")
		long := make([]byte, codec.MaxValueLen+1)
		for name, put := range map[string]func() error{
			"Put": func() error { _, err := s.Put(l.ctx, "key", long); return err },
			"PutFrom": func() error {
				_, err := s.PutFrom(l.ctx, "key", io.MultiReader(bytes.NewReader(long)))
				return err
			},
			"PutAll": func() error {
				_, err := s.PutAll(l.ctx, slices.Values([]Pair{{Key: "key", Value: long}}))
				return err
			},
		} {
			if err := put(); !errors.Is(err, ErrTooLarge) || errors.Is(err, ErrIndeterminate) {
				t.Errorf("%s: %v", name, err)
			}
		}
		l.want(s, "key", "old")
		synctest.Wait()
		l.wantObjects(s, 0)
	})
}

// TestLargeInline keeps the object store out.
func TestLargeInline(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{InlineBytes: -1})
		value := largeValue("inline", largeSize)
		l.put(s, "a", value)
		_, err := s.PutFrom(l.ctx, "b", unsized(value))
		l.must(err)
		l.want(s, "a", value)
		l.want(s, "b", value)
		if _, err := s.PutFrom(l.ctx, "c", io.LimitReader(zeros{}, codec.MaxValueLen+1)); !errors.Is(err, ErrTooLarge) {
			t.Error(err)
		}
		if _, err := l.js.Stream(l.ctx, "OBJ_"+labNamespace); !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Errorf("there is an object store: %v", err)
		}
		few, _ := l.open(Options{InlineBytes: 10})
		l.put(few, "small", "12345678901")
		l.wantObjects(s, 1)
		l.must(s.Sync(l.ctx))
		l.want(s, "small", "12345678901")
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestLargeIsLazy: a replica that never reads large values never loads them.
func TestLargeIsLazy(t *testing.T) {
	inLab(t, func(l *lab) {
		near, _ := l.open(Options{})
		far, _ := l.open(Options{CacheBytes: 64 << 20})
		value := largeValue("lazy", codec.MaxValueLen)
		before := far.backend.conn.Stats().InBytes
		events := 0
		next, stop := iter.Pull2(far.Watch(l.ctx, "", Lazy()))
		defer stop()
		l.put(near, "large", value)
		l.must(far.Sync(l.ctx))
		e, err, _ := next()
		if l.must(err); e.Entry.Loaded() || e.Entry.Len() != len(value) || e.Entry.Text() != "" || len(e.Entry.Value()) != 0 {
			t.Errorf("event %d: Loaded %v, %d bytes", events, e.Entry.Loaded(), e.Entry.Len())
		}
		page, err := far.List(ListOptions{})
		if l.must(err); len(page.Keys) != 1 || page.Keys[0].Size != len(value) {
			t.Errorf("List: %+v", page.Keys)
		}
		if _, err := far.Get(l.ctx, "large", Lazy()); err != nil {
			t.Error(err)
		}
		if got := far.backend.conn.Stats().InBytes - before; got > 100<<10 {
			t.Errorf("the replica was sent %d bytes", got)
		}
		for range 3 {
			l.want(far, "large", value)
		}
		if loads := far.Stats().Loads; loads != 1 {
			t.Errorf("%d loads", loads)
		}
		lazy, err := far.Get(l.ctx, "large", Lazy())
		if l.must(err); !lazy.Loaded() {
			t.Error("what is in memory is not Loaded")
		}
		if all, err := far.GetAll(l.ctx, []string{"large"}); err != nil || all["large"].Text() != value {
			t.Errorf("GetAll: %d bytes, %v", all["large"].Len(), err)
		}
	})
}

// TestLargeReplaced: who reads a value that is replaced reads it to the end, for
// five minutes; then its object is removed.
func TestLargeReplaced(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{CacheBytes: -1, CheckInterval: time.Minute})
		first := largeValue("first", 5<<20)
		l.put(s, "key", first)
		e, err := s.Get(l.ctx, "key", Lazy())
		l.must(err)
		r, err := e.Open(l.ctx)
		l.must(err)
		begin := make([]byte, 1000)
		_, err = io.ReadFull(r, begin)
		l.must(err)

		for _, change := range []func(){
			func() { l.put(s, "key", largeValue("second", largeSize)) },
			func() { l.put(s, "key", "small") },
			func() { l.put(s, "key", largeValue("third", largeSize)) },
			func() { l.must(s.Delete(l.ctx, "key")) },
		} {
			change()
			time.Sleep(time.Second)
		}
		l.wantObjects(s, 3)
		rest, err := io.ReadAll(r)
		l.must(err, r.Close())
		if string(begin)+string(rest) != first {
			t.Error("the reader has not read the value that it opened")
		}
		if l.read(e) != first {
			t.Error("the entry is not what it was")
		}
		time.Sleep(grace + time.Second)
		l.wantObjects(s, 0)
		r, err = e.Open(l.ctx)
		l.must(err)
		if _, err := io.ReadAll(r); !errors.Is(err, ErrReplaced) {
			t.Errorf("reading it later: %v", err)
		}
		l.must(r.Close())
	})
}

// TestLargeOrphans: what a writer leaves behind that dies is removed, and nothing
// else.
func TestLargeOrphans(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{CheckInterval: time.Minute})
		value := largeValue("kept", largeSize)
		l.put(s, "kept", value)
		l.put(s, "expires", value, WithTTL(time.Minute))
		l.put(s, "gone", value)
		// A process that dies between object and record.
		_, err := s.log.Objects().Put(l.ctx, unsized(value))
		l.must(err)
		// Another Store replaces a value, and does not live to remove it.
		other, w := l.open(Options{})
		l.put(other, "gone", "small")
		w.setDown(true)
		l.must(other.Close())
		// Somebody else's object.
		store, err := l.js.ObjectStore(l.ctx, labNamespace)
		l.must(err)
		_, err = store.PutString(l.ctx, "photo", "of others")
		if err == nil {
			t.Error("the object store takes rollup headers")
		}
		_, err = l.js.Publish(l.ctx, "$O."+labNamespace+".C.photo", []byte("of others"))
		l.must(err)

		l.wantObjects(s, 4)
		time.Sleep(orphanAge - time.Minute)
		l.wantObjects(s, 3) // of the one that was replaced it has seen that
		time.Sleep(2 * sweepEvery)
		l.wantObjects(s, 1)
		l.want(s, "kept", value)
		if _, err := l.objectStream().GetLastMsgForSubject(l.ctx, "$O."+labNamespace+".C.photo"); err != nil {
			t.Errorf("somebody else's object: %v", err)
		}
	})
}

func (l *lab) objectStream() jetstream.Stream {
	l.t.Helper()
	s, err := l.js.Stream(l.ctx, "OBJ_"+labNamespace)
	l.must(err)
	return s
}

// TestLargeExport: an archive and bulk JSON have large values, those too that are
// replaced while the export runs.
func TestLargeExport(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{CacheBytes: -1})
		value := largeValue("exported", codec.MaxValueLen)
		l.put(s, "large", value, WithMetadata("m"))
		l.put(s, "small", "small")
		l.put(s, "changed", largeValue("old", largeSize))
		changed := largeValue("new", largeSize)
		into := map[string]func(s *Store, r io.Reader) error{
			"archive": func(s *Store, r io.Reader) error { _, err := s.Import(l.ctx, r); return err },
			"json":    func(s *Store, r io.Reader) error { _, err := s.ImportJSON(l.ctx, r); return err },
		}
		exports := map[string]func(w io.Writer) error{
			"archive": func(w io.Writer) error { _, err := s.Export(l.ctx, w); return err },
			"json":    func(w io.Writer) error { _, err := s.ExportJSON(l.ctx, w); return err },
		}
		for _, name := range []string{"archive", "json"} { // the latter writes when it has its revision
			export := exports[name]
			var file bytes.Buffer
			once := sync.OnceFunc(func() { l.put(s, "changed", changed) })
			l.must(export(writerFunc(func(p []byte) (int, error) { once(); return file.Write(p) })))
			target, err := Open(l.ctx, "target-"+name, Options{Conn: l.conn, Memory: true})
			l.must(err)
			l.must(into[name](target, &file))
			l.want(target, "small", "small")
			if e := l.want(target, "large", value); string(e.Metadata()) != `"m"` {
				t.Errorf("%s: metadata %s", name, e.Metadata())
			}
			l.want(target, "changed", changed)
			l.must(target.Close())
		}
	})
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
