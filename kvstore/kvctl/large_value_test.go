//go:build unix

package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/nearkv/nearkv/codec"
)

// A value of the largest size goes through files and pipes as it is; a byte more
// is refused, and changes nothing.
func TestLargeValue(t *testing.T) {
	dir := t.TempDir()
	place := []string{"--dir", filepath.Join(dir, "data"), "-n", "app"}
	value := make([]byte, codec.MaxValueLen+1)
	_, _ = rand.NewChaCha8([32]byte{}).Read(value) // never fails
	file := filepath.Join(dir, "value")
	if err := os.WriteFile(file, value[:codec.MaxValueLen], 0o600); err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256(value[:codec.MaxValueLen])
	succeed(t, append([]string{"put", "file", "--path", file}, place...)...)
	if r := piped(t, value[:codec.MaxValueLen], append([]string{"put", "pipe", "-"}, place...)...); r.status != exitDone {
		t.Fatal(r.stderr)
	}
	if r := piped(t, value, append([]string{"put", "pipe", "-"}, place...)...); r.status != exitMisuse {
		t.Errorf("a byte too much: status %d, %s", r.status, r.stderr)
	}
	for _, key := range []string{"file", "pipe"} {
		if got := sha256.Sum256([]byte(succeed(t, append([]string{"get", key}, place...)...))); got != want {
			t.Errorf("%s is not what was put", key)
		}
	}
	lines := follow(t, place...)
	lines.want(t, fmt.Sprintf(`put +\d+  file  \(%d bytes\)`, codec.MaxValueLen))
	lines.want(t, fmt.Sprintf(`put +\d+  pipe  \(%d bytes\)`, codec.MaxValueLen))
	lines.end(t)
}

// piped is a call with stdin from a pipe.
func piped(t *testing.T, in []byte, args ...string) result {
	t.Helper()
	cmd := command(t, args...)
	cmd.Stdin = bytes.NewReader(in)
	return finish(t, cmd)
}
