package replication

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
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
// was sent on until its context ends; here the loss is told at once. And the memory of
// a request is used again. Its number is not: a second answer, as that of a leader that
// was deposed and does not know it yet, must not be taken for the answer to another
// request, however late it is.
type requester struct {
	nc    *nats.Conn
	sub   *nats.Subscription // nil before open
	inbox string             // with the dot that the number of a call follows

	mu    sync.Mutex // held for moments only
	next  uint64
	calls map[uint64]*call // whose answer may come or has come; nil: closed
	idle  []*call          // to be used again

	denied map[string]time.Time // subjects that the connection may not publish to, and when that was told
	deaf   *ForbiddenError      // the connection may not subscribe to the inbox

	clock   *time.Timer // one for all calls; see tick
	ticking bool
	ticks   uint64
}

// tickEvery is how exactly answerTimeout is kept.
const tickEvery = answerTimeout / 5

// spare is how many calls are kept to be used again.
const spare = 256

// call is a request and its answer.
type call struct {
	number  uint64
	msg     nats.Msg        // of whoever sends it, until it is sent
	answers chan answer     // of capacity 1, for those who wait
	each    func(*nats.Msg) // of listen, instead of one answer

	// Guarded by requester.mu, with msg.Subject:
	also    []string // subjects of other messages that it sends
	waiting bool
	sent    bool                   // nobody reads msg any more
	since   uint64                 // ticks when it began to wait
	done    func(*nats.Msg, error) // called once, without a lock, when it does not wait any more
}

type answer struct {
	msg *nats.Msg
	err error
}

func newRequester(nc *nats.Conn) *requester {
	r := &requester{nc: nc, inbox: nc.NewInbox() + ".", calls: make(map[uint64]*call)}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock = time.AfterFunc(tickEvery, r.tick)
	return r
}

// open subscribes to the inbox. If the server does not permit that, only the
// connection's error handler is told, maybe before open returns: so forbidden must be
// able to hear of it before open is called.
func (r *requester) open() error {
	sub, err := r.nc.Subscribe(r.inbox+">", r.answered)
	if err != nil {
		return unsent(err)
	}
	r.sub = sub
	// Answers are handed over at once; a limit could only lose some.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// answered runs on the goroutine of the subscription.
func (r *requester) answered(m *nats.Msg) {
	token, _, _ := strings.Cut(m.Subject[len(r.inbox):], ".")
	number, err := strconv.ParseUint(token, 36, 64)
	if err != nil {
		return
	}
	r.mu.Lock()
	c := r.calls[number]
	if c == nil || c.each != nil {
		r.mu.Unlock()
		if c != nil {
			c.each(m)
		}
		return
	}
	waited, done := c.waiting, c.done
	c.waiting = false
	r.mu.Unlock()
	if waited {
		done(m, nil)
	}
}

// tick ends the calls that have waited for too long. It runs for as long as any
// wait.
func (r *requester) tick() {
	r.mu.Lock()
	r.ticks++
	r.ticking = false
	var late []func(*nats.Msg, error)
	for _, c := range r.calls {
		switch {
		case !c.waiting || c.each != nil:
		case r.ticks-c.since > uint64(answerTimeout/tickEvery):
			c.waiting = false
			late = append(late, c.done)
		default:
			r.startTicking()
		}
	}
	r.mu.Unlock()
	for _, done := range late {
		done(nil, nats.ErrTimeout)
	}
}

// startTicking needs mu.
func (r *requester) startTicking() {
	if !r.ticking {
		r.ticking = true
		r.clock.Reset(tickEvery)
	}
}

// finish ends the wait for the answer, unless it has ended.
func (r *requester) finish(c *call, m *nats.Msg, err error) {
	r.mu.Lock()
	waited, done := c.waiting, c.done
	c.waiting = false
	r.mu.Unlock()
	if waited {
		done(m, err)
	}
}

func (c *call) deliver(m *nats.Msg, err error) { c.answers <- answer{m, err} }

// begin begins a call that sends a message to a subject, and others before it.
func (r *requester) begin(subject string, also ...string) (*call, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.refuses(also); err != nil {
		return nil, err
	}
	var c *call
	if last := len(r.idle) - 1; last >= 0 {
		c, r.idle = r.idle[last], r.idle[:last]
	} else {
		c = &call{answers: make(chan answer, 1)}
		c.done = c.deliver
	}
	r.next++
	c.number, c.waiting, c.sent, c.since, c.msg.Subject, c.also = r.next, true, false, r.ticks, subject, also
	var reply [64]byte
	c.msg.Reply = string(strconv.AppendUint(append(reply[:0], r.inbox...), r.next, 36))
	r.calls[r.next] = c
	r.startTicking()
	return c, nil
}

// listen begins a call that has any number of answers, on subjects that begin
// with the inbox, the number of the call and a dot. lost is called once when no
// more can come, unless forget comes first. The subject is that of the request, if
// there is only one.
func (r *requester) listen(subject string, each func(*nats.Msg), lost func(error)) (*call, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.refuses(nil); err != nil {
		return nil, err
	}
	r.next++
	c := &call{number: r.next, each: each, waiting: true}
	c.msg.Subject = subject
	c.done = func(_ *nats.Msg, err error) { lost(err) }
	r.calls[r.next] = c
	return c, nil
}

// forget ends a call of listen.
func (r *requester) forget(c *call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.waiting = false
	if r.calls[c.number] == c {
		delete(r.calls, c.number)
	}
}

// end forgets the call, and keeps its memory for another if its answer has come and
// nothing uses it any more: a call can end while it is still being sent. It tells
// whether the call was waiting until now.
func (r *requester) end(c *call, answered bool) (waited bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	waited, c.waiting = c.waiting, false
	if r.calls[c.number] != c { // interrupted or closed
		return waited
	}
	delete(r.calls, c.number)
	if answered && c.sent && len(r.idle) < spare {
		c.done = c.deliver
		r.idle = append(r.idle, c)
	}
	return waited
}

// interrupt ends every call that waits for an answer.
func (r *requester) interrupt() { r.replace(make(map[uint64]*call)) }

func (r *requester) replace(calls map[uint64]*call) {
	r.mu.Lock()
	lost := r.calls
	if lost != nil {
		r.calls, r.idle, r.denied, r.deaf = calls, nil, nil, nil
	}
	r.mu.Unlock()
	for _, c := range lost {
		r.finish(c, nil, errInterrupted)
	}
}

// do sends one request and waits for its answer. An error that is
// ErrUnavailable means that nobody got the request; any other means that
// somebody may have. The answer's bytes are the caller's.
func (r *requester) do(ctx context.Context, subject string, header nats.Header, data []byte) (*nats.Msg, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, Ended(ctx))
	}
	c, err := r.begin(subject)
	if err != nil {
		return nil, err
	}
	return r.finishDo(ctx, c, header, data)
}

// doLast is do of a message before which others are sent, which have no answers:
// those of all subjects but the last. send sends one of them.
func (r *requester) doLast(ctx context.Context, subjects []string, send func(i int) error, header nats.Header, data []byte) (*nats.Msg, error) {
	end := len(subjects) - 1
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
	c, err := r.begin(subjects[end], subjects...)
	if err != nil {
		return nil, err
	}
	for i := range end {
		if err := send(i); err != nil {
			r.end(c, false)
			return nil, unsent(err)
		}
	}
	return r.finishDo(ctx, c, header, data)
}

// finishDo sends the request of a call and waits for its answer.
func (r *requester) finishDo(ctx context.Context, c *call, header nats.Header, data []byte) (*nats.Msg, error) {
	if _, err := r.publish(c, header, data); err != nil {
		return nil, err
	}
	a, answered := c.await(ctx)
	r.end(c, answered && a.err == nil)
	if !answered {
		return nil, Ended(ctx)
	}
	return received(a.msg, a.err)
}

// await waits for the answer, until ctx ends.
func (c *call) await(ctx context.Context) (answer, bool) {
	if ctx.Done() == nil { // to wait for one thing costs half as much
		return <-c.answers, true
	}
	select {
	case a := <-c.answers:
		return a, true
	case <-ctx.Done():
		return answer{}, false
	}
}

// start sends one request. done is called once with what do would return, on a
// goroutine on which others wait for their answers: it must not wait. If start
// itself returns an error, which is ErrUnavailable, done is not called.
func (r *requester) start(subject string, header nats.Header, data []byte, done func(*nats.Msg, error)) error {
	c, err := r.begin(subject)
	if err != nil {
		return err
	}
	r.mu.Lock()
	lost := !c.waiting // interrupted, just now: that was told to nobody
	c.done = func(m *nats.Msg, err error) {
		r.end(c, err == nil)
		done(received(m, err))
	}
	r.mu.Unlock()
	if lost {
		return fmt.Errorf("%w: %w", ErrUnavailable, errInterrupted)
	}
	if waited, err := r.publish(c, header, data); waited {
		return err
	}
	return nil // or the connection was lost, and done is told
}

// gather sends one request that has up to most answers and then a status, which
// ends them and is not returned. The error is one of do's.
func (r *requester) gather(ctx context.Context, subject string, data []byte, most int) ([]*nats.Msg, error) {
	answers := make(chan answer, most+2)
	offer := func(a answer) {
		select {
		case answers <- a:
		default: // more than was asked for
		}
	}
	c, err := r.listen(subject, func(m *nats.Msg) { offer(answer{msg: m}) }, func(err error) { offer(answer{err: err}) })
	if err != nil {
		return nil, err
	}
	defer r.forget(c)
	reply := r.inbox + strconv.FormatUint(c.number, 36) + ".0"
	if err := r.nc.PublishRequest(subject, reply, data); err != nil {
		return nil, unsent(err)
	}
	silence := time.NewTimer(answerTimeout)
	defer silence.Stop()
	var got []*nats.Msg
	for {
		select {
		case a := <-answers:
			switch {
			case a.err != nil:
				return nil, a.err
			case len(a.msg.Header["Nats-Sequence"]) == 0:
				_, err := received(a.msg, nil)
				return got, err
			}
			got = append(got, a.msg)
			silence.Reset(answerTimeout)
		case <-silence.C:
			return nil, nats.ErrTimeout
		case <-ctx.Done():
			return nil, Ended(ctx)
		}
	}
}

// publish tells whether it is the one that ended the call, by an error.
func (r *requester) publish(c *call, header nats.Header, data []byte) (ended bool, err error) {
	c.msg.Header, c.msg.Data = header, data
	err = r.nc.PublishMsg(&c.msg)
	c.msg.Header, c.msg.Data = nil, nil
	if err != nil {
		return r.end(c, false), unsent(err)
	}
	r.mu.Lock()
	c.sent = true
	r.mu.Unlock()
	return false, nil
}

// received tells an answer from the server's word that nobody is there to give
// one. A record that somebody stored with such a header comes with a sequence.
func received(m *nats.Msg, err error) (*nats.Msg, error) {
	if err == nil && len(m.Data) == 0 && m.Header.Get("Status") == "503" && len(m.Header["Nats-Sequence"]) == 0 {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, nats.ErrNoResponders)
	}
	return m, err
}

func (r *requester) close() {
	if r.sub != nil {
		_ = r.sub.Unsubscribe() // fails only where the connection is closed already
	}
	r.replace(nil)
	r.clock.Stop() // nothing starts it again: nothing waits
}
