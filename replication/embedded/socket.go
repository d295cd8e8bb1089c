package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
)

const (
	socketName = "sock"
	socketMode = fs.FileMode(0o600)

	// maxSocketPath is what the address of a unix socket holds on all systems, less the closing zero: Linux takes 107
	// bytes, others 103.
	maxSocketPath = 103
)

// shareDir returns the absolute path of Dir. If it is to be shared there has to be room for the path of a socket in it.
func shareDir(o Options) (string, error) {
	if o.Dir == "" {
		return "", nil
	}
	abs, err := filepath.Abs(o.Dir)
	if err != nil {
		return "", failed("resolve Dir", err)
	}
	if n := len(bindPath(abs)); n > maxSocketPath && !o.Exclusive && runtime.GOOS != "linux" {
		return "", &OptionsError{"Dir", fmt.Sprintf("the path of a socket in it has %d bytes, the most is %d", n, maxSocketPath)}
	}
	return abs, nil
}

// bindPath is where the socket is made, in the directory that nobody else may enter.
func bindPath(dir string) string { return filepath.Join(dir, storeName, socketName) }

// inShort calls f with a name of dir that leaves room for what is in it. Linux has one for every open file.
func inShort(dir string, f func(dir string) error) error {
	if len(bindPath(dir)) <= maxSocketPath {
		return f(dir)
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // was only read
	return f(fmt.Sprintf("/proc/self/fd/%d", d.Fd()))
}

// listenSocket makes the socket of a directory, in place of one that a process has left which was killed. The caller holds
// the lock. Nobody else can connect at any moment: it gets its mode before it gets its place.
func listenSocket(dir string) (l *net.UnixListener, err error) {
	bind := bindPath(dir)
	if err := os.Remove(bind); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	err = inShort(dir, func(short string) error {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: bindPath(short)})
		return err
	})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it would go by the first name
	if err := errors.Join(os.Chmod(bind, socketMode), os.Rename(bind, filepath.Join(dir, socketName))); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// dialSocket connects to whoever listens. It fails at once if nobody does.
func dialSocket(dir string) (c net.Conn, err error) {
	err = inShort(dir, func(short string) error {
		c, err = net.Dial("unix", filepath.Join(short, socketName))
		return err
	})
	return c, err
}
