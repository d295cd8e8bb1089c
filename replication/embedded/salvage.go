package embedded

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/replication/embedded/blocks"
)

// Salvage is what could be saved of a stream, and what could not.
type Salvage struct {
	Name    string   `json:"name"`
	Written uint64   `json:"written"` // messages in the new store
	Lost    []Damage `json:"lost"`    // parts of the files in which there is no record
	Missing []string `json:"missing"` // subjects of which no record was found, as far as that is known
	Skipped string   `json:"skipped"` // why nothing of it was written

	// Unsure: the server has not noted which records were replaced since. A value may be older than the last one, and a key
	// that was deleted may be there, where the later record was lost.
	Unsure bool `json:"unsure"`
}

// salvager reads the whole records of a stream.
type salvager struct {
	Salvage
	path    string
	numbers []uint32
	config  jetstream.StreamConfig
	stream  *blocks.Stream
	index   *blocks.Index

	history bool              // a subject has more than one message
	latest  map[string]uint64 // sequence of the last message of each subject
	removed map[uint64]bool   // tombstones
}

// newSalvager reads the description of a stream, or takes that of nearkv if there is none.
func newSalvager(path string) (*salvager, error) {
	s := &salvager{path: path, latest: make(map[string]uint64), removed: make(map[uint64]bool)}
	s.Name = filepath.Base(path)
	var err error
	if s.numbers, err = blockNumbers(filepath.Join(path, "msgs")); err != nil {
		return nil, err
	}
	inf, err := readPlain(filepath.Join(path, "meta.inf"), maxConfigLen)
	if err != nil || json.Unmarshal(inf, &s.config) != nil || s.config.Name != s.Name {
		s.config = defaultConfig(s.Name)
		s.Lost = append(s.Lost, Damage{filepath.Join(path, "meta.inf"), -1, "the description of the stream cannot be read; that of a new namespace is used"})
	}
	if s.config.Name == "" {
		s.Skipped = "its description is lost, and it is no namespace"
		return s, nil
	}
	text, err := json.Marshal(s.config)
	if err != nil {
		return nil, failed("read the description of "+s.Name, err)
	}
	config := new(blocks.Config)
	if err := json.Unmarshal(text, config); err != nil {
		return nil, failed("read the description of "+s.Name, err)
	}
	if file, err := readPlain(filepath.Join(path, "msgs", "index.db"), maxIndexLen); err == nil {
		s.index, _ = blocks.ParseIndex(file, s.Name) // one that is not valid is none
	}
	s.stream = blocks.NewStream(config, s.index)
	s.history = s.config.MaxMsgsPerSubject != 1
	return s, nil
}

// defaultConfig is what nearkv makes of a name. The name of the result is empty if it is none of nearkv's.
func defaultConfig(name string) jetstream.StreamConfig {
	c := jetstream.StreamConfig{Name: name, Storage: jetstream.FileStorage, Replicas: 1, Discard: jetstream.DiscardNew, AllowDirect: true, MaxMsgsPerSubject: -1}
	if ns, ok := strings.CutPrefix(name, "KV_"); ok {
		c.Subjects, c.MaxMsgsPerSubject = []string{"$KV." + ns + ".>"}, 1
		c.AllowMsgTTL, c.AllowAtomicPublish, c.AllowBatchPublish, c.DenyDelete, c.DenyPurge = true, true, true, true, true
		c.Metadata = map[string]string{"nearkv.format": "1"}
		return c
	}
	if ns, ok := strings.CutPrefix(name, "OBJ_"); ok {
		c.Subjects = []string{"$O." + ns + ".C.>", "$O." + ns + ".M.>"}
		c.Metadata = map[string]string{"nearkv.format": "1"}
		return c
	}
	return jetstream.StreamConfig{}
}

// survey finds out which records count.
func (s *salvager) survey(ctx context.Context) error {
	last := uint64(0)
	err := s.each(ctx, true, func(r blocks.Record) error {
		last = max(last, r.Sequence)
		if r.Kind == blocks.Tombstone {
			s.removed[r.Sequence] = true
		}
		if r.Kind == blocks.Message && !s.replaced(r.Sequence) {
			s.latest[string(r.Subject)] = max(s.latest[string(r.Subject)], r.Sequence)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.Unsure = len(s.Lost) > 0 && (s.index == nil || s.index.Last < last)
	if s.index != nil {
		s.index.EachSubject(func(subject []byte, _ uint64, _ uint32) bool {
			if _, ok := s.latest[string(subject)]; !ok {
				s.Missing = append(s.Missing, string(subject))
			}
			return true
		})
	}
	return nil
}

// replaced reports whether the server has noted that a message does not count any more.
func (s *salvager) replaced(seq uint64) bool {
	if s.index == nil || seq > s.index.Last {
		return false
	}
	for i := range s.index.Blocks {
		if b := &s.index.Blocks[i]; seq >= b.First && seq <= b.Last {
			return !b.Live(seq)
		}
	}
	return true
}

// counts reports whether a record is to be written.
func (s *salvager) counts(r blocks.Record) bool {
	if r.Kind != blocks.Message || s.removed[r.Sequence] {
		return false
	}
	if s.history {
		return !s.replaced(r.Sequence)
	}
	return s.latest[string(r.Subject)] == r.Sequence
}

// each calls f with every whole record, in order. note: what is lost is noted.
func (s *salvager) each(ctx context.Context, note bool, f func(blocks.Record) error) (err error) {
	var buf []byte
	for _, n := range s.numbers {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		path := filepath.Join(s.path, "msgs", fmt.Sprintf("%d.blk", n))
		file, readErr := readInto(buf, path, blocks.MaxFileLen)
		if readErr != nil {
			if note {
				s.Lost = append(s.Lost, Damage{path, -1, readErr.Error()})
			}
			continue
		}
		buf = file
		s.stream.Salvage(file, n, func(r blocks.Record) {
			if err == nil {
				err = f(r)
			}
		}, func(from, to int, reason string) {
			if note {
				s.Lost = append(s.Lost, Damage{path, int64(from), fmt.Sprintf("%d bytes: %s", to-from, reason)})
			}
		})
		if err != nil {
			return err
		}
	}
	if note {
		s.noteBlocks()
	}
	return nil
}

// noteBlocks notes blocks that are not there any more.
func (s *salvager) noteBlocks() {
	if s.index == nil {
		return
	}
	for _, b := range s.index.Blocks {
		path := filepath.Join(s.path, "msgs", fmt.Sprintf("%d.blk", b.Number))
		if _, ok := slices.BinarySearch(s.numbers, b.Number); ok || b.Messages == 0 {
			continue
		}
		if _, err := os.Lstat(path); err != nil {
			s.Lost = append(s.Lost, Damage{path, -1, fmt.Sprintf("the block is not there; it had %d messages", b.Messages)})
		}
	}
}
