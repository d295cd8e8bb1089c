package kvstore

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// guest is the key-value client of nats.go, at work on the bucket of a lab.
type guest struct {
	*lab
	kv     jetstream.KeyValue
	events chan string
}

// invite returns a guest who watches the bucket.
func (l *lab) invite() *guest {
	l.t.Helper()
	kv, err := l.js.KeyValue(l.ctx, labNamespace)
	l.must(err)
	g := &guest{lab: l, kv: kv, events: make(chan string, 1000)}
	w, err := kv.WatchAll(l.ctx)
	l.must(err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range w.Updates() {
			switch {
			case e == nil: // the initial state has been told
			case e.Operation() == jetstream.KeyValuePut:
				g.events <- fmt.Sprintf("put %s=%s", e.Key(), e.Value())
			default:
				g.events <- "delete " + e.Key()
			}
		}
	}()
	l.cleanup = append(l.cleanup, func() {
		_ = w.Stop() // fails if the stream is gone
		<-done
	})
	synctest.Wait()
	return g
}

func (g *guest) heard() (all []string) {
	synctest.Wait()
	for len(g.events) > 0 {
		all = append(all, <-g.events)
	}
	return all
}

// guestStep is something that one of the two clients does.
type guestStep struct {
	name  string
	do    func() error
	want  error  // of do
	event string // that all are told of; "": none
	key   string
	value string // of the key afterwards; "": there is none
}

// play does the steps, and wants the Stores and the guest to agree after each.
func (g *guest) play(stores []*Store, steps []guestStep) {
	g.t.Helper()
	var listeners []*listener
	for _, s := range stores {
		listeners = append(listeners, g.listen(s, "", ChangesOnly()))
	}
	for _, step := range steps {
		if err := step.do(); !errors.Is(err, step.want) {
			g.t.Fatalf("%s: %v", step.name, err)
		}
		var want []string
		if step.event != "" {
			want = []string{step.event}
		}
		synctest.Wait()
		for i, s := range stores {
			g.wantHeard(listeners[i], want...)
			e, err := s.Get(g.ctx, step.key)
			if found := err == nil; found != (step.value != "") || e.Text() != step.value {
				g.t.Errorf("replica %d has %q, %v", i, e.Text(), err)
			}
		}
		if got := g.heard(); !slices.Equal(got, want) {
			g.t.Errorf("the guest is told %q, not %q", got, want)
		}
		e, err := g.kv.Get(g.ctx, step.key)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
			if step.value != "" {
				g.t.Error("the guest does not find the key")
			}
		case err != nil:
			g.t.Error(err)
		case string(e.Value()) != step.value:
			g.t.Errorf("the guest has %q", e.Value())
		}
		if g.t.Failed() {
			g.t.Fatalf("after %s", step.name)
		}
	}
}

// common are steps that every bucket can take.
func (g *guest) common(s *Store) []guestStep {
	var revision uint64
	put := func(key, value string, opts ...WriteOption) func() error {
		return func() error {
			r, err := s.Put(g.ctx, key, []byte(value), opts...)
			revision = uint64(r)
			return err
		}
	}
	guestPut := func(key, value string) func() error {
		return func() (err error) {
			revision, err = g.kv.PutString(g.ctx, key, value)
			return err
		}
	}
	return []guestStep{
		{"guest puts", guestPut("a", "1"), nil, "put a=1", "a", "1"},
		{"guest puts again", guestPut("a", "2"), nil, "put a=2", "a", "2"},
		{"guest creates what exists", func() error { _, err := g.kv.Create(g.ctx, "a", nil); return err }, jetstream.ErrKeyExists, "", "a", "2"},
		{"store wants it absent", put("a", "x", IfAbsent()), ErrConflict, "", "a", "2"},
		{"guest creates", func() error { _, err := g.kv.Create(g.ctx, "b.c", []byte("1")); return err }, nil, "put b.c=1", "b.c", "1"},
		{"guest deletes", func() error { return g.kv.Delete(g.ctx, "a") }, nil, "delete a", "a", ""},
		{"store wants it absent now", put("a", "3", IfAbsent()), nil, "put a=3", "a", "3"},
		{"guest updates what the store has written", func() (err error) {
			revision, err = g.kv.Update(g.ctx, "a", []byte("4"), revision)
			return err
		}, nil, "put a=4", "a", "4"},
		{"store updates what the guest has written", func() error {
			r, err := s.Put(g.ctx, "a", []byte("5"), IfRevision(Revision(revision)))
			revision = uint64(r)
			return err
		}, nil, "put a=5", "a", "5"},
		{"store updates an old revision", func() error {
			_, err := s.Put(g.ctx, "a", []byte("x"), IfRevision(Revision(revision-1)))
			return err
		}, ErrConflict, "", "a", "5"},
		{"store puts with metadata", put("m", "1", WithMetadata(map[string]int{"n": 1})), nil, "put m=1", "m", "1"},
		{"store deletes", func() error { return s.Delete(g.ctx, "a") }, nil, "delete a", "a", ""},
		{"guest creates what the store has deleted", func() error { _, err := g.kv.Create(g.ctx, "a", []byte("6")); return err }, nil, "put a=6", "a", "6"},
		{"store deletes if", func() error { return s.Delete(g.ctx, "b.c", IfRevision(1)) }, ErrConflict, "", "b.c", "1"},
		{"store deletes what does not exist", func() error { return s.Delete(g.ctx, "never") }, nil, "", "never", ""},
	}
}

// What one of the two clients writes the other reads, and both are told of it,
// in a namespace of ours and in the buckets that nats.go makes.
func TestTwoClients(t *testing.T) {
	buckets := []struct {
		name   string
		cfg    *jetstream.KeyValueConfig // nil: the Store creates it
		purges bool                      // it allows a purge of a key
		ttl    bool                      // it allows TTLs
	}{
		{"ours", nil, false, true},
		{"plain", &jetstream.KeyValueConfig{}, true, false},
		{"history", &jetstream.KeyValueConfig{History: 5}, true, false},
		{"markers", &jetstream.KeyValueConfig{LimitMarkerTTL: time.Minute}, true, true},
		{"age", &jetstream.KeyValueConfig{TTL: 24 * time.Hour}, true, false},
	}
	inBubble(t, func(b bubble) {
		for _, bucket := range buckets {
			b.lab(bucket.name, func(l *lab) {
				if bucket.cfg != nil {
					l.bucket(*bucket.cfg)
				}
				s, _ := l.open(Options{})
				evicted, _ := l.open(Options{CacheBytes: -1})
				g := l.invite()
				g.play([]*Store{s, evicted}, g.common(s))
				g.encoded(s)
				g.play([]*Store{s, evicted}, g.removals(s, bucket.purges))
				if bucket.ttl {
					g.mortal(s)
				} else {
					g.immortal(s)
				}
				want := []string{"a", "m", "user=3A.7"}
				if keys, err := g.kv.Keys(g.ctx); err != nil || !slices.Equal(slices.Sorted(slices.Values(keys)), want) {
					l.t.Errorf("the guest lists %q, %v", keys, err)
				}
				again, _ := l.open(Options{})
				for _, s := range []*Store{s, evicted, again} {
					var keys []string
					for _, info := range keysOf(l.t, s, "") {
						keys = append(keys, info.Name)
					}
					if !slices.Equal(keys, []string{"a", "m", "user:7"}) {
						l.t.Errorf("a replica lists %q", keys)
					}
					e, err := s.Get(l.ctx, "m")
					if err != nil || string(e.Metadata()) != `{"n":1}` || e.Modified().IsZero() {
						l.t.Errorf("the metadata is %s, modified at %v, %v", e.Metadata(), e.Modified(), err)
					}
				}
				for _, s := range []*Store{s, evicted} {
					if stats := s.Stats(); stats.Resyncs != 1 || stats.Foreign != 0 || stats.Damaged != 0 {
						l.t.Errorf("the statistics are %+v", stats)
					}
				}
			})
		}
	})
}

// encoded writes a key that is not its own subject, on both sides.
func (g *guest) encoded(s *Store) {
	g.t.Helper()
	g.put(s, "user:7", "1")
	if e := g.heard(); fmt.Sprint(e) != "[put user=3A.7=1]" {
		g.t.Errorf("the guest is told %q", e)
	}
	if _, err := g.kv.PutString(g.ctx, "user=3A.7", "2"); err != nil {
		g.t.Fatal(err)
	}
	g.heard()
	if e, err := s.Get(g.ctx, "user:7"); err != nil || e.Text() != "2" {
		g.t.Errorf("the key is %q, %v", e.Text(), err)
	}
}

// removals are deletions of what there is and is not.
func (g *guest) removals(s *Store, purges bool) []guestStep {
	purge := func() error { return g.kv.Purge(g.ctx, "b.c") }
	steps := []guestStep{
		{"guest purges", purge, nil, "delete b.c", "b.c", ""},
		{"store writes what was purged", func() error { _, err := s.Put(g.ctx, "b.c", []byte("2"), IfAbsent()); return err }, nil, "put b.c=2", "b.c", "2"},
		{"store deletes it", func() error { return s.Delete(g.ctx, "b.c") }, nil, "delete b.c", "b.c", ""},
	}
	if !purges {
		steps = []guestStep{
			{"guest purges in vain", func() error {
				if err := purge(); err == nil {
					return errors.New("a purge of a namespace of ours succeeds")
				}
				return nil
			}, nil, "", "b.c", "1"},
			{"store deletes it", func() error { return s.Delete(g.ctx, "b.c") }, nil, "delete b.c", "b.c", ""},
		}
	}
	return steps
}

// mortal writes keys that expire.
func (g *guest) mortal(s *Store) {
	g.t.Helper()
	li := g.listen(s, "", ChangesOnly())
	g.put(s, "t", "1", WithTTL(5*time.Second))
	if e, err := g.kv.Get(g.ctx, "t"); err != nil || string(e.Value()) != "1" {
		g.t.Errorf("the guest has %v, %v", e, err)
	}
	time.Sleep(5 * time.Second)
	g.wantHeard(li, "put t=1", "expire t")
	// The log keeps the record a little longer, and other clients see it.
	time.Sleep(10 * time.Second)
	if e, err := g.kv.Get(g.ctx, "t"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		g.t.Errorf("the guest has %v, %v", e, err)
	}
	_, err := g.kv.Create(g.ctx, "t", []byte("2"), jetstream.KeyTTL(10*time.Second))
	g.must(err)
	g.wantHeard(li, "put t=2")
	if e, err := s.Get(g.ctx, "t"); err != nil || time.Until(e.Expires()) < 9*time.Second || time.Until(e.Expires()) > 10*time.Second {
		g.t.Errorf("the key expires at %v, %v", e.Expires(), err)
	}
	time.Sleep(10 * time.Second)
	// In a bucket with markers the log says at the same moment that it is gone.
	if got := li.heard(); len(got) != 1 || got[0] != "expire t" && got[0] != "delete t" {
		g.t.Errorf("a watch yields %q", got)
	}
	time.Sleep(3 * time.Minute) // a marker comes and goes
	g.wantHeard(li)
	// What is written without a TTL over what had one stays.
	g.put(s, "t", "3", WithTTL(5*time.Second))
	g.wantHeard(li, "put t=3")
	_, err = g.kv.PutString(g.ctx, "t", "4")
	g.must(err)
	time.Sleep(time.Hour)
	g.wantHeard(li, "put t=4")
	g.must(s.Delete(g.ctx, "t"))
	g.wantHeard(li, "delete t")
	g.heard()
}

// immortal wants to write keys that expire, where that is not possible.
func (g *guest) immortal(s *Store) {
	g.t.Helper()
	last := g.stream().CachedInfo().State.LastSeq
	for _, opts := range [][]WriteOption{
		{WithTTL(time.Hour)}, {WithExpiry(time.Now().Add(time.Hour))}, {WithTTL(time.Hour), IfAbsent()},
	} {
		if _, err := s.Put(g.ctx, "t", nil, opts...); !errors.Is(err, ErrUnsupported) || errors.Is(err, ErrUnavailable) {
			g.t.Errorf("a Put with a TTL: %v", err)
		}
	}
	if now := g.stream().CachedInfo().State.LastSeq; now != last {
		g.t.Errorf("the log went from %d to %d", last, now)
	}
}

// A bucket whose records all expire: a Store knows when without being told.
func TestInteropMaxAge(t *testing.T) {
	inLab(t, func(l *lab) {
		l.bucket(jetstream.KeyValueConfig{TTL: time.Minute})
		s, _ := l.open(Options{})
		li := l.listen(s, "")
		l.foreign("a", "1")
		time.Sleep(30 * time.Second)
		l.put(s, "b", "1")
		l.wantHeard(li, "put a=1", "put b=1")
		e, err := s.Get(l.ctx, "b")
		l.must(err)
		if left := time.Until(e.Expires()); left < 59*time.Second || left > time.Minute {
			l.t.Errorf("the key expires in %v", left)
		}
		time.Sleep(30 * time.Second)
		l.wantHeard(li, "expire a")
		time.Sleep(30 * time.Second)
		l.wantHeard(li, "expire b")
		if page, err := s.List(ListOptions{}); err != nil || len(page.Keys) != 0 {
			l.t.Errorf("the keys are %+v, %v", page.Keys, err)
		}
	})
}

// A rollup header wipes a bucket that nats.go has made. That is noticed.
func TestInteropRollup(t *testing.T) {
	inLab(t, func(l *lab) {
		l.bucket(jetstream.KeyValueConfig{})
		s, _ := l.open(Options{})
		o := l.look(s, false, l.keys(s, 20)...)
		stats := s.Stats()
		m := &nats.Msg{Subject: "$KV." + labNamespace + ".key3", Header: nats.Header{"Nats-Rollup": {"all"}}}
		_, err := l.js.PublishMsg(l.ctx, m)
		l.must(err)
		time.Sleep(noticeTime)
		l.noticed(s, stats)
		l.agree(s, o)
	})
}

// What somebody can store who writes to the log with anything.
type crafted struct {
	tail   string // of the subject; "": a key of its own
	header string // block, as it is sent
	data   string
	fate   fate
}

// fate is what a Store makes of it.
type fate string

const (
	isValue   fate = "a value" // the payload
	isNothing fate = "nothing" // no key, or no more
	isDamaged fate = "damaged"
	isForeign fate = "foreign"
)

// head makes a block of headers of lines.
func head(lines ...string) string { return "NATS/1.0\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n" }

var craftedMessages = []crafted{
	{"", "NATS/1.0\r\n\r\n", "v", isValue},
	{"", head("X: junk"), "v", isValue},
	{"", head("X: junk", "X: junk", "x: junk"), "v", isValue},
	{"", head("X: junk"), "", isValue},
	// Operations.
	{"", head("KV-Operation: PUT"), "v", isValue},
	{"", head("KV-Operation: DEL"), "v", isNothing},
	{"", head("KV-Operation: PURGE"), "v", isNothing},
	{"", head("KV-Operation:DEL"), "v", isNothing},
	{"", head("KV-Operation: FROB"), "v", isDamaged},
	{"", head("KV-Operation: del"), "v", isDamaged},
	{"", head("KV-Operation: "), "v", isValue},
	{"", head("kv-operation: DEL"), "v", isValue},
	{"", head("KV-Operation: DEL", "KV-Operation: PUT"), "v", isValue},
	{"", head("KV-Operation: PUT", "KV-Operation: DEL"), "v", isNothing},
	{"", head("Nats-Marker-Reason: MaxAge"), "v", isNothing},
	// Times.
	{"", head("KV-Expires: 0"), "v", isDamaged},
	{"", head("KV-Expires: -5"), "v", isDamaged},
	{"", head("KV-Expires: soon"), "v", isDamaged},
	{"", head("KV-Expires: 1e3"), "v", isDamaged},
	{"", head("KV-Expires: 99999999999999999999999"), "v", isDamaged},
	{"", head("KV-Expires: 9223372036854775807"), "v", isValue},
	{"", head("KV-Expires: 1"), "v", isNothing},
	{"", head("KV-Expires: "), "v", isValue},
	{"", head("KV-Expires: 1", "KV-Expires: 9223372036854775807"), "v", isValue},
	{"", head("KV-Hides: x"), "v", isDamaged},
	{"", head("KV-Hides: 1"), "v", isValue},
	{"", head("KV-Hides: -9223372036854775808"), "v", isDamaged},
	{"", head("Nats-TTL: never"), "v", isValue},
	{"", head("Nats-TTL: 100000"), "v", isValue},
	{"", head("Nats-TTL: 1.9s"), "v", isNothing},
	{"", head("Nats-TTL: 1s", "KV-Expires: 9223372036854775807"), "v", isNothing},
	{"", head("KV-Operation: DEL", "Nats-TTL: 1s", "KV-Hides: 9223372036854775807"), "v", isNothing},
	// Metadata.
	{"", head("KV-Metadata: {"), "v", isDamaged},
	{"", head("KV-Metadata: null"), "v", isValue},
	{"", head(`KV-Metadata: {"a" : [1, 2]}`), "v", isValue},
	{"", head("KV-Metadata: " + strings.Repeat("[", 500) + strings.Repeat("]", 500)), "v", isValue},
	{"", head("KV-Metadata: " + strings.Repeat("[", 30_000)), "v", isDamaged},
	{"", head(`KV-Metadata: "` + strings.Repeat("x", 1023) + `"`), "v", isDamaged},
	{"", head("KV-Metadata: \"\xff\""), "v", isDamaged},
	{"", head("KV-Object: somewhere"), "v", isDamaged},
	{"", head("KV-Object: "), "v", isValue},
	{"", head("KV-Write: " + strings.Repeat("w", 10_000)), "v", isValue},
	// Headers of the server's own answers.
	{"", head("Nats-Sequence: 999", "Nats-Subject: $KV.lab.other", "Nats-Stream: other", "Nats-Time-Stamp: x"), "v", isValue},
	{"", head("Nats-Sequence: 1", "Nats-Sequence: 2", "Nats-Time-Stamp: 2001-01-01T00:00:00Z"), "v", isValue},
	{"", head("Nats-Num-Pending: 0", "Nats-UpTo-Sequence: 1"), "v", isValue},
	{"", head("Reply: $JS.ACK.KV_lab.c.1.7.3.1700000000123456789.4"), "v", isValue},
	{"", head("Status: 503"), "", isValue},
	{"", head("Status: 404", "Description: Message Not Found"), "", isValue},
	{"", head("Status: 409", "Description: Server Shutdown"), "v", isValue},
	{"", "NATS/1.0 503\r\n\r\n", "", isValue},
	{"", "NATS/1.0 503 No Responders\r\nStatus: 503\r\n\r\n", "", isValue},
	{"", "NATS/1.0 404 Message Not Found\r\n\r\n", "v", isValue},
	{"", "NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 1000000\r\n\r\n", "", isValue},
	{"", "NATS/1.0 409 Consumer Deleted\r\n\r\n", "", isValue},
	{"", "NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 9\r\nNats-Last-Stream: 1\r\n\r\n", "", isValue},
	// Headers that do not parse. The server may obey some of them: it is damaged.
	{"", "garbage\r\n\r\n", "v", isDamaged},
	{"", "\r\n\r\n", "v", isDamaged},
	{"", "NATS/1.0\r\nKV-Operation DEL\r\n\r\n", "v", isDamaged},
	{"", "NATS/1.0\r\nKV-Operation: DEL\r\n", "v", isDamaged},
	{"", "NATS/1.0\r\nKV-Operation: DEL\r\nX: y\r\n", "v", isDamaged},
	{"", "NATS/1.0\nKV-Operation: DEL\n\n", "v", isNothing},
	{"", "NATS/1.0\r\n: DEL\r\n\r\n", "v", isValue},
	{"", "NATS/1.0\r\n KV-Operation: DEL\r\n\r\n", "v", isValue},
	{"", "NATS/2.0\r\nKV-Operation: DEL\r\n\r\n", "v", isDamaged},
	{"", head("\xff\xfe: \xff"), "v", isValue},
	{"", head("X: a\x00b", "\x00: c"), "v", isValue},
	{"", head("X: " + strings.Repeat("x", 65_000)), "v", isValue},
	{"", head(slices.Repeat([]string{"A: b"}, 10_000)...), "v", isValue},
	// Payloads.
	{"", head("X: y"), "\x00\xff\r\n+ACK", isValue},
	{"", head("X: y"), `{"error":{"code":404,"err_code":10059}}`, isValue},
	{"", head("X: y"), strings.Repeat("x", 1<<20), isValue},
	// Subjects.
	{"=", head("X: y"), "v", isForeign},
	{"=2E", head("X: y"), "v", isForeign},
	{"=2E=2E", head("X: y"), "v", isForeign},
	{"a=2Eb", head("X: y"), "v", isForeign},
	{"a=2e", head("X: y"), "v", isForeign},
	{"=61", head("X: y"), "v", isForeign},
	{"=3Ax", head("X: y"), "v", isForeign},
	{"=zz", head("X: y"), "v", isForeign},
	{"a=6", head("X: y"), "v", isForeign},
	{"=C3=28", head("X: y"), "v", isForeign},
	{"a*", head("X: y"), "v", isForeign},
	{"*", head("X: y"), "v", isForeign},
	{">", head("X: y"), "v", isForeign},
	{"a.>", head("X: y"), "v", isForeign},
	{"a%2Fb", head("X: y"), "v", isForeign},
	{"ü", head("X: y"), "v", isForeign},
	{"\xff", head("X: y"), "v", isForeign},
	{"a\x00b", head("X: y"), "v", isForeign},
	{strings.Repeat("x", 513), head("X: y"), "v", isForeign},
	{strings.Repeat("=3A.", 700) + "x", head("X: y"), "v", isForeign},
	{strings.Repeat("a.", 1000) + "a", head("KV-Expires: x"), "v", isForeign},
}

// Whatever is in a log, it stops no replica and takes it out of step with none.
func TestForeignRecords(t *testing.T) {
	if n := len(craftedMessages); n < 60 {
		t.Fatalf("only %d messages", n)
	}
	inLab(t, func(l *lab) {
		writer, _ := l.open(Options{})
		s, w := l.open(Options{})
		evicted, w2 := l.open(Options{CacheBytes: -1})
		raw := l.dialRaw()
		defer raw.close()
		want := make(map[string]seen)
		counts := make(map[fate]int)
		for i, m := range craftedMessages {
			key := m.tail
			if key == "" {
				key = fmt.Sprint("key", i)
			}
			counts[m.fate]++
			revision := raw.publish("$KV."+labNamespace+"."+key, m.header, m.data)
			if m.fate == isValue {
				want[key] = seen{revision, m.data}
			}
			synctest.Wait()
			// It is what the log is recognised by, after this.
			w.cut()
			w2.cut()
			want["good"] = seen{l.put(writer, "good", fmt.Sprint(i)), fmt.Sprint(i)}
			time.Sleep(5 * time.Second)
			for _, s := range []*Store{s, evicted} {
				if e, err := s.Get(l.ctx, "good"); err != nil || e.Text() != fmt.Sprint(i) {
					l.t.Fatalf("after %d, %.100q %.100q: %q, %v, %+v", i, key, m.header, e.Text(), err, s.Status())
				}
			}
		}
		// What the server does not store at all.
		raw.send("PUB $KV.lab.a..b " + rawInbox + " 1\r\nv\r\nPUB $KV.lab. " + rawInbox + " 1\r\nv\r\n")
		time.Sleep(5 * time.Second)
		again, _ := l.open(Options{CacheBytes: 1000})
		for i, s := range []*Store{s, evicted, again, writer} {
			if diff := difference(l.content(s), want); diff != "" {
				l.t.Errorf("replica %d:%s", i, diff)
			}
			stats := s.Stats()
			if stats.Resyncs != 1 || stats.Foreign != counts[isForeign] || int(stats.Damaged) != counts[isDamaged] {
				l.t.Errorf("replica %d: %+v, and %v were crafted", i, stats, counts)
			}
			if status := s.Status(); status.State != Live {
				l.t.Errorf("replica %d: %+v", i, status)
			}
		}
		// They can be written over as any other.
		for i, m := range craftedMessages {
			if m.tail == "" && m.fate != isNothing {
				l.put(s, fmt.Sprint("key", i), "mended")
			}
		}
		time.Sleep(5 * time.Second)
		if e, err := evicted.Get(l.ctx, "key8"); err != nil || e.Text() != "mended" {
			l.t.Errorf("a damaged key that was written again is %q, %v", e.Text(), err)
		}
	})
}

// rawClient speaks the protocol of NATS itself: it can send what no library
// would.
type rawClient struct {
	lab  *lab
	conn net.Conn
	acks chan string // closed with the connection
}

const rawInbox = "_RAW.inbox"

func (l *lab) dialRaw() *rawClient {
	l.t.Helper()
	conn, err := l.server.InProcessConn()
	l.must(err)
	c := &rawClient{lab: l, conn: conn, acks: make(chan string, 16)}
	in := bufio.NewReader(conn)
	_, err = in.ReadString('\n') // INFO
	l.must(err)
	go c.read(in)
	c.send(`CONNECT {"verbose":false,"headers":true,"no_responders":true,"protocol":1}` + "\r\nSUB " + rawInbox + " 1\r\n")
	return c
}

func (c *rawClient) send(text string) {
	c.lab.t.Helper()
	_, err := io.WriteString(c.conn, text)
	c.lab.must(err)
}

// read handles what the server sends. It ends with the connection.
func (c *rawClient) read(in *bufio.Reader) {
	defer close(c.acks)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		fields := strings.Fields(line)
		switch {
		case fields[0] == "PING":
			_, _ = io.WriteString(c.conn, "PONG\r\n") // an error is that of the next read, too
		case strings.HasSuffix(fields[0], "MSG"):
			var size int
			if _, err := fmt.Sscan(fields[len(fields)-1], &size); err != nil {
				return
			}
			payload := make([]byte, size+2)
			if _, err := io.ReadFull(in, payload); err != nil {
				return
			}
			c.acks <- string(payload[:size])
		}
	}
}

// publish stores a message and returns its revision.
func (c *rawClient) publish(subject, header, data string) Revision {
	c.lab.t.Helper()
	c.send(fmt.Sprintf("HPUB %s %s %d %d\r\n%s%s\r\n", subject, rawInbox, len(header), len(header)+len(data), header, data))
	var ack struct {
		Seq   Revision
		Error any
	}
	text := <-c.acks
	if err := json.Unmarshal([]byte(text), &ack); err != nil || ack.Seq == 0 {
		c.lab.t.Fatalf("%.100q %.100q is not stored: %s", subject, header, text)
	}
	return ack.Seq
}

func (c *rawClient) close() {
	_ = c.conn.Close() // nothing of it is needed any more
	for range c.acks {
	}
}

// A key that expires in thousands of years, more than a time.Duration holds,
// keeps nobody busy until then: if it did, the clock of the bubble would stand
// still and this test would not end.
func TestFarExpiry(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{CheckInterval: time.Hour})
		for _, expires := range []time.Time{time.Now().AddDate(293, 0, 0), time.Now().AddDate(600, 0, 0), latestExpiry} {
			l.put(s, "k", "v", WithExpiry(expires))
			time.Sleep(2 * time.Hour)
			if e, err := s.Get(l.ctx, "k"); err != nil || e.Text() != "v" || !e.Expires().Equal(expires.Truncate(time.Millisecond)) {
				l.t.Errorf("the key is %q until %v, %v", e.Text(), e.Expires(), err)
			}
		}
	})
}
