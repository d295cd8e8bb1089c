package embedded

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nearkv/nearkv/replication/embedded/blocks"
)

// Report is what Check has found in a directory.
type Report struct {
	Dir     string         `json:"dir"`
	Streams []StreamReport `json:"streams"`
	Damage  []Damage       `json:"damage"`
}

// StreamReport is one stream of a directory: KV_<namespace> for a namespace, OBJ_<namespace> for
// its large values.
type StreamReport struct {
	Name     string `json:"name"`
	Blocks   int    `json:"blocks"`
	Messages uint64 `json:"messages"` // whole ones, also those that were replaced since
	First    uint64 `json:"first"`    // sequence of a message
	Last     uint64 `json:"last"`     // highest sequence
	Torn     int    `json:"torn"`     // bytes at the end that belong to a record which was not finished

	path  string // of its directory
	least uint64 // messages that must be there after the start
	empty bool   // its creation was cut off: there is nothing in it
	wheel string // path of a file that may lack expiries of messages; "": none
}

// Damage is something that is not as the server has written it.
type Damage struct {
	Path   string `json:"path"`
	Offset int64  `json:"offset"` // in the file; -1: it is about the whole file or directory
	Reason string `json:"reason"`
}

func (d Damage) String() string {
	if d.Offset < 0 {
		return fmt.Sprintf("%s: %s", d.Path, d.Reason)
	}
	return fmt.Sprintf("%s: offset %d: %s", d.Path, d.Offset, d.Reason)
}

// inspect reads all streams in a store directory. It changes nothing. Everything in it can be
// opened: checkTree has tried. The error is that of ctx, or of a file that cannot be read.
//
// The logs of the raft groups of a voter are left out: the server cuts, compacts and purges
// them as it goes, so that a kill leaves them in states that are no damage, and what they
// lack a voter gets from the others.
func inspect(ctx context.Context, dir, store string) (*Report, error) {
	i := &inspector{report: &Report{Dir: dir}}
	accounts, err := readDirs(filepath.Join(store, "jetstream"))
	if err != nil {
		return nil, err
	}
	if err := checkEntry(filepath.Join(store, "jetstream", "$G"), fs.ModeDir); err != nil {
		return nil, err
	}
	for _, account := range accounts {
		if err := i.checkStreams(filepath.Join(account, "streams")); err != nil {
			return nil, err
		}
		streams, err := readDirs(filepath.Join(account, "streams"))
		if err != nil {
			return nil, err
		}
		for _, path := range streams {
			if !strings.HasPrefix(filepath.Base(path), ".") { // those are being deleted
				i.streams = append(i.streams, &inspection{StreamReport: StreamReport{Name: filepath.Base(path), path: path}})
			}
		}
	}
	if err := i.run(ctx); err != nil {
		return nil, err
	}
	return i.report, nil
}

// checkStreams finds what is in the place of a stream and is none: the server passes over it.
func (i *inspector) checkStreams(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return denied(dir, err)
	}
	for _, e := range entries {
		if !e.IsDir() && !strings.HasPrefix(e.Name(), ".") { // a file manager or backup may have left that
			i.report.Damage = append(i.report.Damage, Damage{filepath.Join(dir, e.Name()), -1, "is not the directory of a stream"})
		}
	}
	return nil
}

// readDirs returns the paths of the directories in dir, sorted. dir need not be there.
func readDirs(dir string) (paths []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, denied(dir, err)
	}
	for _, e := range entries {
		if e.IsDir() {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, nil
}

// inspector reads the blocks of all streams, as many at a time as there are processors.
type inspector struct {
	streams []*inspection
	report  *Report
}

// inspection is that of one stream.
type inspection struct {
	StreamReport
	config  *blocks.Config
	stream  *blocks.Stream
	numbers []uint32
	found   []blocks.Summary // of numbers
	damage  []Damage
}

func (i *inspector) run(ctx context.Context) error {
	var jobs []blockJob
	for _, s := range i.streams {
		if err := s.prepare(); err != nil {
			return err
		}
		for n := range s.found {
			jobs = append(jobs, blockJob{s, n})
		}
	}
	readBlocks(ctx, jobs)
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, s := range i.streams {
		s.conclude()
		i.report.Streams = append(i.report.Streams, s.StreamReport)
		i.report.Damage = append(i.report.Damage, s.damage...)
	}
	return nil
}

// blockJob is one block to be read.
type blockJob struct {
	of    *inspection
	index int // in its numbers
}

// readBlocks reads blocks until ctx ends. Each processor has memory for one.
func readBlocks(ctx context.Context, jobs []blockJob) {
	var next atomic.Int64
	var work sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(jobs)) {
		work.Go(func() {
			var buf []byte
			for ctx.Err() == nil {
				n := int(next.Add(1)) - 1
				if n >= len(jobs) {
					return
				}
				buf = jobs[n].of.read(jobs[n].index, buf)
			}
		})
	}
	work.Wait()
}

func (s *inspection) msgs() string { return filepath.Join(s.path, "msgs") }

func (s *inspection) damaged(path string, offset int64, reason string) {
	s.damage = append(s.damage, Damage{path, offset, reason})
}

// prepare reads all but the blocks.
func (s *inspection) prepare() error {
	entries, err := os.ReadDir(s.path)
	if err != nil {
		return denied(s.path, err)
	}
	if s.numbers, err = blockNumbers(s.msgs()); err != nil {
		return err
	}
	if s.isCutCreation() {
		s.empty = true
		return nil
	}
	purge := "" // that was cut off
	for _, e := range entries {
		switch e.Name() {
		case "msgs", "obs":
			if !e.IsDir() {
				return &AccessError{Path: filepath.Join(s.path, e.Name()), Reason: typeReason(e.Type())}
			}
		case "__new_msgs__", "__msgs__":
			purge = filepath.Join(s.path, e.Name())
		case "meta.key":
			s.damaged(filepath.Join(s.path, e.Name()), -1, "the stream is encrypted: this server has no key")
		}
	}
	if err := s.readConfig(); err != nil {
		s.damaged(filepath.Join(s.path, "meta.inf"), -1, err.Error())
		return nil
	}
	if purge != "" && s.config.Replicas <= 1 { // a copy is purged to be filled again from another one
		s.damaged(purge, -1, "a purge of the whole stream was cut off, which nearkv never does: the server would remove the messages")
	}
	if len(s.numbers) == 0 && s.config.Replicas > 1 {
		return nil
	}
	if len(s.numbers) == 0 {
		s.damaged(s.msgs(), -1, "there is no block, and a stream always has one")
		return nil
	}
	s.found = make([]blocks.Summary, len(s.numbers))
	index := s.readIndex()
	s.stream = blocks.NewStream(s.config, index)
	s.checkWheel(index)
	return nil
}

// wheelName is the file in which the server notes when messages expire.
const wheelName = "thw.db"

// checkWheel compares how many messages with a TTL there are by the wheel and by the index. The server writes the index
// first, and removes what has expired while it ends or until it is killed: then the index has messages that the wheel
// has not. The server would keep these, count some of them and deliver others, for ever.
func (s *inspection) checkWheel(index *blocks.Index) {
	const header = 1 + 8 + 8 // magic, count, sequence up to which it is valid
	path := filepath.Join(s.msgs(), wheelName)
	wheel, err := readPlain(path, maxIndexLen)
	if err != nil {
		return // there is none, or the server finds that it cannot be read
	}
	if index == nil || len(wheel) < header || binary.LittleEndian.Uint64(wheel[1:]) != index.TTLs() {
		s.wheel = path
	}
}

func blockNumbers(dir string) (numbers []uint32, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, denied(dir, err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".blk")
		n, err := strconv.ParseUint(name, 10, 32)
		if !ok || err != nil {
			continue
		}
		if !e.Type().IsRegular() {
			return nil, &AccessError{Path: filepath.Join(dir, e.Name()), Reason: typeReason(e.Type())}
		}
		numbers = append(numbers, uint32(n))
	}
	slices.Sort(numbers)
	return numbers, nil
}

// isCutCreation reports whether the process was killed while it created the stream: the server
// writes meta.sum last, and a record only after that.
func (s *inspection) isCutCreation() bool {
	if sum, err := os.Stat(filepath.Join(s.path, "meta.sum")); err == nil && sum.Size() > 0 {
		return false
	}
	if _, err := os.Stat(filepath.Join(s.msgs(), "index.db")); err == nil {
		return false
	}
	for _, n := range s.numbers {
		if info, err := os.Stat(s.blockPath(n)); err != nil || info.Size() > 0 {
			return false
		}
	}
	return len(s.numbers) <= 1
}

func (s *inspection) blockPath(n uint32) string {
	return filepath.Join(s.msgs(), fmt.Sprintf("%d.blk", n))
}

// maxConfigLen is more than the description of any stream has, in bytes.
const maxConfigLen = 1 << 20

// maxIndexLen is more than the index of any stream has that a server can open.
const maxIndexLen = 1 << 30

func (s *inspection) readConfig() error {
	inf, err := readPlain(filepath.Join(s.path, "meta.inf"), maxConfigLen)
	if err != nil {
		return err
	}
	sum, err := readPlain(filepath.Join(s.path, "meta.sum"), maxConfigLen)
	if err != nil {
		return err
	}
	s.config, err = blocks.ParseConfig(inf, sum, s.Name)
	return err
}

// readIndex returns what the server has noted of the stream; nil if that cannot be read, which the
// server mends by itself.
func (s *inspection) readIndex() *blocks.Index {
	file, err := readPlain(filepath.Join(s.msgs(), "index.db"), maxIndexLen)
	if err != nil {
		return nil
	}
	index, err := blocks.ParseIndex(file, s.Name)
	if err != nil {
		return nil
	}
	return index
}

// readPlain reads a regular file of a bounded length.
func readPlain(path string, most int64) ([]byte, error) {
	return readInto(nil, path, most)
}

// readInto reads a file into buf, or into a new slice if that is too small.
func readInto(buf []byte, path string, most int64) (_ []byte, err error) {
	f, err := openPlain(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, denied(path, err)
	}
	n := info.Size()
	if n > most {
		return nil, fmt.Errorf("the file has %d bytes, which is more than the server writes", n)
	}
	if int64(cap(buf)) < n {
		buf = make([]byte, n)
	}
	if _, err := io.ReadFull(f, buf[:n]); err != nil {
		return nil, denied(path, err)
	}
	return buf[:n], nil
}

// read reads one block into buf, which it returns, or a larger one. A file that the disk cannot read is damage.
func (s *inspection) read(i int, buf []byte) []byte {
	number := s.numbers[i]
	file, err := readInto(buf, s.blockPath(number), blocks.MaxFileLen)
	if err != nil {
		s.found[i] = blocks.Summary{Number: number, Size: 1, Fault: &blocks.Fault{Reason: err.Error()}}
		return buf
	}
	s.found[i] = s.stream.Check(file, number)
	return file
}

// conclude looks at all blocks of the stream together.
func (s *inspection) conclude() {
	s.Blocks = len(s.numbers)
	if s.stream == nil {
		return
	}
	total, found := s.stream.Compare(s.found)
	s.Messages, s.First, s.Last, s.Torn, s.least = total.Messages, total.First, total.Last, total.Torn, total.Least
	for _, f := range found {
		s.damaged(s.blockPath(f.Block), int64(f.Offset), f.Reason)
	}
}
