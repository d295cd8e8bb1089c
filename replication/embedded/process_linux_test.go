package embedded_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/replication/embedded"
)

// A killed process keeps what it has acknowledged, and no lock.
func TestKill9(t *testing.T) {
	dir := t.TempDir()
	c := startChild(t, roleWriter, dir)
	for range 200 {
		if !c.lines.Scan() {
			t.Fatal("writer has ended")
		}
	}
	_, err := embedded.Start(t.Context(), embedded.Options{Dir: dir})
	wantErrorIs(t, err, embedded.ErrLocked)

	acked := c.lines.Text()
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for c.lines.Scan() {
		acked = c.lines.Text()
	}
	_ = c.cmd.Wait() // its error is the kill

	_, js := connect(t, start(t, embedded.Options{Dir: dir}))
	st, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	last, err := strconv.Atoi(acked)
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= last; i++ {
		wantValue(t, st, fmt.Sprintf("s.%d", i), strconv.Itoa(i))
	}
}

// A process that holds a server dies of a signal as one without.
func TestSignalsKeepTheirDefault(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			if signal.Ignored(sig) {
				t.Skip("whoever started this test has it ignored, and children inherit that")
			}
			status := startChild(t, roleIdle, t.TempDir()).signal(sig)
			if !status.Signaled() || status.Signal() != sig {
				t.Errorf("wait status is %#x, want death by %v", status, sig)
			}
		})
	}
}

func TestSignalHandlerOfApplicationStays(t *testing.T) {
	status := startChild(t, roleHandler, t.TempDir()).signal(syscall.SIGTERM)
	if !status.Exited() || status.ExitStatus() != roleDone {
		t.Errorf("wait status is %#x, want exit code %d of the application's own handler", status, roleDone)
	}
}

// A process with a server has no socket at all, let alone one that listens.
func TestNoSockets(t *testing.T) {
	c := startChild(t, roleIdle, t.TempDir())
	fds := openFiles(t, c.cmd.Process.Pid)
	if len(fds) < 3 {
		t.Fatalf("child has files %v: not what was to be looked at", fds)
	}
	for _, target := range fds {
		if strings.HasPrefix(target, "socket:") {
			t.Errorf("child has %s", target)
		}
	}
}

func TestNoFilesAfterShutdown(t *testing.T) {
	dir := t.TempDir()
	s := start(t, embedded.Options{Dir: dir})
	_, js := connect(t, s)
	createStream(t, js, jetstream.FileStorage)
	put(t, js, "s.a", "1")
	if open := openBelow(t, dir); len(open) == 0 {
		t.Fatal("no open files while the server runs: not what was to be looked at")
	}
	shutdown(t, s)
	// The server looks for files of old versions when it opens a stream, on a goroutine that its shutdown does not wait
	// for: that may read the directory for a moment longer. It has no file open.
	open := openBelow(t, dir)
	for end := time.Now().Add(quick); len(open) == 1 && filepath.Base(open[0]) == "msgs" && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
		open = openBelow(t, dir)
	}
	if len(open) != 0 {
		t.Errorf("open after Shutdown: %v", open)
	}
}

func openBelow(t *testing.T, dir string) []string {
	t.Helper()
	var below []string
	for _, target := range openFiles(t, os.Getpid()) {
		if strings.HasPrefix(target, dir+"/") {
			below = append(below, target)
		}
	}
	return below
}

// openFiles is what the file descriptors of a process point at.
func openFiles(t *testing.T, pid int) []string {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil { // else it was closed just now
			targets = append(targets, target)
		}
	}
	return targets
}

// Whatever the umask is: other users can read nothing, and a directory that the user made stays as it is.
func TestFileModes(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	old := filepath.Join(t.TempDir(), "old")
	if err := os.Mkdir(old, 0o755); err != nil {
		t.Fatal(err)
	}
	made := filepath.Join(t.TempDir(), "parent", "made")
	for _, dir := range []string{old, made} {
		_, js := connect(t, start(t, embedded.Options{Dir: dir}))
		createStream(t, js, jetstream.FileStorage)
		put(t, js, "s.a", "1")
		wantPrivate(t, filepath.Join(dir, "nats"))
		wantMode(t, filepath.Join(dir, "lock"), 0o600)
	}
	wantMode(t, old, 0o755|os.ModeDir)
	wantMode(t, made, 0o700|os.ModeDir)
	wantMode(t, filepath.Dir(made), 0o700|os.ModeDir)
}

func wantPrivate(t *testing.T, root string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the server tidies up as it goes
		}
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		files++
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 5 {
		t.Errorf("only %d files in %s", files, root)
	}
}

// The server's own directory is closed to others, audibly.
func TestOpenStoreDirectoryIsClosed(t *testing.T) {
	dir := t.TempDir()
	store := filepath.Join(dir, "nats")
	if err := os.Mkdir(store, 0o755); err != nil {
		t.Fatal(err)
	}
	log := newRecords("")
	start(t, embedded.Options{Dir: dir, Logger: log.logger()})
	wantMode(t, store, 0o700|os.ModeDir)
	if warnings := log.with("WARN"); len(warnings) != 1 {
		t.Errorf("warnings are %q, want one", warnings)
	}
}

// Not allowed to write in Dir, or in what is there already.
func TestReadOnlyDir(t *testing.T) {
	for _, name := range []string{"empty", "used"} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "readonly") // not t.TempDir: its parents are closed to the user below
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			if name == "used" {
				s := start(t, embedded.Options{Dir: dir})
				shutdown(t, s)
			}
			if err := os.Chmod(dir, 0o555); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Chmod(dir, 0o700) })
			asNobody(t, func() {
				_, err := embedded.Start(t.Context(), embedded.Options{Dir: dir})
				if !errors.Is(err, embedded.ErrStart) || !errors.Is(err, fs.ErrPermission) {
					t.Errorf("error is %v, want a StartError of a denied permission", err)
				}
			})
		})
	}
}

// asNobody runs f as an ordinary user even if the test is run by root. It is only good for what happens in the same
// goroutine: the user of a thread's file accesses is changed, and the thread is thrown away.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if os.Geteuid() == 0 {
			runtime.LockOSThread()
			const nobody = 65534
			if _, _, errno := syscall.RawSyscall(syscall.SYS_SETFSUID, nobody, 0, 0); errno != 0 {
				t.Error(errno)
				return
			}
		}
		f()
	}()
	<-done
}

// Another user cannot come in through the socket of a directory, not even if the directory is open to him.
func TestOtherUserIsDenied(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can be another user")
	}
	dir := t.TempDir()
	join(t, embedded.Options{Dir: dir})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	knock := func() error {
		c, err := net.Dial("unix", filepath.Join(dir, "sock"))
		if err != nil {
			return err
		}
		return c.Close()
	}
	if err := knock(); err != nil {
		t.Fatalf("the owner is denied: %v", err)
	}
	denied := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := syscall.Setfsuid(65534); err != nil {
			denied <- err
			return
		}
		denied <- knock()
	}()
	wantErrorIs(t, <-denied, fs.ErrPermission)
}
