package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/nearkv/nearkv/kvstore/kvstoretest"
	"github.com/nearkv/nearkv/replication/embedded"
)

func reconnectSoon(int) time.Duration { return 50 * time.Millisecond }

// requests is a requester with a responder to "echo", and one to "silence" that
// never answers, in a bubble.
type requests struct {
	*requester
	wire *wire
	nc   *nats.Conn
}

func withRequests(t *testing.T, test func(t *testing.T, r *requests)) {
	kvstoretest.Run(t, func(t *testing.T) {
		server := startServer(t, embedded.Options{})
		w := &wire{to: server}
		r := &requests{wire: w, nc: w.tough(t)}
		responder := connect(t, server)
		for subject, answer := range map[string]func(*nats.Msg){
			"echo":    func(m *nats.Msg) { _ = m.Respond(m.Data) },
			"silence": func(*nats.Msg) {},
		} {
			if _, err := responder.Subscribe(subject, answer); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		r.requester = newRequester(r.nc)
		defer r.close()
		if err := r.open(); err != nil {
			t.Fatal(err)
		}
		test(t, r)
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, c := range r.calls {
			if c.waiting {
				t.Errorf("call %d still waits", c.number)
			}
		}
		if len(r.calls) != 0 {
			t.Errorf("%d calls are known", len(r.calls))
		}
	})
}

// start makes a request in the background.
func (r *requests) start(ctx context.Context, subject string) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := r.do(ctx, subject, nil, nil)
		done <- err
	}()
	synctest.Wait()
	return done
}

func TestRequest(t *testing.T) {
	withRequests(t, func(t *testing.T, r *requests) {
		var wait sync.WaitGroup
		for i := range 100 {
			wait.Go(func() {
				want := fmt.Sprint(i)
				m, err := r.do(t.Context(), "echo", nil, []byte(want))
				if err != nil || string(m.Data) != want {
					t.Errorf("%s gets %v, %v", want, m, err)
				}
			})
		}
		wait.Wait()
	})
}

func TestRequestNoResponders(t *testing.T) {
	withRequests(t, func(t *testing.T, r *requests) {
		_, err := r.do(t.Context(), "nobody", nil, nil)
		if !errors.Is(err, ErrUnavailable) || !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("the error is %v", err)
		}
	})
}

// An answer that does not come is waited for, but not for ever.
func TestRequestTimeout(t *testing.T) {
	withRequests(t, func(t *testing.T, r *requests) {
		began := time.Now()
		_, err := r.do(t.Context(), "silence", nil, nil)
		if !errors.Is(err, nats.ErrTimeout) || errors.Is(err, ErrUnavailable) {
			t.Errorf("the error is %v", err)
		}
		if took := time.Since(began); took < answerTimeout || took > answerTimeout+tickEvery {
			t.Errorf("it took %v", took)
		}
	})
}

func TestRequestContext(t *testing.T) {
	withRequests(t, func(t *testing.T, r *requests) {
		cause := errors.New("because")
		ctx, cancel := context.WithCancelCause(t.Context())
		done := r.start(ctx, "silence")
		cancel(cause)
		if err := <-done; !errors.Is(err, cause) || errors.Is(err, ErrUnavailable) {
			t.Errorf("the error is %v", err)
		}
		// Nothing is sent when the context has ended before.
		if _, err := r.do(ctx, "echo", nil, nil); !errors.Is(err, ErrUnavailable) || !errors.Is(err, cause) {
			t.Errorf("the error is %v", err)
		}
	})
}

// A loss of the connection ends the calls that wait, and no others.
func TestRequestInterrupt(t *testing.T) {
	withRequests(t, func(t *testing.T, r *requests) {
		link := newLink(r.nc, r.interrupt)
		defer link.close()
		began := time.Now()
		done := r.start(t.Context(), "silence")
		r.wire.cut()
		if err := <-done; !errors.Is(err, errInterrupted) || errors.Is(err, ErrUnavailable) {
			t.Errorf("the error is %v", err)
		}
		if took := time.Since(began); took >= answerTimeout {
			t.Errorf("it took %v", took)
		}
		time.Sleep(time.Second)
		if _, err := r.do(t.Context(), "echo", nil, nil); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// An answer that was lost on the way is no answer.
func TestRequestLostAnswer(t *testing.T) {
	withRequests(t, func(t *testing.T, r *requests) {
		link := newLink(r.nc, r.interrupt)
		defer link.close()
		r.wire.deafen()
		done := r.start(t.Context(), "echo")
		r.wire.cut()
		if err := <-done; !errors.Is(err, errInterrupted) {
			t.Errorf("the error is %v", err)
		}
	})
}

func TestRequestClose(t *testing.T) {
	withRequests(t, func(t *testing.T, r *requests) {
		done := r.start(t.Context(), "silence")
		r.close()
		if err := <-done; !errors.Is(err, errInterrupted) {
			t.Errorf("the error is %v", err)
		}
		r.interrupt() // does not open it again
		if _, err := r.do(t.Context(), "echo", nil, nil); !errors.Is(err, ErrUnavailable) || !errors.Is(err, ErrClosed) {
			t.Errorf("after close: %v", err)
		}
		r.close()
	})
}

// Answers that nobody waits for, and what is no answer, harm nothing.
func TestRequestStrayAnswers(t *testing.T) {
	withRequests(t, func(t *testing.T, r *requests) {
		for _, token := range []string{"1", "zzz", "-1", "x.y", "99999999999999999999", "Ü"} {
			if err := r.nc.Publish(r.inbox+token, nil); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if _, err := r.do(t.Context(), "echo", nil, nil); err != nil {
			t.Error(err)
		}
	})
}

// Calls are used again, and no answer is taken for another's, also when each
// comes twice and some come when nobody waits any more.
func TestRequestAgain(t *testing.T) {
	withRequests(t, func(t *testing.T, r *requests) {
		twice := func(m *nats.Msg) { _, _ = m.Respond(m.Data), m.Respond(m.Data) }
		late := func(m *nats.Msg) {
			time.Sleep(2 * answerTimeout)
			_ = m.Respond([]byte("late"))
		}
		for subject, answer := range map[string]func(*nats.Msg){"twice": twice, "late": late} {
			if _, err := r.nc.Subscribe(subject, answer); err != nil {
				t.Fatal(err)
			}
		}
		var wait sync.WaitGroup
		for worker := range 8 {
			wait.Go(func() {
				for i := range 300 {
					want := fmt.Sprint(worker, ".", i)
					m, err := r.do(t.Context(), "twice", nil, []byte(want))
					if err != nil || string(m.Data) != want {
						t.Errorf("%s gets %v, %v", want, m, err)
					}
					if i%100 == 0 {
						if _, err := r.do(t.Context(), "late", nil, nil); !errors.Is(err, nats.ErrTimeout) {
							t.Errorf("the error is %v", err)
						}
					}
				}
			})
		}
		wait.Wait()
		time.Sleep(time.Hour) // for those who are late
		r.mu.Lock()
		defer r.mu.Unlock()
		if n := len(r.calls); n > spare+8 {
			t.Errorf("%d calls are known", n)
		}
	})
}

func TestLink(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		w := &wire{to: startServer(t, embedded.Options{})}
		nc := w.tough(t)
		lost := 0
		l := newLink(nc, func() { lost++ })
		down, err := l.wait(t.Context())
		if err != nil || closed(down) {
			t.Fatalf("the link is down: %v", err)
		}
		for range 20 {
			before := lost
			w.cut()
			<-down
			if down, err = l.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			if lost == before {
				t.Error("nobody was told of the loss")
			}
		}
		nc.Close()
		<-down
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := l.wait(ctx); !errors.Is(err, ErrDisconnected) || !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("a closed connection: %v", err)
		}
		l.close()
		l.close()
	})
}

// A link to a connection that is closed begins so.
func TestLinkBeginsDown(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		nc := connect(t, startServer(t, embedded.Options{}))
		nc.Close()
		l := newLink(nc, func() {})
		defer l.close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.wait(ctx); !errors.Is(err, ErrDisconnected) {
			t.Errorf("wait returns %v", err)
		}
	})
}

// A second answer to a request, however late, is not taken for that to another.
func TestRequestSecondAnswer(t *testing.T) {
	withRequests(t, func(t *testing.T, r *requests) {
		liar := connect(t, r.wire.to)
		var replies []string
		if _, err := liar.Subscribe("twice", func(m *nats.Msg) {
			for _, reply := range append(replies, m.Reply) { // the others are late
				if reply == m.Reply {
					_ = m.Respond(m.Data)
					continue
				}
				_ = liar.Publish(reply, []byte("late"))
			}
			replies = append(replies, m.Reply)
		}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		seen := make(map[string]bool)
		for i := range 200 {
			want := fmt.Sprint(i)
			m, err := r.do(t.Context(), "twice", nil, []byte(want))
			if err != nil || string(m.Data) != want {
				t.Fatalf("request %d is answered %v, %v", i, m, err)
			}
			synctest.Wait()
		}
		for _, reply := range replies {
			if seen[reply] {
				t.Fatalf("%s is used again", reply)
			}
			seen[reply] = true
		}
	})
}

// nats.go has room for 10 events and drops the others, the last one too. The link
// asks the connection, so that it cannot take one that is up for one that is down.
func TestLinkMissesEvents(t *testing.T) {
	for cuts := range 20 {
		kvstoretest.Run(t, func(t *testing.T) {
			w := &wire{to: startServer(t, embedded.Options{})}
			nc := w.tough(t)
			slow := make(chan struct{})
			l := newLink(nc, func() { <-slow })
			defer l.close()
			for n := range cuts {
				w.cut()
				for nc.Stats().Reconnects <= uint64(n) || !nc.IsConnected() {
					time.Sleep(time.Millisecond)
				}
			}
			close(slow)
			time.Sleep(time.Minute)
			if down, err := l.wait(t.Context()); err != nil || closed(down) {
				t.Errorf("after %d cuts the link is down: %v", cuts, err)
			}
		})
	}
}
