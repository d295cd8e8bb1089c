package replication

import (
	"context"
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
	for i := range end {
		w := &writes[i]
		if err := l.stage(id, i, w.Key, headers[i], w.Record.Value); err != nil {
			return 0, fmt.Errorf("replication: %w: %w", ErrUnavailable, err)
		}
	}
	header := commitHeader(headers[end], id, end)
	answer, err := l.requests.do(ctx, l.prefix+codec.Subject(writes[end].Key), header, writes[end].Record.Value)
	if err != nil {
		return 0, notAppended(err)
	}
	return l.parseBatchAck(answer.Data, id, uint64(len(writes)))
}
