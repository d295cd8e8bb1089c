package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/kvstore/kvstoretest"
	"github.com/nearkv/nearkv/replication/embedded"
)

// Canaries: facts about nats-server and nats.go that this package leans on or
// works around. When one of these tests fails after an upgrade, read what is
// said beside it.

// engine is a server with a stream in memory, in a bubble.
type engine struct {
	nc *nats.Conn
	js jetstream.JetStream
	s  jetstream.Stream
}

func withEngine(t *testing.T, cfg jetstream.StreamConfig, test func(t *testing.T, e *engine)) {
	kvstoretest.Run(t, func(t *testing.T) {
		e := &engine{nc: connect(t, startServer(t, embedded.Options{}))}
		e.js = newJetStream(t, e.nc)
		e.create(t, cfg)
		test(t, e)
	})
}

func (e *engine) create(t *testing.T, cfg jetstream.StreamConfig) {
	t.Helper()
	var err error
	if e.s, err = e.js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
}

func (e *engine) publish(t *testing.T, key string) {
	t.Helper()
	if _, err := e.js.Publish(t.Context(), "$KV.test."+key, []byte(key)); err != nil {
		t.Fatal(err)
	}
}

func (e *engine) info(t *testing.T) *jetstream.StreamInfo {
	t.Helper()
	info, err := e.s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// follow delivers what a consumer of nats.go gets to a channel.
func follow(t *testing.T, c jetstream.Consumer) <-chan string {
	t.Helper()
	got := make(chan string, 100)
	cc, err := c.Consume(func(m jetstream.Msg) { got <- string(m.Data()) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cc.Stop()
		<-cc.Closed()
	})
	return got
}

func drain(got <-chan string) (all []string) {
	for {
		select {
		case s := <-got:
			all = append(all, s)
		default:
			return all
		}
	}
}

// An ordered consumer of nats.go does not notice that its stream was made anew:
// it goes on at the sequence it had. If this fails, tap may not be needed.
func TestCanaryOrderedConsumerIsBlind(t *testing.T) {
	withEngine(t, bucketConfig("test"), func(t *testing.T, e *engine) {
		c, err := e.js.OrderedConsumer(t.Context(), "KV_test", jetstream.OrderedConsumerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		got := follow(t, c)
		for i := range 5 {
			e.publish(t, fmt.Sprint("old", i))
		}
		synctest.Wait()
		if all := drain(got); len(all) != 5 {
			t.Fatalf("got %v", all)
		}
		if err := e.js.DeleteStream(t.Context(), "KV_test"); err != nil {
			t.Fatal(err)
		}
		e.create(t, bucketConfig("test"))
		for i := range 3 {
			e.publish(t, fmt.Sprint("new", i))
		}
		time.Sleep(time.Minute)
		if all := drain(got); len(all) != 0 {
			t.Errorf("an ordered consumer notices a new stream: %v", all)
		}
	})
}

// A start sequence beyond the end is accepted and kept: after a rollback, what
// is written up to it is never delivered. This is why a Feed looks at the
// stream's info before it follows.
func TestCanaryStartBeyondTheEnd(t *testing.T) {
	withEngine(t, bucketConfig("test"), func(t *testing.T, e *engine) {
		c, err := e.s.CreateConsumer(t.Context(), jetstream.ConsumerConfig{
			DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: 4, AckPolicy: jetstream.AckNonePolicy,
		})
		if err != nil {
			t.Fatal(err)
		}
		got := follow(t, c)
		for i := range 5 {
			e.publish(t, fmt.Sprint(i+1))
		}
		synctest.Wait()
		if all := drain(got); fmt.Sprint(all) != "[4 5]" {
			t.Errorf("got %v", all)
		}
	})
}

// Nobody tells a consumer of a purge, a deletion or an expiry: only the number
// of subjects shows it. This is why views are compared.
func TestCanaryRemovalsAreSilent(t *testing.T) {
	cfg := bucketConfig("test")
	cfg.AllowMsgTTL = true
	withEngine(t, cfg, func(t *testing.T, e *engine) {
		c, err := e.js.OrderedConsumer(t.Context(), "KV_test", jetstream.OrderedConsumerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		got := follow(t, c)
		for i := range 4 {
			e.publish(t, fmt.Sprint(i))
		}
		if _, err := e.js.Publish(t.Context(), "$KV.test.ttl", nil, jetstream.WithMsgTTL(time.Second)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if all := drain(got); len(all) != 5 {
			t.Fatalf("got %v", all)
		}
		steps := []func() error{
			func() error { time.Sleep(5 * time.Second); return nil },
			func() error { return e.s.DeleteMsg(t.Context(), 1) },
			func() error { return e.s.Purge(t.Context(), jetstream.WithPurgeSubject("$KV.test.1")) },
			func() error { return e.s.Purge(t.Context()) },
		}
		for i, step := range steps {
			if err := step(); err != nil {
				t.Fatal(err)
			}
			state, want := e.info(t).State, []uint64{4, 3, 2, 0}[i]
			if state.NumSubjects != want {
				t.Errorf("after step %d there are %d subjects, not %d", i, state.NumSubjects, want)
			}
			if state.LastSeq != 5 {
				t.Errorf("after step %d the last sequence is %d", i, state.LastSeq)
			}
		}
		time.Sleep(time.Minute)
		if all := drain(got); len(all) != 0 {
			t.Errorf("a consumer hears of removals: %v", all)
		}
	})
}

// What the answers to a publish are that Append tells apart.
func TestCanaryPublishErrors(t *testing.T) {
	cfg := bucketConfig("test")
	cfg.MaxMsgSize = 1000
	withEngine(t, cfg, func(t *testing.T, e *engine) {
		e.publish(t, "key")
		tests := []struct {
			name   string
			header nats.Header
			size   int
			code   jetstream.ErrorCode
		}{
			{"wrong last sequence", nats.Header{"Nats-Expected-Last-Subject-Sequence": {"0"}}, 0, 10071},
			{"no TTL", nats.Header{"Nats-TTL": {"10s"}}, 0, 10166},
			{"too large", nil, 1001, 10054},
		}
		for _, test := range tests {
			_, err := e.js.PublishMsg(t.Context(), &nats.Msg{Subject: "$KV.test.key", Header: test.header, Data: make([]byte, test.size)})
			if code := codeOf(err); code != test.code {
				t.Errorf("%s: %v", test.name, err)
			}
		}
		// The last sequence of a subject that was removed is 0.
		if err := e.s.Purge(t.Context()); err != nil {
			t.Fatal(err)
		}
		m := &nats.Msg{Subject: "$KV.test.key", Header: nats.Header{"Nats-Expected-Last-Subject-Sequence": {"0"}}}
		if _, err := e.js.PublishMsg(t.Context(), m); err != nil {
			t.Error(err)
		}
	})
}

func codeOf(err error) jetstream.ErrorCode {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return api.ErrorCode
	}
	if je, ok := errors.AsType[jetstream.JetStreamError](err); ok && je.APIError() != nil {
		return je.APIError().ErrorCode
	}
	return 0
}

// TTLs are whole seconds, at least one. codec.Record rounds up for that.
func TestCanaryTTL(t *testing.T) {
	cfg := bucketConfig("test")
	cfg.AllowMsgTTL = true
	withEngine(t, cfg, func(t *testing.T, e *engine) {
		put := func(key, ttl string) error {
			_, err := e.js.PublishMsg(t.Context(), &nats.Msg{Subject: "$KV.test." + key, Header: nats.Header{"Nats-TTL": {ttl}}})
			return err
		}
		for _, ttl := range []string{"900ms", "0.5s", "-5s", "x"} {
			if err := put("a", ttl); codeOf(err) != 10165 {
				t.Errorf("a TTL of %s: %v", ttl, err)
			}
		}
		if err := put("a", "9900ms"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(8500 * time.Millisecond)
		if n := e.info(t).State.Msgs; n != 1 {
			t.Errorf("a TTL of 9.9s ends before 8.5 s")
		}
		time.Sleep(3 * time.Second)
		if n := e.info(t).State.Msgs; n != 0 {
			t.Errorf("a TTL of 9.9s has not ended after 11.5 s")
		}
		cfg.AllowMsgTTL = false
		if _, err := e.js.UpdateStream(t.Context(), cfg); err == nil {
			t.Error("AllowMsgTTL can be turned off: limits may change for the worse")
		}
	})
}

// A pull request ends with a status that tells how much of it is left, and of a
// consumer that was removed the client is told.
func TestCanaryPullStatus(t *testing.T) {
	withEngine(t, bucketConfig("test"), func(t *testing.T, e *engine) {
		c, err := e.s.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckNonePolicy})
		if err != nil {
			t.Fatal(err)
		}
		msgs := make(chan *nats.Msg, 10)
		sub, err := e.nc.ChanSubscribe("inbox", msgs)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
		pull := func(request map[string]any) {
			data, err := json.Marshal(request)
			if err != nil {
				t.Fatal(err)
			}
			if err := e.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.KV_test.c", "inbox", data); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		expect := func(code, description, pending string) {
			t.Helper()
			time.Sleep(time.Minute)
			if len(msgs) != 1 {
				t.Fatalf("%d messages have come, not one status", len(msgs))
			}
			h := (<-msgs).Header
			if h.Get("Status") != code || h.Get("Description") != description || h.Get("Nats-Pending-Messages") != pending {
				t.Errorf("the status is %v", h)
			}
		}
		e.publish(t, "a-key-longer-than-that")
		pull(map[string]any{"batch": 7, "max_bytes": 10})
		expect("409", "Message Size Exceeds MaxBytes", "7")
		pull(map[string]any{"batch": 7, "expires": 30 * time.Second})
		if m := <-msgs; string(m.Data) != "a-key-longer-than-that" {
			t.Errorf("got %q", m.Data)
		}
		expect("408", "Request Timeout", "6")
		pull(map[string]any{"batch": 7, "expires": time.Hour})
		if err := e.s.DeleteConsumer(t.Context(), c.CachedInfo().Name); err != nil {
			t.Fatal(err)
		}
		expect("409", "Consumer Deleted", "")
		pull(map[string]any{"batch": 7})
		expect("503", "", "")
	})
}

// A connection that is lost while a request is under way does not end the
// request: this is why requester exists.
func TestCanaryRequestOutlivesItsConnection(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		server := startServer(t, embedded.Options{})
		w := &wire{to: server}
		nc := w.tough(t)
		if _, err := connect(t, server).Subscribe("silence", func(*nats.Msg) {}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		time.AfterFunc(time.Second, w.cut)
		if _, err := nc.RequestWithContext(ctx, "silence", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a request ends with %v", err)
		}
	})
}
