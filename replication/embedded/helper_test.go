package embedded_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/replication/embedded"
)

// start runs a server until the end of the test.
func start(t *testing.T, opts embedded.Options) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shutdown(t, s) })
	return s
}

func shutdown(t *testing.T, s *embedded.Server) {
	t.Helper()
	if err := s.Shutdown(); err != nil {
		t.Error(err)
	}
}

// connect opens a connection until the end of the test.
func connect(t *testing.T, s *embedded.Server) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc, streams(t, nc)
}

func streams(t *testing.T, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// createStream makes the stream S on the subjects s.>, much as the store has it.
func createStream(t *testing.T, js jetstream.JetStream, storage jetstream.StorageType) jetstream.Stream {
	t.Helper()
	st, err := js.CreateStream(t.Context(), streamConfig(storage))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func streamConfig(storage jetstream.StorageType) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              "S",
		Subjects:          []string{"s.>"},
		Storage:           storage,
		MaxMsgsPerSubject: 1,
		AllowDirect:       true,
		AllowMsgTTL:       true,
	}
}

func put(t *testing.T, js jetstream.JetStream, subject, value string, opts ...jetstream.PublishOpt) {
	t.Helper()
	if _, err := js.Publish(t.Context(), subject, []byte(value), opts...); err != nil {
		t.Fatal(err)
	}
}

func wantValue(t *testing.T, st jetstream.Stream, subject, want string) {
	t.Helper()
	m, err := st.GetLastMsgForSubject(t.Context(), subject)
	if err != nil {
		t.Fatalf("get %s: %v", subject, err)
	}
	if got := string(m.Data); got != want {
		t.Fatalf("%s = %q, want %q", subject, got, want)
	}
}

func wantErrorIs(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want one that is %v", err, want)
	}
}

// wantAPIError checks for an error of JetStream by its code.
func wantAPIError(t *testing.T, err error, code jetstream.ErrorCode) {
	t.Helper()
	var api *jetstream.APIError
	if !errors.As(err, &api) || api.ErrorCode != code {
		t.Fatalf("error is %v, want JetStream error %d", err, code)
	}
}

// flush returns when the server has seen all that nc has sent.
func flush(t *testing.T, nc *nats.Conn) {
	t.Helper()
	if err := nc.FlushWithContext(within(t, quick)); err != nil {
		t.Fatal(err)
	}
}

// within returns the context of an operation that is expected to be quick.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// records is a slog.Handler that keeps what it gets as "LEVEL message". With at, the first record that contains it
// closes reached and waits for release: the server stands still in the middle of what it does.
type records struct {
	at      string
	reached chan struct{}
	release chan struct{}

	mu    sync.Mutex
	lines []string
}

func newRecords(at string) *records {
	return &records{at: at, reached: make(chan struct{}), release: make(chan struct{})}
}

func (r *records) logger() *slog.Logger { return slog.New(r) }

func (r *records) Enabled(context.Context, slog.Level) bool { return true }
func (r *records) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *records) WithGroup(string) slog.Handler            { return r }

func (r *records) Handle(_ context.Context, rec slog.Record) error {
	r.mu.Lock()
	r.lines = append(r.lines, rec.Level.String()+" "+rec.Message)
	wait := r.at != "" && strings.Contains(rec.Message, r.at)
	if wait {
		r.at = ""
	}
	r.mu.Unlock()
	if wait {
		close(r.reached)
		<-r.release
	}
	return nil
}

// with returns the lines that begin with prefix.
func (r *records) with(prefix string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []string
	for _, line := range r.lines {
		if strings.HasPrefix(line, prefix) {
			found = append(found, line)
		}
	}
	return found
}
