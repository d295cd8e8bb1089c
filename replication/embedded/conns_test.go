package embedded

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// A client that reconnects for years must not fill the memory.
func TestClosedConnIsForgotten(t *testing.T) {
	var s conns
	for range 3 {
		near, far := net.Pipe()
		c, err := s.add(near)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		if err := c.Close(); err != nil { // once more, as net.Conn allows
			t.Error(err)
		}
		_ = far.Close()
	}
	if len(s.open) != 0 {
		t.Errorf("%d connections are remembered", len(s.open))
	}
}

// Who comes too late is closed and told.
func TestConnAfterCloseAll(t *testing.T) {
	var s conns
	s.closeAll()
	s.closeAll()
	near, far := net.Pipe()
	if err := far.SetDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.add(near); !errors.Is(err, net.ErrClosed) {
		t.Errorf("error is %v", err)
	}
	if _, err := far.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write to the other end: %v, want it to be closed", err)
	}
}
