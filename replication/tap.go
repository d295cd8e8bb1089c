package replication

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

const (
	// tapBatch is how many records one pull request asks for. Requests overlap,
	// so that up to twice as many are on their way.
	tapBatch = 4096
	// tapBytes bounds what one pull request brings. A record may be larger than
	// what is left of it; then one record is asked for without a bound.
	tapBytes = 32 << 20
	// tapIdle is after how long without a pull request the server removes the
	// consumer of a replica that went away.
	tapIdle = 30 * time.Second
)

// tap is a consumer of the stream that delivers every record from one sequence
// on, once and in order, or breaks. It does what the ordered consumers of
// nats.go do, less their silent resets: what to do when it breaks is the
// cursor's decision. All that it hears arrives on one channel, the answers to
// inspections too, so that one goroutine can follow it without a lock.
type tap struct {
	log     *Log
	name    string
	pending uint64 // records to come when it was created
	inbox   string
	next    string // subject of pull requests
	sub     *nats.Subscription
	msgs    chan *nats.Msg

	most    pullLimits
	refused atomic.Pointer[ForbiddenError] // a request that has no other answer

	credit int // records that were asked for and have not come
	heard  bool
	asks   int // for the stream's info
	nexts  int // for the next record
}

// pullLimits is what one pull request may ask for.
type pullLimits struct {
	batch   int
	bytes   int
	expires time.Duration
}

// delivery is where a record stands, as its reply subject tells.
type delivery struct {
	stored      int64 // unix nanoseconds
	seq         uint64
	consumerSeq uint64
	pending     uint64 // records that follow
}

func (l *Log) newTap(ctx context.Context, from uint64) (*tap, error) {
	t := &tap{log: l, name: "nearkv-" + nuid.Next(), inbox: l.nc.NewInbox(), msgs: make(chan *nats.Msg, 2*tapBatch+256)}
	t.next = l.api("CONSUMER.MSG.NEXT." + l.stream + "." + t.name)
	sub, err := l.nc.ChanSubscribe(t.inbox+".*", t.msgs)
	if err != nil {
		return nil, fmt.Errorf("replication: %w", unsent(err))
	}
	t.sub = sub
	l.addWatcher(t)
	if err := t.create(ctx, from); err != nil {
		t.unsubscribe()
		return nil, err
	}
	if err := t.pull(t.most.batch, t.most.bytes); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// forbidden is told what the server does not permit. follow is woken by a message,
// which status explains.
func (t *tap) forbidden(e *ForbiddenError) bool {
	switch e.Subject {
	case t.next, t.log.infoSubject():
	case t.inbox + ".*":
		if !e.Answers {
			return false
		}
	default:
		return false
	}
	t.refused.CompareAndSwap(nil, e)
	select {
	case t.msgs <- new(nats.Msg):
	default: // there are others, and the silence will tell
	}
	return true
}

func (t *tap) create(ctx context.Context, from uint64) error {
	config := jetstream.ConsumerConfig{
		Name: t.name, Description: "a replica of nearkv",
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
		AckPolicy: jetstream.AckNonePolicy, MaxDeliver: -1, MaxWaiting: 16,
		Replicas: 1, MemoryStorage: true, InactiveThreshold: cmp.Or(t.log.limits.Load().idle, tapIdle),
	}
	if from == 1 && t.log.limits.Load().history {
		// A replica that reads the log anew is not to go back through the history
		// of keys that nobody has touched.
		config.DeliverPolicy, config.OptStartSeq, config.FilterSubject = jetstream.DeliverLastPerSubjectPolicy, 0, ">"
	}
	request, err := json.Marshal(map[string]any{"stream_name": t.log.stream, "action": "create", "config": config})
	if err != nil {
		return err
	}
	m, err := t.log.requests.do(ctx, t.log.api("CONSUMER.CREATE."+t.log.stream+"."+t.name), nil, request)
	if err != nil {
		return unanswered(err)
	}
	var reply struct {
		apiReply
		jetstream.ConsumerInfo
	}
	if err := json.Unmarshal(m.Data, &reply); err != nil {
		return fmt.Errorf("replication: %w: %w", ErrUnavailable, err)
	}
	if reply.Error != nil {
		return apiError(reply.Error, t.log.stream)
	}
	t.pending = reply.NumPending
	t.most = t.limit(reply.Config)
	return nil
}

// limit returns what one pull request may ask for: a server, an account or a stream
// can have lower limits than ours, and the answer to the creation of the consumer
// says them.
func (t *tap) limit(c jetstream.ConsumerConfig) pullLimits {
	most := pullLimits{batch: tapBatch, bytes: tapBytes, expires: max(30*time.Second, 4*t.log.cfg.CheckInterval)}
	if c.MaxRequestBatch > 0 {
		most.batch = min(most.batch, c.MaxRequestBatch)
	}
	if c.MaxRequestMaxBytes > 0 {
		most.bytes = min(most.bytes, c.MaxRequestMaxBytes)
	}
	if c.MaxRequestExpires > 0 {
		most.expires = min(most.expires, c.MaxRequestExpires)
	}
	return most
}

// pull asks for more records.
func (t *tap) pull(batch, maxBytes int) error {
	request := map[string]any{"batch": batch, "expires": t.most.expires}
	// The server wants two heartbeats in the life of a request.
	if heartbeat := t.log.cfg.CheckInterval; 2*heartbeat <= t.most.expires {
		request["idle_heartbeat"] = heartbeat
	}
	if maxBytes > 0 {
		request["max_bytes"] = maxBytes
	}
	data, err := json.Marshal(request)
	if err != nil {
		return err
	}
	t.credit += batch
	if err := t.log.nc.PublishRequest(t.next, t.inbox+".next", data); err != nil {
		return fmt.Errorf("replication: %w", unsent(err))
	}
	return nil
}

// taken accounts for a record, and asks for more in good time.
func (t *tap) taken() error {
	t.heard = true
	t.credit--
	return t.refill()
}

// refill asks for more records if there are few to come.
func (t *tap) refill() error {
	if t.credit > t.most.batch/2 {
		return nil
	}
	return t.pull(t.most.batch, t.most.bytes)
}

// status handles a message of the server about a pull request.
func (t *tap) status(m *nats.Msg) error {
	if e := t.refused.Load(); e != nil {
		return fmt.Errorf("replication: follow %s: %w", t.log.stream, e)
	}
	t.heard = true
	code, text := m.Header.Get("Status"), m.Header.Get("Description")
	if code == "100" {
		return nil // a heartbeat
	}
	left, err := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
	if err != nil || (code != "408" && code != "409") || strings.EqualFold(text, "Server Shutdown") {
		return fmt.Errorf("replication: %w: the consumer ended: %s %s", ErrUnavailable, code, text)
	}
	t.credit -= left
	if strings.Contains(text, "Exceeds MaxBytes") {
		return t.pull(1, 0)
	}
	return t.refill()
}

// What the tap asks for arrives on its inbox, under one of these names.
const (
	infoToken = ".info-"
	nextToken = ".next-"
)

// ask requests the stream's info; the answer arrives among the records.
func (t *tap) ask() error {
	t.asks++
	return t.log.nc.PublishRequest(t.log.infoSubject(), t.inbox+infoToken+strconv.Itoa(t.asks), nil)
}

// askNext requests the first record at a sequence or after it, from the leader; the
// answer arrives among the records.
func (t *tap) askNext(seq uint64) error {
	query, err := nextQuery(seq)
	if err != nil {
		return err
	}
	t.nexts++
	return t.log.nc.PublishRequest(t.log.leaderSubject(t.log.stream), t.inbox+nextToken+strconv.Itoa(t.nexts), query)
}

// answerKind is what a message of the tap's inbox answers.
type answerKind uint8

const (
	noAnswer   answerKind = iota // to a pull request, perhaps
	latestView                   // to the last ask
	nextRecord                   // to the last askNext
	lateAnswer                   // to an earlier one
)

func (t *tap) kind(m *nats.Msg) answerKind {
	if number, ok := strings.CutPrefix(m.Subject, t.inbox+infoToken); ok {
		return t.answers(number, t.asks, latestView)
	}
	if number, ok := strings.CutPrefix(m.Subject, t.inbox+nextToken); ok {
		return t.answers(number, t.nexts, nextRecord)
	}
	return noAnswer
}

func (t *tap) answers(number string, last int, kind answerKind) answerKind {
	if number != strconv.Itoa(last) {
		return lateAnswer
	}
	return kind
}

// close removes the consumer without waiting for the answer; what is lost the
// server removes by itself.
func (t *tap) close() {
	_ = t.log.nc.Publish(t.log.api("CONSUMER.DELETE."+t.log.stream+"."+t.name), nil)
	t.unsubscribe()
}

func (t *tap) unsubscribe() {
	t.log.removeWatcher(t)
	_ = t.sub.Unsubscribe() // fails only where the connection is closed already
}

// parseDelivery reads the reply subject of a delivered record:
//
//	$JS.ACK.<stream>.<consumer>.<delivered>.<seq>.<consumer seq>.<time>.<pending>
//	$JS.ACK.<domain>.<account>.<stream>.<consumer>.<delivered>.<seq>.<consumer seq>.<time>.<pending>[.<token>]
func parseDelivery(reply string) (delivery, bool) {
	const first = "$JS.ACK."
	if !strings.HasPrefix(reply, first) {
		return delivery{}, false
	}
	dots := strings.Count(reply, ".")
	skip := 5 // tokens before the sequence, in the short form
	switch {
	case dots == 8:
	case dots >= 10:
		skip = 7
	default:
		return delivery{}, false
	}
	for range skip {
		_, reply, _ = strings.Cut(reply, ".")
	}
	var numbers [4]uint64
	for i := range numbers {
		var token string
		token, reply, _ = strings.Cut(reply, ".")
		n, err := strconv.ParseUint(token, 10, 63)
		if err != nil {
			return delivery{}, false
		}
		numbers[i] = n
	}
	return delivery{seq: numbers[0], consumerSeq: numbers[1], stored: int64(numbers[2]), pending: numbers[3]}, true
}
