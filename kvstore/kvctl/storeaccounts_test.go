package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A Store works through the accounts that kvctl prints: it reads, writes what it may, and watches.
func TestStoreThroughAccounts(t *testing.T) {
	url := startAccounts(t, "--write", "user:")
	as := func(user string, args ...string) result {
		t.Helper()
		args = append(args, "--url", url, "--user", user, "--password", "secret", "-n", "app")
		if user == "guest" {
			args = append(args, "--api-prefix", "KV_app.API")
		}
		return call(t, args...)
	}
	dir := t.TempDir()
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, []byte(strings.Repeat("large ", 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		user, args string
		status     int
		stdout     string
	}{
		{"owner", "put other x", exitDone, ""},
		{"owner", "put user:0 Eve --ttl 1h", exitDone, ""},
		{"owner", "put large --path " + large, exitDone, ""},
		{"guest", "get other", exitDone, "x"},
		{"guest", "get large", exitDone, "large large "},
		{"guest", "put user:1 Ada --ttl 1h", exitDone, ""},
		{"guest", "put user:1 Bob --if-absent", exitConflict, ""},
		{"guest", "put user:large --path " + large, exitDone, ""},
		{"owner", "get user:1", exitDone, "Ada"},
		{"owner", "get user:large", exitDone, "large large "},
		{"guest", "list", exitDone, "large\nother\nuser:0\nuser:1\nuser:large\n"},
		{"guest", "delete user:0", exitDone, ""},
		{"guest", "export " + filepath.Join(dir, "app.nkv"), exitDone, ""},
		{"guest", "put other y --timeout 2s", exitUnavailable, ""},
		{"owner", "get other", exitDone, "x"},
		{"owner", "get user:0", exitNotFound, ""},
	} {
		r := as(test.user, strings.Fields(test.args)...)
		if r.status != test.status || !strings.HasPrefix(r.stdout, test.stdout) {
			t.Errorf("%s: %s: status %d, %.100q, %s", test.user, test.args, r.status, r.stdout, r.stderr)
		}
	}
}
