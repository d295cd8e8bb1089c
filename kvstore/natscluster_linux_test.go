package kvstore_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const natsServers = 3

// natsCluster is three processes of nats-server. Their routes go through relays of the test, one for each that dials and each
// that is dialled, so that any two of them can be parted.
type natsCluster struct {
	t      *testing.T
	binary string
	dir    string
	client [natsServers]string // addresses
	route  [natsServers]string
	relays [natsServers][natsServers]*relay // of the one that dials, to the one that is dialled
	procs  [natsServers]*exec.Cmd
}

func startNATSCluster(t *testing.T) *natsCluster {
	t.Helper()
	c := &natsCluster{t: t, dir: t.TempDir()}
	c.binary = filepath.Join(c.dir, "nats-server")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", c.binary, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		t.Fatalf("build nats-server: %v\n%s", err, out)
	}
	for i := range natsServers {
		c.client[i], c.route[i] = freeAddress(t), freeAddress(t)
	}
	for i := range natsServers {
		for j := range natsServers {
			if i != j {
				c.relays[i][j] = newRelay(t, c.route[j])
			}
		}
	}
	for i := range natsServers {
		c.start(i)
	}
	return c
}

func natsName(i int) string { return fmt.Sprintf("nats%d", i) }

func (c *natsCluster) start(i int) {
	c.t.Helper()
	var routes []string
	for j, r := range c.relays[i] {
		if j != i {
			routes = append(routes, "nats-route://"+r.listener.Addr().String())
		}
	}
	// What the servers tell each other of addresses must lead nowhere, or they would go past the relays.
	config := fmt.Sprintf(`
server_name: %s
listen: %q
jetstream { store_dir: %q }
cluster { name: test, listen: %q, cluster_advertise: "127.0.0.1:1", no_advertise: true, routes: ["%s"] }
`, natsName(i), c.client[i], filepath.Join(c.dir, natsName(i)), c.route[i], strings.Join(routes, `", "`))
	file := filepath.Join(c.dir, natsName(i)+".conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(c.binary, "-c", file, "-l", filepath.Join(c.dir, natsName(i)+".log"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.procs[i] = cmd
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill() // an error says that it has ended
		_ = cmd.Wait()
		if c.t.Failed() {
			text, _ := os.ReadFile(filepath.Join(c.dir, natsName(i)+".log"))
			c.t.Logf("%s: %s", natsName(i), text[max(0, len(text)-3000):])
		}
	})
}

func (c *natsCluster) url(i int) string { return "nats://" + c.client[i] }

func (c *natsCluster) kill(i int) {
	c.t.Helper()
	if err := c.procs[i].Process.Kill(); err != nil {
		c.t.Fatal(err)
	}
	_ = c.procs[i].Wait() // its error is the kill
}

func (c *natsCluster) signal(i int, s syscall.Signal) {
	c.t.Helper()
	if err := c.procs[i].Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

// part cuts a server off from the others, or joins it with them again.
func (c *natsCluster) part(i int, parted bool) {
	for j := range natsServers {
		if j != i {
			c.relays[i][j].set(parted)
			c.relays[j][i].set(parted)
		}
	}
}

// leader returns who leads the stream.
func (c *natsCluster) leader() int {
	c.t.Helper()
	var last error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		for i := range natsServers {
			nc, err := nats.Connect(c.url(i), nats.Timeout(time.Second))
			if err != nil {
				last = err
				continue
			}
			name, err := leaderOf(nc)
			nc.Close()
			last = err
			for l := range natsServers {
				if err == nil && name == natsName(l) {
					return l
				}
			}
		}
	}
	c.t.Fatalf("nobody leads: %v", last)
	return 0
}

func leaderOf(nc *nats.Conn) (string, error) {
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(time.Second))
	if err != nil {
		return "", err
	}
	s, err := js.Stream(context.Background(), "KV_"+historyNamespace)
	if err != nil {
		return "", err
	}
	return s.CachedInfo().Cluster.Leader, nil
}

// relay passes bytes to an address, unless it is cut. A connection over a cut relay ends, and a new one too.
type relay struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listener: l, to: to, conns: make(map[net.Conn]bool)}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() { r.pass(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		r.set(true)
		work.Wait()
	})
	return r
}

func (r *relay) pass(a net.Conn) {
	b, err := net.DialTimeout("tcp", r.to, time.Second)
	if err != nil {
		_ = a.Close()
		return
	}
	defer func() { _, _ = a.Close(), b.Close() }()
	r.mu.Lock()
	ok := !r.cut
	if ok {
		r.conns[a], r.conns[b] = true, true
	}
	r.mu.Unlock()
	if !ok {
		return
	}
	done := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		go func() {
			_, _ = io.Copy(way[0], way[1])
			done <- struct{}{}
		}()
	}
	<-done
	_, _ = a.Close(), b.Close()
	<-done
	r.mu.Lock()
	delete(r.conns, a)
	delete(r.conns, b)
	r.mu.Unlock()
}

func (r *relay) set(cut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = cut
	if cut {
		for c := range r.conns {
			_ = c.Close()
		}
	}
}

// others returns two servers that are not i.
func others(i int) (int, int) {
	a := (i + 1 + rand.N(natsServers-1)) % natsServers
	return a, natsServers - i - a
}
