package kvstore

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/nearkv/nearkv/replication"
	"github.com/nearkv/nearkv/replication/embedded"
)

// After a kill nothing in the server's files says how much there was: a block that is
// gone, or one that is cut short between two records, looks like one that was never
// written. So each Store of a Dir keeps a witness: a file beside the server's, in which
// it notes what it has last known of the log of its namespace. Open compares.
//
// Two numbers suffice, because neither ever decreases while a log lives: the sequence
// of its last record, and the number of records that it keeps forever. A key that has
// such a record, a value without expiry or the tombstone of one, always has one (see
// change.hidesUntil).
//
// A note is a write of 40 bytes, without a sync, whenever the feed has applied what
// arrived: it survives the death of the process, like the log itself. What a power
// failure takes from the log is noticed as a loss too.

const (
	witnessDir  = "witness"
	witnessMark = "nearkvw1"
	witnessLen  = 40
	seenSuffix  = ".seen"
	lostSuffix  = ".lost"
)

// testimony is what a witness says.
type testimony struct {
	log  uint64 // names the incarnation of the log
	last uint64 // sequence
	kept uint64 // records that the log keeps forever
}

func nameOf(i replication.Incarnation) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(i)) // never fails
	return h.Sum64()
}

func (t testimony) append(b []byte) []byte {
	b = append(b, witnessMark...)
	for _, n := range []uint64{t.log, t.last, t.kept} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return binary.LittleEndian.AppendUint64(b, uint64(crc32.Checksum(b, castagnoli)))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// parseTestimony reports false for what is damaged: it says nothing.
func parseTestimony(b []byte) (t testimony, ok bool) {
	if len(b) != witnessLen || string(b[:8]) != witnessMark {
		return t, false
	}
	number := func(at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }
	return testimony{number(8), number(16), number(24)}, number(32) == uint64(crc32.Checksum(b[:32], castagnoli))
}

// witness is the file of one Store.
type witness struct {
	path string
	lock *flock.Flock // tells others that the Store lives
	file *os.File

	mu   sync.Mutex // held for a write
	told testimony
}

// newWitness begins a file. Nothing depends on it but what a later Open can notice.
func newWitness(dir, namespace string, t testimony) (*witness, error) {
	dir = filepath.Join(dir, witnessDir)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	file, err := os.CreateTemp(dir, namespace+".*"+seenSuffix) // with mode 0600
	if err != nil {
		return nil, err
	}
	w := &witness{path: file.Name(), file: file, lock: flock.New(file.Name())}
	_, err = w.lock.TryLock()
	if err == nil {
		err = w.write(t)
	}
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// note writes what has become of the log.
func (w *witness) note(t testimony) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t != w.told && w.file != nil {
		_ = w.write(t) // the disk may be full: then the older testimony stays, which is true
	}
}

func (w *witness) write(t testimony) error {
	var b [witnessLen]byte
	_, err := w.file.WriteAt(t.append(b[:0]), 0)
	w.told = t
	return err
}

// close leaves the file for the next Open.
func (w *witness) close() error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	err := errors.Join(w.lock.Unlock(), w.file.Close())
	w.file = nil
	return err
}

// past is what the witnesses of a namespace say.
type past struct {
	dir, namespace string
	files          []string
	testimonies    []testimony
	loss           *loss // that was found before, and not accepted
}

// loss is what a log lacks, as the file says that keeps it until it is accepted.
type loss struct {
	Reason string    `json:"reason"`
	Found  time.Time `json:"found"`
	Log    uint64    `json:"log"` // names the incarnation
}

// readPast reads the witnesses of a namespace in a Dir. What cannot be read, or is
// damaged, says nothing.
func readPast(dir, namespace string) *past {
	p := &past{dir: dir, namespace: namespace}
	entries, _ := os.ReadDir(filepath.Join(dir, witnessDir)) // none if there is no such directory
	for _, e := range entries {
		rest, ours := strings.CutPrefix(e.Name(), namespace+".")
		if !ours || !e.Type().IsRegular() {
			continue
		}
		path := filepath.Join(dir, witnessDir, e.Name())
		switch {
		case rest == strings.TrimPrefix(lostSuffix, "."):
			p.loss = readLoss(path)
		case strings.HasSuffix(rest, seenSuffix):
			p.files = append(p.files, path)
			if t, ok := parseTestimony(readSome(path)); ok {
				p.testimonies = append(p.testimonies, t)
			}
		}
	}
	return p
}

// readSome reads a file of a few bytes, and no more of one that should not be so large.
func readSome(path string) []byte {
	const most = 1 << 12
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }() // was only read
	b := make([]byte, most)
	n, _ := f.Read(b)
	return b[:n]
}

func readLoss(path string) *loss {
	l := new(loss)
	if json.Unmarshal(readSome(path), l) != nil {
		l.Reason = "records were lost" // the file is damaged: that is all it says
	}
	return l
}

func (p *past) lostFile() string { return filepath.Join(p.dir, witnessDir, p.namespace+lostSuffix) }

// known reports whether there was such a namespace.
func (p *past) known() bool { return p != nil && (len(p.testimonies) > 0 || p.loss != nil) }

// gone is the error for a namespace of which nothing is left.
func (p *past) gone() error {
	return &DirDamagedError{Dir: p.dir, Damage: []embedded.Damage{{
		Path: filepath.Join(p.dir, "nats"), Offset: -1,
		Reason: fmt.Sprintf("nothing is left of the namespace %q: restore the directory, or open it with AcceptLoss (kvctl repair --accept) to create the namespace again", p.namespace),
	}}}
}

// accept forgets everything.
func (p *past) accept() error {
	err := os.Remove(p.lostFile())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	for _, path := range p.files {
		err = errors.Join(err, removeDead(path))
	}
	p.files, p.testimonies, p.loss = nil, nil, nil
	return err
}

// removeDead removes the file of a Store that does not live.
func removeDead(path string) error {
	lock := flock.New(path)
	dead, err := lock.TryLock()
	if err != nil || !dead {
		return nil // it will be the next one's to remove
	}
	return errors.Join(os.Remove(path), lock.Unlock())
}

// compare returns what a log lacks that was made certain of now; nil: nothing.
func (p *past) compare(now testimony) *loss {
	var last, kept uint64
	for _, t := range p.testimonies {
		if t.log == now.log {
			last, kept = max(last, t.last), max(kept, t.kept)
		}
	}
	l := &loss{Log: now.log, Found: time.Now()}
	switch {
	case last > now.last:
		l.Reason = fmt.Sprintf("the log has lost its end: it ends at revision %d, and was at %d", now.last, last)
	case kept > now.kept:
		l.Reason = fmt.Sprintf("the log has lost at least %d records", kept-now.kept)
	case p.loss != nil && (p.loss.Log == now.log || p.loss.Log == 0):
		return p.loss
	default:
		return nil
	}
	if p.loss != nil && p.loss.Log == now.log {
		l.Reason = p.loss.Reason + "; " + l.Reason
	}
	return l
}

// keep writes a loss down, until it is accepted.
func (p *past) keep(l *loss) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	tmp := p.lostFile() + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, p.lostFile())
}

// testify compares the log with what is known of it, and begins the witness of this
// Store. It is called when the log has been read.
func (s *Store) testify(p *past) {
	if p == nil {
		return
	}
	now := s.index.testimony(s.feed.Status().Applied)
	if l := p.compare(now); l != nil {
		s.feed.Lose(l.Reason + "; see Options.AcceptLoss")
		s.logger.Error("nearkv: the log is not what it was", "namespace", p.namespace, "reason", l.Reason)
		if l != p.loss {
			if err := p.keep(l); err != nil {
				s.logger.Warn("nearkv: cannot note what was lost", "error", err)
				return // the witnesses stay
			}
		}
	}
	s.beginWitness(p, now)
	for _, path := range p.files {
		_ = removeDead(path) // the next Open will
	}
}

// beginWitness begins the witness of this Store.
func (s *Store) beginWitness(p *past, now testimony) {
	w, err := newWitness(p.dir, p.namespace, now)
	if err != nil {
		s.logger.Warn("nearkv: cannot keep a witness of the log", "dir", p.dir, "error", err)
		return
	}
	s.index.witness.Store(w)
}

// testimony returns what the index knows of the log, as of a position of the feed.
func (x *index) testimony(at replication.Position) testimony {
	x.mu.Lock()
	defer x.mu.Unlock()
	return testimony{log: nameOf(at.Incarnation), last: at.Sequence, kept: uint64(max(x.permanent, 0) + len(x.foreign))}
}

// Applied implements replication.Replica.
func (x *index) Applied(at replication.Position) {
	if w := x.witness.Load(); w != nil {
		w.note(x.testimony(at))
	}
}
