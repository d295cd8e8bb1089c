package replication

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/codec"
)

const headerExpected = "Nats-Expected-Last-Subject-Sequence"

// Expectation is a condition on the revision of the key that is written.
type Expectation struct {
	Set      bool
	Revision uint64 // 0: the log holds no record of the key
}

// Append writes one record and returns its revision. It makes one try:
//
//   - nil: the record is in the log;
//   - ErrUncertain: it was sent and no answer came;
//   - any other error: it is not in the log. ErrWrongRevision is the
//     expectation's failure, ErrTooLarge, ErrUnsupported and ErrNoSpace will
//     fail again, ErrUnavailable and ErrOverloaded may pass.
//
// The bytes of the record are not kept.
func (l *Log) Append(ctx context.Context, key string, rec codec.Record, expect Expectation) (uint64, error) {
	header, err := l.header(rec, expect)
	if err != nil {
		return 0, err
	}
	if l.CanGroup() {
		return l.group.append(ctx, key, header, rec.Value, expect)
	}
	m, err := l.requests.do(ctx, l.subject(key), header, rec.Value)
	return l.appended(m, err, key, expect)
}

// Send is Append for those who have more to send and do not wait for each
// answer: done is called once with what Append would have returned. Records of
// one connection come into the log in the order in which they are sent; where
// they share syncs (CanGroup), those of one key do; while they wait for that, one
// whose entry expires is given up with ErrUnavailable. done must not wait, nor call
// what waits: others wait for their answers meanwhile.
// If Send itself returns an error nothing was sent, and done is not called.
func (l *Log) Send(key string, rec codec.Record, expect Expectation, done func(revision uint64, err error)) error {
	header, err := l.header(rec, expect)
	if err != nil {
		return err
	}
	if l.CanGroup() {
		return l.group.send(key, header, rec, expect, done)
	}
	return l.start(key, header, rec.Value, expect, done)
}

// start sends one record as a message of its own.
func (l *Log) start(key string, header nats.Header, value []byte, expect Expectation, done func(uint64, error)) error {
	err := l.requests.start(l.subject(key), header, value, func(m *nats.Msg, err error) {
		done(l.appended(m, err, key, expect))
	})
	if err != nil {
		return notAppended(err)
	}
	return nil
}

// header returns the header of a record that the stream can store.
func (l *Log) header(rec codec.Record, expect Expectation) (nats.Header, error) {
	if most := l.MaxValue(); int64(len(rec.Value)) > most {
		return nil, fmt.Errorf("replication: %w: %d bytes, the most is %d", ErrTooLarge, len(rec.Value), most)
	}
	if rec.TTL != 0 && !l.CanExpire() {
		return nil, fmt.Errorf("replication: %w: stream %s has no TTL per record (allow_msg_ttl)", ErrUnsupported, l.stream)
	}
	header := nats.Header(rec.Header())
	if expect.Set {
		if header == nil {
			header = make(nats.Header, 1)
		}
		header[headerExpected] = []string{strconv.FormatUint(expect.Revision, 10)}
	}
	if header == nil && l.cfg.InFile {
		header = codec.PlainHeader()
	}
	return header, nil
}

// appended reads the answer to an append.
func (l *Log) appended(m *nats.Msg, err error, key string, expect Expectation) (uint64, error) {
	if err != nil {
		return 0, notAppended(err)
	}
	seq, err := l.parseAck(m.Data)
	if errors.Is(err, ErrWrongRevision) {
		n := refusedAt(err)
		if l.Replicated() && n != 0 && n < expect.Revision {
			return 0, fmt.Errorf("replication: %w: refused by a server that has only revision %d of %.64q", ErrUncertain, n, key)
		}
		return 0, &WrongRevisionError{Key: key, Expected: expect.Revision, Actual: n}
	}
	return seq, err
}

// refusedAt is the revision that a key has where an expectation of it failed, as
// far as the server says it. If it is below what was expected the server is behind,
// a leader that was deposed and does not know it yet; the one that leads may have
// taken the record, and answers second.
func refusedAt(err error) uint64 {
	api, ok := errors.AsType[*jetstream.APIError](err)
	if !ok {
		return 0
	}
	_, digits, _ := strings.Cut(api.Description, "sequence: ")
	n, _ := strconv.ParseUint(digits, 10, 64) // 0: it does not say
	return n
}

// notAppended tells a request that nobody got from one without an answer.
func notAppended(err error) error {
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("replication: %w: %w", ErrTooLarge, nats.ErrMaxPayload)
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrForbidden) && !deaf(err):
		return fmt.Errorf("replication: %w", err)
	}
	return fmt.Errorf("replication: %w: %w", ErrUncertain, err)
}

// deaf reports whether err says that only the answer was not permitted. nats.go says
// so after a message was sent.
func deaf(err error) bool {
	forbidden, ok := errors.AsType[*ForbiddenError](err)
	return ok && forbidden.Answers
}

// parseAck reads the acknowledgement as the server writes it, which is several
// times cheaper than to parse what it might write.
func (l *Log) parseAck(data []byte) (uint64, error) {
	if digits, ok := bytes.CutPrefix(data, l.ack); ok {
		digits, ended := bytes.CutSuffix(digits, []byte("}"))
		if seq, err := strconv.ParseUint(string(digits), 10, 64); err == nil && ended && seq != 0 {
			return seq, nil
		}
	}
	return parseAnyAck(data, l.stream)
}

func parseAnyAck(data []byte, stream string) (uint64, error) {
	var ack struct {
		apiReply
		jetstream.PubAck
	}
	if err := json.Unmarshal(data, &ack); err != nil {
		return 0, fmt.Errorf("replication: %w: malformed acknowledgement: %w", ErrUncertain, err)
	}
	if ack.Error != nil {
		return 0, apiError(ack.Error, stream)
	}
	// Another stream of another domain may take the same subjects.
	if ack.Stream != stream || ack.Sequence == 0 {
		return 0, fmt.Errorf("replication: %w: acknowledged by stream %q, not %s", ErrUncertain, ack.Stream, stream)
	}
	return ack.Sequence, nil
}
