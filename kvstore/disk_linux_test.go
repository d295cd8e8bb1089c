package kvstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nearkv/nearkv/kvstore"
)

// TestDiskFails fills the disk of a Dir, or makes it read-only, under two Stores, and takes that back. It plays in a process
// that may mount file systems which only it sees.
func TestDiskFails(t *testing.T) {
	for _, how := range []string{"full", "read-only"} {
		t.Run(how, func(t *testing.T) {
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(exe)
			cmd.Env = append(os.Environ(), roleEnv+"=disk", argsEnv+"="+how, "TMPDIR="+t.TempDir())
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
			}
			out, err := cmd.CombinedOutput()
			if errors.Is(err, syscall.EPERM) || cmd.ProcessState.ExitCode() == noMount {
				t.Skipf("this system lets nobody mount a file system: %v %s", err, out)
			}
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			t.Logf("%s", out)
		})
	}
}

// noMount is how a child exits that may not mount.
const noMount = 42

// diskTest is what goes on in the child.
type diskTest struct {
	dir    string
	stores [2]*kvstore.Store // the first one serves the second
	last   map[string][]byte // what was acknowledged
}

func init() { roles["disk"] = playDisk }

func playDisk(how string) error {
	dir, err := os.MkdirTemp("", "disk-")
	if err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=32m"); err != nil {
		fmt.Println(err)
		os.Exit(noMount)
	}
	d := &diskTest{dir: dir, last: make(map[string][]byte)}
	for i := range d.stores {
		if d.stores[i], err = kvstore.Open(context.Background(), "disk", kvstore.Options{Dir: dir, CacheBytes: 1 << 20}); err != nil {
			return err
		}
	}
	harm, mend := d.fill, d.free
	if how == "read-only" {
		harm, mend = d.protect, d.unprotect
	}
	err = d.run(harm, mend)
	for _, s := range d.stores {
		err = errors.Join(err, s.Close())
	}
	return err
}

// run writes before, while and after the disk fails, twice.
func (d *diskTest) run(harm, mend func() error) error {
	for round := range 2 {
		for i := range 6 {
			if err := d.put(i, round, nil); err != nil {
				return err
			}
		}
		if err := harm(); err != nil {
			return err
		}
		for i := range 16 { // more than the rest of the file that the server has open
			if err := d.put(i, 10+round, kvstore.ErrNoSpace, kvstore.ErrReadOnly); err != nil {
				return err
			}
		}
		if err := d.read(); err != nil {
			return fmt.Errorf("while the disk fails: %w", err)
		}
		if err := mend(); err != nil {
			return err
		}
		if err := d.put(0, 20+round, nil); err != nil {
			return fmt.Errorf("after it was mended: %w", err)
		}
		if err := d.read(); err != nil {
			return err
		}
	}
	return nil
}

// put writes 1 MiB. It must succeed, or fail in one of the ways that are given.
func (d *diskTest) put(i, round int, allowed ...error) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	key, value := fmt.Sprintf("key%d", i%6), bytes.Repeat([]byte{byte(round), byte(i)}, 1<<19)
	began := time.Now()
	_, err := d.stores[i%2].Put(ctx, key, value)
	if err == nil {
		d.last[key] = value
		return nil
	}
	for _, a := range allowed {
		if a != nil && errors.Is(err, a) && !errors.Is(err, kvstore.ErrIndeterminate) {
			if took := time.Since(began); took > 10*time.Millisecond {
				fmt.Printf("after %v: %v\n", took.Round(time.Millisecond), err)
			}
			return nil
		}
	}
	return fmt.Errorf("put of %s after %v: %w", key, time.Since(began), err)
}

// read reads what was acknowledged, most of it from the log.
func (d *diskTest) read() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for key, value := range d.last {
		for i, s := range d.stores {
			if err := s.Sync(ctx); err != nil {
				return err
			}
			if e, err := s.Get(ctx, key); err != nil || !bytes.Equal(e.Value(), value) {
				return fmt.Errorf("get of %s by store %d: %d bytes, %w", key, i, e.Len(), err)
			}
		}
	}
	return nil
}

// fill leaves no byte.
func (d *diskTest) fill() error {
	f, err := os.Create(filepath.Join(d.dir, "ballast"))
	if err != nil {
		return err
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	return f.Close()
}

func (d *diskTest) free() error { return os.Remove(filepath.Join(d.dir, "ballast")) }

// protect puts a read-only view of the server's directory over it: what is open stays writable, as with a directory whose
// mode was changed.
func (d *diskTest) protect() error {
	store := filepath.Join(d.dir, "nats")
	if err := syscall.Mount(store, store, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
		return err
	}
	return syscall.Mount("", store, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
}

func (d *diskTest) unprotect() error {
	return syscall.Unmount(filepath.Join(d.dir, "nats"), syscall.MNT_DETACH)
}
