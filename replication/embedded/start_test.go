package embedded_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/nearkv/nearkv/replication/embedded"
)

// Something is where the server needs a directory or a file. The error says so, nothing is left running or locked, and
// without the obstacle the server starts.
func TestFailedStart(t *testing.T) {
	mkdir := func(path string) error { return os.Mkdir(path, 0o700) }
	file := func(path string) error { return os.WriteFile(path, nil, 0o600) }
	for _, tc := range []struct {
		name     string
		obstacle string // in Dir
		put      func(path string) error
	}{
		{"Dir is a file", ".", file},
		{"lock is a directory", "lock", mkdir},
		{"store directory is a file", "nats", file},
		{"server's directory is a file", "nats/jetstream", file},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "kv")
			obstacle := filepath.Join(dir, filepath.FromSlash(tc.obstacle))
			if err := os.MkdirAll(filepath.Dir(obstacle), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := tc.put(obstacle); err != nil {
				t.Fatal(err)
			}
			wantStartError(t, dir)
			if err := os.Remove(obstacle); err != nil {
				t.Fatal(err)
			}
			start(t, embedded.Options{Dir: dir})
		})
	}
}

// wantStartError also checks that nothing keeps running.
func wantStartError(t *testing.T, dir string) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	log := newRecords("")
	_, err := embedded.Start(t.Context(), embedded.Options{Dir: dir, Logger: log.logger()})
	wantErrorIs(t, err, embedded.ErrStart)
	var failed *embedded.StartError
	var access *embedded.AccessError
	if !(errors.As(err, &failed) && failed.Reason != "") && !(errors.As(err, &access) && access.Reason != "" && access.Path != "") {
		t.Fatalf("error is %v, want one with a reason", err)
	}
	goleak.VerifyNone(t, before)
}

// A fatal error of the server arrives as it was said.
func TestStartErrorQuotesServer(t *testing.T) {
	dir := t.TempDir()
	_, err := startObstructed(t, dir)
	var failed *embedded.StartError
	if !errors.As(err, &failed) {
		t.Fatalf("error is %v, want a StartError", err)
	}
	if want := "Can't start JetStream: storage directory is not a directory"; failed.Reason != want {
		t.Errorf("reason is %q, want %q", failed.Reason, want)
	}
	if failed.Err == nil || failed.Err.Error() != "storage directory is not a directory" {
		t.Errorf("cause is %v", failed.Err)
	}
}

// startObstructed puts a file in the place of the server's directory just before the server looks there.
func startObstructed(t *testing.T, dir string) (*records, error) {
	t.Helper()
	log := newRecords("Starting nats-server")
	obstructed := make(chan error, 1)
	go func() {
		<-log.reached
		obstructed <- os.WriteFile(filepath.Join(dir, "nats", "jetstream"), nil, 0o600)
		close(log.release)
	}()
	_, err := embedded.Start(t.Context(), embedded.Options{Dir: dir, Logger: log.logger()})
	if err := <-obstructed; err != nil {
		t.Fatal(err)
	}
	return log, err
}

func TestSecondStartIsLocked(t *testing.T) {
	dir := t.TempDir()
	first := start(t, embedded.Options{Dir: dir})
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dir, link} {
		_, err := embedded.Start(t.Context(), embedded.Options{Dir: name})
		wantErrorIs(t, err, embedded.ErrLocked)
		var locked *embedded.LockedError
		if !errors.As(err, &locked) || locked.Dir != name {
			t.Errorf("error is %v, want it to name %s", err, name)
		}
	}
	shutdown(t, first)
	start(t, embedded.Options{Dir: dir})
}

func TestCanceledBeforeStart(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := filepath.Join(t.TempDir(), "kv")
	_, err := embedded.Start(ctx, embedded.Options{Dir: dir})
	wantErrorIs(t, err, context.Canceled)
	<-wantInterrupted(t, err).Done()
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Error("Dir was touched")
	}
}

// The context ends while the server stands still in its recovery: Start does not wait for it, the directory stays
// locked until it is gone, and then everything is free.
func TestInterruptedStart(t *testing.T) {
	before := goleak.IgnoreCurrent()
	dir := t.TempDir()
	log := newRecords("Starting JetStream")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-log.reached
		cancel()
	}()

	_, err := embedded.Start(ctx, embedded.Options{Dir: dir, Logger: log.logger()})
	wantErrorIs(t, err, context.Canceled)
	interrupted := wantInterrupted(t, err)

	_, err = embedded.Start(t.Context(), embedded.Options{Dir: dir})
	wantErrorIs(t, err, embedded.ErrLocked)
	select {
	case <-interrupted.Done():
		t.Error("done while the server is still starting")
	default:
	}

	close(log.release)
	<-interrupted.Done()
	goleak.VerifyNone(t, before)
	start(t, embedded.Options{Dir: dir})
}

func wantInterrupted(t *testing.T, err error) *embedded.InterruptedError {
	t.Helper()
	var interrupted *embedded.InterruptedError
	if !errors.As(err, &interrupted) {
		t.Fatalf("error is %v, want an InterruptedError", err)
	}
	if errors.Is(err, embedded.ErrStart) || errors.Is(err, embedded.ErrLocked) {
		t.Errorf("error is %v: the context is all that was wrong", err)
	}
	return interrupted
}

// The context of Start is not the life of the server.
func TestServerOutlivesContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s, err := embedded.Start(ctx, embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	nc, _ := connect(t, s)
	flush(t, nc)
	nc.Close()
	shutdown(t, s)
}
