//go:build unix

package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// hasOwners: files have an owner and a mode that says who may do what.
const hasOwners = true

const noFollow = syscall.O_NOFOLLOW | syscall.O_NONBLOCK

func ownerOf(info fs.FileInfo) (int, bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(stat.Uid), true
}

func checkOwner(path string, info fs.FileInfo) error {
	owner, ok := ownerOf(info)
	if self := os.Geteuid(); !ok || owner == self || owner == 0 || self == 0 {
		return nil
	}
	return &AccessError{Path: path, Reason: fmt.Sprintf("belongs to user %d, and this process runs as user %d; run it as that user, or change the owner", owner, os.Geteuid())}
}

// checkStoreOwner keeps root out of a store of another user: the files that the server of root
// makes would be closed to the owner. A file system that gives all files to one user is fine.
func checkStoreOwner(dir string) error {
	store := filepath.Join(dir, storeName)
	info, err := os.Lstat(store)
	if errors.Is(err, fs.ErrNotExist) || os.Geteuid() != 0 {
		return nil
	}
	if err != nil {
		return denied(store, err)
	}
	owner, ok := ownerOf(info)
	if !ok || owner == 0 || owner == ownerOfNew(dir) {
		return nil
	}
	return &AccessError{Path: store, Reason: fmt.Sprintf("belongs to user %d, who could not open what root writes into it; run as that user, or give the directory to root", owner)}
}

// ownerOfNew makes a file and returns who owns it; -1: it cannot be told.
func ownerOfNew(dir string) int {
	f, err := os.CreateTemp(dir, "owner-")
	if err != nil {
		return -1
	}
	info, err := f.Stat()
	if errors.Join(err, f.Close(), os.Remove(f.Name())) != nil {
		return -1
	}
	owner, _ := ownerOf(info)
	return owner
}

// canWrite reports whether files can be made in a directory and moved.
func canWrite(dir string) error {
	return unix.Faccessat(unix.AT_FDCWD, dir, unix.R_OK|unix.W_OK|unix.X_OK, unix.AT_EACCESS)
}

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// isQueueFull reports whether a connection failed because too many wait to be let in.
func isQueueFull(err error) bool { return errors.Is(err, syscall.EAGAIN) }
