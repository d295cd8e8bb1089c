//go:build !unix

package main

import "os"

// isClosed reports whether the program was started without the standard stream.
func isClosed(f *os.File) bool {
	_, err := f.Stat()
	return err != nil
}
