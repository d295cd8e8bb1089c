package embedded

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// acceptPause follows an accept that fails, perhaps because too many files are open.
	acceptPause = 50 * time.Millisecond

	// stuckAfter is how long a client may take nothing of what waits for it. It is the server's own deadline.
	stuckAfter = 10 * time.Second
)

// share lets other processes in, through the socket of the directory. A nil share lets nobody in.
type share struct {
	server   *Server
	socket   string
	listener *net.UnixListener
	clients  conns // our ends of their connections
	work     sync.WaitGroup
}

// openShare lets other processes in. The server closes the share when it stops.
func (s *Server) openShare() error {
	l, err := listenSocket(s.home.dir)
	if err != nil {
		return failed("open socket", err)
	}
	s.share = &share{server: s, socket: filepath.Join(s.home.dir, socketName), listener: l}
	s.share.work.Go(s.share.accept)
	return nil
}

func (h *share) accept() {
	for {
		c, err := h.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			h.server.log.Errorf("accept on %s: %v", h.socket, err)
			time.Sleep(acceptPause)
			continue
		}
		if c, err := h.clients.add(c); err == nil {
			h.work.Go(func() { h.serve(c) })
		}
	}
}

// serve joins a client with the server until one of them ends the connection.
func (h *share) serve(client net.Conn) {
	inside, err := h.server.InProcessConn()
	if err != nil {
		_ = client.Close() // it learns what there is to learn
		return
	}
	hangUp := func() {
		_ = client.Close()
		_ = inside.Close()
	}
	var answers sync.WaitGroup
	answers.Go(func() {
		defer hangUp()
		_, _ = io.Copy(impatient{client}, inside) // it ends when one of them has
	})
	_, _ = io.Copy(inside, client)
	hangUp()
	answers.Wait()
}

// impatient gives a client up that does not read. The server does so by itself, but then nobody reads from the pipe any
// more, and a write to the socket would wait on.
type impatient struct{ net.Conn }

func (c impatient) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(stuckAfter)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// close lets nobody in any more. Who comes now finds no socket, or is refused.
func (h *share) close() error {
	if h == nil {
		return nil
	}
	return errors.Join(os.Remove(h.socket), h.listener.Close())
}

// cut ends the connections of those who are in.
func (h *share) cut() {
	if h != nil {
		h.clients.closeAll()
	}
}

// wait returns when everybody has gone.
func (h *share) wait() {
	if h != nil {
		h.work.Wait()
	}
}
