package codec

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// MaxValueLen is the greatest length of a value, in bytes: 25 MiB.
const MaxValueLen = 26_214_400

// The headers of a record. Those that begin with KV-Operation or Nats- belong to NATS; the others are ours.
const (
	headerOperation = "KV-Operation"
	headerMetadata  = "KV-Metadata"
	headerExpires   = "KV-Expires"
	headerHides     = "KV-Hides"
	headerWrite     = "KV-Write"
	headerObject    = "KV-Object"
	headerBatch     = "KV-Batch"
	headerTTL       = "Nats-TTL"
	headerMarker    = "Nats-Marker-Reason"
)

// headerFormat says nothing but that the message is a record.
const headerFormat = "KV-Format"

// PlainHeader returns the header of a record that needs none, for a log that is a file. nats-server's checksum of a
// message in a file does not cover the length of its subject, unless the message has a header: then a wrong length
// moves the header, which the checksum covers. One changed bit could otherwise make the end of a key the beginning of
// its value, and nothing in the file would show it. The caller must not change the map.
func PlainHeader() map[string][]string { return plainHeader }

var plainHeader = map[string][]string{headerFormat: {"1"}}

// saysNothing reports whether a header does.
func saysNothing(header map[string][]string) bool {
	if len(header) > 1 {
		return false
	}
	_, plain := header[headerFormat]
	return plain || len(header) == 0
}

const (
	ttlNever = "never"

	// maxTTL is a hundred years. nats-server adds the TTL to unix nanoseconds without looking: at a sum beyond the
	// year 2262 it wraps, and the message is removed at once.
	maxTTL = 100 * 365 * 24 * time.Hour
)

// Op is what a record does to its key.
type Op uint8

const (
	// OpPut gives the key a value.
	OpPut Op = iota
	// OpDelete takes it away.
	OpDelete
)

// String returns "put" or "delete".
func (op Op) String() string {
	switch op {
	case OpPut:
		return "put"
	case OpDelete:
		return "delete"
	}
	return "Op(" + strconv.Itoa(int(op)) + ")"
}

// MarshalText makes logs and JSON show the name.
func (op Op) MarshalText() ([]byte, error) { return []byte(op.String()), nil }

// UnmarshalText reads a name: put or delete.
func (op *Op) UnmarshalText(name []byte) error {
	for _, known := range []Op{OpPut, OpDelete} {
		if string(name) == known.String() {
			*op = known
			return nil
		}
	}
	return fmt.Errorf("codec: %.64q is no operation: it is put or delete", name)
}

// Record is one message of the log, without its subject and its sequence.
type Record struct {
	Op Op

	// Value is the payload of an OpPut, of any length, also 0. It aliases the payload given to DecodeRecord.
	Value []byte

	// Metadata is compact JSON of at most MaxMetadataLen bytes, as EncodeMetadata returns it; nil: none.
	Metadata []byte

	// Expires is the unix time in milliseconds until which the record is visible; 0: it never expires.
	Expires int64

	// Hides is the unix time in milliseconds until which older records of the key, which this one replaces, are to be
	// hidden; 0: no longer than Expires says. It means something only with a TTL: without one the record hides for ever.
	Hides int64

	// TTL is for how long after being stored the log keeps the record: whole seconds, at least one; 0: for ever.
	TTL time.Duration

	// Object says where the value of an OpPut is that is not in Value; nil: it is in Value.
	Object *Object

	// Batch is the record's place in a batch; zero: it is in none.
	Batch Batch

	// Write is the id of a conditional or batched write, without line breaks; "": none.
	Write string

	// never: the TTL was given as "never", which exempts the record from the MaxAge of its stream. We do not write it.
	never bool
}

// Header returns the headers that say what the payload does not, in a new map; nil when there is nothing to say.
//
// A TTL that is no whole number of seconds is rounded up, because the log must not forget a record too early. One of
// more than a hundred years is left out, which is for ever: the server cannot count much further.
func (r Record) Header() map[string][]string {
	var h map[string][]string
	set := func(name, value string) {
		if value == "" {
			return
		}
		if h == nil {
			h = make(map[string][]string, 2)
		}
		h[name] = []string{value}
	}
	if r.Op == OpDelete {
		set(headerOperation, "DEL")
	}
	set(headerMetadata, string(r.Metadata))
	if r.Expires > 0 {
		set(headerExpires, strconv.FormatInt(r.Expires, 10))
	}
	if r.Hides > 0 {
		set(headerHides, strconv.FormatInt(r.Hides, 10))
	}
	set(headerTTL, r.ttlHeader())
	set(headerWrite, r.Write)
	set(headerBatch, r.Batch.String())
	if r.Object != nil {
		set(headerObject, r.Object.String())
	}
	return h
}

func (r Record) ttlHeader() string {
	switch {
	case r.TTL > 0 && r.TTL <= maxTTL:
		seconds := (r.TTL + time.Second - 1) / time.Second
		return strconv.FormatInt(int64(seconds), 10) + "s"
	case r.never:
		return ttlNever
	}
	return ""
}

// DecodeRecord reads a message of the log that anybody may have written. The Value of the record is payload itself,
// not a copy; nothing else refers to the arguments' memory but the strings of the header. A nil header costs no
// allocation.
//
// The error is an ErrDamagedRecord if a header of the package comment's table has a value that it cannot have.
func DecodeRecord(header map[string][]string, payload []byte) (Record, error) {
	if saysNothing(header) {
		return Record{Value: payload}, nil
	}
	r, err := decodeHeader(header)
	if err != nil {
		return Record{}, err
	}
	switch {
	case r.Op != OpPut:
		r.Object = nil
	case r.Object == nil:
		r.Value = payload
	}
	return r, nil
}

func decodeHeader(header map[string][]string) (r Record, err error) {
	if r.Op, err = decodeOp(header); err != nil {
		return r, err
	}
	if r.Metadata, err = decodeMetadata(last(header, headerMetadata)); err != nil {
		return r, err
	}
	if r.Expires, err = decodeTime(header, headerExpires); err != nil {
		return r, err
	}
	if r.Hides, err = decodeTime(header, headerHides); err != nil {
		return r, err
	}
	if r.TTL, r.never, err = decodeTTL(first(header, headerTTL)); err != nil {
		return r, err
	}
	if r.Object, err = decodeObject(last(header, headerObject)); err != nil {
		return r, err
	}
	if r.Batch, err = decodeBatch(last(header, headerBatch)); err != nil {
		return r, err
	}
	r.Write = last(header, headerWrite)
	return r, nil
}

// Size returns the length of the value in bytes, wherever it is.
func (r *Record) Size() int64 {
	if r.Object != nil {
		return r.Object.Size
	}
	return int64(len(r.Value))
}

func decodeOp(header map[string][]string) (Op, error) {
	// The server leaves markers where it removed the last message of a subject.
	if last(header, headerMarker) != "" {
		return OpDelete, nil
	}
	switch op := last(header, headerOperation); op {
	case "", "PUT":
		return OpPut, nil
	case "DEL", "PURGE":
		return OpDelete, nil
	default:
		return OpPut, damaged(headerOperation, op, "unknown")
	}
}

func decodeTime(header map[string][]string, name string) (int64, error) {
	value := last(header, name)
	if value == "" {
		return 0, nil
	}
	ms, err := strconv.ParseInt(value, 10, 64)
	if err != nil || ms <= 0 {
		return 0, damaged(name, value, "not a positive number of milliseconds")
	}
	return ms, nil
}

// decodeTTL reads Nats-TTL as parseMessageTTL of nats-server 2.15 does, whatever one may think of that: what counts is
// when the server will remove the message. Only what a Duration cannot hold (292 years) is cut down to it.
func decodeTTL(header string) (ttl time.Duration, never bool, err error) {
	if header == "" {
		return 0, false, nil
	}
	if strings.EqualFold(header, ttlNever) {
		return 0, true, nil
	}
	if d, err := time.ParseDuration(header); err == nil {
		if d < time.Second {
			return 0, false, damaged(headerTTL, header, "shorter than a second")
		}
		return time.Duration(d.Seconds()) * time.Second, false, nil
	}
	seconds := parseSeconds(header)
	if seconds < 0 {
		return 0, false, damaged(headerTTL, header, "neither a duration nor a number of seconds")
	}
	return time.Duration(min(seconds, math.MaxInt64/int64(time.Second))) * time.Second, false, nil
}

// parseSeconds returns a negative number for what is none. Too many digits wrap around, as they do in the server.
func parseSeconds(s string) (n int64) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return -1
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n
}

func first(header map[string][]string, name string) string {
	if values := header[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

func last(header map[string][]string, name string) string {
	if values := header[name]; len(values) > 0 {
		return values[len(values)-1]
	}
	return ""
}

// VisibleUntil returns the unix time in milliseconds at which a record stored at the given time is no longer to be
// seen: the earliest of Expires and KeptUntil; 0: it stays visible.
func (r Record) VisibleUntil(stored time.Time, maxAge time.Duration) int64 {
	return earliest(r.Expires, r.KeptUntil(stored, maxAge))
}

// KeptUntil returns the unix time in milliseconds at which the log may remove a record stored at the given time (the
// timestamp of its message) in a stream with that MaxAge (0: none): the earliest of stored+TTL and stored+maxAge; 0:
// it stays. A record whose Nats-TTL is "never" is exempt from maxAge. Fractions of a millisecond are cut off.
func (r Record) KeptUntil(stored time.Time, maxAge time.Duration) int64 {
	if r.never {
		maxAge = 0
	}
	return earliest(after(stored, r.TTL), after(stored, maxAge))
}

// HidesUntil returns the unix time in milliseconds until which the record is needed: to be seen, and to hide what it
// replaced. From then on the log may lose it. 0: for ever. The arguments are those of KeptUntil.
func (r Record) HidesUntil(stored time.Time, maxAge time.Duration) int64 {
	kept := r.KeptUntil(stored, maxAge)
	if kept == 0 {
		return 0
	}
	if r.Op == OpPut && r.Expires == 0 {
		return kept // as long as it is to be seen
	}
	return earliest(max(r.Expires, r.Hides), kept)
}

// after returns stored+d in unix milliseconds; 0, which is for ever, if d is not positive or the sum is too large.
func after(stored time.Time, d time.Duration) int64 {
	start, length := stored.UnixMilli(), d.Milliseconds()
	if d <= 0 || start > math.MaxInt64-length {
		return 0
	}
	return max(start+length, 1) // a moment before 1970 is past, not for ever
}

// earliest returns the lesser of two unix times of which 0 means for ever.
func earliest(a, b int64) int64 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}
