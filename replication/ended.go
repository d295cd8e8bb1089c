package replication

import (
	"context"
	"errors"
)

// Ended returns the error of a context that has ended. errors.Is holds for ctx.Err()
// and for context.Cause(ctx): callers test for either. Every call that gives up
// because of its context returns this error, wrapped.
func Ended(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return &endedError{err: err, cause: cause}
}

// endedError is the error of a context that was given a cause of its own.
type endedError struct{ err, cause error }

func (e *endedError) Error() string   { return e.err.Error() + ": " + e.cause.Error() }
func (e *endedError) Unwrap() []error { return []error{e.err, e.cause} }
