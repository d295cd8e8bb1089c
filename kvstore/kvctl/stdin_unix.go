//go:build unix

package main

import (
	"os"
	"syscall"
)

// isClosed reports whether the program was started without the standard stream. The
// runtime of Go opens the null device for it then, to read and write; a shell and others
// that mean the null device open it only to read.
func isClosed(f *os.File) bool {
	info, err := f.Stat()
	if err != nil {
		return true
	}
	null, err := os.Stat(os.DevNull)
	if err != nil || !os.SameFile(info, null) {
		return false
	}
	_, err = syscall.Write(int(f.Fd()), nil)
	return err == nil // it can be written to
}
