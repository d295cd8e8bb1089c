package embedded

import (
	"net"
	"sync"
)

// conns is the client ends of all open connections.
//
// The server gives up a client that does not read only after its write deadline of 10 s, and Shutdown waits for that.
// Closing the client's end frees it at once.
type conns struct {
	mu     sync.Mutex
	closed bool // Invariant: once true, open is empty for ever.
	open   map[*conn]struct{}
}

// conn forgets itself when the client closes it, so that reconnecting costs no memory.
type conn struct {
	net.Conn
	owner *conns
}

func (c *conn) Close() error {
	c.owner.forget(c)
	return c.Conn.Close()
}

// add takes over nc. After closeAll it closes nc and fails with net.ErrClosed.
func (s *conns) add(nc net.Conn) (net.Conn, error) {
	c := &conn{Conn: nc, owner: s}
	s.mu.Lock()
	closed := s.closed
	if !closed {
		if s.open == nil {
			s.open = make(map[*conn]struct{})
		}
		s.open[c] = struct{}{}
	}
	s.mu.Unlock()
	if closed {
		_ = nc.Close() // a net.Pipe, cannot fail
		return nil, net.ErrClosed
	}
	return c, nil
}

func (s *conns) forget(c *conn) {
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
}

// cut closes what is open.
func (s *conns) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		_ = c.Conn.Close()
	}
	clear(s.open)
}

// closeAll closes what is open, and whatever would be added later. It does not block: closing a net.Pipe never does,
// which is why it may happen under the mutex, and why a second caller returns only when all are closed.
func (s *conns) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.open {
		_ = c.Conn.Close()
	}
	s.open = nil
}
