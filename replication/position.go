package replication

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Incarnation names one life of a stream. A stream that was deleted and made
// again has another incarnation, though its name and sequences are the same.
// It is empty for a stream that nobody has seen yet.
type Incarnation string

// Position is a place in a log: a sequence number of one incarnation of the
// stream. It is comparable with ==; the zero Position is before everything.
type Position struct {
	Incarnation Incarnation
	Sequence    uint64
}

// IsZero tells whether p is before everything.
func (p Position) IsZero() bool { return p == Position{} }

// String returns "incarnation/sequence", which ParsePosition reads back.
func (p Position) String() string {
	return string(p.Incarnation) + "/" + strconv.FormatUint(p.Sequence, 10)
}

// Compare orders two positions of the same incarnation: -1, 0 or +1. The
// second result is false when they belong to different incarnations, between
// which there is no order.
func (p Position) Compare(q Position) (int, bool) {
	return cmp.Compare(p.Sequence, q.Sequence), p.Incarnation == q.Incarnation
}

var errPosition = errors.New("replication: malformed position")

// ParsePosition reads what Position.String wrote.
func ParsePosition(s string) (Position, error) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return Position{}, fmt.Errorf("%w %q: no '/'", errPosition, s)
	}
	seq, err := strconv.ParseUint(s[i+1:], 10, 64)
	if err != nil {
		return Position{}, fmt.Errorf("%w %q: %w", errPosition, s, err)
	}
	return Position{Incarnation(s[:i]), seq}, nil
}
