package kvstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
)

// A Store knows how old it is from the moment that Open returns, and not only after its first CheckInterval: a log that
// goes away then does not make MaxStaleness refuse what was read a moment ago.
func TestFreshWhenOpen(t *testing.T) {
	dir := t.TempDir()
	first := opened(t, "fresh", kvstore.Options{Dir: dir})
	for i := range 300 {
		wantPut(t, first, fmt.Sprint("key", i%50), "value")
	}
	for range 20 {
		for _, namespace := range []string{"fresh", "empty"} {
			begun := time.Now()
			s := opened(t, namespace, kvstore.Options{Dir: dir, CheckInterval: time.Hour})
			if fresh := s.Status().Fresh; fresh.Before(begun) || fresh.After(time.Now()) {
				t.Errorf("%s: fresh is %v after Open, which was called at %v", namespace, fresh, begun)
			}
			closeStore(t, s)
		}
	}
}

// What a Store knows when Open returns is enough for a bounded read while the log is
// away: no CheckInterval has to pass. The contexts have an end, in virtual time: a
// read that waits for a log that stays away would keep nats.go dialing for ever.
func TestFreshWhenOpenWithoutLog(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
		defer cancel()
		server := kvstoretest.NewServer(t, "")
		opts := kvstore.Options{Conn: server.Conn(t), Memory: true, CheckInterval: time.Hour}
		writer := opened(t, "fresh", opts)
		wantPut(t, writer, "key", "value")
		opts.Conn = server.Conn(t)
		s := opened(t, "fresh", opts)
		server.SetDown(true)
		for _, away := range []time.Duration{0, time.Minute} {
			time.Sleep(away)
			began := time.Now()
			e, err := s.Get(ctx, "key", kvstore.MaxStaleness(time.Hour))
			if took := time.Since(began); err != nil || e.Text() != "value" || took != 0 {
				t.Errorf("without the log for %v: %q, %v, after %v", away, e.Text(), err, took)
			}
		}
		server.SetDown(false)
		last := wantPut(t, writer, "key", "new")
		if err := s.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		if e, err := s.Get(ctx, "key"); err != nil || e.Revision() != last {
			t.Errorf("after the log is back and Sync: %q, %v", e.Text(), err)
		}
	})
}
