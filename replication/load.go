package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/nearkv/nearkv/codec"
)

func revisionQuery(revision uint64) []byte {
	return []byte(`{"seq":` + strconv.FormatUint(revision, 10) + `}`)
}

// Load returns the record with the given revision, or ErrNoRecord when the log
// has it no more. Any server that has a copy of the stream may answer, also one that
// has the copy of a stream that was deleted since: so compare Stored with what is
// known of the record. Only if that server does not find the record is the leader
// asked.
func (l *Log) Load(ctx context.Context, revision uint64) (Message, error) {
	query := revisionQuery(revision)
	if l.limits.Load().direct {
		m, err := l.loadDirect(ctx, query)
		if !errors.Is(err, ErrNoRecord) {
			return m, err
		}
	}
	return l.loadLeader(ctx, query)
}

// Last returns the last record of a key as the stream's leader has it, or
// ErrNoRecord when there is none.
func (l *Log) Last(ctx context.Context, key string) (Message, error) {
	return l.lastOf(ctx, l.prefix+codec.Subject(key))
}

func (l *Log) lastOf(ctx context.Context, subject string) (Message, error) {
	query, err := json.Marshal(struct {
		Subject string `json:"last_by_subj"`
	}{subject})
	if err != nil {
		return Message{}, err
	}
	return l.loadLeader(ctx, query)
}

// nextFrom returns the first record of the stream at a sequence or behind it, as
// the leader has it, or ErrNoRecord when there is none.
func (l *Log) nextFrom(ctx context.Context, seq uint64) (Message, error) {
	query, err := nextQuery(seq)
	if err != nil {
		return Message{}, err
	}
	return l.loadLeader(ctx, query)
}

func nextQuery(seq uint64) ([]byte, error) {
	return json.Marshal(struct {
		Seq  uint64 `json:"seq"`
		Next string `json:"next_by_subj"`
	}{seq, ">"})
}

// parseNext reads the answer to nextQuery: whether there is such a record.
func (l *Log) parseNext(m *nats.Msg) (exists bool, err error) {
	if m, err = received(m, nil); err != nil {
		return false, err
	}
	_, err = parseStored(m.Data, l.stream)
	if errors.Is(err, ErrNoRecord) {
		return false, nil
	}
	return err == nil, err
}

func (l *Log) loadDirect(ctx context.Context, query []byte) (Message, error) {
	m, err := l.requests.do(ctx, l.api("DIRECT.GET."+l.stream), nil, query)
	if err != nil {
		return Message{}, unanswered(err)
	}
	// What is no record is a status, whatever its code: the leader knows more.
	seq, err := strconv.ParseUint(last(m.Header, "Nats-Sequence"), 10, 64)
	if err != nil {
		return Message{}, ErrNoRecord
	}
	stored, err := time.Parse(time.RFC3339Nano, last(m.Header, "Nats-Time-Stamp"))
	if err != nil {
		return Message{}, ErrNoRecord
	}
	return l.message(last(m.Header, "Nats-Subject"), seq, stored, m.Header, m.Data), nil
}

// last returns the last value of a header: what the server adds comes behind
// what was stored.
func last(h nats.Header, key string) string {
	values := h[key]
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

func (l *Log) loadLeader(ctx context.Context, query []byte) (Message, error) {
	s, err := l.loadStored(ctx, l.stream, query)
	if err != nil {
		return Message{}, err
	}
	if len(s.Header) == 0 {
		return l.message(s.Subject, s.Seq, s.Time, nil, s.Data), nil
	}
	header, err := nats.DecodeHeadersMsg(s.Header)
	m := l.message(s.Subject, s.Seq, s.Time, header, s.Data)
	if err != nil {
		m.damage(errHeader)
	}
	return m, nil
}

// stored is a message as the leader of a stream tells it.
type stored struct {
	Subject string    `json:"subject"`
	Seq     uint64    `json:"seq"`
	Header  []byte    `json:"hdrs"`
	Data    []byte    `json:"data"`
	Time    time.Time `json:"time"`
}

// loadStored asks the leader of a stream for a message.
func (l *Log) loadStored(ctx context.Context, stream string, query []byte) (stored, error) {
	m, err := l.requests.do(ctx, l.leaderSubject(stream), nil, query)
	if err != nil {
		return stored{}, unanswered(err)
	}
	return parseStored(m.Data, stream)
}

// leaderSubject is where the leader of a stream is asked for a message. It answers
// when it is not storing a batch.
func (l *Log) leaderSubject(stream string) string { return l.api("STREAM.MSG.GET." + stream) }

func parseStored(data []byte, stream string) (stored, error) {
	var reply struct {
		apiReply
		Message stored `json:"message"`
	}
	if err := json.Unmarshal(data, &reply); err != nil {
		return stored{}, fmt.Errorf("replication: %w: %w", ErrUnavailable, err)
	}
	if reply.Error != nil {
		return stored{}, apiError(reply.Error, stream)
	}
	return reply.Message, nil
}

// unanswered makes every failure to get an answer ErrUnavailable, unless it is one
// that lasts: reading can be repeated.
func unanswered(err error) error {
	if errors.Is(err, ErrUnavailable) || Lasting(err) {
		return fmt.Errorf("replication: %w", err)
	}
	return fmt.Errorf("replication: %w: %w", ErrUnavailable, err)
}
