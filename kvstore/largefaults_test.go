package kvstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nearkv/nearkv/codec"
)

// TestLargeDamaged: an object that is missing or damaged is told with key and
// revision; all else goes on.
func TestLargeDamaged(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		value := largeValue("damaged", largeSize)
		for name, damage := range map[string]func(chunks string){
			"missing": func(chunks string) {
				l.must(l.objectStream().Purge(l.ctx, jetstream.WithPurgeSubject(chunks)))
			},
			"cut": func(chunks string) {
				l.must(l.objectStream().Purge(l.ctx, jetstream.WithPurgeSubject(chunks), jetstream.WithPurgeKeep(2)))
			},
			"another": func(chunks string) {
				l.must(l.objectStream().Purge(l.ctx, jetstream.WithPurgeSubject(chunks)))
				_, err := l.js.Publish(l.ctx, chunks, make([]byte, largeSize))
				l.must(err)
			},
		} {
			revision := l.put(s, "key", value)
			damage("$O." + labNamespace + ".C." + s.index.lookUp("key").object)
			wanted := func(how string, err error) {
				t.Helper()
				e, ok := errors.AsType[*ValueError](err)
				if !ok || !errors.Is(err, ErrDamaged) || e.Key != "key" || e.Revision != revision {
					t.Errorf("%s, %s: %v", name, how, err)
				}
			}
			_, err := s.Get(l.ctx, "key")
			wanted("Get", err)
			_, err = s.GetAll(l.ctx, []string{"key"})
			wanted("GetAll", err)
			_, err = NewView(s, codec.JSON[json.RawMessage]()).Get(l.ctx, "key")
			wanted("View", err)
			e, err := s.Get(l.ctx, "key", Lazy())
			l.must(err)
			r, err := e.Open(l.ctx)
			l.must(err)
			_, err = io.ReadAll(r)
			wanted("Open", err)
			l.must(r.Close())
			for event, err := range s.Watch(l.ctx, "") {
				wanted("Watch", err)
				if event.Entry.Key() != "key" || event.Entry.Revision() != revision {
					t.Errorf("%s: event of %q at %d", name, event.Entry.Key(), event.Entry.Revision())
				}
				break
			}
			l.put(s, "key", "mended")
			l.want(s, "key", "mended")
		}
		if s.Stats().Damaged == 0 {
			t.Error("Stats do not tell")
		}
	})
}

// TestLargeWriters: of several writers of one key each writes a whole value, and
// what is left in the end is the object of the last.
func TestLargeWriters(t *testing.T) {
	inLab(t, func(l *lab) {
		near, _ := l.open(Options{CheckInterval: time.Minute})
		far, _ := l.open(Options{CheckInterval: time.Minute})
		var writers sync.WaitGroup
		values := make(map[string]bool)
		for i, s := range []*Store{near, far, near, far} {
			for j := range 5 {
				value := largeValue(fmt.Sprintf("%d.%d", i, j), largeSize+i*1000+j)
				values[value] = true
				writers.Go(func() {
					if _, err := s.PutFrom(l.ctx, "key", unsized(value)); err != nil {
						t.Error(err)
					}
				})
			}
		}
		writers.Wait()
		l.must(near.Sync(l.ctx), far.Sync(l.ctx))
		e, err := near.Get(l.ctx, "key")
		if l.must(err); !values[e.Text()] {
			t.Error("the value is none of those that were written")
		}
		l.want(far, "key", e.Text())
		time.Sleep(2*orphanAge + sweepEvery)
		l.wantObjects(near, 1)
		l.want(far, "key", e.Text())
	})
}

// TestLargeConditions: of several writers that want the key to be absent one
// succeeds, and the objects of the others are gone at once.
func TestLargeConditions(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		var writers sync.WaitGroup
		var mu sync.Mutex
		won := ""
		for i := range 8 {
			writers.Go(func() {
				value := largeValue(fmt.Sprint(i), largeSize)
				_, err := s.PutFrom(l.ctx, "key", unsized(value), IfAbsent())
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil && won == "":
					won = value
				case !errors.Is(err, ErrConflict):
					t.Errorf("writer %d: %v", i, err)
				}
			})
		}
		writers.Wait()
		e := l.want(s, "key", won)
		time.Sleep(time.Second)
		l.wantObjects(s, 1)

		read := false
		_, err := s.PutFrom(l.ctx, "key", readerFunc(func([]byte) (int, error) { read = true; return 0, io.EOF }), IfRevision(e.Revision()+1))
		if c, ok := errors.AsType[*ConflictError](err); !ok || c.Key != "key" {
			t.Error(err)
		}
		_ = read // a short value is read first: whether it is large is to be known
		if _, err := s.PutFrom(l.ctx, "key", unsized(largeValue("next", largeSize)), IfRevision(e.Revision())); err != nil {
			t.Error(err)
		}
	})
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestLargeBrokenReader: a reader that fails leaves everything as it was.
func TestLargeBrokenReader(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		l.put(s, "key", "old")
		broken := errors.New("broken")
		for _, size := range []int{10, largeSize} {
			_, err := s.PutFrom(l.ctx, "key", io.MultiReader(unsized(largeValue("x", size)), iotest.ErrReader(broken)))
			if !errors.Is(err, broken) || errors.Is(err, ErrIndeterminate) {
				t.Errorf("after %d bytes: %v", size, err)
			}
		}
		if _, err := s.PutFrom(l.ctx, "key", nil); !errors.Is(err, ErrInvalidOptions) {
			t.Error(err)
		}
		if _, err := s.PutFrom(l.ctx, "", iotest.ErrReader(broken)); !errors.Is(err, ErrInvalidKey) {
			t.Errorf("the reader was read before the key was checked: %v", err)
		}
		l.want(s, "key", "old")
		synctest.Wait()
		l.wantObjects(s, 0)
	})
}

// TestLargeCut: Put goes on when the connection is back, PutFrom if it can read
// again; else nothing is written.
func TestLargeCut(t *testing.T) {
	inLab(t, func(l *lab) {
		s, w := l.open(Options{WriteTimeout: -1})
		value := largeValue("cut", 4<<20)
		cutAt := func(r io.ReadSeeker) io.ReadSeeker { return &cutter{ReadSeeker: r, wire: w, left: 1 << 20} }
		_, err := s.PutFrom(l.ctx, "seeker", cutAt(strings.NewReader(value)))
		l.must(err)
		l.want(s, "seeker", value)
		_, err = s.PutFrom(l.ctx, "reader", io.MultiReader(cutAt(strings.NewReader(value))))
		if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrIndeterminate) {
			t.Errorf("a reader that cannot be read again: %v", err)
		}
		if _, err := s.Get(l.ctx, "reader"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		w.setDown(true)
		time.AfterFunc(DefaultWriteTimeout/2, func() { w.setDown(false) })
		l.put(s, "put", value)
		l.want(s, "put", value)
	})
}

// cutter cuts a connection when so much of it was read.
type cutter struct {
	io.ReadSeeker
	wire *wire
	left int
}

func (c *cutter) Read(p []byte) (int, error) {
	if c.left -= len(p); c.left <= 0 && c.wire != nil {
		c.wire.cut()
		c.wire = nil
	}
	return c.ReadSeeker.Read(p)
}

// TestLargeBulk: PutAll and DeletePrefix take large values with the others.
func TestLargeBulk(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{CheckInterval: time.Minute})
		value := func(i int) string {
			if i%20 == 0 {
				return largeValue(fmt.Sprint(i), largeSize)
			}
			return fmt.Sprint(i)
		}
		for range 2 { // the second time they replace the first
			n, err := s.PutAll(l.ctx, func(yield func(Pair) bool) {
				for i := range 200 {
					if !yield(Pair{Key: fmt.Sprintf("k%03d", i), Value: []byte(value(i)), Metadata: i}) {
						return
					}
				}
			})
			if err != nil || n != 200 {
				t.Fatal(n, err)
			}
		}
		for i := range 200 {
			l.want(s, fmt.Sprintf("k%03d", i), value(i))
		}
		l.wantObjects(s, 20)
		time.Sleep(grace + time.Second)
		l.wantObjects(s, 10)
		if n, err := s.DeletePrefix(l.ctx, "k"); err != nil || n != 200 {
			t.Fatal(n, err)
		}
		time.Sleep(grace + time.Second)
		l.wantObjects(s, 0)
	})
}

// TestLargeReopened: what was written before a Store is opened is read as well.
func TestLargeReopened(t *testing.T) {
	inBubble(t, func(b bubble) {
		b.labOnDisk("", func(l *lab) {
			s, _ := l.open(Options{})
			value := largeValue("reopened", largeSize)
			l.put(s, "key", value)
			l.goBackTo(l.copyDir())
			again, _ := l.open(Options{})
			l.want(again, "key", value)
		})
	})
}

func TestLargeAfterClose(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{CacheBytes: -1})
		l.put(s, "key", largeValue("closed", 4<<20))
		e, err := s.Get(l.ctx, "key", Lazy())
		l.must(err)
		r, err := e.Open(l.ctx)
		l.must(err)
		_, err = io.ReadFull(r, make([]byte, 10))
		l.must(err, s.Close())
		if _, err := io.ReadAll(r); !errors.Is(err, ErrClosed) {
			t.Errorf("reading on: %v", err)
		}
		l.must(r.Close())
		if _, err := e.Open(l.ctx); !errors.Is(err, ErrClosed) {
			t.Errorf("Open: %v", err)
		}
		if _, err := s.PutFrom(l.ctx, "key", zeros{}); !errors.Is(err, ErrClosed) {
			t.Errorf("PutFrom: %v", err)
		}
	})
}

func TestLargeContext(t *testing.T) {
	inLab(t, func(l *lab) {
		s, w := l.open(Options{CacheBytes: -1})
		l.put(s, "key", largeValue("context", 4<<20))
		e, err := s.Get(l.ctx, "key", Lazy())
		l.must(err)
		w.setDown(true)
		defer w.setDown(false)
		ctx, cancel := context.WithTimeout(l.ctx, time.Second)
		defer cancel()
		r, err := e.Open(ctx)
		l.must(err)
		if _, err := io.ReadAll(r); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Open: %v", err)
		}
		l.must(r.Close())
		if _, err := s.Get(ctx, "key"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("Get: %v", err)
		}
		if _, err := s.PutFrom(ctx, "key", zeros{}); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrIndeterminate) {
			t.Errorf("PutFrom: %v", err)
		}
	})
}
