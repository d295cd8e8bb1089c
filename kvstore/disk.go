package kvstore

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
)

// disk knows whether a log in a Dir can be written. A server whose disk is full
// does not answer, and cuts its connections once (embedded.Member). That may mean
// anything; so the disk is in doubt then, until it is seen to take what is to be
// written.
type disk struct {
	probe func(n int) error // nil: the disk is not ours to look at
	doubt atomic.Bool
}

// failed notes that a write had no answer, or that there is no server.
func (d *disk) failed() {
	if d.probe != nil {
		d.doubt.Store(true)
	}
}

// check returns ErrNoSpace or ErrReadOnly if the disk is known not to take n
// bytes. It costs nothing while writes are answered.
func (d *disk) check(n int) error {
	if !d.doubt.Load() {
		return nil
	}
	err := d.probe(n)
	switch {
	case err == nil:
		d.doubt.Store(false)
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("kvstore: %w: %w", ErrNoSpace, err)
	}
	return fmt.Errorf("%w: %w", ErrReadOnly, err)
}
