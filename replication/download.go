package replication

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/nearkv/nearkv/codec"
)

// readAhead is how many chunks are asked for at a time.
const readAhead = 8

// Open returns a reader of an object. It asks the object store when it is read,
// for 1 MiB at a time. While the store cannot be reached it waits, until ctx ends:
// then the error is ErrUnavailable. The reader returns io.EOF when all that the
// object is to hold has been read and its digest is right. Otherwise the error is
// ErrNoObject, if nothing is there, or ErrDamagedObject. The reader is not for
// concurrent use.
func (o *Objects) Open(ctx context.Context, object *codec.Object) io.ReadCloser {
	return &download{objects: o, ctx: ctx, object: object, next: 1, digest: sha256.New()}
}

// download is the reading of one object.
type download struct {
	objects *Objects
	ctx     context.Context // of the whole reading, as that of an HTTP request
	object  *codec.Object
	next    uint64 // sequence behind that of the last chunk
	size    int64  // of all chunks so far
	digest  hash.Hash
	chunks  []*nats.Msg
	rest    []byte // of the chunk that is being read
	err     error
}

func (d *download) Read(p []byte) (int, error) {
	for len(d.rest) == 0 && d.err == nil {
		d.rest, d.err = d.chunk()
	}
	if len(d.rest) == 0 {
		return 0, d.err
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

// Close ends the reading.
func (d *download) Close() error {
	d.chunks, d.rest = nil, nil
	if d.err == nil {
		d.err = errors.New("replication: the reader was closed")
	}
	return nil
}

// chunk returns the next chunk; io.EOF if there is none, and should be none.
func (d *download) chunk() ([]byte, error) {
	if d.size == d.object.Size {
		if [sha256.Size]byte(d.digest.Sum(nil)) != d.object.Digest {
			return nil, d.damaged("the digest is not that of the value")
		}
		return nil, io.EOF
	}
	if len(d.chunks) == 0 {
		if err := d.fetch(); err != nil {
			return nil, err
		}
	}
	chunk := d.chunks[0].Data
	d.chunks[0] = nil
	d.chunks = d.chunks[1:]
	if d.size += int64(len(chunk)); d.size > d.object.Size {
		return nil, d.damaged("there is more of it than there should be")
	}
	d.digest.Write(chunk)
	return chunk, nil
}

func (d *download) damaged(why string) error {
	return fmt.Errorf("replication: %w: %s: %s", ErrDamagedObject, d.object.Name, why)
}

// fetch gets more chunks.
func (d *download) fetch() error {
	retry := NewBackoff()
	for {
		err := d.fetchOnce()
		switch {
		case err == nil:
			return nil
		case errors.Is(err, ErrNoRecord), errors.Is(err, ErrNoStream):
			if d.size == 0 {
				return fmt.Errorf("replication: %w: %s", ErrNoObject, d.object.Name)
			}
			return d.damaged("the end is missing")
		case !errors.Is(err, ErrUnavailable), errors.Is(err, ErrClosed):
			return err
		}
		if ended := retry.Wait(d.ctx, nil); ended != nil {
			return fmt.Errorf("replication: read %s: %w: %w", d.object.Name, err, ended)
		}
	}
}

func (d *download) fetchOnce() error {
	o := d.objects
	query, err := json.Marshal(map[string]any{"seq": d.next, "next_by_subj": o.chunks + d.object.Name, "batch": readAhead})
	if err != nil {
		return err
	}
	chunks, err := o.log.requests.gather(d.ctx, "$JS.API.DIRECT.GET."+o.stream, query, readAhead)
	if err != nil && !errors.Is(err, nats.ErrNoResponders) {
		return unanswered(err)
	}
	if len(chunks) == 0 { // a copy of the stream may lag behind, and one of others may not answer directly
		return d.fetchFromLeader()
	}
	d.chunks = chunks
	seq, err := strconv.ParseUint(last(chunks[len(chunks)-1].Header, "Nats-Sequence"), 10, 64)
	if err != nil {
		return d.damaged("a chunk has no sequence")
	}
	d.next = seq + 1
	return nil
}

// fetchFromLeader gets one chunk from the stream's leader.
func (d *download) fetchFromLeader() error {
	o := d.objects
	query, err := json.Marshal(map[string]any{"seq": d.next, "next_by_subj": o.chunks + d.object.Name})
	if err != nil {
		return err
	}
	s, err := o.log.loadStored(d.ctx, o.stream, query)
	if err != nil {
		return err
	}
	d.chunks = []*nats.Msg{{Data: s.Data}}
	d.next = s.Seq + 1
	return nil
}
