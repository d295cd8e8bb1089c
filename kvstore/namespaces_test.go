package kvstore_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/kvstore"
)

// Namespaces are all buckets, also those of others, and nothing else.
func TestNamespaces(t *testing.T) {
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			ctx, opts := t.Context(), place(t)
			var first *kvstore.Store // without Dir, URL and Conn nothing outlives a Store
			for _, namespace := range []string{"second", "first"} {
				s, err := kvstore.Open(ctx, namespace, opts)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				first = s
			}
			want := []string{"first", "second"}
			if opts.Dir == "" && opts.URL == "" && opts.Conn == nil {
				want = nil
			}
			if opts.Conn != nil {
				makeOthers(t, opts)
				want = []string{"first", "foreign", "second"}
			}
			got, err := kvstore.Namespaces(ctx, opts)
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%q, %v, not %q", got, err, want)
			}
			if state := first.Status().State; state != kvstore.Live {
				t.Errorf("a Store is %v after it", state)
			}
		})
	}
}

// makeOthers makes a bucket and a stream, as other NATS clients do.
func makeOthers(t *testing.T, opts kvstore.Options) {
	t.Helper()
	js, err := jetstream.New(opts.Conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "foreign"}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}); err != nil {
		t.Fatal(err)
	}
}

func TestNamespacesRefuses(t *testing.T) {
	_, err := kvstore.Namespaces(t.Context(), kvstore.Options{Dir: "x", URL: "y"})
	if !errors.Is(err, kvstore.ErrInvalidOptions) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := kvstore.Namespaces(ctx, places["URL"](t)); !errors.Is(err, kvstore.ErrUnavailable) {
		t.Error(err)
	}
}

// MustExist opens what there is, and creates nothing.
func TestMustExist(t *testing.T) {
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			ctx, opts := t.Context(), place(t)
			opts.MustExist = true
			if s, err := kvstore.Open(ctx, "absent", opts); !errors.Is(err, kvstore.ErrNoNamespace) {
				t.Fatal(s, err)
			}
			if names, err := kvstore.Namespaces(ctx, opts); err != nil || len(names) > 0 {
				t.Errorf("%q, %v: there should be none", names, err)
			}
			if opts.Dir == "" && opts.URL == "" && opts.Conn == nil {
				return
			}
			opts.MustExist = false
			made, err := kvstore.Open(ctx, "absent", opts)
			if err != nil {
				t.Fatal(err)
			}
			defer made.Close()
			opts.MustExist = true
			s, err := kvstore.Open(ctx, "absent", opts)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
		})
	}
}
