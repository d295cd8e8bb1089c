package kvstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nearkv/nearkv/replication"
	"github.com/puzpuzpuz/xsync/v4"
)

// Store is one replica of a namespace. All its methods may be called
// concurrently.
type Store struct {
	backend *backend
	log     *replication.Log
	feed    *replication.Feed
	index   *index
	cache   *cache
	flights flights
	turns   turns // of updates
	own     bool  // the server

	inlineBytes  int64         // of Options
	writeTimeout time.Duration // of Options
	level        Durability    // of the server, if it is ours
	stats        stats
	sweeper      sweeper
	logger       *slog.Logger
	trouble      atomic.Int64 // when a write last had to wait for the log; unix nanoseconds

	ctx    context.Context // ends with Close
	stop   context.CancelFunc
	closed atomic.Bool
	done   chan struct{} // closed when Close has begun
	gone   chan struct{} // closed when Close has ended
	err    error         // of Close; valid when gone is closed

	gate sync.Mutex     // orders begin and Close
	work sync.WaitGroup // goroutines of the Store
}

type stats struct {
	hits, absent                             *xsync.Counter
	misses, loads, writes, failed, conflicts atomic.Uint64
}

// wrote counts a write that has ended.
func (n *stats) wrote(err error) {
	n.writes.Add(1)
	if err != nil {
		n.failed.Add(1)
	}
	if errors.Is(err, ErrConflict) {
		n.conflicts.Add(1)
	}
}

// Open opens a namespace: it connects to the log, or starts a server of its
// own, creates the namespace if there is none, and reads it into memory. It
// returns when the replica has caught up with the log, or when ctx ends. The
// name of a namespace is 1 to 200 bytes of A-Z a-z 0-9 - _.
//
// Errors: ErrInvalidNamespace and ErrInvalidOptions before anything is done;
// ErrLocked (at once only with Exclusive), ErrDirAccess, ErrDirDamaged and ErrStart with Dir; ErrUnsupported for a bucket of others that
// is not laid out as one; ErrNoNamespace only with MustExist; ErrForbidden, ErrLimit
// and ErrRefused when the server does not permit it, has a limit that is reached, or refuses;
// ErrUnavailable when ctx ended first.
func Open(ctx context.Context, namespace string, opts Options) (*Store, error) {
	s, err := openNamespace(ctx, namespace, opts)
	return s, failed("open", namespace, err)
}

func openNamespace(ctx context.Context, namespace string, opts Options) (*Store, error) {
	if err := replication.CheckNamespace(namespace); err != nil {
		return nil, err
	}
	if err := opts.check(); err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	b, err := newBackend(ctx, namespace, &opts)
	if err != nil {
		return nil, err
	}
	s, err := open(ctx, b, namespace, &opts)
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	return s, nil
}

func open(ctx context.Context, b *backend, namespace string, opts *Options) (*Store, error) {
	cfg, past := opts.replication(), opts.past(namespace)
	cfg.MustExist = cfg.MustExist || past.known()
	l, err := replication.Open(ctx, b.conn, namespace, cfg)
	if past.known() && errors.Is(err, replication.ErrNoStream) {
		return nil, past.gone()
	}
	if opts.MustExist && errors.Is(err, replication.ErrNoStream) {
		return nil, fmt.Errorf("%w: %q", ErrNoNamespace, namespace)
	}
	if err != nil {
		return nil, err
	}
	c := newCache(opts.CacheBytes)
	s := &Store{
		backend: b, log: l, index: newIndex(c), cache: c, own: b.member != nil, level: opts.Durability,
		inlineBytes: opts.InlineBytes, writeTimeout: opts.WriteTimeout, logger: opts.Logger, sweeper: sweeper{wake: make(chan struct{}, 1)},
		done: make(chan struct{}), gone: make(chan struct{}),
		stats: stats{hits: xsync.NewCounter(), absent: xsync.NewCounter()},
	}
	s.index.store = s
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.feed = l.Follow(s.index)
	s.work.Go(func() { s.expireLoop(s.ctx) })
	s.work.Go(func() { s.sweepLoop(s.ctx) })
	if err := s.feed.Settled(ctx); err != nil {
		s.backend = nil // Open closes it
		return nil, errors.Join(err, s.Close())
	}
	s.testify(past)
	return s, nil
}

// closing reports whether a call has failed because the Store closes, and with it the
// connection.
func (s *Store) closing(err error) bool { return s.closed.Load() && errors.Is(err, ErrDisconnected) }

// begin reserves a place in work, unless the Store is closed.
func (s *Store) begin() bool {
	s.gate.Lock()
	defer s.gate.Unlock()
	if s.closed.Load() {
		return false
	}
	s.work.Add(1)
	return true
}

// Close stops the replica and everything that Open has started, and waits
// until it has stopped. Calls that are under way end with ErrClosed; entries
// that were read stay valid. Close can be called more than once, and
// concurrently.
func (s *Store) Close() error {
	s.gate.Lock()
	first := s.closed.CompareAndSwap(false, true)
	s.gate.Unlock()
	if first {
		close(s.done)
		s.err = s.shutDown()
		close(s.gone)
	}
	<-s.gone
	return failed("close", "", s.err)
}

func (s *Store) shutDown() error {
	s.removeAll()
	s.stop()
	s.feed.Close()
	s.log.Close()
	s.work.Wait()
	s.index.close()
	s.cache.close()
	if err := s.index.witness.Load().close(); err != nil {
		s.logger.Warn("nearkv: closing the witness of the log", "error", err)
	}
	if s.backend == nil {
		return nil
	}
	return s.backend.close()
}
