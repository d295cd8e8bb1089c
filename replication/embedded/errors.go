package embedded

import (
	"errors"
	"fmt"
)

// What Start fails with: one of these, or the error of its context.
var (
	// ErrLocked: another server, of this process or of another, has the directory. See LockedError.
	ErrLocked = errors.New("embedded: directory is in use")

	// ErrStart: the directory or the server could not be made ready. See StartError.
	ErrStart = errors.New("embedded: server did not start")

	// ErrAccess: something in the directory cannot be opened as it has to be, or is not to be trusted. See AccessError.
	ErrAccess = errors.New("embedded: directory cannot be used")

	// ErrDamaged: something in the directory is not what the server has written. See DamagedError.
	ErrDamaged = errors.New("embedded: directory is damaged")

	// ErrInvalidOptions: an option has a value that cannot work; nothing was touched. See OptionsError.
	ErrInvalidOptions = errors.New("embedded: invalid options")
)

// LockedError tells which directory is in use. It is an ErrLocked.
type LockedError struct {
	Dir    string // absolute
	PID    int    // of the process that has it, as that process knows itself; 0: not known
	Silent bool   // it lets others in, and does not answer them
}

func (e *LockedError) Error() string {
	text := fmt.Sprintf("%v: %s", ErrLocked, e.Dir)
	if e.PID != 0 {
		text += fmt.Sprintf(", by process %d", e.PID)
	}
	if e.Silent {
		text += ", which does not answer: it may be halted; let it go on (fg, or kill -CONT) or end it"
	}
	return text
}

// Is makes every LockedError an ErrLocked.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// StartError tells why there is no server. It is an ErrStart, and wraps the cause where there is one.
type StartError struct {
	Reason string // the whole reason as text, in the server's words if it is the server's
	Err    error  // the cause, nil if all there is is text
}

func (e *StartError) Error() string { return fmt.Sprintf("%v: %s", ErrStart, e.Reason) }

// Is makes every StartError an ErrStart.
func (e *StartError) Is(target error) bool { return target == ErrStart }

// Unwrap returns the cause.
func (e *StartError) Unwrap() error { return e.Err }

// failed is the StartError of an operating system call.
func failed(what string, err error) *StartError {
	return &StartError{Reason: fmt.Sprintf("%s: %v", what, err), Err: err}
}

// OptionsError tells which option cannot work. It is an ErrInvalidOptions.
type OptionsError struct {
	Option string // the name of the field
	Reason string
}

func (e *OptionsError) Error() string {
	return fmt.Sprintf("%v: %s: %s", ErrInvalidOptions, e.Option, e.Reason)
}

// Is makes every OptionsError an ErrInvalidOptions.
func (e *OptionsError) Is(target error) bool { return target == ErrInvalidOptions }

// InterruptedError tells that the context of Start ended first. It wraps the context's error.
//
// The server cannot be stopped in the middle of its recovery. Start does not wait for that: the half-started server
// goes on to the end of its recovery, is shut down then, and gives up the lock. Done tells when.
type InterruptedError struct {
	Err  error // of the context
	done chan struct{}
}

func (e *InterruptedError) Error() string {
	return fmt.Sprintf("embedded: start interrupted: %v", e.Err)
}

// Unwrap returns the context's error.
func (e *InterruptedError) Unwrap() error { return e.Err }

// interruptedBefore is for a start that had not begun.
func interruptedBefore(err error) *InterruptedError {
	done := make(chan struct{})
	close(done)
	return &InterruptedError{Err: err, done: done}
}

// Done is closed when nothing of the interrupted start is left: no goroutine, no file, no lock. Until then a Start on
// the same Dir fails with ErrLocked.
func (e *InterruptedError) Done() <-chan struct{} { return e.done }

// DamagedError tells what in a directory is not as the server has written it: something was lost, changed or put
// there. Nothing was changed, and no server was started: it would lose more. "kvctl check" lists everything,
// "kvctl repair" writes what is whole into a new store. It is an ErrDamaged and an ErrStart.
type DamagedError struct {
	Dir    string
	Damage []Damage // at least one
}

func (e *DamagedError) Error() string {
	text := fmt.Sprintf("%v: %v", ErrDamaged, e.Damage[0])
	if n := len(e.Damage) - 1; n > 0 {
		text += fmt.Sprintf(" (and %d more)", n)
	}
	return text + "; kvctl check lists what is damaged, kvctl repair saves what is whole"
}

// Is makes every DamagedError an ErrDamaged and an ErrStart.
func (e *DamagedError) Is(target error) bool { return target == ErrDamaged || target == ErrStart }
