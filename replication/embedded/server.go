package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	// shutdownGrace is how long Shutdown lets clients read what is on its way to them.
	shutdownGrace = 500 * time.Millisecond

	// reconnectWait is short because a server in the same process either answers at once or is gone.
	reconnectWait = 50 * time.Millisecond

	// readyEvery is between two looks at whether the routes are open.
	readyEvery = 20 * time.Millisecond
)

// Server is a NATS server with JetStream inside this process. Any number of goroutines may use it at the same time.
// The one who started it shuts it down.
type Server struct {
	home   *home
	nats   *server.Server
	log    *serverLog
	conns  conns
	routes bool   // it is one of a cluster
	share  *share // nil: nobody outside of the process gets in

	failed bool // its Member knows that it cannot write

	stopping atomic.Bool
	stopped  chan struct{} // closed when nothing is left
	stopErr  error         // Invariant: written before stopped is closed, read after.
}

var _ nats.InProcessConnProvider = (*Server)(nil)

// Start runs a server and returns when it answers, after it has recovered what is in opts.Dir: a few milliseconds for
// an empty directory, about a second per million records, more after an unclean end. The caller must call Shutdown.
//
// ctx bounds the start only; the server outlives it. If ctx ends first, the error is an *InterruptedError, which wraps
// the context's error and tells when the half-started server is gone.
//
// Other errors are *OptionsError (ErrInvalidOptions), before anything is touched; *LockedError (ErrLocked), at once, if
// a server has the directory, here or in another process; *AccessError (ErrAccess), if something in the directory cannot
// be opened; *DamagedError (ErrDamaged), if something in it is not as it was written, or the server did not recover all
// of it; *StartError (ErrStart), if the directory or the server cannot be made ready. After these nothing of the start is
// left but directories that it made, and nothing that was there is lost.
func Start(ctx context.Context, opts Options) (*Server, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, interruptedBefore(err)
	}
	home, err := openHome(ctx, opts.Dir, opts.Logger)
	if err != nil {
		return nil, err
	}
	if err := opts.Cluster.claim(home.store); err != nil {
		return nil, errors.Join(err, home.close())
	}
	s, err := newServer(opts, home)
	if err != nil {
		return nil, errors.Join(err, home.close())
	}
	return s.boot(ctx)
}

func newServer(opts Options, home *home) (*Server, error) {
	ns, err := server.NewServer(opts.serverOptions(home.store))
	if err != nil {
		return nil, failed("set up", err)
	}
	s := &Server{home: home, nats: ns, log: &serverLog{log: opts.Logger}, routes: opts.Cluster != nil, stopped: make(chan struct{})}
	ns.SetLoggerV2(s.log, false, false, false)
	return s, nil
}

// boot waits until the server runs, has failed, or ctx ends. The Start of a server that is alone returns when it is ready,
// since it does not listen. One with routes opens their port later.
func (s *Server) boot(ctx context.Context) (*Server, error) {
	booted := make(chan struct{})
	go func() {
		defer close(booted)
		s.nats.Start()
		if s.routes {
			s.awaitRoutes()
		}
	}()
	select {
	case <-booted:
	case <-ctx.Done():
		return nil, s.abandon(ctx.Err(), booted)
	}
	err := s.bootError()
	if err == nil {
		err = s.checkRecovered()
	}
	if err != nil {
		return nil, errors.Join(err, s.Shutdown())
	}
	return s, nil
}

// checkRecovered makes sure that the server has all that was in the directory when it started. A voter gets what it lacks
// from the others, and gives up what they do not have.
func (s *Server) checkRecovered() error {
	if s.home.report == nil || s.routes {
		return s.home.settle()
	}
	missing, err := s.compareRecovered(s.home.report)
	if err == nil && len(missing) > 0 {
		err = &DamagedError{Dir: s.home.dir, Damage: missing}
	}
	if err != nil {
		return err
	}
	return s.home.settle()
}

// awaitRoutes waits until others can come in, or the server has said that they cannot.
func (s *Server) awaitRoutes() {
	for s.log.fatal.Load() == nil {
		if s.nats.ReadyForConnections(readyEvery) {
			return
		}
	}
}

func (s *Server) bootError() error {
	if err := s.log.fatal.Load(); err != nil {
		return err
	}
	if !s.nats.JetStreamEnabled() {
		return &StartError{Reason: "JetStream is not running"}
	}
	return nil
}

// abandon shuts the server down as soon as that is safe. A Shutdown while the server still starts would leave behind
// the streams and goroutines that it starts afterwards. The owner of the goroutine is whoever holds the error.
func (s *Server) abandon(cause error, booted <-chan struct{}) *InterruptedError {
	e := &InterruptedError{Err: cause, done: make(chan struct{})}
	go func() {
		defer close(e.done)
		<-booted
		if err := s.Shutdown(); err != nil {
			s.log.Errorf("shutdown of an interrupted start: %v", err)
		}
	}()
	return e
}

// Dir is the absolute path of Options.Dir, or "" if there is none.
func (s *Server) Dir() string { return s.home.dir }

// InProcessConn opens a client connection to the server: a synchronous pipe, no socket. nats.InProcessServer(s) uses
// it. The caller closes it; Shutdown closes what is still open. After Shutdown the error wraps net.ErrClosed.
func (s *Server) InProcessConn() (net.Conn, error) {
	nc, err := s.nats.InProcessConn()
	if err != nil { // the server gives no other reason
		return nil, errShutDown
	}
	c, err := s.conns.add(nc)
	if err != nil {
		return nil, errShutDown
	}
	return c, nil
}

var errShutDown = fmt.Errorf("embedded: server is shut down: %w", net.ErrClosed)

// Connect opens a NATS client connection inside the process. It reconnects every 50 ms or so, up to 60 times: enough
// for a connection that the server has cut, and a connection to a server that has shut down closes itself after a few
// seconds. opts come after these defaults and may change them. The caller closes the connection. After Shutdown the
// error wraps net.ErrClosed.
func (s *Server) Connect(opts ...nats.Option) (*nats.Conn, error) {
	all := append([]nats.Option{
		nats.InProcessServer(s),
		nats.Name(serverName),
		nats.ReconnectWait(reconnectWait),
	}, opts...)
	nc, err := nats.Connect("", all...)
	if err != nil {
		return nil, fmt.Errorf("embedded: connect: %w", err)
	}
	return nc, nil
}

// Shutdown stops the server and returns when nothing of it is left: no goroutine, no open file, no lock, no temporary
// directory. It may be called many times and by many goroutines at once; all wait, and all get the same result. The
// error is that of giving up the directory.
//
// Clients need not be closed first: they are disconnected, after at most half a second if they do not read. What was
// acknowledged is written, not fsynced. A call never waits for a context: how long it takes depends on the disk.
func (s *Server) Shutdown() error {
	// Not a sync.Once: waiting on its mutex would stop the clock of a synctest bubble.
	if s.stopping.CompareAndSwap(false, true) {
		s.stopErr = s.stop()
		close(s.stopped)
	}
	<-s.stopped
	return s.stopErr
}

func (s *Server) stop() error {
	err := s.share.close()
	cut := time.AfterFunc(shutdownGrace, s.cut)
	defer cut.Stop()
	if s.routes {
		s.nats.LameDuckShutdown() // Shutdown itself does not wait until others lead
	}
	s.nats.Shutdown()
	s.nats.WaitForShutdown()
	s.cut()
	s.share.wait()
	if err := errors.Join(err, s.home.close()); err != nil {
		return fmt.Errorf("embedded: give up directory: %w", err)
	}
	return nil
}

// cut ends all connections.
func (s *Server) cut() {
	s.conns.closeAll()
	s.share.cut()
}
