package replication

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// answerTimeout bounds the wait for one answer. Servers answer within
// milliseconds; what takes this long was lost.
const answerTimeout = 5 * time.Second

// errInterrupted ends the calls that were waiting when the connection dropped:
// their answers cannot come any more.
var errInterrupted = errors.New("connection lost while waiting for the answer")

// requester sends requests and matches the answers, which all arrive on one
// inbox. nats.go has the same, but there a request outlives the connection it
// was sent on until its context ends; here the loss is told at once. And what a
// request needs is used again, the name of its inbox too: a server remembers who
// listens to a subject that it has seen lately.
type requester struct {
	nc    *nats.Conn
	sub   *nats.Subscription
	inbox string // with the dot that the number of a call follows

	mu    sync.Mutex // held for moments only
	next  uint64
	calls map[uint64]*call // whose answer may come or has come; nil: closed
	idle  []*call          // those whose answer has come, oldest first
}

// spare is how many calls have to be idle before the oldest is used again. A
// second answer to one request, which nobody should send, has to be that late to
// be taken for another's.
const spare = 64

// call is a request and its answer.
type call struct {
	number  uint64
	msg     nats.Msg
	timeout *time.Timer
	answer  chan *nats.Msg // of capacity 1; closed when the answer cannot come any more
	waiting bool           // for the answer. Guarded by requester.mu
}

func newRequester(nc *nats.Conn) (*requester, error) {
	r := &requester{nc: nc, inbox: nc.NewInbox() + ".", calls: make(map[uint64]*call)}
	sub, err := nc.Subscribe(r.inbox+"*", r.answered)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	// Answers are handed over at once; a limit could only lose some.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	r.sub = sub
	return r, nil
}

// answered runs on the goroutine of the subscription.
func (r *requester) answered(m *nats.Msg) {
	number, err := strconv.ParseUint(m.Subject[len(r.inbox):], 36, 64)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.calls[number]; c != nil && c.waiting {
		c.waiting = false
		c.answer <- m // there is room: it is the first
	}
}

func (r *requester) begin() (*call, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.calls == nil {
		return nil, ErrClosed
	}
	if len(r.idle) > spare {
		c := r.idle[0]
		r.idle = r.idle[1:]
		c.timeout.Reset(answerTimeout)
		c.waiting = true
		return c, nil
	}
	r.next++
	c := &call{number: r.next, timeout: time.NewTimer(answerTimeout), answer: make(chan *nats.Msg, 1), waiting: true}
	c.msg.Reply = r.inbox + strconv.FormatUint(r.next, 36)
	r.calls[r.next] = c
	return c, nil
}

// end keeps the call for another request, if its answer has come.
func (r *requester) end(c *call, answered bool) {
	c.timeout.Stop()
	c.msg.Data, c.msg.Header = nil, nil
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.calls[c.number] != c: // interrupted or closed
	case answered:
		r.idle = append(r.idle, c)
	default:
		delete(r.calls, c.number)
	}
}

// interrupt ends every call that waits for an answer.
func (r *requester) interrupt() { r.replace(make(map[uint64]*call)) }

func (r *requester) replace(calls map[uint64]*call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.calls {
		if c.waiting {
			c.waiting = false
			close(c.answer)
		}
	}
	if r.calls != nil {
		r.calls, r.idle = calls, nil
	}
}

// do sends one request and waits for its answer. An error that is
// ErrUnavailable means that nobody got the request; any other means that
// somebody may have. The answer's bytes are the caller's.
func (r *requester) do(ctx context.Context, subject string, header nats.Header, data []byte) (*nats.Msg, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
	c, err := r.begin()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	c.msg.Subject, c.msg.Header, c.msg.Data = subject, header, data
	if err := r.nc.PublishMsg(&c.msg); err != nil {
		r.end(c, false)
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	m, err := c.wait(ctx)
	r.end(c, err == nil)
	// A record that somebody stored with such a header comes with a sequence.
	if err == nil && len(m.Data) == 0 && m.Header.Get("Status") == "503" && len(m.Header["Nats-Sequence"]) == 0 {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, nats.ErrNoResponders)
	}
	return m, err
}

func (c *call) wait(ctx context.Context) (*nats.Msg, error) {
	select {
	case m, ok := <-c.answer:
		if !ok {
			return nil, errInterrupted
		}
		return m, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-c.timeout.C:
		return nil, nats.ErrTimeout
	}
}

func (r *requester) close() {
	_ = r.sub.Unsubscribe() // fails only where the connection is closed already
	r.replace(nil)
}
