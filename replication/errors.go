package replication

import (
	"errors"
	"fmt"
)

// Errors that callers can tell apart with errors.Is. Before anything was sent:
var (
	// ErrTooLarge: the record is larger than the server or the stream takes.
	ErrTooLarge = errors.New("record too large for the log")
	// ErrUnsupported: the stream's configuration cannot do what was asked or is
	// not that of a key-value bucket, or the server cannot have such a stream.
	ErrUnsupported = errors.New("not supported by the stream's configuration")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("log closed")
)

// Errors of a log that answered, or could not be asked. The record is not in
// the log.
var (
	// ErrUnavailable: nobody could be asked, or nobody was there to answer.
	ErrUnavailable = errors.New("log unavailable")
	// ErrNoSpace: the log refuses records because a limit is reached.
	ErrNoSpace = errors.New("log is full")
	// ErrOverloaded: the server asks for fewer requests.
	ErrOverloaded = errors.New("log overloaded")
	// ErrWrongRevision: the key's last revision is not the expected one. It
	// comes as a *WrongRevisionError.
	ErrWrongRevision = errors.New("wrong last revision")
	// ErrNoRecord: the log holds no such record.
	ErrNoRecord = errors.New("no such record in the log")
	// ErrNoStream: the stream does not exist. It is an ErrUnavailable too.
	ErrNoStream = fmt.Errorf("%w: the stream does not exist", ErrUnavailable)
)

// ErrUncertain says that the record was sent and no answer came. It may be in the log
// now, later or never.
var ErrUncertain = errors.New("no answer from the log; the write may have happened")

// WrongRevisionError says which revision was expected of a key.
type WrongRevisionError struct {
	Key      string
	Expected uint64
	Actual   uint64 // 0: the server does not say
}

func (e *WrongRevisionError) Error() string {
	return fmt.Sprintf("replication: %v of %.64q: not %d", ErrWrongRevision, e.Key, e.Expected)
}

// Is makes errors.Is(err, ErrWrongRevision) true.
func (e *WrongRevisionError) Is(target error) bool { return target == ErrWrongRevision }

// ServerVersionError says that the server is too old. It is an ErrUnsupported.
type ServerVersionError struct {
	Have, Need string // versions of nats-server
}

func (e *ServerVersionError) Error() string {
	return fmt.Sprintf("replication: %v: the server is nats-server %s, needed is %s or later", ErrUnsupported, e.Have, e.Need)
}

// Is makes errors.Is(err, ErrUnsupported) true.
func (e *ServerVersionError) Is(target error) bool { return target == ErrUnsupported }
