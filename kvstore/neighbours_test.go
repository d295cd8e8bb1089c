package kvstore

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nearkv/nearkv/codec"
)

// A neighbour is somebody who may do something with the log, and does its worst with that. Each call of a step is one
// blow. Keys of its own begin with "evil"; it leaves those of others alone, as who may write these may change them.
type neighbour struct {
	name string
	step func(*pest)
}

// pest is the connection of a neighbour, by hand: no client library would send such things.
type pest struct {
	lab    *lab
	random *rand.Rand
	sent   atomic.Int64
	deaf   atomic.Bool // does not read what comes
	ended  chan struct{}
	reads  sync.WaitGroup

	mu     sync.Mutex
	conn   net.Conn
	closed bool
}

const neighbourSpace = "$KV." + labNamespace + "."

var neighbours = []neighbour{
	{"forged batches", func(p *pest) {
		for range 5 {
			p.publish(p.key(), fmt.Sprintf("KV-Batch: %d/%d\r\n", 1+p.random.IntN(1000), 1+p.random.IntN(1000)), "v")
		}
	}},
	{"malformed blocks of headers", func(p *pest) {
		p.raw(p.key(), pick(p.random, "NATS/1.0\r\n", "NATS/1.0", "NATS/1.0\r\nno colon\r\n\r\n", "NATS/1.0\r\nNats-TTL: 1s\r\n:\r\n\r\n", "NATS/1.0 503\r\n\r\n",
			"NATS/1.0\r\nKV-Operation: DEL\r\nx\r\n\r\n", "NATS/1.0\r\nKV-Operation\r\n: DEL\r\n\r\n", "NATS/1.0\r\nA: \x00\xff\r\n\r\n", "\x00\x01\x02\x03\r\n\r\n"), "v")
	}},
	{"headers of every kind", func(p *pest) {
		var header strings.Builder
		for range 1 + p.random.IntN(5) {
			fmt.Fprintf(&header, "%s: %s\r\n", pick(p.random, neighbourHeaders...), pick(p.random, neighbourValues...))
		}
		p.publish(p.key(), header.String(), pick(p.random, "", "v", strings.Repeat("x", 1000)))
	}},
	{"forged large values", func(p *pest) {
		size := pick(p.random, 0, 1, codec.MaxValueLen, 1<<20)
		p.publish(p.key(), "KV-Object: "+(&codec.Object{Name: "evil" + strconv.Itoa(p.random.IntN(9)), Size: int64(size)}).String()+"\r\n", "")
	}},
	{"metadata of 60 KiB", func(p *pest) {
		p.publish(p.key(), "KV-Metadata: "+pick(p.random, strings.Repeat("[", 60_000), `"`+strings.Repeat("x", 60_000)+`"`, strings.Repeat(" ", 60_000)+"1")+"\r\n", "v")
	}},
	{"what are no keys", func(p *pest) {
		p.publish(neighbourSpace+"evil"+pick(p.random, ".=zz", "=61", "=2E.", "=3A", ".=", "=FF=FE", "=3A.=3A", strings.Repeat("=20", 600), "é"), "", "v")
	}},
	{"values of 5 MiB", func(p *pest) { p.publish(p.key(), "", strings.Repeat("x", 5<<20)) }},
	{"a flood", func(p *pest) {
		for range 500 {
			p.publish(neighbourSpace+"evil."+strconv.Itoa(p.random.IntN(1000)), "", "v")
		}
	}},
	{"expiries", func(p *pest) {
		p.publish(p.key(), "Nats-TTL: "+pick(p.random, "1s", "2s", "1", "-1", "0", "never", "9999999999h", "1.5s", "x")+"\r\nKV-Expires: "+
			pick(p.random, "0", "-1", "1", "99999999999999999999", "9223372036854775807", "x", strconv.FormatInt(time.Now().UnixMilli()+1, 10))+"\r\n", "v")
	}},
	{"many consumers", func(p *pest) {
		name := "evil" + strconv.Itoa(p.random.IntN(200))
		p.request("$JS.API.CONSUMER.CREATE.KV_"+labNamespace+"."+name, fmt.Sprintf(
			`{"stream_name":"KV_%s","action":"create","config":{"name":%q,"ack_policy":"explicit","deliver_policy":"all","inactive_threshold":60000000000}}`, labNamespace, name))
		p.request("$JS.API.CONSUMER.MSG.NEXT.KV_"+labNamespace+"."+name, `{"batch":1000}`)
	}},
	{"a storm of subscriptions", func(p *pest) {
		for range 200 {
			p.send(fmt.Sprintf("SUB %sevil.%d %d\r\n", neighbourSpace, p.random.IntN(10_000), 1000+p.random.IntN(10_000)))
		}
	}},
	{"a reader that does not read", func(p *pest) {
		p.deaf.Store(true)
		p.send("SUB " + neighbourSpace + "> 7\r\n")
		p.publish(p.key(), "", strings.Repeat("x", 100_000))
	}},
	{"accidents of an administrator", func(p *pest) {
		p.publish(p.key(), "", "v")
		stream := "KV_" + labNamespace
		p.request("$JS.API.STREAM.PURGE."+stream, `{"filter":"`+neighbourSpace+`evil.>"}`)
		p.request("$JS.API.STREAM.MSG.DELETE."+stream, `{"seq":99999999}`)
		p.request("$JS.API.STREAM.UPDATE."+stream, "{}")
		p.request("$JS.API.STREAM.SNAPSHOT."+stream, "x")
	}},
}

var (
	neighbourHeaders = []string{
		"KV-Operation", "KV-Metadata", "KV-Expires", "KV-Hides", "Nats-TTL", "KV-Write", "KV-Batch", "KV-Object", "Nats-Marker-Reason", "Nats-Msg-Id",
		"Nats-Expected-Last-Sequence", "Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit", "Nats-Sequence", "Nats-Subject", "kv-operation", "Status",
	}
	neighbourValues = []string{
		"", "DEL", "PURGE", "PUT", "1", "0", "-1", "1/1", "1/2", "2/2", "0/0", "1000/1000", "1001/1001", "2s", "never", "{}", "{", `"x"`, "null", "MaxAge",
		"99999999999999999999", "nobody 1 AAAA", "\x00", "\xff", "503",
	}
)

func pick[T any](random *rand.Rand, from ...T) T { return from[random.IntN(len(from))] }

func (p *pest) key() string { return neighbourSpace + "evil." + strconv.Itoa(p.random.IntN(20)) }

func (p *pest) publish(subject, headers, payload string) {
	if headers == "" {
		p.sent.Add(1)
		p.send(fmt.Sprintf("PUB %s %d\r\n%s\r\n", subject, len(payload), payload))
		return
	}
	p.raw(subject, "NATS/1.0\r\n"+headers+"\r\n", payload)
}

func (p *pest) raw(subject, block, payload string) {
	p.sent.Add(1)
	p.send(fmt.Sprintf("HPUB %s %d %d\r\n%s%s\r\n", subject, len(block), len(block)+len(payload), block, payload))
}

func (p *pest) request(subject, payload string) {
	p.sent.Add(1)
	p.send(fmt.Sprintf("PUB %s %s %d\r\n%s\r\n", subject, rawInbox, len(payload), payload))
}

// send writes to the server, by a new connection if it has had enough of the last one.
func (p *pest) send(text string) {
	conn := p.connection()
	if conn == nil {
		return
	}
	_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second)) // against a server that waits for who does not read
	if _, err := io.WriteString(conn, text); err != nil {
		p.drop(conn)
	}
}

func (p *pest) drop(conn net.Conn) {
	_ = conn.Close() // nothing of it is needed any more
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn == conn {
		p.conn = nil
	}
}

func (p *pest) connection() net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil || p.closed {
		return p.conn
	}
	conn, err := p.lab.server.InProcessConn()
	if err != nil {
		return nil
	}
	in := bufio.NewReader(conn)
	if _, err := in.ReadString('\n'); err != nil {
		return nil
	}
	p.conn = conn
	p.reads.Go(func() { p.read(conn, in) })
	_, _ = io.WriteString(conn, `CONNECT {"verbose":false,"headers":true,"no_responders":true,"protocol":1}`+"\r\nSUB "+rawInbox+" 1\r\n") // or the next fails
	return conn
}

func (p *pest) read(conn net.Conn, in *bufio.Reader) {
	defer p.drop(conn)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		if strings.HasPrefix(line, "PING") {
			p.send("PONG\r\n")
		}
		if !p.deaf.Load() {
			continue
		}
		select {
		case <-time.After(time.Second):
		case <-p.ended:
			return
		}
	}
}

func (p *pest) close() {
	p.mu.Lock()
	p.closed = true
	conn := p.conn
	p.mu.Unlock()
	close(p.ended)
	if conn != nil {
		p.drop(conn)
	}
	p.reads.Wait()
}

// street is three replicas of honest users beside one neighbour.
type street struct {
	*lab
	stores []*Store
	pest   *pest

	mu     sync.Mutex
	want   map[string]string   // by the keys of the honest
	told   []map[string]string // what each watch has told of them
	checks int
}

const (
	neighbourCheck  = 10 * time.Second // the CheckInterval
	neighbourRounds = 12
	honest          = "own."
)

// TestNeighbours has each neighbour do its worst beside three replicas under load. Nobody else's write, read, Sync, Watch,
// Export or Open takes longer than a CheckInterval of virtual time, nothing is served that the honest have not written, and
// memory stays bounded.
func TestNeighbours(t *testing.T) {
	seed := uint64(time.Now().UnixNano() >> 16)
	if text := os.Getenv("NEARKV_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("NEARKV_SEED=%d", seed)
	hostile, checks, virtual := int64(0), 0, time.Duration(0)
	inBubble(t, func(b bubble) {
		for i, n := range neighbours {
			b.lab(n.name, func(l *lab) {
				began := time.Now()
				s := newStreet(l, rand.New(rand.NewPCG(seed, uint64(i))))
				s.live(n.step)
				hostile, checks, virtual = hostile+s.pest.sent.Load(), checks+s.checks, virtual+time.Since(began)
			})
		}
	})
	t.Logf("soak: hostile=%d operations=%d virtual_seconds=%d", hostile, checks, int(virtual.Seconds()))
}

func newStreet(l *lab, random *rand.Rand) *street {
	s := &street{lab: l, want: make(map[string]string), pest: &pest{lab: l, random: random, ended: make(chan struct{})}}
	for i := range 3 {
		store, _ := l.open(Options{CheckInterval: neighbourCheck, CacheBytes: []int64{0, 2000, -1}[i]})
		s.stores = append(s.stores, store)
		s.watch(store)
	}
	return s
}

// watch notes what a Store tells of the keys of the honest.
func (s *street) watch(store *Store) {
	told := make(map[string]string)
	s.told = append(s.told, told)
	ctx, stop := context.WithCancel(s.ctx)
	var done sync.WaitGroup
	done.Go(func() {
		for e, err := range store.Watch(ctx, honest) {
			if err != nil {
				if ctx.Err() == nil {
					s.t.Errorf("Watch: %v", err)
				}
				continue
			}
			s.mu.Lock()
			if told[e.Entry.Key()] = e.Entry.Text(); e.Kind != EventPut {
				delete(told, e.Entry.Key())
			}
			s.mu.Unlock()
		}
	})
	s.cleanup = append(s.cleanup, func() { stop(); done.Wait() })
}

// live has the neighbour go on while the honest work, and checks them in each round.
func (s *street) live(step func(*pest)) {
	ctx, stop := context.WithCancel(s.ctx)
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			step(s.pest)
			time.Sleep(20 * time.Millisecond)
		}
	})
	defer func() {
		stop()
		s.pest.close()
		done.Wait()
	}()
	before := heapInUse()
	rounds := neighbourRounds
	if testing.Short() {
		rounds /= 3
	}
	for round := range rounds {
		for i, store := range s.stores {
			s.write(round, i, store)
		}
		for i, store := range s.stores {
			s.check(i, store)
		}
		time.Sleep(200 * time.Millisecond)
	}
	s.checkExport(s.stores[0])
	s.checkOpen()
	if used := heapInUse() - before; used > 1<<30 {
		s.t.Errorf("%d MiB of memory are in use, more than before", used>>20)
	}
}

func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// in runs a call of the honest, which is to end within a CheckInterval.
func (s *street) in(what string, f func(ctx context.Context) error) {
	s.t.Helper()
	s.checks++
	s.within(neighbourCheck, what, f)
}

func (s *street) write(round, i int, store *Store) {
	key := fmt.Sprintf("%s%d.%d", honest, i, round%5)
	value := fmt.Sprintf("%d of %d", round, i)
	s.in("Put", func(ctx context.Context) error {
		_, err := store.Put(ctx, key, []byte(value), WithMetadata(round))
		return err
	})
	s.want[key] = value
	if round%5 == 4 {
		s.in("Delete", func(ctx context.Context) error { return store.Delete(ctx, key) })
		delete(s.want, key)
	}
	s.in("Batch", func(ctx context.Context) error {
		_, err := store.Batch(ctx, OpPut(key+".a", []byte(value)), OpPut(key+".b", []byte(value)))
		return err
	})
	s.want[key+".a"], s.want[key+".b"] = value, value
}

// check compares what a replica has, and has told its watch, with what was written.
func (s *street) check(i int, store *Store) {
	s.in("Sync", store.Sync)
	got := make(map[string]string)
	for _, info := range keysOf(s.t, store, honest) {
		s.in("Get", func(ctx context.Context) error {
			e, err := store.Get(ctx, info.Name)
			got[info.Name] = e.Text()
			return err
		})
	}
	s.compare("the replica", got)
	s.in("Watch", func(ctx context.Context) error {
		for !s.isTold(i) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			time.Sleep(10 * time.Millisecond)
		}
		return nil
	})
	if st := store.Status(); st.State != Live {
		s.t.Errorf("the state is %v: %s", st.State, st.Reason)
	}
	if n := store.Stats().Resyncs; n > 1 {
		s.t.Errorf("the log was read %d times", n)
	}
}

func (s *street) isTold(i int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprint(s.told[i]) == fmt.Sprint(s.want)
}

func (s *street) compare(who string, got map[string]string) {
	s.t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(s.want) { // maps are printed in order
		s.t.Errorf("%s has %v, which should be %v", who, got, s.want)
	}
}

// checkExport wants all keys of the honest in an archive.
func (s *street) checkExport(store *Store) {
	var file bytes.Buffer
	s.in("Export", func(ctx context.Context) error {
		_, err := store.Export(ctx, &file, SkipDamaged(nil))
		return err
	})
	got := make(map[string]string)
	in, err := codec.NewArchiveReader(&file)
	s.must(err)
	for {
		entry, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		s.must(err)
		value, err := io.ReadAll(in)
		s.must(err)
		if !strings.HasPrefix(entry.Key, honest) {
			continue
		}
		if got[entry.Key] = string(value); entry.Op == codec.OpDelete {
			delete(got, entry.Key)
		}
	}
	s.compare("the archive", got)
}

// checkOpen opens another replica.
func (s *street) checkOpen() {
	var store *Store
	s.in("Open", func(ctx context.Context) (err error) {
		w := &wire{to: s.server}
		conn := s.connect(w)
		s.cleanup = append(s.cleanup, conn.Close)
		store, err = Open(ctx, labNamespace, Options{Conn: conn, Memory: true, CacheBytes: 1 << 20, CheckInterval: neighbourCheck})
		return err
	})
	if store == nil {
		return
	}
	s.cleanup = append(s.cleanup, func() { s.must(store.Close()) })
	got := make(map[string]string)
	for _, info := range keysOf(s.t, store, honest) {
		got[info.Name] = s.want[info.Name]
		s.want1(store, info.Name)
	}
	s.compare("a new replica", got)
}

func (s *street) want1(store *Store, key string) {
	s.t.Helper()
	s.in("Get", func(ctx context.Context) error {
		e, err := store.Get(ctx, key)
		if err == nil && e.Text() != s.want[key] {
			err = fmt.Errorf("%q is %q, which should be %q", key, e.Text(), s.want[key])
		}
		return err
	})
}
