package replication

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/nearkv/nearkv/codec"
)

// group has appends share syncs: a server with SyncAlways syncs each message by
// itself before it takes the next one, but an atomic batch as one.
//
// An append that finds nothing under way is sent at once, by its own goroutine,
// as without a group. Those that come while something is under way wait, and go
// together when all of it has been answered. A server alone stages a batch in a
// directory of its own, which takes it ten syncs or so: fewer appends than that
// go one after the other.
//
// A batch is all or nothing, and that is not what those in it have asked for. If
// the log refuses it nothing of it was written, and each goes again in a way that
// gets it its own answer. That holds because such a server answers with an error
// only what it has not begun to write; of what fails later it says nothing.
type group struct {
	log  *Log
	wake chan struct{} // of capacity 1: it is worth looking at the queue
	quit chan struct{}
	done sync.WaitGroup

	mu     sync.Mutex // held for moments only
	queue  []*member
	flying int // requests under way
	closed bool
	flock  int           // so many are likely to wait soon: those of the last batch come again; 0: send what there is
	pause  time.Duration // how long flock is worth waiting for

	assembling bool // the goroutine waits for flock, and needs not be told of fewer
}

// member is one append that waits for others.
type member struct {
	key    string
	header nats.Header
	data   []byte
	expect Expectation
	until  int64                            // unix milliseconds: from then on it is not to be sent; 0: no limit
	done   func(revision uint64, err error) // called once, without a lock
	alone  bool                             // it was in a batch that was refused, perhaps because of it
	again  bool                             // it was in a batch that was refused because of another

	// Guarded by group.mu:
	sent bool
	left bool // nobody waits for it
}

const (
	groupLeast    = 12      // members of a batch: below that its staging costs more than it saves
	groupMost     = 1000    // the server's limit (streamDefaultMaxAtomicBatchSize)
	groupMaxBytes = 8 << 20 // of a batch, unless it is a single member's
	assembleShare = 8       // of the time that a batch took is what the next one may wait for its members
	headerBatchID = "Nats-Batch-Id"
	headerSeq     = "Nats-Batch-Sequence"
	headerCommit  = "Nats-Batch-Commit"
)

func newGroup(l *Log) *group {
	g := &group{log: l, wake: make(chan struct{}, 1), quit: make(chan struct{})}
	g.done.Go(g.run)
	return g
}

// close ends those that wait. Those under way end with the requester.
func (g *group) close() {
	g.mu.Lock()
	first := !g.closed
	g.closed = true
	waiting := g.queue
	g.queue = nil
	g.mu.Unlock()
	if first {
		close(g.quit)
	}
	g.done.Wait()
	for _, m := range waiting {
		m.done(0, errGroupClosed)
	}
}

var errGroupClosed = fmt.Errorf("replication: %w: %w", ErrUnavailable, ErrClosed)

// CanGroup tells whether appends share syncs: with Config.Synced, where the
// stream takes atomic batches and is not replicated.
func (l *Log) CanGroup() bool {
	limits := l.limits.Load()
	return l.group != nil && limits.atomic && !limits.copies
}

// append is Log.Append.
func (g *group) append(ctx context.Context, key string, header nats.Header, value []byte, expect Expectation) (uint64, error) {
	if g.takeOff() {
		answer, err := g.log.requests.do(ctx, g.log.subject(key), header, value)
		g.landed()
		return g.log.appended(answer, err, key, expect)
	}
	if ctx.Err() != nil {
		return 0, fmt.Errorf("replication: %w: %w", ErrUnavailable, Ended(ctx))
	}
	type outcome struct {
		revision uint64
		err      error
	}
	outcomes := make(chan outcome, 1)
	m, err := g.join(key, header, value, expect, 0, func(revision uint64, err error) { outcomes <- outcome{revision, err} })
	if err != nil {
		return 0, err
	}
	select {
	case o := <-outcomes:
		return o.revision, o.err
	case <-ctx.Done():
		return 0, g.leave(m, Ended(ctx))
	}
}

// send is Log.Send.
func (g *group) send(key string, header nats.Header, rec codec.Record, expect Expectation, done func(uint64, error)) error {
	value := rec.Value
	if !g.takeOff() {
		_, err := g.join(key, header, value, expect, rec.Expires, done)
		return err
	}
	err := g.log.start(key, header, value, expect, func(revision uint64, err error) {
		g.landed()
		done(revision, err)
	})
	if err != nil {
		g.landed()
	}
	return err
}

// takeOff tells whether nothing is under way or waits. It then is.
func (g *group) takeOff() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.flying > 0 || len(g.queue) > 0 {
		return false
	}
	g.flying++
	return true
}

// landed notes that a request is not under way any more.
func (g *group) landed() {
	g.mu.Lock()
	g.flying--
	idle := g.flying == 0 && len(g.queue) > 0
	g.mu.Unlock()
	if idle {
		g.look()
	}
}

func (g *group) look() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// join puts an append into the queue, where it waits no longer than until (unix
// milliseconds; 0: no limit). The bytes are copied: its context may end before they
// are sent.
func (g *group) join(
	key string, header nats.Header, value []byte, expect Expectation, until int64, done func(uint64, error),
) (*member, error) {
	m := &member{key: key, header: header, data: bytes.Clone(value), expect: expect, until: until, done: done}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, errGroupClosed
	}
	g.queue = append(g.queue, m)
	if g.flying == 0 && (!g.assembling || len(g.queue) >= g.flock) {
		g.look()
	}
	return m, nil
}

// leave takes back an append whose context has ended, if it was not sent.
func (g *group) leave(m *member, cause error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	m.left = true
	if !m.sent {
		return fmt.Errorf("replication: %w: %w", ErrUnavailable, cause)
	}
	return notAppended(cause)
}

// run sends what waits whenever all that was sent is answered.
func (g *group) run() {
	for {
		select {
		case <-g.wake:
		case <-g.quit:
			return
		}
		g.assemble()
		for {
			members, batch, late := g.next()
			for _, m := range late {
				m.done(0, errLate)
			}
			if len(members) == 0 {
				break
			}
			if !batch || !g.sendBatch(members) {
				g.sendEach(members)
			}
		}
	}
}

// assemble waits a little for those of the last batch, who have just got their
// answers. If it did not, writers that write again and again would fall into two
// halves that wait for each other, and batches be half as large.
func (g *group) assemble() {
	g.mu.Lock()
	pause := g.pause
	g.assembling = true
	g.mu.Unlock()
	defer g.dismiss()
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for !g.assembled() {
		select {
		case <-g.wake:
		case <-timer.C:
			return
		case <-g.quit:
			return
		}
	}
}

func (g *group) assembled() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.queue) >= g.flock
}

func (g *group) dismiss() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flock, g.pause, g.assembling = 0, 0, false
}

// next takes what can be sent now off the queue. batch: as one, and one request
// is under way; otherwise as many are as there are members. The late ones are not
// to be sent any more.
func (g *group) next() (members []*member, batch bool, late []*member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.flying > 0 || g.closed {
		return nil, false, nil
	}
	g.queue, late = punctual(g.queue, time.Now().UnixMilli())
	members, rest := cut(g.queue)
	batch = len(members) >= groupLeast
	if !batch {
		members, rest = cutEach(g.queue)
	}
	g.queue = rest
	for _, m := range members {
		m.sent = true
	}
	g.flying = len(members)
	if batch {
		g.flying = 1
	}
	return members, batch, late
}

// errLate is told to those that have waited until their entries had expired. It is
// an ErrUnavailable: nothing was sent.
var errLate = fmt.Errorf("replication: %w: the entry expired before it could be sent", ErrUnavailable)

// punctual divides a queue into those that can still be sent, and those that had to
// be sent before now.
func punctual(queue []*member, now int64) (rest, late []*member) {
	isLate := func(m *member) bool { return m.until != 0 && m.until <= now }
	if !slices.ContainsFunc(queue, isLate) {
		return queue, nil
	}
	for _, m := range queue {
		if isLate(m) {
			late = append(late, m)
		} else {
			rest = append(rest, m)
		}
	}
	return rest, late
}

// cut divides a queue into the members of one batch and the others. The order of
// those of one key stays. One with an expectation cannot be in a batch behind
// another of its key: the server refuses that. Nor can it be in one with those
// that an expectation has made wait already, which are the first in the queue.
func cut(queue []*member) (members, rest []*member) {
	size, taken, held, plain := 0, make(map[string]bool), make(map[string]bool), false
	for i, m := range queue {
		if len(members) == groupMost || size+len(m.data) > groupMaxBytes {
			return members, append(rest, queue[i:]...)
		}
		switch {
		case m.left:
		case m.alone, held[m.key], m.expect.Set && (plain || taken[m.key]):
			held[m.key] = true
			rest = append(rest, m)
		default:
			plain = plain || m.again
			taken[m.key] = true
			size += len(m.data)
			members = append(members, m)
		}
	}
	return members, rest
}

// cutEach divides a queue into those to be sent one by one and the others: first
// those that a batch was refused with.
func cutEach(queue []*member) (members, rest []*member) {
	for _, m := range queue {
		switch {
		case m.left:
		case m.alone || len(members) < groupLeast:
			members = append(members, m)
		default:
			rest = append(rest, m)
		}
	}
	return members, rest
}

// sendEach sends members one after the other, without waiting for the answers.
func (g *group) sendEach(members []*member) {
	for _, m := range members {
		err := g.log.start(m.key, m.header, m.data, m.expect, func(revision uint64, err error) {
			g.landed()
			m.done(revision, err)
		})
		if err != nil {
			g.landed()
			m.done(0, err)
		}
	}
}

// sendBatch sends members as one atomic batch. If it returns false the log has
// not got the end of it, and writes nothing; each has a request under way now.
func (g *group) sendBatch(members []*member) bool {
	id, begun := nuid.Next(), time.Now()
	last := len(members) - 1
	for i, m := range members[:last] {
		if err := g.log.stage(id, i, g.log.subject(m.key), m.header, m.data); err != nil {
			return g.notSent(members)
		}
	}
	header := commitHeader(members[last].header, id, last)
	err := g.log.requests.start(g.log.subject(members[last].key), header, members[last].data,
		func(answer *nats.Msg, err error) {
			g.expectAgain(len(members), time.Since(begun)/assembleShare)
			g.answered(members, id, answer, err)
		})
	if err != nil {
		return g.notSent(members)
	}
	return true
}

func (g *group) notSent(members []*member) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flying += len(members) - 1
	return false
}

// expectAgain has the next batch wait for a pause until so many more wait.
func (g *group) expectAgain(n int, pause time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flock, g.pause = min(len(g.queue)+n, groupMost), pause
}

// stage sends a record of a batch that is not its last. There is no answer.
func (l *Log) stage(id string, i int, subject string, header nats.Header, data []byte) error {
	return l.nc.PublishMsg(&nats.Msg{Subject: subject, Header: batchHeader(header, id, i), Data: data})
}

// commitHeader is that of the last record of a batch.
func commitHeader(header nats.Header, id string, i int) nats.Header {
	h := batchHeader(header, id, i)
	h[headerCommit] = []string{"1"}
	return h
}

func batchHeader(header nats.Header, id string, i int) nats.Header {
	h := make(nats.Header, len(header)+3)
	maps.Copy(h, header)
	h[headerBatchID] = []string{id}
	h[headerSeq] = []string{strconv.Itoa(i + 1)}
	return h
}

// answered runs on the goroutine of the subscription.
func (g *group) answered(members []*member, id string, answer *nats.Msg, err error) {
	if err != nil {
		err = notAppended(err)
	}
	var last uint64
	if err == nil {
		last, err = g.log.parseBatchAck(answer.Data, id, uint64(len(members)))
	}
	if err != nil && !errors.Is(err, ErrUncertain) {
		g.again(members, err)
		return
	}
	g.landed()
	for i, m := range members {
		if err != nil {
			m.done(0, err)
			continue
		}
		m.done(last-uint64(len(members))+uint64(i)+1, nil)
	}
}

// parseBatchAck reads the answer to a batch of n, and returns the revision of
// the last of them. They are in the log one behind the other.
func (l *Log) parseBatchAck(data []byte, id string, n uint64) (uint64, error) {
	var ack struct {
		apiReply
		Stream   string `json:"stream"`
		Sequence uint64 `json:"seq"`
		Batch    string `json:"batch"`
		Count    uint64 `json:"count"`
	}
	if err := json.Unmarshal(data, &ack); err != nil {
		return 0, fmt.Errorf("replication: %w: malformed acknowledgement: %w", ErrUncertain, err)
	}
	if ack.Error != nil {
		return 0, apiError(ack.Error, l.stream)
	}
	if ack.Stream != l.stream || ack.Batch != id || ack.Count != n || ack.Sequence < n {
		return 0, fmt.Errorf("replication: %w: not the acknowledgement of a batch of %d: %.200q", ErrUncertain, n, data)
	}
	return ack.Sequence, nil
}

// again has the members of a batch that was refused sent again, before all
// others. Where an expectation has failed, those that have none can share a
// batch again.
func (g *group) again(members []*member, err error) {
	expecting := slices.ContainsFunc(members, func(m *member) bool { return m.expect.Set })
	g.mu.Lock()
	for _, m := range members {
		m.sent = false
		m.again = !m.expect.Set && expecting && errors.Is(err, ErrWrongRevision)
		m.alone = !m.again
	}
	closed := g.closed
	if !closed {
		g.queue = append(members, g.queue...)
	}
	g.mu.Unlock()
	g.landed()
	if closed {
		for _, m := range members {
			m.done(0, errGroupClosed)
		}
	}
}
