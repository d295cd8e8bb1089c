package replication

import (
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/replication/embedded"
)

func TestCheckNamespace(t *testing.T) {
	for _, good := range []string{"a", "Z", "0", "-", "_", "my-App_2", strings.Repeat("x", MaxNamespaceLen)} {
		if err := CheckNamespace(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	bad := []string{"", ".", "a.b", "a b", "*", ">", "a/b", "$KV", "ä", "a\x00", "\xff", "a\n", strings.Repeat("x", MaxNamespaceLen+1)}
	for b := range 256 {
		c := byte(b)
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", rune(c)) || c >= 0x80 {
			bad = append(bad, "a"+string([]byte{c}))
		}
	}
	for _, name := range bad {
		if err := CheckNamespace(name); !errors.Is(err, ErrNamespace) {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := Open(t.Context(), nil, name, Config{}); !errors.Is(err, ErrNamespace) {
			t.Errorf("Open of %q: %v", name, err)
		}
	}
}

// A stream that Open creates is that of DESIGN.md, section 3, field by field.
func TestOpenCreates(t *testing.T) {
	server := startServer(t, embedded.Options{Dir: t.TempDir()})
	nc := connect(t, server)
	tests := []struct {
		cfg  Config
		want func(*jetstream.StreamConfig)
	}{
		{Config{}, func(*jetstream.StreamConfig) {}},
		{Config{Memory: true, MaxBytes: 1 << 20}, func(c *jetstream.StreamConfig) {
			c.Storage, c.MaxBytes = jetstream.MemoryStorage, 1<<20
		}},
	}
	ids := make(map[string]bool)
	for _, test := range tests {
		l := openLog(t, nc, "test", test.cfg)
		s, err := newJetStream(t, nc).Stream(t.Context(), "KV_test")
		if err != nil {
			t.Fatal(err)
		}
		got := s.CachedInfo().Config
		id := got.Metadata["nearkv.incarnation"]
		if len(id) < 16 || ids[id] {
			t.Errorf("the incarnation is %q", id)
		}
		ids[id] = true
		if got.Metadata["nearkv.format"] != "1" {
			t.Errorf("the format is %q", got.Metadata["nearkv.format"])
		}
		want := jetstream.StreamConfig{
			Name: "KV_test", Description: "nearkv namespace test", Subjects: []string{"$KV.test.>"},
			Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage, Replicas: 1,
			MaxMsgsPerSubject: 1, MaxMsgs: -1, MaxBytes: -1, MaxConsumers: manyConsumers, MaxAge: 0,
			MaxMsgSize: 26_214_400 + 4096, Discard: jetstream.DiscardNew, Duplicates: time.Second,
			AllowDirect: true, AllowMsgTTL: true, AllowAtomicPublish: true, AllowBatchPublish: true,
			AllowRollup: false, DenyDelete: true, DenyPurge: true,
			Metadata: got.Metadata, // the server adds its own
		}
		test.want(&want)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%+v: the stream is\n%+v, not\n%+v", test.cfg, got, want)
		}
		if !l.CanExpire() || l.MaxValue() != codec.MaxValueLen {
			t.Errorf("CanExpire is %v, MaxValue %d", l.CanExpire(), l.MaxValue())
		}
		if err := newJetStream(t, nc).DeleteStream(t.Context(), "KV_test"); err != nil {
			t.Fatal(err)
		}
	}
}

// Nobody can wipe a stream that Open has created.
func TestCreatedStreamIsClosed(t *testing.T) {
	l, nc := memoryLog(t, Config{})
	if _, err := l.Append(t.Context(), "key", codec.Record{Value: []byte("value")}, Expectation{}); err != nil {
		t.Fatal(err)
	}
	js := newJetStream(t, nc)
	s, err := js.Stream(t.Context(), "KV_test")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context()); err == nil {
		t.Error("a purge succeeds")
	}
	if err := s.DeleteMsg(t.Context(), 1); err == nil {
		t.Error("a deletion of a message succeeds")
	}
	if err := s.SecureDeleteMsg(t.Context(), 1); err == nil {
		t.Error("a secure deletion of a message succeeds")
	}
	kv, err := js.KeyValue(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Purge(t.Context(), "key"); err == nil {
		t.Error("a rollup succeeds")
	}
	open := s.CachedInfo().Config
	open.DenyPurge, open.DenyDelete = false, false
	if _, err := js.UpdateStream(t.Context(), open); err == nil {
		t.Error("the stream can be opened for purges")
	}
	if m, err := l.Last(t.Context(), "key"); err != nil || string(m.Record.Value) != "value" {
		t.Errorf("the key is %+v, %v", m, err)
	}
}

// What exists is opened as it is.
func TestOpenChangesNothing(t *testing.T) {
	nc := connect(t, startServer(t, embedded.Options{}))
	js := newJetStream(t, nc)
	created, err := js.CreateStream(t.Context(), bucketConfig("test"))
	if err != nil {
		t.Fatal(err)
	}
	openLog(t, nc, "test", Config{MaxBytes: 1 << 20})
	s, err := js.Stream(t.Context(), "KV_test")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.CachedInfo().Config, created.CachedInfo().Config; !reflect.DeepEqual(got, want) {
		t.Errorf("the stream was\n%+v, and is\n%+v", want, got)
	}
}

// Buckets of other clients open, and what they cannot do is known.
func TestOpenBucket(t *testing.T) {
	server := startServer(t, embedded.Options{Dir: t.TempDir()})
	nc := connect(t, server)
	tests := []struct {
		name    string
		cfg     jetstream.KeyValueConfig
		expires bool
		value   int64
		limits  limits
	}{
		{"plain", jetstream.KeyValueConfig{}, false, codec.MaxValueLen, limits{direct: true, maxValue: codec.MaxValueLen}},
		{"history", jetstream.KeyValueConfig{History: 5}, false, codec.MaxValueLen, limits{direct: true, history: true, maxValue: codec.MaxValueLen}},
		{
			"age",
			jetstream.KeyValueConfig{TTL: time.Hour},
			false, codec.MaxValueLen,
			limits{direct: true, maxValue: codec.MaxValueLen, maxAge: time.Hour},
		},
		{
			"markers",
			jetstream.KeyValueConfig{LimitMarkerTTL: time.Minute},
			true, codec.MaxValueLen,
			limits{ttl: true, direct: true, maxValue: codec.MaxValueLen},
		},
		{
			"memory",
			jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage},
			false, codec.MaxValueLen,
			limits{direct: true, maxValue: codec.MaxValueLen},
		},
		{
			"compression",
			jetstream.KeyValueConfig{Compression: true},
			false, codec.MaxValueLen,
			limits{direct: true, maxValue: codec.MaxValueLen},
		},
		{"small", jetstream.KeyValueConfig{MaxValueSize: 100}, false, 100, limits{direct: true, maxValue: 100}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.cfg.Bucket = test.name
			kv, err := newJetStream(t, nc).CreateKeyValue(t.Context(), test.cfg)
			if err != nil {
				t.Fatal(err)
			}
			l := openLog(t, nc, test.name, Config{})
			if l.CanExpire() != test.expires || l.MaxValue() != test.value {
				t.Errorf("CanExpire is %v, MaxValue %d", l.CanExpire(), l.MaxValue())
			}
			test.limits.storage = Storage{Memory: test.cfg.Storage == jetstream.MemoryStorage, Replicas: 1}
			if got := *l.limits.Load(); got != test.limits {
				t.Errorf("limits are %+v, not %+v", got, test.limits)
			}
			revision, err := kv.PutString(t.Context(), "key", "value")
			if err != nil {
				t.Fatal(err)
			}
			if m, err := l.Load(t.Context(), revision); err != nil || m.Key != "key" || string(m.Record.Value) != "value" {
				t.Errorf("Load returns %+v, %v", m, err)
			}
		})
	}
}

// What is no bucket, or one that this version cannot read, is refused.
func TestOpenRefuses(t *testing.T) {
	nc := connect(t, startServer(t, embedded.Options{}))
	js := newJetStream(t, nc)
	if _, err := js.CreateStream(t.Context(), bucketConfig("origin")); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*jetstream.StreamConfig)
		says   string
	}{
		{"mirror", func(c *jetstream.StreamConfig) {
			c.Subjects, c.Mirror = nil, &jetstream.StreamSource{Name: "KV_origin"}
		}, "mirror"},
		{"other subjects", func(c *jetstream.StreamConfig) { c.Subjects = []string{"other.>"} }, "subjects"},
		{"some of the subjects", func(c *jetstream.StreamConfig) { c.Subjects = []string{"$KV.test.*"} }, "subjects"},
		{"work queue", func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }, "removes records"},
		{"interest", func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy }, "removes records"},
		{"newer format", func(c *jetstream.StreamConfig) {
			c.Metadata = map[string]string{"nearkv.format": "2"}
		}, `format "2"`},
		{"transform", func(c *jetstream.StreamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "$KV.test.>", Destination: "x.>"}
		}, "transforms"},
		{"sealed", nil, "sealed"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cfg := bucketConfig("test")
			if test.change != nil {
				test.change(&cfg)
			}
			s, err := js.CreateStream(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := js.DeleteStream(t.Context(), cfg.Name); err != nil {
					t.Error(err)
				}
			}()
			if test.change == nil {
				cfg = s.CachedInfo().Config
				cfg.Sealed = true
				if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
					t.Fatal(err)
				}
			}
			l, err := Open(t.Context(), nc, "test", Config{Memory: true})
			if err == nil {
				l.Close()
			}
			if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("Open returns %v", err)
			}
		})
	}
}

// A stream of another name can have the subjects.
func TestOpenRefusesOverlap(t *testing.T) {
	nc := connect(t, startServer(t, embedded.Options{}))
	cfg := bucketConfig("test")
	cfg.Name = "other"
	if _, err := newJetStream(t, nc).CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), nc, "test", Config{Memory: true}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("Open returns %v", err)
	}
}

// A server that has no room for a namespace says so.
func TestOpenWithoutSpace(t *testing.T) {
	nc := connect(t, startServer(t, embedded.Options{MaxMemory: 1 << 10}))
	_, err := Open(t.Context(), nc, "test", Config{Memory: true, MaxBytes: 1 << 20})
	if !errors.Is(err, ErrNoSpace) {
		t.Errorf("Open returns %v", err)
	}
}

// Of many who open a namespace that does not exist one creates it.
func TestOpenRace(t *testing.T) {
	server := startServer(t, embedded.Options{})
	var wait sync.WaitGroup
	incarnations := make(chan Incarnation, 8)
	for range cap(incarnations) {
		nc := connect(t, server)
		wait.Go(func() {
			l, err := Open(t.Context(), nc, "test", Config{Memory: true})
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Close()
			v, err := l.view(t.Context())
			if err != nil {
				t.Error(err)
			}
			incarnations <- v.Incarnation
		})
	}
	wait.Wait()
	close(incarnations)
	first := <-incarnations
	for i := range incarnations {
		if i != first {
			t.Errorf("the incarnation is %s for one and %s for another", first, i)
		}
	}
}

func TestIncarnation(t *testing.T) {
	nc := connect(t, startServer(t, embedded.Options{}))
	js := newJetStream(t, nc)
	ours := func() Incarnation {
		l := openLog(t, nc, "test", Config{Memory: true})
		v, err := l.view(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		return v.Incarnation
	}
	first := ours()
	if again := ours(); again != first {
		t.Errorf("the incarnation was %s and is %s", first, again)
	}
	seen := map[Incarnation]bool{first: true}
	for range 3 {
		if err := js.DeleteStream(t.Context(), "KV_test"); err != nil {
			t.Fatal(err)
		}
		// Also of a bucket that others make.
		if _, err := js.CreateStream(t.Context(), bucketConfig("test")); err != nil {
			t.Fatal(err)
		}
		next := ours()
		if seen[next] {
			t.Errorf("incarnation %s comes twice", next)
		}
		seen[next] = true
	}
}

func TestMalformedView(t *testing.T) {
	l, _ := memoryLog(t, Config{})
	for _, data := range []string{"", "{", "[]", `"x"`} {
		if v, err := l.parseView([]byte(data)); err == nil {
			t.Errorf("the view of %q is %+v", data, v)
		}
	}
	// An info of nothing is not that of the bucket.
	for _, data := range []string{"{}", "null", `{"config":{}}`} {
		if _, err := l.parseView([]byte(data)); !errors.Is(err, ErrUnsupported) {
			t.Errorf("the view of %q: %v", data, err)
		}
	}
	if _, err := l.parseView([]byte(`{"error":{"code":404,"err_code":10059}}`)); !errors.Is(err, ErrNoStream) || !errors.Is(err, ErrUnavailable) {
		t.Errorf("no stream: %v", err)
	}
}

// Log.Close can be called more than once.
func TestLogCloses(t *testing.T) {
	l, _ := memoryLog(t, Config{})
	l.Close()
	l.Close()
	if _, err := l.view(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
}
