package kvstore_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/kvstore"
)

// startConfig starts a server with a configuration file.
func startConfig(t *testing.T, config string) *server.Server {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	o.NoSigs, o.NoLog = true, true
	return startNATS(t, func(to *server.Options) { *to = *o })
}

// useMuch does a bit of everything.
func useMuch(t *testing.T, s *kvstore.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	wantPut(t, s, "key", "value", kvstore.WithTTL(time.Hour))
	wantPut(t, s, "if", "value", kvstore.IfAbsent())
	large := bytes.Repeat([]byte("large"), 1<<19)
	wantPut(t, s, "large", string(large))
	if _, err := s.Batch(ctx, kvstore.OpPut("b:1", []byte("1")), kvstore.OpPut("b:2", []byte("2")), kvstore.OpDelete("key")); err != nil {
		t.Error(err)
	}
	n, err := s.PutAll(ctx, func(yield func(kvstore.Pair) bool) {
		for i := range 2000 {
			if !yield(kvstore.Pair{Key: fmt.Sprint("all:", i), Value: []byte("v")}) {
				return
			}
		}
	})
	if n != 2000 || err != nil {
		t.Errorf("PutAll returns %d, %v", n, err)
	}
	if err := s.Sync(ctx); err != nil {
		t.Error(err)
	}
	if e, err := s.Get(ctx, "large"); err != nil || e.Text() != string(large) {
		t.Errorf("Get of the large value: %v", err)
	}
	if e, err := s.Get(ctx, "all:1999"); err != nil || e.Text() != "v" {
		t.Errorf("Get of the last one: %v", err)
	}
	if status := s.Status(); status.State != kvstore.Live {
		t.Errorf("the Store is %v: %s", status.State, status.Reason)
	}
}

// A Store at a leaf node without JetStream uses that of the hub, by its domain.
func TestDomain(t *testing.T) {
	leafAddress := freeAddress(t)
	hub := startConfig(t, fmt.Sprintf(`
listen: "127.0.0.1:-1"
server_name: hub
jetstream { store_dir: %q, domain: hub }
leafnodes { listen: %q }
`, t.TempDir(), leafAddress))
	leafs := &url.URL{Scheme: "nats-leaf", Host: leafAddress}
	for _, withJetStream := range []bool{false, true} {
		t.Run(fmt.Sprint("JetStream at the leaf: ", withJetStream), func(t *testing.T) {
			own := ""
			if withJetStream {
				own = fmt.Sprintf("jetstream { store_dir: %q, domain: leaf }", t.TempDir())
			}
			leaf := startConfig(t, fmt.Sprintf(`
listen: "127.0.0.1:-1"
server_name: leaf
leafnodes { remotes: [{ url: %q }] }
%s`, leafs, own))
			eventually(t, "the leaf node", func() bool { return leaf.NumLeafNodes() > 0 })
			address := "nats://" + leaf.Addr().String()
			if !withJetStream {
				logged := new(syncBuffer)
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				_, err := kvstore.Open(ctx, "app", kvstore.Options{URL: address, Logger: slog.New(slog.NewTextHandler(logged, nil))})
				wantErrors(t, err, kvstore.ErrUnavailable, context.DeadlineExceeded, nats.ErrNoResponders)
				for _, text := range []string{fmt.Sprint(err), logged.String()} {
					if !strings.Contains(text, "Options.Domain") {
						t.Errorf("it does not say what to do: %s", text)
					}
				}
			}
			name := fmt.Sprint("app", withJetStream)
			var stores []*kvstore.Store
			for _, opts := range []kvstore.Options{{URL: address, Domain: "hub"}, {URL: "nats://" + hub.Addr().String()}} {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				s, err := kvstore.Open(ctx, name, opts)
				if err != nil {
					t.Fatal(err)
				}
				defer closeStore(t, s)
				stores = append(stores, s)
			}
			useMuch(t, stores[0])
			eventually(t, "the other Store has it", func() bool { return stores[1].Stats().Keys == stores[0].Stats().Keys })
			names, err := kvstore.Namespaces(t.Context(), kvstore.Options{URL: address, Domain: "hub"})
			if err != nil || !strings.Contains(fmt.Sprint(names), name) {
				t.Errorf("the namespaces are %q, %v", names, err)
			}
			// Other clients of NATS put to the same subjects.
			nc, err := nats.Connect(address)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			js, err := jetstream.NewWithDomain(nc, "hub")
			if err != nil {
				t.Fatal(err)
			}
			wantForeign(t, js, name, stores[0])
		})
	}
}

// wantForeign checks that a key-value client of NATS and a Store see what the other
// writes.
func wantForeign(t *testing.T, js jetstream.JetStream, name string, s *kvstore.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	kv, err := js.KeyValue(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	revision, err := kv.Put(ctx, "foreign", []byte("value"))
	if err != nil {
		t.Fatal(err)
	}
	if e, err := s.Get(ctx, "foreign", kvstore.AtLeast(kvstore.Revision(revision))); err != nil || e.Text() != "value" {
		t.Errorf("Get returns %q, %v", e.Text(), err)
	}
	wantPut(t, s, "ours", "value")
	if e, err := kv.Get(ctx, "ours"); err != nil || string(e.Value()) != "value" {
		t.Errorf("the key-value client gets %v, %v", e, err)
	}
}

// A Store in an account that imports the JetStream API of another one.
func TestAPIPrefix(t *testing.T) {
	s := startConfig(t, fmt.Sprintf(`
listen: "127.0.0.1:-1"
jetstream { store_dir: %q }
accounts: {
  DATA: {
    jetstream: enabled
    users: [{user: data, password: data}]
    exports: [
      {service: "$JS.API.>", response_type: stream}
      {service: "$KV.app.>", response_type: stream}
      {service: "$O.app.>"}
    ]
  }
  APP: {
    users: [{user: app, password: app}]
    imports: [
      {service: {account: DATA, subject: "$JS.API.>"}, to: "JS.data.API.>"}
      {service: {account: DATA, subject: "$KV.app.>"}, to: "JS.data.API.$KV.app.>"}
      {service: {account: DATA, subject: "$O.app.>"}}
    ]
  }
}
`, t.TempDir()))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	there, err := kvstore.Open(ctx, "app", kvstore.Options{URL: "nats://data:data@" + s.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, there)
	address := "nats://app:app@" + s.Addr().String()
	for _, prefix := range []string{"JS.data.API", "JS.data.API."} {
		here, err := kvstore.Open(ctx, "app", kvstore.Options{URL: address, APIPrefix: prefix})
		if err != nil {
			t.Fatal(err)
		}
		useMuch(t, here)
		eventually(t, "the other Store has it", func() bool { return here.Stats().Keys == there.Stats().Keys })
		nc, err := nats.Connect(address)
		if err != nil {
			t.Fatal(err)
		}
		js, err := jetstream.NewWithAPIPrefix(nc, prefix)
		if err != nil {
			t.Fatal(err)
		}
		wantForeign(t, js, "app", here)
		nc.Close()
		if _, err := here.Batch(ctx, kvstore.OpDelete("if")); err != nil {
			t.Error(err)
		}
		closeStore(t, here)
	}
	// The account has no JetStream of its own, and the error says where it may be.
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := kvstore.Open(short, "app", kvstore.Options{URL: address}); err == nil || !strings.Contains(err.Error(), "Options.") {
		t.Errorf("without the option: %v", err)
	}
}

// Domain and APIPrefix are checked.
func TestDomainOptions(t *testing.T) {
	for _, opts := range []kvstore.Options{
		{URL: "x", Domain: "a", APIPrefix: "b"},
		{Domain: "a"},
		{APIPrefix: "a", Dir: "x"},
		{URL: "x", Domain: "a.b"},
		{URL: "x", Domain: "*"},
		{URL: "x", Domain: "a b"},
		{URL: "x", APIPrefix: "a.>"},
		{URL: "x", APIPrefix: "a..b"},
		{URL: "x", APIPrefix: "."},
		{URL: "x", APIPrefix: "a\n"},
	} {
		_, err := kvstore.Open(t.Context(), "app", opts)
		wantErrors(t, err, kvstore.ErrInvalidOptions)
	}
}
