package replication

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// link follows the state of the connection and tells it as two channels. It
// works alike for a connection of ours and for one that the user made, whose
// handlers are not ours to set.
//
// nats.go drops events that nobody takes in time. So an event only says that it is
// time to look: what counts is what the connection itself says then.
type link struct {
	nc     *nats.Conn
	lost   func() // called at each loss, without a lock
	events chan nats.Status
	done   chan struct{}

	mu     sync.Mutex
	up     chan struct{} // closed while connected
	down   chan struct{} // closed while not connected
	ended  chan struct{} // closed when the connection is closed for good
	cycles uint64        // how often it had reconnected at the last look
}

// lookAgain is how often a link that is down looks by itself.
const lookAgain = time.Second

func newLink(nc *nats.Conn, lost func()) *link {
	l := &link{nc: nc, lost: lost, done: make(chan struct{}), up: make(chan struct{}), down: make(chan struct{}), ended: make(chan struct{})}
	l.events = nc.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	l.cycles = nc.Stats().Reconnects
	if nc.IsConnected() {
		close(l.up)
	} else {
		close(l.down)
	}
	if nc.IsClosed() {
		close(l.ended)
	}
	go l.run()
	return l
}

func (l *link) run() {
	defer close(l.done)
	for status := range l.events {
		l.look(status != nats.CONNECTED)
	}
}

// look takes over what the connection says of itself. loss: it was lost, also if it
// is back by now.
func (l *link) look(loss bool) {
	l.mu.Lock()
	connected, cycles := l.nc.IsConnected(), l.nc.Stats().Reconnects
	// It is back: those who were told that it is up are to hear that it was not.
	loss = loss || !connected && closed(l.up) || connected && cycles != l.cycles && closed(l.up)
	l.cycles = cycles
	if loss {
		l.set(false)
	}
	if connected {
		l.set(true)
	}
	if l.nc.IsClosed() && !closed(l.ended) {
		close(l.ended)
	}
	l.mu.Unlock()
	if loss {
		l.lost()
	}
}

// set closes the channel of the new state and renews the one of the old. It needs
// mu.
func (l *link) set(connected bool) {
	enter, leave := &l.up, &l.down
	if !connected {
		enter, leave = leave, enter
	}
	if !closed(*enter) {
		close(*enter)
		*leave = make(chan struct{})
	}
}

// wait returns once the link is up, with the channel that its loss will close. The
// error is ErrDisconnected if it will not be up again.
func (l *link) wait(ctx context.Context) (<-chan struct{}, error) {
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	for {
		l.mu.Lock()
		up, down, ended := l.up, l.down, closed(l.ended)
		l.mu.Unlock()
		switch {
		case ended:
			return nil, fmt.Errorf("replication: %w", ErrDisconnected)
		case closed(up):
			return down, nil
		}
		select {
		case <-up:
		case <-l.ended:
		case <-look.C:
			l.look(false)
		case <-ctx.Done():
			return nil, Ended(ctx)
		}
	}
}

func (l *link) close() {
	l.nc.RemoveStatusListener(l.events)
	<-l.done
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
