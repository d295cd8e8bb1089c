package kvstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/replication"
)

// A server lets in who shows what it asks for, and Open says at once, and by its name, that it does not.
func TestServerAsksForCredentials(t *testing.T) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	nkey := nats.Nkey(public, pair.Sign)
	stranger, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	other, err := stranger.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	user := func(o *server.Options) { o.Username, o.Password = "app", "secret" }
	token := func(o *server.Options) { o.Authorization = "secret" }
	keys := func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} }
	for _, tc := range []struct {
		name   string
		server func(*server.Options)
		prefix string // of the address
		option nats.Option
		want   bool
	}{
		{"password in the URL", user, "app:secret@", nil, true},
		{"wrong password", user, "app:wrong@", nil, false},
		{"no password", user, "", nil, false},
		{"password as an option", user, "", nats.UserInfo("app", "secret"), true},
		{"token in the URL", token, "secret@", nil, true},
		{"token as an option", token, "", nats.Token("secret"), true},
		{"wrong token", token, "wrong@", nil, false},
		{"nkey", keys, "", nkey, true},
		{"nkey of a stranger", keys, "", nats.Nkey(other, stranger.Sign), false},
		{"no nkey", keys, "", nil, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			address := startNATS(t, tc.server).Addr().String()
			opts := kvstore.Options{URL: "nats://" + freeAddress(t) + ",nats://" + tc.prefix + address} // the first one is dead
			if tc.option != nil {
				opts.NATS = []nats.Option{tc.option}
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			s, err := kvstore.Open(ctx, "credentials", opts)
			if tc.want {
				if err != nil {
					t.Fatal(err)
				}
				wantPut(t, s, "key", "value")
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				return
			}
			wantErrors(t, err, kvstore.ErrUnavailable, nats.ErrAuthorization)
			if ctx.Err() != nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// TestOlderServers opens a namespace on nats-server processes of older versions, which the test builds: it needs
// NEARKV_OLD_SERVERS=1 and a Go module proxy.
func TestOlderServers(t *testing.T) {
	if os.Getenv("NEARKV_OLD_SERVERS") == "" {
		t.Skip("NEARKV_OLD_SERVERS is not set")
	}
	for _, tc := range []struct {
		version string
		missing []string
		refused bool
	}{
		{"v2.10.29", nil, true},
		{"v2.11.10", []string{"atomic batches", "fast-ingest batches"}, false},
		{"v2.12.2", []string{"fast-ingest batches"}, false},
		{"v2.14.9", nil, false},
	} {
		t.Run(tc.version, func(t *testing.T) {
			s, err := openAt(t, buildServer(t, tc.version))
			if tc.refused {
				var version *replication.ServerVersionError
				if !errors.As(err, &version) || !errors.Is(err, kvstore.ErrUnsupported) || "v"+version.Have != tc.version {
					t.Fatalf("the error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			if got := s.Status().Missing; fmt.Sprint(got) != fmt.Sprint(tc.missing) {
				t.Errorf("missing are %q, want %q", got, tc.missing)
			}
			wantPut(t, s, "key", "value", kvstore.WithTTL(time.Hour))
			n, err := s.PutAll(t.Context(), func(yield func(kvstore.Pair) bool) {
				for i := range 1000 {
					if !yield(kvstore.Pair{Key: fmt.Sprint(i), Value: []byte("value")}) {
						return
					}
				}
			})
			if n != 1000 || err != nil {
				t.Errorf("PutAll returns %d, %v", n, err)
			}
		})
	}
}

func buildServer(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	for _, args := range [][]string{
		{"mod", "init", "old"},
		{"get", "github.com/nats-io/nats-server/v2@" + version},
		{"build", "-o", "nats-server", "github.com/nats-io/nats-server/v2"},
	} {
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %q: %v\n%s", args, err, out)
		}
	}
	return filepath.Join(dir, "nats-server")
}

func openAt(t *testing.T, binary string) (*kvstore.Store, error) {
	t.Helper()
	host, port, _ := strings.Cut(freeAddress(t), ":")
	cmd := exec.Command(binary, "-a", host, "-p", port, "-js", "-sd", t.TempDir())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // an error says that it has ended
		_ = cmd.Wait()
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return kvstore.Open(ctx, "old", kvstore.Options{URL: host + ":" + port})
}
