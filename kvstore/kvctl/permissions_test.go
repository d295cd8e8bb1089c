package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"pgregory.net/rapid"

	"github.com/nearkv/nearkv/codec"
)

// Users with the permissions that kvctl prints can do what they are for, on a real
// server, and nothing else.
func TestPermissions(t *testing.T) {
	url := startRestricted(t, map[string][]string{
		"all":    {"--write", "", "--create", "--list"},
		"reader": {},
		"writer": {"--write", "user:", "--write", "session.", "--inbox-prefix", "_INBOX_writer"},
	})
	as := func(user string, args ...string) result {
		t.Helper()
		args = append(args, "--url", url, "--user", user, "--password", "secret", "-n", "app")
		if user == "writer" {
			args = append(args, "--inbox-prefix", "_INBOX_writer")
		}
		return call(t, args...)
	}
	large := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(large, []byte(strings.Repeat("large ", 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		user, args string
		status     int
		stdout     string
	}{
		{"reader", "get k", exitNotFound, ""}, // no namespace yet
		{"writer", "put user:1 x", exitFailed, ""},
		{"all", "put user:1 Ada --ttl 1h", exitDone, ""},
		{"all", "put other x", exitDone, ""},
		{"all", "namespaces", exitDone, "app\n"},
		{"reader", "get user:1", exitDone, "Ada"}, // is loaded from the log
		{"reader", "list", exitDone, "other\nuser:1\n"},
		{"reader", "status", exitDone, "namespace   app\n"},
		{"reader", "put user:1 Bob", exitFailed, ""},
		{"reader", "delete user:1", exitFailed, ""},
		{"reader", "namespaces", exitFailed, ""},
		{"writer", "get other", exitDone, "x"},
		{"writer", "put user:1 Eve", exitDone, ""},
		{"writer", "put user: exact", exitDone, ""},
		{"writer", "put user:a:b deep", exitDone, ""},
		{"writer", "put session.1 s --if-absent", exitDone, ""},
		{"writer", "delete session.1", exitDone, ""},
		{"writer", "put user x", exitFailed, ""},
		{"writer", "put users:1 x", exitFailed, ""},
		{"writer", "put other y", exitFailed, ""},
		{"writer", "delete other", exitFailed, ""},
		{"writer", "put user:large --path " + large, exitFailed, ""}, // the first one
		{"all", "put large --path " + large, exitDone, ""},
		{"writer", "put user:large --path " + large, exitDone, ""},
		{"reader", "get user:large", exitDone, "large large "},
		{"reader", "get large", exitDone, "large large "},
		{"reader", "put large --path " + large, exitFailed, ""},
		{"reader", "bench --count 1", exitFailed, ""},
		{"all", "bench --count 10", exitDone, "OP"},
		{"all", "get user:1", exitDone, "Eve"},
		{"all", "get other", exitDone, "x"},
	} {
		r := as(test.user, strings.Fields(test.args)...)
		if r.status != test.status || !strings.HasPrefix(r.stdout, test.stdout) {
			t.Errorf("%s: %s: status %d, %.100q, %s", test.user, test.args, r.status, r.stdout, r.stderr)
		}
		if test.status == exitFailed && !strings.Contains(r.stderr, "kvctl permissions prints") {
			t.Errorf("%s: %s: %s", test.user, test.args, r.stderr)
		}
	}
	if r := call(t, "get", "k", "--url", url, "--user", "all", "--password", "wrong", "-n", "app"); r.status != exitFailed || !strings.Contains(r.stderr, "--password") {
		t.Errorf("wrong password: %+v", r)
	}
}

// startRestricted starts a server whose users have the permissions that kvctl prints
// for the arguments.
func startRestricted(t *testing.T, users map[string][]string) (url string) {
	t.Helper()
	var config strings.Builder
	for user, args := range users {
		block := succeed(t, append([]string{"permissions", "-n", "app"}, args...)...)
		fmt.Fprintf(&config, "{user: %s, password: secret, %s}\n", user, block)
	}
	s, err := startNATS(t.TempDir(), "authorization: {users: [\n"+config.String()+"]}\n")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopNATS(s) })
	return s.ClientURL()
}

// The block and its JSON say the same.
func TestPermissionsJSON(t *testing.T) {
	const want = `{"publish":{"allow":["$JS.API.STREAM.INFO.KV_app","$JS.API.CONSUMER.CREATE.KV_app.*","$JS.API.CONSUMER.MSG.NEXT.KV_app.*",` +
		`"$JS.API.CONSUMER.DELETE.KV_app.*","$JS.API.DIRECT.GET.KV_app","$JS.API.STREAM.MSG.GET.KV_app",` +
		`"$JS.API.STREAM.INFO.OBJ_app","$JS.API.DIRECT.GET.OBJ_app","$JS.API.STREAM.MSG.GET.OBJ_app","$KV.app.>","$O.app.C.>","$O.app.M.>","$JS.API.STREAM.PURGE.OBJ_app"]},"subscribe":{"allow":["_INBOX.>"]}}` + "\n"
	if got := succeed(t, "permissions", "-n", "app", "--write", "", "--json"); got != want {
		t.Error(got)
	}
	for _, prefix := range []string{"user", "a..", ".", "\xff", strings.Repeat("x", 513)} {
		if r := call(t, "permissions", "-n", "app", "--write", prefix); r.status != exitMisuse {
			t.Errorf("%q: %+v", prefix, r)
		}
	}
}

// The subjects of a prefix are those of the keys with it, and no others.
func TestFilters(t *testing.T) {
	text := rapid.StringOfN(rapid.SampledFrom([]rune("ab.:=é")), 0, 6, -1)
	rapid.Check(t, func(t *rapid.T) {
		prefix, key := text.Draw(t, "prefix"), text.Draw(t, "key")
		if rapid.Bool().Draw(t, "below") {
			key = prefix + key
		}
		filters, err := filters(prefix)
		if err != nil || codec.CheckKey(key) != nil {
			return
		}
		matched := false
		for _, filter := range filters {
			matched = matched || server.SubjectsCollide(codec.Subject(key), filter)
		}
		if matched != strings.HasPrefix(key, prefix) {
			t.Errorf("prefix %q, key %q (%s): %v, filters %q", prefix, key, codec.Subject(key), matched, filters)
		}
	})
}
