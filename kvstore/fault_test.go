package kvstore

import (
	"flag"
	"net"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/nearkv/nearkv/codec"
)

var faultSeed = flag.Uint64("faultseed", 1, "seed of the tests with random faults")

func putRecord(value string) codec.Record { return codec.Record{Value: []byte(value)} }

// wire gives out connections to a server. They can be cut, at any byte; they
// can go deaf, which loses what the server says; they can stall, which holds
// back what the client says.
type wire struct {
	mu    sync.Mutex
	to    nats.InProcessConnProvider
	down  bool
	limit func() int // bytes after which the next connection breaks, in each direction; nil: never
	conns []*wireConn
	cuts  int
}

type wireConn struct {
	net.Conn
	wire *wire

	mu          sync.Mutex
	limited     bool
	read, write int // bytes left, if limited
	deaf, cut   bool
	stalled     bool
	held        []byte // of a stalled connection
}

// InProcessConn implements nats.InProcessConnProvider.
func (w *wire) InProcessConn() (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return nil, net.ErrClosed
	}
	conn, err := w.to.InProcessConn()
	if err != nil {
		return nil, err
	}
	c := &wireConn{Conn: conn, wire: w}
	if w.limit != nil {
		c.limited, c.read, c.write = true, w.limit(), w.limit()
	}
	w.conns = append(w.conns, c)
	return c, nil
}

// point makes the next connections go to another server.
func (w *wire) point(to nats.InProcessConnProvider) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.to = to
}

func (w *wire) setLimit(limit func() int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit = limit
}

// setDown cuts the connections and refuses new ones, or accepts them again.
func (w *wire) setDown(down bool) {
	w.mu.Lock()
	w.down = down
	w.mu.Unlock()
	if down {
		w.cut()
	}
}

func (w *wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cuts
}

// each calls do for every connection, under its lock.
func (w *wire) each(do func(*wireConn)) {
	w.mu.Lock()
	conns := w.conns
	w.mu.Unlock()
	for _, c := range conns {
		c.mu.Lock()
		do(c)
		c.mu.Unlock()
	}
}

func (w *wire) cut() {
	w.mu.Lock()
	conns := w.conns
	w.conns = nil
	w.mu.Unlock()
	for _, c := range conns {
		c.breakOff()
	}
}

// deafen loses what the server says from now on, until the connection is cut.
func (w *wire) deafen() { w.each(func(c *wireConn) { c.deaf = true }) }

// stall holds back what the client says from now on.
func (w *wire) stall() { w.each(func(c *wireConn) { c.stalled = true }) }

// resume lets go of it.
func (w *wire) resume() {
	w.each(func(c *wireConn) {
		c.stalled = false
		_, _ = c.Conn.Write(c.held) // an error is one of the connection, which its owner sees
		c.held = nil
	})
}

func (c *wireConn) breakOff() {
	c.mu.Lock()
	first := !c.cut
	c.cut = true
	c.mu.Unlock()
	if first {
		_ = c.Conn.Close() // its owner may have closed it
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
	if c.hold(p) {
		return len(p), nil
	}
	most := c.spend(&c.write, len(p))
	n, err := c.Conn.Write(p[:most])
	if most < len(p) && err == nil {
		c.breakOff()
		err = net.ErrClosed
	}
	return n, err
}

// hold keeps what a stalled connection is to send.
func (c *wireConn) hold(p []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stalled {
		c.held = append(c.held, p...)
	}
	return c.stalled
}
