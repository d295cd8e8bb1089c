package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/term"

	"github.com/nearkv/nearkv/kvstore"
)

// exportFile exports to a name: through a pipe or a device, and else into a file.
func (c *cli) exportFile(s *session, name, format string, opts []kvstore.ExportOption) (kvstore.ExportInfo, error) {
	info, err := os.Stat(name)
	switch {
	case err == nil && info.IsDir():
		return kvstore.ExportInfo{}, misuse("%s is a directory", name)
	case err == nil && !info.Mode().IsRegular():
		return c.exportThrough(s, name, format, info.Mode(), opts)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return kvstore.ExportInfo{}, err
	}
	target, err := resolve(name)
	if err != nil {
		return kvstore.ExportInfo{}, err
	}
	return c.replaceFile(s, target, format, opts)
}

// resolve returns the file that a name stands for, which need not exist: rename would
// replace a symbolic link, not what it points to.
func resolve(name string) (string, error) {
	const most = 40 // as the system follows
	for range most {
		to, err := os.Readlink(name)
		if err != nil { // it is no link; if it is unusable, opening it says so
			return name, nil
		}
		if !filepath.IsAbs(to) {
			to = filepath.Dir(name) + string(filepath.Separator) + to // not Join: what .. is depends on links before it
		}
		dir, base := filepath.Split(to)
		if dir, err = filepath.EvalSymlinks(dir); err != nil {
			return "", err
		}
		name = filepath.Join(dir, base)
	}
	return "", misuse("%s: too many symbolic links", name)
}

// replaceFile writes a file under another name first: nobody is to take a part
// of an export for one.
func (c *cli) replaceFile(s *session, name, format string, opts []kvstore.ExportOption) (info kvstore.ExportInfo, err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return info, err
	}
	info, err = c.exportTo(s, f, format, opts)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("export to %s: %w", name, err), os.Remove(f.Name()))
	}
	return info, err
}

// exportThrough writes to a pipe or a device, which stays what it is.
func (c *cli) exportThrough(s *session, name, format string, mode fs.FileMode, opts []kvstore.ExportOption) (info kvstore.ExportInfo, err error) {
	f, err := openPipe(s, name)
	if err != nil {
		return info, fmt.Errorf("export to %s: %w", name, err)
	}
	if format == formatArchive && mode&fs.ModeCharDevice != 0 && term.IsTerminal(int(f.Fd())) {
		return info, errors.Join(errArchiveOnTerminal, f.Close())
	}
	defer context.AfterFunc(s.ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })() // of a pipe that nobody empties
	var w io.Writer = f
	if mode&fs.ModeCharDevice != 0 {
		w = writerTo(f)
	}
	info, err = c.exportTo(s, w, format, opts)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = context.Cause(s.ctx)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		err = fmt.Errorf("export to %s: %w", name, err)
	}
	return info, err
}

// openPipe opens a pipe or a device to write to it. A pipe waits for its reader.
func openPipe(s *session, name string) (*os.File, error) {
	type opened struct {
		file *os.File
		err  error
	}
	done := make(chan opened, 1)
	go func() { // the end of the process ends it if nobody ever reads
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		done <- opened{f, err}
	}()
	select {
	case o := <-done:
		if o.err == nil {
			return o.file, nil
		}
		return nil, errors.Unwrap(o.err) // the caller names the file
	case <-s.ctx.Done():
		return nil, fmt.Errorf("nobody reads it: %w", context.Cause(s.ctx))
	}
}
