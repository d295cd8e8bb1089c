package kvstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nearkv/nearkv/kvstore"
)

// TestShareKill9 has processes share a Dir and kills the one that serves it, again and again. What comes after must have
// every acknowledged write; an increment that was acknowledged has happened once; and the reads of those who live on must
// not fail. How long nobody could write is logged, beside how long the server needed to start.
//
// NEARKV_SHARE_KILLS is the number of kills, NEARKV_SHARE_KEYS that of the keys in the Dir before the first.
func TestShareKill9(t *testing.T) {
	kills := envInt(t, "NEARKV_SHARE_KILLS", 10)
	if testing.Short() {
		kills = min(kills, 3)
	}
	dir := t.TempDir()
	fillDir(t, dir, envInt(t, "NEARKV_SHARE_KEYS", 1000))
	m := newShareModel(t, dir)
	for i := range m.children {
		m.start(i)
	}
	for range kills {
		m.settle()
		m.kill()
	}
	m.settle()
	m.stop()
	m.verify()
	m.report(kills)
}

func fillDir(t *testing.T, dir string, keys int) {
	t.Helper()
	s, err := kvstore.Open(t.Context(), "share", kvstore.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.PutAll(t.Context(), func(yield func(kvstore.Pair) bool) {
		for i := range keys {
			if !yield(kvstore.Pair{Key: fmt.Sprintf("fill/%07d", i), Value: make([]byte, 100)}) {
				return
			}
		}
	})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
}

// shareLine is one line that a child says.
type shareLine struct {
	Kind     string
	Key      string           `json:",omitempty"` // "put"
	N        int              `json:",omitempty"` // "put" and "increment": what was written
	Revision kvstore.Revision `json:",omitempty"`
	At       time.Time        `json:",omitzero"`
	Start    time.Duration    `json:",omitempty"` // "serving": of the server
	Error    string           `json:",omitempty"` // "failed"
}

const (
	shareServing   = "serving"
	shareReady     = "ready"
	sharePut       = "put"
	shareIncrement = "increment"
	shareUncertain = "uncertain" // an increment of which it is not known
	shareFailed    = "failed"

	shareChildren = 3
	shareCounter  = "counter"
	shareSteps    = 20 // acknowledgements of each child between two kills
)

func (l shareLine) say() {
	text, err := json.Marshal(l)
	if err != nil {
		panic(err)
	}
	_, _ = os.Stdout.Write(append(text, '\n')) // who does not listen any more has seen enough
}

// shareLog says when the child serves.
type shareLog struct{ slog.Handler }

func (h shareLog) Enabled(context.Context, slog.Level) bool { return true }

func (h shareLog) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "start" {
			shareLine{Kind: shareServing, At: r.Time, Start: a.Value.Duration()}.say()
		}
		return true
	})
	return nil
}

// playSharer is a child: it writes and reads until its stdin ends.
func playSharer(args string) error {
	var a struct{ Dir, Name string }
	if err := json.Unmarshal([]byte(args), &a); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := kvstore.Open(ctx, "share", kvstore.Options{Dir: a.Dir, Logger: slog.New(shareLog{slog.DiscardHandler})})
	if err != nil {
		return err
	}
	shareLine{Kind: shareReady}.say()
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1)) // it ends with an error, as it should
		cancel()
	}()
	var work errgroup.Group
	work.Go(func() error { return sharePuts(ctx, s, a.Name) })
	work.Go(func() error { return shareIncrements(ctx, s) })
	work.Go(func() error { return shareReads(ctx, s) })
	err = errors.Join(work.Wait(), s.Close())
	if err != nil {
		shareLine{Kind: shareFailed, Error: err.Error()}.say()
	}
	return err
}

// sharePuts counts up in keys that only this child writes.
func sharePuts(ctx context.Context, s *kvstore.Store, name string) error {
	for n := 1; ctx.Err() == nil; n++ {
		key := fmt.Sprintf("%s/%d", name, n%7)
		revision, err := s.Put(ctx, key, []byte(strconv.Itoa(n)))
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("put: %w", err)
		}
		shareLine{Kind: sharePut, Key: key, N: n, Revision: revision, At: time.Now()}.say()
		time.Sleep(time.Millisecond)
	}
	return nil
}

// shareIncrements counts up in a key that all children write.
func shareIncrements(ctx context.Context, s *kvstore.Store) error {
	for ctx.Err() == nil {
		n, condition := 0, kvstore.WriteOption(kvstore.IfAbsent())
		if e, err := s.Get(ctx, shareCounter); err == nil {
			if n, err = strconv.Atoi(e.Text()); err != nil {
				return err
			}
			condition = kvstore.IfRevision(e.Revision())
		}
		revision, err := s.Put(ctx, shareCounter, []byte(strconv.Itoa(n+1)), condition)
		switch {
		case ctx.Err() != nil, errors.Is(err, kvstore.ErrIndeterminate):
			shareLine{Kind: shareUncertain}.say()
		case err == nil:
			shareLine{Kind: shareIncrement, N: n + 1, Revision: revision, At: time.Now()}.say()
		case !errors.Is(err, kvstore.ErrConflict):
			return fmt.Errorf("increment: %w", err)
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// shareReads reads all the time, whoever serves.
func shareReads(ctx context.Context, s *kvstore.Store) error {
	var last kvstore.Revision
	for ctx.Err() == nil {
		if e, err := s.Get(context.Background(), "fill/0000000"); err != nil || e.Len() != 100 {
			return fmt.Errorf("get: %w", err)
		}
		if e, err := s.Get(context.Background(), shareCounter); err == nil {
			if e.Revision() < last {
				return fmt.Errorf("the counter went from revision %d back to %d", last, e.Revision())
			}
			last = e.Revision()
		}
		time.Sleep(100 * time.Microsecond)
	}
	return nil
}

// shareModel is what the children have said.
type shareModel struct {
	t        *testing.T
	dir      string
	children [shareChildren]*child
	names    [shareChildren]string
	steps    [shareChildren]int // acknowledgements since the last kill
	serving  int
	lines    chan shareSaid
	started  int

	puts       map[string]shareLine // the last one of each key
	increments map[int]bool
	revisions  map[kvstore.Revision]bool
	uncertain  int // increments that may have happened
	acked      int

	killed time.Time       // the last kill; zero: somebody has written since
	needed time.Duration   // by the server to start
	gaps   []time.Duration // from a kill to the next acknowledgement
	beyond []time.Duration // less the start of the server
}

type shareSaid struct {
	child *child // that says it
	slot  int
	line  shareLine
	over  bool
}

func newShareModel(t *testing.T, dir string) *shareModel {
	return &shareModel{
		t: t, dir: dir, serving: -1, lines: make(chan shareSaid, 1000),
		puts: make(map[string]shareLine), increments: make(map[int]bool), revisions: make(map[kvstore.Revision]bool),
	}
}

func (m *shareModel) start(slot int) {
	m.t.Helper()
	m.started++
	m.names[slot] = fmt.Sprintf("child%d", m.started)
	args, err := json.Marshal(struct{ Dir, Name string }{m.dir, m.names[slot]})
	if err != nil {
		m.t.Fatal(err)
	}
	c := startRole(m.t, "sharer", string(args))
	m.children[slot], m.steps[slot] = c, 0
	go func() {
		for c.lines.Scan() {
			var l shareLine
			if err := json.Unmarshal(c.lines.Bytes(), &l); err != nil {
				l = shareLine{Kind: shareFailed, Error: err.Error()}
			}
			m.lines <- shareSaid{child: c, slot: slot, line: l}
		}
		m.lines <- shareSaid{child: c, slot: slot, over: true}
	}()
}

// settle waits until every child has written for a while.
func (m *shareModel) settle() {
	m.t.Helper()
	for slices.Min(m.steps[:]) < shareSteps || m.serving < 0 {
		m.hear(m.next())
	}
}

func (m *shareModel) next() shareSaid {
	m.t.Helper()
	select {
	case said := <-m.lines:
		return said
	case <-time.After(2 * time.Minute): // this is a hang
		m.t.Fatalf("nobody says anything; serving is %d, steps are %v", m.serving, m.steps)
	}
	panic("not reached")
}

func (m *shareModel) hear(said shareSaid) {
	m.t.Helper()
	l := said.line
	switch {
	case said.over:
		m.t.Fatalf("%s has ended by itself: %v", m.names[said.slot], &said.child.stderr)
	case l.Kind == shareFailed:
		m.t.Fatalf("%s: %s", m.names[said.slot], l.Error)
	case l.Kind == shareServing:
		m.serving, m.needed = said.slot, l.Start
	case l.Kind == shareUncertain:
		m.uncertain++
	case l.Kind == sharePut:
		m.puts[l.Key] = l
		m.ack(said)
	case l.Kind == shareIncrement:
		if m.increments[l.N] {
			m.t.Fatalf("two increments to %d were acknowledged", l.N)
		}
		m.increments[l.N] = true
		m.ack(said)
	}
}

func (m *shareModel) ack(said shareSaid) {
	m.t.Helper()
	if m.revisions[said.line.Revision] {
		m.t.Fatalf("revision %d was given twice: %+v", said.line.Revision, said.line)
	}
	m.revisions[said.line.Revision] = true
	m.acked++
	m.steps[said.slot]++
	if !m.killed.IsZero() && m.serving >= 0 && said.line.At.After(m.killed) {
		gap := said.line.At.Sub(m.killed)
		m.gaps, m.beyond = append(m.gaps, gap), append(m.beyond, gap-m.needed)
		m.killed = time.Time{}
	}
}

// kill kills the child that serves, at any moment, and starts another one in its place.
func (m *shareModel) kill() {
	m.t.Helper()
	for until := time.After(rand.N(20 * time.Millisecond)); until != nil; {
		select {
		case said := <-m.lines:
			m.hear(said)
		case <-until:
			until = nil
		}
	}
	slot := m.serving
	c := m.children[slot]
	if err := c.cmd.Process.Kill(); err != nil {
		m.t.Fatal(err)
	}
	killed := time.Now()
	for { // what it said before, and what others say meanwhile
		said := m.next()
		if said.child == c && said.over {
			break
		}
		if said.child != c && said.line.Kind == shareServing {
			m.killed = killed
		}
		m.hear(said)
	}
	_ = c.cmd.Wait() // its error is the kill
	m.uncertain++    // it may have been incrementing
	m.killed = killed
	if m.serving == slot {
		m.serving = -1
	}
	m.steps = [shareChildren]int{}
	m.start(slot)
}

// stop ends the children, the one that serves first.
func (m *shareModel) stop() {
	m.t.Helper()
	for i := range m.children {
		c := m.children[(m.serving+i)%shareChildren]
		_ = c.in.Close()
		for {
			said := m.next()
			if said.child == c && said.over {
				break
			}
			m.hear(said)
		}
		if err := c.cmd.Wait(); err != nil {
			m.t.Fatalf("a child ended with %v; stderr: %s", err, &c.stderr)
		}
	}
}

// verify compares what the directory has with what was acknowledged.
func (m *shareModel) verify() {
	m.t.Helper()
	s, err := kvstore.Open(m.t.Context(), "share", kvstore.Options{Dir: m.dir, Exclusive: true})
	if err != nil {
		m.t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for key, l := range m.puts {
		e, err := s.Get(m.t.Context(), key)
		if err != nil {
			m.t.Fatalf("%s: %v", key, err)
		}
		n, err := strconv.Atoi(e.Text())
		if err != nil || n < l.N || (n == l.N && e.Revision() != l.Revision) {
			m.t.Errorf("%s is %q with revision %d, acknowledged was %d with %d", key, e.Text(), e.Revision(), l.N, l.Revision)
		}
	}
	e, err := s.Get(m.t.Context(), shareCounter)
	if err != nil {
		m.t.Fatal(err)
	}
	n, err := strconv.Atoi(e.Text())
	if err != nil || n < len(m.increments) || n > len(m.increments)+m.uncertain {
		m.t.Errorf("the counter is %q after %d increments and %d that may have happened", e.Text(), len(m.increments), m.uncertain)
	}
}

func (m *shareModel) report(kills int) {
	if len(m.gaps) == 0 {
		m.t.Fatal("nobody took over: this has tested nothing")
	}
	slices.Sort(m.gaps)
	slices.Sort(m.beyond)
	at := func(all []time.Duration, q float64) time.Duration {
		return all[int(q*float64(len(all)-1))].Round(time.Millisecond)
	}
	m.t.Logf("%d kills, %d writes acknowledged, %d increments; without writes p50 %v, p99 %v, beyond the start of the server p50 %v, p99 %v, most %v",
		kills, m.acked, len(m.increments), at(m.gaps, 0.5), at(m.gaps, 0.99), at(m.beyond, 0.5), at(m.beyond, 0.99), at(m.beyond, 1))
}
