//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A row of a table is one line, whatever its key and metadata are; in a list without a table names are exact.
func TestTableRows(t *testing.T) {
	place := []string{"--dir", t.TempDir(), "-n", "app"}
	for _, key := range []string{"a\tb\nc", "d\re\x1b", `"f"`, "plain é"} {
		succeed(t, append([]string{"put", key, "v", "--metadata", "{\"m\":\n\t\"\x7f\u009b\"}"}, place...)...)
	}
	const want = "SIZE  REVISION  EXPIRES  NAME        METADATA\n" +
		`1     3         never    "\"f\""     {"m":"\u007f\u009b"}` + "\n" +
		`1     1         never    "a\tb\nc"   {"m":"\u007f\u009b"}` + "\n" +
		`1     2         never    "d\re\x1b"  {"m":"\u007f\u009b"}` + "\n" +
		`1     4         never    plain é     {"m":"\u007f\u009b"}` + "\n"
	if got := succeed(t, append([]string{"list", "--long"}, place...)...); got != want {
		t.Errorf("%s\nnot\n%s", got, want)
	}
	if got := succeed(t, append([]string{"list", "--prefix", "a"}, place...)...); got != "a\tb\nc\n" {
		t.Errorf("%q", got)
	}
	watch := follow(t, append(place, "a")...)
	watch.want(t, `put           1  "a\\tb\\nc"  "v"`)
	watch.end(t)
}

// A key that is asked for twice is one member of the object.
func TestBulkGetTwice(t *testing.T) {
	dir := t.TempDir()
	place := []string{"--dir", filepath.Join(dir, "data"), "-n", "app"}
	succeed(t, append([]string{"put", "k", "v"}, place...)...)
	file := filepath.Join(dir, "keys.json")
	if err := os.WriteFile(file, []byte(`["k","absent","k","absent"]`), 0o600); err != nil {
		t.Fatal(err)
	}
	const want = "{\n" + `"k":{"value":"v"}` + ",\n" + `"absent":{"value":null}` + "\n}\n"
	if got := succeed(t, append([]string{"bulk", "get", file}, place...)...); got != want {
		t.Error(got)
	}
}

// A missing directory for temporary files is no misuse of the command line.
func TestNoTemporaryDirectory(t *testing.T) {
	place := []string{"--dir", t.TempDir(), "-n", "app"}
	succeed(t, append([]string{"put", "k", "v"}, place...)...)
	for _, args := range [][]string{{"bulk", "put", "-"}, {"import", "-"}, {"export", "-", "--format", "json"}} {
		cmd := command(t, append(args, place...)...)
		cmd.Stdin = strings.NewReader("[]")
		cmd.Env = append(cmd.Env, "TMPDIR="+filepath.Join(t.TempDir(), "absent"))
		if r := finish(t, cmd); r.status != exitFailed || !strings.Contains(r.stderr, "set TMPDIR") {
			t.Errorf("%v: %+v", args, r)
		}
	}
}

// A stdin that was closed is an error; an empty one is an empty value.
func TestClosedStdin(t *testing.T) {
	place := []string{"--dir", t.TempDir(), "-n", "app"}
	shell := func(redirect string, args ...string) result {
		cmd := command(t)
		cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", `exec "$0" "$@" ` + redirect, binary}, append(args, place...)...)
		return finish(t, cmd)
	}
	if r := shell("</dev/null", "put", "empty", "-"); r.status != exitDone {
		t.Errorf("%+v", r)
	}
	for _, args := range [][]string{{"put", "k", "-"}, {"import", "-"}, {"bulk", "put", "-"}, {"bulk", "delete", "-"}, {"bulk", "get", "-"}} {
		if r := shell("<&-", args...); r.status != exitFailed || !strings.Contains(r.stderr, "stdin is closed") {
			t.Errorf("%v: %+v", args, r)
		}
	}
	if names := succeed(t, append([]string{"list"}, place...)...); names != "empty\n" {
		t.Errorf("there are %q", names)
	}
}
