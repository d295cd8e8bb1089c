//go:build unix

package embedded_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/replication/embedded"
)

// join makes the test a member of a directory until its end.
func join(t *testing.T, opts embedded.Options) *embedded.Member {
	t.Helper()
	m, err := embedded.Join(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { leave(t, m) })
	return m
}

func leave(t *testing.T, m *embedded.Member) {
	t.Helper()
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// through connects by a member until the end of the test.
func through(t *testing.T, m *embedded.Member) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect("nats://127.0.0.1", nats.SetCustomDialer(m), nats.MaxReconnects(-1),
		nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc, streams(t, nc)
}

// One serves, the others get what it has; when it leaves another one goes on with the same data.
func TestMembersTakeTurns(t *testing.T) {
	dir := t.TempDir()
	first, err := embedded.Join(t.Context(), embedded.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	_, js := through(t, first)
	createStream(t, js, jetstream.FileStorage)
	put(t, js, "s.a", "1")

	second, third := join(t, embedded.Options{Dir: dir}), join(t, embedded.Options{Dir: dir})
	if !first.Serving() || second.Serving() || third.Serving() {
		t.Fatal("not the first one serves, or not alone")
	}
	_, js2 := through(t, second)
	_, js3 := through(t, third)
	wantLast(t, js2, "s.a", "1")
	put(t, js3, "s.a", "2")
	wantLast(t, js2, "s.a", "2")

	leave(t, first)
	putSoon(t, js2, "s.b", "3")
	wantLast(t, js3, "s.b", "3")
	wantLast(t, js3, "s.a", "2")
	if second.Serving() == third.Serving() {
		t.Errorf("serving: second %v, third %v", second.Serving(), third.Serving())
	}
}

// putSoon puts as soon as somebody takes it.
func putSoon(t *testing.T, js jetstream.JetStream, subject, value string) {
	t.Helper()
	for end := time.Now().Add(quick); ; time.Sleep(5 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond) // an answer may be lost
		_, err := js.Publish(ctx, subject, []byte(value))
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func wantLast(t *testing.T, js jetstream.JetStream, subject, want string) {
	t.Helper()
	var got string
	for end := time.Now().Add(quick); ; time.Sleep(5 * time.Millisecond) {
		s, err := js.Stream(t.Context(), "S")
		if err == nil {
			var m *jetstream.RawStreamMsg
			if m, err = s.GetLastMsgForSubject(t.Context(), subject); err == nil {
				got = string(m.Data)
			}
		}
		if got == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is %q, %v, want %q", subject, got, err, want)
		}
	}
}

// A socket that a killed process has left is in nobody's way, nor is one that it had not finished.
func TestMemberFindsStaleSockets(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "nats"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sock", "nats/sock"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name)})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	first, second := join(t, embedded.Options{Dir: dir}), join(t, embedded.Options{Dir: dir})
	if !first.Serving() || second.Serving() {
		t.Error("the second one serves")
	}
	through(t, second)
}

// Nobody but the owner can come in, at any moment; and after the last has left there is no socket.
func TestMemberModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	m, err := embedded.Join(t.Context(), embedded.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{".": 0o700, "nats": 0o700, "sock": 0o600, "lock": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v; %v", name, info.Mode(), want, err)
		}
	}
	leave(t, m)
	if _, err := os.Lstat(filepath.Join(dir, "sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// The path of a socket has at most 107 bytes, or 103. That of a directory may have more, where that can be helped.
func TestMemberInLongDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 50))
	if runtime.GOOS != "linux" {
		_, err := embedded.Join(t.Context(), embedded.Options{Dir: dir})
		wantErrorIs(t, err, embedded.ErrInvalidOptions)
		return
	}
	first, second := join(t, embedded.Options{Dir: dir}), join(t, embedded.Options{Dir: dir})
	if !first.Serving() || second.Serving() {
		t.Error("the second one serves")
	}
	through(t, second)
}

// A directory that somebody has who lets nobody in is waited for, and not longer than the context allows.
func TestMemberWaits(t *testing.T) {
	dir := t.TempDir()
	s, err := embedded.Start(t.Context(), embedded.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	_, err = embedded.Join(t.Context(), embedded.Options{Dir: dir, Exclusive: true})
	wantErrorIs(t, err, embedded.ErrLocked)
	wantErrorIs(t, joinWhileLocked(t, dir), context.DeadlineExceeded)

	time.AfterFunc(50*time.Millisecond, func() { shutdown(t, s) })
	if m := join(t, embedded.Options{Dir: dir}); !m.Serving() {
		t.Error("nobody serves")
	}
}

// One that keeps to itself lets nobody in.
func TestExclusiveMember(t *testing.T) {
	dir := t.TempDir()
	join(t, embedded.Options{Dir: dir, Exclusive: true})
	if _, err := os.Lstat(filepath.Join(dir, "sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a socket: %v", err)
	}
	wantErrorIs(t, joinWhileLocked(t, dir), embedded.ErrLocked)
}

// joinWhileLocked returns the error of a Join whose context ends while somebody else has the directory. On a busy
// machine a context of a few milliseconds may end before the Join has come to the lock: then it gets more time.
func joinWhileLocked(t *testing.T, dir string) error {
	t.Helper()
	for patience := 50 * time.Millisecond; ; patience *= 2 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := embedded.Join(ctx, embedded.Options{Dir: dir})
		cancel()
		if errors.Is(err, embedded.ErrLocked) || !errors.Is(err, context.DeadlineExceeded) || patience > time.Minute {
			wantErrorIs(t, err, embedded.ErrLocked)
			return err
		}
	}
}

// Somebody who has come in and does not read must not hold up the one who leaves.
func TestMemberLeavesStuckClients(t *testing.T) {
	dir := t.TempDir()
	m, err := embedded.Join(t.Context(), embedded.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	stuck, err := net.Dial("unix", filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stuck.Close() }()
	if _, err := stuck.Write([]byte("CONNECT {\"verbose\":false}\r\nSUB s.> 1\r\nPING\r\n")); err != nil {
		t.Fatal(err)
	}
	nc, _ := through(t, m)
	payload := make([]byte, 1<<20)
	for range 20 { // more than the buffers of sockets hold
		if err := nc.Publish("s.a", payload); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	leave(t, m)
}

// A directory that one member needs synced is synced by all who serve it; and that member is not served by one who does not.
func TestMembersAgreeOnSync(t *testing.T) {
	dir := t.TempDir()
	first, err := embedded.Join(t.Context(), embedded.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	_, err = embedded.Join(t.Context(), embedded.Options{Dir: dir, SyncAlways: true})
	wantErrorIs(t, err, embedded.ErrInvalidOptions)
	leave(t, first)

	second, err := embedded.Join(t.Context(), embedded.Options{Dir: dir, SyncAlways: true})
	if err != nil {
		t.Fatal(err)
	}
	if !second.Syncs() {
		t.Error("the server of a member with SyncAlways does not sync")
	}
	third := join(t, embedded.Options{Dir: dir})
	_, js := through(t, third)
	createStream(t, js, jetstream.FileStorage)
	leave(t, second)
	putSoon(t, js, "s.a", "1")
	if !third.Serving() || !third.Syncs() {
		t.Errorf("the one who has taken over: serves %v, syncs %v", third.Serving(), third.Syncs())
	}
	join(t, embedded.Options{Dir: dir, SyncAlways: true})
}
