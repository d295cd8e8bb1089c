// Package tempfile creates temporary files that do not outlive their process.
package tempfile

import (
	"errors"
	"os"
)

// File is a temporary file. On Unix it has no name while it is open: nothing of it
// stays, however the process ends. Elsewhere Close removes it.
type File struct {
	*os.File
	named bool
}

// Create creates a file in the directory for temporary files; the pattern is that of os.CreateTemp.
func Create(pattern string) (*File, error) {
	f, err := os.CreateTemp("", pattern)
	if err != nil {
		return nil, err
	}
	return &File{File: f, named: os.Remove(f.Name()) != nil}, nil // where open files cannot be removed, Close does it
}

// Close closes the file, which ends it.
func (f *File) Close() error {
	err := f.File.Close()
	if f.named {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}
