package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// The server skips or removes what it cannot open. So everything that it will open is
// opened first, and what is not a plain file or directory of ours stops the start.
//
// Dir itself may be reached through a symbolic link. Its owner is this user or root, or
// anybody if this process is root's. Nobody but owner and group may write into it, unless
// it is sticky: then only the owner of a file can move it.

// checkDir checks what can be checked before the lock is taken: Dir, and what we open in it
// ourselves. What is not there will be made.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return denied(dir, err)
	}
	if !info.IsDir() {
		return &AccessError{Path: dir, Reason: "is not a directory"}
	}
	if err := checkOwner(dir, info); err != nil {
		return err
	}
	if info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 && hasOwners {
		return &AccessError{Path: dir, Reason: "is writable by every user; use a directory in it, or take that away with chmod o-w"}
	}
	for name, want := range map[string]fs.FileMode{storeName: fs.ModeDir, "witness": fs.ModeDir, lockName: 0, socketName: fs.ModeSocket} {
		if err := checkEntry(filepath.Join(dir, name), want); err != nil {
			return err
		}
	}
	return checkStoreOwner(dir)
}

// checkEntry checks the type and the owner of what is in Dir.
func checkEntry(path string, want fs.FileMode) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return denied(path, err)
	}
	if info.Mode().Type() != want && hasOwners {
		return &AccessError{Path: path, Reason: typeReason(info.Mode())}
	}
	return checkOwner(path, info)
}

func typeReason(m fs.FileMode) string {
	switch {
	case m&fs.ModeSymlink != 0:
		return "is a symbolic link; only Dir itself may be one"
	case m&fs.ModeNamedPipe != 0:
		return "is a named pipe"
	case m&fs.ModeSocket != 0:
		return "is a socket"
	case m&fs.ModeDevice != 0:
		return "is a device"
	case m.IsDir():
		return "is a directory, where a file belongs"
	}
	return "is not a directory"
}

// denied is the AccessError of an operating system call.
func denied(path string, err error) error {
	var inner *fs.PathError
	if errors.As(err, &inner) {
		err = inner.Err
	}
	return &AccessError{Path: path, Reason: err.Error(), Err: err}
}

// checkTree checks everything in the store directory. The caller holds the lock.
func checkTree(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return denied(dir, err)
	}
	if err := canWrite(dir); err != nil {
		return denied(dir, err)
	}
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := checkOne(ctx, filepath.Join(dir, entry.Name()), entry); err != nil {
			return err
		}
	}
	return nil
}

func checkOne(ctx context.Context, path string, entry fs.DirEntry) error {
	switch mode := entry.Type(); {
	case mode.IsDir():
		return checkTree(ctx, path)
	case mode&fs.ModeSocket != 0 && entry.Name() == socketName: // a process was killed before it gave it its place
		return nil
	case !mode.IsRegular():
		return &AccessError{Path: path, Reason: typeReason(mode)}
	}
	f, err := openPlain(path, os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was removed meanwhile: another process has tried whether the disk takes something
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// openPlain opens a regular file. It follows no link, and does not wait for the other end
// of what is none.
func openPlain(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|noFollow, lockMode)
	if err != nil {
		return nil, denied(path, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &AccessError{Path: path, Reason: typeReason(info.Mode())}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// AccessError names a file or directory that this process cannot use as it has to, or must not
// trust. Nothing was changed. It is an ErrAccess and an ErrStart.
type AccessError struct {
	Path   string
	Reason string // what is wrong with it, and what to do
	Err    error  // of the operating system; nil: it was none
}

func (e *AccessError) Error() string { return fmt.Sprintf("%v: %s: %s", ErrAccess, e.Path, e.Reason) }

// Is makes every AccessError an ErrAccess and an ErrStart.
func (e *AccessError) Is(target error) bool { return target == ErrAccess || target == ErrStart }

// Unwrap returns the error of the operating system.
func (e *AccessError) Unwrap() error { return e.Err }
