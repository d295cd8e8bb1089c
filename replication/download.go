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
// for 1 MiB at a time, one ahead of the reader. While the store cannot be reached
// it waits, until ctx ends: then the error is ErrUnavailable. The reader returns
// io.EOF when all that the object is to hold has been read and its digest is
// right. Otherwise the error is ErrNoObject, if nothing is there, or
// ErrDamagedObject. The reader is not for concurrent use. It has to be closed.
func (o *Objects) Open(ctx context.Context, object *codec.Object) io.ReadCloser {
	d := &download{objects: o, object: object, next: 1, digest: sha256.New(), ahead: make(chan batch, 1)}
	d.ctx, d.stop = context.WithCancel(ctx)
	return d
}

// download is the reading of one object.
type download struct {
	objects *Objects
	ctx     context.Context // of the whole reading, as that of an HTTP request
	stop    context.CancelFunc
	object  *codec.Object
	size    int64 // of all chunks so far
	digest  hash.Hash
	chunks  []*nats.Msg
	rest    []byte // of the chunk that is being read
	err     error

	fetching bool       // a batch is, or will be, in ahead
	ahead    chan batch // of capacity 1

	// Of the goroutine that fetches:
	next    uint64 // sequence behind that of the last chunk
	fetched int64  // size of all chunks so far
}

// batch is what a request has brought.
type batch struct {
	chunks []*nats.Msg
	err    error
}

func (d *download) Read(p []byte) (int, error) {
	for len(d.rest) == 0 && d.err == nil {
		if d.rest, d.err = d.chunk(); d.err != nil {
			d.stop()
		}
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
	d.stop()
	if d.fetching {
		<-d.ahead
		d.fetching = false
	}
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
		if err := d.turn(); err != nil {
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

// turn takes the next batch, and has the one behind it fetched.
func (d *download) turn() error {
	if !d.fetching {
		d.fetchAhead()
	}
	b := <-d.ahead
	d.fetching = false
	d.chunks = b.chunks
	if b.err == nil && d.fetched < d.object.Size {
		d.fetchAhead()
	}
	return b.err
}

func (d *download) fetchAhead() {
	d.fetching = true
	go func() {
		chunks, err := d.fetch()
		d.ahead <- batch{chunks, err}
	}()
}

// fetch gets the next chunks.
func (d *download) fetch() ([]*nats.Msg, error) {
	retry := NewBackoff()
	for {
		chunks, err := d.fetchOnce()
		switch {
		case err == nil:
			for _, c := range chunks {
				d.fetched += int64(len(c.Data))
			}
			return chunks, nil
		case errors.Is(err, ErrNoRecord), errors.Is(err, ErrNoStream):
			if d.fetched == 0 {
				return nil, fmt.Errorf("replication: %w: %s", ErrNoObject, d.object.Name)
			}
			return nil, d.damaged("the end is missing")
		case !errors.Is(err, ErrUnavailable), errors.Is(err, ErrClosed), Lasting(err):
			return nil, err
		}
		if ended := retry.Wait(d.ctx, nil); ended != nil {
			return nil, fmt.Errorf("replication: read %s: %w: %w", d.object.Name, err, ended)
		}
	}
}

func (d *download) fetchOnce() ([]*nats.Msg, error) {
	o := d.objects
	query, err := json.Marshal(map[string]any{"seq": d.next, "next_by_subj": o.chunks + d.object.Name, "batch": readAhead})
	if err != nil {
		return nil, err
	}
	chunks, err := o.log.requests.gather(d.ctx, o.log.api("DIRECT.GET."+o.stream), query, readAhead)
	if err != nil && !errors.Is(err, nats.ErrNoResponders) {
		return nil, unanswered(err)
	}
	if len(chunks) == 0 { // a copy of the stream may lag behind, and one of others may not answer directly
		return d.fetchFromLeader()
	}
	seq, err := strconv.ParseUint(last(chunks[len(chunks)-1].Header, "Nats-Sequence"), 10, 64)
	if err != nil {
		return nil, d.damaged("a chunk has no sequence")
	}
	d.next = seq + 1
	return chunks, nil
}

// fetchFromLeader gets one chunk from the stream's leader.
func (d *download) fetchFromLeader() ([]*nats.Msg, error) {
	o := d.objects
	query, err := json.Marshal(map[string]any{"seq": d.next, "next_by_subj": o.chunks + d.object.Name})
	if err != nil {
		return nil, err
	}
	s, err := o.log.loadStored(d.ctx, o.stream, query)
	if err != nil {
		return nil, err
	}
	d.next = s.Seq + 1
	return []*nats.Msg{{Data: s.Data}}, nil
}
