package kvstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// labWrite is a kind of write to key "k", which exists with revision old for
// all but those that want it absent.
type labWrite struct {
	name        string
	absent      bool
	conditional bool
	value       string // "": the key is gone afterwards
	do          func(ctx context.Context, s *Store, old Revision) (Revision, error)
}

func putting(value string, opts ...WriteOption) func(context.Context, *Store, Revision) (Revision, error) {
	return func(ctx context.Context, s *Store, _ Revision) (Revision, error) {
		return s.Put(ctx, "k", []byte(value), opts...)
	}
}

var labWrites = []labWrite{
	{"put of a new key", true, false, "new", putting("new")},
	{"put", false, false, "new", putting("new", WithMetadata("m"))},
	{"put of the same", false, false, "old", putting("old")},
	{"put with a TTL", false, false, "new", putting("new", WithTTL(time.Hour))},
	{"put of a new key with a TTL", true, false, "new", putting("new", WithTTL(time.Hour))},
	{"put if absent", true, true, "new", putting("new", IfAbsent())},
	{"put if revision", false, true, "new", func(ctx context.Context, s *Store, old Revision) (Revision, error) {
		return s.Put(ctx, "k", []byte("new"), IfRevision(old))
	}},
	{"put if revision, with a TTL", false, true, "new", func(ctx context.Context, s *Store, old Revision) (Revision, error) {
		return s.Put(ctx, "k", []byte("new"), IfRevision(old), WithTTL(time.Hour))
	}},
	{"delete", false, false, "", func(ctx context.Context, s *Store, _ Revision) (Revision, error) {
		return 0, s.Delete(ctx, "k")
	}},
	{"delete if revision", false, true, "", func(ctx context.Context, s *Store, old Revision) (Revision, error) {
		return 0, s.Delete(ctx, "k", IfRevision(old))
	}},
}

// writeLab is a Store whose key "k" is to be written, in a lab.
type writeLab struct {
	*lab
	s    *Store
	wire *wire
	look *onlooker
	old  Revision // of "k"; 0: it does not exist
}

func (b bubble) writeLab(name string, w labWrite, test func(l *writeLab)) {
	b.lab(name, func(base *lab) {
		l := &writeLab{lab: base}
		l.s, l.wire = base.open(Options{})
		l.put(l.s, "other", "x")
		l.prepare(w)
		l.look = base.look(l.s, true)
		synctest.Wait()
		test(l)
		synctest.Wait()
		l.agree(l.s, l.look)
		if stats := l.s.Stats(); stats.Resyncs != 1 {
			l.t.Errorf("the log was read %d times", stats.Resyncs)
		}
	})
}

// prepare makes "k" what the write wants it to be.
func (l *writeLab) prepare(w labWrite) {
	l.t.Helper()
	l.old = 0
	if w.absent {
		l.must(l.s.Delete(l.ctx, "k"))
	} else {
		l.old = l.put(l.s, "k", "old")
	}
	l.must(l.s.Sync(l.ctx))
}

// start begins a write, and returns when nothing moves any more.
func (l *writeLab) start(ctx context.Context, w labWrite) <-chan writeResult {
	done := make(chan writeResult, 1)
	go func() {
		revision, err := w.do(ctx, l.s, l.old)
		done <- writeResult{revision, err}
	}()
	synctest.Wait()
	return done
}

type writeResult struct {
	revision Revision
	err      error
}

func (l *writeLab) last() Revision {
	l.t.Helper()
	return Revision(l.stream().CachedInfo().State.LastSeq)
}

// happened wants a write to have succeeded, with one record more than before.
func (l *writeLab) happened(w labWrite, r writeResult, before Revision) {
	l.t.Helper()
	if last := l.last(); last != before+1 {
		l.t.Errorf("the log ends at %d, not %d", last, before+1)
	}
	l.holds(w, r)
}

// holds wants a write to have succeeded, and to be the last in the log.
func (l *writeLab) holds(w labWrite, r writeResult) {
	l.t.Helper()
	if r.err != nil {
		l.t.Fatalf("the error is %v", r.err)
	}
	last := l.last()
	e, err := l.s.Get(l.ctx, "k")
	if w.value == "" {
		if !errors.Is(err, ErrNotFound) {
			l.t.Errorf("the key is %q, %v", e.Text(), err)
		}
		return
	}
	if err != nil || e.Text() != w.value || e.Revision() != r.revision || r.revision != last {
		l.t.Errorf("the key is %q at %d, %v; the write returned %d, the log ends at %d", e.Text(), e.Revision(), err, r.revision, last)
	}
}

// The log has stored a record, and the acknowledgement is lost.
func TestLostAcknowledgement(t *testing.T) {
	inBubble(t, func(b bubble) {
		for _, w := range labWrites {
			b.writeLab(w.name, w, func(l *writeLab) {
				before, events := l.last(), l.look.count()
				l.wire.deafen()
				done := l.start(l.ctx, w)
				if l.last() != before+1 {
					l.t.Fatal("the record is not stored")
				}
				l.wire.cut()
				l.happened(w, <-done, before)
				time.Sleep(time.Minute)
				if n := l.look.count() - events; n != 1 {
					l.t.Errorf("there were %d events", n)
				}
			})
		}
	})
}

// The record is lost before the log has stored it.
func TestLostWrite(t *testing.T) {
	inBubble(t, func(b bubble) {
		for _, w := range labWrites {
			b.writeLab(w.name, w, func(l *writeLab) {
				before := l.last()
				l.wire.stall()
				done := l.start(l.ctx, w)
				if l.last() != before {
					l.t.Fatal("the record is stored")
				}
				l.wire.cut()
				l.happened(w, <-done, before)
			})
		}
	})
}

// The record comes late: after its acknowledgement was given up. The leader is
// asked behind it, and may answer before it has stored it: what can be told from
// another by its expectation is written once, anything else at least once.
func TestLateWrite(t *testing.T) {
	inBubble(t, func(b bubble) {
		for _, w := range labWrites {
			b.writeLab(w.name, w, func(l *writeLab) {
				before := l.last()
				l.wire.stall()
				done := l.start(l.ctx, w)
				time.Sleep(7 * time.Second)
				l.wire.resume()
				r := <-done
				synctest.Wait()
				l.holds(w, r)
				if last := l.last(); last != before+1 && (w.conditional || last != before+2) {
					l.t.Errorf("the log ends at %d, not %d", last, before+1)
				}
			})
		}
	})
}

// A connection breaks at any byte of the exchange, in either direction.
func TestWriteCutAnywhere(t *testing.T) {
	inBubble(t, func(b bubble) {
		for i, w := range labWrites {
			b.writeLab(w.name, w, func(l *writeLab) {
				for n := i % 29; n < 400; n += 29 {
					for _, direction := range []string{"read", "write"} {
						l.prepare(w)
						before, cuts := l.last(), l.wire.count()
						l.wire.each(func(c *wireConn) {
							c.limited, c.read, c.write = true, 1<<30, 1<<30
							if direction == "read" {
								c.read = n
							} else {
								c.write = n
							}
						})
						l.happened(w, <-l.start(l.ctx, w), before)
						time.Sleep(20 * time.Second)
						if l.wire.count() == cuts {
							l.wire.cut()
							time.Sleep(time.Second)
						}
						if l.t.Failed() {
							l.t.Fatalf("%s, after %d bytes", direction, n)
						}
					}
				}
			})
		}
	})
}

// Somebody writes the key before it can be found out whether the write has
// happened. What has a condition cannot be resolved; what has none happens, at
// the latest after that.
func TestOvertakenWrite(t *testing.T) {
	inBubble(t, func(b bubble) {
		for _, w := range labWrites {
			for _, stored := range []bool{true, false} {
				b.writeLab(fmt.Sprintf("%s, stored=%v", w.name, stored), w, func(l *writeLab) {
					if stored {
						l.wire.deafen()
					} else {
						l.wire.stall()
					}
					done := l.start(l.ctx, w)
					foreign := Revision(l.foreign("k", "foreign"))
					l.wire.cut()
					r := <-done
					if !w.conditional {
						l.happened(w, r, foreign)
						return
					}
					if !errors.Is(r.err, ErrIndeterminate) || errors.Is(r.err, ErrConflict) || errors.Is(r.err, ErrUnavailable) || r.revision != 0 {
						l.t.Errorf("the result is %d, %v", r.revision, r.err)
					}
					if e, err := l.s.Get(l.ctx, "k"); err != nil || e.Text() != "foreign" {
						l.t.Errorf("the key is %q, %v", e.Text(), err)
					}
				})
			}
		}
	})
}

// The context ends while the log cannot be reached: nothing is written, then or
// later.
func TestWriteWhileDown(t *testing.T) {
	inBubble(t, func(b bubble) {
		for _, w := range labWrites {
			b.writeLab(w.name, w, func(l *writeLab) {
				before := l.last()
				l.wire.setDown(true)
				synctest.Wait()
				for _, wait := range []time.Duration{0, time.Millisecond, time.Minute} {
					ctx, cancel := context.WithTimeout(l.ctx, wait)
					began := time.Now()
					r := <-l.start(ctx, w)
					cancel()
					if !errors.Is(r.err, ErrUnavailable) || !errors.Is(r.err, context.DeadlineExceeded) || errors.Is(r.err, ErrIndeterminate) {
						l.t.Errorf("the error is %v", r.err)
					}
					if waited := time.Since(began); waited != wait {
						l.t.Errorf("it waited for %v, not %v", waited, wait)
					}
				}
				l.wire.setDown(false)
				time.Sleep(time.Minute)
				if last := l.last(); last != before {
					l.t.Errorf("the log ends at %d, not %d", last, before)
				}
			})
		}
	})
}

// The context ends before the acknowledgement comes.
func TestWriteGivenUp(t *testing.T) {
	inBubble(t, func(b bubble) {
		for _, w := range labWrites {
			for _, stored := range []bool{true, false} {
				b.writeLab(fmt.Sprintf("%s, stored=%v", w.name, stored), w, func(l *writeLab) {
					before := l.last()
					if stored {
						l.wire.deafen()
					} else {
						l.wire.stall()
					}
					cause := errors.New("because")
					ctx, cancel := context.WithCancelCause(l.ctx)
					done := l.start(ctx, w)
					cancel(cause)
					r := <-done
					if !errors.Is(r.err, ErrIndeterminate) || !errors.Is(r.err, cause) || errors.Is(r.err, ErrUnavailable) || errors.Is(r.err, ErrConflict) {
						l.t.Errorf("the error is %v", r.err)
					}
					l.wire.cut()
					time.Sleep(10 * time.Second)
					want := before
					if stored {
						want++
					}
					if last := l.last(); last != want {
						l.t.Errorf("the log ends at %d, not %d", last, want)
					}
				})
			}
		}
	})
}

// A context that is over already sends nothing.
func TestWriteWithoutTime(t *testing.T) {
	inBubble(t, func(b bubble) {
		for _, w := range labWrites {
			b.writeLab(w.name, w, func(l *writeLab) {
				before := l.last()
				ctx, cancel := context.WithCancel(l.ctx)
				cancel()
				r := <-l.start(ctx, w)
				if !errors.Is(r.err, ErrUnavailable) || !errors.Is(r.err, context.Canceled) || errors.Is(r.err, ErrIndeterminate) {
					l.t.Errorf("the error is %v", r.err)
				}
				if last := l.last(); last != before {
					l.t.Errorf("the log ends at %d, not %d", last, before)
				}
			})
		}
	})
}

// Close ends the writes that wait, at once.
func TestWriteDuringClose(t *testing.T) {
	inBubble(t, func(b bubble) {
		for _, w := range labWrites {
			for _, how := range []string{"down", "stored", "not stored"} {
				b.lab(w.name+", "+how, func(base *lab) {
					l := &writeLab{lab: base}
					l.s, l.wire = base.open(Options{})
					l.prepare(w)
					switch how {
					case "down":
						l.wire.setDown(true)
						synctest.Wait()
					case "stored":
						l.wire.deafen()
					case "not stored":
						l.wire.stall()
					}
					done := l.start(l.ctx, w)
					if how == "down" {
						time.Sleep(DefaultWriteTimeout / 2)
					}
					began := time.Now()
					l.must(l.s.Close())
					r := <-done
					if !errors.Is(r.err, ErrClosed) || errors.Is(r.err, ErrIndeterminate) != (how != "down") || errors.Is(r.err, ErrUnavailable) {
						l.t.Errorf("the error is %v", r.err)
					}
					if took := time.Since(began); took != 0 {
						l.t.Errorf("it took %v", took)
					}
					if _, err := w.do(l.ctx, l.s, l.old); !errors.Is(err, ErrClosed) {
						l.t.Errorf("afterwards the error is %v", err)
					}
				})
			}
		}
	})
}

// What the log refuses is told at once, and told apart.
func TestRefusedWrites(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{MaxBytes: 10_000})
		one := l.put(s, "one", "x")
		two := l.put(s, "two", "x")
		l.must(s.Delete(l.ctx, "two"))
		conflicts := []struct {
			name             string
			key              string
			opts             []WriteOption
			expected, actual Revision
		}{
			{"if absent", "one", []WriteOption{IfAbsent()}, 0, one},
			{"if absent, with a TTL", "one", []WriteOption{IfAbsent(), WithTTL(time.Hour)}, 0, one},
			{"an old revision", "two", []WriteOption{IfRevision(two)}, two, 0},
			{"no revision", "three", []WriteOption{IfRevision(77)}, 77, 0},
			{"a later revision", "one", []WriteOption{IfRevision(one + 100)}, one + 100, one},
		}
		for _, c := range conflicts {
			_, err := s.Put(l.ctx, c.key, []byte("y"), c.opts...)
			var conflict *ConflictError
			if !errors.Is(err, ErrConflict) || !errors.As(err, &conflict) || errors.Is(err, ErrIndeterminate) {
				l.t.Errorf("%s: %v", c.name, err)
			} else if *conflict != (ConflictError{c.key, c.expected, c.actual}) {
				l.t.Errorf("%s: %+v", c.name, conflict)
			}
		}
		if stats := s.Stats(); stats.Conflicts != uint64(len(conflicts)) || stats.Failed != stats.Conflicts {
			l.t.Errorf("the statistics are %+v", stats)
		}
		_, err := s.Put(l.ctx, "large", []byte(strings.Repeat("x", 10_000)))
		if !errors.Is(err, ErrNoSpace) || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrIndeterminate) {
			l.t.Errorf("without space: %v", err)
		}
		if _, err := s.Get(l.ctx, "large"); !errors.Is(err, ErrNotFound) {
			l.t.Errorf("the key is there: %v", err)
		}
		l.put(s, "small", "x")
		l.agree(s)
	})
}
