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
	var f *os.File
	var err error
	if name == "-" {
		name = "stdin"
		f, err = c.stdin()
	} else {
		f, err = os.Open(name)
	}
	if err != nil {
		return nil, err
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

// stdin returns the standard input. A closed one is no empty one.
func (c *cli) stdin() (*os.File, error) {
	if isClosed(c.in) {
		return nil, errors.New("stdin is closed; what is to be read as empty is " + os.DevNull)
	}
	return c.in, nil
}
