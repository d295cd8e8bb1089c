package replication

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
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
	// ErrNoSpace: the log refuses records because there is no room for them.
	ErrNoSpace = errors.New("log is full")
	// ErrLimit: a number that the operator of the server has set is reached, of
	// streams or consumers for instance.
	ErrLimit = errors.New("a limit of the server is reached")
	// ErrForbidden: the user may not do this. It comes as a *ForbiddenError.
	ErrForbidden = errors.New("not permitted")
	// ErrRefused: the server refuses the request, and would refuse it again.
	ErrRefused = errors.New("refused by the server")
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

// ErrDisconnected says that the connection was closed for good: by its owner, or by
// nats.go after the last of its attempts to reconnect. It is an ErrUnavailable and a
// nats.ErrConnectionClosed too.
var ErrDisconnected = fmt.Errorf("%w: the connection was closed for good: %w", ErrUnavailable, nats.ErrConnectionClosed)

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

// ForbiddenError says what the permissions of the user do not allow. It is an
// ErrForbidden, and a nats.ErrPermissionViolation.
type ForbiddenError struct {
	Subject string // of the message that the server did not take, or of the answers that it does not send
	Answers bool   // the answers cannot be received; what was sent may have been carried out
}

func (e *ForbiddenError) Error() string {
	if e.Answers {
		return fmt.Sprintf("%v: subscribe to %q, where answers come: permit it, or set an inbox prefix (nats.CustomInboxPrefix) that is", ErrForbidden, e.Subject)
	}
	return fmt.Sprintf("%v: publish to %q: the user of the connection lacks this permission", ErrForbidden, e.Subject)
}

// Unwrap returns ErrForbidden and nats.ErrPermissionViolation.
func (e *ForbiddenError) Unwrap() []error { return []error{ErrForbidden, nats.ErrPermissionViolation} }

// ServerVersionError says that the server is too old. It is an ErrUnsupported.
type ServerVersionError struct {
	Have, Need string // versions of nats-server
}

func (e *ServerVersionError) Error() string {
	return fmt.Sprintf("replication: %v: the server is nats-server %s, needed is %s or later", ErrUnsupported, e.Have, e.Need)
}

// Is makes errors.Is(err, ErrUnsupported) true.
func (e *ServerVersionError) Is(target error) bool { return target == ErrUnsupported }
