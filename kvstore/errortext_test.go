package kvstore_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
)

// wantErrorText checks what users read: one line with one prefix, that names what it is about.
func wantErrorText(t testing.TB, call string, err error, names ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", call)
		return
	}
	text := err.Error()
	ok := strings.HasPrefix(text, "kvstore: ") && strings.Count(text, "kvstore: ") == 1 && !strings.ContainsAny(text, "\r\n") &&
		strings.Count(text, "nats: ") <= 1 && len(text) < 400
	for _, prefix := range []string{"replication: ", "embedded: "} {
		ok = ok && !strings.Contains(text, prefix)
	}
	for _, name := range names {
		ok = ok && strings.Contains(text, name)
	}
	for _, twice := range []string{"log unavailable", "context deadline exceeded", "context canceled"} {
		ok = ok && strings.Count(text, twice) <= 1
	}
	if !ok {
		t.Errorf("%s: %q: must be one line that begins with kvstore: once, and has %q", call, text, names)
	}
	t.Logf("%-16s %s", call, text)
}

// TestErrorTexts provokes the errors of the surface.
func TestErrorTexts(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		server := kvstoretest.NewServer(t, t.TempDir())
		conn := server.Conn(t)
		s := opened(t, "texts", kvstore.Options{Conn: conn, CacheBytes: -1})
		wantPut(t, s, "key", "value")
		wantPut(t, s, "large", strings.Repeat("v", 1<<20))
		var archive strings.Builder
		if _, err := s.Export(t.Context(), &archive); err != nil {
			t.Fatal(err)
		}
		refusedTexts(t, s)
		calls := waiting(t, s, server, archive.String())
		damagedTexts(t, s, conn)
		server.SetDown(true)
		time.Sleep(time.Second)
		named := map[string]string{
			"Get": `"key"`, "Get large": `"large"`, "AtLeast": `"key"`, "MaxStaleness": `"key"`, "Put": `"new"`, "Put large": `"new"`, "Put if": `"new"`,
			"Delete": `"key"`, "PutAll": `"a"`, "DeleteAll": `"a"`, "PutFrom": `"new"`, "PutFrom once": `"new"`, "Entry.Open": `"large"`,
			"View.Get": `"key"`, "View.Put": `"new"`, "View.Update": `"key"`, "Open": "ended",
		}
		for _, how := range []string{"canceled", "timed out"} {
			for name, call := range calls {
				ctx, cancel := endings[how]()
				wantErrorText(t, name, call(ctx), named[name], "the caller has given up")
				cancel()
			}
		}
		server.SetDown(false)
	})
}

// refusedTexts is for what is refused at once.
func refusedTexts(t *testing.T, s *kvstore.Store) {
	ctx := t.Context()
	put := func(key string, opts ...kvstore.WriteOption) error {
		_, err := s.Put(ctx, key, nil, opts...)
		return err
	}
	_, err := s.Get(ctx, "absent")
	wantErrorText(t, "absent", err)
	_, err = s.Get(ctx, "a\xff")
	wantErrorText(t, "Get", err, `"a\xff"`)
	_, err = s.GetAll(ctx, []string{"a\xff"})
	wantErrorText(t, "GetAll", err, `"a\xff"`)
	wantErrorText(t, "Put", put(".."), `".."`)
	wantErrorText(t, "Delete", s.Delete(ctx, "d\n\xff"), `"d\n\xff"`)
	wantErrorText(t, "TTL", put("k", kvstore.WithTTL(time.Millisecond)), `"k"`, "1s")
	wantErrorText(t, "expiry", put("k", kvstore.WithExpiry(time.Unix(1, 0))), `"k"`)
	wantErrorText(t, "metadata", put("k", kvstore.WithMetadata(func() {})), `"k"`)
	wantErrorText(t, "metadata", put("k", kvstore.WithMetadata(strings.Repeat("m", 2000))), `"k"`, "1024")
	wantErrorText(t, "two conditions", put("k", kvstore.IfAbsent(), kvstore.IfRevision(3)), `"k"`)
	_, err = s.Put(ctx, "k", make([]byte, 26<<20))
	wantErrorText(t, "too large", err, `"k"`, "26214400")
	_, err = s.PutFrom(ctx, "k", nil)
	wantErrorText(t, "no reader", err, `"k"`)
	_, err = s.PutFrom(ctx, "k", io.MultiReader(strings.NewReader("x"), brokenReader{}))
	wantErrorText(t, "broken reader", err, `"k"`, "broken; twice")
	for _, row := range []struct {
		err  error
		want string
	}{
		{put("key", kvstore.IfAbsent()), `key "key" exists at revision 1`},
		{put("absent", kvstore.IfRevision(5)), `key "absent" does not exist, expected was revision 5`},
		{put("key", kvstore.IfRevision(5)), `key "key" has revision 1, not 5`},
	} {
		wantErrorText(t, "conflict", row.err, row.want)
	}
	_, err = s.Batch(ctx, kvstore.OpPut("a", nil), kvstore.OpPut("a", nil))
	wantErrorText(t, "Batch", err, `"a"`)
	_, err = s.Batch(ctx, kvstore.OpPut("b\xff", nil))
	wantErrorText(t, "Batch", err, `"b\xff"`)
	_, err = s.Batch(ctx, kvstore.OpPut("key", nil, kvstore.IfAbsent()))
	wantErrorText(t, "Batch", err, `"key"`)
	_, err = s.PutAll(ctx, slices.Values([]kvstore.Pair{{Key: "c\xff"}}))
	wantErrorText(t, "PutAll", err, `"c\xff"`)
	_, err = s.DeletePrefix(ctx, "p\xff")
	wantErrorText(t, "DeletePrefix", err, `"p\xff"`)
	_, err = s.List(kvstore.ListOptions{Prefix: "p\xff"})
	wantErrorText(t, "List", err, `"p\xff"`)
	_, err = s.List(kvstore.ListOptions{Cursor: "x"})
	wantErrorText(t, "cursor", err, "Cursor")
	_, err = s.List(kvstore.ListOptions{Limit: -1})
	wantErrorText(t, "limit", err, "-1")
	for _, err := range s.Keys("p\xff") {
		wantErrorText(t, "Keys", err, `"p\xff"`)
	}
	for _, err := range s.Watch(ctx, "p\xff") {
		wantErrorText(t, "Watch", err, `"p\xff"`)
	}
	_, err = s.Import(ctx, strings.NewReader("no archive"))
	wantErrorText(t, "Import", err, "archive")
	_, err = s.ImportJSON(ctx, strings.NewReader("[{}]"))
	wantErrorText(t, "ImportJSON", err, "line 1")
	_, err = s.ImportJSON(ctx, strings.NewReader("[]"), kvstore.OnlyIfEmpty())
	wantErrorText(t, "OnlyIfEmpty", err, `"key"`)
	_, err = s.Export(ctx, brokenWriter{})
	wantErrorText(t, "Export", err, "broken; twice")
	openTexts(t)
}

func openTexts(t *testing.T) {
	for name, row := range map[string]struct {
		namespace string
		opts      kvstore.Options
		want      string
	}{
		"namespace":    {"a b", kvstore.Options{}, `"a b"`},
		"no namespace": {"", kvstore.Options{}, "1 to 200"},
		"options":      {"a", kvstore.Options{Memory: true, Dir: "x"}, "Memory"},
		"MustExist":    {"a", kvstore.Options{MustExist: true}, `"a"`},
		"cluster":      {"a", kvstore.Options{Dir: t.TempDir(), Cluster: &kvstore.Cluster{}}, "Cluster"},
	} {
		_, err := kvstore.Open(t.Context(), row.namespace, row.opts)
		wantErrorText(t, name, err, row.want)
	}
}

// damagedTexts is for values that cannot be had.
func damagedTexts(t *testing.T, s *kvstore.Store, conn *nats.Conn) {
	ctx := t.Context()
	numbers := kvstore.NewView(s, codec.JSON[int]())
	_, err := numbers.Get(ctx, "key")
	wantErrorText(t, "decode", err, `"key"`)
	_, err = kvstore.NewView(s, codec.JSON[func()]()).Put(ctx, "k", nil)
	wantErrorText(t, "encode", err, `"k"`)
	_, err = numbers.Update(ctx, "key", func(int) (int, error) { return 1, nil }, kvstore.IfAbsent())
	wantErrorText(t, "update", err, `"key"`)
	wantPut(t, s, "lost", strings.Repeat("v", 1<<20))
	js := streamsOf(t, conn)
	if err := js.DeleteStream(ctx, "OBJ_texts"); err != nil {
		t.Fatal(err)
	}
	_, err = s.Get(ctx, "lost")
	wantErrorText(t, "lost", err, `"lost"`)
}

var errBroken = errors.New("broken\ntwice")

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errBroken }

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

// A key can have the text of a prefix, and the whole of an error.
func TestErrorTextOfHostileKeys(t *testing.T) {
	s := opened(t, "hostile", kvstore.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, key := range []string{`a": kvstore: b`, "a\nkvstore: b", `\": replication: `, "nats: nats: nats: "} {
		wantPut(t, s, key, "v")
		_, err := s.Put(t.Context(), key, nil, kvstore.IfAbsent())
		if text := err.Error(); strings.Contains(text, "\n") || !errors.Is(err, kvstore.ErrConflict) {
			t.Errorf("%q: %q", key, text)
		}
		if _, err := s.Put(ctx, key, nil); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", key, err)
		}
	}
}
