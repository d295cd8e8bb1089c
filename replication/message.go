package replication

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/nearkv/nearkv/codec"
)

// Message is one record of the log as a replica gets it.
type Message struct {
	// Again: it is read again, perhaps from a server that lags behind. It does not
	// replace a newer record of its key.
	Again bool

	Subject  string // as the log has it
	Key      string // "" when Foreign
	Revision uint64 // sequence in the stream
	Stored   time.Time
	Record   codec.Record

	// Unix milliseconds, 0 for ever: until when readers may see the record;
	// until when the log keeps it; and until when it is there to hide, itself
	// and the older records beneath it that could come back in its place.
	VisibleUntil int64
	KeptUntil    int64
	HidesUntil   int64

	// Err is set for what is not a record of ours. With a Key the record is
	// damaged: it is told as a deletion, because whatever it replaced is gone.
	// Without a Key the subject is foreign (codec.ErrForeignSubject).
	Err error

	// Forged is set for a record that says it is part of a batch that does not
	// exist. It is applied as one that says nothing of the kind.
	Forged bool

	// Unsure is set for a damaged record of which nobody but the server knows for how
	// long the log keeps it.
	Unsure bool
}

// Foreign tells that the subject is no encoding of a key.
func (m *Message) Foreign() bool { return m.Key == "" }

// message decodes what the log stores. It takes ownership of data.
func (l *Log) message(subject string, seq uint64, stored time.Time, header map[string][]string, data []byte) Message {
	m := Message{Subject: subject, Revision: seq, Stored: stored}
	tail, ok := strings.CutPrefix(subject, l.prefix)
	if !ok {
		m.Err = fmt.Errorf("%w: %.64q", codec.ErrForeignSubject, subject)
		return m
	}
	if m.Key, m.Err = codec.Key(tail); m.Err != nil {
		m.Key = ""
		return m
	}
	if len(header) > 0 {
		data = bytes.Clone(data) // the headers are in the same memory
	}
	m.Record, m.Err = codec.DecodeRecord(header, data)
	if m.Err != nil {
		m.damage(m.Err)
		return m
	}
	l.stamp(&m)
	return m
}

// errHeader is the damage of a record whose block of headers is malformed. The
// server stores such a block, and reads some of its headers.
var errHeader = fmt.Errorf("%w: the block of headers is malformed", codec.ErrDamagedRecord)

// damage makes a record of a key a damaged one.
func (m *Message) damage(err error) {
	if m.Foreign() {
		return
	}
	m.Err, m.Unsure = err, true
	m.Record = codec.Record{Op: codec.OpDelete}
	m.VisibleUntil, m.KeptUntil, m.HidesUntil = 0, 0, 0
}

// malformedHeader reports whether a message came with a block of headers that
// nats.go could not read. It drops such a block; only the size of the message tells.
func malformedHeader(m *nats.Msg) bool {
	return m.Header == nil && m.Size() > len(m.Subject)+len(m.Reply)+len(m.Data)
}

// Written returns the message that the log holds after Append has written rec,
// without its Subject.
func (l *Log) Written(key string, revision uint64, stored time.Time, rec codec.Record) Message {
	m := Message{Key: key, Revision: revision, Stored: stored, Record: rec}
	l.stamp(&m)
	return m
}

func (l *Log) stamp(m *Message) {
	age := l.limits.Load().maxAge
	m.VisibleUntil = m.Record.VisibleUntil(m.Stored, age)
	m.KeptUntil = m.Record.KeptUntil(m.Stored, age)
	m.HidesUntil = m.Record.HidesUntil(m.Stored, age)
}
