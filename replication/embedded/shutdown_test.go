package embedded_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/nearkv/nearkv/replication/embedded"
)

// quick is far above what Shutdown needs (half a second with clients that do not read), and far below the 10 s that
// the server would wait for them.
const quick = 5 * time.Second

func TestShutdownIsIdempotent(t *testing.T) {
	dir := t.TempDir()
	s := start(t, embedded.Options{Dir: dir})
	_, js := connect(t, s)
	createStream(t, js, jetstream.FileStorage)
	var callers sync.WaitGroup
	for range 16 {
		callers.Go(func() {
			shutdown(t, s)
			// Whoever returns, returns after everything is gone.
			if err := tryLock(dir); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	shutdown(t, s)
}

// The lock outlasts the server: nobody starts on the directory while it is still going down.
func TestLockedUntilServerIsDown(t *testing.T) {
	dir := t.TempDir()
	log := newRecords("Server Exiting..")
	s := start(t, embedded.Options{Dir: dir, Logger: log.logger()})
	var down sync.WaitGroup
	down.Go(func() { shutdown(t, s) })
	<-log.reached
	if err := tryLock(dir); err == nil {
		t.Error("the directory is free before the server is down")
	}
	close(log.release)
	down.Wait()
	if err := tryLock(dir); err != nil {
		t.Error(err)
	}
}

func TestShutdownWithClients(t *testing.T) {
	before := goleak.IgnoreCurrent()
	s := start(t, embedded.Options{Dir: t.TempDir()})
	nc, js := connect(t, s)
	createStream(t, js, jetstream.FileStorage)
	var busy, publishers sync.WaitGroup
	busy.Add(4)
	for i := range 4 {
		publishers.Go(func() {
			for k := range math.MaxInt {
				_, err := js.Publish(t.Context(), fmt.Sprintf("s.%d.%d", i, k), nil)
				if k == 0 {
					busy.Done()
				}
				if err != nil {
					return
				}
			}
		})
	}
	busy.Wait()

	shutdownWithin(t, s, quick)
	nc.Close()
	publishers.Wait()
	goleak.VerifyNone(t, before)
}

// Clients that do not read must not hold Shutdown up: one that never read the greeting, one that stopped.
func TestShutdownWithStuckClients(t *testing.T) {
	s := start(t, embedded.Options{})
	unread, err := s.InProcessConn()
	if err != nil {
		t.Fatal(err)
	}
	stuck := subscribeRaw(t, s, "stuck")
	nc, _ := connect(t, s)
	if err := nc.Publish("stuck", make([]byte, 1<<16)); err != nil {
		t.Fatal(err)
	}
	flush(t, nc)

	shutdownWithin(t, s, quick)
	for _, c := range []net.Conn{unread, stuck} {
		if _, err := c.Write([]byte("PING\r\n")); err == nil {
			t.Error("connection is still open")
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func shutdownWithin(t *testing.T, s *embedded.Server, limit time.Duration) {
	t.Helper()
	begin := time.Now()
	shutdown(t, s)
	if took := time.Since(begin); took > limit {
		t.Errorf("Shutdown took %v", took)
	}
}

// Connections that are made while the server goes down either work or fail with net.ErrClosed; none holds it up.
func TestConnectRacesShutdown(t *testing.T) {
	before := goleak.IgnoreCurrent()
	s := start(t, embedded.Options{})
	var busy, clients sync.WaitGroup
	busy.Add(8)
	for range 8 {
		clients.Go(func() {
			for i := range math.MaxInt {
				c, err := s.InProcessConn()
				if i == 0 {
					busy.Done()
				}
				if err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Error(err)
					}
					return
				}
				_, _ = bufio.NewReader(c).ReadString('\n') // the greeting, or the end
				_ = c.Close()
			}
		})
	}
	busy.Wait()
	shutdownWithin(t, s, quick)
	clients.Wait()
	goleak.VerifyNone(t, before)
}

// A client of a server that is gone gives up soon, so that one that nobody closes does not retry for ever.
func TestConnectionOfDeadServerCloses(t *testing.T) {
	s := start(t, embedded.Options{})
	closed := make(chan struct{})
	nc, err := s.Connect(nats.MaxReconnects(2), nats.ReconnectJitter(0, 0), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	shutdown(t, s)
	select {
	case <-closed:
	case <-within(t, quick).Done():
		t.Error("still trying")
	}
}

// A slow reader must get what the default bound of the server would cut it off for.
func TestManyLargeMessagesPending(t *testing.T) {
	const size, count = 8 << 20, 10
	s := start(t, embedded.Options{MaxPayload: size})
	slow := subscribeRaw(t, s, "slow")
	nc, _ := connect(t, s)
	payload := make([]byte, size)
	for range count {
		if err := nc.Publish("slow", payload); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, nc)
	if _, err := io.CopyN(io.Discard, slow, size*count); err != nil {
		t.Errorf("the server cut the slow reader: %v", err)
	}
	_ = slow.Close()
}

// subscribeRaw speaks the protocol itself, and stops reading when the subscription stands.
func subscribeRaw(t *testing.T, s *embedded.Server, subject string) net.Conn {
	t.Helper()
	c, err := s.InProcessConn()
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	if _, err := in.ReadString('\n'); err != nil { // INFO
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(c, "CONNECT {\"verbose\":false}\r\nSUB %s 1\r\nPING\r\n", subject); err != nil {
		t.Fatal(err)
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "PONG\r\n" {
			return c
		}
	}
}

// tryLock takes and gives up the lock of dir. Other callers may hold it for a moment, so it is shared: it only asks
// whether a server holds it.
func tryLock(dir string) error {
	lock := flock.New(filepath.Join(dir, "lock"))
	ok, err := lock.TryRLock()
	if err == nil && !ok {
		err = errors.New("the directory is locked")
	}
	return errors.Join(err, lock.Unlock())
}
