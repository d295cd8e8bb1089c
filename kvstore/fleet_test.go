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

// A fleet is several processes with a Store each, that write and read all the time while the test kills and starts them.
// What it must come to: every acknowledged write is there; an increment that was acknowledged has happened once; no
// revision was given twice; and the reads of those who live have not failed.

// fleetLine is one line that a child says.
type fleetLine struct {
	Kind     string
	Key      string           `json:",omitempty"` // "put"
	N        int              `json:",omitempty"` // "put" and "increment": what was written
	Revision kvstore.Revision `json:",omitempty"`
	At       time.Time        `json:",omitzero"`
	Start    time.Duration    `json:",omitempty"` // "serving": of the server
	Error    string           `json:",omitempty"` // "failed"
}

const (
	fleetServing   = "serving"
	fleetReady     = "ready"
	fleetPut       = "put"
	fleetIncrement = "increment"
	fleetUncertain = "uncertain" // an increment of which it is not known
	fleetFailed    = "failed"

	fleetChildren = 3
	fleetCounter  = "counter"
	fleetSteps    = 20 // acknowledgements of each child between two kills
)

func (l fleetLine) say() {
	text, err := json.Marshal(l)
	if err != nil {
		panic(err)
	}
	_, _ = os.Stdout.Write(append(text, '\n')) // who does not listen any more has seen enough
}

// fleetLog says when the child serves.
type fleetLog struct{ slog.Handler }

func (h fleetLog) Enabled(context.Context, slog.Level) bool { return true }

func (h fleetLog) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "start" {
			fleetLine{Kind: fleetServing, At: r.Time, Start: a.Value.Duration()}.say()
		}
		return true
	})
	return nil
}

// fleetArgs are those of a child.
type fleetArgs struct {
	Name, Dir string
	Voter     string            // "": there is no cluster
	Voters    map[string]string // addresses
}

func (a fleetArgs) options() kvstore.Options {
	opts := kvstore.Options{Dir: a.Dir, WriteTimeout: -1} // a cluster may take longer on a busy machine
	if a.Voter != "" {
		opts.Cluster = &kvstore.Cluster{Name: "test", Voter: a.Voter, Voters: a.Voters, Secret: "a secret of the test"}
	}
	return opts
}

// playFleet is a child: it writes and reads until its stdin ends.
func playFleet(args string) error {
	var a fleetArgs
	if err := json.Unmarshal([]byte(args), &a); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	opts := a.options()
	opts.Logger = slog.New(fleetLog{slog.DiscardHandler})
	s, err := kvstore.Open(ctx, "fleet", opts)
	if err != nil {
		return err
	}
	fleetLine{Kind: fleetReady}.say()
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1)) // it ends with an error, as it should
		cancel()
	}()
	var work errgroup.Group
	work.Go(func() error { return fleetPuts(ctx, s, a.Name) })
	work.Go(func() error { return fleetIncrements(ctx, s) })
	work.Go(func() error { return fleetReads(ctx, s) })
	err = errors.Join(work.Wait(), s.Close())
	if err != nil {
		fleetLine{Kind: fleetFailed, Error: err.Error()}.say()
	}
	return err
}

// fleetPuts counts up in keys that only this child writes.
func fleetPuts(ctx context.Context, s *kvstore.Store, name string) error {
	for n := 1; ctx.Err() == nil; n++ {
		key := fmt.Sprintf("%s/%d", name, n%7)
		revision, err := s.Put(ctx, key, []byte(strconv.Itoa(n)))
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("put: %w", err)
		}
		fleetLine{Kind: fleetPut, Key: key, N: n, Revision: revision, At: time.Now()}.say()
		time.Sleep(time.Millisecond)
	}
	return nil
}

// fleetIncrements counts up in a key that all children write.
func fleetIncrements(ctx context.Context, s *kvstore.Store) error {
	for ctx.Err() == nil {
		n, condition := 0, kvstore.WriteOption(kvstore.IfAbsent())
		if e, err := s.Get(ctx, fleetCounter); err == nil {
			if n, err = strconv.Atoi(e.Text()); err != nil {
				return err
			}
			condition = kvstore.IfRevision(e.Revision())
		}
		revision, err := s.Put(ctx, fleetCounter, []byte(strconv.Itoa(n+1)), condition)
		switch {
		case ctx.Err() != nil, errors.Is(err, kvstore.ErrIndeterminate):
			fleetLine{Kind: fleetUncertain}.say()
		case err == nil:
			fleetLine{Kind: fleetIncrement, N: n + 1, Revision: revision, At: time.Now()}.say()
		case !errors.Is(err, kvstore.ErrConflict):
			return fmt.Errorf("increment: %w", err)
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// fleetReads reads all the time, whoever serves.
func fleetReads(ctx context.Context, s *kvstore.Store) error {
	var last kvstore.Revision
	for ctx.Err() == nil {
		if _, err := s.Get(context.Background(), "fill/0000000"); err != nil {
			return fmt.Errorf("get: %w", err)
		}
		if e, err := s.Get(context.Background(), fleetCounter); err == nil {
			if e.Revision() < last {
				return fmt.Errorf("the counter went from revision %d back to %d", last, e.Revision())
			}
			last = e.Revision()
		}
		time.Sleep(100 * time.Microsecond)
	}
	return nil
}

// fleet is what the children have said.
type fleet struct {
	t        *testing.T
	place    func(slot int) fleetArgs // without the name
	children [fleetChildren]*child
	names    [fleetChildren]string
	steps    [fleetChildren]int // acknowledgements since the last kill
	serving  int                // the last one that began to; -1: not known
	starts   []time.Duration    // of the servers
	lines    chan fleetSaid
	started  int

	puts       map[string]fleetLine // the last one of each key
	increments map[int]bool
	revisions  map[kvstore.Revision]bool
	uncertain  int // increments that may have happened
	acked      int

	last    time.Time     // the newest acknowledgement
	longest time.Duration // between two of them

	killed time.Time       // the last kill; zero: somebody has written since
	gaps   []time.Duration // from a kill to the next acknowledgement
}

type fleetSaid struct {
	child *child // that says it
	slot  int
	line  fleetLine
	over  bool
}

func newFleet(t *testing.T, place func(slot int) fleetArgs) *fleet {
	return &fleet{
		t: t, place: place, serving: -1, lines: make(chan fleetSaid, 1000),
		puts: make(map[string]fleetLine), increments: make(map[int]bool), revisions: make(map[kvstore.Revision]bool),
	}
}

func (m *fleet) start(slot int) {
	m.t.Helper()
	m.started++
	m.names[slot] = fmt.Sprintf("child%d", m.started)
	a := m.place(slot)
	a.Name = m.names[slot]
	args, err := json.Marshal(a)
	if err != nil {
		m.t.Fatal(err)
	}
	c := startRole(m.t, "fleet", string(args))
	m.children[slot], m.steps[slot] = c, 0
	go func() {
		for c.lines.Scan() {
			var l fleetLine
			if err := json.Unmarshal(c.lines.Bytes(), &l); err != nil {
				l = fleetLine{Kind: fleetFailed, Error: err.Error()}
			}
			m.lines <- fleetSaid{child: c, slot: slot, line: l}
		}
		m.lines <- fleetSaid{child: c, slot: slot, over: true}
	}()
}

// settle waits until every child has written for a while.
func (m *fleet) settle() {
	m.t.Helper()
	for !m.settled() {
		m.hear(m.next())
	}
}

func (m *fleet) settled() bool {
	for slot, c := range m.children {
		if c != nil && m.steps[slot] < fleetSteps {
			return false
		}
	}
	return true
}

func (m *fleet) next() fleetSaid {
	m.t.Helper()
	select {
	case said := <-m.lines:
		return said
	case <-time.After(2 * time.Minute): // this is a hang
		m.t.Fatalf("nobody says anything; serving is %d, steps are %v", m.serving, m.steps)
	}
	panic("not reached")
}

func (m *fleet) hear(said fleetSaid) {
	m.t.Helper()
	l := said.line
	switch {
	case said.over:
		m.t.Fatalf("%s has ended by itself: %v", m.names[said.slot], &said.child.stderr)
	case l.Kind == fleetFailed:
		m.t.Fatalf("%s: %s", m.names[said.slot], l.Error)
	case l.Kind == fleetServing:
		m.serving = said.slot
		m.starts = append(m.starts, l.Start)
	case l.Kind == fleetUncertain:
		m.uncertain++
	case l.Kind == fleetPut:
		m.puts[l.Key] = l
		m.ack(said)
	case l.Kind == fleetIncrement:
		if m.increments[l.N] {
			m.t.Fatalf("two increments to %d were acknowledged", l.N)
		}
		m.increments[l.N] = true
		m.ack(said)
	}
}

func (m *fleet) ack(said fleetSaid) {
	m.t.Helper()
	if m.revisions[said.line.Revision] {
		m.t.Fatalf("revision %d was given twice: %+v", said.line.Revision, said.line)
	}
	m.revisions[said.line.Revision] = true
	m.acked++
	if at := said.line.At; at.After(m.last) {
		if !m.last.IsZero() {
			m.longest = max(m.longest, at.Sub(m.last))
		}
		m.last = at
	}
	m.steps[said.slot]++
	if !m.killed.IsZero() && said.line.At.After(m.killed) && m.children[said.slot] == said.child {
		m.gaps = append(m.gaps, said.line.At.Sub(m.killed))
		m.killed = time.Time{}
	}
}

// hearFor listens for a while.
func (m *fleet) hearFor(d time.Duration) {
	m.t.Helper()
	for until := time.After(d); ; {
		select {
		case said := <-m.lines:
			m.hear(said)
		case <-until:
			return
		}
	}
}

// kill kills a child at any moment.
func (m *fleet) kill(slot int) {
	m.t.Helper()
	m.hearFor(rand.N(20 * time.Millisecond))
	c := m.children[slot]
	if err := c.cmd.Process.Kill(); err != nil {
		m.t.Fatal(err)
	}
	m.killed = time.Now()
	if m.serving == slot {
		m.serving = -1
	}
	m.hearOut(c)
	_ = c.cmd.Wait() // its error is the kill
	m.uncertain++    // it may have been incrementing
	m.children[slot], m.steps = nil, [fleetChildren]int{}
}

// hearOut listens until a child has said its last.
func (m *fleet) hearOut(c *child) {
	m.t.Helper()
	for said := m.next(); said.child != c || !said.over; said = m.next() {
		m.hear(said)
	}
}

// end has a child close its Store.
func (m *fleet) end(slot int) {
	m.t.Helper()
	c := m.children[slot]
	_ = c.in.Close()
	m.hearOut(c)
	if err := c.cmd.Wait(); err != nil {
		m.t.Fatalf("%s ended with %v; stderr: %s", m.names[slot], err, &c.stderr)
	}
	m.children[slot], m.steps = nil, [fleetChildren]int{}
}

// verify compares what a Store has with what was acknowledged.
func (m *fleet) verify(s *kvstore.Store) {
	m.t.Helper()
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
	e, err := s.Get(m.t.Context(), fleetCounter)
	if err != nil {
		m.t.Fatal(err)
	}
	n, err := strconv.Atoi(e.Text())
	if err != nil || n < len(m.increments) || n > len(m.increments)+m.uncertain {
		m.t.Errorf("the counter is %q after %d increments and %d that may have happened", e.Text(), len(m.increments), m.uncertain)
	}
}

func quantile(all []time.Duration, q float64) time.Duration {
	slices.Sort(all)
	return all[int(q*float64(len(all)-1))].Round(time.Millisecond)
}
