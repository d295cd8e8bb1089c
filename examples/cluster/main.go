// Cluster is three processes that keep one namespace, and a fourth that joins them by URL. It starts them, writes and
// reads all the time, kills one with -9, goes on, and starts it again:
//
//	go run ./examples/cluster
//
// voter.go is what an application does to be one of the three.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nearkv/nearkv/kvstore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	name := flag.String("voter", "", "be this voter; the program starts itself with it")
	flag.Parse()
	var err error
	if *name != "" {
		err = runVoter(ctx, *name, os.Stdout)
	} else {
		err = run(ctx, os.Stdout)
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// run is the demonstration.
func run(ctx context.Context, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "nearkv-cluster-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	plan, err := newPlan(dir)
	if err != nil {
		return err
	}
	voters := make(map[string]*exec.Cmd)
	defer func() {
		for _, voter := range voters {
			_ = voter.Process.Kill() // an error says that it has ended
			_ = voter.Wait()
		}
	}()
	for _, v := range plan.Voters {
		if voters[v.Name], err = startVoter(plan, v.Name, out); err != nil {
			return err
		}
	}

	// Whoever comes first creates the namespace, and this one would do so with one copy.
	store, err := kvstore.Open(ctx, namespace, kvstore.Options{URL: plan.urls(), Replicas: len(plan.Voters)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	c := counter{store: store, out: out}
	if err := c.count(ctx, "three voters", 20); err != nil {
		return err
	}

	victim := plan.Voters[0].Name
	if err := voters[victim].Process.Kill(); err != nil {
		return err
	}
	_ = voters[victim].Wait() // its error is the kill
	fmt.Fprintf(out, "%s was killed with -9\n", victim)
	if err := c.count(ctx, "two voters", 20); err != nil {
		return err
	}

	if voters[victim], err = startVoter(plan, victim, out); err != nil {
		return err
	}
	return c.count(ctx, "three voters again", 20)
}

// counter writes and reads.
type counter struct {
	store *kvstore.Store
	out   io.Writer
	n     int
}

// count writes so many times, and reads what it has written.
func (c *counter) count(ctx context.Context, when string, times int) error {
	var longest time.Duration
	for range times {
		c.n++
		began := time.Now()
		if _, err := c.store.Put(ctx, "counter", fmt.Append(nil, c.n)); err != nil {
			return err
		}
		longest = max(longest, time.Since(began))
		e, err := c.store.Get(ctx, "counter")
		if err != nil {
			return err
		}
		if e.Text() != fmt.Sprint(c.n) {
			return fmt.Errorf("the counter is %s, written was %d", e.Text(), c.n)
		}
	}
	fmt.Fprintf(c.out, "%s: counted to %d; the longest write took %v\n", when, c.n, longest.Round(time.Millisecond))
	return nil
}

// plan is what all voters know: addresses, and secrets, which in production come from where secrets are kept.
type plan struct {
	Dir           string
	Voters        []voter
	Secret, Token string
}

type voter struct{ Name, Routes, Clients string }

func newPlan(dir string) (*plan, error) {
	p := &plan{Dir: dir, Secret: rand.Text(), Token: rand.Text()}
	for i := range 3 {
		v := voter{Name: fmt.Sprintf("voter%d", i+1)}
		for _, address := range []*string{&v.Routes, &v.Clients} {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return nil, err
			}
			*address = l.Addr().String()
			defer func() { _ = l.Close() }() // all at the end, so that no two are the same
		}
		p.Voters = append(p.Voters, v)
	}
	return p, nil
}

// urls is where processes join that are no voters.
func (p *plan) urls() string {
	var all []string
	for _, v := range p.Voters {
		all = append(all, "nats://"+p.Token+"@"+v.Clients)
	}
	return strings.Join(all, ",")
}

func startVoter(p *plan, name string, out io.Writer) (*exec.Cmd, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe, "-voter", name)
	cmd.Env = append(os.Environ(), planEnv+"="+p.text())
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "%s has pid %d and %s\n", name, cmd.Process.Pid, filepath.Join(p.Dir, name))
	return cmd, nil
}
