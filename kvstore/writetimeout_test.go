package kvstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
)

// A write without a deadline ends after WriteTimeout while the log is away, whatever
// it is.
func TestWriteTimeout(t *testing.T) {
	large := make([]byte, 1<<20)
	pairs := func(n int) func(func(kvstore.Pair) bool) {
		return func(yield func(kvstore.Pair) bool) {
			for i := range n {
				if !yield(kvstore.Pair{Key: fmt.Sprint(i), Value: []byte("v")}) {
					return
				}
			}
		}
	}
	writes := map[string]func(ctx context.Context, s *kvstore.Store) error{
		"Put": func(ctx context.Context, s *kvstore.Store) error { _, err := s.Put(ctx, "k", nil); return err },
		"IfAbsent": func(ctx context.Context, s *kvstore.Store) error {
			_, err := s.Put(ctx, "k", nil, kvstore.IfAbsent())
			return err
		},
		"large": func(ctx context.Context, s *kvstore.Store) error { _, err := s.Put(ctx, "k", large); return err },
		"PutFrom": func(ctx context.Context, s *kvstore.Store) error {
			_, err := s.PutFrom(ctx, "k", bytes.NewReader(large))
			return err
		},
		"Delete": func(ctx context.Context, s *kvstore.Store) error { return s.Delete(ctx, "k") },
		"Batch": func(ctx context.Context, s *kvstore.Store) error {
			_, err := s.Batch(ctx, kvstore.OpPut("k", nil))
			return err
		},
		"large parts": func(ctx context.Context, s *kvstore.Store) error {
			_, err := s.Batch(ctx, kvstore.OpPut("k", large))
			return err
		},
		"PutAll": func(ctx context.Context, s *kvstore.Store) error { _, err := s.PutAll(ctx, pairs(5000)); return err },
		"DeleteAll": func(ctx context.Context, s *kvstore.Store) error {
			_, err := s.DeleteAll(ctx, func(yield func(string) bool) { yield("k") })
			return err
		},
		"DeletePrefix": func(ctx context.Context, s *kvstore.Store) error { _, err := s.DeletePrefix(ctx, ""); return err },
		"Import": func(ctx context.Context, s *kvstore.Store) error {
			_, err := s.ImportJSON(ctx, strings.NewReader(`[{"key":"k","value":"v"}]`))
			return err
		},
		"Update": func(ctx context.Context, s *kvstore.Store) error {
			_, err := kvstore.NewView(s, codec.String()).Update(ctx, "k", func(old string) (string, error) { return old + "x", nil })
			return err
		},
	}
	for name, write := range writes {
		t.Run(name, func(t *testing.T) {
			kvstoretest.Run(t, func(t *testing.T) {
				server := kvstoretest.NewServer(t, "")
				s, err := kvstore.Open(t.Context(), "app", kvstore.Options{Conn: server.Conn(t), Memory: true, WriteTimeout: 7 * time.Second})
				if err != nil {
					t.Fatal(err)
				}
				defer closeStore(t, s)
				server.SetDown(true)
				synctest.Wait()
				began := time.Now()
				err = write(context.Background(), s)
				took := time.Since(began)
				wantErrors(t, err, context.DeadlineExceeded)
				if errors.Is(err, context.Canceled) {
					t.Errorf("nobody has cancelled: %v", err)
				}
				if !errors.Is(err, kvstore.ErrUnavailable) && !errors.Is(err, kvstore.ErrIndeterminate) || took < 6*time.Second || took > 9*time.Second {
					t.Errorf("after %v: %v", took, err)
				}
				server.SetDown(false)
				wantPut(t, s, "k", "v")
			})
		})
	}
}

// A deadline of the context counts instead, and a negative WriteTimeout bounds nothing.
func TestWriteTimeoutOff(t *testing.T) {
	for name, test := range map[string]struct {
		option, deadline, away, want time.Duration
	}{
		"the context's deadline is later": {time.Second, time.Minute, 20 * time.Second, 0},
		"the context's deadline is first": {time.Minute, time.Second, 20 * time.Second, time.Second},
		"no bound":                        {-1, 0, time.Hour, 0},
		"default":                         {0, 0, time.Hour, kvstore.DefaultWriteTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			kvstoretest.Run(t, func(t *testing.T) {
				server := kvstoretest.NewServer(t, "")
				s, err := kvstore.Open(t.Context(), "app", kvstore.Options{Conn: server.Conn(t), Memory: true, WriteTimeout: test.option})
				if err != nil {
					t.Fatal(err)
				}
				defer closeStore(t, s)
				ctx := context.Background()
				if test.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.deadline)
					defer cancel()
				}
				server.SetDown(true)
				back := time.AfterFunc(test.away, func() { server.SetDown(false) })
				defer back.Stop()
				began := time.Now()
				_, err = s.Put(ctx, "k", nil)
				took := time.Since(began)
				switch {
				case test.want == 0 && (err != nil || took < test.away):
					t.Errorf("after %v: %v", took, err)
				case test.want != 0 && (!errors.Is(err, context.DeadlineExceeded) || took < test.want || took > test.want+time.Second):
					t.Errorf("after %v: %v", took, err)
				}
			})
		})
	}
}

// A value that comes slowly is no reason to give up.
func TestWriteTimeoutProgress(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		server := kvstoretest.NewServer(t, "")
		s, err := kvstore.Open(t.Context(), "app", kvstore.Options{Conn: server.Conn(t), Memory: true, WriteTimeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer closeStore(t, s)
		began := time.Now()
		_, err = s.PutFrom(context.Background(), "k", &slowReader{bytes.NewReader(make([]byte, 1<<20)), 3 * time.Second})
		if err != nil || time.Since(began) < 10*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		n, err := s.PutAll(context.Background(), func(yield func(kvstore.Pair) bool) {
			for i := range 10 {
				time.Sleep(3 * time.Second)
				if !yield(kvstore.Pair{Key: fmt.Sprint(i)}) {
					return
				}
			}
		})
		if n != 10 || err != nil {
			t.Errorf("PutAll returns %d, %v", n, err)
		}
	})
}

type slowReader struct {
	io.Reader
	every time.Duration
}

func (r *slowReader) Read(p []byte) (int, error) {
	time.Sleep(r.every)
	return r.Reader.Read(p[:min(len(p), 128<<10)])
}
