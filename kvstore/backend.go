package kvstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/nearkv/nearkv/replication"
	"github.com/nearkv/nearkv/replication/embedded"
)

// backend is the connection to the log, and the server if it is ours.
type backend struct {
	conn   *nats.Conn
	end    func()           // ends the connection; nil: it is not ours
	server *embedded.Server // nil: not ours
}

func newBackend(ctx context.Context, namespace string, opts *Options) (*backend, error) {
	switch {
	case opts.Conn != nil:
		return &backend{conn: opts.Conn}, nil
	case opts.URL != "":
		conn, end, err := dial(ctx, opts.URL, namespace)
		return &backend{conn: conn, end: end}, err
	}
	server, err := embedded.Start(ctx, embedded.Options{
		Dir: opts.Dir, SyncAlways: opts.Durability == SurvivePowerLoss, Logger: opts.Logger,
	})
	if interrupted, ok := errors.AsType[*embedded.InterruptedError](err); ok {
		return nil, fmt.Errorf("kvstore: %w: %w", ErrUnavailable, interrupted)
	}
	if err != nil {
		return nil, err
	}
	// A server in the same process needs no probing.
	conn, err := server.Connect(append(connOptions(namespace), nats.PingInterval(time.Hour))...)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("kvstore: %w: %w", ErrUnavailable, err), server.Shutdown())
	}
	return &backend{conn: conn, end: func() {}, server: server}, nil
}

func (b *backend) close() error {
	if b.end != nil {
		b.end()
		b.conn.Close()
	}
	if b.server != nil {
		return b.server.Shutdown()
	}
	return nil
}

// connOptions are those of our own connections. What cannot be sent at once is
// an error, not a buffer: the Store repeats it when it knows where it stands.
func connOptions(namespace string) []nats.Option {
	return []nats.Option{
		nats.Name("nearkv " + namespace),
		nats.MaxReconnects(-1),
		nats.ReconnectBufSize(-1),
		nats.CustomReconnectDelay(reconnectDelay),
		nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(dialTimeout),
		nats.DrainTimeout(time.Second),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // told by the calls that fail
	}
}

// reconnectDelay grows from 20 ms to 2 s, with jitter so that a fleet does not
// return all at once.
func reconnectDelay(attempts int) time.Duration {
	d := min(20*time.Millisecond<<min(attempts, 7), 2*time.Second)
	return d/2 + rand.N(d/2) // jitter needs no secrecy
}

const dialTimeout = 2 * time.Second

// dialer dials for nats.go, which has no context for it.
type dialer struct {
	ctx  context.Context
	conn atomic.Pointer[net.Conn] // the last one
}

func (d *dialer) Dial(network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(d.ctx, network, address)
	if err != nil {
		return nil, err
	}
	d.conn.Store(&conn)
	if d.ctx.Err() != nil {
		d.abandon()
	}
	return conn, nil
}

// abandon ends the wait for a server that accepts and says nothing.
func (d *dialer) abandon() {
	if conn := d.conn.Load(); conn != nil {
		_ = (*conn).Close() // nats.go reports what it was waiting for
	}
}

// dial connects to a server, and waits for it until ctx ends. The connection
// does not dial again after its end was called.
func dial(ctx context.Context, url, namespace string) (*nats.Conn, context.CancelFunc, error) {
	life, end := context.WithCancel(context.Background())
	d := &dialer{ctx: life}
	release := context.AfterFunc(ctx, func() { end(); d.abandon() })
	options := append(connOptions(namespace), nats.SetCustomDialer(d))
	retry := replication.NewBackoff()
	for {
		conn, err := nats.Connect(url, options...)
		if err == nil && release() {
			return conn, end, nil
		}
		if conn != nil {
			conn.Close()
		}
		if errors.Is(err, nats.ErrAuthorization) || retry.Wait(ctx, nil) != nil {
			end()
			return nil, nil, fmt.Errorf("kvstore: connect: %w: %w", ErrUnavailable, errors.Join(err, ctx.Err()))
		}
	}
}
