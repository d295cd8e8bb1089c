package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"time"
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

// dialSocket connects to whoever listens. It fails at once if nobody does, or somebody who must not.
func dialSocket(dir string) (c *net.UnixConn, err error) {
	err = inShort(dir, func(short string) error {
		c, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(short, socketName), Net: "unix"})
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := checkPeer(c, dir); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// checkPeer makes sure that the server is of this user or of root, or, if this is root, of the owner of the directory.
func checkPeer(c *net.UnixConn, dir string) error {
	_, uid, ok := peerOf(c)
	self := os.Geteuid()
	if !ok || uid == self || uid == 0 {
		return nil
	}
	if info, err := os.Stat(dir); err == nil && self == 0 {
		if owner, ok := ownerOf(info); ok && owner == uid {
			return nil
		}
	}
	return &AccessError{Path: filepath.Join(dir, socketName), Reason: fmt.Sprintf("is served by a process of user %d, and this one runs as user %d", uid, self)}
}

// errSilent says that somebody listens and does not answer.
var errSilent = errors.New("embedded: no answer")

// answerWithin is how long a server may take to greet. It does so at once, unless its process is halted.
const answerWithin = 2 * time.Second

// knockSocket finds out whether a server answers on the socket. The process that listens there is known also if it
// does not answer.
func knockSocket(ctx context.Context, dir string) (pid int, err error) {
	c, err := dialSocket(dir)
	if isQueueFull(err) {
		return 0, errSilent
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }() // it was only a question
	pid, _, _ = peerOf(c)
	end := time.Now().Add(answerWithin)
	if limit, ok := ctx.Deadline(); ok && limit.Before(end) {
		end = limit
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Now()) })
	defer stop()
	if err := c.SetReadDeadline(end); err != nil {
		return pid, err
	}
	_, err = c.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return pid, errSilent
	}
	return pid, err
}
