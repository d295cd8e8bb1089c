package kvstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
	"github.com/nearkv/nearkv/replication/embedded"
)

// startNATS starts a server of the user's, which listens, until the end of the
// test.
func startNATS(t *testing.T, change func(*server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir()}
	if change != nil {
		change(o)
	}
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not start")
	}
	return s
}

// dialNATS connects until the end of the test.
func dialNATS(t *testing.T, s nats.InProcessConnProvider) *nats.Conn {
	t.Helper()
	conn, err := nats.Connect("", nats.InProcessServer(s), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// wire is a way to a server that counts what is sent, and can lose it.
type wire struct {
	nats.InProcessConnProvider
	sent atomic.Int64 // bytes
	mute atomic.Bool
}

type wireConn struct {
	net.Conn
	wire *wire
}

func (w *wire) InProcessConn() (net.Conn, error) {
	conn, err := w.InProcessConnProvider.InProcessConn()
	return wireConn{conn, w}, err
}

func (c wireConn) Write(p []byte) (int, error) {
	c.wire.sent.Add(int64(len(p)))
	if c.wire.mute.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// leavesNothing runs a test, and looks whether goroutines, open files or files
// in the temporary directory are left behind.
func leavesNothing(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	before, files := goleak.IgnoreCurrent(), openFiles(t)
	t.Run("test", test)
	goleak.VerifyNone(t, before)
	for fd, target := range openFiles(t) {
		if files[fd] != target {
			t.Errorf("file %s is left open: %s", fd, target)
		}
	}
	left, err := os.ReadDir(temp)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v, %v", left, err)
	}
}

// openFiles returns what the file descriptors of this process point at, where
// the system tells.
func openFiles(t *testing.T) map[string]string {
	t.Helper()
	r, w, err := os.Pipe() // has the poller's own files opened
	if err := errors.Join(err, r.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil { // else it was that of the Glob
			files[filepath.Base(link)] = target
		}
	}
	return files
}

// places are the ways to open a Store. Each makes a server if it needs one.
var places = map[string]func(t *testing.T) kvstore.Options{
	"default": func(*testing.T) kvstore.Options { return kvstore.Options{} },
	"Dir":     func(t *testing.T) kvstore.Options { return kvstore.Options{Dir: t.TempDir()} },
	"URL":     func(t *testing.T) kvstore.Options { return kvstore.Options{URL: startNATS(t, nil).ClientURL()} },
	"Conn":    func(t *testing.T) kvstore.Options { return kvstore.Options{Conn: dialNATS(t, startNATS(t, nil))} },
}

func TestCloseLeavesNothing(t *testing.T) {
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			leavesNothing(t, func(t *testing.T) {
				opts := place(t)
				opts.CacheBytes = 100 // too few for both values
				for range 3 {
					useAll(t, opts)
				}
			})
		})
	}
}

// useAll opens a Store, uses it in every way, and closes it.
func useAll(t *testing.T, opts kvstore.Options) {
	t.Helper()
	ctx := t.Context()
	s := opened(t, "all", opts)
	wantPut(t, s, "a", strings.Repeat("a", 60), kvstore.WithTTL(time.Hour))
	wantPut(t, s, "b", strings.Repeat("b", 60), kvstore.WithMetadata(1))
	var watch sync.WaitGroup
	begun := make(chan struct{})
	watch.Go(func() {
		events := 0
		for _, err := range s.Watch(ctx, "") {
			if events++; events == 1 {
				close(begun)
			}
			if err != nil && !errors.Is(err, kvstore.ErrClosed) {
				t.Error(err)
			}
		}
	})
	<-begun
	if all, err := s.GetAll(ctx, []string{"a", "b", "c"}, kvstore.MaxStaleness(0)); err != nil || len(all) != 2 {
		t.Errorf("GetAll: %v, %v", all, err)
	}
	if err := errors.Join(s.Delete(ctx, "b"), s.Sync(ctx)); err != nil {
		t.Error(err)
	}
	closeStore(t, s)
	watch.Wait()
}

// underWay is every call that can wait, on a Store that has "key" and not its
// value.
func underWay(s *kvstore.Store) map[string]func() error {
	ctx := context.Background()
	return map[string]func() error{
		"Put":    func() error { _, err := s.Put(ctx, "put", nil); return err },
		"PutIf":  func() error { _, err := s.Put(ctx, "putif", nil, kvstore.IfAbsent()); return err },
		"Delete": func() error { return s.Delete(ctx, "delete") },
		"Get":    func() error { _, err := s.Get(ctx, "key"); return err },
		"GetAtLeast": func() error {
			_, err := s.Get(ctx, "key", kvstore.AtLeast(math.MaxUint64))
			return err
		},
		"GetMaxStaleness": func() error { _, err := s.Get(ctx, "key", kvstore.MaxStaleness(0)); return err },
		"GetAll":          func() error { _, err := s.GetAll(ctx, []string{"key"}); return err },
		"Sync":            func() error { return s.Sync(ctx) },
		"Watch": func() error {
			for _, err := range s.Watch(ctx, "nothing") {
				return err
			}
			return errors.New("ended without an error")
		},
		"WatchKey": func() error {
			for _, err := range s.Watch(ctx, "key") {
				return err
			}
			return errors.New("ended without an error")
		},
	}
}

// Close ends what is under way at once, whatever it waits for.
func TestCloseEndsCalls(t *testing.T) {
	for name, prevent := range map[string]func(*kvstoretest.Server, *wire){
		"server is down":   func(s *kvstoretest.Server, _ *wire) { s.SetDown(true) },
		"server is silent": func(_ *kvstoretest.Server, w *wire) { w.mute.Store(true) },
	} {
		for _, after := range []time.Duration{0, 500 * time.Millisecond, 7 * time.Second} {
			t.Run(fmt.Sprintf("%s/%v", name, after), func(t *testing.T) {
				kvstoretest.Run(t, func(t *testing.T) {
					server := kvstoretest.NewServer(t, "")
					w := &wire{InProcessConnProvider: server}
					s := opened(t, "calls", kvstore.Options{Conn: dialNATS(t, w), Memory: true, CacheBytes: -1})
					wantPut(t, s, "key", "value")
					synctest.Wait()
					time.Sleep(time.Second)
					prevent(server, w)
					synctest.Wait()

					var calls sync.WaitGroup
					running := sync.Map{}
					for name, call := range underWay(s) {
						running.Store(name, nil)
						calls.Go(func() {
							err := call()
							running.Delete(name)
							if !errors.Is(err, kvstore.ErrClosed) {
								t.Errorf("%s: %v", name, err)
							}
						})
					}
					time.Sleep(after)
					synctest.Wait()
					begin := time.Now()
					closeStore(t, s)
					synctest.Wait()
					running.Range(func(name, _ any) bool {
						t.Errorf("%s is still running", name)
						return true
					})
					if took := time.Since(begin); took != 0 {
						t.Errorf("Close took %v", took)
					}
					calls.Wait()
				})
			})
		}
	}
}

func TestClose(t *testing.T) {
	s, err := kvstore.Open(t.Context(), "close", kvstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	wantPut(t, s, "key", "value", kvstore.WithMetadata("m"), kvstore.WithTTL(time.Hour))
	wantSync(t, s) // which settles Modified
	entry := wantText(t, s, "key", "value")
	was := fmt.Sprint(entry.Key(), entry.Text(), entry.Value(), entry.Metadata(), entry.Revision(), entry.Expires(), entry.Modified())
	stats := s.Stats()
	var closers sync.WaitGroup
	for range 8 {
		closers.Go(func() { closeStore(t, s) })
	}
	closers.Wait()
	closeStore(t, s)

	calls := underWay(s)
	calls["GetAbsent"] = func() error { _, err := s.Get(t.Context(), "absent"); return err }
	calls["GetAllAbsent"] = func() error { _, err := s.GetAll(t.Context(), []string{"absent"}); return err }
	calls["List"] = func() error { _, err := s.List(kvstore.ListOptions{}); return err }
	calls["WatchChanges"] = func() error {
		for _, err := range s.Watch(t.Context(), "", kvstore.ChangesOnly()) {
			return err
		}
		return errors.New("ended without an error")
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, kvstore.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	yieldsOnly(t, kvstore.ErrClosed, s.Keys(""))
	if state := s.Status().State; state != kvstore.Closed {
		t.Errorf("state is %v", state)
	}
	if now := s.Stats(); now.Keys != stats.Keys || now.Writes != stats.Writes {
		t.Errorf("Stats after Close are %+v, were %+v", now, stats)
	}
	if now := fmt.Sprint(entry.Key(), entry.Text(), entry.Value(), entry.Metadata(), entry.Revision(), entry.Expires(), entry.Modified()); now != was {
		t.Errorf("an entry was %s and is %s after Close", was, now)
	}
}

// All methods at once, while the Store closes.
func TestCloseRace(t *testing.T) {
	for _, cacheBytes := range []int64{1 << 20, -1} {
		for range 5 {
			closeUnderLoad(t, cacheBytes)
		}
	}
}

func closeUnderLoad(t *testing.T, cacheBytes int64) {
	t.Helper()
	ctx := context.Background()
	s := opened(t, "race", kvstore.Options{CacheBytes: cacheBytes})
	revision := wantPut(t, s, "key", "value")
	each := map[string]func() error{
		"Put":             func() error { _, err := s.Put(ctx, "put", []byte("value"), kvstore.WithTTL(time.Second)); return err },
		"Delete":          func() error { return s.Delete(ctx, "put") },
		"PutIf":           func() error { _, err := s.Put(ctx, "put", nil, kvstore.IfRevision(revision)); return err },
		"Get":             func() error { _, err := s.Get(ctx, "put", kvstore.AtLeast(1)); return err },
		"GetMaxStaleness": func() error { _, err := s.Get(ctx, "key", kvstore.MaxStaleness(0)); return err },
		"GetAll":          func() error { _, err := s.GetAll(ctx, []string{"key", "put"}); return err },
		"List":            func() error { _, err := s.List(kvstore.ListOptions{}); return err },
		"Sync":            func() error { return s.Sync(ctx) },
		"Watch": func() error {
			for _, err := range s.Watch(ctx, "") {
				return err
			}
			return errors.New("ended without an error")
		},
		"Status": func() error {
			for _, err := range s.Keys("") {
				if _ = s.Stats(); err != nil {
					return err
				}
			}
			if s.Status().State == kvstore.Closed {
				return kvstore.ErrClosed
			}
			return nil
		},
	}
	var begun, callers, closers sync.WaitGroup
	for name, call := range each {
		begun.Add(1)
		callers.Go(func() {
			for i := 0; ; i++ {
				err := call()
				if i == 3 {
					begun.Done()
				}
				switch {
				case errors.Is(err, kvstore.ErrClosed):
					if i < 3 {
						begun.Done()
						t.Errorf("%s: closed too early", name)
					}
					return
				case err != nil && !errors.Is(err, kvstore.ErrNotFound) && !errors.Is(err, kvstore.ErrConflict):
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	begun.Wait()
	for range 3 {
		closers.Go(func() { closeStore(t, s) })
	}
	closers.Wait()
	callers.Wait()
}

// The context ends while the server reads its directory. Open does not wait; the
// Dir is free when the server has come to its end.
func TestOpenInterrupted(t *testing.T) {
	leavesNothing(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		release := make(chan struct{})
		opts := kvstore.Options{Dir: t.TempDir(), Logger: slog.New(&gate{at: "Starting JetStream", reached: cancel, release: release})}
		_, err := kvstore.Open(ctx, "interrupted", opts)
		wantErrors(t, err, kvstore.ErrUnavailable, context.Canceled)
		var interrupted *embedded.InterruptedError
		if !errors.As(err, &interrupted) {
			t.Fatalf("the error is %v", err)
		}
		opts.Logger, opts.Exclusive = nil, true
		_, err = kvstore.Open(t.Context(), "interrupted", opts)
		wantErrors(t, err, kvstore.ErrLocked)
		close(release)
		<-interrupted.Done()
		opened(t, "interrupted", opts)
	})
}

// gate is a handler of log records that stops at one of them.
type gate struct {
	slog.Handler
	at      string
	reached func()
	release <-chan struct{}
}

func (g *gate) Enabled(context.Context, slog.Level) bool { return true }

func (g *gate) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, g.at) {
		g.reached()
		<-g.release
	}
	return nil
}

// The largest value passes wherever the log is, also where a message has 1 MiB at the
// most; one byte more nowhere.
func TestLargestValue(t *testing.T) {
	const largest = 26_214_400
	value := bytes.Repeat([]byte("0123456789abcdef"), largest/16)
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			opts := place(t)
			opts.CacheBytes = -1
			s := opened(t, "large", opts)
			wantPut(t, s, "key", string(value), kvstore.WithMetadata(strings.Repeat("m", 1022)), kvstore.WithTTL(time.Hour), kvstore.IfAbsent())
			wantText(t, s, "key", string(value))
			_, err := s.Put(t.Context(), "key", append(value, 'x'))
			wantErrors(t, err, kvstore.ErrTooLarge)
			if opts.Dir != "" {
				closeStore(t, s)
				s = opened(t, "large", opts)
			}
			wantText(t, s, "key", string(value))
		})
	}
}

// Without the object store, what a server does not take in one message is refused
// before a byte is sent; what it takes just so passes with the longest subject and the most headers.
func TestMaxPayload(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		server, err := embedded.Start(t.Context(), embedded.Options{MaxPayload: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := server.Shutdown(); err != nil {
				t.Error(err)
			}
		})
		w := &wire{InProcessConnProvider: server}
		s := opened(t, "payload", kvstore.Options{Conn: dialNATS(t, w), Memory: true, CheckInterval: time.Hour, InlineBytes: -1})
		key := strings.Repeat(":", 512) // four bytes each in a subject
		most := []kvstore.WriteOption{kvstore.WithMetadata(strings.Repeat("m", 1022)), kvstore.WithTTL(time.Hour)}
		value := strings.Repeat("x", 1<<20-4<<10)
		wantPut(t, s, key, value, append(most, kvstore.IfAbsent())...)
		wantText(t, s, key, value)
		synctest.Wait()

		sent := w.sent.Load()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for _, size := range []int{1<<20 - 4<<10 + 1, 1 << 20, 25 << 20} {
			_, err := s.Put(ctx, key, make([]byte, size))
			wantErrors(t, err, kvstore.ErrTooLarge)
		}
		synctest.Wait()
		if now := w.sent.Load(); now != sent {
			t.Errorf("%d bytes were sent", now-sent)
		}
		wantText(t, s, key, value)
		if state := s.Status().State; state != kvstore.Live {
			t.Errorf("state is %v", state)
		}
	})
}
