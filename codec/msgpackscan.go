package codec

import (
	"errors"
	"fmt"
)

// maxMsgPackDepth is how deep arrays and maps may be nested. It is the limit of encoding/json.
const maxMsgPackDepth = 10_000

var (
	errMsgPackShort = errors.New("unexpected end of data")
	errMsgPackDeep  = fmt.Errorf("nested deeper than %d", maxMsgPackDepth)
)

// span is a range of bytes.
type span struct{ start, end int }

// scanMsgPack returns an error unless data is one complete MessagePack value that can be decoded safely. It
// returns where the payloads of the timestamps are.
func scanMsgPack(data []byte) (timestamps []span, err error) {
	s := msgPackScanner{data: data}
	if err := s.value(0); err != nil {
		return nil, fmt.Errorf("%w at byte %d", err, s.at)
	}
	if rest := len(data) - s.at; rest > 0 {
		return nil, fmt.Errorf("%d bytes after the value", rest)
	}
	return s.timestamps, nil
}

// msgPackScanner walks over values without building them. Format: github.com/msgpack/msgpack/blob/master/spec.md
type msgPackScanner struct {
	data       []byte
	at         int
	timestamps []span
}

// value steps over one value that is inside of so many others.
func (s *msgPackScanner) value(depth int) error {
	if depth > maxMsgPackDepth {
		return errMsgPackDeep
	}
	code, err := s.uint(1)
	if err != nil {
		return err
	}
	switch {
	case code < 0x80 || code >= 0xe0: // fixint
		return nil
	case code < 0x90: // fixmap
		return s.values(2*(code&0x0f), depth)
	case code < 0xa0: // fixarray
		return s.values(code&0x0f, depth)
	case code < 0xc0: // fixstr
		return s.skip(code & 0x1f)
	}
	return s.coded(msgPackForms[code-0xc0], depth)
}

// msgPackForm is what follows a code from 0xc0 to 0xdf.
type msgPackForm struct {
	kind   msgPackKind
	length int    // the number of bytes of a length field
	size   uint64 // what there is without one
}

type msgPackKind uint8

const (
	msgPackInvalid msgPackKind = iota
	msgPackBytes               // size: bytes
	msgPackArray               // size: values
	msgPackMap                 // size: pairs of values
	msgPackExt                 // size: bytes, not counting the type
)

var msgPackForms = [32]msgPackForm{
	{msgPackBytes, 0, 0}, {msgPackInvalid, 0, 0}, {msgPackBytes, 0, 0}, {msgPackBytes, 0, 0}, // nil, unused, false, true
	{msgPackBytes, 1, 0}, {msgPackBytes, 2, 0}, {msgPackBytes, 4, 0}, // bin 8, 16, 32
	{msgPackExt, 1, 0}, {msgPackExt, 2, 0}, {msgPackExt, 4, 0}, // ext 8, 16, 32
	{msgPackBytes, 0, 4}, {msgPackBytes, 0, 8}, // float 32, 64
	{msgPackBytes, 0, 1}, {msgPackBytes, 0, 2}, {msgPackBytes, 0, 4}, {msgPackBytes, 0, 8}, // uint 8, 16, 32, 64
	{msgPackBytes, 0, 1}, {msgPackBytes, 0, 2}, {msgPackBytes, 0, 4}, {msgPackBytes, 0, 8}, // int 8, 16, 32, 64
	{msgPackExt, 0, 1}, {msgPackExt, 0, 2}, {msgPackExt, 0, 4}, {msgPackExt, 0, 8}, {msgPackExt, 0, 16}, // fixext
	{msgPackBytes, 1, 0}, {msgPackBytes, 2, 0}, {msgPackBytes, 4, 0}, // str 8, 16, 32
	{msgPackArray, 2, 0}, {msgPackArray, 4, 0}, // array 16, 32
	{msgPackMap, 2, 0}, {msgPackMap, 4, 0}, // map 16, 32
}

func (s *msgPackScanner) coded(form msgPackForm, depth int) error {
	size := form.size
	if form.length > 0 {
		var err error
		if size, err = s.uint(form.length); err != nil {
			return err
		}
	}
	switch form.kind {
	case msgPackBytes:
		return s.skip(size)
	case msgPackArray:
		return s.values(size, depth)
	case msgPackMap:
		return s.values(2*size, depth)
	case msgPackExt:
		return s.timestamp(size)
	}
	return errors.New("invalid code")
}

func (s *msgPackScanner) values(n uint64, depth int) error {
	for range n { // each takes a byte at least, so that a lie ends soon
		if err := s.value(depth + 1); err != nil {
			return err
		}
	}
	return nil
}

// timestamp steps over the type and the payload of an extension, which must be a timestamp: others may be anything,
// and the library opens them. One without a payload would even make it go on to the next value as if that were inside.
func (s *msgPackScanner) timestamp(size uint64) error {
	kind, err := s.uint(1)
	if err != nil {
		return err
	}
	if int8(kind) != -1 || size != 4 && size != 8 && size != 12 {
		return fmt.Errorf("extension of type %d and %d bytes is not supported", int8(kind), size)
	}
	start := s.at
	if err := s.skip(size); err != nil {
		return err
	}
	s.timestamps = append(s.timestamps, span{start, s.at})
	return nil
}

func (s *msgPackScanner) skip(n uint64) error {
	if n > uint64(len(s.data)-s.at) {
		return errMsgPackShort
	}
	s.at += int(n)
	return nil
}

// uint reads a big-endian number of n bytes.
func (s *msgPackScanner) uint(n int) (v uint64, err error) {
	start := s.at
	if err := s.skip(uint64(n)); err != nil {
		return 0, err
	}
	for _, b := range s.data[start:s.at] {
		v = v<<8 | uint64(b)
	}
	return v, nil
}
