package kvstore

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/nearkv/nearkv/codec"
)

var (
	faultSeed = flag.Uint64("faultseed", 1, "seed of the tests with random faults")
	faultCuts = flag.Int("faultcuts", 1000, "lost connections in TestFaults")
)

func putRecord(value string) codec.Record { return codec.Record{Value: []byte(value)} }

// wire gives out connections to a server. They can be cut, at any byte; they
// can go deaf, which loses what the server says; they can stall, which holds
// back what the client says.
type wire struct {
	mu    sync.Mutex
	to    nats.InProcessConnProvider
	down  bool
	limit func() int   // bytes after which the next connection breaks, in each direction; nil: never
	delay atomic.Int64 // of what the server says, in nanoseconds
	conns []*wireConn
	cuts  int
}

type wireConn struct {
	net.Conn
	wire *wire

	mu          sync.Mutex
	limited     bool
	read, write int // bytes left, if limited
	deaf, cut   bool
	stalled     bool
	ready       bool   // the client has connected; only Read uses it
	held        []byte // of a stalled connection
}

// InProcessConn implements nats.InProcessConnProvider.
func (w *wire) InProcessConn() (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return nil, net.ErrClosed
	}
	conn, err := w.to.InProcessConn()
	if err != nil {
		return nil, err
	}
	c := &wireConn{Conn: conn, wire: w}
	if w.limit != nil {
		c.limited, c.read, c.write = true, w.limit(), w.limit()
	}
	w.conns = append(w.conns, c)
	return c, nil
}

// point makes the next connections go to another server.
func (w *wire) point(to nats.InProcessConnProvider) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.to = to
}

func (w *wire) setLimit(limit func() int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit = limit
}

// setDown cuts the connections and refuses new ones, or accepts them again.
func (w *wire) setDown(down bool) {
	w.mu.Lock()
	w.down = down
	w.mu.Unlock()
	if down {
		w.cut()
	}
}

func (w *wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cuts
}

// each calls do for every connection, under its lock.
func (w *wire) each(do func(*wireConn)) {
	w.mu.Lock()
	conns := w.conns
	w.mu.Unlock()
	for _, c := range conns {
		c.mu.Lock()
		do(c)
		c.mu.Unlock()
	}
}

func (w *wire) cut() {
	w.mu.Lock()
	conns := w.conns
	w.conns = nil
	w.mu.Unlock()
	for _, c := range conns {
		c.breakOff()
	}
}

// deafen loses what the server says from now on, until the connection is cut.
func (w *wire) deafen() { w.each(func(c *wireConn) { c.deaf = true }) }

// stall holds back what the client says from now on.
func (w *wire) stall() { w.each(func(c *wireConn) { c.stalled = true }) }

// resume lets go of it.
func (w *wire) resume() {
	w.each(func(c *wireConn) {
		c.stalled = false
		_, _ = c.Conn.Write(c.held) // an error is one of the connection, which its owner sees
		c.held = nil
	})
}

func (c *wireConn) breakOff() {
	c.mu.Lock()
	first := !c.cut
	c.cut = true
	c.mu.Unlock()
	if first {
		_ = c.Conn.Close() // its owner may have closed it
		c.wire.mu.Lock()
		c.wire.cuts++
		c.wire.mu.Unlock()
	}
}

// spend takes n bytes off a budget, or what is left of it.
func (c *wireConn) spend(budget *int, n int) (most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.limited {
		return n
	}
	most = min(n, *budget)
	*budget -= most
	return most
}

func (c *wireConn) isDeaf() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deaf
}

func (c *wireConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || n == 0 {
			return n, err
		}
		// Only here: a client holds a lock while it writes, and while it connects,
		// and in a bubble the clock stands still while anybody waits for a lock.
		if c.ready {
			time.Sleep(time.Duration(c.wire.delay.Load()))
		}
		c.ready = c.ready || bytes.Contains(p[:n], []byte("PONG"))
		if c.isDeaf() {
			continue
		}
		most := c.spend(&c.read, n)
		if most < n {
			c.breakOff()
		}
		if most == 0 {
			return 0, net.ErrClosed
		}
		return most, nil
	}
}

func (c *wireConn) Write(p []byte) (int, error) {
	if c.hold(p) {
		return len(p), nil
	}
	most := c.spend(&c.write, len(p))
	n, err := c.Conn.Write(p[:most])
	if most < len(p) && err == nil {
		c.breakOff()
		err = net.ErrClosed
	}
	return n, err
}

// hold keeps what a stalled connection is to send.
func (c *wireConn) hold(p []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stalled {
		c.held = append(c.held, p...)
	}
	return c.stalled
}

// faults is a lab with replicas that write, and everything that is known of what
// they have written.
type faults struct {
	*lab
	stores  []*Store
	wires   []*wire
	looks   []*onlooker // two for each Store, the second one slow
	writers int
	stopped chan struct{}

	mu       sync.Mutex
	unique   map[string]seen             // keys that are written once
	private  map[string]belief           // keys that one writer writes
	winners  map[string]map[Revision]int // conditional writes that succeeded, by the revision that they replaced
	counted  int                         // increments that succeeded
	maybe    int                         // increments of which nobody knows
	holders  int                         // of the lock
	outcomes map[string]int
}

// onceKeys is the prefix of keys that are written exactly once.
const onceKeys = "once"

// belief is what a key is known to be. Somebody who was told ErrIndeterminate
// finds out before going on.
type belief struct {
	value    string // "": there is none
	revision Revision
	expires  time.Time
}

func (b belief) visible() bool {
	return b.value != "" && (b.expires.IsZero() || time.Now().Before(b.expires))
}

// faultWriter is one of them.
type faultWriter struct {
	*faults
	id     int
	store  *Store
	wire   *wire
	random *rand.Rand
	writes int
}

// A thousand and more connections are cut, at any moment and at any byte, go
// deaf or stall, while several replicas write the same and different keys: plain,
// expiring, conditionally. No acknowledged write is lost or happens twice, of
// those that race for a revision one wins, and every replica and everybody who
// watches one ends up with what the log holds, without ever going back.
func TestFaults(t *testing.T) {
	t.Logf("-faultseed=%d", *faultSeed)
	inLab(t, func(l *lab) {
		began := time.Now()
		f := &faults{
			lab: l, stopped: make(chan struct{}),
			unique: make(map[string]seen), private: make(map[string]belief),
			winners: make(map[string]map[Revision]int), outcomes: make(map[string]int),
		}
		var writers sync.WaitGroup
		for id := range 3 {
			s, w := l.open(Options{CacheBytes: []int64{0, 200, -1}[id]})
			f.stores, f.wires = append(f.stores, s), append(f.wires, w)
			keys := []string{"shared0", "counter", "lock", "p1.0", "p5.1", "p9.2"}
			f.looks = append(f.looks, l.look(s, true, keys...), l.lookSlowly(s))
			w.delay.Store(int64(3 * time.Millisecond))
			for range 4 {
				f.writers++
				fw := &faultWriter{faults: f, id: f.writers, store: s, wire: w, random: f.newRandom(100 + f.writers)}
				writers.Go(fw.run)
			}
		}
		f.harm()
		close(f.stopped)
		f.heal()
		writers.Wait()
		time.Sleep(time.Minute) // everything that expires has expired
		f.judge()
		operations := 0
		for _, n := range f.outcomes {
			operations += n
		}
		t.Logf("soak: cuts=%d operations=%d virtual_seconds=%d", f.cuts(), operations, int(time.Since(began).Seconds()))
	})
}

func (f *faults) newRandom(stream int) *rand.Rand {
	return rand.New(rand.NewPCG(*faultSeed, uint64(stream)))
}

func (f *faults) cuts() (n int) {
	for _, w := range f.wires {
		n += w.count()
	}
	return n
}

// harm breaks connections until there were enough of them.
func (f *faults) harm() {
	random, limits := f.newRandom(10), f.newRandom(11)
	var limitsMu sync.Mutex
	for f.cuts() < *faultCuts {
		w := f.wires[random.IntN(len(f.wires))]
		pause := func(most int) { time.Sleep(time.Duration(random.IntN(most)) * time.Millisecond) }
		switch random.IntN(12) {
		case 0:
			for _, w := range f.wires {
				w.cut()
			}
		case 1, 2, 3:
			w.cut()
		case 4, 5, 6: // from now on, this one breaks in the middle of something
			most := 500 + random.IntN(20_000)
			w.setLimit(func() int {
				limitsMu.Lock()
				defer limitsMu.Unlock()
				return 500 + limits.IntN(most) // a connection takes about 450 bytes to begin
			})
			w.cut()
		case 7:
			w.setLimit(nil)
		case 8:
			w.deafen()
			pause([]int{20, 200, 8000}[random.IntN(3)])
			w.cut()
		case 9:
			w.stall()
			pause(8000)
			w.resume()
		case 10:
			w.stall()
			pause([]int{20, 200, 8000}[random.IntN(3)])
			w.cut()
		case 11:
			w.setDown(true)
			pause(10_000)
			w.setDown(false)
		}
		pause(300)
	}
}

func (f *faults) heal() {
	for _, w := range f.wires {
		w.setLimit(nil)
		w.setDown(false)
		w.cut()
	}
}

// judge compares everybody with the log, and the log with what was acknowledged.
func (f *faults) judge() {
	synctest.Wait()
	for i, s := range f.stores {
		if stats := s.Stats(); stats.Resyncs != 1 || stats.Foreign != 0 || stats.Damaged != 0 {
			f.t.Errorf("replica %d doubted the log: %+v", i, stats)
		}
		if status := s.Status(); status.State != Live || status.Lag() != 0 {
			f.t.Errorf("replica %d is %+v", i, status)
		}
		f.agree(s, f.looks[2*i], f.looks[2*i+1])
	}
	log := f.log()
	for key, want := range f.unique {
		if log[key] != want {
			f.t.Errorf("%q is %v in the log, and was acknowledged as %v", key, log[key], want)
		}
		for i, o := range f.looks {
			if n := o.puts[key]; n < 1 || n > 1 && strings.HasPrefix(key, onceKeys) {
				f.t.Errorf("watcher %d was told of %q %d times", i, key, n)
			}
		}
	}
	for key, b := range f.private {
		var want seen
		if b.visible() {
			want = seen{b.revision, b.value}
		}
		if log[key] != want {
			f.t.Errorf("%q is %v in the log, and should be %v", key, log[key], want)
		}
	}
	count, _ := strconv.Atoi(log["counter"].value)
	if count < f.counted || count > f.counted+f.maybe || f.counted == 0 {
		f.t.Errorf("the counter is at %d after %d increments and %d that nobody knows of", count, f.counted, f.maybe)
	}
	f.t.Logf("%d lost connections, log at %d, counter at %d = %d + 0..%d", f.cuts(), f.stores[0].Status().Applied, count, f.counted, f.maybe)
	for _, name := range slices.Sorted(maps.Keys(f.outcomes)) {
		f.t.Logf("%6d %s", f.outcomes[name], name)
	}
}

func (w *faultWriter) run() {
	for {
		select {
		case <-w.stopped:
			return
		case <-time.After(time.Duration(w.random.IntN(60)) * 5 * time.Millisecond): // often several at once
		}
		w.writes++
		switch w.random.IntN(10) {
		case 0, 1:
			w.writeUnique()
		case 2:
			w.writeShared()
		case 3:
			w.increment()
		case 4:
			w.lockAndUnlock()
		default:
			w.writePrivate()
		}
	}
}

// patience is for how long a write is tried: now and then not for long.
func (w *faultWriter) patience() (context.Context, context.CancelFunc) {
	d := time.Hour
	if w.random.IntN(10) == 0 {
		d = time.Duration(w.random.IntN(3000)) * time.Millisecond
	}
	return context.WithTimeout(w.ctx, d)
}

// put puts, and accounts for it.
func (w *faultWriter) put(kind, key, value string, opts ...WriteOption) (Revision, error) {
	ctx, cancel := w.patience()
	defer cancel()
	revision, err := w.store.Put(ctx, key, []byte(value), opts...)
	w.account(kind, err)
	return revision, err
}

func (w *faultWriter) delete(kind, key string, opts ...DeleteOption) error {
	ctx, cancel := w.patience()
	defer cancel()
	err := w.store.Delete(ctx, key, opts...)
	w.account(kind, err)
	return err
}

func (w *faultWriter) account(kind string, err error) {
	outcome := "nil"
	for _, target := range []error{ErrIndeterminate, ErrExpired, ErrConflict, ErrUnavailable} {
		if errors.Is(err, target) {
			outcome = target.Error()
			break
		}
	}
	if outcome == "nil" && err != nil {
		w.t.Errorf("%s: %v", kind, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outcomes[kind+": "+outcome]++
}

// certain waits until nothing of this writer is on its way any more, and
// returns what the key is then.
func (w *faultWriter) certain(key string) (Entry, bool) {
	w.wire.cut()
	time.Sleep(time.Second)
	w.must(w.store.Sync(w.ctx))
	for {
		e, err := w.store.Get(w.ctx, key)
		if err == nil || errors.Is(err, ErrNotFound) {
			return e, err == nil
		}
		w.t.Errorf("Get of %q: %v", key, err)
	}
}

func (w *faultWriter) value() string { return fmt.Sprintf("%d.%d", w.id, w.writes) }

// writeUnique writes a key that nobody writes again.
func (w *faultWriter) writeUnique() {
	key, value := fmt.Sprintf("%s%d.%d", onceKeys, w.id, w.writes), w.value()
	opts := []WriteOption{IfAbsent()}
	if w.random.IntN(2) == 0 {
		key, opts = "u"+key, nil // can happen twice before it is acknowledged
	}
	revision, err := w.put("unique", key, value, opts...)
	if errors.Is(err, ErrIndeterminate) {
		e, found := w.certain(key)
		if !found {
			return
		}
		revision, err = e.Revision(), nil
	}
	if errors.Is(err, ErrConflict) {
		w.t.Errorf("%q: %v", key, err)
	}
	if err == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.unique[key] = seen{revision, value}
	}
}

// writeShared writes what others write too.
func (w *faultWriter) writeShared() {
	key := fmt.Sprint("shared", w.random.IntN(3))
	switch w.random.IntN(4) {
	case 0:
		_ = w.delete("shared", key) // accounted for
	case 1:
		_, _ = w.put("shared", key, w.value(), WithTTL(time.Duration(1+w.random.IntN(5))*time.Second))
	default:
		_, _ = w.put("shared", key, w.value())
	}
}

// won notes that a conditional write has replaced a revision.
func (w *faultWriter) won(key string, replaced Revision) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.winners[key] == nil {
		w.winners[key] = make(map[Revision]int)
	}
	w.winners[key][replaced]++
	if n := w.winners[key][replaced]; n > 1 {
		w.t.Errorf("%d writers have replaced revision %d of %q", n, replaced, key)
	}
}

// increment adds one to a counter, or not.
func (w *faultWriter) increment() {
	for {
		count, condition := 0, IfAbsent()
		e, err := w.store.Get(w.ctx, "counter")
		if err == nil {
			count, err = strconv.Atoi(e.Text())
			condition = IfRevision(e.Revision())
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			w.t.Errorf("the counter: %v", err)
			return
		}
		_, err = w.put("increment", "counter", strconv.Itoa(count+1), condition)
		switch {
		case err == nil:
			w.won("counter", e.Revision())
			w.mu.Lock()
			w.counted++
			w.mu.Unlock()
		case errors.Is(err, ErrIndeterminate):
			w.mu.Lock()
			w.maybe++
			w.mu.Unlock()
		case errors.Is(err, ErrConflict):
			time.Sleep(time.Duration(1+w.random.IntN(20)) * time.Millisecond)
			continue
		}
		return
	}
}

// lockAndUnlock tries to hold a lock for a moment.
func (w *faultWriter) lockAndUnlock() {
	value := w.value()
	revision, err := w.put("lock", "lock", value, IfAbsent())
	if errors.Is(err, ErrIndeterminate) {
		e, found := w.certain("lock")
		if !found || e.Text() != value {
			return
		}
		revision, err = e.Revision(), nil
	}
	if err != nil {
		return
	}
	w.hold(+1)
	time.Sleep(time.Duration(w.random.IntN(500)) * time.Millisecond)
	w.hold(-1)
	for {
		err := w.delete("unlock", "lock", IfRevision(revision))
		if errors.Is(err, ErrConflict) {
			w.t.Errorf("the lock was taken away: %v", err)
		}
		if e, found := w.certain("lock"); err == nil || !found || e.Revision() != revision {
			return
		}
	}
}

func (w *faultWriter) hold(by int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.holders += by
	if w.holders > 1 {
		w.t.Errorf("%d hold the lock", w.holders)
	}
}

// writePrivate writes a key that nobody else writes: what happens to it is known
// exactly.
func (w *faultWriter) writePrivate() {
	key := fmt.Sprintf("p%d.%d", w.id, w.random.IntN(6))
	w.mu.Lock()
	old := w.private[key]
	w.mu.Unlock()
	next, err := w.change(key, old)
	switch {
	case errors.Is(err, ErrIndeterminate):
		next = w.resolve(key, old, next)
	case errors.Is(err, ErrExpired) && next.revision != 0: // it is in the log
	case err != nil:
		next = old
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.private[key] = next
}

// resolve finds out which of two beliefs about a key is true.
func (w *faultWriter) resolve(key string, old, next belief) belief {
	e, found := w.certain(key)
	switch {
	case !found && next.visible() && old.visible():
		w.t.Errorf("%q is gone", key)
	case !found:
		return belief{}
	case e.Text() == next.value:
		next.revision = e.Revision()
		return next
	case e.Text() != old.value || e.Revision() != old.revision:
		w.t.Errorf("%q is %q at %d, which is neither %+v nor %+v", key, e.Text(), e.Revision(), old, next)
	}
	return old
}

// change changes a private key and returns what it is if that has happened.
func (w *faultWriter) change(key string, old belief) (next belief, err error) {
	next.value = w.value()
	var opts []WriteOption
	if w.random.IntN(3) == 0 {
		next.expires = time.Now().Add(time.Duration(1100+w.random.IntN(15_000)) * time.Millisecond).Truncate(time.Millisecond)
		opts = append(opts, WithExpiry(next.expires))
	}
	settled := old.value == "" || old.expires.IsZero() || !old.visible()
	choice := w.random.IntN(8)
	if !settled {
		choice = w.random.IntN(4) // what will be there when the write happens nobody knows
	}
	switch choice {
	case 0:
		return belief{}, w.delete("delete", key)
	case 4:
		next.revision, err = w.put("put if absent", key, next.value, append(opts, IfAbsent())...)
		w.wantConflict(key, old, old.visible(), err)
	case 5:
		next.revision, err = w.put("put if revision", key, next.value, append(opts, IfRevision(max(old.revision, 1)))...)
		w.wantConflict(key, old, !old.visible(), err)
	case 6:
		next.revision, err = w.put("put if wrong revision", key, next.value, append(opts, IfRevision(old.revision+1))...)
		w.wantConflict(key, old, true, err)
	case 7:
		err = w.delete("delete if revision", key, IfRevision(max(old.revision, 1)))
		w.wantConflict(key, old, !old.visible(), err)
		return belief{}, err
	default:
		next.revision, err = w.put("put", key, next.value, opts...)
	}
	if err == nil && next.revision <= old.revision {
		w.t.Errorf("%q goes from %d to %d", key, old.revision, next.revision)
	}
	return next, err
}

func (w *faultWriter) wantConflict(key string, old belief, want bool, err error) {
	if (want && err == nil) || (!want && errors.Is(err, ErrConflict)) {
		w.t.Errorf("%q, which is %+v: %v", key, old, err)
	}
}
