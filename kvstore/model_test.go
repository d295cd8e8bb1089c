package kvstore_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
)

// Two replicas of one namespace, on one server, do what a plain map does.
func TestModel(t *testing.T) {
	checkModel(t, 8_000, func(t *testing.T, rt *rapid.T) *world {
		server := kvstoretest.NewServer(t, "")
		w := newWorld(rt)
		for _, name := range []string{"A", "B"} {
			w.add(name, kvstore.Options{Conn: server.Conn(t), Memory: true})
		}
		return w
	})
}

// One Store with a server of its own does too, and finds all again in its Dir
// when it is opened again.
func TestModelDir(t *testing.T) {
	checkModel(t, 3_000, func(t *testing.T, rt *rapid.T) *world {
		w := newWorld(rt)
		w.add("D", kvstore.Options{Dir: t.TempDir(), Exclusive: true})
		return w
	})
}

// checkModel runs random scripts, each in a bubble of virtual time, until they
// have made at least so many steps together.
func checkModel(t *testing.T, least int, build func(*testing.T, *rapid.T) *world) {
	t.Helper()
	setFlag(t, "rapid.checks", "100", "10")
	setFlag(t, "rapid.steps", "30", "100")
	if testing.Short() {
		least /= 10
	}
	steps, virtual := 0, time.Duration(0)
	for steps < least {
		rapid.Check(t, func(rt *rapid.T) {
			inBubble(t, func(t *testing.T) {
				began := time.Now()
				w := build(t, rt)
				defer w.end()
				rt.Repeat(w.actions())
				w.finish()
				steps += w.steps
				virtual += time.Since(began)
			})
		})
	}
	t.Logf("%d steps", steps)
	t.Logf("soak: operations=%d virtual_seconds=%d", steps, int(virtual.Seconds()))
}

// setFlag changes a flag of rapid for one test, unless the user has.
func setFlag(t *testing.T, name, standard, value string) {
	t.Helper()
	f := flag.Lookup(name)
	if f.Value.String() != standard {
		return
	}
	t.Cleanup(func() { _ = f.Value.Set(standard) })
	if err := f.Value.Set(value); err != nil {
		t.Fatal(err)
	}
}

// inBubble runs one check in a bubble. A check ends with a panic, which has to
// leave the bubble by hand.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	var end any
	kvstoretest.Run(t, func(t *testing.T) {
		defer func() { end = recover() }()
		f(t)
	})
	// rapid tells failures by the place of the panic: these two are not the same.
	switch {
	case end == nil:
	case fmt.Sprintf("%T", end) == "rapid.invalidData":
		panic(end)
	default:
		panic(end)
	}
}

// fail ends a check. Its message must be the same when the check is repeated, or
// rapid takes it for another failure; what differs goes into the log.
func (w *world) fail(format string, args ...any) {
	w.rt.Logf("%v: "+format, append([]any{w.clock()}, args...)...)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rt.Logf("the stores say:\n%s", w.journal.String())
	w.rt.Fatal(format)
}

// put is one write as the model remembers it.
type put struct {
	key      string
	value    string
	metadata string    // "": none
	expires  time.Time // zero: never
	revision kvstore.Revision
	from, to time.Time // when it was written
}

func (p *put) visible(now time.Time) bool {
	return p != nil && (p.expires.IsZero() || now.Before(p.expires))
}

func (p *put) String() string {
	return fmt.Sprintf("%d: %q, %d bytes, %s, until %v", p.revision, p.key, len(p.value), p.metadata, p.expires)
}

// world is the replicas and what they ought to hold.
type world struct {
	rt       *rapid.T
	ctx      context.Context
	keys     []string
	replicas []*replica

	now     map[string]*put // the last write of each key, nil after a deletion
	history map[kvstore.Revision]*put
	last    kvstore.Revision // of the last put
	deleted bool             // there was a deletion after it
	settled bool             // all replicas have applied all
	writes  int
	steps   int

	mu      sync.Mutex
	journal strings.Builder // what the Stores have to say
}

// Write implements io.Writer for the journal.
func (w *world) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.journal.Write(line)
}

// replica is a Store that can be closed and opened again.
type replica struct {
	name    string
	options kvstore.Options
	store   *kvstore.Store // nil: closed
	seen    map[string]kvstore.Revision
	folds   []*fold
}

func newWorld(rt *rapid.T) *world {
	return &world{
		rt: rt, ctx: context.Background(), keys: drawKeys(rt), settled: true,
		now: make(map[string]*put), history: make(map[kvstore.Revision]*put),
	}
}

// add opens one more replica.
func (w *world) add(name string, options kvstore.Options) {
	r := &replica{name: name, options: options}
	w.replicas = append(w.replicas, r)
	w.open(r)
}

func (w *world) open(r *replica) {
	r.options.Logger = slog.New(slog.NewTextHandler(w, nil)).With("replica", r.name)
	r.options.CacheBytes = drawCacheBytes(w.rt)
	r.options.CheckInterval = rapid.SampledFrom([]time.Duration{time.Minute, 10 * time.Minute, time.Hour}).Draw(w.rt, "check interval")
	w.rt.Logf("%v: open %s with CacheBytes %d, CheckInterval %v", w.clock(), r.name, r.options.CacheBytes, r.options.CheckInterval)
	store, err := kvstore.Open(w.ctx, "model", r.options)
	if err != nil {
		w.fail("open: %v", err)
	}
	r.store, r.seen = store, make(map[string]kvstore.Revision)
	w.compare(r)
	w.watch(r)
}

// close closes a replica, whose watchers have told all by then.
func (w *world) close(r *replica) {
	w.rt.Logf("%v: close %s", w.clock(), r.name)
	w.settle()
	w.checkFolds(r)
	if err := r.store.Close(); err != nil {
		w.fail("close: %v", err)
	}
	for _, f := range r.folds {
		f.closed(w)
	}
	r.store, r.folds = nil, nil
}

// end closes what a failed check has left open.
func (w *world) end() {
	for _, r := range w.replicas {
		if r.store != nil {
			_ = r.store.Close()
		}
		for _, f := range r.folds {
			f.stop()
			<-f.done // time stands still when this goroutine ends
		}
	}
}

// finish compares everything once more, at rest.
func (w *world) finish() {
	for _, r := range w.replicas {
		if r.store == nil {
			w.open(r)
		}
	}
	w.settle()
	for _, r := range w.replicas {
		w.close(r)
	}
}

// clock is the virtual time since the bubble began.
func (w *world) clock() time.Duration {
	return time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC))
}

// settle waits until the replicas have applied everything and nothing happens
// any more.
func (w *world) settle() {
	w.eachOpen(w.catchUp)
	synctest.Wait()
	w.settled = true
	w.eachOpen(w.compare)
	w.rest()
	w.eachOpen(w.checkHealth)
}

func (w *world) eachOpen(f func(*replica)) {
	for _, r := range w.replicas {
		if r.store != nil {
			f(r)
		}
	}
}

// rest waits until what has expired is told and counted, which may be a
// millisecond late.
func (w *world) rest() {
	const late = 2 * time.Millisecond
	for !maps.Equal(w.visible(time.Now()), w.visible(time.Now().Add(-late))) {
		time.Sleep(late)
	}
	synctest.Wait()
}

// catchUp waits until a replica has applied everything.
func (w *world) catchUp(r *replica) {
	if w.last != 0 && !w.deleted {
		// AtLeast does it without asking the log.
		_, err := r.store.GetAll(w.ctx, w.keys, kvstore.AtLeast(w.last))
		if err != nil {
			w.fail("%s: AtLeast(%d): %v", r.name, w.last, err)
		}
		return
	}
	if err := r.store.Sync(w.ctx); err != nil {
		w.fail("%s: Sync: %v", r.name, err)
	}
}

// visible returns the puts that are there at one moment, by key.
func (w *world) visible(now time.Time) map[string]*put {
	visible := make(map[string]*put)
	for key, p := range w.now {
		if p.visible(now) {
			visible[key] = p
		}
	}
	return visible
}

// fill makes the value of the nth write.
func fill(n, size int) []byte {
	value := make([]byte, 0, size+16)
	for len(value) < size {
		value = append(strconv.AppendInt(append(value, '#'), int64(n), 10), byte(len(value)>>8))
	}
	return value[:size]
}
