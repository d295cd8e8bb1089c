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
// was sent on until its context ends; here the loss is told at once.
type requester struct {
	nc    *nats.Conn
	sub   *nats.Subscription
	inbox string // with the dot that the token follows

	mu      sync.Mutex // held for map operations only
	next    uint64
	waiting map[uint64]chan *nats.Msg // each of capacity 1, and sent to once; nil: closed
}

func newRequester(nc *nats.Conn) (*requester, error) {
	r := &requester{nc: nc, inbox: nc.NewInbox() + ".", waiting: make(map[uint64]chan *nats.Msg)}
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
	token, err := strconv.ParseUint(m.Subject[len(r.inbox):], 36, 64)
	if err != nil {
		return
	}
	if answer := r.take(token); answer != nil {
		answer <- m
	}
}

func (r *requester) take(token uint64) chan *nats.Msg {
	r.mu.Lock()
	defer r.mu.Unlock()
	answer := r.waiting[token]
	delete(r.waiting, token)
	return answer
}

func (r *requester) add() (uint64, chan *nats.Msg, error) {
	answer := make(chan *nats.Msg, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting == nil {
		return 0, nil, ErrClosed
	}
	r.next++
	r.waiting[r.next] = answer
	return r.next, answer, nil
}

// interrupt ends every call that waits for an answer.
func (r *requester) interrupt() { r.replace(make(map[uint64]chan *nats.Msg)) }

func (r *requester) replace(waiting map[uint64]chan *nats.Msg) {
	r.mu.Lock()
	lost := r.waiting
	if lost != nil {
		r.waiting = waiting
	}
	r.mu.Unlock()
	for _, answer := range lost {
		close(answer)
	}
}

// do sends one request and waits for its answer. An error that is
// ErrUnavailable means that nobody got the request; any other means that
// somebody may have. The answer's bytes are the caller's.
func (r *requester) do(ctx context.Context, subject string, header nats.Header, data []byte) (*nats.Msg, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
	token, answer, err := r.add()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer r.take(token)
	msg := &nats.Msg{Subject: subject, Reply: r.inbox + strconv.FormatUint(token, 36), Header: header, Data: data}
	if err := r.nc.PublishMsg(msg); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	timeout := time.NewTimer(answerTimeout)
	defer timeout.Stop()
	select {
	case m, ok := <-answer:
		if !ok {
			return nil, errInterrupted
		}
		// A record that somebody stored with such a header comes with a sequence.
		if len(m.Data) == 0 && m.Header.Get("Status") == "503" && len(m.Header["Nats-Sequence"]) == 0 {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, nats.ErrNoResponders)
		}
		return m, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-timeout.C:
		return nil, nats.ErrTimeout
	}
}

func (r *requester) close() {
	_ = r.sub.Unsubscribe() // fails only where the connection is closed already
	r.replace(nil)
}
