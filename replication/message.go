package replication

import (
	"bytes"
	"fmt"
	"strings"
	"time"

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
		m.Record = codec.Record{Op: codec.OpDelete}
	}
	l.stamp(&m)
	return m
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
