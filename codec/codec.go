package codec

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Codec turns values of type T into bytes and back. The codecs of this package have no state: they take no memory and
// may be used by any number of goroutines. An implementation of your own must also be safe for concurrent use.
type Codec[T any] interface {
	// Append appends the encoding of v to dst and returns the extended slice. It keeps neither dst nor v.
	// With an error it returns dst with the length that it had.
	Append(dst []byte, v T) ([]byte, error)

	// Decode returns the value whose encoding is data, all of it: bytes after the value are an error. It neither keeps
	// nor changes data; the value shares no memory with it. With an error it returns the zero T.
	Decode(data []byte) (T, error)
}

// Raw is the codec of bytes as they are. Both directions copy.
func Raw() Codec[[]byte] { return raw{} }

type raw struct{}

func (raw) Append(dst, v []byte) ([]byte, error) { return append(dst, v...), nil }

// Decode returns a slice that is not nil, also for an empty value, which is a value.
func (raw) Decode(data []byte) ([]byte, error) { return append([]byte{}, data...), nil }

// String is the codec of strings as they are, UTF-8 or not.
func String() Codec[string] { return text{} }

type text struct{}

func (text) Append(dst []byte, v string) ([]byte, error) { return append(dst, v...), nil }

func (text) Decode(data []byte) (string, error) { return string(data), nil }

// JSON is the codec of encoding/json. It writes compact JSON in which < > & are not escaped.
// In a T of type any all numbers are decoded to float64. Decode refuses data that would need more memory than 64 MiB and
// 32 bytes for each byte of the data (ErrExpands), not counting what T's own unmarshalers allocate, and Append refuses to write it.
func JSON[T any]() Codec[T] { return jsonCodec[T]{} }

type jsonCodec[T any] struct{}

func (jsonCodec[T]) Append(dst []byte, v T) ([]byte, error) {
	// By pointer, so that marshalers with a pointer receiver are found.
	out, err := marshalJSON(dst, &v)
	if err == nil {
		err = meterJSON(out[len(dst):], layoutOf[T](&jsonDialect))
	}
	if err != nil {
		return dst, fmt.Errorf("encode %T as JSON: %w", v, err)
	}
	return out, nil
}

func (jsonCodec[T]) Decode(data []byte) (T, error) {
	var v, zero T
	err := meterJSON(data, layoutOf[T](&jsonDialect))
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	if err != nil {
		return zero, fmt.Errorf("decode %T from JSON: %w", zero, err)
	}
	return v, nil
}

// marshalJSON appends the compact JSON of v to dst, without HTML escaping and without a line break at the end.
func marshalJSON(dst []byte, v any) ([]byte, error) {
	buf := bytes.NewBuffer(dst)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return dst, err
	}
	out := buf.Bytes()
	return out[:len(out)-1], nil
}
