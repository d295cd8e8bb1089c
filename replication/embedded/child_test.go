//go:build unix

package embedded_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/replication/embedded"
)

const (
	roleEnv = "NEARKV_EMBEDDED_TEST_ROLE"
	dirEnv  = "NEARKV_EMBEDDED_TEST_DIR"

	roleIdle    = "idle"    // starts a server and waits to be killed
	roleHandler = "handler" // the same, with a SIGTERM handler of its own
	roleWriter  = "writer"  // starts a server, writes, prints the sequence of every acknowledgement

	roleMember = "member" // joins a directory and waits to be killed

	roleReady = "ready"
	roleDone  = 7 // exit code of a role that ends by itself
)

// playRole is the main function of a child.
func playRole(role, dir string) error {
	ctx := context.Background()
	term := make(chan os.Signal, 1)
	if role == roleHandler {
		signal.Notify(term, syscall.SIGTERM)
	}
	if role == roleMember {
		if _, err := embedded.Join(ctx, embedded.Options{Dir: dir}); err != nil {
			return err
		}
		fmt.Println(roleReady)
		time.Sleep(time.Hour)
		return nil
	}
	s, err := embedded.Start(ctx, embedded.Options{Dir: dir})
	if err != nil {
		return err
	}
	switch role {
	case roleWriter:
		return writeForEver(ctx, s)
	case roleHandler:
		fmt.Println(roleReady)
		<-term
		return s.Shutdown()
	default:
		fmt.Println(roleReady)
		time.Sleep(time.Hour)
		return nil
	}
}

func writeForEver(ctx context.Context, s *embedded.Server) error {
	nc, err := s.Connect()
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	if _, err := js.CreateStream(ctx, streamConfig(jetstream.FileStorage)); err != nil {
		return err
	}
	for i := 1; ; i++ {
		ack, err := js.Publish(ctx, fmt.Sprintf("s.%d", i), fmt.Append(nil, i))
		if err != nil {
			return err
		}
		fmt.Println(ack.Sequence)
	}
}

// child is another process on dir.
type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

// startChild returns when the child has printed its first line.
func startChild(t *testing.T, role, dir string) *child {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), roleEnv+"="+role, dirEnv+"="+dir)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, cmd: cmd, lines: bufio.NewScanner(out)}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // an error says that it has ended, as it should
		_ = cmd.Wait()
	})
	if !c.lines.Scan() {
		_ = cmd.Wait()
		t.Fatalf("child %s said nothing; stderr: %s", role, stderr.String())
	}
	return c
}

// signal sends sig and returns how the child ended. A child that lives on is killed, which is not how it should end.
func (c *child) signal(sig syscall.Signal) syscall.WaitStatus {
	c.t.Helper()
	if err := c.cmd.Process.Signal(sig); err != nil {
		c.t.Fatal(err)
	}
	defer time.AfterFunc(quick, func() { _ = c.cmd.Process.Kill() }).Stop()
	for c.lines.Scan() { // what it still says, so that Wait sees the end of the pipe
	}
	_ = c.cmd.Wait() // the status says more
	return c.cmd.ProcessState.Sys().(syscall.WaitStatus)
}
