package replication

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// A server does not answer a message that its user may not publish. It tells the
// connection, which tells its error handler, and nobody else. So the handler of a
// connection that has Logs is wrapped: it first tells the Logs, and then calls the
// handler that was there. With the last Log the connection gets its handler back,
// if nobody has set another one meanwhile.

// violations is what is wrapped around the error handler of one connection.
type violations struct {
	was nats.ErrHandler

	mu        sync.Mutex // held for moments
	listeners map[*Log]bool
}

// wrapped has the connections that have Logs. It is one for the process, because a
// connection can be shared by any number of Logs that know nothing of each other.
var wrapped struct {
	sync.Mutex
	conns map[*nats.Conn]*violations
}

// listenForViolations has l told what the server does not permit.
func listenForViolations(l *Log) {
	wrapped.Lock()
	defer wrapped.Unlock()
	if wrapped.conns == nil {
		wrapped.conns = make(map[*nats.Conn]*violations)
	}
	v := wrapped.conns[l.nc]
	if v == nil {
		v = &violations{was: l.nc.ErrorHandler(), listeners: make(map[*Log]bool)}
		l.nc.SetErrorHandler(v.handle)
		wrapped.conns[l.nc] = v
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.listeners[l] = true
}

// ignoreViolations ends listenForViolations. It can be called more than once.
func ignoreViolations(l *Log) {
	wrapped.Lock()
	defer wrapped.Unlock()
	v := wrapped.conns[l.nc]
	if v == nil {
		return
	}
	v.mu.Lock()
	delete(v.listeners, l)
	left := len(v.listeners)
	v.mu.Unlock()
	if left > 0 {
		return
	}
	delete(wrapped.conns, l.nc)
	// The code of handle is the same for every connection, and each has one.
	if reflect.ValueOf(l.nc.ErrorHandler()).Pointer() == reflect.ValueOf(v.handle).Pointer() {
		l.nc.SetErrorHandler(v.was)
	}
}

// handle runs on the goroutine of the connection's callbacks.
func (v *violations) handle(nc *nats.Conn, sub *nats.Subscription, err error) {
	if forbidden := parseViolation(err); forbidden != nil {
		v.mu.Lock()
		listeners := make([]*Log, 0, len(v.listeners))
		for l := range v.listeners {
			listeners = append(listeners, l)
		}
		v.mu.Unlock()
		for _, l := range listeners {
			l.forbidden(forbidden)
		}
	}
	if v.was != nil {
		v.was(nc, sub, err)
	}
}

// parseViolation returns what the server does not permit, or nil if that is not what
// err says. The texts are those of nats-server, which has no codes for them:
//
//	Permissions Violation for Publish to "subject"
//	Permissions Violation for Subscription to "subject"
func parseViolation(err error) *ForbiddenError {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return nil
	}
	text := err.Error()
	for _, kind := range []struct {
		before  string
		answers bool
	}{{"for Publish to ", false}, {"for Subscription to ", true}} {
		_, rest, ok := strings.Cut(text, kind.before)
		if !ok {
			continue
		}
		if quoted, bad := strconv.QuotedPrefix(rest); bad == nil {
			if subject, bad := strconv.Unquote(quoted); bad == nil {
				return &ForbiddenError{Subject: subject, Answers: kind.answers}
			}
		}
	}
	return nil
}

// warnings is how many subjects a Log warns of at most.
const warnings = 1000

// forbidden ends what waits for an answer that will not come. It must not wait.
func (l *Log) forbidden(e *ForbiddenError) {
	ours := l.requests.forbidden(e)
	l.mu.Lock()
	for f := range l.watchers {
		ours = f.forbidden(e) || ours
	}
	_, told := l.warned[e.Subject]
	warn := !told && (ours || l.owns(e.Subject)) && len(l.warned) < warnings
	if warn {
		l.warned[e.Subject] = struct{}{}
	}
	l.mu.Unlock()
	if warn {
		l.cfg.Logger.Warn("nearkv: the server does not permit it", "stream", l.stream, "subject", e.Subject, "error", e.Error())
	}
}

// owns reports whether a subject is one of this log's.
func (l *Log) owns(subject string) bool {
	if strings.HasPrefix(subject, l.to) || strings.HasPrefix(subject, l.objects.chunks) || strings.HasPrefix(subject, l.objects.infos) {
		return true
	}
	rest, api := strings.CutPrefix(subject, l.cfg.APIPrefix)
	if !api {
		return false
	}
	for token := range strings.SplitSeq(rest, ".") {
		if token == l.stream || token == l.objects.stream {
			return true
		}
	}
	return false
}

// A watcher is told what the server does not permit, beside the requests. It
// reports whether that concerns it. It is called under a lock, and must not wait.
type watcher interface{ forbidden(e *ForbiddenError) bool }

func (l *Log) addWatcher(w watcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watchers[w] = true
}

func (l *Log) removeWatcher(w watcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.watchers, w)
}

// forbidden ends the calls of a subject that may not be published to, or, where
// the answers cannot be received, all of them.
func (r *requester) forbidden(e *ForbiddenError) bool {
	r.mu.Lock()
	deaf := e.Answers && e.Subject == r.inbox+">"
	if deaf {
		r.deaf = e
	}
	if !e.Answers && len(r.denied) < warnings {
		if r.denied == nil {
			r.denied = make(map[string]time.Time)
		}
		r.denied[e.Subject] = time.Now()
	}
	var hit []*call
	for _, c := range r.calls {
		if c.waiting && (deaf || !e.Answers && c.sends(e.Subject)) {
			hit = append(hit, c)
		}
	}
	r.mu.Unlock()
	for _, c := range hit {
		r.finish(c, nil, e)
	}
	return len(hit) > 0 || deaf
}

// deniedFor is how long a batch is refused without being sent, because a part of it
// was refused on the same connection. The server may answer for a batch before it
// is heard that a part was refused; then the batch is tried again.
const deniedFor = 5 * time.Second

// refuses returns why a call cannot begin. It needs mu.
func (r *requester) refuses(also []string) error {
	switch {
	case r.calls == nil:
		return fmt.Errorf("%w: %w", ErrUnavailable, ErrClosed)
	case r.deaf != nil:
		return r.deaf
	}
	for _, subject := range also {
		if at, denied := r.denied[subject]; denied && time.Since(at) < deniedFor {
			return &ForbiddenError{Subject: subject}
		}
	}
	return nil
}

// unsent is the error of a message that could not be sent.
func unsent(err error) error {
	if errors.Is(err, nats.ErrConnectionClosed) {
		return ErrDisconnected
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// sends reports whether a call has sent a message to a subject. It needs
// requester.mu.
func (c *call) sends(subject string) bool {
	if c.msg.Subject == subject {
		return true
	}
	for _, also := range c.also {
		if also == subject {
			return true
		}
	}
	return false
}
