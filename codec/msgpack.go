package codec

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/vmihailenco/msgpack/v5"
)

// MsgPack is the codec of MessagePack, by github.com/vmihailenco/msgpack/v5: its struct tags (`msgpack:"name"`) and
// its marshaler interfaces count. T must not be cyclic, and should embed structs by value: for each struct type that
// is embedded by pointer the library starts a goroutine that stays as long as the process.
//
// In an any, integers are decoded to int64 or uint64, floats to float64, strings and binary data to string, arrays
// to []any, maps to map[string]any, timestamps to time.Time. Which of int64 and uint64 it is depends on what was
// encoded: an int or uint takes the shortest form, up to 127 an int64, above a uint64. A number too large for a field
// of T is cut off, as in a Go conversion.
//
// Decode refuses what could harm the process: data that announces more than there is, values nested deeper than
// 10,000, extension types other than the timestamp, and data that would need more memory than 64 MiB and 32 bytes for
// each byte of the data (ErrExpands), such as millions of nils for large structs. What T's own unmarshalers allocate does
// not count. Append refuses to write these, so that what was written can be read; the tag option "intern" is therefore
// of no use. A panic while decoding, also of an unmarshaler of T, is returned as an error.
func MsgPack[T any]() Codec[T] { return msgPack[T]{} }

type msgPack[T any] struct{}

func (msgPack[T]) Append(dst []byte, v T) ([]byte, error) {
	buf := bytes.NewBuffer(dst)
	// By pointer, so that marshalers with a pointer receiver are found.
	if err := msgpack.NewEncoder(buf).Encode(&v); err != nil {
		return dst, fmt.Errorf("encode %T as MessagePack: %w", v, err)
	}
	if _, err := scanMsgPack(buf.Bytes()[len(dst):], layoutOf[T](&msgPackDialect)); err != nil {
		return dst, fmt.Errorf("encode %T as MessagePack: %w", v, err)
	}
	return buf.Bytes(), nil
}

func (msgPack[T]) Decode(data []byte) (T, error) {
	var v, zero T
	if err := decodeMsgPack(data, layoutOf[T](&msgPackDialect), &v); err != nil {
		return zero, fmt.Errorf("decode %T from MessagePack: %w", zero, err)
	}
	return v, nil
}

// decodeMsgPack decodes data, which anybody may have written, into what v points at, which has the layout l.
//
// The library believes every length that it reads (5 bytes make it allocate 64 GiB), recurses as deep as the data
// says (a stack overflow cannot be recovered) and panics in package reflect when data does not fit its Go type: a nil
// for a time.Time, an array as a key of a map[any], a field of type any that comes twice. So the data is scanned first,
// and a panic that is left becomes an error. TestMsgPackHostile has an example of each.
func decodeMsgPack(data []byte, l *layout, v any) (err error) {
	timestamps, err := scanMsgPack(data, l)
	if err != nil {
		return err
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("data does not fit the type: %v", p)
		}
	}()
	// Not from the library's pool, as msgpack.Unmarshal: a decoder that failed may go on recording all that it reads,
	// and code that is not ours may have put it there.
	dec := msgpack.NewDecoder(&msgPackReader{Reader: *bytes.NewReader(data), timestamps: timestamps})
	dec.UseLooseInterfaceDecoding(true)
	return dec.Decode(v)
}

// msgPackReader reads data that has been scanned.
type msgPackReader struct {
	bytes.Reader
	timestamps []span // those that end behind the position
}

var errTimestampOpened = errors.New("timestamp where a map is expected")

// ReadByte is how the library reads the first byte of a value; a timestamp's payload it reads by Read. Where it expects
// a map, though, it takes the first byte of an extension's payload for the head of one, and would thus go on to
// lengths and depths that no scan has seen.
func (r *msgPackReader) ReadByte() (byte, error) {
	at := int(r.Size()) - r.Len()
	for len(r.timestamps) > 0 && r.timestamps[0].end <= at {
		r.timestamps = r.timestamps[1:]
	}
	if len(r.timestamps) > 0 && r.timestamps[0].start <= at {
		return 0, errTimestampOpened
	}
	return r.Reader.ReadByte()
}
