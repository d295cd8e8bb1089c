package blocks

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/maphash"

	"github.com/nats-io/nats-server/v2/server/avl"
)

// Index is what the server noted of a stream: at its clean end, or some time before
// it was killed. It is the only thing in a directory that tells of what is no longer
// there.
type Index struct {
	Messages    uint64
	First, Last uint64
	Subjects    uint64
	Blocks      []IndexBlock

	subjects []byte // encoded
}

// IndexBlock is what the index says of a block.
type IndexBlock struct {
	Number      uint32
	First, Last uint64
	Messages    uint64 // that exist
	TTLs        uint64 // at most so many of them go by themselves
	Deleted     *avl.SequenceSet
}

// Live reports whether the index has a message of this sequence.
func (b *IndexBlock) Live(seq uint64) bool {
	return seq >= b.First && seq <= b.Last && (b.Deleted == nil || !b.Deleted.Exists(seq))
}

// TTLs returns how many messages have a TTL.
func (x *Index) TTLs() (n uint64) {
	for i := range x.Blocks {
		n += x.Blocks[i].TTLs
	}
	return n
}

const (
	indexMagic = 11
	indexLeast = 32 // bytes
)

var errIndex = errors.New("index is not valid")

// ParseIndex reads index.db of a stream. One that is not valid proves nothing: the
// server writes it in place, and makes it again when it has to.
func ParseIndex(file []byte, stream string) (*Index, error) {
	if len(file) < indexLeast {
		return nil, errIndex
	}
	body, sum := file[:len(file)-sumLen], file[len(file)-sumLen:]
	h := newSum(stream)
	_, _ = h.Write(body)
	if !bytes.Equal(h.Sum(nil), sum) {
		return nil, errIndex
	}
	version := body[1]
	if body[0] != indexMagic || version < 3 || version > 4 {
		return nil, errIndex
	}
	r := &varints{b: body[2:]}
	x := &Index{Messages: r.uint()}
	r.uint() // bytes
	x.First = r.uint()
	r.skipInt() // time of the first
	x.Last = r.uint()
	r.skipInt() // time of the last
	x.Subjects = r.uint()
	x.subjects = r.b
	for range x.Subjects {
		if r.subject(version); r.bad {
			return nil, errIndex
		}
	}
	x.subjects = x.subjects[:len(x.subjects)-len(r.b)]
	blocks := r.uint()
	for i := uint64(0); i < blocks && !r.bad; i++ {
		x.Blocks = append(x.Blocks, r.block())
	}
	r.uint() // number of the last block
	if r.bad || len(r.b) != sumLen {
		return nil, errIndex
	}
	x.subjects = append([]byte{version}, x.subjects...)
	return x, nil
}

// EachSubject calls f with each subject, the number of its messages, and the block of
// the last one. It ends when f returns false.
func (x *Index) EachSubject(f func(subject []byte, messages uint64, block uint32) bool) {
	r := &varints{b: x.subjects[1:]}
	for range x.Subjects {
		s, n, block := r.subject(x.subjects[0])
		if r.bad || !f(s, n, block) {
			return
		}
	}
}

// fingerprint is the same for the same subjects, each with the same number of messages.
func (x *Index) fingerprint(seed maphash.Seed) (sum uint64) {
	x.EachSubject(func(s []byte, n uint64, _ uint32) bool {
		sum += n * maphash.Bytes(seed, s)
		return true
	})
	return sum
}

// varints reads numbers. After the first that is not there it is bad.
type varints struct {
	b   []byte
	bad bool
}

func (r *varints) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || r.bad {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

// skipInt steps over a signed number.
func (r *varints) skipInt() {
	_, n := binary.Varint(r.b)
	if n <= 0 || r.bad {
		r.bad = true
		return
	}
	r.b = r.b[n:]
}

func (r *varints) subject(version byte) (subject []byte, messages uint64, last uint32) {
	n := r.uint()
	if r.bad || n > uint64(len(r.b)) {
		r.bad = true
		return nil, 0, 0
	}
	if n == 0 { // the server writes nothing more for it
		return nil, 0, 0
	}
	subject, r.b = r.b[:n], r.b[n:]
	messages = r.uint()
	last = uint32(r.uint())
	if messages > 1 || version >= 4 {
		last = uint32(r.uint())
	}
	return subject, messages, last
}

func (r *varints) block() (b IndexBlock) {
	b.Number = uint32(r.uint())
	r.uint() // bytes
	b.First = r.uint()
	r.skipInt() // time of the first
	b.Last = r.uint()
	r.skipInt() // time of the last
	deleted := r.uint()
	b.TTLs = r.uint()
	r.uint() // schedules
	if r.bad || b.First > b.Last+1 {
		r.bad = true
		return b
	}
	b.Messages = b.Last - b.First + 1
	if deleted == 0 {
		return b
	}
	set, n, err := avl.Decode(r.b)
	if err != nil || n > len(r.b) {
		r.bad = true
		return b
	}
	b.Deleted, r.b = set, r.b[n:]
	b.Messages -= min(deleted, b.Messages)
	return b
}
