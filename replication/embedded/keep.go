package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A server that fails to set a stream up while it starts removes the directory of that stream, whatever
// the reason: no memory, too many open files, a full disk. So every file of a stream has a second name
// while the server starts (a hard link, which takes no room), and gets its first one back if the server
// has removed that. Names that a killed start has left are used by the next one.

const keptName = "kept"

// keepFiles gives every file of the streams a second name. On a file system without hard links it does nothing.
func keepFiles(ctx context.Context, store string) error {
	kept := filepath.Join(store, keptName)
	return eachStreamFile(ctx, filepath.Join(store, "jetstream"), func(rel string) error {
		from, to := filepath.Join(store, "jetstream", rel), filepath.Join(kept, rel)
		err := os.Link(from, to)
		if errors.Is(err, fs.ErrNotExist) {
			if err = os.MkdirAll(filepath.Dir(to), dirMode); err == nil {
				err = os.Link(from, to)
			}
		}
		if err != nil && isNoSpace(err) {
			return failed("prepare the start", err)
		}
		return nil // without links the server is on its own
	})
}

// eachStreamFile calls f with the path, below dir, of every file of a stream that is not being deleted.
func eachStreamFile(ctx context.Context, dir string, f func(rel string) error) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == dir {
			return fs.SkipAll
		}
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		parts := strings.Split(rel, string(filepath.Separator))
		if len(parts) > 1 && parts[1] != "streams" || len(parts) > 2 && strings.HasPrefix(parts[2], ".") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() || len(parts) < 4 {
			return nil
		}
		return f(rel)
	})
	if err != nil {
		return fmt.Errorf("embedded: look through the directory: %w", err)
	}
	return nil
}

// restoreKept gives files their first names back, where a start has failed or was killed.
func restoreKept(ctx context.Context, store string) error {
	kept := filepath.Join(store, keptName)
	err := eachStreamFile(ctx, kept, func(rel string) error {
		to := filepath.Join(store, "jetstream", rel)
		if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(to), dirMode); err != nil {
			return err
		}
		return os.Link(filepath.Join(kept, rel), to)
	})
	if err != nil {
		return err
	}
	return dropKept(store)
}

// dropKept removes the second names. The files stay.
func dropKept(store string) error { return os.RemoveAll(filepath.Join(store, keptName)) }
