package kvstore_test

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A process with a Store has no socket of any kind; with a Dir, that for others
// of the same Dir, which has no port. It is looked at from outside; that this can see listeners, one that has them shows.
func TestNoListener(t *testing.T) {
	for _, tc := range []struct {
		name, role, args string
		want             []string
	}{
		{"default", "open", "", nil},
		{"Dir", "open", t.TempDir(), []string{"unix listens"}},
		{"listeners", "listener", t.TempDir(), []string{"tcp listens", "unix listens"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := startRole(t, tc.role, tc.args)
			c.expect(t, "ready")
			c.works(t)
			if got := socketsOf(t, c.cmd.Process.Pid); !slices.Equal(got, tc.want) {
				t.Errorf("the process has sockets %q, want %q", got, tc.want)
			}
			c.end(t)
		})
	}
}

func init() { roles["listener"] = playListener }

// playListener listens, as a Store must not.
func playListener(dir string) error {
	for network, address := range map[string]string{"tcp4": "127.0.0.1:0", "unix": filepath.Join(dir, "socket")} {
		l, err := net.Listen(network, address)
		if err != nil {
			return err
		}
		defer func() { _ = l.Close() }()
	}
	return answer(nil)
}

// socketsOf returns what the sockets of a process are, in order.
func socketsOf(t *testing.T, pid int) []string {
	t.Helper()
	known := socketTables(t, pid)
	var found []string
	for _, target := range filesOf(t, pid) {
		inode, ok := strings.CutPrefix(target, "socket:[")
		if !ok {
			continue
		}
		what, ok := known[strings.TrimSuffix(inode, "]")]
		if !ok {
			what = "other"
		}
		found = append(found, what)
	}
	slices.Sort(found)
	return found
}

// socketTables returns what the kernel tells of sockets, by inode.
func socketTables(t *testing.T, pid int) map[string]string {
	t.Helper()
	sockets := make(map[string]string)
	for _, table := range []struct {
		name         string
		inode, state int    // columns
		listening    string // the value of state
	}{
		{"tcp", 9, 3, "0A"},
		{"tcp6", 9, 3, "0A"},
		{"udp", 9, 3, "07"}, // unconnected: it receives from anybody
		{"udp6", 9, 3, "07"},
		{"unix", 6, 3, "00010000"},
	} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table.name))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			columns := strings.Fields(line)
			if len(columns) <= table.inode {
				continue
			}
			what := "connects"
			if columns[table.state] == table.listening {
				what = "listens"
			}
			sockets[columns[table.inode]] = table.name + " " + what
		}
	}
	return sockets
}

// filesOf returns what the file descriptors of a process point at.
func filesOf(t *testing.T, pid int) []string {
	t.Helper()
	links, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil || len(links) < 3 {
		t.Fatalf("process %d has %d files: %v", pid, len(links), err)
	}
	var targets []string
	for _, link := range links {
		if target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, link.Name())); err == nil { // else it was closed just now
			targets = append(targets, target)
		}
	}
	return targets
}

// Opening a Store changes nothing in what signals do to the process.
func TestSignals(t *testing.T) {
	for _, tc := range []struct {
		signal  syscall.Signal
		outcome string // of any Go program that does not care
	}{
		{syscall.SIGTERM, "killed by terminated"},
		{syscall.SIGINT, "killed by interrupt"},
		{syscall.SIGHUP, "killed by hangup"},
		{syscall.SIGQUIT, "exit 2"},
		{syscall.SIGUSR1, "works"},
		{syscall.SIGUSR2, "works"},
	} {
		t.Run(tc.signal.String(), func(t *testing.T) {
			if signal.Ignored(tc.signal) {
				t.Skip("whoever started this test has it ignored, and children inherit that")
			}
			for _, start := range [][2]string{{"bare", ""}, {"open", ""}, {"open", t.TempDir()}} {
				c := startRole(t, start[0], start[1])
				c.expect(t, "ready")
				if got := c.outcome(t, tc.signal); got != tc.outcome {
					t.Errorf("%q: %s; stderr: %s", start, got, &c.stderr)
				}
			}
		})
	}
}

// outcome sends a signal. A process that it does not end has to work afterwards,
// and to end with its stdin.
func (c *child) outcome(t *testing.T, sig syscall.Signal) string {
	t.Helper()
	if err := c.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	if sig == syscall.SIGUSR1 || sig == syscall.SIGUSR2 {
		c.works(t)
		c.end(t)
		return "works"
	}
	defer time.AfterFunc(20*time.Second, func() { _ = c.cmd.Process.Kill() }).Stop()
	for c.lines.Scan() { // what it still says, so that Wait sees the end of the pipe
	}
	_ = c.cmd.Wait() // its error is what follows
	status := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return "killed by " + status.Signal().String()
	}
	return "exit " + strconv.Itoa(status.ExitStatus())
}
