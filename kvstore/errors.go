package kvstore

import (
	"errors"
	"fmt"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/replication"
	"github.com/nearkv/nearkv/replication/embedded"
)

// Every error of this package is one line that begins with "kvstore: " and names
// the key or the call it is about. One of a call that ended because of its context is,
// for errors.Is, that of the context and its cause (context.Cause) as well.

// Errors of reading.
var (
	// ErrNotFound: the namespace has no such key, or the key was deleted or has
	// expired. The answer comes from memory and is definitive. The error does not
	// name the key, which the caller has: that would double the cost of a miss.
	ErrNotFound = errors.New("kvstore: key not found")
	// ErrStale: this replica is older than the read allows.
	ErrStale = errors.New("kvstore: replica is too old for this read")
	// ErrDamaged: a large value is missing, or is not what was written. It comes as a
	// *ValueError.
	ErrDamaged = errors.New("kvstore: value is damaged")
	// ErrReplaced: a large value was replaced or deleted, and is gone.
	ErrReplaced = errors.New("kvstore: value was replaced")
)

// Errors of bad input. They come before anything is read or sent, and nothing
// is changed.
var (
	// ErrInvalidKey: not 1 to 512 bytes of UTF-8, or "." or "..". For a prefix:
	// more than 512 bytes, or not UTF-8.
	ErrInvalidKey = codec.ErrInvalidKey
	// ErrInvalidMetadata: no JSON can be made of it, or more than 1024 bytes.
	ErrInvalidMetadata = codec.ErrInvalidMetadata
	// ErrInvalidExpiry: a TTL below one second, or an expiry that is less than
	// one second ahead or after the year 9999.
	ErrInvalidExpiry = errors.New("kvstore: invalid expiry")
	// ErrInvalidOptions: options that contradict each other or are out of range.
	ErrInvalidOptions = errors.New("kvstore: invalid options")
	// ErrInvalidNamespace: not 1 to 200 bytes of A-Z a-z 0-9 - _.
	ErrInvalidNamespace = replication.ErrNamespace
	// ErrTooLarge: the value has more than 25 MiB, or, with InlineBytes below zero, more than the server of
	// this namespace takes in one message.
	ErrTooLarge = replication.ErrTooLarge
	// ErrUnsupported: the bucket was made by another NATS client with a
	// configuration that cannot do this, or the server cannot have the bucket
	// that the options ask for.
	ErrUnsupported = replication.ErrUnsupported
)

// Errors of writing, and of everything that asks the log.
var (
	// ErrConflict: the condition of a write does not hold. It comes as a
	// *ConflictError. Nothing was written.
	ErrConflict = errors.New("kvstore: conflict")
	// ErrIndeterminate: the write was sent, and whether it happened could not be
	// found out before the context ended or the Store was closed, or at all.
	ErrIndeterminate = replication.ErrUncertain
	// ErrUnavailable: the log could not be reached. Nothing was written.
	ErrUnavailable = replication.ErrUnavailable
	// ErrDisconnected: the connection to the log was closed for good, by the owner of
	// Options.Conn for instance. It is an ErrUnavailable too.
	ErrDisconnected = replication.ErrDisconnected
	// ErrForbidden: the server does not permit the user of the connection to do this.
	// Nothing was written. The error says which subject was refused; kvctl permissions
	// prints what a user needs.
	ErrForbidden = replication.ErrForbidden
	// ErrLimit: a number that the operator of the server has set is reached, of
	// streams or of consumers for instance.
	ErrLimit = replication.ErrLimit
	// ErrRefused: the server refuses the request for a reason that does not pass by
	// itself; the error says which.
	ErrRefused = replication.ErrRefused
	// ErrOverloaded: the log asks for fewer requests, and the context ended
	// before it took this one. Nothing was written.
	ErrOverloaded = replication.ErrOverloaded
	// ErrNoSpace: a limit of the log or of its disk is reached. Nothing was
	// written; reads go on.
	ErrNoSpace = replication.ErrNoSpace
	// ErrReadOnly: the Dir cannot be written, for another reason than that it is
	// full. Nothing was written; reads go on.
	ErrReadOnly = errors.New("kvstore: directory cannot be written")
	// ErrNotEmpty: an import with OnlyIfEmpty found keys. Nothing was written.
	ErrNotEmpty = errors.New("kvstore: namespace is not empty")
	// ErrExpired: the entry expired before the log acknowledged it, so no reader can
	// see it, and a lock that it was to be is not held. If the call also returns a
	// Revision, the entry is in the log and has replaced what the key had. If the
	// error is an ErrIndeterminate too, that may be so. Otherwise nothing was written.
	ErrExpired = errors.New("kvstore: the entry expired before the log acknowledged it")
	// ErrClosed: the Store was closed.
	ErrClosed = errors.New("kvstore: store closed")
)

// Errors of Open: the first with MustExist, the others with Dir.
var (
	// ErrNoNamespace: the namespace does not exist, and is not to be created.
	ErrNoNamespace = errors.New("kvstore: no such namespace")
	// ErrLocked: somebody has the Dir and lets nobody in, or, with Exclusive,
	// somebody has it.
	ErrLocked = embedded.ErrLocked
	// ErrStart: the embedded server did not start. ErrDirAccess and ErrDirDamaged are also ErrStart.
	ErrStart = embedded.ErrStart
	// ErrDirAccess: something in Dir cannot be opened, or belongs to somebody else. It comes as a *DirAccessError,
	// before anything in Dir is changed.
	ErrDirAccess = embedded.ErrAccess
	// ErrDirDamaged: something in Dir is not as it was written. It comes as a *DirDamagedError, before anything in Dir is
	// changed, and the namespaces stay closed: kvctl check lists the damage, kvctl repair saves what is whole.
	ErrDirDamaged = embedded.ErrDamaged
)

// DirAccessError names a file in Dir that this process cannot use, and says why. It is an ErrDirAccess.
type DirAccessError = embedded.AccessError

// DirDamagedError lists what is damaged in Dir. It is an ErrDirDamaged.
type DirDamagedError = embedded.DamagedError

// LockedError says who has a Dir, as far as that is known. It is an ErrLocked.
type LockedError = embedded.LockedError

// ConflictError tells why a conditional write was refused.
type ConflictError struct {
	Key      string
	Expected Revision // 0: the key was to be absent
	Actual   Revision // 0: the key is absent
}

func (e *ConflictError) Error() string {
	key := fmt.Sprintf("kvstore: conflict: key %.64q", e.Key)
	switch {
	case e.Expected == 0 && e.Actual == 0:
		return key + " exists"
	case e.Expected == 0:
		return fmt.Sprintf("%s exists at revision %d", key, e.Actual)
	case e.Actual == 0:
		return fmt.Sprintf("%s does not exist, expected was revision %d", key, e.Expected)
	}
	return fmt.Sprintf("%s has revision %d, not %d", key, e.Actual, e.Expected)
}

// Is makes errors.Is(err, ErrConflict) true.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }
