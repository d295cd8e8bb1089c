package replication

import (
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
)

// wire gives out connections to a server that can be cut, at any byte.
type wire struct {
	to nats.InProcessConnProvider

	mu    sync.Mutex
	conns []*wireConn
	limit func() int // bytes after which the next connection breaks, in either direction; nil: never
	cuts  int
}

// wireConn breaks when its budget of bytes is used up.
type wireConn struct {
	net.Conn
	wire *wire

	mu          sync.Mutex
	limited     bool
	read, write int // bytes left
	deaf        bool
	cut         bool
}

// InProcessConn implements nats.InProcessConnProvider.
func (w *wire) InProcessConn() (net.Conn, error) {
	conn, err := w.to.InProcessConn()
	if err != nil {
		return nil, err
	}
	c := &wireConn{Conn: conn, wire: w}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.limit != nil {
		c.limited, c.read, c.write = true, w.limit(), w.limit()
	}
	w.conns = append(w.conns, c)
	return c, nil
}

func (w *wire) setLimit(limit func() int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit = limit
}

// each does something to every connection.
func (w *wire) each(do func(*wireConn)) {
	w.mu.Lock()
	conns := w.conns
	w.mu.Unlock()
	for _, c := range conns {
		do(c)
	}
}

func (w *wire) cut() { w.each((*wireConn).breakOff) }

// deafen loses what the server says, until the connection is cut.
func (w *wire) deafen() {
	w.each(func(c *wireConn) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.deaf = true
	})
}

func (w *wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cuts
}

func (c *wireConn) breakOff() {
	c.mu.Lock()
	first := !c.cut
	c.cut = true
	c.mu.Unlock()
	if first {
		_ = c.Conn.Close() // it may be closed
		c.wire.mu.Lock()
		c.wire.cuts++
		c.wire.mu.Unlock()
	}
}

// spend takes n bytes off a budget, or what is left of it.
func (c *wireConn) spend(budget *int, n int) (most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.limited {
		return n
	}
	most = min(n, *budget)
	*budget -= most
	return most
}

func (c *wireConn) isDeaf() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deaf
}

func (c *wireConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || n == 0 {
			return n, err
		}
		if c.isDeaf() {
			continue
		}
		most := c.spend(&c.read, n)
		if most < n {
			c.breakOff()
		}
		if most == 0 {
			return 0, net.ErrClosed
		}
		return most, nil
	}
}

func (c *wireConn) Write(p []byte) (int, error) {
	most := c.spend(&c.write, len(p))
	n, err := c.Conn.Write(p[:most])
	if most < len(p) && err == nil {
		c.breakOff()
		err = net.ErrClosed
	}
	return n, err
}

// tough returns a connection through the wire that reconnects for as long as it
// lives.
func (w *wire) tough(t testing.TB) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(w), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1),
		nats.CustomReconnectDelay(reconnectSoon), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func newRand(t testing.TB, seed uint64) *rand.Rand {
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, seed))
}
