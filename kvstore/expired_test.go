package kvstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearkv/nearkv/codec"
)

// lateTTL is the TTL of the writes that are late.
const lateTTL = time.Minute

// expiringWrites are all ways to write an entry with an expiry. Each writes "k".
var expiringWrites = map[string]func(l *lab, s *Store) (Revision, error){
	"Put": func(l *lab, s *Store) (Revision, error) {
		return s.Put(l.ctx, "k", []byte("new"), WithTTL(lateTTL))
	},
	"Put WithExpiry": func(l *lab, s *Store) (Revision, error) {
		return s.Put(l.ctx, "k", []byte("new"), WithExpiry(time.Now().Add(lateTTL)))
	},
	"Put IfAbsent": func(l *lab, s *Store) (Revision, error) {
		return s.Put(l.ctx, "absent", []byte("new"), WithTTL(lateTTL), IfAbsent())
	},
	"Put large": func(l *lab, s *Store) (Revision, error) {
		return s.Put(l.ctx, "k", make([]byte, 300<<10), WithTTL(lateTTL))
	},
	"PutFrom": func(l *lab, s *Store) (Revision, error) {
		return s.PutFrom(l.ctx, "k", bytes.NewReader(make([]byte, 300<<10)), WithTTL(lateTTL))
	},
	"Batch": func(l *lab, s *Store) (Revision, error) {
		return s.Batch(l.ctx, OpPut("k", []byte("new"), WithTTL(lateTTL)), OpPut("other", []byte("new")))
	},
	"PutAll": func(l *lab, s *Store) (Revision, error) {
		_, err := s.PutAll(l.ctx, slices.Values([]Pair{{Key: "k", Value: []byte("new"), TTL: lateTTL}}))
		return 0, err
	},
	"View.Put": func(l *lab, s *Store) (Revision, error) {
		return NewView(s, codec.Raw()).Put(l.ctx, "k", []byte("new"), WithTTL(lateTTL))
	},
	"View.Update": func(l *lab, s *Store) (Revision, error) {
		_, err := NewView(s, codec.Raw()).Update(l.ctx, "k", func([]byte) ([]byte, error) { return []byte("new"), nil }, WithTTL(lateTTL))
		return 0, err
	},
}

// troubles keep an acknowledgement from coming before the entry has expired.
var troubles = map[string]struct {
	begin, end func(w *wire)
	unsent     bool // nothing gets to the server
}{
	"the log is away":             {func(w *wire) { w.setDown(true) }, func(w *wire) { w.setDown(false) }, true},
	"the acknowledgement is lost": {(*wire).deafen, (*wire).cut, false},
	"the answer is late": {
		func(w *wire) { w.delay.Store(int64(4 * time.Second)) }, func(w *wire) { w.delay.Store(0); w.cut() }, false,
	},
	"the request is late": {(*wire).stall, (*wire).resume, false},
}

// A write whose entry expires before the log has acknowledged it fails with
// ErrExpired, at that moment, and says as much as can be known of what the log has.
func TestExpiredBeforeAcknowledgement(t *testing.T) {
	inBubble(t, func(b bubble) {
		for kind, write := range expiringWrites {
			for name, trouble := range troubles {
				b.lab(kind+", "+name, func(l *lab) {
					s, w := l.open(Options{WriteTimeout: -1})
					l.put(s, "other", "old")
					old := l.put(s, "k", "old")
					before := time.Now()
					time.AfterFunc(lateTTL+10*time.Second, func() { trouble.end(w) })
					trouble.begin(w)
					synctest.Wait()
					revision, err := write(l, s)
					took := time.Since(before)
					if name == "the answer is late" && err == nil && took < lateTTL {
						return // of a write that asks once it came in time
					}
					if !errors.Is(err, ErrExpired) {
						t.Fatalf("%s, %s: %d, %v after %v", kind, name, revision, err, took)
					}
					if took > lateTTL+time.Second && kind != "PutAll" {
						t.Errorf("%s, %s: it took %v", kind, name, took)
					}
					if trouble.unsent && errors.Is(err, ErrIndeterminate) {
						t.Errorf("%s, %s: nothing was sent, and the error is %v", kind, name, err)
					}
					time.Sleep(time.Minute)
					ctx, cancel := context.WithTimeout(l.ctx, time.Hour)
					defer cancel()
					if err := s.Sync(ctx); err != nil {
						t.Fatalf("%s, %s: %v", kind, name, err)
					}
					after, gone := s.Get(l.ctx, "k")
					nothing := revision == 0 && !errors.Is(err, ErrIndeterminate) && kind != "PutAll" && kind != "View.Update" // they return no revision
					if nothing && (gone != nil || after.Revision() != old) {
						t.Errorf("%s, %s: %v, and the key is at %d, %v", kind, name, err, after.Revision(), gone)
					}
					if e, err := s.Get(l.ctx, "absent"); !errors.Is(err, ErrNotFound) {
						t.Errorf("%s, %s: the absent key is %q, %v", kind, name, e.Text(), err)
					}
				})
			}
		}
	})
}

// With a lock that is taken by IfAbsent and a TTL, whatever is lost or late, nobody
// has it whose TTL has not passed when somebody else is told that they have it.
func TestLockHasOneHolder(t *testing.T) {
	inLab(t, func(l *lab) {
		var mu sync.Mutex
		var holder int
		var until time.Time
		taken, late := 0, 0
		var wires []*wire
		var holders sync.WaitGroup
		end := time.Now().Add(time.Hour)
		for id := range 3 {
			s, w := l.open(Options{WriteTimeout: -1})
			wires = append(wires, w)
			holders.Go(func() {
				random := rand.New(rand.NewPCG(*faultSeed, uint64(id)))
				for time.Now().Before(end) {
					ttl := time.Duration(1+random.IntN(3)) * time.Second
					expires := time.Now().Add(ttl)
					_, err := s.Put(l.ctx, "lock", nil, IfAbsent(), WithTTL(ttl))
					mu.Lock()
					switch {
					case err == nil && time.Now().Before(until):
						l.t.Errorf("%d has the lock, for %v more, and so has %d", holder, time.Until(until), id)
					case err == nil && !time.Now().Before(expires):
						l.t.Errorf("%d has a lock that has expired", id)
					case errors.Is(err, ErrExpired):
						late++
					}
					if err == nil {
						taken++
						holder, until = id, expires
					}
					mu.Unlock()
					time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
				}
			})
		}
		random := rand.New(rand.NewPCG(*faultSeed, 100))
		for time.Now().Before(end) {
			w := wires[random.IntN(len(wires))]
			away := time.Duration(random.IntN(4000)) * time.Millisecond
			switch random.IntN(4) {
			case 0:
				w.setDown(true)
				time.Sleep(away)
				w.setDown(false)
			case 1:
				w.deafen()
				time.Sleep(away)
				w.cut()
			case 2:
				w.stall()
				time.Sleep(away)
				w.resume()
			case 3:
				w.delay.Store(int64(away / 2))
				time.Sleep(2 * away)
				w.delay.Store(0)
			}
			time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
		}
		holders.Wait()
		if l.t.Logf("the lock was taken %d times, and %d times too late", taken, late); taken < 100 || late < 10 {
			l.t.Error("that is not enough")
		}
	})
}

// An entry of an import that expires on the way is left out. If the file may have an
// earlier value of its key, the key is deleted.
func TestImportExpiresOnTheWay(t *testing.T) {
	files := map[string]func(s *Store, l *lab, cut io.Reader) (ImportInfo, error){
		"an archive": func(s *Store, l *lab, cut io.Reader) (ImportInfo, error) {
			return s.Import(l.ctx, io.MultiReader(archiveHead(l), cut, archiveRest(l)))
		},
		"bulk JSON": func(s *Store, l *lab, cut io.Reader) (ImportInfo, error) {
			json := fmt.Sprintf(`[{"key":"k","value":"new","expiration_ttl":%d}]`, int(lateTTL.Seconds()))
			return s.ImportJSON(l.ctx, io.MultiReader(cut, strings.NewReader(json)))
		},
	}
	inBubble(t, func(b bubble) {
		for name, imported := range files {
			b.lab(name, func(l *lab) {
				s, w := l.open(Options{WriteTimeout: -1})
				l.put(s, "k", "old")
				l.put(s, "changed", "old")
				cut := readerFunc(func([]byte) (int, error) {
					w.setDown(true)
					time.AfterFunc(lateTTL+time.Second, func() { w.setDown(false) })
					return 0, io.EOF
				})
				info, err := imported(s, l, cut)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				l.want(s, "k", "old")
				if name == "bulk JSON" {
					if info.Expired != 1 || info.Written != 0 {
						t.Errorf("%s: %+v", name, info)
					}
					return
				}
				l.wantAbsent(s, "changed")
				if info.Expired != 2 || info.Written != 1 {
					t.Errorf("%s: %+v", name, info)
				}
			})
		}
	})
}

func testArchive(l *lab) (all []byte, head int) {
	var b bytes.Buffer
	a, err := codec.NewArchiveWriter(&b, codec.ArchiveHeader{Namespace: "test", Created: time.Now()})
	l.must(err)
	head = b.Len()
	expires := time.Now().Add(lateTTL).UnixMilli()
	l.must(a.Write(codec.ArchiveEntry{Key: "k", Revision: 1, Modified: time.Now(), Expires: expires, Size: 3}, strings.NewReader("new")),
		a.Write(codec.ArchiveEntry{Key: "changed", Changed: true, Revision: 2, Modified: time.Now(), Expires: expires, Size: 3}, strings.NewReader("new")),
		a.Close(codec.ArchiveTrailer{Revision: 2, Keys: 2}))
	return b.Bytes(), head
}

func archiveHead(l *lab) io.Reader {
	all, head := testArchive(l)
	return bytes.NewReader(all[:head])
}

func archiveRest(l *lab) io.Reader {
	all, head := testArchive(l)
	return bytes.NewReader(all[head:])
}

// Nothing is sent of a pair that has expired while others were under way.
func TestExpiredIsNotSent(t *testing.T) {
	inLab(t, func(l *lab) {
		s, w := l.open(Options{WriteTimeout: -1})
		late := func(yield func(Pair) bool) {
			if !yield(Pair{Key: "a", Value: []byte("x")}) {
				return
			}
			synctest.Wait()
			w.stall()
			time.AfterFunc(lateTTL/2, w.resume)
			_ = yield(Pair{Key: "a", Value: []byte("y")}) && // waits for the one before it
				yield(Pair{Key: "a", Value: []byte("z"), TTL: time.Second})
		}
		_, err := s.PutAll(l.ctx, late)
		var bulk *BulkError
		if !errors.Is(err, ErrExpired) || !errors.As(err, &bulk) || bulk.Index != 2 || errors.Is(err, ErrIndeterminate) {
			t.Errorf("the error is %v", err)
		}
		l.want(s, "a", "y")
		canceled, cancel := context.WithCancel(l.ctx)
		cancel()
		if _, err := s.Put(canceled, "b", nil, WithTTL(time.Second)); errors.Is(err, ErrExpired) || !errors.Is(err, ErrUnavailable) {
			t.Errorf("the error of a Put whose context has ended is %v", err)
		}
	})
}
