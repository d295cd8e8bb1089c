package kvstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

func (l *lab) batch(s *Store, ops ...Op) Revision {
	l.t.Helper()
	revision, err := s.Batch(l.ctx, ops...)
	l.must(err)
	return revision
}

func (l *lab) wantAbsent(s *Store, key string) {
	l.t.Helper()
	if e, err := s.Get(l.ctx, key); !errors.Is(err, ErrNotFound) {
		l.t.Errorf("Get %q: %.20q, %v", key, e.Text(), err)
	}
}

func TestBatch(t *testing.T) {
	inLab(t, func(l *lab) {
		near, _ := l.open(Options{})
		far, _ := l.open(Options{})
		l.put(near, "old", "old")
		gone := l.put(near, "gone", "old", WithTTL(time.Hour))
		large := largeValue("batch", largeSize)
		last := l.batch(near,
			OpPut("new", []byte("1"), IfAbsent(), WithMetadata("m")),
			OpPut("old", []byte("2")),
			OpPut("large", []byte(large)),
			OpPut("expires", []byte("3"), WithTTL(time.Minute)),
			OpDelete("gone", IfRevision(gone)),
			OpDelete("never"),
		)
		for _, s := range []*Store{near, far} {
			l.must(s.Sync(l.ctx))
			if e := l.want(s, "new", "1"); e.Revision() != last-5 || string(e.Metadata()) != `"m"` {
				t.Errorf("new is at %d with %s, the batch ends at %d", e.Revision(), e.Metadata(), last)
			}
			l.want(s, "old", "2")
			l.want(s, "large", large)
			l.want(s, "expires", "3")
			l.wantAbsent(s, "gone")
			l.wantAbsent(s, "never")
		}
		time.Sleep(time.Minute)
		l.wantAbsent(far, "expires")
		if revision := l.batch(near); revision != 0 {
			t.Errorf("the empty batch has revision %d", revision)
		}
		if revision := l.batch(near, OpPut("single", []byte("1"))); revision <= last {
			t.Errorf("a batch of one has revision %d, after %d", revision, last)
		}
		l.want(near, "single", "1")
	})
}

func TestBatchConflict(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		other, _ := l.open(Options{})
		l.put(s, "c", "old")
		revision := l.put(s, "b", "old")
		for name, c := range map[string]struct {
			op     Op
			actual bool
		}{
			"is there":       {OpPut("b", nil, IfAbsent()), true},
			"is not there":   {OpPut("a", nil, IfRevision(revision)), false},
			"moved on":       {OpPut("b", nil, IfRevision(revision-1)), true},
			"delete":         {OpDelete("c", IfRevision(revision+9)), true},
			"large":          {OpPut("b", []byte(largeValue("x", largeSize)), IfAbsent()), true},
			"delete nothing": {OpDelete("a", IfRevision(revision)), false},
		} {
			_, err := s.Batch(l.ctx, OpPut("x", []byte("1")), OpDelete("y"), c.op, OpPut("z", []byte(largeValue("z", largeSize))))
			conflict, ok := errors.AsType[*ConflictError](err)
			if !ok || conflict.Key != c.op.key || (conflict.Actual != 0) != c.actual {
				t.Errorf("%s: %v", name, err)
			}
		}
		// What this replica does not know yet the log does.
		l.put(other, "b", "new")
		_, err := s.Batch(l.ctx, OpPut("x", []byte("1")), OpPut("b", nil, IfRevision(revision)))
		if conflict, ok := errors.AsType[*ConflictError](err); !ok || conflict.Key != "b" {
			t.Error(err)
		}
		for _, key := range []string{"a", "x", "y", "z"} {
			l.wantAbsent(s, key)
		}
		l.want(s, "b", "new")
		time.Sleep(time.Second)
		l.wantObjects(s, 0)
	})
}

func TestBatchBadInput(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		many := make([]Op, MaxBatch+1)
		for i := range many {
			many[i] = OpPut(fmt.Sprint(i), nil)
		}
		wide := make([]Op, 200)
		for i := range wide {
			wide[i] = OpPut(fmt.Sprint(i), make([]byte, DefaultInlineBytes))
		}
		for name, c := range map[string]struct {
			ops  []Op
			want error
		}{
			"two of one key": {[]Op{OpPut("a", nil), OpDelete("a")}, ErrInvalidOptions},
			"zero Op":        {[]Op{OpPut("a", nil), {}}, ErrInvalidOptions},
			"key":            {[]Op{OpPut("a", nil), OpPut("", nil)}, ErrInvalidKey},
			"TTL":            {[]Op{OpPut("a", nil), OpPut("b", nil, WithTTL(1))}, ErrInvalidExpiry},
			"too many":       {many, ErrTooLarge},
			"too large":      {wide, ErrTooLarge},
		} {
			if _, err := s.Batch(l.ctx, c.ops...); !errors.Is(err, c.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := s.Stats().Keys; n != 0 {
			t.Errorf("there are %d keys", n)
		}
		l.batch(s, many[:MaxBatch]...)
		if n := s.Stats().Keys; n != MaxBatch {
			t.Errorf("there are %d keys", n)
		}
		l.must(s.Close())
		if _, err := s.Batch(l.ctx, OpPut("a", nil)); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

func TestBatchUnsupported(t *testing.T) {
	inLab(t, func(l *lab) {
		l.bucket(jetstream.KeyValueConfig{})
		s, _ := l.open(Options{})
		if _, err := s.Batch(l.ctx, OpPut("a", nil)); !errors.Is(err, ErrUnsupported) {
			t.Error(err)
		}
	})
}

// batchWriter writes batches of which each has a number: to a and b, or to b and c.
// So in every snapshot b has the greater of the numbers of a and c. Each fills the
// batch with other keys, so that its parts do not come together by chance.
func (l *lab) batchWriter(s *Store, i int) error {
	number := []byte(strconv.Itoa(i))
	keys := []string{"a", "b"}
	if rand.IntN(2) == 0 {
		keys = []string{"b", "c"}
	}
	var ops []Op
	for j := range 20 {
		ops = append(ops, OpPut(fmt.Sprintf("x%02d", j), number))
	}
	ops = append(ops, OpPut(keys[0], number, WithMetadata(i)))
	for j := range 20 {
		ops = append(ops, OpPut(fmt.Sprintf("y%02d", j), number))
	}
	_, err := s.Batch(l.ctx, append(ops, OpPut(keys[1], number, WithMetadata(i)))...)
	return err
}

// numbers are those of a, b and c.
type numbers [3]int

func (n numbers) whole() bool { return n[1] == max(n[0], n[2]) }

func numbersOf(t *testing.T, text func(key string) string) (n numbers) {
	for i, key := range []string{"a", "b", "c"} {
		if s := text(key); s != "" {
			var err error
			if n[i], err = strconv.Atoi(s); err != nil {
				t.Error(err)
			}
		}
	}
	return n
}

func lookAll(t *testing.T, s *Store) numbers {
	all, err := s.GetAll(context.Background(), []string{"a", "b", "c"})
	if err != nil {
		t.Error(err)
	}
	return numbersOf(t, func(key string) string { return all[key].Text() })
}

func lookKeys(t *testing.T, s *Store) numbers {
	seen := make(map[string]string)
	for _, k := range keysOf(t, s, "") {
		seen[k.Name] = string(k.Metadata)
	}
	return numbersOf(t, func(key string) string { return seen[key] })
}

// TestBatchIsNeverHalf: readers of the Store that writes batches, and of others
// that are behind and lose their connections, see all of a batch or nothing.
func TestBatchIsNeverHalf(t *testing.T) {
	rounds := 400
	if testing.Short() {
		rounds = 60
	}
	for name, cache := range map[string]int64{"values in memory": 0, "values in the log": -1} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				near, _ := l.open(Options{CacheBytes: cache})
				far, w := l.open(Options{CacheBytes: cache, CheckInterval: 10 * time.Millisecond})
				ctx, cancel := context.WithCancel(l.ctx)
				var readers sync.WaitGroup
				looks := 0
				var mu sync.Mutex
				look := func(what string, s *Store, look func(*testing.T, *Store) numbers) {
					readers.Go(func() {
						for ctx.Err() == nil {
							if n := look(t, s); !n.whole() {
								t.Errorf("%s: a, b, c are %v", what, n)
								return
							}
							mu.Lock()
							looks++
							mu.Unlock()
							time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond)
						}
					})
				}
				look("GetAll, near", near, lookAll)
				look("GetAll, far", far, lookAll)
				look("Keys, near", near, lookKeys)
				look("Keys, far", far, lookKeys)
				readers.Go(func() {
					for event, err := range far.Watch(ctx, "") {
						if n := lookAll(t, far); err != nil || !n.whole() {
							t.Errorf("Watch: %v of %q, %v: a, b, c are %v", event.Kind, event.Entry.Key(), err, n)
							return
						}
					}
				})
				for i := range rounds {
					l.must(l.batchWriter(near, i+1))
					if i%20 == 10 { // it comes back to find that parts of batches were replaced
						w.setDown(true)
						time.AfterFunc(time.Duration(rand.IntN(200))*time.Millisecond, func() { w.setDown(false) })
					}
					time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
				}
				w.setDown(false)
				l.must(far.Sync(l.ctx))
				cancel()
				readers.Wait()
				if near, far := lookAll(t, near), lookAll(t, far); near != far || max(near[0], near[2]) != rounds {
					t.Errorf("in the end %v and %v", near, far)
				}
				t.Logf("%d looks", looks)
			})
		})
	}
}

// TestBatchFaults: of batches that count, on connections that are cut, each counts
// once or not at all, and always both counters.
func TestBatchFaults(t *testing.T) {
	inLab(t, func(l *lab) {
		var writers sync.WaitGroup
		acknowledged, uncertain := 0, 0
		var mu sync.Mutex
		for range 4 {
			s, w := l.open(Options{})
			w.setLimit(func() int { return 20_000 + rand.IntN(40_000) })
			w.cut()
			writers.Go(func() {
				for range 30 {
					err := countBoth(l.ctx, s)
					mu.Lock()
					switch {
					case err == nil:
						acknowledged++
					case errors.Is(err, ErrIndeterminate):
						uncertain++
					case !errors.Is(err, ErrConflict) && !errors.Is(err, ErrUnavailable):
						t.Error(err)
					}
					mu.Unlock()
				}
			})
		}
		writers.Wait()
		s, _ := l.open(Options{})
		all, err := s.GetAll(l.ctx, []string{"one", "two"})
		l.must(err)
		n, err := strconv.Atoi(all["one"].Text())
		l.must(err)
		if all["one"].Text() != all["two"].Text() || n < acknowledged || n > acknowledged+uncertain {
			t.Errorf("one is %s, two is %s; %d acknowledged, %d uncertain", all["one"].Text(), all["two"].Text(), acknowledged, uncertain)
		}
		t.Logf("%d acknowledged, %d uncertain, counted %d", acknowledged, uncertain, n)
	})
}

// countBoth adds one to two counters, until nobody is in the way.
func countBoth(ctx context.Context, s *Store) error {
	for {
		all, err := s.GetAll(ctx, []string{"one", "two"})
		if err != nil {
			return err
		}
		var ops []Op
		for _, key := range []string{"one", "two"} {
			is := IfAbsent()
			n := 0
			if e, ok := all[key]; ok {
				is = IfRevision(e.Revision())
				n, _ = strconv.Atoi(e.Text())
			}
			ops = append(ops, OpPut(key, []byte(strconv.Itoa(n+1)), is))
		}
		if _, err = s.Batch(ctx, ops...); !errors.Is(err, ErrConflict) {
			return err
		}
		if err := s.Sync(ctx); err != nil {
			return err
		}
	}
}

// TestBatchInterop: what a batch writes, others can read with any client.
func TestBatchInterop(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		l.batch(s, OpPut("a", []byte("1")), OpPut("b", []byte("2")))
		kv, err := l.js.KeyValue(l.ctx, labNamespace)
		l.must(err)
		for key, want := range map[string]string{"a": "1", "b": "2"} {
			e, err := kv.Get(l.ctx, key)
			l.must(err)
			if string(e.Value()) != want || !strings.Contains(e.Bucket(), labNamespace) {
				t.Errorf("%s is %q", key, e.Value())
			}
		}
	})
}
