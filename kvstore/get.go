package kvstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/replication"
)

// sample is how many hits are counted, and told to the cache, as one.
const sample = 16

// Get returns the entry of a key as this replica has it. If the value is in
// memory, that costs no lock, no copy and no allocation; otherwise it is loaded
// from the log, once for all who wait for it. Whether the key exists is always
// answered from memory.
//
// What a Get has seen no later Get of this Store is behind of: a replica moves
// only forward. It may be behind the log; AtLeast and MaxStaleness bound that.
//
// Errors: ErrNotFound, ErrInvalidKey, ErrInvalidOptions, ErrStale (only with an
// option), ErrClosed; ErrUnavailable if the value had to be loaded and the log
// could not be reached before the context ended.
func (s *Store) Get(ctx context.Context, key string, opts ...ReadOption) (Entry, error) {
	if s.closed.Load() {
		return Entry{}, ErrClosed
	}
	if len(opts) == 0 {
		return s.get(ctx, key, false)
	}
	o, err := s.awaitRead(ctx, opts, key)
	if err != nil {
		return Entry{}, failed("get", key, err)
	}
	return s.get(ctx, key, o.lazy)
}

func (s *Store) get(ctx context.Context, key string, lazy bool) (Entry, error) {
	r := s.index.records.find(key)
	if r == nil || !r.visible() {
		return Entry{}, s.absent(key)
	}
	value, ok := r.text()
	if !ok && lazy && r.large() != nil {
		return Entry{rec: r}, nil
	}
	if !ok {
		e, err := s.load(ctx, key)
		return e, failed("get", key, err)
	}
	if rand.Uint32()%sample == 0 { // not a secret
		s.hits(r)
	}
	return Entry{r, value}, nil
}

// hits counts reads of a value in memory, by one of them.
func (s *Store) hits(r *record) {
	s.stats.hits.Add(sample)
	s.cache.hit(r)
}

// absent tells a key that is not there from one that cannot be.
func (s *Store) absent(key string) error {
	if err := codec.CheckKey(key); err != nil {
		return failed("get", key, err)
	}
	s.stats.absent.Add(1)
	return ErrNotFound
}

// GetAll returns the entries of those of the keys that exist, any number of them.
// It sees all of a Batch or nothing of it. Options hold for all of the keys. The errors are those of Get, less
// ErrNotFound; with an error no entries are returned. A damaged value is such an error, unless SkipDamaged leaves it out.
func (s *Store) GetAll(ctx context.Context, keys []string, opts ...ReadOption) (map[string]Entry, error) {
	if s.closed.Load() {
		return nil, ErrClosed
	}
	for _, key := range keys {
		if err := codec.CheckKey(key); err != nil {
			return nil, failed("get", key, err)
		}
	}
	o, err := s.awaitRead(ctx, opts, keys...)
	if err != nil {
		return nil, failed("get all", "", err)
	}
	values := make(map[*record]string)
	for {
		found := s.index.collect(keys)
		s.stats.absent.Add(int64(len(keys) - len(found)))
		entries, err := s.entries(ctx, found, values, &o)
		if !errors.Is(err, errSuperseded) {
			return entries, failed("get all", "", err)
		}
	}
}

// collect returns the records of those of the keys that there are, as of one moment
// in so far as they are of batches.
func (x *index) collect(keys []string) []*record {
	found := make([]*record, 0, len(keys))
	for range 3 {
		turn := x.turns.Load()
		found = x.find(found[:0], keys)
		if turn%2 == 0 && x.turns.Load() == turn {
			return found
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.find(found[:0], keys)
}

func (x *index) find(found []*record, keys []string) []*record {
	for _, key := range keys {
		if r := x.records.find(key); r != nil && r.visible() {
			found = append(found, r)
		}
	}
	return found
}

// entries returns the entries of records, with their values. errSuperseded: one of
// them is no longer to be had; values keeps the others for the next try.
func (s *Store) entries(ctx context.Context, records []*record, values map[*record]string, o *readOptions) (map[string]Entry, error) {
	entries := make(map[string]Entry, len(records))
	skipped := make(map[string]*ValueError)
	for _, r := range records {
		value, ok := r.text()
		if !ok {
			value, ok = values[r]
		}
		switch {
		case ok && rand.Uint32()%sample == 0:
			s.hits(r)
		case !ok && !(o.lazy && r.large() != nil):
			s.stats.misses.Add(1)
			var err error
			value, err = s.fetch(ctx, r)
			if damaged := o.skip.damagedValue(err); damaged != nil {
				skipped[r.key()] = damaged
				continue
			}
			if err != nil {
				return nil, err
			}
			values[r] = value
		}
		entries[r.key()] = Entry{r, value}
	}
	if o.skip != nil {
		o.skip.tell(skipped)
	}
	return entries, nil
}

// awaitRead waits until the options of a read hold.
func (s *Store) awaitRead(ctx context.Context, opts []ReadOption, keys ...string) (o readOptions, err error) {
	for _, opt := range opts {
		if err := opt.read(&o); err != nil {
			return o, err
		}
	}
	for _, key := range keys {
		if err := codec.CheckKey(key); err != nil {
			return o, err
		}
	}
	if o.atLeast != 0 && !s.holds(keys, o.atLeast) {
		if err := s.feed.Reached(ctx, uint64(o.atLeast)); err != nil {
			return o, s.staleError(err)
		}
	}
	if o.bounded && time.Since(s.feed.Status().Fresh) >= o.staleness {
		if err := s.Sync(ctx); err != nil {
			return o, s.staleError(err)
		}
	}
	return o, nil
}

// holds tells whether every key is at the revision or a later one.
func (s *Store) holds(keys []string, revision Revision) bool {
	for _, key := range keys {
		if r := s.index.records.find(key); r == nil || Revision(r.revision) < revision {
			return false
		}
	}
	return true
}

func (s *Store) staleError(err error) error {
	if s.closed.Load() {
		return ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrStale, err)
}

// Sync waits until this replica has applied all that was acknowledged, to
// anybody, before the call. It costs a round trip to the log's leader.
//
// Errors: ErrUnavailable when the context ends first, ErrClosed.
func (s *Store) Sync(ctx context.Context) error { return failed("sync", "", s.sync(ctx)) }

func (s *Store) sync(ctx context.Context) error {
	if s.closed.Load() {
		return ErrClosed
	}
	retry := replication.NewBackoff()
	for {
		err := s.feed.Sync(ctx)
		switch {
		case err == nil:
			return nil
		case s.closed.Load():
			return ErrClosed
		case replication.Lasting(err), ctx.Err() != nil && errors.Is(err, ctx.Err()) && errors.Is(err, ErrUnavailable):
			return err
		case ctx.Err() != nil && errors.Is(err, ctx.Err()):
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		case ctx.Err() != nil:
			return fmt.Errorf("%w: %w: %w", ErrUnavailable, err, replication.Ended(ctx))
		}
		_ = retry.Wait(ctx, s.done)
	}
}
