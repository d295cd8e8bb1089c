package kvstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
)

// Whether a value is in memory can never be seen in what a read returns.
func TestCacheIsInvisible(t *testing.T) {
	for name, bytes := range map[string]int64{"none": -1, "8KiB": 8 << 10, "default": 0} {
		t.Run("racing/"+name, func(t *testing.T) { testRacing(t, bytes) })
	}
	t.Run("burst/default", func(t *testing.T) { testBurst(t, 0, 200_000, 1) })
	t.Run("burst/64KiB", func(t *testing.T) { testBurst(t, 64<<10, 20_000, 4) })
	t.Run("double puts", testDoublePuts)
	t.Run("bytes", testCacheBytes)
	t.Run("nothing is kept", testNoCache)
	t.Run("loaded once", testLoadedOnce)
}

func openAt(t *testing.T, server *kvstoretest.Server, cacheBytes int64) *Store {
	t.Helper()
	s, err := Open(context.Background(), "cache", Options{Conn: server.Conn(t), Memory: true, CacheBytes: cacheBytes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// cell is one key, written by one goroutine: the nth write puts the number n, or
// deletes the key if seven divides n.
type cell struct {
	key            string
	begun, written atomic.Int64
}

func (c *cell) write(s *Store, padding string) error {
	n := c.begun.Add(1)
	var err error
	if n%7 == 0 {
		err = s.Delete(context.Background(), c.key)
	} else {
		_, err = s.Put(context.Background(), c.key, fmt.Appendf(nil, "%s %d %s", c.key, n, padding))
	}
	c.written.Store(n)
	return err
}

// read reads the cell from a replica that may not be behind the write atLeast.
func (c *cell) read(s *Store, atLeast int64) (n int64, err error) {
	e, err := s.Get(context.Background(), c.key)
	last := c.begun.Load()
	if errors.Is(err, ErrNotFound) {
		if atLeast == 0 || last/7 > (atLeast-1)/7 {
			return 0, nil // there was a deletion, or no write at all
		}
		return 0, fmt.Errorf("%s is not there, between writes %d and %d", c.key, atLeast, last)
	}
	if err != nil {
		return 0, err
	}
	var key string
	if _, err := fmt.Sscanf(e.Text(), "%s %d", &key, &n); err != nil {
		return 0, fmt.Errorf("%s has %.40q: %w", c.key, e.Text(), err)
	}
	if key != c.key || n < atLeast || n > last || n%7 == 0 {
		return 0, fmt.Errorf("%s has %.40q, between writes %d and %d", c.key, e.Text(), atLeast, last)
	}
	return n, nil
}

// testRacing has writers and readers of many keys in a cache for few, and a
// second replica.
func testRacing(t *testing.T, cacheBytes int64) {
	const writers, readers, perWriter = 4, 4, 1000
	server := kvstoretest.NewServer(t, "")
	near, far := openAt(t, server, cacheBytes), openAt(t, server, cacheBytes)
	cells := make([]cell, 300)
	for i := range cells {
		cells[i].key = "key" + strconv.Itoa(i)
	}
	var writing, reading sync.WaitGroup
	var done atomic.Bool
	for w := range writers {
		writing.Go(func() {
			for range perWriter {
				c := &cells[rand.IntN(len(cells)/writers)*writers+w]
				if err := c.write(near, strings.Repeat("x", rand.IntN(200))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for r := range readers {
		reading.Go(func() {
			seen := make([]int64, len(cells)) // by this reader, of the far replica
			for !done.Load() && !t.Failed() {
				i := int(rand.ExpFloat64()*20) % len(cells)
				c := &cells[i]
				var err error
				if r%2 == 0 {
					_, err = c.read(near, c.written.Load())
				} else {
					var n int64
					n, err = c.read(far, seen[i])
					seen[i] = max(seen[i], n)
				}
				if err != nil {
					t.Error(err)
				}
				runtime.Gosched() // the writers need the processors more
			}
		})
	}
	writing.Wait()
	done.Store(true)
	reading.Wait()
	if err := far.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i := range cells {
		for _, s := range []*Store{near, far} {
			if _, err := cells[i].read(s, cells[i].written.Load()); err != nil {
				t.Error(err)
			}
		}
	}
	checkBytes(t, near)
	checkBytes(t, far)
}

// testBurst brings many new keys at once, faster than ristretto takes them, and
// then reads each, or one of so many.
func testBurst(t *testing.T, cacheBytes int64, keys, each int) {
	if testing.Short() {
		keys /= 10
	}
	server := kvstoretest.NewServer(t, "")
	s := openAt(t, server, cacheBytes)
	key := func(i int) string { return "key" + strconv.Itoa(i) }
	value := func(i int) string { return "value of " + strconv.Itoa(i) }
	js, err := jetstream.New(server.Conn(t), jetstream.WithPublishAsyncMaxPending(4096))
	if err != nil {
		t.Fatal(err)
	}
	acks := make([]jetstream.PubAckFuture, keys)
	for i := range keys {
		if acks[i], err = js.PublishAsync("$KV.cache."+key(i), []byte(value(i)), jetstream.WithStallWait(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	for i, ack := range acks {
		select {
		case <-ack.Ok():
		default: // the server was overloaded
			if _, err := js.Publish(context.Background(), "$KV.cache."+key(i), []byte(value(i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < keys; i += each {
		e, err := s.Get(context.Background(), key(i))
		if err != nil || e.Text() != value(i) {
			t.Fatalf("%s is %q, %v", key(i), e.Text(), err)
		}
	}
	checkBytes(t, s)
	stats := s.Stats()
	t.Logf("%d misses, %d loads", stats.Misses, stats.Loads)
	if cacheBytes == 0 && stats.Misses > uint64(keys/100) {
		t.Errorf("%d of %d values were not in memory, though there is room", stats.Misses, keys)
	}
}

// testDoublePuts writes new keys twice, one write close upon the other.
func testDoublePuts(t *testing.T) {
	server := kvstoretest.NewServer(t, "")
	near, far := openAt(t, server, 0), openAt(t, server, 0)
	const keys, writers = 2000, 8
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := w; i < keys; i += writers {
				key := "key" + strconv.Itoa(i)
				for _, value := range []string{"first", "second"} {
					if _, err := near.Put(context.Background(), key, []byte(value)); err != nil {
						t.Error(err)
						return
					}
					if e, err := near.Get(context.Background(), key); err != nil || e.Text() != value {
						t.Errorf("%s is %q, %v; %q was written", key, e.Text(), err, value)
					}
				}
			}
		})
	}
	writing.Wait()
	if err := far.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i := range keys {
		for _, s := range []*Store{near, far} {
			if e, err := s.Get(context.Background(), "key"+strconv.Itoa(i)); err != nil || e.Text() != "second" {
				t.Fatalf("key %d is %q, %v", i, e.Text(), err)
			}
		}
	}
	for _, s := range []*Store{near, far} {
		if stats := s.Stats(); stats.Misses > keys/10 {
			t.Errorf("%d of %d values were not in memory, though there is room", stats.Misses, keys)
		}
	}
}

// settled returns the bytes of all values in memory when ristretto has worked off
// what it was given, after checking that they are what is counted and no more
// than a tenth above the limit.
func settled(t *testing.T, x *index) int64 {
	t.Helper()
	x.mu.Lock() // nothing is added meanwhile
	defer x.mu.Unlock()
	x.cache.wait()
	bytes := int64(0)
	for r := range x.records.all() {
		if r.data.Load() != nil {
			bytes += int64(r.size)
		}
	}
	if held := x.cache.held.Load(); held != bytes {
		t.Errorf("%d bytes are held, counted %d", bytes, held)
	}
	if limit := x.cache.limit; bytes > limit+limit/10 {
		t.Errorf("%d bytes are held, the limit is %d", bytes, limit)
	}
	return bytes
}

// wait lets ristretto work off what it was given.
func (c *cache) wait() {
	if p := c.lfu.Load(); p != nil {
		p.Wait()
	}
}

// newFullCache returns one that does not wait with its decisions until it is full.
func newFullCache(t *testing.T, limit int64) *cache {
	t.Helper()
	c := newCache(limit)
	if !c.engage(newKeyMap()) {
		t.Fatal("there is no policy")
	}
	t.Cleanup(c.close)
	return c
}

func checkBytes(t *testing.T, s *Store) {
	t.Helper()
	bytes := settled(t, s.index)
	if held := s.Stats().CacheBytes; held != bytes {
		t.Errorf("Stats tell of %d bytes, %d are held", held, bytes)
	}
	if err := checkInvariants(s.index); err != nil {
		t.Error(err)
	}
}

// testCacheBytes: the bytes stay within the limit however values grow and
// shrink, and the room is used.
func testCacheBytes(t *testing.T) {
	const keys, limit = 3000, 64 << 10
	c := newCache(limit)
	defer c.close()
	x, revision := newIndex(c), uint64(0)
	write := func(key int, size int) {
		revision++
		m := message("key"+strconv.Itoa(key), revision, strings.Repeat("x", size))
		if revision%2 == 0 {
			x.Apply(1, m)
		} else {
			x.applyAhead(1, &m, m.Record.Value)
		}
	}
	most := int64(0)
	phase := func(name string, size func(key int) int) {
		total := int64(0)
		for key := range keys {
			write(key, size(key))
			total += int64(size(key))
			most = max(most, c.held.Load())
		}
		bytes := settled(t, x)
		t.Logf("%s: %d of %d bytes", name, bytes, total)
		if largest := size(0); largest <= limit && bytes < min(total, limit)/2 {
			t.Errorf("%s: only %d bytes of %d are held, the limit is %d", name, bytes, total, limit)
		}
		if err := checkInvariants(x); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	same := func(size int) func(int) int { return func(int) int { return size } }
	phase("new, 100 bytes each", same(100))
	phase("1000 bytes each", same(1000))
	phase("10 bytes each", same(10))
	phase("3 bytes each", same(3))
	phase("growing again", same(2000))
	phase("mixed", func(key int) int { return key % 777 })
	if most > limit+limit/4 {
		t.Errorf("%d bytes were held for a moment", most)
	}
	phase("too large", func(int) int { return limit + 1 })
}

func testNoCache(t *testing.T) {
	s := openAt(t, kvstoretest.NewServer(t, ""), -1)
	for round := range 3 {
		for i := range 50 {
			if _, err := s.Put(context.Background(), strconv.Itoa(i), fmt.Appendf(nil, "%d.%d", i, round)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 50 {
			e, err := s.Get(context.Background(), strconv.Itoa(i))
			if err != nil || e.Text() != fmt.Sprintf("%d.%d", i, round) {
				t.Fatalf("%d is %q, %v", i, e.Text(), err)
			}
		}
	}
	if bytes := settled(t, s.index); bytes != 0 {
		t.Errorf("%d bytes are held", bytes)
	}
	if stats := s.Stats(); stats.CacheBytes != 0 || stats.Misses != 150 || stats.Loads != 150 || stats.Hits != 0 {
		t.Errorf("%+v", stats)
	}
	// An empty value needs no memory and no load.
	if _, err := s.Put(context.Background(), "empty", nil); err != nil {
		t.Fatal(err)
	}
	if e, err := s.Get(context.Background(), "empty"); err != nil || e.Len() != 0 || e.Text() != "" {
		t.Errorf("%q, %v", e.Text(), err)
	}
	if stats := s.Stats(); stats.Loads != 150 {
		t.Errorf("%d loads", stats.Loads)
	}
}

// testLoadedOnce: many readers wait for one load, and who does not want to wait
// any more does not harm the others.
func testLoadedOnce(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		server := kvstoretest.NewServer(t, "")
		s := openAt(t, server, -1)
		if _, err := s.Put(context.Background(), "key", []byte("value")); err != nil {
			t.Fatal(err)
		}
		server.SetDown(true)
		synctest.Wait()
		impatient, stop := context.WithCancel(context.Background())
		var reading sync.WaitGroup
		for range 100 {
			reading.Go(func() {
				if e, err := s.Get(context.Background(), "key"); err != nil || e.Text() != "value" {
					t.Errorf("%q, %v", e.Text(), err)
				}
			})
			reading.Go(func() {
				if _, err := s.Get(impatient, "key"); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrUnavailable) {
					t.Errorf("with a canceled context: %v", err)
				}
			})
		}
		synctest.Wait()
		stop()
		synctest.Wait()
		time.Sleep(time.Second)
		server.SetDown(false)
		reading.Wait()
		if stats := s.Stats(); stats.Loads != 1 || stats.Misses != 200 {
			t.Errorf("%d loads for %d readers", stats.Loads, stats.Misses)
		}
	})
}

// A late eviction or refusal of an older value, or of an older load of the same,
// takes nothing from its successor.
func TestCacheLateExit(t *testing.T) {
	c := newFullCache(t, 1<<10)
	x := newIndex(c)
	x.Apply(1, message("key", 1, "first"))
	c.wait() // else it may lose, by itself, what is deleted and set again
	old := x.records.find("key")
	late := resident{old, old.data.Load()}
	c.exit(late) // gave it up
	x.fill(old, []byte("first"))
	c.wait()
	c.exit(late) // and says so again
	if text, ok := old.text(); !ok || text != "first" {
		t.Fatalf("the second load is %q, %v", text, ok)
	}
	again := resident{old, old.data.Load()}
	x.Apply(1, message("key", 2, "second"))
	c.exit(late)
	c.exit(again)
	c.exit(resident{})
	now := x.records.find("key")
	if text, ok := now.text(); !ok || text != "second" {
		t.Fatalf("the second value is %q, %v", text, ok)
	}
	x.fill(old, []byte("first")) // too late
	if settled(t, x) != int64(len("second")) {
		t.Error("an old value was filled in")
	}
}

// A burst that ristretto cannot take at once is waited for: while there is room
// no value is lost.
func TestCacheBurst(t *testing.T) {
	const values, size = 200_000, 8
	c := newFullCache(t, 2*values*size)
	records := make([]*record, values)
	for i := range records {
		records[i] = allocate(strconv.Itoa(i))
		records[i].size = size
		c.put(records[i], fmt.Appendf(nil, "%8d", i), nil)
	}
	c.wait()
	missing := 0
	for i := range records {
		text, ok := records[i].text()
		if !ok {
			missing++
		} else if text != fmt.Sprintf("%8d", i) {
			t.Fatalf("value %d is %q", i, text)
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d values were lost", missing, values)
	}
	if held := c.held.Load(); held != int64(values-missing)*size {
		t.Errorf("%d bytes are counted", held)
	}
}

// What ristretto refuses is not in memory, and not counted.
func TestCacheRefused(t *testing.T) {
	c := newFullCache(t, 1<<10)
	c.close() // it refuses everything
	r := allocate("key")
	r.size = 5
	c.put(r, []byte("value"), nil)
	if text, ok := r.text(); ok || c.held.Load() != 0 || c.dropped.Load() != 1 {
		t.Errorf("%q, %v; %d bytes, %d dropped", text, ok, c.held.Load(), c.dropped.Load())
	}
}

// What is not visible any more needs no memory, and gets none.
func TestCacheHoldsVisibleOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newIndex(newFullCache(t, 1<<10))
		expiring, deleted := message("expiring", 1, "value"), message("deleted", 2, "value")
		expiring.VisibleUntil = time.Now().UnixMilli() + 1000
		expiring.HidesUntil = expiring.VisibleUntil
		x.Apply(1, expiring)
		x.Apply(1, deleted)
		r := x.records.find("expiring")
		if bytes := settled(t, x); bytes != 10 {
			t.Fatalf("%d bytes are held", bytes)
		}
		deleted.Revision, deleted.Record = 3, codec.Record{Op: codec.OpDelete}
		x.Apply(1, deleted)
		time.Sleep(time.Second)
		x.expireSome(time.Now().UnixMilli())
		x.fill(r, []byte("value"))
		if bytes := settled(t, x); bytes != 0 {
			t.Errorf("%d bytes are held", bytes)
		}
	})
}
