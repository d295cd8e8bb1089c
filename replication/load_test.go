package replication

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/replication/embedded"
)

// eachWay runs a test on a bucket that answers direct gets, and on one that
// does not.
func eachWay(t *testing.T, test func(t *testing.T, l *Log, server *embedded.Server)) {
	for _, direct := range []bool{true, false} {
		name := map[bool]string{true: "direct", false: "leader"}[direct]
		t.Run(name, func(t *testing.T) {
			server := startServer(t, embedded.Options{})
			nc := connect(t, server)
			cfg := bucketConfig("test")
			cfg.AllowDirect, cfg.AllowMsgTTL = direct, true
			if _, err := newJetStream(t, nc).CreateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			test(t, openLog(t, nc, "test", Config{}), server)
		})
	}
}

func TestLoad(t *testing.T) {
	eachWay(t, func(t *testing.T, l *Log, _ *embedded.Server) {
		expires := time.Now().Add(time.Hour).UnixMilli()
		records := []struct {
			key string
			rec codec.Record
		}{
			{"plain", codec.Record{Value: []byte("value")}},
			{"empty", codec.Record{Value: []byte{}}},
			{"user:1", codec.Record{Value: []byte("v"), Metadata: []byte(`{"a":"é\n"}`)}},
			{"\x00\xf0\x9f\x98\x80", codec.Record{Value: []byte{0, 255}, Expires: expires, Hides: expires + 1, TTL: 2 * time.Hour, Write: "id"}},
			{"gone", codec.Record{Op: codec.OpDelete}},
			{"large", codec.Record{Value: bytes.Repeat([]byte("x"), 1<<20), Metadata: []byte(`0`)}},
		}
		for _, r := range records {
			before := time.Now()
			revision, err := l.Append(t.Context(), r.key, r.rec, Expectation{})
			if err != nil {
				t.Fatal(err)
			}
			after := time.Now()
			loaded, err := l.Load(t.Context(), revision)
			if err != nil {
				t.Fatalf("%q: %v", r.key, err)
			}
			last, err := l.Last(t.Context(), r.key)
			if err != nil {
				t.Fatalf("%q: %v", r.key, err)
			}
			if loaded.Stored.Before(before) || loaded.Stored.After(after) {
				t.Errorf("%q was stored at %v, not from %v to %v", r.key, loaded.Stored, before, after)
			}
			if !loaded.Stored.Equal(last.Stored) {
				t.Errorf("%q was stored at %v, and at %v", r.key, loaded.Stored, last.Stored)
			}
			want := l.Written(r.key, revision, loaded.Stored, r.rec)
			want.Subject = l.prefix + codec.Subject(r.key)
			last.Stored = loaded.Stored // but for the time zone
			for _, got := range []Message{loaded, last} {
				if got.Record.Value == nil {
					got.Record.Value = want.Record.Value[:0] // no difference is made
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("%q is %+v, not %+v", r.key, got, want)
				}
			}
		}
	})
}

func TestLoadNoRecord(t *testing.T) {
	eachWay(t, func(t *testing.T, l *Log, server *embedded.Server) {
		first := put(t, l, "key", "old")
		put(t, l, "key", "new")
		for _, revision := range []uint64{first, 3, 1 << 60} {
			if m, err := l.Load(t.Context(), revision); !errors.Is(err, ErrNoRecord) {
				t.Errorf("revision %d is %+v, %v", revision, m, err)
			}
		}
		if m, err := l.Last(t.Context(), "none"); !errors.Is(err, ErrNoRecord) {
			t.Errorf("no key is %+v, %v", m, err)
		}
		if err := newJetStream(t, connect(t, server)).DeleteStream(t.Context(), "KV_test"); err != nil {
			t.Fatal(err)
		}
		if m, err := l.Load(t.Context(), 2); !errors.Is(err, ErrUnavailable) {
			t.Errorf("without a stream the record is %+v, %v", m, err)
		}
		if m, err := l.Last(t.Context(), "key"); !errors.Is(err, ErrNoStream) {
			t.Errorf("without a stream the record is %+v, %v", m, err)
		}
	})
}

// hostile are messages that somebody stores who can use no library of ours:
// the part behind the subject of a PUB or HPUB.
var hostile = []struct {
	name   string
	header string // block, as it is sent
	data   string
	damage bool   // not a record of ours
	value  string // that it has for a reader
}{
	{"plain", "NATS/1.0\r\n\r\n", "v", false, "v"},
	{"spoofed sequence", "NATS/1.0\r\nNats-Sequence: 999\r\nNats-Subject: $KV.test.other\r\nNats-Stream: x\r\nNats-Time-Stamp: 2001-01-01T00:00:00Z\r\n\r\n", "v", false, "v"},
	{"spoofed sequence, twice", "NATS/1.0\r\nNats-Sequence: 999\r\nNats-Sequence: x\r\nNats-Time-Stamp: no time\r\n\r\n", "v", false, "v"},
	{"status 404", "NATS/1.0 404 Message Not Found\r\n\r\n", "v", false, "v"},
	{"status 503 and a value", "NATS/1.0 503\r\n\r\n", "v", false, "v"},
	{"status 503 and no value", "NATS/1.0 503\r\n\r\n", "", false, ""},
	{"status 503 as a header", "NATS/1.0\r\nStatus: 503\r\n\r\n", "", false, ""},
	{"status 408", "NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 1\r\n\r\n", "", false, ""},
	{"status 100", "NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 9\r\n\r\n", "", false, ""},
	{"no header line", "garbage\r\n\r\n", "v", true, ""},
	{"a header without a colon", "NATS/1.0\r\nKV-Operation DEL\r\n\r\n", "v", true, ""},
	{"an unknown operation", "NATS/1.0\r\nKV-Operation: FROB\r\n\r\n", "v", true, ""},
	{"a near limit header", "NATS/1.0\r\nX: " + strings.Repeat("x", 65000) + "\r\n\r\n", "v", false, "v"},
}

// store stores a message as it is, whatever it is, and returns its sequence.
func store(t *testing.T, server nats.InProcessConnProvider, subject, header, data string) uint64 {
	t.Helper()
	c := dialRaw(t, server)
	defer c.close()
	return c.publish(t, subject, header, data)
}

func TestLoadHostile(t *testing.T) {
	eachWay(t, func(t *testing.T, l *Log, server *embedded.Server) {
		for _, h := range hostile {
			revision := store(t, server, "$KV.test.key", h.header, h.data)
			for range 2 {
				m, err := l.Load(t.Context(), revision)
				if err != nil {
					t.Errorf("%s: %v", h.name, err)
					continue
				}
				if m.Key != "key" || m.Revision != revision || string(m.Record.Value) != h.value || (m.Err != nil) != h.damage {
					t.Errorf("%s: %+v", h.name, m)
				}
				if time.Since(m.Stored) > time.Hour {
					t.Errorf("%s: stored at %v", h.name, m.Stored)
				}
			}
			if m, err := l.Last(t.Context(), "key"); err != nil || m.Revision != revision {
				t.Errorf("%s: the last is %+v, %v", h.name, m, err)
			}
		}
	})
}

// Not even a subject has to be that of a key.
func TestLoadForeign(t *testing.T) {
	eachWay(t, func(t *testing.T, l *Log, server *embedded.Server) {
		js := newJetStream(t, connect(t, server))
		for _, tail := range []string{"=", "=2E", "a=2Eb", "=3A", "a*", "*", ">", "a.>", "\xff", "ü", "=zz", strings.Repeat("x", 513)} {
			ack, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "$KV.test." + tail}, jetstream.WithRetryAttempts(0))
			if err != nil {
				t.Fatalf("%q: %v", tail, err)
			}
			m, err := l.Load(t.Context(), ack.Sequence)
			if err != nil {
				t.Errorf("%q: %v", tail, err)
				continue
			}
			_, err = codec.Key(tail)
			if m.Foreign() != (err != nil) || (m.Err != nil) != (err != nil) {
				t.Errorf("%q is %+v", tail, m)
			}
		}
	})
}
