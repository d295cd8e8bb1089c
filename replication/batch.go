package replication

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/nearkv/nearkv/codec"
)

// Write is one record of a batch, with what is expected of its key.
type Write struct {
	Key    string
	Record codec.Record
	Expect Expectation
}

// CanBatch tells whether the log takes atomic batches: a property of the stream.
func (l *Log) CanBatch() bool { return l.limits.Load().atomic }

// AppendBatch writes records, at most codec.MaxBatch of different keys, all or none,
// and returns the revision of the last. They come into the log one behind the
// other. It marks them as parts of a batch, so that a Feed tells of all at once. It
// makes one try; the errors are those of Append. A wrong revision is told without
// the key. The bytes of the records are not kept.
func (l *Log) AppendBatch(ctx context.Context, writes []Write) (uint64, error) {
	if !l.CanBatch() {
		return 0, fmt.Errorf("replication: %w: stream %s takes no atomic batches (allow_atomic)", ErrUnsupported, l.stream)
	}
	headers := make([]nats.Header, len(writes))
	for i := range writes {
		rec := writes[i].Record
		rec.Batch = codec.Batch{Index: i + 1, Count: len(writes)}
		header, err := l.header(rec, writes[i].Expect)
		if err != nil {
			return 0, err
		}
		headers[i] = header
	}
	return l.commitBatch(ctx, writes, headers)
}

// commitBatch sends the records. What comes before the last is staged by the
// server, for 10 s if the last does not come.
func (l *Log) commitBatch(ctx context.Context, writes []Write, headers []nats.Header) (uint64, error) {
	id, end := nuid.Next(), len(writes)-1
	subjects := make([]string, len(writes))
	for i := range writes {
		subjects[i] = l.subject(writes[i].Key)
	}
	answer, err := l.requests.doLast(ctx, subjects, func(i int) error {
		return l.stage(id, i, subjects[i], headers[i], writes[i].Record.Value)
	}, commitHeader(headers[end], id, end), writes[end].Record.Value)
	if err != nil {
		l.dropBatch(id, subjects, err)
		return 0, notAppended(err)
	}
	return l.parseBatchAck(answer.Data, id, uint64(len(writes)))
}

// dropBatch has the server forget the parts of a batch of which it has refused one,
// instead of keeping them for 10 s: it gives up a batch in which a number is missing.
func (l *Log) dropBatch(id string, subjects []string, cause error) {
	forbidden, ok := errors.AsType[*ForbiddenError](cause)
	if !ok {
		return
	}
	for _, subject := range subjects[:len(subjects)-1] {
		if subject != forbidden.Subject {
			_ = l.stage(id, len(subjects)+1, subject, nil, nil) // else the server forgets it by itself
			return
		}
	}
}
