package kvstore_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/nearkv/nearkv/kvstore"
)

// The test binary plays other processes too: it starts itself with these set.
const (
	roleEnv = "NEARKV_TEST_ROLE"
	argsEnv = "NEARKV_TEST_ARGS" // of the role, for the role to split
)

// roles are the main functions of those processes. They end with their stdin,
// if nothing ends them earlier. Files for one system add theirs.
var roles = map[string]func(args string) error{
	"bare":    func(string) error { return answer(nil) },
	"open":    playOpen,
	"writer":  playWriter,
	"fleet":   playFleet,
	"durable": playDurable,
	"batches": playBatches,
}

func TestMain(m *testing.M) {
	role := os.Getenv(roleEnv)
	if role == "" {
		goleak.VerifyTestMain(m)
		return
	}
	if err := roles[role](os.Getenv(argsEnv)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// playOpen opens a Store without options, or with a Dir.
func playOpen(dir string) error {
	before := countSignalLoops()
	s, err := kvstore.Open(context.Background(), "role", kvstore.Options{Dir: dir, CacheBytes: 1 << 20})
	if err != nil {
		return err
	}
	if n := countSignalLoops(); n != before {
		return fmt.Errorf("%d goroutines wait for signals, %d did before Open", n, before)
	}
	if err := answer(s); err != nil {
		return err
	}
	return s.Close()
}

// answer says "ready", and then to each line of stdin whether the Store works.
func answer(s *kvstore.Store) error {
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if err := use(s); err != nil {
			return err
		}
		fmt.Println("works")
	}
	return in.Err()
}

// countSignalLoops counts the goroutines that wait for signals.
func countSignalLoops() int {
	stacks := make([]byte, 1<<20)
	return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "os/signal.")
}

func use(s *kvstore.Store) error {
	if s == nil {
		return nil
	}
	ctx := context.Background()
	if _, err := s.Put(ctx, "key", []byte("value")); err != nil {
		return err
	}
	return s.Sync(ctx)
}

// child is another process, which plays a role.
type child struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	lines  *bufio.Scanner
	stderr bytes.Buffer // to be read after Wait
}

// startRole starts a process. It is gone when the test is. The words of under
// are a command that runs it.
func startRole(t *testing.T, role, args string, under ...string) *child {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	under = append(under, exe)
	c := &child{cmd: exec.Command(under[0], under[1:]...)}
	c.cmd.Env = append(os.Environ(), roleEnv+"="+role, argsEnv+"="+args)
	c.cmd.Stderr = &c.stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.lines = bufio.NewScanner(out)
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill() // an error says that it has ended, as it should
		_ = c.cmd.Wait()
	})
	return c
}

// expect reads one line.
func (c *child) expect(t *testing.T, line string) {
	t.Helper()
	if c.lines.Scan() && c.lines.Text() == line {
		return
	}
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
	t.Fatalf("the child says %q, not %q; stderr: %s", c.lines.Text(), line, &c.stderr)
}

// works asks the child whether its Store works.
func (c *child) works(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(c.in, "?\n"); err != nil {
		t.Fatal(err)
	}
	c.expect(t, "works")
}

// end ends the child and wants it to have no complaint.
func (c *child) end(t *testing.T) {
	t.Helper()
	_ = c.in.Close()
	for c.lines.Scan() { // what it still says, so that Wait sees the end of the pipe
	}
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("the child ended with %v; stderr: %s", err, &c.stderr)
	}
}

const (
	killWriters = 8
	killGroups  = 16
	killKeys    = 6 // of one writer in one group
	killExpire  = 3 // of these: their values all expire, so that nothing of them stays in the log
)

// killKey names a key. Those of group 0 are written in every round.
func killKey(group, writer, i int) string { return fmt.Sprintf("g%d:w%d.%d", group, writer, i) }

func killGroup(round int) int { return 1 + round%(killGroups-1) }

func allKillKeys(yield func(string) bool) {
	for i := range killGroups * killWriters * killKeys {
		if !yield(killKey(i/(killWriters*killKeys), i/killKeys%killWriters, i%killKeys)) {
			return
		}
	}
}

// killValue is what a key holds.
type killValue struct {
	ID       string           `json:",omitempty"` // of the write; "": nothing
	Size     int              `json:",omitempty"`
	Metadata string           `json:",omitempty"`
	Expires  int64            `json:",omitempty"` // unix milliseconds; 0: never
	Revision kvstore.Revision `json:",omitempty"` // 0: not known
}

func (v killValue) text() string { return v.ID + "|" + strings.Repeat("x", v.Size-len(v.ID)-1) }

// gone tells whether there is nothing to see at a time or later.
func (v killValue) gone(at int64) bool { return v.ID == "" || (v.Expires != 0 && v.Expires <= at) }

// killOp is one write.
type killOp struct {
	Key    string
	Value  killValue        // after it
	Cond   string           `json:",omitempty"` // "", "absent" or "revision"
	Expect kvstore.Revision `json:",omitempty"` // with "revision"
}

// killLine is one line that the child says. Begun and Ended are unix
// milliseconds, before and after what it tells of.
type killLine struct {
	Kind     string           // below
	Writer   int              `json:",omitempty"`
	Op       *killOp          `json:",omitempty"` // "do"
	Key      string           `json:",omitempty"` // "get" and "list"
	Value    killValue        `json:",omitzero"`  // "get" and "list"
	Revision kvstore.Revision `json:",omitempty"` // "head", and of a put that is "done"
	Begun    int64            `json:",omitempty"`
	Ended    int64            `json:",omitempty"`
}

// The kinds of lines: first what the child found, then what it does.
const (
	sayHead     = "head"
	sayGet      = "get"
	sayList     = "list"
	sayReady    = "ready"
	sayDo       = "do"
	sayDone     = "done"
	sayConflict = "conflict"
	sayRefused  = "refused"
)

func (l killLine) say() error {
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(append(text, '\n')) // at once: a kill cuts no line
	return err
}

// killArgs are those of the role "writer".
type killArgs struct {
	Dir         string
	Round, Seed int
}

// playWriter is the child of TestKill9: it says what it finds, and then writes
// until it is killed.
func playWriter(args string) error {
	var a killArgs
	if err := json.Unmarshal([]byte(args), &a); err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s, err := kvstore.Open(context.Background(), "kill", kvstore.Options{Dir: a.Dir, CacheBytes: 1 << 20, Logger: logger})
	if err != nil {
		return err
	}
	if err := tellKeys(s, killLine.say); err != nil {
		return err
	}
	if err := (killLine{Kind: sayReady}).say(); err != nil {
		return err
	}
	var writers errgroup.Group
	for i := range killWriters {
		w := &killWriter{
			store: s, round: a.Round, number: i,
			rng: rand.New(rand.NewPCG(uint64(a.Seed), uint64(1+a.Round*killWriters+i))),
		}
		writers.Go(w.run)
	}
	return errors.Join(writers.Wait(), s.Close())
}

// tellKeys tells what a Store holds, by Get and by List.
func tellKeys(s *kvstore.Store, tell func(killLine) error) error {
	if err := tell(killLine{Kind: sayHead, Revision: s.Status().Head}); err != nil {
		return err
	}
	for key := range allKillKeys {
		l := killLine{Kind: sayGet, Key: key, Begun: time.Now().UnixMilli()}
		e, err := s.Get(context.Background(), key)
		l.Ended = time.Now().UnixMilli()
		if err == nil {
			l.Value = seenValue(e.Len(), string(e.Metadata()), e.Expires(), e.Revision())
			l.Value.ID, _, _ = strings.Cut(e.Text(), "|")
			if e.Text() != l.Value.text() {
				l.Value.ID = "damaged"
			}
		} else if !errors.Is(err, kvstore.ErrNotFound) {
			return err
		}
		if err := tell(l); err != nil {
			return err
		}
	}
	begun, listed := time.Now().UnixMilli(), make(map[string]killValue)
	for info, err := range s.Keys("") {
		if err != nil {
			return err
		}
		listed[info.Name] = seenValue(info.Size, string(info.Metadata), info.Expires, info.Revision)
	}
	ended := time.Now().UnixMilli()
	for key := range allKillKeys {
		if err := tell(killLine{Kind: sayList, Key: key, Value: listed[key], Begun: begun, Ended: ended}); err != nil {
			return err
		}
		delete(listed, key)
	}
	if len(listed) != 0 {
		return fmt.Errorf("keys that nobody wrote: %v", listed)
	}
	return nil
}

func seenValue(size int, metadata string, expires time.Time, revision kvstore.Revision) killValue {
	v := killValue{ID: "listed", Size: size, Metadata: metadata, Revision: revision}
	if !expires.IsZero() {
		v.Expires = expires.UnixMilli()
	}
	return v
}

// killWriter is one goroutine of the child.
type killWriter struct {
	store  *kvstore.Store
	round  int
	number int
	ops    int
	rng    *rand.Rand
}

func (w *killWriter) run() error {
	for {
		op := w.next()
		begun := time.Now().UnixMilli()
		if err := (killLine{Kind: sayDo, Writer: w.number, Op: &op, Begun: begun}).say(); err != nil {
			return err
		}
		revision, err := w.do(&op)
		l := killLine{Kind: sayDone, Writer: w.number, Revision: revision, Ended: time.Now().UnixMilli()}
		switch {
		case errors.Is(err, kvstore.ErrConflict):
			l.Kind, err = sayConflict, nil
		case errors.Is(err, kvstore.ErrInvalidExpiry): // the machine stood still for too long
			l.Kind, err = sayRefused, nil
		}
		if err != nil {
			return fmt.Errorf("%+v: %w", op, err)
		}
		if err := l.say(); err != nil {
			return err
		}
	}
}

// next decides what to write.
func (w *killWriter) next() killOp {
	w.ops++
	group := 0
	if w.rng.IntN(3) > 0 {
		group = killGroup(w.round)
	}
	i := w.rng.IntN(killKeys)
	op := killOp{Key: killKey(group, w.number, i)}
	if w.rng.IntN(4) > 0 {
		op.Value = w.value(i < killExpire || w.rng.IntN(2) == 0)
	}
	switch w.rng.IntN(8) {
	case 0:
		if op.Value.ID != "" {
			op.Cond = "absent"
		}
	case 1:
		op.Cond, op.Expect = "revision", kvstore.Revision(1+w.rng.IntN(1000))
		if e, err := w.store.Get(context.Background(), op.Key); err == nil && w.rng.IntN(4) > 0 {
			op.Expect = e.Revision()
		}
	}
	return op
}

func (w *killWriter) value(expires bool) killValue {
	v := killValue{ID: fmt.Sprintf("%d.%d.%d", w.round, w.number, w.ops), Size: 40 + w.rng.IntN(200)}
	if w.rng.IntN(50) == 0 {
		v.Size = w.rng.IntN(64<<10) + 40
	}
	if w.rng.IntN(2) == 0 {
		v.Metadata = strconv.Quote(v.ID)
	}
	if expires {
		v.Expires = time.Now().UnixMilli() + 1100 + w.rng.Int64N(900)
	}
	return v
}

func (w *killWriter) do(op *killOp) (kvstore.Revision, error) {
	ctx := context.Background()
	if op.Value.ID == "" {
		var opts []kvstore.DeleteOption
		if op.Cond != "" {
			opts = append(opts, kvstore.IfRevision(op.Expect))
		}
		return 0, w.store.Delete(ctx, op.Key, opts...)
	}
	var opts []kvstore.WriteOption
	switch op.Cond {
	case "absent":
		opts = append(opts, kvstore.IfAbsent())
	case "revision":
		opts = append(opts, kvstore.IfRevision(op.Expect))
	}
	if op.Value.Metadata != "" {
		opts = append(opts, kvstore.WithMetadata(json.RawMessage(op.Value.Metadata)))
	}
	if op.Value.Expires != 0 {
		opts = append(opts, kvstore.WithExpiry(time.UnixMilli(op.Value.Expires)))
	}
	return w.store.Put(ctx, op.Key, []byte(op.Value.text()), opts...)
}

// opened opens a Store until the end of the test.
func opened(t testing.TB, namespace string, opts kvstore.Options) *kvstore.Store {
	t.Helper()
	s, err := kvstore.Open(context.Background(), namespace, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func closeStore(t testing.TB, s *kvstore.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// patience is for what would never come.
const patience = time.Minute

func wantPut(t testing.TB, s *kvstore.Store, key, value string, opts ...kvstore.WriteOption) kvstore.Revision {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	revision, err := s.Put(ctx, key, []byte(value), opts...)
	if err != nil {
		t.Fatalf("Put %.64q: %v", key, err)
	}
	return revision
}

func wantText(t testing.TB, s *kvstore.Store, key, value string) kvstore.Entry {
	t.Helper()
	e, err := s.Get(t.Context(), key)
	if err != nil || e.Text() != value {
		t.Fatalf("Get %.64q: %.64q (%d bytes), %v; want %.64q", key, e.Text(), e.Len(), err, value)
	}
	return e
}

func wantErrors(t testing.TB, err error, wanted ...error) {
	t.Helper()
	for _, want := range wanted {
		if !errors.Is(err, want) {
			t.Errorf("the error is %v, must be a %v", err, want)
		}
	}
}
