package kvstore_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
)

// both is a Store and the key-value client of nats.go on one bucket.
type both struct {
	*testing.T
	js    jetstream.JetStream
	kv    jetstream.KeyValue
	conn  *nats.Conn
	store *kvstore.Store
}

// interop runs a test in virtual time on a bucket that nats.go has made, or on
// one of ours if config is nil.
func interop(t *testing.T, config *jetstream.KeyValueConfig, opts kvstore.Options, test func(b *both)) {
	t.Helper()
	kvstoretest.Run(t, func(t *testing.T) {
		server := kvstoretest.NewServer(t, "")
		b := &both{T: t, conn: server.Conn(t)}
		var err error
		if b.js, err = jetstream.New(b.conn); err != nil {
			t.Fatal(err)
		}
		if config != nil {
			config.Bucket, config.Storage = "interop", jetstream.MemoryStorage
			if _, err := b.js.CreateKeyValue(t.Context(), *config); err != nil {
				t.Fatal(err)
			}
		}
		opts.Conn, opts.Memory = server.Conn(t), true
		b.store = opened(t, "interop", opts)
		defer closeStore(t, b.store)
		if b.kv, err = b.js.KeyValue(t.Context(), "interop"); err != nil {
			t.Fatal(err)
		}
		test(b)
	})
}

func (b *both) must(revision uint64, err error) uint64 {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
	return revision
}

// stores checks what the Store has after it has caught up; "" means nothing.
func (b *both) stores(key, value string, revision uint64) {
	b.Helper()
	if err := b.store.Sync(b.Context()); err != nil {
		b.Fatal(err)
	}
	e, err := b.store.Get(b.Context(), key)
	if value == "" {
		if !errors.Is(err, kvstore.ErrNotFound) {
			b.Errorf("Store has %q of %q, %v", e.Text(), key, err)
		}
		return
	}
	if err != nil || e.Text() != value || uint64(e.Revision()) != revision {
		b.Errorf("Store has %q at %d of %q, %v; want %q at %d", e.Text(), e.Revision(), key, err, value, revision)
	}
}

// shows checks what the client of nats.go has.
func (b *both) shows(key, value string, revision uint64) {
	b.Helper()
	e, err := b.kv.Get(b.Context(), key)
	if value == "" {
		if !errors.Is(err, jetstream.ErrKeyNotFound) {
			b.Errorf("nats.go has %q: %v", key, err)
		}
		return
	}
	if err != nil || string(e.Value()) != value || e.Revision() != revision {
		b.Errorf("nats.go has %v of %q, %v; want %q at %d", e, key, err, value, revision)
	}
}

// TestInterop: the Store and other NATS clients read and write the same bucket.
func TestInterop(t *testing.T) {
	for name, config := range map[string]*jetstream.KeyValueConfig{
		"ours":          nil,
		"plain":         {},
		"history":       {History: 5},
		"limit markers": {LimitMarkerTTL: time.Minute},
		"max age":       {TTL: 24 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			interop(t, config, kvstore.Options{}, func(b *both) {
				theirWrites(b, config != nil)
				ourWrites(b)
			})
		})
	}
}

func theirWrites(b *both, purges bool) {
	ctx := b.Context()
	r := b.must(b.kv.Put(ctx, "a.b/c", []byte("put")))
	b.stores("a.b/c", "put", r)
	r = b.must(b.kv.Update(ctx, "a.b/c", []byte("updated"), r))
	b.stores("a.b/c", "updated", r)
	r = b.must(b.kv.Create(ctx, "new", []byte("created")))
	b.stores("new", "created", r)
	if err := b.kv.Delete(ctx, "new"); err != nil {
		b.Fatal(err)
	}
	b.stores("new", "", 0)
	b.must(b.kv.Create(ctx, "new", []byte("again")))
	err := b.kv.Purge(ctx, "new")
	if purges != (err == nil) {
		b.Errorf("Purge returns %v", err)
	}
	if purges {
		b.stores("new", "", 0)
	}
}

func ourWrites(b *both) {
	ctx := b.Context()
	watch, err := b.kv.WatchAll(ctx, jetstream.UpdatesOnly())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = watch.Stop() }()
	r := wantPut(b, b.store, "x", "ours", kvstore.WithMetadata("m"))
	b.shows("x", "ours", uint64(r))
	if e := <-watch.Updates(); e.Key() != "x" || string(e.Value()) != "ours" {
		b.Errorf("nats.go sees %v", e)
	}
	if _, err := b.kv.Update(ctx, "x", []byte("theirs"), uint64(r)-1); err == nil {
		b.Error("an update of an older revision passes")
	}
	r = kvstore.Revision(b.must(b.kv.Update(ctx, "x", []byte("theirs"), uint64(r))))
	if _, err := b.store.Put(ctx, "x", nil, kvstore.IfRevision(r-1)); !errors.Is(err, kvstore.ErrConflict) {
		b.Errorf("a put over an older revision: %v", err)
	}
	wantPut(b, b.store, "x", "both", kvstore.IfRevision(r))
	if err := b.store.Delete(ctx, "x"); err != nil {
		b.Fatal(err)
	}
	b.shows("x", "", 0)
	wantPut(b, b.store, "user:7 ü", "encoded")
	keys, err := b.kv.Keys(ctx)
	if err != nil || !slices.Contains(keys, "user=3A.7=20=C3=BC") {
		b.Errorf("nats.go lists %q, %v", keys, err)
	}
}

// What a bucket cannot do is a typed error; what it does by itself is seen.
func TestInteropExpiry(t *testing.T) {
	t.Run("no TTL", func(t *testing.T) {
		interop(t, &jetstream.KeyValueConfig{}, kvstore.Options{}, func(b *both) {
			if _, err := b.store.Put(b.Context(), "k", nil, kvstore.WithTTL(time.Hour)); !errors.Is(err, kvstore.ErrUnsupported) {
				b.Errorf("a TTL: %v", err)
			}
		})
	})
	t.Run("TTL", func(t *testing.T) {
		interop(t, &jetstream.KeyValueConfig{LimitMarkerTTL: time.Minute}, kvstore.Options{}, func(b *both) {
			r := b.must(b.kv.Create(b.Context(), "theirs", []byte("v"), jetstream.KeyTTL(10*time.Second)))
			wantPut(b, b.store, "ours", "v", kvstore.WithTTL(10*time.Second))
			b.stores("theirs", "v", r)
			time.Sleep(9 * time.Second)
			b.stores("theirs", "v", r)
			time.Sleep(time.Second)
			b.stores("theirs", "", 0)
			b.stores("ours", "", 0)
			time.Sleep(10 * time.Second) // the log keeps ours a little longer
			b.shows("theirs", "", 0)
			b.shows("ours", "", 0)
		})
	})
}

// foreignMessages are what anybody who may publish can put into a bucket.
func foreignMessages() []*nats.Msg {
	var msgs []*nats.Msg
	add := func(subject, value string, header ...string) {
		m := nats.NewMsg("$KV.interop." + subject)
		m.Data = []byte(value)
		for i := 0; i+1 < len(header); i += 2 {
			m.Header[header[i]] = append(m.Header[header[i]], header[i+1])
		}
		msgs = append(msgs, m)
	}
	for i, subject := range []string{
		"=", "=4", "=41", "=3a", "=3A", "a=3Ab", "a=3A.", "=FF", "=C3=28", "=00=", "ü", "a*", "a>", "*x", "\x01", "~", "%41",
		"a=2Eb", "=2E=2E", "=2E", strings.Repeat("x", 600), strings.Repeat("=00", 513), "=ED=A0=80", "\xff\xfe", "a=3A.=3A.=", "x=2F",
	} {
		add(subject, fmt.Sprint("foreign ", i))
	}
	for i, header := range [][]string{
		{"KV-Operation", "del"},
		{"KV-Operation", "JUNK"},
		{"KV-Operation", "DEL "},
		{"KV-Operation", "PUT"},
		{"KV-Operation", "PURGE"},
		{"KV-Expires", "x"},
		{"KV-Expires", "-1"},
		{"KV-Expires", "0"},
		{"KV-Expires", "1e9"},
		{"KV-Expires", "99999999999999999999"},
		{"KV-Expires", "1"},
		{"KV-Expires", "9223372036854775807"},
		{"KV-Expires", " 7"},
		{"KV-Hides", "y"},
		{"KV-Hides", "1"},
		{"KV-Metadata", "{"},
		{"KV-Metadata", "null"},
		{"KV-Metadata", "\xff"},
		{"KV-Metadata", `"` + strings.Repeat("m", 2000) + `"`},
		{"KV-Metadata", "1 2"},
		{"KV-Object", "somewhere"},
		{"KV-Write", ""},
		{"KV-Write", strings.Repeat("w", 5000)},
		{"Nats-Marker-Reason", "MaxAge"},
		{"Nats-Marker-Reason", "junk"},
		{"Status", "404"},
		{"Status", "503"},
		{"Status", "100"},
		{"Status", "409", "Description", "Consumer Deleted"},
		{"Nats-Sequence", "1"},
		{"Nats-Subject", "$KV.interop.other"},
		{"Nats-Time-Stamp", "never"},
		{"Nats-Stream", "KV_other"},
		{"Nats-Sequence", "x", "Nats-Sequence", "y"},
		{"Nats-Last-Consumer", "1", "Nats-Last-Stream", "1"},
		{"X", strings.Repeat("h", 60_000)},
		{"Nats-TTL", "never"},
		{"Nats-TTL", "1h"},
		{"KV-Expires", "5", "KV-Expires", "x"},
		{"Content-Type", "text/plain"},
		{"", "empty"},
		{"KV-Operation", ""},
	} {
		add(fmt.Sprint("junk", i), "junk value", header...)
		add(fmt.Sprint("empty", i), "", header...)
	}
	return msgs
}

// Foreign and damaged records are counted and skipped; they never stop a
// replica, nor the reading of a value that has to be loaded.
func TestInteropForeignRecords(t *testing.T) {
	for _, cacheBytes := range []int64{0, -1} {
		interop(t, nil, kvstore.Options{CacheBytes: cacheBytes}, func(b *both) {
			ctx := b.Context()
			msgs := foreignMessages()
			accepted := 0
			for _, m := range msgs {
				if _, err := b.js.PublishMsg(ctx, m); err == nil {
					accepted++
				}
			}
			if accepted < 60 {
				b.Fatalf("the server took %d of %d", accepted, len(msgs))
			}
			wantPut(b, b.store, "good", "value")
			checkForeign(b, b.store)
			again := opened(b, "interop", kvstore.Options{Conn: b.conn, CacheBytes: cacheBytes})
			defer closeStore(b, again)
			checkForeign(b, again)
			time.Sleep(time.Minute)
			if status := b.store.Status(); status.State != kvstore.Live || b.store.Stats().Resyncs != 1 {
				b.Errorf("%+v, %+v", status, b.store.Stats())
			}
		})
	}
}

func checkForeign(b *both, s *kvstore.Store) {
	b.Helper()
	if err := s.Sync(b.Context()); err != nil {
		b.Fatal(err)
	}
	wantText(b, s, "good", "value")
	stats := s.Stats()
	if stats.Foreign < 20 || stats.Damaged < 20 {
		b.Errorf("%d foreign, %d damaged", stats.Foreign, stats.Damaged)
	}
	for _, info := range keysOf(b, s, "") {
		e, err := s.Get(b.Context(), info.Name)
		if err != nil || e.Len() != info.Size {
			b.Errorf("%q of %d bytes: %d bytes, %v", info.Name, info.Size, e.Len(), err)
		}
		if strings.HasPrefix(info.Name, "junk") && e.Text() != "junk value" {
			b.Errorf("%q is %q", info.Name, e.Text())
		}
	}
}
