package replication

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearkv/nearkv/codec"
)

// ingested is what a run has told.
type ingested struct {
	stored []uint64
	n      uint64
	last   uint64
	err    error
	ended  chan struct{}
}

func beginIngest(t *testing.T, l *Log) (*Ingest, *ingested) {
	t.Helper()
	got := &ingested{ended: make(chan struct{})}
	in, err := l.Ingest(func(n uint64) { got.stored = append(got.stored, n) }, func(n, last uint64, err error) {
		got.n, got.last, got.err = n, last, err
		close(got.ended)
	})
	if err != nil {
		t.Fatal(err)
	}
	return in, got
}

func ingest(t *testing.T, in *Ingest, n int, value []byte) {
	t.Helper()
	for i := range n {
		if err := in.Send(fmt.Sprint("key", i), codec.Record{Value: value}); err != nil {
			if !errors.Is(err, errEnded) {
				t.Fatal(err)
			}
			return
		}
	}
}

// present returns how many of key0, key1, ... the log has, of which no one is
// behind one that it has not.
func present(t *testing.T, l *Log, most int) (n int) {
	t.Helper()
	for i := range most {
		_, err := l.Last(t.Context(), fmt.Sprint("key", i))
		switch {
		case err == nil && n == i:
			n++
		case err == nil:
			t.Errorf("key%d is in, key%d is not", i, n)
		case !errors.Is(err, ErrNoRecord):
			t.Fatal(err)
		}
	}
	return n
}

func TestIngest(t *testing.T) {
	l, _ := memoryLog(t, Config{})
	put(t, l, "before", "x")
	in, got := beginIngest(t, l)
	ingest(t, in, 3000, []byte("value"))
	in.End()
	<-got.ended
	if got.n != 3000 || got.last != 3001 || got.err != nil {
		t.Errorf("%d are in, the last is %d: %v", got.n, got.last, got.err)
	}
	if !slices.IsSorted(got.stored) || len(got.stored) < 3000/ingestFlow || slices.Max(got.stored) != 3000 {
		t.Errorf("on the way it told %v", got.stored)
	}
	if n := present(t, l, 3000); n != 3000 {
		t.Errorf("the log has %d", n)
	}
	if err := in.Send("late", codec.Record{}); !errors.Is(err, errEnded) {
		t.Errorf("after its end: %v", err)
	}
	if n := len(l.requests.calls) - len(l.requests.idle); n > 0 {
		t.Errorf("%d calls are left", n)
	}
}

// What the log refuses ends a run: all before it is in, nothing behind it is.
func TestIngestRefused(t *testing.T) {
	l, _ := memoryLog(t, Config{MaxBytes: 100_000})
	in, got := beginIngest(t, l)
	ingest(t, in, 200, bytes.Repeat([]byte("x"), 1000))
	in.End()
	<-got.ended
	if got.err == nil || errors.Is(got.err, ErrUncertain) {
		t.Errorf("the error is %v", got.err)
	}
	if n := present(t, l, 200); uint64(n) != got.n || n == 0 || n == 200 {
		t.Errorf("the log has %d, told are %d", n, got.n)
	}
}

// A lost connection ends a run at once, and what was not acknowledged is uncertain.
func TestIngestInterrupted(t *testing.T) {
	for name, end := range map[string]func(lab *feedLab){
		"cut":    func(lab *feedLab) { lab.wire.cut() },
		"closed": func(lab *feedLab) { lab.feed.log.Close() },
		"deaf":   func(lab *feedLab) { lab.wire.deafen(); time.Sleep(2 * answerTimeout) },
	} {
		t.Run(name, func(t *testing.T) {
			withFeed(t, Config{}, func(t *testing.T, lab *feedLab) {
				in, got := beginIngest(t, lab.feed.log)
				ingest(t, in, ingestFlow+10, []byte("value"))
				synctest.Wait()
				end(lab)
				synctest.Wait()
				select {
				case <-got.ended:
				default:
					t.Fatal("the run has not ended")
				}
				if !errors.Is(got.err, ErrUncertain) || got.n != ingestFlow {
					t.Errorf("%d are in: %v", got.n, got.err)
				}
				if err := in.Send("late", codec.Record{}); !errors.Is(err, errEnded) {
					t.Errorf("after its end: %v", err)
				}
			})
		})
	}
}

// A run that nobody goes on with says how far it has come. The server would
// forget it.
func TestIngestIdle(t *testing.T) {
	withFeed(t, Config{}, func(t *testing.T, lab *feedLab) {
		for _, n := range []int{0, 1, 300} {
			in, got := beginIngest(t, lab.log)
			ingest(t, in, n, []byte("value"))
			time.Sleep(3 * lookEvery)
			synctest.Wait()
			select {
			case <-got.ended:
			default:
				t.Fatal("the run has not ended")
			}
			if got.n != uint64(n) || got.err != nil {
				t.Errorf("%d of %d are in: %v", got.n, n, got.err)
			}
			in.End() // once more is harmless
		}
	})
}

// Answers that make no sense end a run, and are no acknowledgement.
func TestIngestStrangeAnswers(t *testing.T) {
	for _, answer := range []string{"", "[]", "{}", `{"stream":"other","seq":9,"count":1}`, `{"error":{"code":503},"stream":"KV_test"}`} {
		l, nc := memoryLog(t, Config{})
		in, got := beginIngest(t, l)
		ingest(t, in, 1, nil)
		for _, harmless := range []string{`{"type":"ack","seq":5}`, `{"type":"gap"}`, `{"type":"err","seq":1}`} {
			if err := nc.Publish(in.reply+"1."+ingestAppend, []byte(harmless)); err != nil {
				t.Fatal(err)
			}
		}
		if err := nc.Publish(in.reply+"1."+ingestAppend, []byte(answer)); err != nil {
			t.Fatal(err)
		}
		<-got.ended
		if !errors.Is(got.err, ErrUncertain) || got.n > 1 {
			t.Errorf("%q: %d are in, %v", answer, got.n, got.err)
		}
	}
}
