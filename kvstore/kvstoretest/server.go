package kvstoretest

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/nearkv/nearkv/replication/embedded"
)

// Server is a NATS server inside the test, for any number of Stores, with
// connections that the test can cut.
type Server struct {
	server *embedded.Server

	mu    sync.Mutex
	down  bool
	conns []net.Conn
}

// NewServer starts a server that keeps its files in dir, or if that is empty in a
// temporary directory of the test, and stops it when the test ends. A Store on it has
// its log in a file, or with kvstore.Options.Memory in memory; memory is faster.
func NewServer(t testing.TB, dir string) *Server {
	t.Helper()
	if dir == "" {
		dir = t.TempDir() // without one the server has no room for a Store without Memory
	}
	server, err := embedded.Start(context.Background(), embedded.Options{Dir: dir})
	if err != nil {
		t.Fatalf("kvstoretest: %v", err)
	}
	t.Cleanup(func() {
		if err := server.Shutdown(); err != nil {
			t.Errorf("kvstoretest: %v", err)
		}
	})
	return &Server{server: server}
}

// Conn returns a new connection, for kvstore.Options.Conn, which closes when
// the test ends. It reconnects for as long as it lives.
func (s *Server) Conn(t testing.TB, opts ...nats.Option) *nats.Conn {
	t.Helper()
	all := append([]nats.Option{
		nats.InProcessServer(s), nats.MaxReconnects(-1), nats.ReconnectWait(50 * time.Millisecond),
		nats.ReconnectJitter(10*time.Millisecond, 0), nats.ReconnectBufSize(-1),
	}, opts...)
	conn, err := nats.Connect("", all...)
	if err != nil {
		t.Fatalf("kvstoretest: %v", err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// InProcessConn implements nats.InProcessConnProvider.
func (s *Server) InProcessConn() (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return nil, net.ErrClosed
	}
	conn, err := s.server.InProcessConn()
	if err == nil {
		s.conns = append(s.conns, conn)
	}
	return conn, err
}

// Cut cuts all connections. Their owners reconnect.
func (s *Server) Cut() {
	s.mu.Lock()
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close() // it may have been closed by its owner
	}
}

// SetDown cuts all connections and refuses new ones, or accepts them again. In Run, a
// call that waits for a server which stays down needs a context with an end: nats.go
// dials again all the time, so that virtual time goes on and nothing is a deadlock.
func (s *Server) SetDown(down bool) {
	s.mu.Lock()
	s.down = down
	s.mu.Unlock()
	if down {
		s.Cut()
	}
}
