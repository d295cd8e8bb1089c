package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/replication/redact"
)

// The exit status; rootHelp explains it.
const (
	exitDone = iota
	exitFailed
	exitMisuse
	exitNotFound
	exitConflict
	exitUnavailable
	exitIndeterminate
	exitInterrupted = 130
)

// misuseError is a mistake on the command line or in the input.
type misuseError struct{ error }

func misuse(format string, args ...any) error { return misuseError{fmt.Errorf(format, args...)} }

// hintError says what to do about an error.
type hintError struct {
	error
	hint string
}

func (e hintError) Unwrap() error { return e.error }

// report tells of an error, and returns the exit status.
func (c *cli) report(ctx context.Context, err error) int {
	if flushed := c.out.Flush(); err == nil {
		err = flushed
	}
	if err == nil {
		return exitDone
	}
	if !c.parsed {
		err = hintError{misuseError{err}, "kvctl --help, or --help behind a command, says how to call it"}
	}
	status := statusOf(err)
	if ctx.Err() != nil {
		status = exitInterrupted
	}
	text := strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(err.Error(), "kvstore: "), "replication: "), "embedded: ")
	c.sayLabeled(red, "kvctl:", "%s", redact.Text(text))
	if hint := hintOf(err, status); hint != "" {
		c.say("%s", redact.Text(hint))
	}
	return status
}

func statusOf(err error) int {
	is := func(targets ...error) bool {
		for _, target := range targets {
			if errors.Is(err, target) {
				return true
			}
		}
		return false
	}
	if _, ok := errors.AsType[misuseError](err); ok {
		return exitMisuse
	}
	if isTempMissing(err) {
		return exitFailed
	}
	switch {
	case is(kvstore.ErrNotFound, kvstore.ErrNoNamespace):
		return exitNotFound
	case is(kvstore.ErrConflict, kvstore.ErrNotEmpty):
		return exitConflict
	case is(kvstore.ErrIndeterminate):
		return exitIndeterminate
	case is(nats.ErrAuthorization, nats.ErrPermissionViolation):
		return exitFailed
	case is(kvstore.ErrUnavailable, kvstore.ErrOverloaded, kvstore.ErrStale, context.DeadlineExceeded, errTimeout):
		return exitUnavailable
	case is(kvstore.ErrInvalidKey, kvstore.ErrInvalidMetadata, kvstore.ErrInvalidExpiry, kvstore.ErrInvalidOptions,
		kvstore.ErrInvalidNamespace, kvstore.ErrTooLarge, codec.ErrInvalidBulk, codec.ErrDamagedArchive, fs.ErrNotExist):
		return exitMisuse
	}
	return exitFailed
}

// isTempMissing reports whether the directory for temporary files does not exist, which
// is no mistake in the command line.
func isTempMissing(err error) bool {
	path, ok := errors.AsType[*fs.PathError](err)
	if !ok || !errors.Is(err, fs.ErrNotExist) || filepath.Dir(path.Path) != filepath.Clean(os.TempDir()) {
		return false
	}
	_, missing := os.Stat(os.TempDir())
	return errors.Is(missing, fs.ErrNotExist)
}

// isSilent reports whether a process has the directory and does not answer.
func isSilent(err error) bool {
	locked, ok := errors.AsType[*kvstore.LockedError](err)
	return ok && locked.Silent
}

func hintOf(err error, status int) string {
	if hint, ok := errors.AsType[hintError](err); ok {
		return hint.hint
	}
	switch {
	case isTempMissing(err):
		return "there is no such directory for temporary files: create it, or set TMPDIR to another"
	case errors.Is(err, nats.ErrAuthorization):
		return "check --creds, or --user and --password"
	case errors.Is(err, nats.ErrPermissionViolation):
		return "kvctl permissions prints what the user of the server needs"
	case isSilent(err):
		return "" // it says what to do
	case errors.Is(err, kvstore.ErrLocked):
		return "a process has opened the directory for itself alone (Exclusive); end it, or wait"
	case status == exitUnavailable:
		return "check that the server runs and has JetStream, or wait longer with --timeout"
	}
	return ""
}
