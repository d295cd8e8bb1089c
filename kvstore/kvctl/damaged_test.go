package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/nearkv/nearkv/codec"
)

// A value that is missing ends an export, and with --skip-damaged costs no more than itself.
func TestSkipDamaged(t *testing.T) {
	s, err := startNATS(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopNATS(s) })
	at := []string{"--url", s.ClientURL(), "-n", "app"}
	with := func(args ...string) result { return call(t, append(args, at...)...) }
	for _, key := range []string{"a", "z"} {
		if r := with("put", key, "value"); r.status != exitDone {
			t.Fatal(r)
		}
	}
	conn, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m := nats.NewMsg("$KV.app.forged")
	m.Header.Set("KV-Object", (&codec.Object{Name: "nobody", Size: 100}).String())
	if _, err := conn.RequestMsg(m, 10*time.Second); err != nil {
		t.Fatal(err)
	}

	dir := t.TempDir()
	file, keys := filepath.Join(dir, "app.nkv"), filepath.Join(dir, "keys.json")
	if err := os.WriteFile(keys, []byte(`["forged","a"]`), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := with("export", file); r.status != exitFailed || !strings.Contains(r.stderr, `"forged"`) || !strings.Contains(r.stderr, "--skip-damaged") {
		t.Errorf("%+v", r)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a file that is not complete")
	}
	r := with("export", file, "--skip-damaged", "--json")
	if r.status != exitFailed || !strings.Contains(r.stdout, `"keys":2,"bytes":10,"skipped":1`) || !strings.Contains(r.stderr, `left out: value is damaged: "forged"`) {
		t.Errorf("%+v", r)
	}
	if r := with("import", file); r.status != exitDone {
		t.Errorf("%+v", r)
	}
	if r := with("export", "-", "--format", "json", "--skip-damaged"); r.status != exitFailed || !strings.Contains(r.stdout, `"key":"z"`) || strings.Contains(r.stdout, "forged") {
		t.Errorf("%+v", r)
	}
	if r := with("bulk", "get", keys); r.status != exitFailed {
		t.Errorf("%+v", r)
	}
	if r := with("bulk", "get", keys, "--skip-damaged"); r.status != exitFailed || r.stdout != "{\n\"a\":{\"value\":\"value\"}\n}\n" || !strings.Contains(r.stderr, "forged") {
		t.Errorf("%+v", r)
	}
}
