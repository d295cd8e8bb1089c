package embedded

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

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
	dir    string       // absolute; "" if temporary
	store  string       // absolute; the server writes below it only
	lock   *flock.Flock // nil if temporary: nobody else knows the name
	report *Report      // what was there before the server started; nil if temporary

	keep  bool // it is not temporary, though there is no lock: the caller has it
	keeps bool // what the server removes while it starts is to be restored
}

// openHome makes the directory ready and locks it. Nothing in it is changed before all of it was checked. Errors:
// *LockedError, *AccessError, *DamagedError, *StartError, and that of ctx; then nothing is held.
func openHome(ctx context.Context, dir string, log *slog.Logger) (*home, error) {
	if dir == "" {
		return tempHome()
	}
	abs, err := filepath.Abs(dir) // a later chdir of the application must not move the log
	if err != nil {
		return nil, failed("resolve Dir", err)
	}
	h, err := lockHome(abs)
	if err != nil {
		return nil, err
	}
	if err := h.makeReady(ctx, log); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// lockHome makes Dir, if need be, and locks it.
func lockHome(dir string) (*home, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, failed("create Dir", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	return &home{dir: dir, store: filepath.Join(dir, storeName), lock: lock}, nil
}

// makeReady checks what is there, and prepares the start of the server.
func (h *home) makeReady(ctx context.Context, log *slog.Logger) error {
	if err := finishRepair(h.dir); err != nil {
		return err
	}
	if err := ownDir(h.store, log); err != nil {
		return err
	}
	if err := h.look(ctx, restoreKept); err != nil {
		return err
	}
	if len(h.report.Damage) > 0 {
		return &DamagedError{Dir: h.dir, Damage: h.report.Damage}
	}
	if err := errors.Join(h.report.finishCreations(), h.report.dropWheels()); err != nil {
		return err
	}
	h.keeps = true
	if err := keepFiles(ctx, h.store); err != nil {
		return err
	}
	return writePID(h.store)
}

// look checks that everything can be opened, and reads it. In between it calls prepare. The caller holds the lock.
func (h *home) look(ctx context.Context, prepare func(ctx context.Context, store string) error) error {
	err := checkTree(ctx, h.store)
	if err == nil {
		err = prepare(ctx, h.store)
	}
	if err == nil {
		h.report, err = inspect(ctx, h.dir, h.store)
	}
	if ctx.Err() != nil {
		return interruptedBefore(ctx.Err())
	}
	return err
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
	path := filepath.Join(dir, lockName)
	lock := flock.New(path, flock.SetPermissions(lockMode), flock.SetFlag(os.O_CREATE|os.O_RDONLY|noFollow))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, denied(path, err)
	}
	if !ok {
		return nil, &LockedError{Dir: dir, PID: readPID(dir)}
	}
	return lock, nil
}

// pidName is the file that says which process has the lock. It means something only while the lock is held.
const pidName = "pid"

func writePID(store string) error {
	f, err := openPlain(filepath.Join(store, pidName), os.O_CREATE|os.O_WRONLY|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.Itoa(os.Getpid()))
	if err := errors.Join(err, f.Close()); err != nil {
		return failed("note which process serves the directory", err)
	}
	return nil
}

// readPID returns which process has the lock; 0: it does not say.
func readPID(dir string) int {
	const most = 32
	text, err := readPlain(filepath.Join(dir, storeName, pidName), most)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return 0
	}
	return pid
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
	info, err := os.Lstat(dir)
	if err != nil {
		return denied(dir, err)
	}
	if !info.IsDir() {
		return &AccessError{Path: dir, Reason: typeReason(info.Mode())}
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

// settle ends the precautions of the start: the server has recovered all.
func (h *home) settle() error {
	if h.lock == nil {
		return nil
	}
	h.keeps = false
	return dropKept(h.store)
}

// close gives the directory up. Only after the server has shut down.
func (h *home) close() error {
	if h.keep {
		return nil
	}
	if h.lock == nil {
		return os.RemoveAll(h.store)
	}
	var err error
	if h.keeps {
		err = restoreKept(context.Background(), h.store)
	}
	return errors.Join(err, h.lock.Unlock())
}
