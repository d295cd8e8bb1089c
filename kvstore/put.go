package kvstore

import (
	"context"
	"fmt"

	"github.com/nearkv/nearkv/codec"
)

// Put writes the value of a key and returns its revision. It replaces value,
// metadata and expiry; what no option gives is cleared. An empty value is a
// value. The bytes of value are not kept; the caller may change them after Put
// has returned.
//
// When Put returns nil the write is in the log and in this replica: a Get
// after it sees it. Other replicas get it within milliseconds. A Put costs a
// round trip to the log's leader. Puts of one key that overlap happen in either
// order.
//
// While the log cannot be reached, Put tries until the context ends or, if that has no
// deadline, until Options.WriteTimeout is over, and no longer than until the entry
// expires. What does not pass by itself is an error at once.
//
// Errors before anything is sent: ErrInvalidKey, ErrTooLarge,
// ErrInvalidMetadata, ErrInvalidExpiry, ErrInvalidOptions, ErrUnsupported (a TTL
// in a bucket without TTLs), ErrClosed. Then: ErrConflict, ErrNoSpace,
// ErrForbidden, ErrLimit, ErrRefused, ErrDisconnected, ErrUnavailable, ErrOverloaded; with these, too, nothing was written.
// ErrIndeterminate: it may have been. ErrExpired: the entry has an expiry, and that
// came before the acknowledgement; then nobody can see it. Where the context ended, the error is
// that of the context as well.
func (s *Store) Put(ctx context.Context, key string, value []byte, opts ...WriteOption) (Revision, error) {
	c, err := s.newPut(key, value, opts)
	if err != nil {
		return 0, failed("put", key, err)
	}
	revision, err := s.commit(ctx, c)
	return revision, failed("put", key, err)
}

// newPut returns the change that a Put asks for, once it is known to be valid.
func (s *Store) newPut(key string, value []byte, opts []WriteOption) (*change, error) {
	c := change{key: key, op: codec.OpPut, value: value}
	if err := s.checkChange(&c); err != nil {
		return nil, err
	}
	for _, opt := range opts {
		if err := opt.write(&c); err != nil {
			return nil, err
		}
	}
	if c.expires != 0 && c.keep {
		return nil, fmt.Errorf("kvstore: %w: the bucket has no TTL per record (allow_msg_ttl)", ErrUnsupported)
	}
	return &c, nil
}

// Delete deletes a key. It is no error if there is none; whether there is one
// is the log's to say, which costs a round trip. The errors are those of Put,
// less those of the value.
func (s *Store) Delete(ctx context.Context, key string, opts ...DeleteOption) error {
	c, err := s.newDelete(key, opts)
	if err != nil {
		return failed("delete", key, err)
	}
	_, err = s.commit(ctx, c)
	return failed("delete", key, err)
}

func (s *Store) newDelete(key string, opts []DeleteOption) (*change, error) {
	c := change{key: key, op: codec.OpDelete}
	if err := s.checkChange(&c); err != nil {
		return nil, err
	}
	for _, opt := range opts {
		if err := opt.remove(&c); err != nil {
			return nil, err
		}
	}
	return &c, nil
}

func (s *Store) checkChange(c *change) error {
	c.keep = !s.log.CanExpire()
	if s.closed.Load() {
		return ErrClosed
	}
	if err := codec.CheckKey(c.key); err != nil {
		return err
	}
	switch size := int64(len(c.value)); {
	case size > s.most():
		return s.tooLarge(size)
	case size > s.inline():
		c.body, c.value = &body{head: c.value}, nil
	}
	return nil
}

// commit carries out a change and accounts for it.
func (s *Store) commit(ctx context.Context, c *change) (Revision, error) {
	w := write{store: s, change: c}
	revision, err := w.run(ctx)
	s.stats.wrote(err)
	return revision, err
}
