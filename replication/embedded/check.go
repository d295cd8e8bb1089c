package embedded

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

// Check reads everything in a directory that nobody serves, and reports what is damaged. It changes nothing. The error is
// a *LockedError if somebody serves it, an *AccessError if something in it cannot be opened, and that of ctx.
//
// Start does the same, and starts no server on what is damaged.
func Check(ctx context.Context, dir string) (*Report, error) {
	h, err := lockExisting(dir)
	if err != nil {
		return nil, err
	}
	err = h.look(ctx, func(context.Context, string) error { return nil })
	return h.report, errors.Join(err, h.lock.Unlock())
}

// lockExisting locks a Dir in which there is a store, and ends a repair that was killed between its last two steps.
func lockExisting(dir string) (*home, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, failed("resolve Dir", err)
	}
	store := filepath.Join(abs, storeName)
	_, err = os.Lstat(store)
	if _, repairing := os.Lstat(filepath.Join(abs, repairName)); err != nil && repairing != nil {
		return nil, denied(store, err)
	}
	h, err := lockHome(abs)
	if err != nil {
		return nil, err
	}
	if err := finishRepair(abs); err != nil {
		return nil, errors.Join(err, h.lock.Unlock())
	}
	return h, nil
}
