package kvstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
)

func wantState(t *testing.T, s *kvstore.Store, state kvstore.State, since time.Time) kvstore.Status {
	t.Helper()
	status := s.Status()
	if status.State != state || (status.Reason == "") != (state == kvstore.Live || state == kvstore.Closed) {
		t.Fatalf("status is %v, %q; want %v", status.State, status.Reason, state)
	}
	if !status.Since.Equal(since) {
		t.Errorf("%v since %v, want %v", state, status.Since, since)
	}
	return status
}

func wantSync(t *testing.T, s *kvstore.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Sync(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestStatus(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		const interval = 5 * time.Second
		server := kvstoretest.NewServer(t, "")
		begin := time.Now()
		opts := kvstore.Options{Conn: server.Conn(t), Memory: true, CheckInterval: interval}
		s := opened(t, "status", opts)
		opts.Conn = server.Conn(t)
		other := opened(t, "status", opts)

		status := wantState(t, s, kvstore.Live, begin)
		if status.Applied != 0 || status.Head != 0 || status.Lag() != 0 || status.Log == "" || status.Log != other.Status().Log {
			t.Errorf("status of an empty log is %+v, of another replica %+v", status, other.Status())
		}
		revision := wantPut(t, other, "key", "value")
		wantSync(t, s)
		if status := s.Status(); status.Applied != revision || status.Head != revision || status.Lag() != 0 {
			t.Errorf("status after revision %d is %+v", revision, status)
		}
		for range 20 {
			time.Sleep(interval / 3)
			if age := time.Since(s.Status().Fresh); age > interval {
				t.Errorf("what is shown is %v old", age)
			}
		}
		time.Sleep(time.Second)
		before := time.Now()
		wantSync(t, s)
		if fresh := s.Status().Fresh; fresh.Before(before) {
			t.Errorf("fresh is %v after a Sync at %v", fresh, before)
		}

		server.SetDown(true)
		synctest.Wait()
		down := time.Now()
		time.Sleep(time.Hour)
		status = wantState(t, s, kvstore.Stale, down)
		if status.Fresh.After(down) || status.Applied != revision || status.Head != revision {
			t.Errorf("status of a replica that was cut off at %v is %+v", down, status)
		}
		server.SetDown(false)
		wantSync(t, s) // which waits for the connection
		wantState(t, s, kvstore.Live, time.Now())

		wantSync(t, other)
		gone := time.Now()
		if err := streamsOf(t, server.Conn(t)).DeleteStream(t.Context(), "KV_status"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		if status := s.Status(); status.State != kvstore.Degraded || status.Reason == "" || status.Since.Sub(gone) > 3*interval {
			t.Errorf("status is %+v, 10 minutes after the log was deleted", status)
		}
		wantText(t, s, "key", "value")
		closed := time.Now()
		closeStore(t, s)
		wantState(t, s, kvstore.Closed, closed)
	})
}

func TestLag(t *testing.T) {
	for _, tc := range []struct{ applied, head, want kvstore.Revision }{{0, 0, 0}, {3, 3, 0}, {3, 5, 2}, {5, 3, 0}} {
		if lag := (kvstore.Status{Applied: tc.applied, Head: tc.head}).Lag(); lag != uint64(tc.want) {
			t.Errorf("%d of %d applied: the lag is %d", tc.applied, tc.head, lag)
		}
	}
}

// Each step changes the counters that it names, and no other.
func TestStats(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		ctx, server := t.Context(), kvstoretest.NewServer(t, "")
		canceled, cancel := context.WithCancel(ctx)
		cancel()
		client := server.Conn(t)
		s := opened(t, "stats", kvstore.Options{Conn: server.Conn(t), Memory: true, CacheBytes: 1000, CheckInterval: time.Minute})
		publish := func(subject, header string) {
			m := &nats.Msg{Subject: "$KV.stats." + subject, Header: nats.Header{}}
			if header != "" {
				m.Header.Set("KV-Operation", header)
			}
			if _, err := streamsOf(t, client).PublishMsg(ctx, m); err != nil {
				t.Fatal(err)
			}
		}
		want := kvstore.Stats{Resyncs: 1}
		for _, step := range []struct {
			name   string
			do     func() error
			change func()
		}{
			{"nothing", func() error { return nil }, func() {}},
			{"Put", func() error { _, err := s.Put(ctx, "a", []byte("1234")); return err }, func() {
				want.Keys, want.Writes, want.CacheBytes = 1, 1, 4
			}},
			{"Put with a TTL", func() error { _, err := s.Put(ctx, "b", []byte("56"), kvstore.WithTTL(time.Minute)); return err }, func() {
				want.Keys, want.Writes, want.CacheBytes = 2, 2, 6
			}},
			{"Put over it", func() error { _, err := s.Put(ctx, "a", []byte("789")); return err }, func() {
				want.Writes, want.CacheBytes = 3, 5
			}},
			{"Put of another client", func() error { publish("c", ""); return nil }, func() { want.Keys = 3 }},
			{"Delete", func() error { return s.Delete(ctx, "a") }, func() {
				want.Keys, want.Tombstones, want.Writes, want.CacheBytes = 2, 1, 4, 2
			}},
			{"expiry", func() error { time.Sleep(time.Minute); return nil }, func() {
				want.Keys, want.Tombstones, want.CacheBytes = 1, 2, 0
			}},
			{"removal by the server", func() error { time.Sleep(time.Minute); return nil }, func() { want.Tombstones = 1 }},
			{"conflict", func() error { _, err := s.Put(ctx, "c", nil, kvstore.IfAbsent()); return not(err, kvstore.ErrConflict) }, func() {
				want.Writes, want.Failed, want.Conflicts = 5, 1, 1
			}},
			{"canceled", func() error { _, err := s.Put(canceled, "c", nil); return not(err, kvstore.ErrUnavailable) }, func() {
				want.Writes, want.Failed = 6, 2
			}},
			{"bad input", func() error { _, err := s.Put(ctx, "", nil); return not(err, kvstore.ErrInvalidKey) }, func() {}},
			{"bad key", func() error { _, err := s.Get(ctx, ""); return not(err, kvstore.ErrInvalidKey) }, func() {}},
			{"absent", func() error { _, err := s.Get(ctx, "x"); return not(err, kvstore.ErrNotFound) }, func() { want.Absent = 1 }},
			{"deleted", func() error { _, err := s.Get(ctx, "a"); return not(err, kvstore.ErrNotFound) }, func() { want.Absent = 2 }},
			{"GetAll", func() error { _, err := s.GetAll(ctx, []string{"x", "b"}); return err }, func() { want.Absent = 4 }},
			{"too large for memory", func() error { _, err := s.Put(ctx, "d", make([]byte, 1001)); return err }, func() {
				want.Keys, want.Writes, want.Dropped = 2, 7, 1
			}},
			{"miss", func() error { _, err := s.Get(ctx, "d"); return err }, func() {
				want.Misses, want.Loads, want.Dropped = 1, 1, 2
			}},
			{"foreign", func() error { publish("a=b", ""); return nil }, func() { want.Foreign = 1 }},
			{"the same again", func() error { publish("a=b", ""); return nil }, func() {}},
			{"another", func() error { publish("=2e", ""); return nil }, func() { want.Foreign = 2 }},
			{"damaged", func() error { publish("d", "NONSENSE"); return nil }, func() {
				want.Keys, want.Tombstones, want.Damaged = 1, 2, 1
			}},
			{"mended", func() error { _, err := s.Put(ctx, "d", []byte("1")); return err }, func() {
				want.Keys, want.Tombstones, want.Writes, want.CacheBytes = 2, 1, 8, 1
			}},
			{"disconnected", func() error { server.Cut(); time.Sleep(time.Minute); return nil }, func() {}},
		} {
			if err := step.do(); err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
			wantSync(t, s)
			synctest.Wait()
			step.change()
			if got := s.Stats(); got != want {
				t.Errorf("after %s:\n     %+v\nwant %+v", step.name, got, want)
				want = got
			}
		}
		for range 5000 { // one in 16 is counted, as 16
			wantText(t, s, "d", "1")
		}
		if got := s.Stats(); got.Hits == 0 || got.Misses != want.Misses {
			t.Errorf("after hits: %+v", got)
		}
	})
}

// not is nil if err is what it has to be.
func not(err, want error) error {
	if errors.Is(err, want) {
		return nil
	}
	return fmt.Errorf("the error is %w, must be %w", err, want)
}

// Everything about an entry is the same after a Dir was closed and opened again.
// TestModified looks at Modified.
func TestReopen(t *testing.T) {
	opts := kvstore.Options{Dir: t.TempDir()}
	s := opened(t, "reopen", opts)
	wantPut(t, s, "deleted", "value")
	wantPut(t, s, "a", "value")
	expires := time.Date(2999, 1, 1, 0, 0, 0, 123_000_000, time.UTC)
	entries := []struct {
		key, value, metadata string
		expires              time.Time
	}{
		{"a", "newer", "", time.Time{}},
		{"empty", "", "{\"<\":\"ü\u2028\"}", time.Time{}},
		{"bytes\x00\U0001f389:", "\x00\xff\r\n", "", expires},
		{"large", strings.Repeat("large", 100_000), "0", expires.Add(time.Millisecond)},
	}
	for _, e := range entries {
		var o []kvstore.WriteOption
		if e.metadata != "" {
			o = append(o, kvstore.WithMetadata(json.RawMessage(e.metadata)))
		}
		if !e.expires.IsZero() {
			o = append(o, kvstore.WithExpiry(e.expires))
		}
		wantPut(t, s, e.key, e.value, o...)
	}
	if err := s.Delete(t.Context(), "deleted"); err != nil {
		t.Fatal(err)
	}
	log := s.Status().Log
	for range 3 {
		for i, want := range entries {
			e := wantText(t, s, want.key, want.value)
			if string(e.Metadata()) != want.metadata || !e.Expires().Equal(want.expires) || e.Revision() != kvstore.Revision(3+i) {
				t.Errorf("%q: metadata %s, expires %v, revision %d; want %+v", want.key, e.Metadata(), e.Expires(), e.Revision(), want)
			}
		}
		if status := s.Status(); s.Stats().Keys != len(entries) || status.Head != 7 || status.Log != log {
			t.Errorf("%d keys, status %+v", s.Stats().Keys, status)
		}
		closeStore(t, s)
		s = opened(t, "reopen", opts)
	}
	if revision := wantPut(t, s, "next", ""); revision != 8 {
		t.Errorf("the eighth write has revision %d", revision)
	}
}

// When the log has told of a write, Modified is the log's time, whichever comes
// first: the acknowledgement or the feed.
func TestModified(t *testing.T) {
	opts := kvstore.Options{Dir: t.TempDir()}
	s := opened(t, "modified", opts)
	modified := make(map[string]time.Time)
	for i := range 500 {
		wantPut(t, s, fmt.Sprint(i), "value")
	}
	wantSync(t, s)
	for _, info := range keysOf(t, s, "") {
		modified[info.Name] = wantText(t, s, info.Name, "value").Modified()
	}
	closeStore(t, s)
	s = opened(t, "modified", opts)
	wrong := 0
	for key, was := range modified {
		if is := wantText(t, s, key, "value").Modified(); !is.Equal(was) {
			wrong++
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d entries were not modified when the log says", wrong, len(modified))
	}
}

// Stores with different options in one process know nothing of each other, also
// with the same namespace and keys.
func TestManyStores(t *testing.T) {
	stores := make(map[string]*kvstore.Store)
	for name, place := range places {
		opts := place(t)
		opts.CacheBytes = int64(len(stores)) - 1 // none, the default, and very little
		stores[name] = opened(t, "many", opts)
	}
	stores["default again"] = opened(t, "many", kvstore.Options{})
	check := func() {
		t.Helper()
		for name, s := range stores {
			wantSync(t, s)
			wantText(t, s, "key", name)
			wantText(t, s, "key of "+name, "")
			if n := s.Stats().Keys; n != 2 {
				t.Errorf("%s has %d keys", name, n)
			}
		}
	}
	for name, s := range stores {
		wantPut(t, s, "key", name)
		wantPut(t, s, "key of "+name, "")
	}
	check()
	for _, name := range []string{"Dir", "default", "URL"} {
		closeStore(t, stores[name])
		delete(stores, name)
		check()
	}
}

// Namespaces on one connection, and on one server, are apart. Close takes what
// belongs to its Store and leaves the rest: the connection and the other Stores.
func TestSharedConn(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		server := kvstoretest.NewServer(t, "")
		conn, client := server.Conn(t), server.Conn(t)
		if _, err := streamsOf(t, conn).AccountInfo(t.Context()); err != nil { // nats.go subscribes once for all requests
			t.Fatal(err)
		}
		subscriptions := conn.NumSubscriptions()
		a := opened(t, "a", kvstore.Options{Conn: conn, Memory: true})
		one := conn.NumSubscriptions()
		b := opened(t, "b", kvstore.Options{Conn: conn, Memory: true})
		elsewhere := opened(t, "a", kvstore.Options{Conn: server.Conn(t)})
		wantPut(t, a, "key", "of a")
		wantPut(t, b, "key", "of b")
		wantSync(t, elsewhere)
		wantText(t, a, "key", "of a")
		wantText(t, b, "key", "of b")
		wantText(t, elsewhere, "key", "of a")
		wantConsumers(t, client, "KV_a", 2)

		closeStore(t, b)
		wantConsumers(t, client, "KV_b", 0)
		wantConsumers(t, client, "KV_a", 2)
		if n := conn.NumSubscriptions(); n != one || conn.Status() != nats.CONNECTED {
			t.Errorf("the connection is %v and has %d subscriptions, had %d", conn.Status(), n, one)
		}
		wantPut(t, a, "key", "still of a")
		wantSync(t, elsewhere)
		wantText(t, elsewhere, "key", "still of a")
		closeStore(t, a)
		closeStore(t, elsewhere)
		wantConsumers(t, client, "KV_a", 0)
		if n := conn.NumSubscriptions(); n != subscriptions {
			t.Errorf("the connection has %d subscriptions, had %d", n, subscriptions)
		}
	})
}

// wantConsumers looks when all that was sent has arrived, and no time has passed.
func wantConsumers(t *testing.T, conn *nats.Conn, stream string, want int) {
	t.Helper()
	synctest.Wait()
	s, err := streamsOf(t, conn).Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.Consumers; n != want {
		t.Errorf("%s has %d consumers, want %d", stream, n, want)
	}
}

// Other clients cannot remove records of a bucket that a Store has made: what
// was removed so could come back (nats-server#8505), or take all with it.
func TestBucketIsClosed(t *testing.T) {
	conn := dialNATS(t, startNATS(t, nil))
	s := opened(t, "closed", kvstore.Options{Conn: conn})
	wantPut(t, s, "key", "value")
	wantPut(t, s, "other", "value")
	stream, err := streamsOf(t, conn).Stream(t.Context(), "KV_closed")
	if err != nil {
		t.Fatal(err)
	}
	rollup := &nats.Msg{Subject: "$KV.closed.key", Header: nats.Header{"Nats-Rollup": {"all"}}}
	_, err = streamsOf(t, conn).PublishMsg(t.Context(), rollup)
	for name, err := range map[string]error{
		"rollup": err, "purge": stream.Purge(t.Context()), "purge of a key": stream.Purge(t.Context(), jetstream.WithPurgeSubject(rollup.Subject)),
		"delete": stream.DeleteMsg(t.Context(), 1), "erase": stream.SecureDeleteMsg(t.Context(), 1),
	} {
		var refused *jetstream.APIError
		if !errors.As(err, &refused) && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
	wantSync(t, s)
	wantText(t, s, "key", "value")
	wantText(t, s, "other", "value")
}
