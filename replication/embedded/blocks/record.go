package blocks

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"

	"github.com/minio/highwayhash"
)

const (
	headLen    = 22 // length, sequence, time, length of the subject
	sumLen     = 8
	leastLen   = headLen + sumLen
	mostLen    = 32 << 20 // of a record; the server writes none that is longer
	headerFlag = 1 << 31  // in the length
	tombFlag   = 1 << 62  // in the sequence
	eraseFlag  = 1 << 63  // in the sequence

	// MaxFileLen is more than any block file can have: a block of 8 MiB, and one record that did not fit.
	MaxFileLen = 8<<20 + mostLen + 64<<10

	// nearby bounds how far two neighbouring sequences may be apart in what may be the rest of a record. A whole record
	// needs no such bound: its checksum covers the sequence.
	nearby = 1 << 20

	// maxSpan bounds the sequences of one block. The server makes an array of them.
	maxSpan = 1 << 26
)

// Kind says what a record is.
type Kind uint8

// The kinds of records.
const (
	Message Kind = iota
	Tombstone
	Erased
)

// Record is one record of a block. Its slices are parts of the block.
type Record struct {
	Offset   int
	Len      int // in the block
	Kind     Kind
	Sequence uint64
	Time     int64 // unix nanoseconds
	Subject  []byte
	Header   []byte // with NATS/1.0 and the empty line; nil: none
	Value    []byte
}

// Fault says where a block is not what the server has written, and why.
type Fault struct {
	Offset int
	Reason string

	// Torn: the file ends before the record does, and nothing in it contradicts that the rest was never written. In the
	// last block of a stream this is what a kill or a power cut leaves.
	Torn bool
}

func (f *Fault) Error() string { return fmt.Sprintf("offset %d: %s", f.Offset, f.Reason) }

// Reader reads the records of one block, one after the other. It allocates nothing.
type Reader struct {
	buf  []byte
	off  int
	last uint64 // the highest sequence so far
	sum  hash.Hash64
	room [sumLen]byte
}

// NewReader returns a reader of what is in block number index of a stream. The
// block is not compressed (see Unpack).
func NewReader(buf []byte, stream string, index uint32) *Reader {
	return &Reader{buf: buf, sum: newSum(fmt.Sprintf("%s-%d", stream, index))}
}

// newSum returns the checksum that is keyed by a name.
func newSum(name string) hash.Hash64 {
	key := sha256.Sum256([]byte(name))
	sum, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		panic(err) // only for a key of another length
	}
	return sum
}

// Next returns the next record, io.EOF at the end of the block, or a *Fault. After
// a Fault there is nothing more to be read: where the next record begins is not known.
func (r *Reader) Next() (Record, error) {
	rest := r.buf[r.off:]
	if len(rest) == 0 {
		return Record{}, io.EOF
	}
	if len(rest) < headLen {
		return Record{}, &Fault{Offset: r.off, Reason: "the file ends within a record", Torn: true}
	}
	n, flagged := lengthOf(rest)
	switch {
	case n < leastLen || n > mostLen:
		return Record{}, r.fault("the record has a length of %d bytes", n)
	case n > len(rest):
		return Record{}, r.cut(rest)
	}
	rec, reason := r.parse(rest[:n], flagged)
	if reason != "" {
		return Record{}, r.fault("%s", reason)
	}
	r.off += n
	r.last = max(r.last, rec.Sequence)
	return rec, nil
}

func (r *Reader) fault(format string, args ...any) *Fault {
	return &Fault{Offset: r.off, Reason: fmt.Sprintf(format, args...)}
}

func lengthOf(b []byte) (n int, flagged bool) {
	v := binary.LittleEndian.Uint32(b)
	return int(v &^ headerFlag), v&headerFlag != 0
}

// parse reads one record, which is all of b. The reason says why it cannot be.
func (r *Reader) parse(b []byte, flagged bool) (rec Record, reason string) {
	rec = Record{Offset: r.off, Len: len(b)}
	rec.Kind, rec.Sequence = sequenceOf(b)
	rec.Time = int64(binary.LittleEndian.Uint64(b[12:]))
	slen, body := int(binary.LittleEndian.Uint16(b[20:])), b[headLen:len(b)-sumLen]
	need := slen
	if flagged {
		need += 4
	}
	if need > len(body) {
		return rec, "the subject is longer than the record"
	}
	rec.Subject, rec.Value = body[:slen], body[need:]
	r.sum.Reset()
	_, _ = r.sum.Write(b[4:20]) // a hash takes everything
	_, _ = r.sum.Write(rec.Subject)
	_, _ = r.sum.Write(rec.Value)
	if !bytes.Equal(r.sum.Sum(r.room[:0]), b[len(b)-sumLen:]) {
		return rec, "the checksum does not fit"
	}
	if rec.Kind != Message {
		return rec, lengthsOfMark(slen, flagged, rec)
	}
	if flagged {
		hlen := int(binary.LittleEndian.Uint32(body[slen:]))
		if reason = checkHeaderLen(rec.Value, hlen); reason != "" {
			return rec, reason
		}
		rec.Header, rec.Value = rec.Value[:hlen], rec.Value[hlen:]
	}
	return rec, ""
}

// lengthsOfMark checks a record that is no message: it has no subject and no header.
func lengthsOfMark(slen int, flagged bool, rec Record) string {
	if slen != 0 || flagged || rec.Kind == Tombstone && rec.Len != leastLen {
		return "a tombstone has a subject, a header or a value"
	}
	return ""
}

func sequenceOf(b []byte) (Kind, uint64) {
	seq := binary.LittleEndian.Uint64(b[4:])
	switch {
	case seq&tombFlag != 0:
		return Tombstone, seq &^ tombFlag
	case seq&eraseFlag != 0:
		return Erased, seq &^ eraseFlag
	}
	return Message, seq
}

var (
	headerStart = []byte("NATS/1.0")
	headerEnd   = []byte("\r\n\r\n")
)

// checkHeaderLen checks the length of a header that is followed by a value. The
// checksum covers both and not where one ends, but a header ends with the only empty
// line in it. What has no empty line was published so: damage cannot make it, since
// the checksum fits.
func checkHeaderLen(b []byte, n int) string {
	if n <= 0 || n > len(b) {
		return "the header is longer than the record"
	}
	if !bytes.HasPrefix(b, headerStart) {
		return ""
	}
	if n >= len(headerEnd) && bytes.Equal(b[n-len(headerEnd):n], headerEnd) && bytes.Index(b[:n], headerEnd) == n-len(headerEnd) {
		return ""
	}
	if bytes.Contains(b, headerEnd) {
		return "the length of the header is not that of its lines"
	}
	return ""
}

// cut returns the fault of a record that is longer than what is left of the file.
func (r *Reader) cut(rest []byte) *Fault {
	f := r.fault("the file ends within a record")
	_, seq := sequenceOf(rest)
	switch {
	case r.last > 0 && (seq == 0 || seq > r.last+nearby):
		f.Reason = "the length of the record and its sequence cannot be"
	case r.whole(rest) || r.follows(rest):
		f.Reason = "the length of the record is not that of what is there"
	default:
		f.Torn = true
	}
	return f
}

// whole reports whether rest is a record whose length was changed.
func (r *Reader) whole(rest []byte) bool {
	if len(rest) < leastLen {
		return false
	}
	for _, flagged := range []bool{false, true} {
		if _, reason := r.parse(rest, flagged); reason == "" {
			return true
		}
	}
	return false
}

// follows reports whether there is a whole record in rest, after its beginning.
func (r *Reader) follows(rest []byte) bool { return r.find(rest) > 0 }

// find returns where the first whole record is in rest, after its beginning; 0: there is none. Sequences are compared
// first, so that hardly ever a checksum is made.
func (r *Reader) find(rest []byte) int {
	for off := 1; off+leastLen <= len(rest); off++ {
		b := rest[off:]
		n, flagged := lengthOf(b)
		if n < leastLen || n > len(b) {
			continue
		}
		if _, seq := sequenceOf(b); seq == 0 || r.last > 0 && seq > r.last+nearby {
			continue
		}
		if _, reason := r.parse(b[:n], flagged); reason == "" {
			return off
		}
	}
	return 0
}
