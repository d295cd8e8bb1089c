package kvstore

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/kvstore/kvstoretest"
	"github.com/nearkv/nearkv/replication/embedded"
)

const labNamespace = "lab"

// lab is a server, or several one after the other, with Stores on wires to it
// and a connection of somebody else, in a bubble.
type lab struct {
	t       *testing.T
	ctx     context.Context
	dir     string // of the server; "": it has none
	server  *embedded.Server
	wire    *wire // of somebody else
	conn    *nats.Conn
	js      jetstream.JetStream
	wires   []*wire
	cleanup []func() // run from the last to the first
}

// bubble is where labs are built, one after the other: to begin one takes
// longer than most of the tests.
type bubble struct{ t *testing.T }

func inBubble(t *testing.T, test func(b bubble)) {
	t.Helper()
	kvstoretest.Run(t, func(t *testing.T) { test(bubble{t}) })
}

// inLab runs a test in a bubble and a lab of its own.
func inLab(t *testing.T, test func(l *lab)) {
	t.Helper()
	inBubble(t, func(b bubble) { b.lab("", test) })
}

// lab runs one case of a test in a lab whose server keeps its streams in memory.
func (b bubble) lab(name string, test func(l *lab)) { b.labAt("", name, test) }

// labOnDisk runs one case of a test in a lab whose server keeps its streams in a
// directory.
func (b bubble) labOnDisk(name string, test func(l *lab)) { b.labAt(b.t.TempDir(), name, test) }

func (b bubble) labAt(dir, name string, test func(l *lab)) {
	l := &lab{t: b.t, ctx: b.t.Context()}
	defer func() {
		for _, f := range slices.Backward(l.cleanup) {
			f()
		}
		time.Sleep(time.Second) // for what is on a wire
		if b.t.Failed() && name != "" {
			b.t.Fatalf("this was: %s", name)
		}
	}()
	l.start(dir)
	l.cleanup = append(l.cleanup, l.stop)
	l.wire = &wire{to: l.server}
	l.conn = l.connect(l.wire)
	l.cleanup = append(l.cleanup, l.conn.Close)
	var err error
	l.js, err = jetstream.New(l.conn)
	l.must(err)
	test(l)
}

// must fails the test unless all errors are nil.
func (l *lab) must(errs ...error) {
	l.t.Helper()
	if err := errors.Join(errs...); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) connect(w *wire) *nats.Conn {
	l.t.Helper()
	conn, err := nats.Connect("", nats.InProcessServer(w), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1),
		nats.ReconnectWait(50*time.Millisecond), nats.ReconnectJitter(10*time.Millisecond, 0),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	l.must(err)
	return conn
}

func (l *lab) start(dir string) {
	l.t.Helper()
	server, err := embedded.Start(context.Background(), embedded.Options{Dir: dir})
	l.must(err)
	l.dir, l.server = dir, server
	for _, w := range append(l.wires, l.wire) {
		if w != nil {
			w.point(server)
		}
	}
}

func (l *lab) stop() {
	l.t.Helper()
	l.must(l.server.Shutdown())
}

// copyDir returns a copy of the server's directory as it is when it is stopped.
func (l *lab) copyDir() string {
	l.t.Helper()
	l.stop()
	synctest.Wait() // deleted streams are removed in the background
	dir := filepath.Join(l.t.TempDir(), "copy")
	l.must(os.CopyFS(dir, os.DirFS(l.dir)))
	l.start(l.dir)
	l.settle()
	return dir
}

// goBackTo restarts the server on an older copy of its directory.
func (l *lab) goBackTo(dir string) {
	l.t.Helper()
	l.stop()
	l.start(dir)
	l.settle()
}

// settle waits until somebody else is connected.
func (l *lab) settle() {
	synctest.Wait() // it knows that the old connection is gone
	for range 1000 {
		if l.conn.IsConnected() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	l.t.Fatal("there is no connection")
}

// open opens a Store on a wire of its own, which is closed at the end.
func (l *lab) open(opts Options) (*Store, *wire) {
	l.t.Helper()
	w := &wire{to: l.server}
	l.wires = append(l.wires, w)
	opts.Conn, opts.Memory = l.connect(w), l.dir == ""
	opts.CacheBytes = cmp.Or(opts.CacheBytes, 1<<20)  // the default takes longer to make
	opts.WriteTimeout = cmp.Or(opts.WriteTimeout, -1) // tests cut connections for longer than the default
	opts.Logger = slog.New(slog.NewTextHandler(l.t.Output(), nil))
	s, err := Open(l.ctx, labNamespace, opts)
	l.must(err)
	l.cleanup = append(l.cleanup, func() {
		if err := s.Close(); err != nil {
			l.t.Error(err)
		}
		opts.Conn.Close()
	})
	return s, w
}

func (l *lab) put(s *Store, key, value string, opts ...WriteOption) Revision {
	l.t.Helper()
	revision, err := s.Put(l.ctx, key, []byte(value), opts...)
	l.must(err)
	return revision
}

// foreign writes as other clients of NATS do.
func (l *lab) foreign(key, value string) uint64 {
	l.t.Helper()
	ack, err := l.js.Publish(l.ctx, "$KV."+labNamespace+"."+key, []byte(value))
	l.must(err)
	return ack.Sequence
}

func (l *lab) stream() jetstream.Stream {
	l.t.Helper()
	s, err := l.js.Stream(l.ctx, "KV_"+labNamespace)
	l.must(err)
	return s
}

// bucket makes a bucket as nats.go does.
func (l *lab) bucket(cfg jetstream.KeyValueConfig) jetstream.KeyValue {
	l.t.Helper()
	cfg.Bucket = labNamespace
	if l.dir == "" {
		cfg.Storage = jetstream.MemoryStorage
	}
	kv, err := l.js.CreateKeyValue(l.ctx, cfg)
	l.must(err)
	return kv
}

// recreate deletes the stream and makes it anew.
func (l *lab) recreate(cfg jetstream.StreamConfig) {
	l.t.Helper()
	l.must(l.js.DeleteStream(l.ctx, cfg.Name))
	synctest.Wait() // it is removed in the background
	_, err := l.js.CreateStream(l.ctx, cfg)
	l.must(err)
}

// seen is a key as somebody sees it.
type seen struct {
	revision Revision
	value    string
}

// log reads the visible keys of the log with a consumer of nats.go.
func (l *lab) log() map[string]seen {
	l.t.Helper()
	c, err := l.stream().CreateConsumer(l.ctx, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, FilterSubject: "$KV.>", AckPolicy: jetstream.AckNonePolicy,
	})
	l.must(err)
	content := make(map[string]seen)
	n := int(c.CachedInfo().NumPending)
	if n == 0 {
		return content
	}
	batch, err := c.FetchNoWait(n)
	l.must(err)
	for m := range batch.Messages() {
		n--
		meta, err := m.Metadata()
		l.must(err)
		h := m.Headers()
		if op := h.Get("KV-Operation"); op == "DEL" || op == "PURGE" || h.Get("Nats-Marker-Reason") != "" {
			continue
		}
		if text := h.Get("KV-Expires"); text != "" {
			expires, err := strconv.ParseInt(text, 10, 64)
			l.must(err)
			if time.Now().UnixMilli() >= expires {
				continue
			}
		}
		key := strings.TrimPrefix(m.Subject(), "$KV."+labNamespace+".")
		content[key] = seen{Revision(meta.Sequence.Stream), string(m.Data())}
	}
	l.must(batch.Error())
	if n != 0 {
		l.t.Fatalf("%d records of the log have not come", n)
	}
	return content
}

// content is what a Store holds.
func (l *lab) content(s *Store) map[string]seen {
	l.t.Helper()
	content := make(map[string]seen)
	for _, info := range keysOf(l.t, s, "") {
		e, err := s.Get(l.ctx, info.Name)
		l.must(err)
		content[info.Name] = seen{e.Revision(), e.Text()}
	}
	return content
}

func difference(got, want map[string]seen) string {
	var b strings.Builder
	keys := slices.Sorted(maps.Keys(got))
	for key := range want {
		if _, ok := got[key]; !ok {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		if got[key] != want[key] {
			fmt.Fprintf(&b, "\n%.40q is %d %.40q, not %d %.40q", key, got[key].revision, got[key].value, want[key].revision, want[key].value)
		}
	}
	return b.String()
}

// onlooker watches a Store and reads from it all the time.
type onlooker struct {
	lab    *lab
	store  *Store
	strict bool // no key may go back in revision
	ctx    context.Context
	stop   context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	held   map[string]seen     // the sum of the events
	newest map[string]Revision // of the events of a key
	puts   map[string]int
	events int
}

// look starts an onlooker; the keys are those that it reads.
func (l *lab) look(s *Store, strict bool, keys ...string) *onlooker {
	o := l.newOnlooker(s, strict, 0)
	if len(keys) > 0 {
		o.done.Go(func() { o.read(keys) })
	}
	return o
}

// lookSlowly starts one that takes its time over every event.
func (l *lab) lookSlowly(s *Store) *onlooker { return l.newOnlooker(s, true, 25*time.Millisecond) }

func (l *lab) newOnlooker(s *Store, strict bool, pause time.Duration) *onlooker {
	ctx, stop := context.WithCancel(l.ctx)
	o := &onlooker{
		lab: l, store: s, strict: strict, ctx: ctx, stop: stop,
		held: make(map[string]seen), newest: make(map[string]Revision), puts: make(map[string]int),
	}
	o.done.Go(func() {
		for e, err := range s.Watch(ctx, "") {
			if err != nil {
				if !errors.Is(err, ErrClosed) {
					l.t.Errorf("a watch yields %v", err)
				}
				return
			}
			o.take(e)
			time.Sleep(pause)
		}
	})
	l.cleanup = append(l.cleanup, o.end)
	return o
}

func (o *onlooker) end() {
	o.stop()
	o.done.Wait()
}

func (o *onlooker) take(e Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events++
	key, revision := e.Entry.Key(), e.Entry.Revision()
	// The removal of a value can have the value's revision.
	if o.strict && (revision < o.newest[key] || revision == o.newest[key] && e.Kind == EventPut) {
		o.lab.t.Errorf("%v of %q at %d comes after %d", e.Kind, key, revision, o.newest[key])
	}
	o.newest[key] = revision
	if e.Kind == EventPut {
		o.held[key] = seen{revision, e.Entry.Text()}
		o.puts[key]++
	} else {
		delete(o.held, key)
	}
}

// read gets the keys, over and over.
func (o *onlooker) read(keys []string) {
	ctx, newest := o.ctx, make(map[string]Revision)
	for i := 0; ctx.Err() == nil; i++ {
		key := keys[i%len(keys)]
		e, err := o.store.Get(ctx, key)
		switch {
		case ctx.Err() != nil || errors.Is(err, ErrClosed):
			return
		case err != nil && !errors.Is(err, ErrNotFound):
			o.lab.t.Errorf("Get of %q: %v", key, err)
		case err == nil && o.strict && e.Revision() < newest[key]:
			o.lab.t.Errorf("Get of %q goes back from %d to %d", key, newest[key], e.Revision())
		case err == nil:
			newest[key] = e.Revision()
		}
		select {
		case <-time.After(7 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (o *onlooker) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.events
}

func (o *onlooker) sum() map[string]seen {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.held)
}

// agree wants a Store, and who watches it, to hold what the log holds.
func (l *lab) agree(s *Store, watchers ...*onlooker) {
	l.t.Helper()
	synctest.Wait()
	want := l.log()
	if diff := difference(l.content(s), want); diff != "" {
		l.t.Errorf("the Store differs from the log:%s\n%+v", diff, s.Status())
	}
	for _, o := range watchers {
		if diff := difference(o.sum(), want); diff != "" {
			l.t.Errorf("the sum of %d events differs from the log:%s", o.events, diff)
		}
	}
}

// noticed wants the Store to be Live and to have read the log again.
func (l *lab) noticed(s *Store, before Stats) {
	l.t.Helper()
	if status := s.Status(); status.State != Live || status.Lag() != 0 {
		l.t.Errorf("the status is %+v", status)
	}
	if now := s.Stats(); now.Resyncs <= before.Resyncs {
		l.t.Errorf("nothing was noticed: %+v", now)
	}
}

// noticeTime is how long it may take until the replica has noticed and mended
// what was done to its log.
const noticeTime = 10 * time.Second

// labKeys writes n keys and returns them.
func (l *lab) keys(s *Store, n int) []string {
	l.t.Helper()
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprint("key", i)
		l.put(s, keys[i], "first")
	}
	return keys
}

// A stream that was deleted and made anew by another client is noticed, whether
// it has fewer, as many or more records than before, and whether the Store was
// connected meanwhile.
func TestRecreation(t *testing.T) {
	const before = 20
	inBubble(t, func(b bubble) {
		for _, after := range []int{0, 5, before, 50} {
			for _, how := range []string{"connected", "away", "with our own config"} {
				b.lab(fmt.Sprintf("%d records, %s", after, how), func(l *lab) {
					s, w := l.open(Options{})
					keys := l.keys(s, before)
					o := l.look(s, false, keys...)
					time.Sleep(time.Second)
					was, stats := s.Status(), s.Stats()

					cfg := jetstream.StreamConfig{
						Name: "KV_" + labNamespace, Subjects: []string{"$KV." + labNamespace + ".>"},
						Storage: jetstream.MemoryStorage, MaxMsgsPerSubject: 1, AllowDirect: true,
					}
					if how == "with our own config" {
						cfg = l.stream().CachedInfo().Config
					}
					w.setDown(how == "away")
					l.recreate(cfg)
					for i := range after {
						l.foreign(fmt.Sprint("key", 2*i), "second")
					}
					w.setDown(false)
					time.Sleep(noticeTime)

					l.noticed(s, stats)
					l.agree(s, o)
					if now := s.Status(); now.Log == was.Log {
						l.t.Errorf("the status shows the same log: %+v", now)
					}
					l.put(s, "key0", "third")
					l.agree(s, o)
				})
			}
		}
	})
}

// Recreated again and again, faster than the Store looks.
func TestRecreationStorm(t *testing.T) {
	inLab(t, func(l *lab) {
		s, w := l.open(Options{})
		o := l.look(s, false, l.keys(s, 20)...)
		for i := range 30 {
			cfg := l.stream().CachedInfo().Config
			l.recreate(cfg)
			for k := range i {
				l.foreign(fmt.Sprint("key", k), fmt.Sprint(i))
			}
			if i%3 == 0 {
				w.cut()
			}
			time.Sleep(time.Duration(i*77) * time.Millisecond)
		}
		time.Sleep(noticeTime)
		l.agree(s, o)
	})
}

// A stream that was rolled back to an older copy of the server's directory.
func TestRollback(t *testing.T) {
	tests := []struct {
		name   string
		before func(l *lab, s *Store) // after the copy was made
		after  func(l *lab)           // after the rollback, before the Store is back
	}{
		{
			"of new keys",
			func(l *lab, s *Store) {
				for i := range 10 {
					l.put(s, fmt.Sprint("new", i), "lost")
				}
			},
			func(*lab) {},
		},
		{
			"of updates, deletions and expiring keys",
			func(l *lab, s *Store) {
				l.put(s, "key1", "lost")
				l.put(s, "key2", "lost", WithTTL(time.Minute))
				l.must(s.Delete(l.ctx, "key3"))
			},
			func(*lab) {},
		},
		{
			"of somebody else's writes",
			func(l *lab, _ *Store) { l.foreign("key1", "lost") },
			func(*lab) {},
		},
		{
			"and written again, less than before",
			func(l *lab, s *Store) {
				for i := range 10 {
					l.put(s, fmt.Sprint("key", i), "lost")
				}
			},
			func(l *lab) { l.foreign("key4", "second") },
		},
		{
			"and written again, to the very sequence",
			func(l *lab, s *Store) {
				for i := range 10 {
					l.put(s, fmt.Sprint("key", i), "lost")
				}
			},
			func(l *lab) {
				for i := range 10 {
					l.foreign(fmt.Sprint("key", 9-i), "second")
				}
			},
		},
		{
			"and written again, the same keys in the same order",
			func(l *lab, s *Store) {
				for i := range 10 {
					l.put(s, fmt.Sprint("key", i), "lost")
				}
			},
			func(l *lab) {
				for i := range 10 {
					l.foreign(fmt.Sprint("key", i), "second")
				}
			},
		},
		{
			"and written again, beyond where it was",
			func(l *lab, s *Store) {
				for i := range 10 {
					l.put(s, fmt.Sprint("key", i), "lost")
				}
			},
			func(l *lab) {
				for i := range 30 {
					l.foreign(fmt.Sprint("key", i), "second")
				}
			},
		},
		{
			// The Store's last landmark is replaced by something still to come, the
			// one before is there: nothing is wrong but in between.
			"and written again, so that the ends fit",
			func(l *lab, s *Store) {
				for range 10 {
					l.put(s, "hot", "lost")
				}
			},
			func(l *lab) {
				for i := range 9 {
					l.foreign(fmt.Sprint("key", i), "second")
				}
				l.foreign("hot", "second")
				l.foreign("hot", "third")
			},
		},
	}
	inBubble(t, func(b bubble) {
		for _, test := range tests {
			b.labOnDisk(test.name, func(l *lab) {
				s, w := l.open(Options{})
				keys := l.keys(s, 20)
				l.put(s, "hot", "first")
				o := l.look(s, false, append(keys, "hot", "new1")...)
				copied := l.copyDir()
				time.Sleep(5 * time.Second)
				test.before(l, s)
				time.Sleep(time.Second)
				l.agree(s, o)
				stats := s.Stats()

				w.setDown(true)
				l.goBackTo(copied)
				test.after(l)
				w.setDown(false)
				time.Sleep(noticeTime)

				l.noticed(s, stats)
				l.agree(s, o)
			})
		}
	})
}

// A write that was acknowledged to this Store, and lost before the log told of
// it, is not served as if nothing had happened.
func TestRollbackOfAcknowledged(t *testing.T) {
	inBubble(t, func(b bubble) {
		for _, after := range []int{0, 1, 3} {
			b.labOnDisk(fmt.Sprintf("%d writes afterwards", after), func(l *lab) {
				s, w := l.open(Options{})
				o := l.look(s, false, l.keys(s, 5)...)
				copied := l.copyDir()
				time.Sleep(5 * time.Second)
				stats := s.Stats()
				// The acknowledgement is the last thing that the Store hears.
				for _, key := range []string{"key1", "key2"} {
					w.deafen()
					revision := l.foreign(key, "lost")
					m := s.log.Written(key, revision, time.Now(), putRecord("lost"))
					s.index.applyAhead(s.feed.Status().Resyncs, &m, []byte("lost"))
				}
				w.setDown(true)
				l.goBackTo(copied)
				for i := range after {
					l.foreign([]string{"key3", "key1", "key4"}[i], "second")
				}
				w.setDown(false)
				time.Sleep(noticeTime)
				l.noticed(s, stats)
				l.agree(s, o)
			})
		}
	})
}

// What somebody removes from a log that allows it.
func TestPurge(t *testing.T) {
	tests := []struct {
		name  string
		purge func(l *lab) error
	}{
		{"everything", func(l *lab) error { return l.stream().Purge(l.ctx) }},
		{"one key", func(l *lab) error {
			return l.stream().Purge(l.ctx, jetstream.WithPurgeSubject("$KV."+labNamespace+".key7"))
		}},
		{"the last key", func(l *lab) error {
			return l.stream().Purge(l.ctx, jetstream.WithPurgeSubject("$KV."+labNamespace+".key19"))
		}},
		{"up to a sequence", func(l *lab) error {
			return l.stream().Purge(l.ctx, jetstream.WithPurgeSequence(10))
		}},
		{"all but one", func(l *lab) error { return l.stream().Purge(l.ctx, jetstream.WithPurgeKeep(1)) }},
		{"a message", func(l *lab) error { return l.stream().DeleteMsg(l.ctx, 5) }},
		{"the last message", func(l *lab) error { return l.stream().SecureDeleteMsg(l.ctx, 20) }},
	}
	inBubble(t, func(b bubble) {
		for _, test := range tests {
			// Who loads values sees before the replica does that the log has lost them.
			for _, how := range []string{"connected", "away", "writing", "loading"} {
				b.lab(test.name+", "+how, func(l *lab) {
					l.openBucket()
					s, w := l.open(Options{CacheBytes: map[string]int64{"loading": -1}[how]})
					keys := l.keys(s, 20)
					o := l.look(s, false, keys...)
					time.Sleep(time.Second)
					stats := s.Stats()
					end := func() {}
					if how == "writing" {
						end = l.writeOn(s)
					}
					w.setDown(how == "away")
					l.must(test.purge(l))
					w.setDown(false)
					time.Sleep(noticeTime)
					if now := s.Stats(); now.Resyncs <= stats.Resyncs {
						l.t.Errorf("nothing was noticed: %+v", now)
					} else if now.Resyncs > stats.Resyncs+2 {
						l.t.Errorf("the log was read %d times", now.Resyncs-stats.Resyncs)
					}
					end()
					time.Sleep(time.Second)
					l.noticed(s, stats)
					l.agree(s, o)
				})
			}
		}
	})
}

// openBucket makes a bucket whose records can be purged and deleted.
func (l *lab) openBucket() {
	l.t.Helper()
	_, err := l.js.CreateStream(l.ctx, openStream(jetstream.MemoryStorage))
	l.must(err)
}

func openStream(storage jetstream.StorageType) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: "KV_" + labNamespace, Subjects: []string{"$KV." + labNamespace + ".>"}, Storage: storage,
		MaxMsgsPerSubject: 1, AllowDirect: true, AllowMsgTTL: true, Discard: jetstream.DiscardNew,
	}
}

// writeOn makes the Store and somebody else write all the time, until end.
func (l *lab) writeOn(s *Store) (end func()) {
	ctx, stop := context.WithCancel(l.ctx)
	var writers sync.WaitGroup
	loop := func(write func(i int) error) {
		writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if err := write(i); err != nil {
					l.t.Error(err)
				}
				select {
				case <-time.After(40 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	loop(func(i int) error {
		_, err := s.Put(l.ctx, fmt.Sprint("own", i), []byte("x"))
		return err
	})
	loop(func(i int) error {
		_, err := s.Put(l.ctx, "hot", []byte(fmt.Sprint(i)))
		return err
	})
	loop(func(i int) error {
		_, err := l.js.Publish(l.ctx, fmt.Sprint("$KV.", labNamespace, ".foreign", i%50), []byte("x"))
		return err
	})
	return func() {
		stop()
		writers.Wait()
	}
}

// A resync does not take readers and watchers back through the history of keys
// that nobody has touched.
func TestPurgeWithHistory(t *testing.T) {
	inLab(t, func(l *lab) {
		kv := l.bucket(jetstream.KeyValueConfig{History: 5})
		s, _ := l.open(Options{})
		keys := l.keys(s, 20)
		for i := range 4 {
			for _, key := range keys {
				l.put(s, key, fmt.Sprint("version ", i))
			}
		}
		o := l.look(s, true, keys...)
		time.Sleep(time.Second)
		stats := s.Stats()
		l.must(kv.PurgeDeletes(l.ctx), l.stream().Purge(l.ctx, jetstream.WithPurgeSubject("$KV."+labNamespace+".key7")))
		time.Sleep(noticeTime)
		l.noticed(s, stats)
		l.agree(s, o)
	})
}

// Keys that expire hide a purge of fewer keys for a while, but not for longer.
func TestPurgeAmongExpiringKeys(t *testing.T) {
	inLab(t, func(l *lab) {
		l.openBucket()
		s, _ := l.open(Options{})
		o := l.look(s, false, l.keys(s, 20)...)
		for i := range 100 {
			l.put(s, fmt.Sprint("session", i), "x", WithTTL(5*time.Second))
			time.Sleep(400 * time.Millisecond) // below 250 ms the server in a bubble forgets to expire
		}
		if stats := s.Stats(); stats.Resyncs != 1 {
			l.t.Errorf("something was noticed before: %+v", stats)
		}
		l.must(l.stream().Purge(l.ctx, jetstream.WithPurgeSubject("$KV."+labNamespace+".key7")))
		time.Sleep(5*time.Second + time.Duration(retention)*time.Millisecond + noticeTime)
		l.noticed(s, Stats{Resyncs: 1})
		l.agree(s, o)
	})
}

// While nothing is done to a log but writing, it is read once, however busy it
// is and however often the replica looks.
func TestNoResyncInVain(t *testing.T) {
	inLab(t, func(l *lab) {
		s, w := l.open(Options{CheckInterval: 50 * time.Millisecond})
		other, _ := l.open(Options{})
		o := l.look(s, true)
		var writers sync.WaitGroup
		for id := range 4 {
			writers.Go(func() {
				from := []*Store{s, other}[id%2]
				for i := range 300 {
					key := fmt.Sprint("w", id, "-", i)
					l.put(from, key, "x", WithTTL(time.Duration(2+i%5)*time.Second))
					l.put(from, key, "y")
					if i%3 == 0 {
						l.must(from.Delete(l.ctx, key))
					}
					if i%20 == 0 {
						time.Sleep(100 * time.Millisecond)
					}
				}
			})
		}
		for range 5 {
			time.Sleep(300 * time.Millisecond)
			w.cut()
		}
		writers.Wait()
		time.Sleep(time.Minute)
		if stats := s.Stats(); stats.Resyncs != 1 {
			l.t.Errorf("the log was read %d times", stats.Resyncs)
		}
		l.agree(s, o)
	})
}

// A stream that was deleted, and that nobody makes anew.
func TestGoneStream(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		keys := l.keys(s, 20)
		o := l.look(s, true, keys...)
		l.must(l.js.DeleteStream(l.ctx, "KV_"+labNamespace))
		time.Sleep(noticeTime)
		status := s.Status()
		if status.State != Degraded || status.Reason == "" || time.Since(status.Since) > noticeTime {
			l.t.Errorf("the status is %+v", status)
		}
		if e, err := s.Get(l.ctx, "key3"); err != nil || e.Text() != "first" {
			l.t.Errorf("Get returns %q, %v", e.Text(), err)
		}
		if n := len(l.content(s)); n != 20 {
			l.t.Errorf("there are %d keys", n)
		}
		ctx, cancel := context.WithTimeout(l.ctx, time.Minute)
		defer cancel()
		began := time.Now()
		_, err := s.Put(ctx, "key3", []byte("second"))
		if !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrIndeterminate) {
			l.t.Errorf("Put returns %v", err)
		}
		if waited := time.Since(began); waited != time.Minute {
			l.t.Errorf("Put waits %v", waited)
		}
		if err := s.Sync(ctx); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			l.t.Errorf("Sync returns %v", err)
		}
		if _, err := s.Get(ctx, "key3", MaxStaleness(time.Second)); !errors.Is(err, ErrStale) {
			l.t.Errorf("a fresh Get returns %v", err)
		}
		if n := len(o.sum()); n != 20 {
			l.t.Errorf("a watcher has %d keys", n)
		}
	})
}

// A connection that its owner closes, too early.
func TestGoneConnection(t *testing.T) {
	inLab(t, func(l *lab) {
		conn := l.connect(&wire{to: l.server})
		s, err := Open(l.ctx, labNamespace, Options{Conn: conn, Memory: true})
		l.must(err)
		o := l.look(s, true, l.keys(s, 20)...)
		conn.Close()
		time.Sleep(noticeTime)
		if status := s.Status(); status.State != Stale || status.Reason == "" {
			l.t.Errorf("the status is %+v", status)
		}
		ctx, cancel := context.WithTimeout(l.ctx, time.Minute)
		defer cancel()
		if _, err := s.Put(ctx, "key3", nil); !errors.Is(err, ErrDisconnected) || !errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
			l.t.Errorf("Put returns %v", err)
		}
		if e, err := s.Get(l.ctx, "key3"); err != nil || e.Text() != "first" {
			l.t.Errorf("Get returns %q, %v", e.Text(), err)
		}
		l.must(s.Close())
		o.end()
	})
}

// backup takes a snapshot of the stream as the nats command does.
func (l *lab) backup() (request []byte, chunks [][]byte) {
	l.t.Helper()
	msgs := make(chan *nats.Msg, 1000)
	sub, err := l.conn.ChanSubscribe("backup", msgs)
	l.must(err)
	defer func() { l.must(sub.Unsubscribe()) }()
	reply, err := l.conn.RequestWithContext(l.ctx, "$JS.API.STREAM.SNAPSHOT.KV_"+labNamespace, []byte(`{"deliver_subject":"backup"}`))
	l.must(err)
	var snapshot struct {
		Error         any `json:"error"`
		Config, State json.RawMessage
	}
	l.must(json.Unmarshal(reply.Data, &snapshot))
	if snapshot.Error != nil {
		l.t.Fatalf("backup: %v", snapshot.Error)
	}
	for m := range msgs {
		if len(m.Data) == 0 {
			break
		}
		chunks = append(chunks, m.Data)
		if m.Reply != "" {
			l.must(l.conn.Publish(m.Reply, nil))
		}
	}
	return fmt.Appendf(nil, `{"config":%s,"state":%s}`, snapshot.Config, snapshot.State), chunks
}

// restore makes the stream from a snapshot.
func (l *lab) restore(request []byte, chunks [][]byte) {
	l.t.Helper()
	ask := func(subject string, data []byte) (reply struct {
		Error          any    `json:"error"`
		DeliverSubject string `json:"deliver_subject"`
	},
	) {
		m, err := l.conn.RequestWithContext(l.ctx, subject, data)
		l.must(err)
		if len(m.Data) > 0 {
			l.must(json.Unmarshal(m.Data, &reply))
		}
		if reply.Error != nil {
			l.t.Fatalf("restore: %v", reply.Error)
		}
		return reply
	}
	to := ask("$JS.API.STREAM.RESTORE.KV_"+labNamespace, request).DeliverSubject
	for _, chunk := range append(chunks, nil) {
		ask(to, chunk)
	}
}

// A stream that was restored from a backup has the metadata of the old one, and
// its records were stored when the old ones were. If nothing else has changed,
// nobody is told anything.
func TestRestore(t *testing.T) {
	tests := []struct {
		name   string
		before func(l *lab, s *Store) // between backup and restore
		after  func(l *lab)           // while the Store is away, if it is
		same   bool                   // nothing has changed
	}{
		{"of what there is", func(*lab, *Store) {}, func(*lab) {}, true},
		{"over newer records", func(l *lab, s *Store) {
			l.put(s, "key1", "lost")
			l.put(s, "new", "lost")
			l.must(s.Delete(l.ctx, "key2"))
		}, func(*lab) {}, false},
		{"and written again", func(l *lab, s *Store) {
			for i := range 5 {
				l.put(s, fmt.Sprint("key", i), "lost")
			}
		}, func(l *lab) {
			for i := range 10 {
				l.foreign(fmt.Sprint("key", 3+i), "second")
			}
		}, false},
	}
	inBubble(t, func(b bubble) {
		for _, test := range tests {
			for _, away := range []bool{false, true} {
				b.labOnDisk(fmt.Sprintf("%s, away=%v", test.name, away), func(l *lab) {
					s, w := l.open(Options{})
					keys := l.keys(s, 20)
					o := l.look(s, test.same, keys...)
					time.Sleep(time.Second)
					request, chunks := l.backup()
					time.Sleep(time.Second)
					test.before(l, s)
					time.Sleep(time.Second)
					stats := s.Stats()
					w.setDown(away)
					l.must(l.js.DeleteStream(l.ctx, "KV_"+labNamespace))
					l.restore(request, chunks)
					test.after(l)
					w.setDown(false)
					time.Sleep(noticeTime)
					if !test.same {
						l.noticed(s, stats)
					}
					l.agree(s, o)
				})
			}
		}
	})
}

// Whatever is done to a log, in whatever order: ten seconds after the last of
// it the Store holds what the log holds, and those who watch it know.
func TestRandomHarm(t *testing.T) {
	inBubble(t, func(b bubble) {
		began := time.Now()
		defer func() { t.Logf("soak: harms=%d virtual_seconds=%d", 12*30, int(time.Since(began).Seconds())) }()
		for seed := range uint64(12) {
			b.labOnDisk(fmt.Sprintf("seed %d of %d", seed, *faultSeed), func(l *lab) {
				random := rand.New(rand.NewPCG(seed, *faultSeed))
				_, err := l.js.CreateStream(l.ctx, openStream(jetstream.FileStorage))
				l.must(err)
				s, w := l.open(Options{CacheBytes: []int64{-1, 0}[seed%2]})
				o := l.look(s, false, l.keys(s, 10)...)
				var done []string
				copied := l.copyDir()
				for range 30 {
					done = append(done, l.harm(random, s, w, &copied))
				}
				w.setDown(false)
				time.Sleep(noticeTime)
				l.agree(s, o)
				if l.t.Failed() {
					l.t.Log(strings.Join(done, ", "))
				}
			})
		}
	})
}

// harm does something at random, and tells what.
func (l *lab) harm(random *rand.Rand, s *Store, w *wire, copied *string) string {
	key := fmt.Sprint("key", random.IntN(10))
	switch what := random.IntN(40); {
	case what < 12:
		l.foreign(key, fmt.Sprint("foreign ", random.Uint32()))
		return "foreign put of " + key
	case what < 22:
		ctx, cancel := context.WithTimeout(l.ctx, time.Second)
		defer cancel()
		_, err := s.Put(ctx, key, []byte(fmt.Sprint("own ", random.Uint32())))
		return fmt.Sprint("put of ", key, ": ", err)
	case what < 24:
		w.cut()
		return "cut"
	case what < 27:
		w.setDown(random.IntN(2) == 0)
		return "down or up"
	case what < 31:
		d := time.Duration(random.IntN(3000)) * time.Millisecond
		time.Sleep(d)
		return fmt.Sprint("sleep of ", d)
	case what < 33:
		l.must(l.stream().Purge(l.ctx, jetstream.WithPurgeSubject("$KV."+labNamespace+"."+key)))
		return "purge of " + key
	case what < 34:
		l.must(l.stream().Purge(l.ctx))
		return "purge"
	case what < 35:
		l.recreate(openStream(jetstream.FileStorage))
		return "recreation"
	case what < 37:
		*copied = l.copyDir()
		return "copy"
	}
	l.goBackTo(*copied)
	*copied = l.copyDir() // a server works on the old one now
	return "rollback"
}
