//go:build unix

package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An export follows symbolic links, also those to what does not exist yet, and replaces what they point to at once.
func TestExportFollowsLinks(t *testing.T) {
	place := []string{"--dir", t.TempDir(), "-n", "app"}
	succeed(t, append([]string{"put", "k", "v"}, place...)...)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.MkdirAll(at("real/sub"), 0o700), os.Symlink("real/sub", at("away")), os.WriteFile(at("real/old"), []byte("old"), 0o600),
		os.Symlink("../old", at("real/sub/link")), os.Symlink("second", at("first")), os.Symlink("real/new", at("second")),
		os.Symlink("loop", at("loop")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"away/link": "real/old", "first": "real/new"} {
		succeed(t, append([]string{"export", at(link), "--format", "json"}, place...)...)
		if info, err := os.Lstat(at(link)); err != nil || info.Mode().Type() != os.ModeSymlink {
			t.Errorf("%s is no link any more: %v, %v", link, info, err)
		}
		if data, err := os.ReadFile(at(target)); err != nil || !strings.Contains(string(data), `"key":"k"`) {
			t.Errorf("%s: %q, %v", target, data, err)
		}
	}
	for _, name := range []string{"loop", "real"} {
		if r := call(t, append([]string{"export", at(name)}, place...)...); r.status == exitDone || !strings.Contains(r.stderr, name) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	empty(t, dir, "away", "first", "loop", "real", "second")
	empty(t, at("real"), "new", "old", "sub")
}

// An export into a pipe or a device goes through it, and leaves it what it is.
func TestExportStreams(t *testing.T) {
	place := []string{"--dir", t.TempDir(), "-n", "app"}
	file := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(file, []byte(strings.Repeat("v", 200_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	succeed(t, append([]string{"put", "k", "--path", file}, place...)...)
	dir := t.TempDir()
	fifo, device := filepath.Join(dir, "fifo"), filepath.Join(dir, "null")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(os.DevNull, device); err != nil {
		t.Fatal(err)
	}
	cmd := command(t, append([]string{"export", fifo, "--format", "json"}, place...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	reader, err := os.OpenFile(fifo, os.O_RDONLY|syscall.O_NONBLOCK, 0) // it waits for nobody
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	read := make(chan string, 1)
	go func() { read <- readPipe(reader) }()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(fifo); err != nil || info.Mode().Type() != os.ModeNamedPipe {
		t.Fatalf("the pipe was replaced: %v, %v", info, err)
	}
	if got := <-read; !strings.Contains(got, strings.Repeat("v", 200_000)) {
		t.Errorf("%d bytes came through the pipe", len(got))
	}
	if r := call(t, append([]string{"export", device}, place...)...); r.status != exitDone {
		t.Errorf("%+v", r)
	}
	empty(t, dir, "fifo", "null")
}

// readPipe reads what comes, until a writer that was there has gone.
func readPipe(r *os.File) string {
	var all []byte
	buffer := make([]byte, 64<<10)
	for begun := time.Now(); time.Since(begun) < time.Minute; {
		n, err := r.Read(buffer)
		if all = append(all, buffer[:n]...); err == io.EOF && len(all) > 0 {
			break
		}
		if n == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	return string(all)
}

// An export that waits for the reader of a pipe can be interrupted.
func TestExportToPipeEnds(t *testing.T) {
	place := []string{"--dir", t.TempDir(), "-n", "app"}
	succeed(t, append([]string{"put", "k", "v"}, place...)...)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	r := call(t, append([]string{"export", fifo, "--timeout", "3s"}, place...)...)
	if r.status != exitUnavailable || !strings.Contains(r.stderr, "fifo") {
		t.Errorf("%+v", r)
	}
	file := filepath.Join(t.TempDir(), "pairs.json")
	writePairs(t, file, 1000, 1000) // more than a pipe holds
	succeed(t, append([]string{"bulk", "put", file}, place...)...)
	cmd := command(t, append([]string{"export", fifo}, place...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(fifo)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	if _, err := reader.Read(make([]byte, 1)); err != nil { // it is writing
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != exitInterrupted {
		t.Errorf("%v", cmd.ProcessState)
	}
}
