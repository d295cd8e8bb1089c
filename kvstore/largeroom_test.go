package kvstore

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Objects that were replaced go when there is no room for a new one, whoever has
// replaced them, and those that are still needed stay.
func TestLargeMakesRoom(t *testing.T) {
	const size = 3 << 20
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{MaxBytes: 10 << 20, CacheBytes: -1})
		other, _ := l.open(Options{CacheBytes: -1})
		kept := largeValue("kept", size)
		l.put(s, "kept", kept)
		for i, id := range []string{"a", "b", "c", "d", "e", "f"} {
			value := largeValue(id, size)
			to := []*Store{s, other}[i/2%2]
			l.must(to.Sync(l.ctx))
			switch i % 3 {
			case 0:
				l.put(to, "key", value)
			case 1:
				_, err := to.PutFrom(l.ctx, "key", strings.NewReader(value))
				l.must(err)
			case 2:
				_, err := to.Batch(l.ctx, OpPut("key", []byte(value)))
				l.must(err)
			}
			l.must(s.Sync(l.ctx), other.Sync(l.ctx))
			l.want(s, "key", value)
			l.want(other, "kept", kept)
		}
		l.must(s.Delete(l.ctx, "key"))
		l.put(s, "more", largeValue("more", size))
		l.put(s, "key", largeValue("again", size))
		if _, err := s.Put(l.ctx, "most", make([]byte, 2*size)); !errors.Is(err, ErrNoSpace) {
			t.Errorf("more than there is room for: %v", err)
		}
		l.want(s, "kept", kept)
		l.want(s, "more", largeValue("more", size))
	})
}

// A Store that closes leaves no object behind that it has replaced.
func TestLargeClose(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		for _, id := range []string{"a", "b", "c"} {
			short, _ := l.open(Options{})
			l.put(short, "key", largeValue(id, largeSize))
			l.must(short.Close())
			synctest.Wait()
			l.wantObjects(s, 1)
			l.must(s.Sync(l.ctx))
			l.want(s, "key", largeValue(id, largeSize))
		}
		// One that dies is succeeded by those who have seen what it did.
		short, w := l.open(Options{})
		l.put(short, "key", largeValue("last", largeSize))
		l.must(s.Sync(l.ctx))
		w.setDown(true)
		l.must(short.Close())
		l.wantObjects(s, 2)
		time.Sleep(2 * sweepEvery)
		l.wantObjects(s, 1)
		l.want(s, "key", largeValue("last", largeSize))
	})
}

// A large value is in the log whose acknowledgement was lost, and which was replaced
// and its object removed before its writer looks: it is uploaded again.
func TestLargeIsUploadedAgain(t *testing.T) {
	inLab(t, func(l *lab) {
		s, w := l.open(Options{CacheBytes: -1, WriteTimeout: -1})
		other, _ := l.open(Options{CacheBytes: -1})
		l.put(s, "key", "old")
		value := largeValue("first", largeSize)
		done := make(chan error, 1)
		uploaded := func() bool { return len(l.objects(other)) == 1 }
		before := l.stream().CachedInfo().State.LastSeq
		w.delay.Store(int64(time.Millisecond)) // so that it goes deaf after the upload and before the acknowledgement
		go func() {
			_, err := s.Put(l.ctx, "key", []byte(value))
			done <- err
		}()
		for !uploaded() || l.stream().CachedInfo().State.LastSeq == before {
			time.Sleep(100 * time.Microsecond)
		}
		w.deafen()
		l.must(other.Sync(l.ctx))
		l.put(other, "key", largeValue("second", largeSize))
		if !other.makeRoom(l.ctx) {
			t.Error("nothing was removed")
		}
		time.Sleep(time.Minute)
		w.delay.Store(0)
		w.cut()
		l.must(<-done, other.Sync(l.ctx))
		l.want(other, "key", value)
	})
}

// The disk is asked for what a write needs.
func TestDiskIsAskedForEnough(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		var asked int
		s.backend.disk.probe = func(n int) error {
			asked = max(asked, n)
			return nil
		}
		value := make([]byte, 2<<20)
		half := value[:DefaultInlineBytes]
		for name, tc := range map[string]struct {
			least int
			write func() error
		}{
			"Put":       {len(half), func() error { _, err := s.Put(l.ctx, "k", half); return err }},
			"Put large": {len(value), func() error { _, err := s.Put(l.ctx, "k", value); return err }},
			"PutFrom": {len(value), func() error {
				_, err := s.PutFrom(l.ctx, "k", strings.NewReader(string(value)))
				return err
			}},
			"Batch": {2 * len(half), func() error {
				_, err := s.Batch(l.ctx, OpPut("a", half), OpPut("b", half))
				return err
			}},
			"PutAll": {len(half), func() error {
				_, err := s.PutAll(l.ctx, func(yield func(Pair) bool) { yield(Pair{Key: "k", Value: half}) })
				return err
			}},
		} {
			asked = 0
			s.backend.disk.failed()
			if err := tc.write(); err != nil || asked < tc.least {
				t.Errorf("%s: the disk is asked for %d bytes, not %d; %v", name, asked, tc.least, err)
			}
		}
	})
}
