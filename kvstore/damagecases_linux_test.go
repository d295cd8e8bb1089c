package kvstore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// damage is one way to damage a file or a directory. f is told the path of it in the copy.
type damage struct {
	file string // below Dir
	what string
	f    func(path string) error
}

// cases returns everything that is to be tried.
func (d *damager) cases() (all []damage) {
	var files []string
	err := filepath.WalkDir(d.reference, func(path string, e os.DirEntry, err error) error {
		rel, _ := filepath.Rel(d.reference, path) // below it
		switch {
		case err != nil:
			return err
		case rel == "." || rel == "lock" || e.Name() == "pid":
		case e.IsDir():
			all = append(all, d.directoryCases(rel)...)
		default:
			files = append(files, rel)
			all = append(all, d.fileCases(rel, path)...)
		}
		return nil
	})
	d.must(err)
	return append(all, d.swaps(files)...)
}

func (d *damager) fileCases(rel, path string) (all []damage) {
	data, err := os.ReadFile(path)
	d.must(err)
	add := func(what string, f func(string) error) {
		all = append(all, damage{file: rel, what: what, f: f})
	}
	for _, bit := range d.bitsOf(rel, len(data)*8) {
		add(fmt.Sprintf("bit %d of byte %d flipped", bit%8, bit/8), func(p string) error { return flipBit(p, bit) })
	}
	for range 4 {
		off := int64(d.rng.IntN(max(len(data)-4096, 1)))
		noise := make([]byte, 4096)
		for i := range noise {
			noise[i] = byte(d.rng.Uint32())
		}
		add(fmt.Sprintf("4 KiB at %d zeroed", off), func(p string) error { return overwrite(p, off, make([]byte, 4096)) })
		add(fmt.Sprintf("4 KiB at %d random", off), func(p string) error { return overwrite(p, off, noise) })
	}
	for _, n := range []int{0, 1, len(data) / 3, len(data) / 2, len(data) - 100, len(data) - 1} {
		if n >= 0 && n < len(data) {
			add(fmt.Sprintf("cut to %d of %d bytes", n, len(data)), func(p string) error { return os.Truncate(p, int64(n)) })
		}
	}
	add("removed", os.Remove)
	add("a directory", func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) })
	add("a symbolic link", func(p string) error { return errors.Join(os.Rename(p, p+".moved"), os.Symlink(p+".moved", p)) })
	add("a pipe", func(p string) error { return errors.Join(os.Remove(p), syscall.Mkfifo(p, 0o600)) })
	add("mode 000", func(p string) error { return os.Chmod(p, 0) })
	add("mode 400", func(p string) error { return os.Chmod(p, 0o400) })
	if os.Geteuid() == 0 {
		add("of root", func(p string) error { return errors.Join(os.Chown(p, 0, 0), os.Chmod(p, 0o600)) })
	}
	return all
}

func (d *damager) directoryCases(rel string) (all []damage) {
	add := func(what string, f func(string) error) {
		all = append(all, damage{file: rel, what: what, f: f})
	}
	add("removed", os.RemoveAll)
	add("renamed", func(p string) error { return os.Rename(p, filepath.Join(filepath.Dir(p), "other")) })
	add("a file", func(p string) error { return errors.Join(os.RemoveAll(p), os.WriteFile(p, []byte("x"), 0o600)) })
	add("a symbolic link", func(p string) error { return errors.Join(os.Rename(p, p+".moved"), os.Symlink(p+".moved", p)) })
	add("mode 000", func(p string) error { return os.Chmod(p, 0) })
	add("mode 500", func(p string) error { return os.Chmod(p, 0o500) })
	if os.Geteuid() == 0 {
		add("of root", func(p string) error { return errors.Join(os.Chown(p, 0, 0), os.Chmod(p, 0o700)) })
	}
	return all
}

// swaps exchanges two blocks of one stream, and blocks of two streams.
func (d *damager) swaps(files []string) (all []damage) {
	var blks []string
	for _, f := range files {
		if strings.HasSuffix(f, ".blk") {
			blks = append(blks, f)
		}
	}
	for i := 1; i < len(blks); i++ {
		a, b := blks[i-1], blks[i]
		all = append(all, damage{file: a, what: "swapped with " + b, f: func(p string) error {
			q := filepath.Join(strings.TrimSuffix(p, a), b)
			return errors.Join(os.Rename(p, p+".x"), os.Rename(q, p), os.Rename(p+".x", q))
		}})
	}
	return all
}

// bitsOf chooses the bits of a file that are flipped.
func (d *damager) bitsOf(rel string, n int) (bits []int) {
	if n == 0 {
		return nil
	}
	if d.all && strings.HasSuffix(rel, "1.blk") {
		n = min(n, 1<<19) // all of the first 64 KiB
		for i := range n {
			bits = append(bits, i)
		}
		return bits
	}
	stride := max(n/max(d.bits, 1), 1)
	for i := d.rng.IntN(stride); i < n; i += stride {
		bits = append(bits, i+d.rng.IntN(min(8, n-i)))
	}
	return bits
}

func flipBit(path string, bit int) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[bit/8] ^= 1 << (bit % 8)
	return os.WriteFile(path, data, 0o600)
}

func overwrite(path string, off int64, with []byte) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(with[:min(int64(len(with)), max(info.Size()-off, 0))], off)
	return errors.Join(err, f.Close())
}
