package kvstore_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/replication/embedded"
)

type durableArgs struct {
	Dir               string
	Round, Goroutines int
	Each              int // writes of each goroutine; 0: until it is killed
	Durability        kvstore.Durability
}

// playDurable writes from several goroutines, and says "ack <key> <revision>" in
// one system call after each acknowledgement.
func playDurable(args string) error {
	var a durableArgs
	if err := json.Unmarshal([]byte(args), &a); err != nil {
		return err
	}
	ctx := context.Background()
	s, err := kvstore.Open(ctx, "durable", kvstore.Options{Dir: a.Dir, Durability: a.Durability})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	var writers errgroup.Group
	for g := range a.Goroutines {
		writers.Go(func() error {
			for i := 0; a.Each == 0 || i < a.Each; i++ {
				key := durableKey(a.Round, g, i)
				revision, err := s.Put(ctx, key, []byte("value"))
				if err != nil {
					return err
				}
				fmt.Println("ack", key, revision)
			}
			return nil
		})
	}
	return errors.Join(writers.Wait(), s.Close())
}

// durableKey is such that it can be found in a file. No two are alike.
func durableKey(round, goroutine, i int) string {
	return fmt.Sprintf("k%dx%dx%dz", round, goroutine, i)
}

func startDurable(t *testing.T, a durableArgs, under ...string) *child {
	t.Helper()
	text, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	c := startRole(t, "durable", string(text), under...)
	c.expect(t, "ready")
	return c
}

// TestKill9Synced kills a process whose puts share syncs. What it has
// acknowledged is there, at the revision that it has told.
func TestKill9Synced(t *testing.T) {
	kills := 8
	if testing.Short() {
		kills = 2
	}
	dir := t.TempDir()
	acked := make(map[string]kvstore.Revision)
	for round := range kills {
		c := startDurable(t, durableArgs{Dir: dir, Round: round, Goroutines: 64, Durability: kvstore.SurvivePowerLoss})
		kill := time.AfterFunc(time.Duration(20+rand.IntN(200))*time.Millisecond, func() { _ = c.cmd.Process.Kill() })
		for c.lines.Scan() {
			var key string
			var revision kvstore.Revision
			if _, err := fmt.Sscanf(c.lines.Text(), "ack %s %d", &key, &revision); err != nil {
				t.Fatalf("%q: %v", c.lines.Text(), err)
			}
			acked[key] = revision
		}
		kill.Stop()
		_ = c.cmd.Wait() // it was killed
	}
	s := opened(t, "durable", kvstore.Options{Dir: dir, Durability: kvstore.SurvivePowerLoss})
	if len(acked) == 0 {
		t.Fatal("nothing was acknowledged")
	}
	given := make(map[kvstore.Revision]string)
	for key, revision := range acked {
		if e := wantText(t, s, key, "value"); e.Revision() != revision || given[revision] != "" {
			t.Errorf("%s is at %d, acknowledged at %d, as was %q", key, e.Revision(), revision, given[revision])
		}
		given[revision] = key
	}
	t.Logf("%d kills, %d writes acknowledged", kills, len(acked))
	t.Logf("soak: kills=%d operations=%d", kills, len(acked))
}

// TestSyncedBeforeAck looks at the system calls of a process that writes: the
// file that has a record is synced between its writing and its acknowledgement.
// It looks at one without SurvivePowerLoss too, to know that it sees anything.
func TestSyncedBeforeAck(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("NOT TESTED: there is no strace to show that records are synced before they are acknowledged")
	}
	for _, test := range []struct {
		name       string
		goroutines int
		durability kvstore.Durability
	}{
		{"one", 1, kvstore.SurvivePowerLoss},
		{"many", 64, kvstore.SurvivePowerLoss},
		{"crash", 1, kvstore.SurviveCrash},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := durableArgs{Dir: t.TempDir(), Goroutines: test.goroutines, Each: 5, Durability: test.durability}
			trace := filepath.Join(t.TempDir(), "trace")
			c := startDurable(t, args, strace, "-f", "-y", "-s", "1000000", "-e", "trace=write,pwrite64,fsync,fdatasync", "-o", trace)
			c.end(t)
			d := readTrace(t, trace)
			t.Logf("%d acknowledged, %d of them before their sync; %d syncs", d.acked, d.early, d.syncs)
			switch {
			case d.acked != args.Goroutines*args.Each:
				t.Error("the trace is not that of all writes")
			case test.durability == kvstore.SurviveCrash && d.early == 0:
				t.Error("what is not synced looks as if it were")
			case test.durability == kvstore.SurvivePowerLoss && d.early > 0:
				t.Error("acknowledged before it was synced")
			case test.goroutines > 1 && d.syncs >= d.acked:
				t.Error("nothing was synced together")
			}
		})
	}
}

// disk is what system calls have made of the files with records.
type disk struct {
	written map[string]map[string]bool // by file: keys that are in it and not synced
	syncing map[string]map[string]bool // by thread: those that its fsync will have synced
	pending map[string]string          // by thread: a call that has not returned
	synced  map[string]bool

	acked, early, syncs int
}

var (
	callLine    = regexp.MustCompile(`^(\d+) +(\w+)\(\d+<([^>]*)>(.*)$`)
	resumedLine = regexp.MustCompile(`^(\d+) +<\.\.\. \w+ resumed>(.*)$`)
	keyInFile   = regexp.MustCompile(`k\d+x\d+x\d+z`)
)

func readTrace(t *testing.T, name string) *disk {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	d := &disk{
		written: make(map[string]map[string]bool), syncing: make(map[string]map[string]bool),
		pending: make(map[string]string), synced: make(map[string]bool),
	}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		d.line(lines.Text())
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return d
}

// line takes one line of strace: a call, or the beginning or the end of one.
func (d *disk) line(line string) {
	if m := resumedLine.FindStringSubmatch(line); m != nil {
		d.returned(m[1], d.pending[m[1]]+m[2])
		delete(d.pending, m[1])
		return
	}
	m := callLine.FindStringSubmatch(line)
	if m == nil {
		return
	}
	d.called(m[1], m[2], m[3], m[4])
	if begun, cut := strings.CutSuffix(line, "<unfinished ...>"); cut {
		d.pending[m[1]] = begun
		return
	}
	d.returned(m[1], line)
}

func isLog(file string) bool {
	return strings.Contains(file, "/streams/KV_durable/msgs/") && strings.HasSuffix(file, ".blk")
}

func (d *disk) called(thread, call, file, rest string) {
	switch {
	case call == "fsync" || call == "fdatasync":
		d.syncing[thread] = d.written[file]
		d.written[file] = nil
	case strings.Contains(rest, `"ack `):
		d.acked++
		if !d.synced[keyInFile.FindString(rest)] {
			d.early++
		}
	}
}

func (d *disk) returned(thread, line string) {
	m := callLine.FindStringSubmatch(line)
	if m == nil || !isLog(m[3]) {
		return
	}
	if strings.HasSuffix(m[2], "sync") {
		if !strings.HasSuffix(line, "= 0") {
			return
		}
		d.syncs++
		for key := range d.syncing[thread] {
			d.synced[key] = true
		}
		return
	}
	for _, key := range keyInFile.FindAllString(m[4], -1) {
		if d.written[m[3]] == nil {
			d.written[m[3]] = make(map[string]bool)
		}
		d.written[m[3]][key] = true
	}
}

func TestStatusDurability(t *testing.T) {
	makeAsync := func(dir string) *embedded.Server {
		server, err := embedded.Start(t.Context(), embedded.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		conn := connectTo(t, server)
		js, err := jetstream.New(conn)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
			Name: "KV_async", Subjects: []string{"$KV.async.>"}, MaxMsgsPerSubject: 1, AllowDirect: true,
			PersistMode: jetstream.AsyncPersistMode,
		}); err != nil {
			t.Fatal(err)
		}
		return server
	}
	server := makeAsync(t.TempDir())
	t.Cleanup(func() { _ = server.Shutdown() })
	conn := connectTo(t, server)
	dir := t.TempDir()
	if err := makeAsync(dir).Shutdown(); err != nil {
		t.Fatal(err)
	}
	unknown := kvstore.DurabilityStatus{Async: true, Replicas: 1}
	for _, test := range []struct {
		namespace string
		opts      kvstore.Options
		want      kvstore.DurabilityStatus
		text      string
	}{
		{"test", kvstore.Options{}, kvstore.DurabilityStatus{Known: true, Memory: true, Replicas: 1}, "memory"},
		{"test", kvstore.Options{Dir: t.TempDir()}, kvstore.DurabilityStatus{Known: true, Replicas: 1}, "SurviveCrash"},
		{
			"test",
			kvstore.Options{Dir: t.TempDir(), Durability: kvstore.SurvivePowerLoss},
			kvstore.DurabilityStatus{Known: true, Level: kvstore.SurvivePowerLoss, Replicas: 1},
			"SurvivePowerLoss",
		},
		{"test", kvstore.Options{Conn: conn}, kvstore.DurabilityStatus{Replicas: 1}, "unknown (file, replicas: 1)"},
		{"memory", kvstore.Options{Conn: conn, Memory: true}, kvstore.DurabilityStatus{Memory: true, Replicas: 1}, "unknown (memory, replicas: 1)"},
		{
			"async",
			kvstore.Options{Conn: conn},
			unknown,
			"unknown (file, written after the acknowledgement, replicas: 1)",
		},
		{
			"async", kvstore.Options{Dir: dir}, unknown, // the server is ours, and cannot keep what it promises
			"unknown (file, written after the acknowledgement, replicas: 1)",
		},
	} {
		s := opened(t, test.namespace, test.opts)
		if got := s.Status().Durability; got != test.want || got.String() != test.text {
			t.Errorf("%+v: %+v, %q", test.opts, got, got)
		}
	}
}

func connectTo(t *testing.T, server *embedded.Server) *nats.Conn {
	t.Helper()
	conn, err := server.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

func TestPutAllSynced(t *testing.T) {
	s := opened(t, "test", kvstore.Options{Dir: t.TempDir(), Durability: kvstore.SurvivePowerLoss})
	const keys = 3000
	n, err := s.PutAll(t.Context(), func(yield func(kvstore.Pair) bool) {
		for i := range 2 * keys { // each key twice
			if !yield(kvstore.Pair{Key: fmt.Sprint("key", i%keys), Value: []byte(fmt.Sprint(i))}) {
				return
			}
		}
	})
	if err != nil || n != 2*keys {
		t.Fatalf("%d, %v", n, err)
	}
	for i := range keys {
		wantText(t, s, fmt.Sprint("key", i), fmt.Sprint(keys+i))
	}
}
