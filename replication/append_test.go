package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/replication/embedded"
)

// put appends a value that has to be accepted.
func put(t *testing.T, l *Log, key, value string) uint64 {
	t.Helper()
	revision, err := l.Append(t.Context(), key, codec.Record{Value: []byte(value)}, Expectation{})
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func TestAppendExpectation(t *testing.T) {
	l, _ := memoryLog(t, Config{})
	rec := codec.Record{Value: []byte("x")}
	expect := func(revision uint64) Expectation { return Expectation{Set: true, Revision: revision} }
	steps := []struct {
		key    string
		expect Expectation
		ok     bool
	}{
		{"a", expect(1), false},
		{"a", expect(0), true}, // 1
		{"a", expect(0), false},
		{"b", expect(0), true}, // 2
		{"a", expect(2), false},
		{"a", expect(1), true},        // 3
		{"a", Expectation{}, true},    // 4
		{"a", expect(3), false},       //
		{"a:b", expect(0), true},      // 5
		{"a:b", expect(5), true},      // 6
		{"a", expect(1 << 62), false}, //
	}
	last := uint64(0)
	for i, step := range steps {
		revision, err := l.Append(t.Context(), step.key, rec, step.expect)
		if step.ok {
			last++
			if err != nil || revision != last {
				t.Errorf("step %d: %d, %v", i, revision, err)
			}
			continue
		}
		var wrong *WrongRevisionError
		if !errors.Is(err, ErrWrongRevision) || !errors.As(err, &wrong) || revision != 0 {
			t.Errorf("step %d: %d, %v", i, revision, err)
		} else if wrong.Key != step.key || wrong.Expected != step.expect.Revision {
			t.Errorf("step %d: %+v", i, wrong)
		}
	}
}

// The caller's bytes are the caller's.
func TestAppendKeepsNothing(t *testing.T) {
	l, _ := memoryLog(t, Config{})
	value, metadata := []byte("value"), []byte(`"meta"`)
	rec := codec.Record{Value: value, Metadata: metadata}
	if _, err := l.Append(t.Context(), "key", rec, Expectation{}); err != nil {
		t.Fatal(err)
	}
	copy(value, "XXXXX")
	copy(metadata, "XXXXXX")
	m, err := l.Last(t.Context(), "key")
	if err != nil || string(m.Record.Value) != "value" || string(m.Record.Metadata) != `"meta"` {
		t.Errorf("the record is %+v, %v", m, err)
	}
}

// refused wants nothing to have been written.
func refused(t *testing.T, l *Log, key string, err error, want ...error) {
	t.Helper()
	for _, target := range want {
		if !errors.Is(err, target) {
			t.Errorf("the error is %v, not %v", err, target)
		}
	}
	if errors.Is(err, ErrUncertain) {
		t.Errorf("nothing is uncertain about %v", err)
	}
	if m, err := l.Last(t.Context(), key); !errors.Is(err, ErrNoRecord) {
		t.Errorf("the record is %+v, %v", m, err)
	}
}

func TestAppendNoSpace(t *testing.T) {
	fill := func(l *Log) (key string, err error) {
		value := bytes.Repeat([]byte("x"), 1000)
		for i := range 1000 {
			key = fmt.Sprint(i)
			if _, err = l.Append(t.Context(), key, codec.Record{Value: value}, Expectation{}); err != nil {
				break
			}
		}
		return key, err
	}
	t.Run("stream", func(t *testing.T) {
		l, _ := memoryLog(t, Config{MaxBytes: 10_000})
		key, err := fill(l)
		refused(t, l, key, err, ErrNoSpace)
		// What makes no more of it is accepted again.
		if _, err := l.Append(t.Context(), "0", codec.Record{Op: codec.OpDelete}, Expectation{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("server, memory", func(t *testing.T) {
		nc := connect(t, startServer(t, embedded.Options{MaxMemory: 10_000}))
		l := openLog(t, nc, "test", Config{Memory: true})
		key, err := fill(l)
		refused(t, l, key, err, ErrNoSpace)
	})
	t.Run("server, file", func(t *testing.T) {
		nc := connect(t, startServer(t, embedded.Options{Dir: t.TempDir(), MaxStore: 10_000}))
		l := openLog(t, nc, "test", Config{})
		key, err := fill(l)
		refused(t, l, key, err, ErrNoSpace)
	})
}

func TestAppendTooLarge(t *testing.T) {
	server := startServer(t, embedded.Options{MaxPayload: 64 << 10})
	nc := connect(t, server)
	if _, err := newJetStream(t, nc).CreateKeyValue(t.Context(), jetstream.KeyValueConfig{
		Bucket: "small", Storage: jetstream.MemoryStorage, MaxValueSize: 100,
	}); err != nil {
		t.Fatal(err)
	}
	small := openLog(t, nc, "small", Config{})
	l := openLog(t, nc, "test", Config{Memory: true})
	if got, want := l.MaxValue(), int64(60<<10); got != want {
		t.Errorf("MaxValue is %d, not %d", got, want)
	}
	metadata := func(n int) []byte { return []byte(`"` + strings.Repeat("m", n-2) + `"`) }
	tests := []struct {
		name string
		log  *Log
		rec  codec.Record
		ok   bool
	}{
		{"as much as there may be", l, codec.Record{Value: make([]byte, 60<<10), Metadata: metadata(1024), Write: strings.Repeat("w", 22)}, true},
		{"a byte more", l, codec.Record{Value: make([]byte, 60<<10+1)}, false},
		{"more than a connection takes, by its headers", l, codec.Record{Value: make([]byte, 60<<10), Metadata: metadata(4096)}, false},
		{"as much as a bucket takes", small, codec.Record{Value: make([]byte, 100)}, true},
		{"a byte more than a bucket takes", small, codec.Record{Value: make([]byte, 101)}, false},
		{"more than a bucket takes, by its headers", small, codec.Record{Value: make([]byte, 100), Metadata: metadata(50)}, false},
	}
	for i, test := range tests {
		key := fmt.Sprint(i)
		_, err := test.log.Append(t.Context(), key, test.rec, Expectation{})
		switch {
		case test.ok && err != nil:
			t.Errorf("%s: %v", test.name, err)
		case !test.ok:
			t.Log(test.name)
			refused(t, test.log, key, err, ErrTooLarge)
		}
	}
}

func TestAppendWithoutTTL(t *testing.T) {
	nc := connect(t, startServer(t, embedded.Options{}))
	js := newJetStream(t, nc)
	if _, err := js.CreateStream(t.Context(), bucketConfig("test")); err != nil {
		t.Fatal(err)
	}
	l := openLog(t, nc, "test", Config{})
	mortal := codec.Record{Value: []byte("x"), TTL: time.Minute}
	_, err := l.Append(t.Context(), "key", mortal, Expectation{})
	refused(t, l, "key", err, ErrUnsupported)

	// The log believes that it can, and the server says no (10166).
	l.limits.Store(&limits{ttl: true, direct: true, maxValue: 1000})
	_, err = l.Append(t.Context(), "key", mortal, Expectation{})
	refused(t, l, "key", err, ErrUnsupported)
}

func TestAppendUnavailable(t *testing.T) {
	t.Run("no stream", func(t *testing.T) {
		l, nc := memoryLog(t, Config{})
		if err := newJetStream(t, nc).DeleteStream(t.Context(), "KV_test"); err != nil {
			t.Fatal(err)
		}
		_, err := l.Append(t.Context(), "key", codec.Record{}, Expectation{})
		if !errors.Is(err, ErrUnavailable) || !errors.Is(err, nats.ErrNoResponders) || errors.Is(err, ErrUncertain) {
			t.Errorf("the error is %v", err)
		}
	})
	t.Run("connection closed", func(t *testing.T) {
		l, nc := memoryLog(t, Config{})
		nc.Close()
		_, err := l.Append(t.Context(), "key", codec.Record{}, Expectation{})
		if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUncertain) {
			t.Errorf("the error is %v", err)
		}
	})
	t.Run("log closed", func(t *testing.T) {
		l, _ := memoryLog(t, Config{})
		l.Close()
		_, err := l.Append(t.Context(), "key", codec.Record{}, Expectation{})
		if !errors.Is(err, ErrUnavailable) || !errors.Is(err, ErrClosed) || errors.Is(err, ErrUncertain) {
			t.Errorf("the error is %v", err)
		}
	})
	t.Run("context over", func(t *testing.T) {
		l, _ := memoryLog(t, Config{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := l.Append(ctx, "key", codec.Record{}, Expectation{})
		refused(t, l, "key", err, ErrUnavailable, context.Canceled)
	})
}

// What an acknowledgement says is checked: it may be that of another stream.
func TestAppendUncertain(t *testing.T) {
	t.Run("another stream", func(t *testing.T) {
		l, nc := memoryLog(t, Config{})
		js := newJetStream(t, nc)
		if err := js.DeleteStream(t.Context(), "KV_test"); err != nil {
			t.Fatal(err)
		}
		cfg := bucketConfig("test")
		cfg.Name = "other"
		if _, err := js.CreateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		_, err := l.Append(t.Context(), "key", codec.Record{}, Expectation{})
		if !errors.Is(err, ErrUncertain) || !strings.Contains(err.Error(), `"other"`) {
			t.Errorf("the error is %v", err)
		}
	})
	t.Run("malformed", func(t *testing.T) {
		l, _ := memoryLog(t, Config{})
		for _, ack := range []string{"", "+OK", "[]", "{}", `{"stream":"KV_test"}`, `{"seq":7}`, `{"stream":"KV_test","seq":-1}`} {
			if seq, err := l.parseAck([]byte(ack)); !errors.Is(err, ErrUncertain) || seq != 0 {
				t.Errorf("%q is %d, %v", ack, seq, err)
			}
		}
	})
}

// Every code that the server can answer a publish or a request with, reachable
// here or not (10164 needs a cluster).
func TestErrorCodes(t *testing.T) {
	tests := map[jetstream.ErrorCode]error{
		10008: ErrUnavailable, 10023: ErrNoSpace, 10028: ErrNoSpace, 10037: ErrNoRecord, 10047: ErrNoSpace,
		10054: ErrTooLarge, 10059: ErrNoStream, 10065: ErrUnsupported, 10071: ErrWrongRevision, 10077: ErrNoSpace,
		10097: ErrTooLarge, 10164: ErrWrongRevision, 10166: ErrUnsupported, 10167: ErrOverloaded,
		10001: ErrRefused, 10113: ErrUnsupported, 10026: ErrLimit,
	}
	all := []error{ErrUnavailable, ErrNoSpace, ErrNoRecord, ErrTooLarge, ErrUnsupported, ErrWrongRevision, ErrOverloaded, ErrUncertain, ErrClosed}
	for code, want := range tests {
		err := apiError(&jetstream.APIError{Code: 400, ErrorCode: code, Description: "why"}, "KV_test")
		var api *jetstream.APIError
		if !errors.Is(err, want) || !errors.As(err, &api) || api.ErrorCode != code || !strings.Contains(err.Error(), "KV_test") {
			t.Errorf("%d is %v", code, err)
		}
		for _, other := range all {
			if !errors.Is(want, other) && errors.Is(err, other) {
				t.Errorf("%d is also %v", code, other)
			}
		}
	}
	if err := apiError(&jetstream.APIError{Code: 429}, "KV_test"); !errors.Is(err, ErrOverloaded) {
		t.Errorf("429 is %v", err)
	}
	if err := apiError(jetstream.ErrStreamNotFound, "KV_test"); !errors.Is(err, ErrNoStream) {
		t.Errorf("ErrStreamNotFound is %v", err)
	}
	if err := apiError(context.Canceled, "KV_test"); !errors.Is(err, context.Canceled) {
		t.Errorf("another error is %v", err)
	}
}
