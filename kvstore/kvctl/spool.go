package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/nearkv/nearkv/kvstore/internal/tempfile"
)

// input is a file that can be read more than once.
type input struct {
	io.ReadSeekCloser // the file, or a temporary copy of it
	name              string
	size              int64
}

// openInput opens a file, or stdin for "-". What can be read only once is copied
// to a temporary file first.
func (c *cli) openInput(name string) (*input, error) {
	f := c.in
	if name != "-" {
		var err error
		if f, err = os.Open(name); err != nil {
			return nil, err
		}
	} else {
		name = "stdin"
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, errors.Join(err, f.Close())
	case info.IsDir():
		return nil, errors.Join(misuse("%s is a directory", name), f.Close())
	case info.Mode().IsRegular():
		return &input{f, name, info.Size()}, nil
	}
	spooled, err := spool(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("copy %s to a temporary file: %w", name, err), f.Close())
	}
	return &input{spooled.ReadSeekCloser, name, spooled.size}, f.Close()
}

func spool(r io.Reader) (*input, error) {
	f, err := tempfile.Create("kvctl-*")
	if err != nil {
		return nil, err
	}
	in := &input{ReadSeekCloser: f}
	if in.size, err = io.Copy(f, r); err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return in, nil
}

// again returns the file from its beginning.
func (in *input) again() (io.Reader, error) {
	_, err := in.Seek(0, io.SeekStart)
	return in.ReadSeekCloser, err
}
