package bench

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
)

// BenchmarkLarge puts and gets values of 25 MiB, on a server in a process of its
// own: of a Store that keeps none in memory, and of the object store that it is
// built on, by the client of nats.go. Each digest is checked.
func BenchmarkLarge(b *testing.B) {
	value := bytes.Repeat([]byte("0123456789abcdef"), codec.MaxValueLen/16)
	for _, peer := range []struct {
		name string
		open func(b *testing.B) largeStore
	}{{"nearkv", openLarge}, {"objectstore", openObjectStore}} {
		run(b, peer.name, func(b *testing.B) {
			put := peer.open(b).put
			largeOp(b, func() (int64, error) { return codec.MaxValueLen, put(io.MultiReader(bytes.NewReader(value))) })
		}, "op=put")
		run(b, peer.name, func(b *testing.B) {
			store := peer.open(b)
			if err := store.put(bytes.NewReader(value)); err != nil {
				b.Fatal(err)
			}
			largeOp(b, func() (int64, error) {
				r, err := store.get()
				if err != nil {
					return 0, err
				}
				defer func() { _ = r.Close() }()
				return io.Copy(io.Discard, r)
			})
		}, "op=get")
	}
}

func largeOp(b *testing.B, op func() (int64, error)) {
	b.SetBytes(codec.MaxValueLen)
	for b.Loop() {
		if n, err := op(); err != nil || n != codec.MaxValueLen {
			b.Fatal(n, err)
		}
	}
}

// largeStore puts and gets a large value.
type largeStore struct {
	put func(io.Reader) error
	get func() (io.ReadCloser, error)
}

func openLarge(b *testing.B) largeStore {
	s := startProcess(b)
	store := openStoreOn(b, connect(b, s), s, -1)
	b.Cleanup(func() { closeStore(b, store) })
	return largeStore{
		put: func(r io.Reader) error {
			_, err := store.PutFrom(context.Background(), "large", r)
			return err
		},
		get: func() (io.ReadCloser, error) {
			e, err := store.Get(context.Background(), "large", kvstore.Lazy())
			if err != nil {
				return nil, err
			}
			return e.Open(context.Background())
		},
	}
}

func openObjectStore(b *testing.B) largeStore {
	s := startProcess(b)
	store, err := newJetStream(b, connect(b, s)).CreateObjectStore(context.Background(), jetstream.ObjectStoreConfig{Bucket: "large"})
	if err != nil {
		b.Fatal(err)
	}
	return largeStore{
		put: func(r io.Reader) error {
			_, err := store.Put(context.Background(), jetstream.ObjectMeta{Name: "large"}, r)
			return err
		},
		get: func() (io.ReadCloser, error) { return store.Get(context.Background(), "large") },
	}
}
