package kvstore

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// errWriteTimeout ends a write whose context has no deadline.
var errWriteTimeout = fmt.Errorf("no answer within Options.WriteTimeout: %w", context.DeadlineExceeded)

// allowance bounds the time of a write whose context has no deadline. A write that
// is acknowledged at once never needs it, and waits for one thing only, which costs
// half as much: so the context is made when the write first has to wait.
type allowance struct {
	most  time.Duration // without progress; below zero: no bound
	begun time.Time     // or when it last made progress

	ctx   context.Context // nil: not made yet
	time  *timeContext    // what ctx is, or comes from
	timer *time.Timer
}

// timeContext is a context that ends also when finish is called. Then its error is
// that of finish: a context that is cancelled with a cause would say that it was
// cancelled, which is for the caller to do.
type timeContext struct {
	context.Context // the caller's
	done            chan struct{}
	leave           func() bool

	mu  sync.Mutex
	err error
}

func newTimeContext(ctx context.Context) *timeContext {
	c := &timeContext{Context: ctx, done: make(chan struct{})}
	c.leave = context.AfterFunc(ctx, func() { c.end(ctx.Err()) })
	return c
}

// finish ends the context.
func (c *timeContext) finish(err error) {
	c.leave()
	c.end(err)
}

func (c *timeContext) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		close(c.done)
	}
}

func (c *timeContext) Done() <-chan struct{} { return c.done }

func (c *timeContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		return c.Context.Err() // done is about to be closed
	}
	return c.err
}

// begin starts the clock.
func (a *allowance) begin(most time.Duration) { a.most, a.begun = most, time.Now() }

// bound returns ctx, or, if that has no deadline, one that ends with the allowance.
func (a *allowance) bound(ctx context.Context) context.Context {
	if a.ctx != nil {
		return a.ctx
	}
	if _, limited := ctx.Deadline(); limited || a.most < 0 {
		return ctx
	}
	bounded := newTimeContext(ctx)
	a.ctx, a.time = bounded, bounded
	a.timer = time.AfterFunc(a.most-time.Since(a.begun), func() { bounded.finish(errWriteTimeout) })
	return a.ctx
}

// progress starts the clock again.
func (a *allowance) progress() {
	a.begun = time.Now()
	if a.timer != nil {
		a.timer.Reset(a.most)
	}
}

// pause stops the clock until progress.
func (a *allowance) pause() {
	if a.timer != nil {
		a.timer.Stop()
	}
}

// end releases what the allowance has.
func (a *allowance) end() {
	if a.timer != nil {
		a.timer.Stop()
		a.time.finish(context.Canceled)
		a.timer, a.ctx = nil, nil
	}
}

// read returns r such that the time that r takes does not count, and each read is
// progress: it comes when there is room for more on its way to the log.
func (a *allowance) read(r io.Reader) io.Reader { return &allowedReader{r, a} }

type allowedReader struct {
	io.Reader
	allowance *allowance
}

func (r *allowedReader) Read(p []byte) (int, error) {
	r.allowance.pause()
	defer r.allowance.progress()
	return r.Reader.Read(p)
}

// limited bounds what belongs to a write but is none itself, if ctx has no deadline.
func (s *Store) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, limited := ctx.Deadline(); limited || s.writeTimeout < 0 {
		return ctx, func() {}
	}
	c := newTimeContext(ctx)
	timer := time.AfterFunc(s.writeTimeout, func() { c.finish(errWriteTimeout) })
	return c, func() { timer.Stop(); c.finish(context.Canceled) }
}

// syncForWrite is Sync, bounded as a write is.
func (s *Store) syncForWrite(ctx context.Context) error {
	ctx, cancel := s.limited(ctx)
	defer cancel()
	return s.Sync(ctx)
}
