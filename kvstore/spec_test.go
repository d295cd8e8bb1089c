package kvstore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
)

// What nearkv does, topic by topic, where Workers KV does the same or
// otherwise. In virtual time, with a second replica where that matters.
func TestSpec(t *testing.T) {
	for _, row := range []struct {
		topic string
		test  func(*spec)
	}{
		{"key", specKey},
		{"no decoding, no normalisation", specNoNormalisation},
		{"value", specValue},
		{"a rejected put", specRejectedPut},
		{"metadata", specMetadata},
		{"put", specPut},
		{"expiry", specExpiry},
		{"missing, deleted, expired", specMissing},
		{"delete", specDelete},
		{"list: order and prefix", specListOrder},
		{"list: limit", specListLimit},
		{"list: cursor", specListCursor},
		{"list: pages are never empty unless complete", specListPages},
		{"bulk get", specBulkGet},
		{"writes to one key", specOneKey},
		{"propagation", specPropagation},
		{"compare-and-set", specCompareAndSet},
		{"read your writes, AtLeast, Sync", specReadYourWrites},
		{"MaxStaleness", specMaxStaleness},
		{"without the log", specOutage},
	} {
		t.Run(row.topic, func(t *testing.T) {
			kvstoretest.Run(t, func(t *testing.T) {
				server := kvstoretest.NewServer(t, "")
				row.test(&spec{T: t, ctx: context.Background(), server: server, near: openSpec(t, server), far: openSpec(t, server)})
			})
		})
	}
}

// spec is a topic under test: two replicas of one namespace.
type spec struct {
	*testing.T
	ctx       context.Context
	server    *kvstoretest.Server
	near, far *kvstore.Store
}

func openSpec(t *testing.T, server *kvstoretest.Server) *kvstore.Store {
	t.Helper()
	s, err := kvstore.Open(context.Background(), "spec", kvstore.Options{Conn: server.Conn(t), Memory: true, CheckInterval: 10 * time.Minute, WriteTimeout: -1})
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

func (s *spec) put(key, value string, opts ...kvstore.WriteOption) kvstore.Revision {
	s.Helper()
	revision, err := s.near.Put(s.ctx, key, []byte(value), opts...)
	if err != nil {
		s.Fatalf("Put(%.40q): %v", key, err)
	}
	return revision
}

func (s *spec) delete(key string) {
	s.Helper()
	if err := s.near.Delete(s.ctx, key); err != nil {
		s.Fatalf("Delete(%.40q): %v", key, err)
	}
}

// has wants both replicas to have a value, the far one when it has caught up.
func (s *spec) has(key, value string) kvstore.Entry {
	s.Helper()
	s.catchUp()
	var found kvstore.Entry
	for _, store := range []*kvstore.Store{s.far, s.near} {
		e, err := store.Get(s.ctx, key)
		if err != nil || e.Text() != value || e.Key() != key {
			s.Fatalf("Get(%.40q) is %.40q, %v, not %.40q", key, e.Text(), err, value)
		}
		found = e
	}
	return found
}

// hasNot wants no replica to have a key, in no way of reading.
func (s *spec) hasNot(key string) {
	s.Helper()
	s.catchUp()
	for _, store := range []*kvstore.Store{s.far, s.near} {
		if _, err := store.Get(s.ctx, key); !errors.Is(err, kvstore.ErrNotFound) {
			s.Errorf("Get(%q): %v", key, err)
		}
		if all, err := store.GetAll(s.ctx, []string{key}); err != nil || len(all) != 0 {
			s.Errorf("GetAll(%q): %v, %v", key, all, err)
		}
		for _, info := range keysOf(s.T, store, "") {
			if info.Name == key {
				s.Errorf("Keys yields %q", key)
			}
		}
		if slices.Contains(listAll(s, store, "", 1000), key) {
			s.Errorf("List has %q", key)
		}
	}
}

func (s *spec) catchUp() {
	s.Helper()
	if err := s.far.Sync(s.ctx); err != nil {
		s.Fatal(err)
	}
}

// refused wants a put to be refused, before anything is sent.
func (s *spec) refused(want error, key string, value []byte, opts ...kvstore.WriteOption) {
	s.Helper()
	before := s.near.Stats().Writes
	if _, err := s.near.Put(s.ctx, key, value, opts...); !errors.Is(err, want) {
		s.Errorf("Put(%.40q): %v, not %v", key, err, want)
	}
	if after := s.near.Stats().Writes; after != before {
		s.Errorf("Put(%.40q) was sent", key)
	}
}

// listAll walks the pages of a list.
func listAll(s *spec, store *kvstore.Store, prefix string, limit int) (names []string) {
	s.Helper()
	for cursor := ""; ; {
		page, err := store.List(kvstore.ListOptions{Prefix: prefix, Limit: limit, Cursor: cursor})
		if err != nil {
			s.Fatalf("List(%q): %v", prefix, err)
		}
		for _, info := range page.Keys {
			names = append(names, info.Name)
		}
		if page.Complete {
			if page.Cursor != "" {
				s.Errorf("a complete page has the cursor %q", page.Cursor)
			}
			return names
		}
		if len(page.Keys) == 0 || page.Cursor == "" {
			s.Fatalf("a page with %d keys and the cursor %q is not complete", len(page.Keys), page.Cursor)
		}
		cursor = page.Cursor
	}
}

func specKey(s *spec) {
	for _, key := range []string{
		"a", strings.Repeat("k", 512), strings.Repeat("\u20ac", 170) + "ab", "...", "a/..", "../a", "/", "a b", "\x00", "\r\n",
		"\x7f\x01", "%", "*", ">", "a.>", "=", "a.", ".a", "a..b", ":", "$KV.spec.a", "\ufffd", "\ufeff", "\U0010ffff",
	} {
		s.put(key, "value of "+key)
	}
	for _, info := range keysOf(s.T, s.near, "") {
		s.has(info.Name, "value of "+info.Name)
	}
	for _, key := range []string{"", ".", "..", strings.Repeat("k", 513), "\xff", "a\xc0\xaf", "\xed\xa0\x80"} {
		s.refused(kvstore.ErrInvalidKey, key, nil)
		if _, err := s.near.Get(s.ctx, key); !errors.Is(err, kvstore.ErrInvalidKey) {
			s.Errorf("Get(%.40q): %v", key, err)
		}
		if err := s.near.Delete(s.ctx, key); !errors.Is(err, kvstore.ErrInvalidKey) {
			s.Errorf("Delete(%.40q): %v", key, err)
		}
		if _, err := s.near.GetAll(s.ctx, []string{"a", key}); !errors.Is(err, kvstore.ErrInvalidKey) {
			s.Errorf("GetAll(%.40q): %v", key, err)
		}
	}
}

func specNoNormalisation(s *spec) {
	keys := []string{"a/b", "a%2Fb", "a%2fb", "A/b", "a//b", "a/./b", "\u00e9", "e\u0301", "\u212b", "\u00c5", "a=2Fb", "a ", "a", " a"}
	for _, key := range keys {
		s.put(key, "value of "+key)
	}
	for _, key := range keys {
		s.has(key, "value of "+key)
	}
	s.delete("a%2Fb")
	s.hasNot("a%2Fb")
	s.has("a/b", "value of a/b")
}

func specValue(s *spec) {
	s.put("empty", "")
	if e := s.has("empty", ""); e.Len() != 0 || len(e.Value()) != 0 {
		s.Errorf("the empty value has %d bytes", e.Len())
	}
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	s.put("binary", string(all))
	s.has("binary", string(all))

	value := bytes.Repeat([]byte("0123456789abcdef"), codec.MaxValueLen/16)
	if len(value) != 26_214_400 {
		s.Fatalf("the largest value has %d bytes", len(value))
	}
	want := string(value)
	if _, err := s.near.Put(s.ctx, "large", value); err != nil {
		s.Fatal(err)
	}
	clear(value) // its bytes were captured at the call
	if e := s.has("large", want); e.Len() != len(want) {
		s.Errorf("the largest value has %d bytes", e.Len())
	}
	s.refused(kvstore.ErrTooLarge, "large", make([]byte, len(value)+1))
	s.has("large", want)
}

func specRejectedPut(s *spec) {
	revision := s.put("key", "old", kvstore.WithMetadata("old"), kvstore.WithTTL(time.Hour))
	expires := s.has("key", "old").Expires()
	s.refused(kvstore.ErrTooLarge, "key", make([]byte, codec.MaxValueLen+1))
	s.refused(kvstore.ErrInvalidExpiry, "key", []byte("new"), kvstore.WithTTL(time.Second-1))
	s.refused(kvstore.ErrInvalidExpiry, "key", []byte("new"), kvstore.WithExpiry(time.Now()))
	s.refused(kvstore.ErrInvalidOptions, "key", []byte("new"), kvstore.WithTTL(time.Minute), kvstore.WithExpiry(time.Now().Add(time.Hour)))
	s.refused(kvstore.ErrInvalidMetadata, "key", []byte("new"), kvstore.WithMetadata(math.Inf(1)))
	s.refused(kvstore.ErrInvalidMetadata, "key", []byte("new"), kvstore.WithMetadata(strings.Repeat("m", 1023)))
	if _, err := s.near.Put(s.ctx, "key", []byte("new"), kvstore.IfAbsent()); !errors.Is(err, kvstore.ErrConflict) {
		s.Errorf("IfAbsent: %v", err)
	}
	if _, err := s.near.Put(s.ctx, "key", []byte("new"), kvstore.IfRevision(revision+1)); !errors.Is(err, kvstore.ErrConflict) {
		s.Errorf("IfRevision: %v", err)
	}
	e := s.has("key", "old")
	if e.Revision() != revision || string(e.Metadata()) != `"old"` || !e.Expires().Equal(expires) {
		s.Errorf("left is %d, %s, %v", e.Revision(), e.Metadata(), e.Expires())
	}
}

func specMetadata(s *spec) {
	type object struct {
		Name string `json:"name"`
	}
	for _, row := range []struct {
		metadata any
		want     string // "": none
	}{
		{nil, ""},
		{(*object)(nil), ""},
		{json.RawMessage("null"), ""},
		{json.RawMessage(" null "), ""},
		{0, "0"},
		{false, "false"},
		{"", `""`},
		{[]int{}, "[]"},
		{map[string]any{"b": 1, "a": nil}, `{"a":null,"b":1}`},
		{object{"<a> & \u2028"}, `{"name":"<a> & ` + "\u2028" + `"}`},
		{json.RawMessage(` { "a" : [ 1 , 2 ] } `), `{"a":[1,2]}`},
		{strings.Repeat("m", 1022), `"` + strings.Repeat("m", 1022) + `"`},
		{strings.Repeat("&", 1022), `"` + strings.Repeat("&", 1022) + `"`},
		{"line\r\nbreak\x00", `"line\r\nbreak\u0000"`},
		{"\U0001f642", "\"\U0001f642\""},
	} {
		s.put("key", "v", kvstore.WithMetadata(row.metadata))
		e := s.has("key", "v")
		if string(e.Metadata()) != row.want || (row.want == "") != (e.Metadata() == nil) {
			s.Errorf("%.40v becomes %.40q, not %.40q", row.metadata, e.Metadata(), row.want)
		}
		for _, info := range keysOf(s.T, s.far, "") {
			if string(info.Metadata) != row.want {
				s.Errorf("%.40v is listed as %.40q", row.metadata, info.Metadata)
			}
		}
	}
	for _, metadata := range []any{strings.Repeat("m", 1023), strings.Repeat("\u20ac", 341), func() {}, math.NaN(), json.RawMessage("{"), json.RawMessage("\"\xff\"")} {
		s.refused(kvstore.ErrInvalidMetadata, "key", nil, kvstore.WithMetadata(metadata))
	}
}

func specPut(s *spec) {
	first := s.put("key", "first", kvstore.WithMetadata(1), kvstore.WithTTL(time.Minute))
	if e := s.has("key", "first"); string(e.Metadata()) != "1" || e.Expires().IsZero() {
		s.Errorf("first: %s, %v", e.Metadata(), e.Expires())
	}
	// What is omitted is cleared.
	second := s.put("key", "second")
	if e := s.has("key", "second"); e.Metadata() != nil || !e.Expires().IsZero() || e.Revision() != second || second <= first {
		s.Errorf("second: %s, %v, %d after %d", e.Metadata(), e.Expires(), e.Revision(), first)
	}
	time.Sleep(2 * time.Minute)
	s.has("key", "second")
	s.put("key", "", kvstore.WithMetadata(3))
	if e := s.has("key", ""); string(e.Metadata()) != "3" {
		s.Errorf("third: %s", e.Metadata())
	}
}

func specExpiry(s *spec) {
	s.refused(kvstore.ErrInvalidExpiry, "key", nil, kvstore.WithTTL(time.Second-time.Nanosecond))
	s.refused(kvstore.ErrInvalidExpiry, "key", nil, kvstore.WithTTL(-time.Hour))
	s.refused(kvstore.ErrInvalidExpiry, "key", nil, kvstore.WithExpiry(time.Now().Add(time.Second-time.Nanosecond)))
	s.refused(kvstore.ErrInvalidExpiry, "key", nil, kvstore.WithExpiry(time.Unix(1<<40, 0)))
	s.refused(kvstore.ErrInvalidOptions, "key", nil, kvstore.WithTTL(time.Hour), kvstore.WithExpiry(time.Now().Add(time.Hour)))

	s.put("second", "v", kvstore.WithTTL(time.Second))
	s.put("hour", "v", kvstore.WithExpiry(time.Now().Add(time.Hour+1234*time.Microsecond)))
	s.put("year 9999", "v", kvstore.WithExpiry(time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)))
	s.put("longest", "v", kvstore.WithTTL(math.MaxInt64))
	// In milliseconds, rounded up; not in int32 seconds.
	if e := s.has("hour", "v"); !e.Expires().Equal(time.Now().Add(time.Hour + 2*time.Millisecond)) {
		s.Errorf("expires in %v", time.Until(e.Expires()))
	}
	if e := s.has("year 9999", "v"); e.Expires().UTC().Year() != 9999 {
		s.Errorf("expires at %v", e.Expires())
	}
	for _, key := range []string{"second", "hour"} {
		e := s.has(key, "v")
		time.Sleep(time.Until(e.Expires()) - time.Nanosecond)
		s.has(key, "v")
		if !slices.Contains(listAll(s, s.far, "", 0), key) {
			s.Errorf("%q is not listed a nanosecond before its expiry", key)
		}
		time.Sleep(time.Nanosecond)
		s.hasNot(key)
	}
	time.Sleep(24 * time.Hour)
	s.has("year 9999", "v")
	s.has("longest", "v")

	// Over a value that lives longer, and that must not come back.
	s.put("shadow", "long", kvstore.WithTTL(time.Hour))
	s.put("shadow", "short", kvstore.WithTTL(time.Second))
	time.Sleep(time.Second)
	s.hasNot("shadow")
	time.Sleep(30 * time.Minute)
	s.hasNot("shadow")
	if _, err := s.near.Put(s.ctx, "shadow", []byte("new"), kvstore.IfAbsent()); err != nil {
		s.Errorf("IfAbsent over what has expired: %v", err)
	}
	time.Sleep(24 * time.Hour)
	s.has("shadow", "new")
}

func specMissing(s *spec) {
	s.hasNot("missing")
	s.put("deleted", "v")
	s.delete("deleted")
	s.hasNot("deleted")
	s.put("expired", "v", kvstore.WithTTL(time.Second))
	time.Sleep(time.Second)
	s.hasNot("expired")
	// It is certain: also without the log.
	s.server.SetDown(true)
	for _, key := range []string{"missing", "deleted", "expired"} {
		if _, err := s.near.Get(s.ctx, key); !errors.Is(err, kvstore.ErrNotFound) {
			s.Errorf("Get(%q): %v", key, err)
		}
	}
	s.server.SetDown(false)
	time.Sleep(time.Hour)
	for _, key := range []string{"missing", "deleted", "expired"} {
		s.hasNot(key)
	}
}

func specDelete(s *spec) {
	s.delete("never there")
	s.put("key", "v")
	s.put("key2", "v")
	s.put("ke", "v")
	s.delete("key")
	s.delete("key")
	s.hasNot("key")
	s.has("key2", "v") // the exact key only
	s.has("ke", "v")
	revision := s.put("key", "again")
	s.has("key", "again")
	if err := s.near.Delete(s.ctx, "key", kvstore.IfRevision(revision-1)); !errors.Is(err, kvstore.ErrConflict) {
		s.Errorf("of an older revision: %v", err)
	}
	s.has("key", "again")
	if err := s.far.Delete(s.ctx, "key", kvstore.IfRevision(revision)); err != nil {
		s.Errorf("of the revision: %v", err)
	}
	if err := s.near.Sync(s.ctx); err != nil {
		s.Error(err)
	}
	s.hasNot("key")
	s.put("session", "v", kvstore.WithTTL(time.Hour))
	s.delete("session")
	s.hasNot("session")
	time.Sleep(2 * time.Hour)
	s.hasNot("session")
}

func specListOrder(s *spec) {
	names := []string{"a", "a.", "a.b", "a/", "ab", "b", "..a", "A", "\x00", "~", "\u00e9", "e\u0301", "\uffff", "\U00010000", "a\x00", "user:1", "user:10", "user:2", "user"}
	for i, name := range names {
		s.put(name, strings.Repeat("v", i), kvstore.WithMetadata(i), kvstore.WithExpiry(time.Now().Add(time.Hour+time.Duration(i)*time.Second)))
	}
	slices.Sort(names)
	s.catchUp()
	for _, prefix := range []string{"", "a", "a.", ".", "..", "user", "user:", "user:1", "\x00", "\u00e9", "e", "z", strings.Repeat("p", 512)} {
		var want []string
		for _, name := range names {
			if strings.HasPrefix(name, prefix) {
				want = append(want, name)
			}
		}
		for _, store := range []*kvstore.Store{s.near, s.far} {
			if got := listAll(s, store, prefix, 0); !slices.Equal(got, want) {
				s.Errorf("List(%q) is %q, not %q", prefix, got, want)
			}
			var keys []string
			for _, info := range keysOf(s.T, store, prefix) {
				keys = append(keys, info.Name)
			}
			if !slices.Equal(keys, want) {
				s.Errorf("Keys(%q) is %q, not %q", prefix, keys, want)
			}
		}
	}
	for _, info := range keysOf(s.T, s.far, "") {
		e, err := s.far.Get(s.ctx, info.Name)
		if err != nil || !info.Expires.Equal(e.Expires()) || string(info.Metadata) != string(e.Metadata()) || info.Revision != e.Revision() || info.Size != e.Len() {
			s.Errorf("%+v, not %s, %v, %v", info, e.Metadata(), e.Expires(), err)
		}
	}
	for _, prefix := range []string{strings.Repeat("p", 513), "\xff"} {
		if _, err := s.near.List(kvstore.ListOptions{Prefix: prefix}); !errors.Is(err, kvstore.ErrInvalidKey) {
			s.Errorf("List(%.40q): %v", prefix, err)
		}
		yieldsOnly(s.T, kvstore.ErrInvalidKey, s.near.Keys(prefix))
	}
}

func specListLimit(s *spec) {
	for i := range 1001 {
		s.put(fmt.Sprintf("%04d", i), "v")
	}
	for _, limit := range []int{0, 1, 7, 999, 1000} {
		page, err := s.near.List(kvstore.ListOptions{Limit: limit})
		want := limit
		if limit == 0 {
			want = 1000
		}
		if err != nil || len(page.Keys) != want || page.Complete || page.Cursor == "" {
			s.Errorf("limit %d: %d keys, %v, %q, %v", limit, len(page.Keys), page.Complete, page.Cursor, err)
		}
	}
	for _, limit := range []int{-1, 1001, math.MaxInt, math.MinInt} {
		if _, err := s.near.List(kvstore.ListOptions{Limit: limit}); !errors.Is(err, kvstore.ErrInvalidOptions) {
			s.Errorf("limit %d: %v", limit, err)
		}
	}
	if got := listAll(s, s.near, "", 1000); len(got) != 1001 {
		s.Errorf("%d keys", len(got))
	}
	// The cursor is there only if something follows.
	page, err := s.near.List(kvstore.ListOptions{Prefix: "00", Limit: 100})
	if err != nil || len(page.Keys) != 100 || !page.Complete || page.Cursor != "" {
		s.Errorf("exactly a page: %d keys, %v, %q, %v", len(page.Keys), page.Complete, page.Cursor, err)
	}
}

func specListCursor(s *spec) {
	for _, key := range []string{"a1", "a2", "a3", "a4", "b1", "b2"} {
		s.put(key, "v")
	}
	list := func(prefix, cursor string) []string {
		s.Helper()
		page, err := s.near.List(kvstore.ListOptions{Prefix: prefix, Cursor: cursor})
		if err != nil {
			s.Fatal(err)
		}
		var names []string
		for _, info := range page.Keys {
			names = append(names, info.Name)
		}
		return names
	}
	first, err := s.near.List(kvstore.ListOptions{Prefix: "a", Limit: 2})
	if err != nil {
		s.Fatal(err)
	}
	wants := func(want ...string) {
		s.Helper()
		if got := list("a", first.Cursor); !slices.Equal(got, want) {
			s.Errorf("after a2: %q, not %q", got, want)
		}
	}
	wants("a3", "a4")
	s.delete("a2") // it means "after this key", whether there is one or not
	wants("a3", "a4")
	s.delete("a3")
	s.put("a25", "v")
	s.put("a1x", "v")
	wants("a25", "a4")
	s.put("a2", "v")
	wants("a25", "a4")
	time.Sleep(time.Hour)
	wants("a25", "a4")
	s.delete("a25")
	s.delete("a4")
	wants()
	s.catchUp()
	page, err := s.far.List(kvstore.ListOptions{Prefix: "a", Cursor: first.Cursor}) // also of another replica
	if err != nil || !page.Complete || len(page.Keys) != 0 {
		s.Errorf("at the end: %+v, %v", page, err)
	}
	// It is bound to its prefix.
	for _, prefix := range []string{"", "b", "a2", "aa"} {
		if _, err := s.near.List(kvstore.ListOptions{Prefix: prefix, Cursor: first.Cursor}); !errors.Is(err, kvstore.ErrInvalidOptions) {
			s.Errorf("with the prefix %q: %v", prefix, err)
		}
	}
	for _, cursor := range []string{"x", "a2", first.Cursor + "x", first.Cursor[1:], "\x00"} {
		if _, err := s.near.List(kvstore.ListOptions{Prefix: "a", Cursor: cursor}); !errors.Is(err, kvstore.ErrInvalidOptions) {
			s.Errorf("the cursor %q: %v", cursor, err)
		}
	}
}

func specListPages(s *spec) {
	var want []string
	for i := range 120 {
		key := fmt.Sprintf("%03d", i)
		switch {
		case i%3 == 0:
			s.put(key, "v", kvstore.WithTTL(time.Minute)) // will have expired
		case i%3 == 1 && i < 100:
			s.put(key, "v")
			s.delete(key)
		default:
			s.put(key, "v")
			want = append(want, key)
		}
	}
	s.catchUp()
	time.Sleep(time.Minute)
	for _, limit := range []int{1, 2, 5, 40, len(want) - 1, len(want), len(want) + 1} {
		for _, store := range []*kvstore.Store{s.near, s.far} {
			if got := listAll(s, store, "", limit); !slices.Equal(got, want) {
				s.Errorf("limit %d: %q, not %q", limit, got, want)
			}
		}
	}
	page, err := s.near.List(kvstore.ListOptions{Prefix: "none"})
	if err != nil || !page.Complete || len(page.Keys) != 0 || page.Cursor != "" {
		s.Errorf("no keys: %+v, %v", page, err)
	}
}

func specOneKey(s *spec) {
	last := kvstore.Revision(0)
	for i := range 2000 {
		revision := s.put("key", fmt.Sprint(i))
		if revision <= last {
			s.Fatalf("revision %d after %d", revision, last)
		}
		last = revision
	}
	s.has("key", "1999")
}

func specCompareAndSet(s *spec) {
	conflict := func(err error, expected, actual kvstore.Revision) {
		s.Helper()
		c, ok := errors.AsType[*kvstore.ConflictError](err)
		if !ok || !errors.Is(err, kvstore.ErrConflict) || *c != (kvstore.ConflictError{Key: "key", Expected: expected, Actual: actual}) {
			s.Errorf("the error is %v, not a conflict of %d with %d", err, expected, actual)
		}
	}
	write := func(store *kvstore.Store, opt kvstore.WriteOption) (kvstore.Revision, error) {
		return store.Put(s.ctx, "key", []byte("v"), opt)
	}
	_, err := write(s.near, kvstore.IfRevision(7))
	conflict(err, 7, 0)
	first, err := write(s.near, kvstore.IfAbsent())
	if err != nil {
		s.Fatal(err)
	}
	_, err = write(s.far, kvstore.IfAbsent())
	conflict(err, 0, first)
	second, err := write(s.far, kvstore.IfRevision(first))
	if err != nil || second <= first {
		s.Fatalf("%d after %d, %v", second, first, err)
	}
	_, err = write(s.near, kvstore.IfRevision(first))
	conflict(err, first, second)
	conflict(s.near.Delete(s.ctx, "key", kvstore.IfRevision(first)), first, second)
	if err := s.near.Delete(s.ctx, "key", kvstore.IfRevision(second)); err != nil {
		s.Fatal(err)
	}
	_, err = write(s.near, kvstore.IfRevision(second))
	conflict(err, second, 0)
	third, err := s.far.Put(s.ctx, "key", nil, kvstore.IfAbsent(), kvstore.WithTTL(time.Second))
	if err != nil {
		s.Fatal(err)
	}
	time.Sleep(time.Second)
	_, err = write(s.near, kvstore.IfRevision(third)) // has expired
	conflict(err, third, 0)
	if _, err := write(s.near, kvstore.IfAbsent()); err != nil {
		s.Errorf("absent because expired: %v", err)
	}
}
