package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// knockEvery is how often somebody who waits for a server asks for it: for the lock, and on the socket. Together they
	// take some 20 us.
	knockEvery = 10 * time.Millisecond

	// lookEvery is how often a member looks whether its server is well.
	lookEvery = 500 * time.Millisecond

	// probeMargin is what has to be free beside the value that is to be written.
	probeMargin = 1 << 20

	// restartPause is between two starts that fail. The disk may be full for hours.
	restartPause = time.Second
)

// Member is one of any number of processes, or parts of one, that share a directory. One of them, whoever takes its lock,
// runs the server; the others reach it over a unix socket in the directory. When it ends, however it ends, another one
// takes over: the kernel gives the lock up with the process, and those who lost their connection knock.
//
// A Member is the dialer of its connections: whenever they dial they get to whoever serves then. A server that has
// switched its JetStream off, because its disk failed, is started anew.
//
// Its methods may be called concurrently.
type Member struct {
	opts   Options // with defaults and an absolute Dir
	life   context.Context
	end    context.CancelFunc
	server atomic.Pointer[Server] // nil: another one serves, or nobody
	knocks chan struct{}          // of capacity 1
	kept   chan struct{}          // closed when keep has ended

	trouble atomic.Pointer[error] // why it cannot serve
}

var _ nats.CustomDialer = (*Member)(nil)

// Join makes the caller a member of opts.Dir, and returns when somebody serves it: the caller, for which Start says how
// long that takes, or another one. Without a Dir, or with Exclusive, the caller is the only one. The caller must call
// Close.
//
// Errors are those of Start, with one difference: a directory that is locked is waited for until somebody answers on its
// socket, or ctx ends. Then the error is a *LockedError, which says who has it as far as that is known, and that of the
// context. A process of another user on the socket is an *AccessError.
func Join(ctx context.Context, opts Options) (*Member, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	if opts.Dir, err = shareDir(opts); err != nil {
		return nil, err
	}
	m := &Member{opts: opts, knocks: make(chan struct{}, 1), kept: make(chan struct{})}
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	m.life, m.end = context.WithCancel(context.Background())
	go m.keep()
	return m, nil
}

// enter waits until somebody serves, and answers.
func (m *Member) enter(ctx context.Context) error {
	var locked error // why the last attempt to serve failed
	for {
		err := m.serve(ctx)
		switch {
		case locked != nil && isOver(err):
			return fmt.Errorf("%w: %w", locked, context.Cause(ctx))
		case !errors.Is(err, ErrLocked) || m.opts.Exclusive:
			return err
		}
		locked = err
		pid, err := knockSocket(ctx, m.opts.Dir)
		switch {
		case err == nil:
			return m.agree()
		case errors.Is(err, errSilent):
			locked = &LockedError{Dir: m.opts.Dir, PID: cmp.Or(pid, readPID(m.opts.Dir)), Silent: true}
		case errors.Is(err, ErrAccess):
			return err
		}
		select {
		case <-time.After(knockEvery):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", locked, context.Cause(ctx))
		}
	}
}

// isOver reports whether a start was interrupted and nothing of it is left.
func isOver(err error) bool {
	interrupted, ok := errors.AsType[*InterruptedError](err)
	if !ok {
		return false
	}
	select {
	case <-interrupted.done:
		return true
	default:
		return false
	}
}

// serve makes this member the one that serves, if nobody does.
func (m *Member) serve(ctx context.Context) error {
	begun := time.Now()
	opts := m.opts
	opts.SyncAlways = opts.SyncAlways || m.synced()
	s, err := Start(ctx, opts)
	if err != nil {
		return err
	}
	if opts.SyncAlways {
		if err := m.promise(); err != nil {
			return errors.Join(err, s.Shutdown())
		}
	}
	if m.shares() {
		if err := s.openShare(); err != nil {
			return errors.Join(err, s.Shutdown())
		}
		m.opts.Logger.Info("nearkv: serving the directory", "dir", m.opts.Dir, "start", time.Since(begun))
	}
	m.server.Store(s)
	return nil
}

// syncedName is the file that says that a directory is always synced, whoever serves it: one member that needs that is
// enough.
const syncedName = "synced"

func (m *Member) syncedFile() string { return filepath.Join(m.opts.Dir, storeName, syncedName) }

func (m *Member) synced() bool {
	if m.opts.Dir == "" {
		return false
	}
	_, err := os.Stat(m.syncedFile())
	return err == nil
}

// promise notes that the directory is always synced from now on. Only who serves it may do so.
func (m *Member) promise() error {
	f, err := os.OpenFile(m.syncedFile(), os.O_CREATE|os.O_WRONLY, lockMode)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err != nil {
		return failed("note that the directory is always synced", err)
	}
	return nil
}

// agree refuses to be served by somebody who does not sync as this member needs it.
func (m *Member) agree() error {
	if m.opts.SyncAlways && !m.synced() {
		return &OptionsError{"SyncAlways", "the directory is served by a process that does not sync it: let one open it first that does"}
	}
	return nil
}

func (m *Member) shares() bool { return m.opts.Dir != "" && !m.opts.Exclusive }

// keep tries to serve whenever somebody knocks, and looks after the server.
func (m *Member) keep() {
	defer close(m.kept)
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-m.knocks:
			m.takeOver()
		case <-look.C:
			m.lookAfter()
		case <-m.life.Done():
			return
		}
	}
}

func (m *Member) takeOver() {
	if m.Serving() {
		return
	}
	err := m.serve(m.life)
	if interrupted, ok := errors.AsType[*InterruptedError](err); ok {
		<-interrupted.Done()
		return
	}
	if err == nil || errors.Is(err, ErrLocked) {
		m.trouble.Store(nil)
		return
	}
	if last := m.trouble.Swap(&err); last == nil || (*last).Error() != err.Error() {
		m.opts.Logger.Error("nearkv: cannot serve the directory, trying again", "dir", m.opts.Dir, "error", err)
	}
	select {
	case <-time.After(restartPause):
	case <-m.life.Done():
	}
}

// Trouble returns why this member could not serve the directory when it last had to; nil if it could, or
// somebody else does. It tries again every second while nobody does.
func (m *Member) Trouble() error {
	if err := m.trouble.Load(); err != nil {
		return *err
	}
	return nil
}

// lookAfter brings a server back that cannot write: one that has switched JetStream off, or has given up a stream. Until the
// disk takes something again, such a server goes on, and may still be read from. It does not answer writes; so those who
// wait are cut off, to see for themselves.
func (m *Member) lookAfter() {
	s := m.server.Load()
	if s == nil || m.opts.Dir == "" || s.nats.JetStreamEnabled() && !s.log.broken.Load() {
		return
	}
	if !s.failed {
		s.failed = true
		m.opts.Logger.Error("nearkv: the directory cannot be written; the server will be started anew when it can", "dir", m.opts.Dir)
		s.conns.cut()
	}
	if m.Probe(0) != nil {
		return
	}
	m.server.Store(nil)
	if err := s.Shutdown(); err != nil {
		m.opts.Logger.Error("nearkv: shutdown failed", "dir", m.opts.Dir, "error", err)
	}
	m.takeOver()
}

// Serving tells whether the server runs in this member.
func (m *Member) Serving() bool { return m.server.Load() != nil }

// Dial opens a connection to whoever serves: a pipe if that is this member, otherwise over the socket. It never waits.
// If it fails nobody serves, at this moment, and this member tries to. The arguments are those of nats.CustomDialer and
// mean nothing here.
func (m *Member) Dial(_, _ string) (net.Conn, error) {
	if s := m.server.Load(); s != nil {
		return s.InProcessConn()
	}
	c, err := dialSocket(m.opts.Dir)
	if err != nil {
		m.knock()
		return nil, fmt.Errorf("embedded: nobody serves %s: %w", m.opts.Dir, err)
	}
	m.trouble.Store(nil)
	return c, nil
}

func (m *Member) knock() {
	select {
	case m.knocks <- struct{}{}:
	default: // somebody has
	}
}

// Probe tells whether the directory takes n bytes and a margin for what the server needs, by writing a file. The error is
// that of the operating system, or why this member cannot serve the directory.
func (m *Member) Probe(n int) (err error) {
	if m.opts.Dir == "" {
		return nil
	}
	if err := m.Trouble(); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Join(m.opts.Dir, storeName), "probe-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	block := make([]byte, 64<<10)
	for n += probeMargin; n > 0 && err == nil; n -= len(block) {
		_, err = f.Write(block)
	}
	return err
}

// Close leaves the directory. If this member serves, its server shuts down first, and another one takes over. The
// connections of the member are to be closed before: they would dial in vain. Close must be called once.
func (m *Member) Close() error {
	m.end()
	<-m.kept
	if s := m.server.Load(); s != nil {
		return s.Shutdown()
	}
	return nil
}
