//go:build unix

package main

import (
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// empty checks that a directory has nothing but the names.
func empty(t *testing.T, dir string, but ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if strings.Join(left, " ") != strings.Join(but, " ") {
		t.Errorf("%s has %q, not %q", filepath.Base(dir), left, but)
	}
}

// What goes through a temporary file leaves none, however it ends: the file has no name while it is used.
func TestNoTemporaryFileStays(t *testing.T) {
	place := []string{"--dir", t.TempDir(), "-n", "app"}
	file := filepath.Join(t.TempDir(), "pairs.json")
	writePairs(t, file, 1000, 1000)
	succeed(t, append([]string{"bulk", "put", file}, place...)...)
	t.Run("export", func(t *testing.T) {
		temp := t.TempDir()
		cmd := command(t, append([]string{"export", "-", "--format", "json"}, place...)...)
		cmd.Env = append(cmd.Env, "TMPDIR="+temp)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		empty(t, temp)
		_ = out.Close() // as head does; it ends by SIGPIPE
		_ = cmd.Wait()
		empty(t, temp)
	})
	for _, command := range [][]string{{"import", "-"}, {"bulk", "put", "-"}, {"bulk", "get", "-"}, {"bulk", "delete", "-"}} {
		t.Run(strings.Join(command, " "), func(t *testing.T) { killReading(t, append(command, place...)) })
	}
}

// killReading kills a call while it reads stdin.
func killReading(t *testing.T, args []string) {
	temp := t.TempDir()
	cmd := command(t, args...)
	cmd.Env = append(cmd.Env, "TMPDIR="+temp)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(make([]byte, 1<<20)); err != nil { // more than a pipe holds: it is reading
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	empty(t, temp)
}

// The end of a terminal is an interruption as others: a command ends cleanly.
func TestHangup(t *testing.T) {
	// If the tests were started to ignore SIGHUP (nohup), so would kvctl be.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	place := []string{"--dir", t.TempDir(), "-n", "app"}
	file := filepath.Join(t.TempDir(), "pairs.json")
	writePairs(t, file, 20_000, 1000)
	succeed(t, append([]string{"bulk", "put", file}, place...)...)

	changes := follow(t, append(place, "--json")...)
	changes.want(t, `.*"event":"put".*`)
	go func() { _, _ = io.Copy(io.Discard, changes.out) }()
	for range 2 { // from the kernel and from the shell
		if err := changes.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	if state, err := changes.cmd.Process.Wait(); err != nil || !state.Success() {
		t.Errorf("watch: %v, %v", state, err)
	}

	for _, format := range []string{formatArchive, formatJSON} {
		dir := t.TempDir()
		cmd := command(t, append([]string{"export", filepath.Join(dir, "file"), "--format", format}, place...)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		untilFile(t, dir, ended)
		_ = cmd.Process.Signal(syscall.SIGHUP) // if it has not ended
		if err := <-ended; err == nil {
			empty(t, dir, "file")
		} else {
			empty(t, dir)
		}
	}
}

// untilFile waits until a directory has a file, or the command that is to write it ends.
func untilFile(t *testing.T, dir string, ended chan error) {
	t.Helper()
	for {
		list, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			ended <- err
			return
		default:
		}
		if len(list) > 0 {
			return
		}
	}
}
