package replication

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/nearkv/nearkv/codec"
)

// Ingest is a run of records that the log takes without an answer to each: a
// fast-ingest batch of nats-server, with gaps forbidden. Now and then the log says
// how many of them it has. What it has is always the first so many: when one is
// refused, or is lost, none behind it is taken.
//
// There is a client for this in orbit.go. It waits without a context, and does
// not tell of a lost connection; so what is in could not be told at once.
type Ingest struct {
	log    *Log
	call   *call  // all answers come to it
	reply  string // how the subject of an answer begins, up to the number of the record
	stored func(n uint64)
	ended  func(n, last uint64, err error)

	mu     sync.Mutex // held for moments, and while a record is sent
	msg    nats.Msg
	flight []string // subjects of the records that were sent and are not known to be in the log
	passed string   // subject of the last record before them
	denied bool     // one of them may not be published to
	doubt  bool     // the log does not know of the run
	timer  *time.Timer
	sent   uint64
	known  uint64 // so many are in the log
	seen   uint64 // of sent, by the last look
	quiet  int    // looks since the log was asked to end, or last answered
	closed bool   // the end of the run was sent
	over   bool
}

const (
	// ingestFlow is after how many records the log is to answer, at the most.
	ingestFlow = 256
	// lookEvery is how long nothing may be sent before a run is ended: nobody
	// would learn of its last records otherwise, and the server forgets it after 10 s.
	lookEvery = 100 * time.Millisecond
)

// The kinds of messages of a fast-ingest batch.
const (
	ingestStart  = "0.$FI"
	ingestAppend = "1.$FI"
	ingestEnd    = "3.$FI"
)

// errEnded says that a run takes no more records.
var errEnded = errors.New("replication: the run has ended")

// CanIngest tells whether the log takes runs of records: a property of the
// stream. Runs share no syncs: where others do, they are of no use.
func (l *Log) CanIngest() bool { return l.limits.Load().batch && !l.CanGroup() }

// Ingest begins a run. stored is told how many records are in the log, whenever
// more are. ended is called once, with how many are in, the revision of the last
// of them, and what became of the others: with ErrUncertain they may be in, with
// any other error they are not. nil: all are in. Both must not wait, nor call what
// waits.
//
// A run ends by End, by itself when nothing is sent for a while, and with the
// connection. Records of one connection come into the log in the order in which
// they are sent.
func (l *Log) Ingest(stored func(n uint64), ended func(n, last uint64, err error)) (*Ingest, error) {
	in := &Ingest{log: l, stored: stored, ended: ended}
	call, err := l.requests.listen("", in.answered, func(err error) { in.finish(0, notAppended(err)) })
	if err != nil {
		return nil, notAppended(err)
	}
	in.call = call
	in.reply = l.requests.inbox + strconv.FormatUint(call.number, 36) + "." + nuid.Next() + "." + strconv.Itoa(ingestFlow) + ".fail."
	l.addWatcher(in)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.timer = time.AfterFunc(lookEvery, in.look)
	return in, nil
}

// Send sends one record. With an error it was not sent.
func (in *Ingest) Send(key string, rec codec.Record) error {
	header, err := in.log.header(rec, Expectation{})
	if err != nil {
		return err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed || in.over {
		return errEnded
	}
	kind := ingestAppend
	if in.sent == 0 {
		kind = ingestStart
	}
	in.msg.Subject = in.log.subject(key)
	in.msg.Header, in.msg.Data = header, rec.Value
	if err := in.publish(kind); err != nil {
		return err
	}
	in.sent++
	in.flight = append(in.flight, in.msg.Subject)
	return nil
}

// publish sends msg with the next number of the run. It needs mu.
func (in *Ingest) publish(kind string) error {
	var b [128]byte
	reply := strconv.AppendUint(append(b[:0], in.reply...), in.sent+1, 10)
	in.msg.Reply = string(append(append(reply, '.'), kind...))
	if err := in.log.nc.PublishMsg(&in.msg); err != nil {
		return notAppended(unsent(err))
	}
	return nil
}

// End has the log say how many records it has, and ends the run.
func (in *Ingest) End() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.end()
}

func (in *Ingest) end() {
	if in.closed || in.over {
		return
	}
	in.closed = true
	in.quiet = 0
	if in.sent == 0 {
		go in.finish(0, nil)
		return
	}
	in.msg.Header, in.msg.Data = nil, nil // to the subject of the last record; it is not stored
	_ = in.publish(ingestEnd)             // if it cannot be sent the log is silent, and look ends the run
}

// look ends a run that nobody goes on with, or nobody answers.
func (in *Ingest) look() {
	in.mu.Lock()
	if in.over {
		in.mu.Unlock()
		return
	}
	if in.seen == in.sent {
		in.end()
	}
	in.seen = in.sent
	in.quiet++
	lost := in.quiet > int(answerTimeout/lookEvery) || in.doubt
	in.timer.Reset(lookEvery)
	in.mu.Unlock()
	if lost {
		in.finish(0, notAppended(nats.ErrTimeout))
	}
}

// answered runs on the goroutine of the subscription.
func (in *Ingest) answered(m *nats.Msg) {
	var a struct {
		Type string `json:"type"` // of an answer on the way
		Seq  uint64 `json:"seq"`
		// The answer that ends a run is an acknowledgement.
		Stream string          `json:"stream"`
		Count  uint64          `json:"count"`
		Error  json.RawMessage `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &a); err != nil { // no stream, for instance
		in.finish(0, notAppended(errors.New("malformed acknowledgement")))
		return
	}
	switch a.Type {
	case "ack":
		in.advance(a.Seq)
		return
	case "gap", "err": // the acknowledgement that follows says where
		return
	}
	if in.unknown(a.Error) {
		return
	}
	if a.Error != nil || a.Stream != in.log.stream {
		// The server says this also of a record in the middle of a run, and goes on.
		in.finish(0, notAppended(errors.New("not acknowledged: "+string(m.Data))))
		return
	}
	in.advance(a.Count)
	in.mu.Lock()
	all := a.Count == in.sent
	in.mu.Unlock()
	if all {
		in.finish(a.Seq, nil)
		return
	}
	in.finish(a.Seq, errCutShort)
}

// forbidden is told what the server does not permit. A record that may not be
// published is not taken, nor is any after it. If it was the first, the log knows
// nothing of the run. Otherwise the log is asked to end it, through the subject of
// a record that it has taken.
func (in *Ingest) forbidden(e *ForbiddenError) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	i := slices.Index(in.flight, e.Subject)
	if e.Answers || in.over || i < 0 {
		return false
	}
	if in.denied {
		return true
	}
	in.denied, in.closed, in.quiet = true, true, 0
	switch {
	case i > 0:
		in.msg.Subject = in.flight[i-1]
	case in.known == 0:
		go in.finish(0, fmt.Errorf("replication: %w", e))
		return true
	default:
		in.msg.Subject = in.passed
	}
	in.msg.Header, in.msg.Data = nil, nil
	_ = in.publish(ingestEnd) // if it cannot be sent the log is silent, and look ends the run
	return true
}

// unknown reports whether an answer says that the log does not know the run. That is
// so when its first record was not permitted, which is heard a little later.
func (in *Ingest) unknown(answer json.RawMessage) bool {
	var api jetstream.APIError
	if len(answer) == 0 || json.Unmarshal(answer, &api) != nil || api.ErrorCode != codeUnknownRun {
		return false
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.doubt = in.known == 0
	return in.doubt
}

// codeUnknownRun is the server's JSBatchPublishUnknownBatchIDErr.
const codeUnknownRun = 10208

// errCutShort ends a run of which the log has only the first records: it refused
// the next one, or has not received it.
var errCutShort = errors.New("replication: a record of the run was refused")

// advance notes that the first n records are in the log.
func (in *Ingest) advance(n uint64) {
	in.mu.Lock()
	more := n > in.known && n <= in.sent && !in.over
	if more {
		in.passed = in.flight[n-in.known-1]
		in.flight = in.flight[n-in.known:]
		in.known = n
		in.quiet = 0
	}
	in.mu.Unlock()
	if more {
		in.stored(n)
	}
}

func (in *Ingest) finish(last uint64, err error) {
	in.mu.Lock()
	was, known := in.over, in.known
	in.over = true
	if in.timer != nil {
		in.timer.Stop()
	}
	in.mu.Unlock()
	if was {
		return
	}
	in.log.removeWatcher(in)
	in.log.requests.forget(in.call)
	in.ended(known, last, err)
}
