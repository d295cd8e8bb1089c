package replication

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go"
)

// link follows the state of the connection and tells it as two channels. It
// works alike for a connection of ours and for one that the user made, whose
// handlers are not ours to set.
type link struct {
	nc     *nats.Conn
	lost   func() // called at each loss, without a lock
	events chan nats.Status
	done   chan struct{}

	mu   sync.Mutex
	up   chan struct{} // closed while connected
	down chan struct{} // closed while not connected
}

func newLink(nc *nats.Conn, lost func()) *link {
	l := &link{nc: nc, lost: lost, done: make(chan struct{}), up: make(chan struct{}), down: make(chan struct{})}
	l.events = nc.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	if nc.IsConnected() {
		close(l.up)
	} else {
		close(l.down)
	}
	go l.run()
	return l
}

func (l *link) run() {
	defer close(l.done)
	for status := range l.events {
		if status == nats.CONNECTED {
			l.set(true)
			continue
		}
		l.set(false)
		l.lost()
	}
}

// set closes the channel of the new state and renews the one of the old.
func (l *link) set(connected bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	enter, leave := &l.up, &l.down
	if !connected {
		enter, leave = leave, enter
	}
	if !closed(*enter) {
		close(*enter)
		*leave = make(chan struct{})
	}
}

// wait returns once the link is up, with the channel that its loss will close.
func (l *link) wait(ctx context.Context) (<-chan struct{}, error) {
	for {
		l.mu.Lock()
		up, down := l.up, l.down
		l.mu.Unlock()
		if closed(up) {
			return down, nil
		}
		select {
		case <-up:
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
