package replication

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/nearkv/nearkv/codec"
)

const (
	// chunkSize is that of NATS object stores. Where max_payload is lower, that is it:
	// a chunk has no headers.
	chunkSize = 128 << 10
	// chunkFlight is how many chunks are under way that are not acknowledged.
	chunkFlight = 16
)

// Put stores what r holds as a new object, at most codec.MaxValueLen bytes:
// with more the error is ErrTooLarge. It reads r on the caller's goroutine, and
// holds about 2 MiB of it. It makes one try; ErrUnavailable and ErrUncertain may
// pass. An error of r is returned as a *ReadError. With an error the object is
// not there, or is a part that nothing refers to; most of the time it has been
// removed.
func (o *Objects) Put(ctx context.Context, r io.Reader) (*codec.Object, error) {
	if err := o.ensure(ctx); err != nil {
		return nil, err
	}
	u := &upload{objects: o, name: o.newName(), room: make(chan struct{}, chunkFlight), digest: sha256.New()}
	object, err := u.run(ctx, r)
	if err != nil {
		o.Discard(u.name)
		return nil, err
	}
	return object, nil
}

// Discard asks to have an object removed, and does not wait for it.
func (o *Objects) Discard(name string) {
	for _, subject := range []string{o.infoSubject(name), o.chunks + name} {
		// If it cannot be sent, it is found later, as what nothing refers to.
		_ = o.log.nc.Publish(o.purgeSubject(), purgeRequest(subject))
	}
}

// ReadError is an error of the reader that was to be stored.
type ReadError struct{ Err error }

func (e *ReadError) Error() string { return "reading the value: " + e.Err.Error() }

// Unwrap returns the reader's error.
func (e *ReadError) Unwrap() error { return e.Err }

// upload is the putting of one object. Chunks are sent one after the other without
// waiting for each answer. None is sent twice: if one is lost, so is the object.
type upload struct {
	objects *Objects
	name    string
	room    chan struct{} // has as many elements as there are chunks under way
	digest  hash.Hash
	size    int64
	chunks  int

	mu  sync.Mutex
	err error // the first
}

func (u *upload) run(ctx context.Context, r io.Reader) (*codec.Object, error) {
	err := u.sendAll(ctx, r)
	for range chunkFlight { // until all are answered, so that none comes after its removal
		err = cmp.Or(err, u.reserve(ctx))
	}
	if err := cmp.Or(err, u.failed()); err != nil {
		return nil, err
	}
	object := &codec.Object{Name: u.name, Size: u.size}
	u.digest.Sum(object.Digest[:0])
	return object, u.objects.describe(ctx, object, u.chunks)
}

// sendAll sends all that r holds.
func (u *upload) sendAll(ctx context.Context, r io.Reader) error {
	chunk := make([]byte, min(chunkSize, u.objects.log.nc.MaxPayload()))
	for {
		n, err := io.ReadFull(r, chunk)
		if u.size += int64(n); u.size > codec.MaxValueLen {
			return fmt.Errorf("replication: %w: more than %d bytes", ErrTooLarge, codec.MaxValueLen)
		}
		if n > 0 {
			if err := u.send(ctx, chunk[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return &ReadError{err}
		}
	}
}

// send sends one chunk, which can be overwritten afterwards.
func (u *upload) send(ctx context.Context, chunk []byte) error {
	if err := u.failed(); err != nil {
		return err
	}
	if err := u.reserve(ctx); err != nil {
		return err
	}
	u.digest.Write(chunk)
	u.chunks++
	err := u.objects.log.requests.start(u.objects.chunks+u.name, nil, chunk, func(m *nats.Msg, err error) {
		if err := u.objects.stored(m, err); err != nil {
			u.fail(err)
		}
		<-u.room
	})
	if err != nil {
		<-u.room
		if errors.Is(err, nats.ErrMaxPayload) { // the connection leads to another server now
			return fmt.Errorf("replication: %w: max_payload has changed", ErrUnavailable)
		}
		return notAppended(err)
	}
	return nil
}

// reserve waits for room for one more chunk under way.
func (u *upload) reserve(ctx context.Context) error {
	select {
	case u.room <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("replication: %w: %w", ErrUnavailable, Ended(ctx))
	}
}

func (u *upload) fail(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil {
		u.err = err
	}
}

func (u *upload) failed() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// stored reads the answer to a message of an object.
func (o *Objects) stored(m *nats.Msg, err error) error {
	if err == nil {
		_, err = parseAnyAck(m.Data, o.stream)
	} else {
		err = notAppended(err)
	}
	if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUncertain) {
		o.exists.Store(false) // perhaps it was removed
	}
	return err
}
