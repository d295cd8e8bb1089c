package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nearkv/nearkv/kvstore"
)

func openStore(t *testing.T) *kvstore.Store {
	t.Helper()
	store, err := kvstore.Open(t.Context(), "flags", kvstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

func TestRequests(t *testing.T) {
	store := openStore(t)
	if _, err := store.Put(t.Context(), "feature:a", []byte("true")); err != nil {
		t.Fatal(err)
	}
	h := (&service{store: store, writeTimeout: time.Minute}).handler()
	for _, c := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "/", 200, "a\n"},
		{"GET", "/flags/a", 200, `{"name":"a","on":true,"revision":1}` + "\n"},
		{"GET", "/flags/a?at_least=1", 200, `{"name":"a","on":true,"revision":1}` + "\n"},
		{"GET", "/flags/a?at_least=-1", 400, ""},
		{"GET", "/flags/b", 404, ""},
		{"GET", "/flags/%FF", 400, ""},
		{"GET", "/elsewhere", 404, ""},
		{"GET", "/admin/flags/a/flip", 405, ""},
		{"POST", "/admin/flags/b/flip", 404, ""},
		{"POST", "/admin/flags/a/flip", 200, `{"name":"a","on":false,"revision":2}` + "\n"},
		{"GET", "/", 200, ""},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, http.NoBody))
		if w.Code != c.status || (c.status == 200 && w.Body.String() != c.body) {
			t.Errorf("%s %s: %d %q, want %d %q", c.method, c.path, w.Code, w.Body, c.status, c.body)
		}
	}
}

// A flip changes the value and nothing else.
func TestFlipKeepsTheRest(t *testing.T) {
	store := openStore(t)
	expires := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	_, err := store.Put(t.Context(), "k", []byte("false"), kvstore.WithExpiry(expires), kvstore.WithMetadata("mine"))
	if err != nil {
		t.Fatal(err)
	}
	on, _, err := flip(t.Context(), store, "k")
	if err != nil || !on {
		t.Fatalf("flip returns %v, %v", on, err)
	}
	e, err := store.Get(t.Context(), "k")
	if err != nil || e.Text() != "true" || string(e.Metadata()) != `"mine"` || !e.Expires().Equal(expires) {
		t.Errorf("the entry is %q %s %v, %v", e.Text(), e.Metadata(), e.Expires(), err)
	}
}

func TestSeed(t *testing.T) {
	store := openStore(t)
	if _, err := store.Put(t.Context(), "there", []byte("old")); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	err := seedText(t, store, `[
		{"key": "there", "value": "new"},
		{"key": "plain", "value": "dHJ1ZQ=="},
		{"key": "coded", "value": "dHJ1ZQ==", "base64": true, "metadata": {"a": [1, null]}},
		{"key": "until", "value": "", "expiration": 4102444800},
		{"key": "for", "value": "", "expiration": 1, "expiration_ttl": 60},
		{"key": "gone", "value": "", "expiration": 1}
	]`)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]struct {
		value, metadata string
		expires         time.Time
	}{
		"there": {value: "old"},
		"plain": {value: "dHJ1ZQ=="},
		"coded": {value: "true", metadata: `{"a":[1,null]}`},
		"until": {expires: time.Unix(4102444800, 0)},
	} {
		e, err := store.Get(t.Context(), key)
		if err != nil || e.Text() != want.value || string(e.Metadata()) != want.metadata || !e.Expires().Equal(want.expires) {
			t.Errorf("%s is %q %s %v, %v, want %+v", key, e.Text(), e.Metadata(), e.Expires(), err, want)
		}
	}
	if e, err := store.Get(t.Context(), "for"); err != nil || e.Expires().Before(begin.Add(time.Minute)) {
		t.Errorf("for expires at %v, %v, want a minute after %v", e.Expires(), err, begin)
	}
	if _, err := store.Get(t.Context(), "gone"); !errors.Is(err, kvstore.ErrNotFound) {
		t.Errorf("gone: %v, want %v", err, kvstore.ErrNotFound)
	}
}

func TestSeedErrors(t *testing.T) {
	store := openStore(t)
	var syntax *json.SyntaxError
	if err := seedText(t, store, "[{"); !errors.As(err, &syntax) {
		t.Errorf("half a file: %v, want a syntax error", err)
	}
	if err := seedText(t, store, `[{"key": ".."}]`); !errors.Is(err, kvstore.ErrInvalidKey) || !strings.Contains(err.Error(), `".."`) {
		t.Errorf("an invalid key: %v, want %v", err, kvstore.ErrInvalidKey)
	}
	if err := seed(t.Context(), store, filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v, want %v", err, os.ErrNotExist)
	}
	if err := seed(context.Background(), store, ""); err != nil {
		t.Errorf("no name: %v", err)
	}
}

func seedText(t *testing.T, store *kvstore.Store, text string) error {
	t.Helper()
	name := filepath.Join(t.TempDir(), "seed.json")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return seed(t.Context(), store, name)
}
