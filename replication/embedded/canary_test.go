package embedded_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/replication/embedded"
)

// The tests of this file hold what nats-server 2.15.2 does and this package leans on or works around. When one fails
// after an upgrade, the server has changed, perhaps for the better: look at what the comment names.

// rawServer is the server with nothing of ours.
func rawServer(t *testing.T, o server.Options) (*server.Server, *records) {
	t.Helper()
	o.DontListen, o.NoSigs, o.JetStream = true, true, true
	s, err := server.NewServer(&o)
	if err != nil {
		t.Fatal(err)
	}
	log := newRecords("")
	s.SetLoggerV2(canaryLog{log}, false, false, false)
	s.Start() // boot: it must return, ready or failed, without anybody polling
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s, log
}

func connectRaw(t *testing.T, s *server.Server) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc, streams(t, nc)
}

type canaryLog struct{ *records }

func (l canaryLog) Noticef(string, ...any) {}
func (l canaryLog) Warnf(string, ...any)   {}
func (l canaryLog) Errorf(string, ...any)  {}
func (l canaryLog) Debugf(string, ...any)  {}
func (l canaryLog) Tracef(string, ...any)  {}

func (l canaryLog) Fatalf(format string, v ...any) {
	l.logger().Error("FATAL " + fmt.Sprintf(format, v...))
}

// boot does not poll.
func TestCanaryStartReturnsReady(t *testing.T) {
	s, _ := rawServer(t, server.Options{StoreDir: t.TempDir()})
	if !s.JetStreamEnabled() || !s.Running() {
		t.Error("Start has returned before the server was ready")
	}
}

// serverLog.Fatalf is how a failed start is told.
func TestCanaryFatalfIsTheOnlySign(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "jetstream"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, log := rawServer(t, server.Options{StoreDir: dir})
	if got := log.with("ERROR FATAL"); len(got) != 1 {
		t.Errorf("fatal errors are %q, want one", got)
	}
	if !s.Running() {
		t.Error("a server that failed to start admits it now")
	}
}

// lockDir: the server has no lock of its own.
func TestCanaryServerDoesNotLock(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		s, log := rawServer(t, server.Options{StoreDir: dir})
		if !s.JetStreamEnabled() {
			t.Errorf("the server refuses a directory in use now: %q", log.with("ERROR"))
		}
	}
}

// noStore: 0 cannot be said. SyncInterval is in doc.go.
func TestCanaryJetStreamDefaults(t *testing.T) {
	s, _ := rawServer(t, server.Options{StoreDir: t.TempDir(), JetStreamMaxStore: 0, JetStreamMaxMemory: 0})
	cfg := s.JetStreamConfig()
	if cfg.MaxStore < 1<<20 || cfg.MaxMemory < 1<<20 {
		t.Errorf("0 is a limit now: store %d, memory %d", cfg.MaxStore, cfg.MaxMemory)
	}
	if cfg.SyncInterval != 2*time.Minute || cfg.SyncAlways {
		t.Errorf("fsync: every %v, always %v", cfg.SyncInterval, cfg.SyncAlways)
	}
}

// serverOptions sets MaxPending together with MaxPayload.
func TestCanaryMaxPayloadNeedsMaxPending(t *testing.T) {
	_, err := server.NewServer(&server.Options{MaxPayload: 2 << 20, MaxPending: 1 << 20})
	if err == nil || !strings.Contains(err.Error(), "max_pending") {
		t.Errorf("error is %v", err)
	}
}

// MaxMaxPayload is what the file store takes, with the longest subject that the protocol lets through; hardly more.
func TestCanaryLargestRecord(t *testing.T) {
	if testing.Short() {
		t.Skip("moves 64 MiB")
	}
	subject := "s." + strings.Repeat("x", 3900)
	_, js := connect(t, start(t, embedded.Options{Dir: t.TempDir(), MaxPayload: embedded.MaxMaxPayload}))
	createStream(t, js, jetstream.FileStorage)
	payload := make([]byte, 32<<20)
	if _, err := js.Publish(t.Context(), subject, payload[:embedded.MaxMaxPayload]); err != nil {
		t.Error(err)
	}

	raw, _ := rawServer(t, server.Options{StoreDir: t.TempDir(), MaxPayload: 33 << 20})
	_, js = connectRaw(t, raw)
	createStream(t, js, jetstream.FileStorage)
	_, err := js.Publish(t.Context(), "s.a", payload)
	wantAPIError(t, err, 10077)
}

// conns: a client that does not read holds Shutdown up for the whole write deadline.
func TestCanaryStuckClientHoldsShutdown(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, _ := rawServer(t, server.Options{StoreDir: t.TempDir()})
		c, err := s.InProcessConn()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		synctest.Wait()
		begin := time.Now()
		s.Shutdown()
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("Shutdown took %v", took)
		}
	})
}

// doc.go, Durability: the bytes are in the file when the acknowledgement comes.
func TestCanaryWrittenBeforeAck(t *testing.T) {
	dir := t.TempDir()
	_, js := connect(t, start(t, embedded.Options{Dir: dir}))
	createStream(t, js, jetstream.FileStorage)
	blocks := filepath.Join(dir, "nats", "jetstream", "$G", "streams", "S", "msgs", "*.blk")
	for i := range 50 {
		value := fmt.Sprintf("value-%d-", i)
		put(t, js, "s.a", value)
		if !inFiles(t, blocks, value) {
			t.Fatalf("%s is acknowledged and not in %s", value, blocks)
		}
	}
}

func inFiles(t *testing.T, pattern, value string) bool {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte(value)) {
			return true
		}
	}
	return false
}

// doc.go, What it does not do: Start switches the block profile off.
func TestCanaryBlockProfile(t *testing.T) {
	runtime.SetBlockProfileRate(1)
	defer runtime.SetBlockProfileRate(0)
	start(t, embedded.Options{})
	before := blocked()
	for blocked() != before { // goroutines that were counted already when Start ended the profile
		before = blocked()
	}
	blockHere()
	if blocked() != before {
		t.Error("the block profile of the application survives Start now")
	}
	runtime.SetBlockProfileRate(1)
	blockHere()
	if blocked() == before {
		t.Error("blocking is not counted at all: this test shows nothing")
	}
}

// blocked is how often a goroutine has blocked, as far as the profile knows.
func blocked() int64 {
	records := make([]runtime.BlockProfileRecord, 10_000)
	n, ok := runtime.BlockProfile(records)
	if !ok {
		return -1
	}
	var sum int64
	for _, r := range records[:n] {
		sum += r.Count
	}
	return sum
}

// blockHere blocks on a channel. The other goroutine waits until this one does: the runtime says so in its stack.
func blockHere() {
	c := make(chan struct{})
	go func() {
		stacks := make([]byte, 1<<20)
		for {
			for _, stack := range strings.Split(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
				if head, _, _ := strings.Cut(stack, "\n"); strings.Contains(head, "[chan receive") && strings.Contains(stack, "embedded_test.blockHere(") {
					close(c)
					return
				}
			}
			time.Sleep(time.Millisecond)
		}
	}()
	<-c
}
