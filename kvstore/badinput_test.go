package kvstore_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
)

// badInput is a call that has to fail, with errors that it has to be.
type badInput struct {
	name string
	call func(s *kvstore.Store) error
	want []error
}

var errMarshal = errors.New("cannot be marshaled")

type unmarshalable struct{}

func (unmarshalable) MarshalJSON() ([]byte, error) { return nil, errMarshal }

type cycle struct{ Next *cycle }

// badInputs is every argument of every method beyond its limits.
func badInputs(ctx context.Context) []badInput {
	now := time.Now()
	var all []badInput
	add := func(name string, want error, call func(s *kvstore.Store) error) {
		all = append(all, badInput{name, call, []error{want}})
	}
	put := func(name string, want error, opts ...kvstore.WriteOption) {
		add("Put "+name, want, func(s *kvstore.Store) error {
			_, err := s.Put(ctx, "key", []byte("new"), opts...)
			return err
		})
	}
	for name, key := range map[string]string{
		"empty": "", "dot": ".", "two dots": "..", "513 bytes": strings.Repeat("k", 513), "257 runes": strings.Repeat("ä", 257),
		"not UTF-8": "key\xff", "cut UTF-8": "key\xc3", "surrogate": "\xed\xa0\x80",
	} {
		add("Get, key "+name, kvstore.ErrInvalidKey, func(s *kvstore.Store) error { _, err := s.Get(ctx, key); return err })
		add("Get at least, key "+name, kvstore.ErrInvalidKey, func(s *kvstore.Store) error {
			_, err := s.Get(ctx, key, kvstore.AtLeast(math.MaxUint64), kvstore.MaxStaleness(0))
			return err
		})
		add("GetAll, key "+name, kvstore.ErrInvalidKey, func(s *kvstore.Store) error {
			_, err := s.GetAll(ctx, []string{"key", key})
			return err
		})
		add("Put, key "+name, kvstore.ErrInvalidKey, func(s *kvstore.Store) error { _, err := s.Put(ctx, key, nil); return err })
		add("Delete, key "+name, kvstore.ErrInvalidKey, func(s *kvstore.Store) error { return s.Delete(ctx, key) })
	}
	for name, prefix := range map[string]string{"513 bytes": strings.Repeat("k", 513), "not UTF-8": "k\xff"} {
		add("List, prefix "+name, kvstore.ErrInvalidKey, func(s *kvstore.Store) error {
			_, err := s.List(kvstore.ListOptions{Prefix: prefix})
			return err
		})
		add("Watch, prefix "+name, kvstore.ErrInvalidKey, func(s *kvstore.Store) (err error) {
			for _, err = range s.Watch(ctx, prefix) {
			}
			return err
		})
	}
	add("Put, value of 25 MiB and a byte", kvstore.ErrTooLarge, func(s *kvstore.Store) error {
		_, err := s.Put(ctx, "key", make([]byte, 25<<20+1))
		return err
	})

	var endless cycle
	endless.Next = &endless
	for name, v := range map[string]any{
		"function": func() {}, "channel": make(chan int), "NaN": math.NaN(), "cycle": endless, "not JSON": json.RawMessage("{"),
		"not UTF-8": json.RawMessage("\"\xff\""), "1025 bytes": strings.Repeat("m", 1023), "1025 bytes of two": strings.Repeat("ä", 511) + "m",
	} {
		put("metadata: "+name, kvstore.ErrInvalidMetadata, kvstore.WithMetadata(v))
	}
	put("metadata: own error", kvstore.ErrInvalidMetadata, kvstore.WithMetadata(unmarshalable{}))
	put("metadata: own error", errMarshal, kvstore.WithMetadata(unmarshalable{}))

	for _, ttl := range []time.Duration{0, -1, time.Second - 1, -time.Second, math.MinInt64} {
		put(fmt.Sprintf("TTL %v", ttl), kvstore.ErrInvalidExpiry, kvstore.WithTTL(ttl))
	}
	for _, at := range []time.Time{
		{},
		time.Unix(0, 0), now.Add(-time.Hour), now, now.Add(time.Second - 1), time.Unix(math.MaxInt64, 0), time.Unix(math.MinInt64, 0),
		time.Date(9999, 12, 31, 23, 59, 59, 999_000_001, time.UTC), time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		put(fmt.Sprintf("expiry %v", at), kvstore.ErrInvalidExpiry, kvstore.WithExpiry(at))
	}
	hour, atHour := kvstore.WithTTL(time.Hour), kvstore.WithExpiry(now.Add(time.Hour))
	put("TTL and expiry", kvstore.ErrInvalidOptions, hour, atHour)
	put("expiry and TTL", kvstore.ErrInvalidOptions, atHour, hour)
	put("two TTLs", kvstore.ErrInvalidOptions, hour, hour)
	put("IfRevision(0)", kvstore.ErrInvalidOptions, kvstore.IfRevision(0))
	put("IfAbsent and IfRevision", kvstore.ErrInvalidOptions, kvstore.IfAbsent(), kvstore.IfRevision(1))
	put("IfRevision and IfAbsent", kvstore.ErrInvalidOptions, kvstore.IfRevision(1), kvstore.IfAbsent())
	put("two IfRevision", kvstore.ErrInvalidOptions, kvstore.IfRevision(1), kvstore.IfRevision(2))
	for name, opts := range map[string][]kvstore.DeleteOption{
		"IfRevision(0)": {kvstore.IfRevision(0)}, "two IfRevision": {kvstore.IfRevision(1), kvstore.IfRevision(2)},
	} {
		add("Delete "+name, kvstore.ErrInvalidOptions, func(s *kvstore.Store) error { return s.Delete(ctx, "key", opts...) })
	}

	for _, d := range []time.Duration{-1, math.MinInt64} {
		add("Get, negative staleness", kvstore.ErrInvalidOptions, func(s *kvstore.Store) error {
			_, err := s.Get(ctx, "key", kvstore.MaxStaleness(time.Hour), kvstore.MaxStaleness(d))
			return err
		})
		add("GetAll, negative staleness", kvstore.ErrInvalidOptions, func(s *kvstore.Store) error {
			_, err := s.GetAll(ctx, nil, kvstore.MaxStaleness(d))
			return err
		})
	}
	list := func(name string, opts kvstore.ListOptions) {
		add("List, "+name, kvstore.ErrInvalidOptions, func(s *kvstore.Store) error { _, err := s.List(opts); return err })
	}
	for _, limit := range []int{-1, 1001, math.MinInt, math.MaxInt} {
		list(fmt.Sprintf("limit %d", limit), kvstore.ListOptions{Limit: limit})
	}
	list("cursor no base64", kvstore.ListOptions{Cursor: "!"})
	list("cursor padded", kvstore.ListOptions{Cursor: base64.URLEncoding.EncodeToString([]byte("1 0 key"))})
	for _, text := range []string{
		"", "1", "1 ", "1 0", "1 0 ", "1 0 .", "1 0 k\xff", "1 x key", "1  key", "1 -1 key", "1 1 key", "2 0 key",
		"1 99999999999999999999 key", "1 0 " + strings.Repeat("k", 513),
	} {
		if text != "" {
			list(fmt.Sprintf("cursor %q", text), kvstore.ListOptions{Cursor: base64.RawURLEncoding.EncodeToString([]byte(text))})
		}
	}
	list("cursor of a longer prefix", kvstore.ListOptions{Prefix: "k", Cursor: base64.RawURLEncoding.EncodeToString([]byte("1 2 key"))})
	list("cursor of another prefix", kvstore.ListOptions{Prefix: "x", Cursor: base64.RawURLEncoding.EncodeToString([]byte("1 1 key"))})
	return append(all, canceled()...)
}

// canceled is every call that needs the log, with a context that has ended.
func canceled() []badInput {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	stale, away := []error{kvstore.ErrStale, context.Canceled}, []error{kvstore.ErrUnavailable, context.Canceled}
	return []badInput{
		{"Put, canceled", func(s *kvstore.Store) error { _, err := s.Put(ctx, "key", nil); return err }, away},
		{"Put if absent, canceled", func(s *kvstore.Store) error { _, err := s.Put(ctx, "no", nil, kvstore.IfAbsent()); return err }, away},
		{"Delete, canceled", func(s *kvstore.Store) error { return s.Delete(ctx, "key") }, away},
		{"Delete of nothing, canceled", func(s *kvstore.Store) error { return s.Delete(ctx, "no") }, away},
		{"Sync, canceled", func(s *kvstore.Store) error { return s.Sync(ctx) }, away},
		{"Get not stale, canceled", func(s *kvstore.Store) error {
			_, err := s.Get(ctx, "key", kvstore.MaxStaleness(0))
			return err
		}, stale},
		{"Get at least, canceled", func(s *kvstore.Store) error {
			_, err := s.Get(ctx, "key", kvstore.AtLeast(math.MaxUint64))
			return err
		}, stale},
		{"GetAll at least, canceled", func(s *kvstore.Store) error {
			_, err := s.GetAll(ctx, []string{"key"}, kvstore.AtLeast(math.MaxUint64))
			return err
		}, stale},
	}
}

// Bad input gets its error before anything is sent, and changes nothing.
func TestBadInput(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		w := &wire{InProcessConnProvider: kvstoretest.NewServer(t, "")}
		s := opened(t, "bad", kvstore.Options{Conn: dialNATS(t, w), Memory: true, CheckInterval: time.Hour})
		wantPut(t, s, "key", "value", kvstore.WithMetadata("m"), kvstore.WithTTL(24*time.Hour))
		time.Sleep(time.Second) // older than "not stale"
		synctest.Wait()
		before, sent, head := wantText(t, s, "key", "value"), w.sent.Load(), s.Status().Head
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // which does not come, as none of them waits
		defer cancel()
		for _, bad := range badInputs(ctx) {
			err := bad.call(s)
			for _, want := range bad.want {
				if !errors.Is(err, want) {
					t.Errorf("%s: the error is %v, must be a %v", bad.name, err, want)
				}
			}
			synctest.Wait()
			if now := w.sent.Load(); now != sent && !strings.Contains(bad.name, "at least, canceled") { // which look for the end of the log
				t.Errorf("%s: %d bytes were sent", bad.name, now-sent)
			}
			sent = w.sent.Load()
			if now := wantText(t, s, "key", "value"); now != before {
				t.Errorf("%s: the entry was %+v, is %+v", bad.name, before, now)
			}
		}
		yieldsOnly(t, kvstore.ErrInvalidKey, s.Keys("k\xff"))
		if err := s.Sync(t.Context()); err != nil {
			t.Error(err)
		}
		if now := s.Status().Head; now != head {
			t.Errorf("head was %d, is %d", head, now)
		}
		if stats := s.Stats(); stats.Keys != 1 || stats.Tombstones != 0 {
			t.Errorf("Stats are %+v", stats)
		}
	})
}

// What is just within the limits passes.
func TestInputLimits(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		for _, opts := range []kvstore.Options{
			{CheckInterval: 10 * time.Millisecond},
			{CheckInterval: time.Hour},
			{CacheBytes: 1},
			{CacheBytes: math.MinInt64},
			{CacheBytes: math.MaxInt64},
			{Replicas: 1},
			{MaxBytes: 1 << 20},
			{Memory: true},
			{URL: ""},
		} {
			s := opened(t, "options", opts)
			wantPut(t, s, "key", "value")
			wantText(t, s, "key", "value")
			closeStore(t, s)
		}
		small := kvstore.Options{CheckInterval: time.Hour, CacheBytes: 1 << 20}
		for _, namespace := range []string{"a", "-", "_", "AZaz09-_", strings.Repeat("n", 200)} {
			wantPut(t, opened(t, namespace, small), "key", "value")
		}
		s := opened(t, "limits", small)
		for _, key := range []string{"k", "...", "a/..", " ", "\x00", "\r\n", "*", ">", "$", "=", strings.Repeat("k", 512), strings.Repeat(":", 512), strings.Repeat("\U0010ffff", 128)} {
			wantPut(t, s, key, "")
			wantText(t, s, key, "")
			if page, err := s.List(kvstore.ListOptions{Prefix: key, Limit: 1000}); err != nil || len(page.Keys) == 0 {
				t.Errorf("List %q: %v, %v", key, page, err)
			}
		}
		for _, v := range []any{0, false, "", strings.Repeat("<", 1022), strings.Repeat("\u2028", 340), json.RawMessage(" { } ")} {
			wantPut(t, s, "key", "", kvstore.WithMetadata(v))
		}
		for _, at := range []time.Time{time.Now().Add(time.Second), time.Date(9999, 12, 31, 23, 59, 59, 999_000_000, time.UTC)} {
			wantPut(t, s, "key", "", kvstore.WithExpiry(at))
			if e := wantText(t, s, "key", ""); !e.Expires().Equal(at) {
				t.Errorf("expires %v, not %v", e.Expires(), at)
			}
		}
		wantPut(t, s, "key", "", kvstore.WithTTL(math.MaxInt64))
		revision := wantPut(t, s, "second", "value", kvstore.WithTTL(time.Second))
		wantPut(t, s, "second", "value", kvstore.WithTTL(time.Second), kvstore.IfRevision(revision), kvstore.IfRevision(revision))
		time.Sleep(time.Second - 1)
		wantText(t, s, "second", "value")
		time.Sleep(1)
		_, err := s.Get(t.Context(), "second")
		wantErrors(t, err, kvstore.ErrNotFound)
	})
}

// Options that contradict each other or are out of range, and names, are refused
// before anything is touched.
func TestBadOptions(t *testing.T) {
	dir, conn := absent(t), dialNATS(t, startNATS(t, nil))
	for i, opts := range []kvstore.Options{
		{Dir: dir, URL: "localhost"},
		{Dir: dir, Conn: conn},
		{URL: "localhost", Conn: conn},
		{Dir: dir, URL: "localhost", Conn: conn},
		{Dir: dir, Memory: true},
		{Dir: dir, Replicas: -1},
		{Dir: dir, Replicas: 2},
		{Replicas: 3},
		{Conn: conn, Replicas: 6},
		{Conn: conn, Replicas: -1},
		{Dir: dir, MaxBytes: -1},
		{Dir: dir, MaxBytes: math.MinInt64},
		{Dir: dir, CheckInterval: -1},
		{Dir: dir, CheckInterval: 1},
		{Dir: dir, CheckInterval: 10*time.Millisecond - 1},
		{Dir: dir, CheckInterval: time.Hour + 1},
		{URL: "nats://localhost:port"},
		{URL: "localhost,nats://[::1"},
		{URL: "%zz"},
	} {
		_, err := kvstore.Open(t.Context(), "options", opts)
		if !errors.Is(err, kvstore.ErrInvalidOptions) {
			t.Errorf("options %d: the error is %v", i, err)
		}
	}
	for _, namespace := range []string{"", strings.Repeat("n", 201), ".", "a.b", "a b", "a*", ">", "a/b", "ä", "a\x00", "a\n", "$"} {
		_, err := kvstore.Open(t.Context(), namespace, kvstore.Options{Dir: dir})
		if !errors.Is(err, kvstore.ErrInvalidNamespace) {
			t.Errorf("namespace %q: the error is %v", namespace, err)
		}
	}
}

// Opening fails, each time further on. Nothing is left, and the error is the
// one that is documented.
func TestOpenFails(t *testing.T) {
	for name, prepare := range openFailures {
		t.Run(name, func(t *testing.T) {
			leavesNothing(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				f := failure{ctx: ctx, cancel: cancel, namespace: "fails"}
				prepare(t, &f)
				s, err := kvstore.Open(f.ctx, f.namespace, f.opts)
				if err == nil {
					closeStore(t, s)
				}
				wantErrors(t, err, f.want...)
			})
		})
	}
}

type failure struct {
	ctx       context.Context
	cancel    context.CancelFunc
	namespace string
	opts      kvstore.Options
	want      []error
}

// deadline makes the context end while Open waits.
func (f *failure) deadline(t *testing.T, d time.Duration) {
	ctx, cancel := context.WithTimeout(f.ctx, d)
	t.Cleanup(cancel)
	f.ctx, f.want = ctx, []error{kvstore.ErrUnavailable, context.DeadlineExceeded}
}

func (f *failure) canceled() {
	f.cancel()
	f.want = []error{kvstore.ErrUnavailable, context.Canceled}
}

var openFailures = map[string]func(t *testing.T, f *failure){
	"namespace": func(t *testing.T, f *failure) {
		f.namespace, f.opts.Dir, f.want = "a.b", absent(t), []error{kvstore.ErrInvalidNamespace}
	},
	"options": func(t *testing.T, f *failure) {
		f.opts.Dir, f.opts.Memory, f.want = absent(t), true, []error{kvstore.ErrInvalidOptions}
	},
	"canceled, default": func(_ *testing.T, f *failure) { f.canceled() },
	"canceled, Dir": func(t *testing.T, f *failure) {
		f.opts.Dir = absent(t)
		f.canceled()
	},
	"canceled, URL": func(t *testing.T, f *failure) {
		f.opts = places["URL"](t)
		f.canceled()
	},
	"canceled, Conn": func(t *testing.T, f *failure) {
		f.opts = places["Conn"](t)
		f.canceled()
	},
	"Dir is locked by this process": func(t *testing.T, f *failure) {
		f.opts, f.want = kvstore.Options{Dir: t.TempDir(), Exclusive: true}, []error{kvstore.ErrLocked}
		opened(t, "other", kvstore.Options{Dir: f.opts.Dir})
	},
	"Dir is locked by another process": func(t *testing.T, f *failure) {
		f.opts, f.want = kvstore.Options{Dir: t.TempDir(), Exclusive: true}, []error{kvstore.ErrLocked}
		startRole(t, "open", f.opts.Dir).expect(t, "ready")
	},
	"Dir is a file":           blocked("."),
	"the store is a file":     blocked("nats"),
	"JetStream's is a file":   blocked("nats/jetstream"),
	"the lock is a directory": blocked("lock/x"),
	"nobody listens": func(t *testing.T, f *failure) {
		l := listener(t)
		f.opts.URL = l.Addr().String()
		_ = l.Close()
		f.deadline(t, 200*time.Millisecond)
	},
	"who listens says nothing": func(t *testing.T, f *failure) {
		f.opts.URL = listener(t).Addr().String()
		f.deadline(t, 200*time.Millisecond)
	},
	"no JetStream": func(t *testing.T, f *failure) {
		f.opts.Conn = dialNATS(t, startNATS(t, func(o *server.Options) { o.JetStream = false }))
		f.deadline(t, 200*time.Millisecond)
	},
	"server does not answer": func(t *testing.T, f *failure) {
		w := &wire{InProcessConnProvider: startNATS(t, nil)}
		f.opts.Conn = dialNATS(t, w)
		w.mute.Store(true)
		f.deadline(t, 200*time.Millisecond)
	},
	"may not follow": func(t *testing.T, f *failure) {
		permissions := &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.CONSUMER.>"}}}
		s := startNATS(t, func(o *server.Options) {
			o.Users = []*server.User{{Username: "u", Password: "p", Permissions: permissions}}
		})
		f.opts.URL = "nats://u:p@" + s.Addr().String()
		f.want = []error{kvstore.ErrForbidden}
	},
	"wrong password": func(t *testing.T, f *failure) {
		s := startNATS(t, func(o *server.Options) { o.Username, o.Password = "u", "p" })
		f.opts.URL = "nats://u:wrong@" + s.Addr().String()
		f.want = []error{kvstore.ErrUnavailable, nats.ErrAuthorization}
	},
	"Conn is closed": func(t *testing.T, f *failure) {
		f.opts = places["Conn"](t)
		f.opts.Conn.Close()
		f.want = []error{kvstore.ErrUnavailable, nats.ErrConnectionClosed}
	},
	"no space for the limit": func(t *testing.T, f *failure) {
		f.opts.Dir, f.opts.MaxBytes, f.want = t.TempDir(), math.MaxInt64, []error{kvstore.ErrNoSpace}
	},
	"lone server, three replicas": func(t *testing.T, f *failure) {
		f.opts = places["Conn"](t)
		f.opts.Replicas = 3
		f.deadline(t, 20*time.Second) // is not waited for
		f.want = []error{kvstore.ErrUnsupported}
	},
	"bucket of other subjects": bucket(func(c *jetstream.StreamConfig) { c.Subjects = []string{"other.>"} }),
	"bucket is a queue":        bucket(func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }),
	"bucket is newer":          bucket(func(c *jetstream.StreamConfig) { c.Metadata = map[string]string{"nearkv.format": "2"} }),
	"bucket is transformed": bucket(func(c *jetstream.StreamConfig) {
		c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "$KV.fails.>", Destination: "$KV.fails.x.>"}
	}),
	"subjects are another's": bucket(func(c *jetstream.StreamConfig) { c.Name = "OTHER" }),
}

// absent is a directory that does not exist, and has to stay so.
func absent(t *testing.T) string {
	dir := filepath.Join(t.TempDir(), "absent")
	t.Cleanup(func() {
		if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was touched: %v", dir, err)
		}
	})
	return dir
}

// blocked puts a file where a Dir needs something else. Without it the Dir can
// be used.
func blocked(obstacle string) func(*testing.T, *failure) {
	return func(t *testing.T, f *failure) {
		f.opts.Dir, f.want = filepath.Join(t.TempDir(), "dir"), []error{kvstore.ErrStart}
		path := filepath.Join(f.opts.Dir, filepath.FromSlash(obstacle))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		opts := f.opts
		t.Cleanup(func() {
			if err := errors.Join(os.RemoveAll(path), os.RemoveAll(filepath.Join(opts.Dir, "lock"))); err != nil {
				t.Error(err)
			}
			opened(t, "other", opts)
		})
	}
}

// bucket makes a stream that is in the way of the namespace.
func bucket(change func(*jetstream.StreamConfig)) func(*testing.T, *failure) {
	return func(t *testing.T, f *failure) {
		f.opts, f.want = places["Conn"](t), []error{kvstore.ErrUnsupported}
		c := jetstream.StreamConfig{Name: "KV_fails", Subjects: []string{"$KV.fails.>"}, MaxMsgsPerSubject: 1}
		change(&c)
		if _, err := streamsOf(t, f.opts.Conn).CreateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
}

func listener(t *testing.T) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func streamsOf(t *testing.T, conn *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return js
}
