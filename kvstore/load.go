package kvstore

import (
	"context"
	"errors"
	"fmt"
	"unsafe"

	"github.com/nearkv/nearkv/replication"
)

// errSuperseded: the log has no more what the index had.
var errSuperseded = errors.New("superseded")

// load returns a value that a reader has not found in memory.
//
// The reader may have come while the record was being replaced: it loses its
// value a moment before its successor can be found (View.current relies on that).
// So it looks again when no change is under way.
func (s *Store) load(ctx context.Context, key string) (Entry, error) {
	for tries := 0; ; tries++ {
		e, ok := s.index.entry(key)
		if ok {
			return e, nil
		}
		r := e.rec
		if r == nil || !r.visible() {
			return Entry{}, ErrNotFound
		}
		if tries == 0 {
			s.stats.misses.Add(1)
		}
		e, err := s.fetchEntry(ctx, r)
		if err == nil {
			return e, nil
		}
		if !errors.Is(err, errSuperseded) {
			return Entry{}, err
		}
	}
}

// fetch returns the value of a record, from memory or from the log, where it
// waits while the log cannot be reached. errSuperseded: neither has it; then the
// record is no longer the current one of its key.
func (s *Store) fetch(ctx context.Context, r *record) (string, error) {
	e, err := s.fetchEntry(ctx, r)
	if err == nil && e.rec != r {
		err = errSuperseded
	}
	if err != nil {
		return "", err
	}
	return e.value, nil
}

// fetchEntry is fetch for those who take a newer entry of the same key too: if the
// record was replaced, that is what the log's leader has answered. To look for the
// value of that in turn would not end while the key is written all the time.
func (s *Store) fetchEntry(ctx context.Context, r *record) (Entry, error) {
	retry := replication.NewBackoff()
	for {
		if text, ok := r.text(); ok {
			return Entry{r, text}, nil
		}
		e, err := s.fetchOnce(ctx, r)
		if errors.Is(err, errLeft) && ctx.Err() == nil {
			continue // perhaps as the one who loads it
		}
		if err == nil || errors.Is(err, errSuperseded) || errors.Is(err, ErrDamaged) || errors.Is(err, ErrClosed) {
			return e, err
		}
		if s.closing(err) {
			return Entry{}, ErrClosed
		}
		if replication.Lasting(err) {
			return Entry{}, fmt.Errorf("kvstore: load %.64q: %w", r.key(), err)
		}
		if ended := retry.Wait(ctx, s.done); ended != nil {
			if s.closed.Load() {
				return Entry{}, ErrClosed
			}
			return Entry{}, fmt.Errorf("kvstore: load %.64q: %w: %w", r.key(), err, ended)
		}
		if s.index.records.find(r.key()) != r {
			return Entry{}, errSuperseded
		}
	}
}

func (s *Store) fetchNow(ctx context.Context, r *record) (Entry, error) {
	if !s.begin() {
		return Entry{}, ErrClosed
	}
	defer s.work.Done()
	epoch, err := s.feed.Attached(ctx)
	if err != nil {
		return Entry{}, err
	}
	s.stats.loads.Add(1)
	if r.large() != nil {
		value, err := s.fetchObject(ctx, epoch, r)
		return Entry{r, value}, err
	}
	m, err := s.log.Load(ctx, r.revision)
	if err == nil && r.madeOf(&m) {
		s.index.fill(r, m.Record.Value)
		return Entry{r, textOf(&m)}, nil
	}
	if err != nil && !errors.Is(err, replication.ErrNoRecord) {
		return Entry{}, err
	}
	return s.superseded(ctx, epoch, r)
}

// superseded is called when the log does not seem to have what the index has.
// The leader knows; it also has headers as they were stored, where a direct get
// mixes those of others with its own.
func (s *Store) superseded(ctx context.Context, epoch uint64, r *record) (Entry, error) {
	m, err := s.refresh(ctx, epoch, r.key())
	if err != nil {
		return Entry{}, err
	}
	if m != nil && m.Revision == r.revision && len(m.Record.Value) == int(r.size) {
		s.index.fill(r, m.Record.Value)
		return Entry{r, textOf(m)}, nil
	}
	if m != nil && m.Revision > r.revision && m.Record.Object == nil {
		if e, ok := s.index.answered(epoch, m); ok {
			return e, nil
		}
	}
	if s.index.records.find(r.key()) == r && r.visible() {
		// The leader knows nothing newer: the log is not what was followed.
		s.feed.Doubt("the log has lost a record")
		return Entry{}, fmt.Errorf("%w: reading the log again", ErrUnavailable)
	}
	return Entry{}, errSuperseded
}

// textOf returns the value of a message that nobody changes any more.
func textOf(m *replication.Message) string {
	return unsafe.String(unsafe.SliceData(m.Record.Value), len(m.Record.Value))
}

// answered returns the entry that the log's leader has told of, once the index has it
// or a newer one: so no later read is behind it. A part of a batch comes here only
// when the index has the whole batch (refresh).
func (x *index) answered(epoch uint64, m *replication.Message) (Entry, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r := x.records.find(m.Key)
	if epoch != x.epoch || r == nil || r.revision < m.Revision {
		return Entry{}, false
	}
	if r.revision > m.Revision {
		r = x.newRecord(epoch, m) // as it was when the leader answered
	}
	return Entry{r, textOf(m)}, r.visible() && int(r.size) == len(m.Record.Value)
}

// refresh brings the last record of a key from the log's leader into the index,
// ahead of the feed. The result is nil if the log has none.
func (s *Store) refresh(ctx context.Context, epoch uint64, key string) (*replication.Message, error) {
	before := s.index.records.find(key)
	m, err := s.log.Last(ctx, key)
	if errors.Is(err, replication.ErrNoRecord) {
		if before != nil && before.visible() {
			s.feed.Doubt("a key is not in the log")
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if b := m.Record.Batch; b.Count > 1 {
		return &m, s.awaitBatch(ctx, &m)
	}
	s.index.applyAhead(epoch, &m, m.Record.Value)
	return &m, nil
}

// awaitBatch waits until the replica has the batch of a record: to bring it into the
// index ahead of the others would show half of the batch. A replica that has one
// part has all of them, and where the batch ends only the feed can know: anybody may
// have written the record.
func (s *Store) awaitBatch(ctx context.Context, m *replication.Message) error {
	if r := s.index.records.find(m.Key); r != nil && r.revision >= m.Revision {
		return nil
	}
	s.feed.Heard(m.Revision)
	if err := s.feed.Reached(ctx, m.Revision); err != nil {
		return fmt.Errorf("kvstore: %w: %w", ErrUnavailable, err)
	}
	return nil
}
