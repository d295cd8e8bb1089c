//go:build unix

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// writePairs writes a bulk file of n keys k0000000 and so on, with values of a size.
func writePairs(t *testing.T, file string, n, size int) int64 {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	separator, value := "[\n", strings.Repeat("v", size)
	for i := range n {
		fmt.Fprintf(w, `%s{"key":"k%07d","value":"%d %s"}`, separator, i, i, value)
		separator = ",\n"
	}
	fmt.Fprintln(w, "\n]")
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// wantPairs checks that the namespace has the pairs of writePairs.
func wantPairs(t *testing.T, n int, place ...string) {
	t.Helper()
	names := strings.Fields(succeed(t, append([]string{"list"}, place...)...))
	if len(names) != n || names[0] != "k0000000" || names[n-1] != fmt.Sprintf("k%07d", n-1) {
		t.Fatalf("%d keys, not %d", len(names), n)
	}
	for _, i := range []int{0, n / 2, n - 1} {
		value := succeed(t, append([]string{"get", fmt.Sprintf("k%07d", i)}, place...)...)
		if !strings.HasPrefix(value, strconv.Itoa(i)+" v") {
			t.Errorf("pair %d: %q", i, value)
		}
	}
}

// follower is kvctl watch, whose lines can be waited for.
type follower struct {
	cmd    *exec.Cmd
	out    io.Reader
	lines  *bufio.Scanner
	stderr bytes.Buffer
}

func follow(t *testing.T, args ...string) *follower {
	t.Helper()
	f := &follower{cmd: command(t, append([]string{"watch"}, args...)...)}
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	f.cmd.Stderr, f.out, f.lines = &f.stderr, out, bufio.NewScanner(out)
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.cmd.Process.Kill() }) // if it has not ended
	return f
}

func (f *follower) want(t *testing.T, line string) {
	t.Helper()
	if !f.lines.Scan() || !regexp.MustCompile("^(?:"+line+")$").MatchString(f.lines.Text()) {
		t.Fatalf("%q, not %s; %s", f.lines.Text(), line, &f.stderr)
	}
}

// end interrupts it, which is its regular end.
func (f *follower) end(t *testing.T) {
	t.Helper()
	if err := f.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if f.lines.Scan() {
		t.Errorf("one more line: %q", f.lines.Text())
	}
	if err := f.cmd.Wait(); err != nil || f.stderr.Len() > 0 {
		t.Errorf("%v, %s", err, &f.stderr)
	}
}

// Watch writes a line for each change, at once, until it is interrupted. It runs
// beside the process that writes, on the same directory.
func TestWatch(t *testing.T) {
	place := []string{"--dir", t.TempDir(), "-n", "app"}
	do := func(args ...string) { t.Helper(); succeed(t, append(args, place...)...) }
	do("put", "user:1", "Ada", "--metadata", "1")
	do("put", "other", "x")
	text, lines := follow(t, append(place, "user:")...), follow(t, append(place, "user:", "--json")...)
	text.want(t, `put           1  user:1  "Ada"`)
	lines.want(t, `{"event":"put","key":"user:1","value":"Ada","metadata":1,"revision":1}`)
	do("put", "user:2", strings.Repeat("z", 100), "--ttl", "1")
	text.want(t, `put           3  user:2  "z{60}"\.\.\. \(100 bytes\)`)
	lines.want(t, `{"event":"put","key":"user:2","value":"z{100}","expiration":\d+,"revision":3}`)
	text.want(t, `expire        3  user:2`)
	lines.want(t, `{"event":"expire","key":"user:2","revision":3}`)
	do("delete", "user:1")
	text.want(t, `delete        4  user:1`)
	lines.want(t, `{"event":"delete","key":"user:1","revision":4}`)
	text.end(t)
	lines.end(t)
}

// A bulk put that is interrupted says where to go on; one that is killed can be
// begun anew. Nothing is missing then.
func TestBulkPutGoesOn(t *testing.T) {
	const n = 100_000
	dir := t.TempDir()
	file := filepath.Join(dir, "pairs.json")
	writePairs(t, file, n, 100)
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			place := []string{"--dir", t.TempDir(), "-n", "app"}
			succeed(t, append([]string{"put", "k0000000", "old"}, place...)...)
			changes := follow(t, append(place, "--json")...)
			changes.want(t, `.*"old".*`)
			cmd := command(t, append([]string{"bulk", "put", file}, place...)...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			changes.want(t, `.*v+".*`) // it has begun
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			_ = changes.cmd.Process.Kill() // it has shown what it should, and would go on with 100,000 lines
			_ = cmd.Wait()                 // its status is in ProcessState
			again := []string{"bulk", "put", file, "--json"}
			if signal == syscall.SIGINT {
				again = append(again, "--skip", goOn(t, cmd.ProcessState, stderr.String(), n))
			} else if cmd.ProcessState.Exited() {
				t.Fatal("it ended before it was killed")
			}
			if out := succeed(t, append(again, place...)...); !strings.Contains(out, `"total":100000`) {
				t.Error(out)
			}
			wantPairs(t, n, place...)
		})
	}
}

// goOn returns the --skip that an interrupted bulk put has told.
func goOn(t *testing.T, ended *os.ProcessState, stderr string, n int) string {
	t.Helper()
	told := regexp.MustCompile(`\n(\d+) of 100000 pairs are in; go on with --skip (\d+)\n$`).FindStringSubmatch(stderr)
	if ended.ExitCode() != exitInterrupted || told == nil {
		t.Fatalf("status %d, %s", ended.ExitCode(), stderr)
	}
	if skip, err := strconv.Atoi(told[2]); err != nil || skip >= n {
		t.Errorf("it was not interrupted in the middle: %s", stderr)
	}
	t.Log(strings.TrimSpace(stderr))
	return told[2]
}
