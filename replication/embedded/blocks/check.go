package blocks

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
)

// Stream checks the blocks of one stream. Any number of goroutines may call Check at
// the same time.
type Stream struct {
	config   *Config
	subjects *subjectCheck // nil: records have no subjects
	index    *Index        // nil: there is none that proves anything
	noted    map[uint32]*IndexBlock
	seed     maphash.Seed
}

// NewStream returns the checker of a stream. index may be nil.
func NewStream(c *Config, index *Index) *Stream {
	s := &Stream{config: c, subjects: c.subjectCheck(), seed: maphash.MakeSeed()}
	if index == nil || c.Replicas > 1 { // a copy may be cut back to what its peers have
		return s
	}
	s.index, s.noted = index, make(map[uint32]*IndexBlock, len(index.Blocks))
	for i := range index.Blocks {
		s.noted[index.Blocks[i].Number] = &index.Blocks[i]
	}
	return s
}

// Summary is what Check has found in a block.
type Summary struct {
	Number   uint32
	Size     int    // of the file
	Messages int    // whole ones, whether they still count or not
	TTLs     int    // messages that have a TTL
	First    uint64 // sequence of a message or erased one; 0: there is none
	Last     uint64
	Top      uint64 // sequence of any record: a tombstone of an empty stream holds its end
	Fault    *Fault

	live   uint64 // messages that the index has
	finger uint64 // of the subjects of these
	hashes []uint64
}

var ttlHeader = []byte("\r\nNats-TTL:")

// Check reads the records of a block. The Fault of the summary is the first reason
// why they are not what the server has written.
func (s *Stream) Check(file []byte, number uint32) Summary {
	m := Summary{Number: number, Size: len(file)}
	buf, err := Unpack(file)
	if err != nil {
		m.Fault = asFault(err)
		return m
	}
	if noted := s.noted[number]; noted != nil {
		m.hashes = make([]uint64, 0, min(int(noted.Last-noted.First+1), len(buf)/leastLen))
	}
	for r := NewReader(buf, s.config.Name, number); ; {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return m
		}
		if err != nil {
			m.Fault = asFault(err)
			return m
		}
		if reason := s.add(&m, &rec); reason != "" {
			m.Fault = &Fault{Offset: rec.Offset, Reason: reason}
			return m
		}
	}
}

func asFault(err error) *Fault {
	if f, ok := errors.AsType[*Fault](err); ok {
		return f
	}
	return &Fault{Reason: err.Error()}
}

// add counts a whole record. The reason says why it cannot stand there.
func (s *Stream) add(m *Summary, r *Record) string {
	m.Top = max(m.Top, r.Sequence)
	if r.Kind == Tombstone || r.Sequence == 0 {
		return ""
	}
	switch {
	case r.Sequence <= m.Last:
		return fmt.Sprintf("sequence %d comes after %d", r.Sequence, m.Last)
	case m.First == 0:
		m.First = r.Sequence
	case r.Sequence-m.First > maxSpan:
		return fmt.Sprintf("sequence %d in one block with %d", r.Sequence, m.First)
	}
	m.Last = r.Sequence
	if r.Kind == Erased || s.subjects == nil {
		return ""
	}
	if reason := s.subjects.check(r.Subject); reason != "" {
		return reason
	}
	m.Messages++
	if bytes.Contains(r.Header, ttlHeader) {
		m.TTLs++
	}
	s.fingerprint(m, r)
	return ""
}

func (s *Stream) fingerprint(m *Summary, r *Record) {
	h := maphash.Bytes(s.seed, r.Subject)
	m.hashes = append(m.hashes, h)
	if noted := s.noted[m.Number]; noted != nil && noted.Live(r.Sequence) {
		m.live++
		m.finger += h
	}
}

// Finding is what is wrong with a stream beyond a single record.
type Finding struct {
	Block  uint32
	Offset int // -1: it is about the whole block
	Reason string
}

// Total is what the blocks of a stream hold together.
type Total struct {
	Messages uint64 // whole ones
	Least    uint64 // at least so many of them count
	First    uint64 // sequence of a message, 0: there is none
	Last     uint64 // the highest sequence given
	Torn     int    // bytes of a record that was not written to its end
}

// Compare looks at all blocks of a stream together, in the order of their numbers, and
// compares them with the index.
func (s *Stream) Compare(all []Summary) (t Total, found []Finding) {
	ttls := 0
	for i := range all {
		m := &all[i]
		if f := s.fault(m, i == len(all)-1, &t); f != nil {
			found = append(found, *f)
		}
		if m.First != 0 && m.First <= t.lastMessage(all[:i]) {
			found = append(found, Finding{m.Number, -1, fmt.Sprintf("sequence %d is in an earlier block too", m.First)})
		}
		if t.First == 0 {
			t.First = m.First
		}
		t.Last, t.Messages, ttls = max(t.Last, m.Top), t.Messages+uint64(m.Messages), ttls+m.TTLs
	}
	if len(found) > 0 {
		return t, found
	}
	exact, found := s.compareIndex(all, &t)
	if !exact && len(found) == 0 && s.subjects != nil && s.config.Keeps() {
		t.Least = uint64(max(len(distinct(all))-ttls, 0))
	}
	return t, found
}

// fault returns that of a block. One that is torn is none in the last block.
func (s *Stream) fault(m *Summary, last bool, t *Total) *Finding {
	switch {
	case m.Fault == nil && (last || m.Size > 0):
		return nil
	case m.Fault == nil:
		return &Finding{m.Number, -1, "the block is empty, and is not the last one"}
	case m.Fault.Torn && last:
		t.Torn = m.Size - m.Fault.Offset
		return nil
	}
	return &Finding{m.Number, m.Fault.Offset, m.Fault.Reason}
}

func (t *Total) lastMessage(before []Summary) uint64 {
	for _, m := range slices.Backward(before) {
		if m.Last != 0 {
			return m.Last
		}
	}
	return 0
}

// compareIndex finds what the index has and the blocks do not. exact: they have
// the same.
//
// The index may be older than the blocks, by as many records as they have above its
// last sequence. Each of these may have taken the place of one that the index has. And
// messages with a TTL go by themselves. All the rest must be there.
func (s *Stream) compareIndex(all []Summary, t *Total) (exact bool, found []Finding) {
	if s.index == nil {
		return false, nil
	}
	if t.Last < s.index.Last {
		return false, []Finding{{lastNumber(all), -1, fmt.Sprintf("the stream ends with sequence %d, and had %d", t.Last, s.index.Last)}}
	}
	if !s.config.Keeps() {
		return false, nil
	}
	later := t.Last - s.index.Last
	lacking, same, found := s.lacking(all)
	if lacking > later {
		return false, found
	}
	if same && later == 0 {
		t.Least = s.index.Messages - min(s.index.Messages, s.index.TTLs())
		if s.index.Subjects == 0 || s.index.fingerprint(s.seed) == sumOf(all) {
			return true, nil
		}
		return false, []Finding{{lastNumber(all), -1, "the subjects of the records are not those that the index has"}}
	}
	return false, s.lackingSubjects(all, later)
}

func lastNumber(all []Summary) uint32 {
	if len(all) == 0 {
		return 0
	}
	return all[len(all)-1].Number
}

func sumOf(all []Summary) (sum uint64) {
	for i := range all {
		sum += all[i].finger
	}
	return sum
}

// lacking counts the messages that the index has and the blocks do not, less those with a
// TTL, and names their blocks. same: there are none at all.
func (s *Stream) lacking(all []Summary) (n uint64, same bool, found []Finding) {
	live := make(map[uint32]uint64, len(all))
	for i := range all {
		live[all[i].Number] = all[i].live
	}
	same = true
	for i := range s.index.Blocks {
		b := &s.index.Blocks[i]
		have, there := live[b.Number]
		if b.Messages <= have {
			continue
		}
		same = false
		if gone := b.Messages - have; gone > b.TTLs {
			n += gone - b.TTLs
			reason := fmt.Sprintf("%d of the %d messages of the block are not there", gone, b.Messages)
			if !there {
				reason = fmt.Sprintf("the block is not there; it had %d messages", b.Messages)
			}
			found = append(found, Finding{b.Number, -1, reason})
		}
	}
	return n, same, found
}

// lackingSubjects finds subjects that the index has and no block. One of them may be gone
// for each message with a TTL, and for each message after the index.
func (s *Stream) lackingSubjects(all []Summary, later uint64) []Finding {
	have := distinct(all)
	gone := make(map[uint32]uint64)
	examples := make(map[uint32]string)
	s.index.EachSubject(func(subject []byte, _ uint64, block uint32) bool {
		if _, ok := have[maphash.Bytes(s.seed, subject)]; !ok {
			if gone[block]++; gone[block] == 1 {
				examples[block] = string(subject)
			}
		}
		return true
	})
	var n uint64
	var found []Finding
	for block, count := range gone {
		var ttls uint64
		if noted := s.noted[block]; noted != nil {
			ttls = noted.TTLs
		}
		if count > ttls {
			n += count - ttls
			found = append(found, Finding{block, -1, fmt.Sprintf("%d subjects that the block had are nowhere, one is %.600q", count, examples[block])})
		}
	}
	if n <= later {
		return nil
	}
	slices.SortFunc(found, func(a, b Finding) int { return int(a.Block) - int(b.Block) })
	return found
}

func distinct(all []Summary) map[uint64]struct{} {
	n := 0
	for i := range all {
		n += len(all[i].hashes)
	}
	set := make(map[uint64]struct{}, n)
	for i := range all {
		for _, h := range all[i].hashes {
			set[h] = struct{}{}
		}
	}
	return set
}
