package embedded_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/replication/embedded"
)

// inBubble runs f in virtual time. The server's clock goroutine must belong to nobody's bubble.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	ats.Register()
	defer ats.Unregister()
	begin := time.Now()
	synctest.Test(t, f)
	if took := time.Since(begin); took > quick {
		t.Errorf("took %v of real time", took)
	}
}

// Hours pass, a message with a time to live goes, another stays, also across a restart.
func TestVirtualTime(t *testing.T) {
	for _, storage := range []jetstream.StorageType{jetstream.MemoryStorage, jetstream.FileStorage} {
		t.Run(storage.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T) { liveThroughHours(t, storage) })
		})
	}
}

func liveThroughHours(t *testing.T, storage jetstream.StorageType) {
	opts := embedded.Options{}
	if storage == jetstream.FileStorage {
		opts.Dir = t.TempDir()
	}
	s := start(t, opts)
	nc, js := connect(t, s)
	st := createStream(t, js, storage)
	put(t, js, "s.stays", "1")
	put(t, js, "s.goes", "2", jetstream.WithMsgTTL(3*time.Hour))

	time.Sleep(3*time.Hour - 10*time.Second)
	wantValue(t, st, "s.goes", "2")
	time.Sleep(20 * time.Second)
	if _, err := st.GetLastMsgForSubject(t.Context(), "s.goes"); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("error is %v, want the message to be gone", err)
	}

	nc.Close()
	shutdown(t, s)
	if opts.Dir == "" {
		return
	}
	_, js = connect(t, start(t, opts))
	st, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	wantValue(t, st, "s.stays", "1")
}

// The deadline of Start is kept to the instant, however long the server takes.
func TestStartDeadline(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		dir := t.TempDir()
		log := newRecords("Starting JetStream")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		begin := time.Now()
		_, err := embedded.Start(ctx, embedded.Options{Dir: dir, Logger: log.logger()})
		wantErrorIs(t, err, context.DeadlineExceeded)
		if took := time.Since(begin); took != 5*time.Second {
			t.Errorf("Start took %v", took)
		}
		time.Sleep(time.Hour)
		close(log.release)
		<-wantInterrupted(t, err).Done()
		start(t, embedded.Options{Dir: dir})
	})
}

// A client that does not read costs Shutdown its grace and no more.
func TestShutdownGrace(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := start(t, embedded.Options{})
		c, err := s.InProcessConn()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		synctest.Wait() // the server is stuck in its greeting
		begin := time.Now()
		shutdown(t, s)
		if took := time.Since(begin); took != 500*time.Millisecond {
			t.Errorf("Shutdown took %v", took)
		}
	})
}

// Callers that wait for another's Shutdown must not stop the clock that it may need.
func TestShutdownRacedInVirtualTime(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := start(t, embedded.Options{})
		c, err := s.InProcessConn()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		synctest.Wait() // the server is stuck in its greeting
		for range 4 {
			go shutdown(t, s)
		}
		shutdown(t, s)
	})
}
