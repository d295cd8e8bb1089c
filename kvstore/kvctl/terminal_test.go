//go:build unix

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
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

// acting is text of which each part would act on a terminal: sequences, C1 controls as UTF-8, marks of direction and
// of format, tags, line separators.
const acting = "\x1b]0;t\x07\u009b31m\u0085\u202e\u2066\u200e\u061c\u2028\u200b\ufeff\U000e0041\x7f\b"

// wantNoAction checks that what was shown cannot act; newlines, and what kvctl itself does for a bar, are fine.
func wantNoAction(t *testing.T, what, shown string) {
	t.Helper()
	for _, r := range strings.ReplaceAll(strings.ReplaceAll(acting, "]0;t", ""), "31m", "") {
		if r != '\x1b' && strings.ContainsRune(shown, r) {
			t.Errorf("%q: %U was sent to the terminal: %q", what, r, shown)
			return
		}
	}
	if strings.Contains(shown, "\x1b]") || strings.Contains(shown, "\x9b") || strings.Contains(shown, "\x1b[31mX") {
		t.Errorf("%q: a sequence was sent to the terminal: %q", what, shown)
	}
}

// Nothing of keys, values, metadata and names of files acts on a terminal. In pipes they are exact.
func TestNothingActsOnTerminal(t *testing.T) {
	dir := t.TempDir()
	place := []string{"--dir", dir, "-n", "app"}
	const key, value = "k" + acting, "v" + acting + "\tä\n\r\xff\x9b31m\x1b[31mX"
	put := command(t, append([]string{"put", key, "-", "--metadata", `"m` + strings.NewReplacer("\x1b", "", "\x07", "", "\b", "").Replace(acting) + `"`}, place...)...)
	put.Stdin = strings.NewReader(value)
	if r := finish(t, put); r.status != exitDone {
		t.Fatal(r)
	}
	keys := filepath.Join(dir, "keys.json")
	data, err := marshal([]string{key})
	if err == nil {
		err = os.WriteFile(keys, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"get", key},
		{"get", key, "--json"},
		{"list"},
		{"list", "--long"},
		{"list", "--json"},
		{"bulk", "get", keys},
		{"export", "-", "--format", "json"},
		{"get", "absent" + acting},
		{"import", "absent" + acting},
		{"get", key, "-n", "app" + acting},
		{"delete", "--if-revision", "7", key},
		{"nonsense" + acting},
	} {
		what := strings.Join(args, " ")
		shown := inTerminal(t, command(t, slices.Concat(place, args)...))
		if shown == "" {
			t.Errorf("%q shows nothing", what)
		}
		wantNoAction(t, what, shown)
	}
	shown := inTerminal(t, command(t, append([]string{"get", key}, place...)...))
	const want = `v\x1b]0;t\a\u009b31m\u0085\u202e\u2066\u200e\u061c\u2028\u200b\ufeff\U000e0041\x7f\b` + "\tä\n" + `\r\xff\x9b31m\x1b[31mX` + "\n"
	if shown != want {
		t.Errorf("get: %q, not %q", shown, want)
	}
	if got := succeed(t, append([]string{"get", key}, place...)...); got != value {
		t.Errorf("get in a pipe: %q", got)
	}
	if got := succeed(t, append([]string{"list"}, place...)...); got != key+"\n" {
		t.Errorf("list in a pipe: %q", got)
	}
}

// JSON on a terminal is the same JSON.
func TestJSONOnTerminal(t *testing.T) {
	place := []string{"--dir", t.TempDir(), "-n", "app"}
	const key = "k" + acting
	succeed(t, append([]string{"put", key, acting}, place...)...)
	var entry struct{ Key, Value string }
	shown := inTerminal(t, command(t, append([]string{"get", key, "--json"}, place...)...))
	if err := json.Unmarshal([]byte(shown), &entry); err != nil || entry.Key != key || entry.Value != acting {
		t.Errorf("%q: %v, %q", shown, err, entry)
	}
}

// A watch on a terminal shows what keys and values have, and does nothing of it.
func TestWatchOnTerminal(t *testing.T) {
	place := []string{"--dir", t.TempDir(), "-n", "app"}
	succeed(t, append([]string{"put", "k" + acting, acting}, place...)...)
	for _, flags := range [][]string{nil, {"--json"}} {
		cmd := command(t, append(append([]string{"watch"}, flags...), place...)...)
		screen, err := pty.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(screen).ReadString('\n')
		if err != nil || !strings.Contains(line, "put") {
			t.Errorf("%q, %v", line, err)
		}
		wantNoAction(t, "watch", line)
		_ = cmd.Process.Signal(syscall.SIGINT) // it has not ended
		_ = cmd.Wait()
		_ = screen.Close()
	}
}
