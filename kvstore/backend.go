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
	"github.com/nearkv/nearkv/replication/redact"
)

// backend is the connection to the log, and the directory or memory where it is
// kept if that is ours.
type backend struct {
	conn   *nats.Conn
	end    func()           // ends the connection; nil: it is not ours
	member *embedded.Member // nil: not ours
	disk   disk
}

func newBackend(ctx context.Context, namespace string, opts *Options) (*backend, error) {
	if opts.Conn != nil {
		return &backend{conn: opts.Conn}, nil
	}
	options := connOptions(namespace)
	if opts.URL != "" {
		conn, end, err := dial(ctx, opts.URL, dialTCP, append(options, opts.NATS...))
		return &backend{conn: conn, end: end}, err
	}
	member, err := embedded.Join(ctx, embedded.Options{
		Dir: opts.Dir, Exclusive: opts.Exclusive, Cluster: opts.Cluster,
		SyncAlways: opts.Durability == SurvivePowerLoss, Logger: opts.Logger,
	})
	if ctx.Err() != nil && err != nil {
		return nil, fmt.Errorf("kvstore: %w: %w: %w", ErrUnavailable, err, replication.Ended(ctx))
	}
	if errors.Is(err, embedded.ErrInvalidOptions) {
		return nil, fmt.Errorf("%w: %w", ErrInvalidOptions, err)
	}
	if err != nil {
		return nil, err
	}
	b := &backend{member: member, disk: disk{probe: member.Probe}}
	if !member.Serving() {
		b.disk.failed() // for all we know
	}
	options = append(options, nats.CustomReconnectDelay(redialDelay), nats.IgnoreDiscoveredServers(),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { b.disk.failed() }))
	if opts.Dir == "" || opts.Exclusive {
		options = append(options, nats.PingInterval(time.Hour)) // the server is in this process: no need to probe it
	}
	through := func(context.Context, string, string) (net.Conn, error) { return member.Dial("", "") }
	if b.conn, b.end, err = dial(ctx, anywhere, through, options); err != nil {
		return nil, errors.Join(err, member.Close())
	}
	return b, nil
}

// anywhere is for nats.Connect, which insists on an address. The member knows better.
const anywhere = "nats://127.0.0.1"

// trouble returns why nobody serves the Dir: this process tried to, and could not.
func (b *backend) trouble() error {
	if b == nil || b.member == nil {
		return nil
	}
	return b.member.Trouble()
}

func (b *backend) close() error {
	if b.end != nil {
		b.end()
		b.conn.Close()
	}
	if b.member != nil {
		return b.member.Close()
	}
	return nil
}

// connOptions are those of our own connections. What cannot be sent at once is
// an error, not a buffer: the Store repeats it when it knows where it stands.
func connOptions(namespace string) []nats.Option {
	return []nats.Option{
		nats.Name("nearkv " + namespace),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // a password may be refused while it is changed; Open looks by itself
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

// redialDelay is that of a directory: a dial that fails costs some microseconds,
// and while the process that served it is replaced, writes wait.
func redialDelay(int) time.Duration { return 5*time.Millisecond + rand.N(10*time.Millisecond) }

const dialTimeout = 2 * time.Second

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

func dialTCP(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, address)
}

// dialer dials for nats.go, which has no context for it.
type dialer struct {
	ctx  context.Context
	dial dialFunc
	conn atomic.Pointer[net.Conn] // the last one
}

func (d *dialer) Dial(network, address string) (net.Conn, error) {
	conn, err := d.dial(d.ctx, network, address)
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
func dial(ctx context.Context, url string, by dialFunc, options []nats.Option) (*nats.Conn, context.CancelFunc, error) {
	life, end := context.WithCancel(context.Background())
	d := &dialer{ctx: life, dial: by}
	release := context.AfterFunc(ctx, func() { end(); d.abandon() })
	options = append(options, nats.SetCustomDialer(d))
	retry := replication.NewBackoff()
	for {
		conn, err := nats.Connect(url, options...)
		if err == nil && release() {
			return conn, end, nil
		}
		if conn != nil {
			conn.Close()
		}
		err = redact.Error(err) // nats.go shows the URL in some
		if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrSecureConnRequired) || errors.Is(err, nats.ErrSecureConnWanted) || retry.Wait(ctx, nil) != nil {
			end()
			if ctx.Err() != nil {
				err = errors.Join(err, replication.Ended(ctx))
			}
			return nil, nil, fmt.Errorf("kvstore: connect: %w: %w", ErrUnavailable, err)
		}
	}
}
