//go:build unix

package main

import (
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
)

// inTerminal calls kvctl in a terminal of 100 columns, and returns what that has
// been sent.
func inTerminal(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	screen, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	shown, err := io.ReadAll(screen)
	if err != nil && !errors.Is(err, syscall.EIO) { // that is how a terminal ends
		t.Fatal(err)
	}
	_ = cmd.Wait() // its status is in ProcessState
	if err := screen.Close(); err != nil {
		t.Error(err)
	}
	return strings.ReplaceAll(string(shown), "\r\n", "\n")
}

// A bar has a count, a rate and the time that is left; it is for a terminal only,
// and nothing is left of it.
func TestProgress(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "pairs.json")
	writePairs(t, file, 20_000, 100)
	args := []string{"bulk", "put", file, "--dir", filepath.Join(dir, "data"), "-n", "app"}
	cmd := command(t, args...)
	shown := inTerminal(t, cmd)
	if cmd.ProcessState.ExitCode() != exitDone {
		t.Fatal(shown)
	}
	for _, want := range []string{
		`checking .*pairs\.json +0% `,                                        // bytes of the file
		`writing +\d+% \|█* *\| \(\d+/20000, [\d.]+ pairs/s\) \[\d+s:\d+s\]`, // elapsed and left
		`\n?20000 pairs in [\d.]+ s, \d+ a second\n$`,
	} {
		if !regexp.MustCompile(want).MatchString(shown) {
			t.Errorf("no %s in %q", want, shown)
		}
	}
	if last := shown[strings.LastIndex(shown, "\r")+1:]; strings.Contains(last, "|") {
		t.Errorf("a bar is left: %q", last)
	}
	if r := call(t, args...); r.status != exitDone || r.stdout != "" || r.stderr != "" {
		t.Errorf("in a pipe: %+v", r)
	}
}

// Colours are for terminals, and not if NO_COLOR is set.
func TestColors(t *testing.T) {
	dir := t.TempDir()
	place := []string{"--dir", dir, "-n", "app"}
	succeed(t, append([]string{"put", "k", "v"}, place...)...)
	for _, test := range []struct{ name, want string }{
		{"status", "state       \x1b[32mlive\x1b[0m\n"},
		{"list --long", "\x1b[1mSIZE  REVISION  EXPIRES  NAME  METADATA\x1b[0m\n"},
		{"get absent", "\x1b[31mkvctl:\x1b[0m key not found"},
	} {
		args := append(strings.Fields(test.name), place...)
		if shown := inTerminal(t, command(t, args...)); !strings.Contains(shown, test.want) {
			t.Errorf("%s: %q", test.name, shown)
		}
		for _, env := range []string{"NO_COLOR=1", "TERM=dumb"} {
			cmd := command(t, args...)
			cmd.Env = append(cmd.Env, env)
			if shown := inTerminal(t, cmd); strings.Contains(shown, "\x1b") {
				t.Errorf("%s with %s: %q", test.name, env, shown)
			}
		}
		if r := call(t, args...); strings.Contains(r.stdout+r.stderr, "\x1b") {
			t.Errorf("%s in a pipe: %+v", test.name, r)
		}
	}
}

// On a terminal a value ends with a newline, and a key controls nothing.
func TestTerminalText(t *testing.T) {
	dir := t.TempDir()
	place := []string{"--dir", dir, "-n", "app"}
	const key = "a\x1b[2Jb"
	cmd := command(t, append([]string{"put", key, "v"}, place...)...)
	if shown := inTerminal(t, cmd); shown != "creating namespace app\nrevision 1\n" {
		t.Errorf("put: %q", shown)
	}
	if shown := inTerminal(t, command(t, append([]string{"get", key}, place...)...)); shown != "v\n" {
		t.Errorf("get: %q", shown)
	}
	if shown := inTerminal(t, command(t, append([]string{"list"}, place...)...)); shown != `"a\x1b[2Jb"`+"\n" {
		t.Errorf("list: %q", shown)
	}
	if names := succeed(t, append([]string{"list"}, place...)...); names != key+"\n" {
		t.Errorf("list in a pipe: %q", names)
	}
}
