package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
)

const (
	lockName  = "lock"
	storeName = "nats"
	dirMode   = fs.FileMode(0o700)
	lockMode  = fs.FileMode(0o600)
)

// home is the directory of one server, and the right to use it.
type home struct {
	dir   string       // absolute; "" if temporary
	store string       // absolute; the server writes below it only
	lock  *flock.Flock // nil if temporary: nobody else knows the name
}

// openHome makes the directory ready and locks it. Errors: *LockedError, *StartError; then nothing is held.
func openHome(dir string, log *slog.Logger) (*home, error) {
	if dir == "" {
		return tempHome()
	}
	abs, err := filepath.Abs(dir) // a later chdir of the application must not move the log
	if err != nil {
		return nil, failed("resolve Dir", err)
	}
	if err := os.MkdirAll(abs, dirMode); err != nil {
		return nil, failed("create Dir", err)
	}
	lock, err := lockDir(abs)
	if err != nil {
		return nil, err
	}
	h := &home{dir: abs, store: filepath.Join(abs, storeName), lock: lock}
	if err := ownDir(h.store, log); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

func tempHome() (*home, error) {
	dir, err := os.MkdirTemp("", "nearkv-") // mode 0700
	if err != nil {
		return nil, failed("create temporary directory", err)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, failed("resolve temporary directory", errors.Join(err, os.Remove(dir)))
	}
	return &home{store: abs}, nil
}

// lockDir takes the lock or fails at once. The file stays when the lock is given up: removing it would let one process
// lock the old file and another a new one.
func lockDir(dir string) (*flock.Flock, error) {
	lock := flock.New(filepath.Join(dir, lockName), flock.SetPermissions(lockMode))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, failed("lock Dir", err)
	}
	if !ok {
		return nil, &LockedError{Dir: dir}
	}
	return lock, nil
}

// ownDir makes the server's own directory, and closes it to others if it is open to them.
func ownDir(dir string, log *slog.Logger) error {
	err := os.Mkdir(dir, dirMode)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return failed("create store directory", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return failed("look at store directory", err)
	}
	if !info.IsDir() {
		return &StartError{Reason: fmt.Sprintf("%s is not a directory", dir)}
	}
	if info.Mode().Perm()&^dirMode == 0 {
		return nil
	}
	log.Warn("store directory was open to other users, setting its mode to 0700", "dir", dir, "mode", info.Mode().Perm())
	if err := os.Chmod(dir, dirMode); err != nil {
		return failed("close store directory to other users", err)
	}
	return nil
}

// close gives the directory up. Only after the server has shut down.
func (h *home) close() error {
	if h.lock == nil {
		return os.RemoveAll(h.store)
	}
	return h.lock.Unlock()
}
