package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/replication/embedded"
)

// filled returns a Dir with one stream, whose directory is the second result.
func filled(t *testing.T) (dir, stream string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "access-") // not t.TempDir: its parents are closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := start(t, embedded.Options{Dir: dir})
	_, js := connect(t, s)
	createStream(t, js, jetstream.FileStorage)
	put(t, js, "s.a", "1")
	shutdown(t, s)
	return dir, filepath.Join(dir, "nats", "jetstream", "$G", "streams", "S")
}

// A link, a pipe, a file of another kind or mode stops the start before anything is changed. Nothing waits.
func TestAccess(t *testing.T) {
	for _, tc := range []struct {
		name string
		harm func(dir, stream string) (path string, err error)
	}{
		{"Dir writable by all", func(dir, _ string) (string, error) { return dir, os.Chmod(dir, 0o777) }},
		{"nats is a link", func(dir, _ string) (string, error) { return link(filepath.Join(dir, "nats")) }},
		{"lock is a link", func(dir, _ string) (string, error) { return link(filepath.Join(dir, "lock")) }},
		{"lock is a pipe", func(dir, _ string) (string, error) { return pipe(filepath.Join(dir, "lock")) }},
		{"sock is a link", func(dir, _ string) (string, error) {
			return filepath.Join(dir, "sock"), os.Symlink("/nowhere", filepath.Join(dir, "sock"))
		}},
		{"a block is a link", func(_, stream string) (string, error) { return link(filepath.Join(stream, "msgs", "1.blk")) }},
		{"a block is a pipe", func(_, stream string) (string, error) { return pipe(filepath.Join(stream, "msgs", "1.blk")) }},
		{"the stream is a link", func(_, stream string) (string, error) { return link(stream) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, stream := filled(t)
			path, err := tc.harm(dir, stream)
			if err != nil {
				t.Fatal(err)
			}
			before := listing(t, dir)
			wantAccessError(t, dir, path)
			if after := listing(t, dir); after != before {
				t.Errorf("the directory was\n%s\nand is\n%s", before, after)
			}
		})
	}
}

func wantAccessError(t *testing.T, dir, path string) {
	t.Helper()
	_, err := embedded.Start(within(t, quick), embedded.Options{Dir: dir})
	wantErrorIs(t, err, embedded.ErrAccess)
	wantErrorIs(t, err, embedded.ErrStart)
	var access *embedded.AccessError
	if !errors.As(err, &access) || access.Path != path {
		t.Errorf("error is %v, want one of %s", err, path)
	}
}

func link(path string) (string, error) {
	return path, errors.Join(os.Rename(path, path+".real"), os.Symlink(path+".real", path))
}

func pipe(path string) (string, error) {
	return path, errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600))
}

// listing is the names, modes and sizes of all that is in a directory.
func listing(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("find", dir, "-not", "-name", "pid", "-printf", "%P %M %U %y %l\n").Output()
	if err != nil {
		t.Skip(err)
	}
	return string(out)
}

// A Dir that is reached through a link is fine, and so is one that the group can write into.
func TestAccessOfUsualDirs(t *testing.T) {
	dir, _ := filled(t)
	if err := os.Chmod(dir, 0o2770); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, name); err != nil {
		t.Fatal(err)
	}
	start(t, embedded.Options{Dir: name})
}

// Files of root in the Dir of a user stop the user, by name, and root does not make such files.
func TestOwners(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can have files of others")
	}
	dir, stream := filled(t)
	give := func(owner int) {
		if err := exec.Command("chown", "-R", itoa(owner), dir).Run(); err != nil {
			t.Fatal(err)
		}
	}
	give(65534)
	wantAccessError(t, dir, filepath.Join(dir, "nats"))
	block := filepath.Join(stream, "msgs", "1.blk")
	if err := os.Chown(block, 0, 0); err != nil {
		t.Fatal(err)
	}
	before := listing(t, dir)
	asNobody(t, func() {
		_, err := embedded.Start(t.Context(), embedded.Options{Dir: dir})
		var access *embedded.AccessError
		if !errors.As(err, &access) || access.Path != block {
			t.Errorf("error is %v, want an AccessError of %s", err, block)
		}
	})
	if after := listing(t, dir); after != before {
		t.Errorf("the directory was\n%s\nand is\n%s", before, after)
	}
	give(0)
	_, js := connect(t, start(t, embedded.Options{Dir: dir}))
	st, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	wantValue(t, st, "s.a", "1")
}

func itoa(n int) string {
	if n == 0 {
		return "0"
	}
	return "65534"
}

// What the server removes while it starts gets its name back, and the start fails.
func TestRemovedByServer(t *testing.T) {
	dir, stream := filled(t)
	log := newRecords("Starting nats-server")
	done := make(chan error, 1)
	go func() {
		<-log.reached
		done <- os.RemoveAll(stream) // as it does with a stream that it cannot set up
		close(log.release)
	}()
	_, err := embedded.Start(t.Context(), embedded.Options{Dir: dir, Logger: log.logger()})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantErrorIs(t, err, embedded.ErrDamaged)
	_, js := connect(t, start(t, embedded.Options{Dir: dir}))
	st, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	wantValue(t, st, "s.a", "1")
}

// A damaged Dir is told by name and offset, and is not touched.
func TestDamagedDir(t *testing.T) {
	dir, stream := filled(t)
	block := filepath.Join(stream, "msgs", "1.blk")
	data, err := os.ReadFile(block)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	if err := os.WriteFile(block, data, 0o600); err != nil {
		t.Fatal(err)
	}
	before := listing(t, dir)
	_, err = embedded.Start(t.Context(), embedded.Options{Dir: dir})
	var damaged *embedded.DamagedError
	if !errors.As(err, &damaged) || damaged.Damage[0].Path != block || damaged.Damage[0].Offset != 0 {
		t.Errorf("error is %v, want a DamagedError of %s", err, block)
	}
	if after := listing(t, dir); after != before {
		t.Errorf("the directory was\n%s\nand is\n%s", before, after)
	}
}

// A process that serves and is halted is named.
func TestHaltedServer(t *testing.T) {
	dir := t.TempDir()
	c := startChild(t, roleMember, dir)
	if err := c.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	wait(t, func() bool { return isHalted(t, c.cmd.Process.Pid) })
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := embedded.Join(ctx, embedded.Options{Dir: dir})
	var locked *embedded.LockedError
	if !errors.As(err, &locked) || locked.PID != c.cmd.Process.Pid || !locked.Silent || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v, want one that names process %d", err, c.cmd.Process.Pid)
	}
	if err := c.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	join(t, embedded.Options{Dir: dir})
}

// isHalted reports whether all threads of a process have stopped.
func isHalted(t *testing.T, pid int) bool {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(threads) == 0 {
		t.Fatal(err, threads)
	}
	for _, thread := range threads {
		if status, err := os.ReadFile(thread); err != nil || !strings.Contains(string(status), "State:\tT") {
			return false
		}
	}
	return true
}

// A member that has to take a damaged directory over says so, once, and goes on trying.
func TestTakeOverOfDamagedDir(t *testing.T) {
	dir, stream := filled(t)
	c := startChild(t, roleMember, dir)
	log := newRecords("")
	m := join(t, embedded.Options{Dir: dir, Logger: log.logger()})
	if m.Serving() {
		t.Fatal("the child does not serve")
	}
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.cmd.Wait()
	block := filepath.Join(stream, "msgs", "1.blk")
	if err := os.Rename(block, block+".away"); err != nil {
		t.Fatal(err)
	}
	wait(t, func() bool {
		_, err := m.Dial("", "")
		return err != nil && errors.Is(m.Trouble(), embedded.ErrDamaged) && errors.Is(m.Probe(0), embedded.ErrDamaged)
	})
	if err := os.Rename(block+".away", block); err != nil {
		t.Fatal(err)
	}
	wait(t, func() bool {
		_, err := m.Dial("", "")
		return err == nil && m.Trouble() == nil && m.Serving()
	})
	if lines := log.with("ERROR"); len(lines) != 1 || !strings.Contains(lines[0], "cannot serve") {
		t.Errorf("errors are %q, want one", lines)
	}
}

func wait(t *testing.T, f func() bool) {
	t.Helper()
	for end := time.Now().Add(quick); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to that")
		}
	}
}
