package codec

import (
	"strconv"
	"strings"
)

// MaxBatch is how many records a batch can have.
const MaxBatch = 1000

// Batch says of which part of a batch a record is. The records of a batch come into the log one behind the other, and
// readers see all of them or none.
type Batch struct {
	Index int // from 1
	Count int // 0: the record is in no batch
}

// String returns the value of the header KV-Batch.
func (b Batch) String() string {
	if b.Count == 0 {
		return ""
	}
	return strconv.Itoa(b.Index) + "/" + strconv.Itoa(b.Count)
}

// decodeBatch reads KV-Batch; "" is none.
func decodeBatch(value string) (Batch, error) {
	if value == "" {
		return Batch{}, nil
	}
	index, count, _ := strings.Cut(value, "/")
	i, err := strconv.ParseUint(index, 10, 32)
	n, err2 := strconv.ParseUint(count, 10, 32)
	if err != nil || err2 != nil || i < 1 || i > n || n > MaxBatch {
		return Batch{}, damaged(headerBatch, value, "not a part of a batch of at most "+strconv.Itoa(MaxBatch))
	}
	return Batch{Index: int(i), Count: int(n)}, nil
}
