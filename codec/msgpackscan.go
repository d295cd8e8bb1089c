package codec

import (
	"errors"
	"fmt"
	"reflect"
)

// maxMsgPackDepth is how deep arrays and maps may be nested. It is the limit of encoding/json.
const maxMsgPackDepth = 10_000

var (
	errMsgPackShort = errors.New("unexpected end of data")
	errMsgPackDeep  = fmt.Errorf("nested deeper than %d", maxMsgPackDepth)
)

// span is a range of bytes.
type span struct{ start, end int }

// scanMsgPack returns an error unless data is one complete MessagePack value that can be decoded safely into what
// has the layout l. It returns where the payloads of the timestamps are.
func scanMsgPack(data []byte, l *layout) (timestamps []span, err error) {
	s := msgPackScanner{data: data, budget: budgetOf(data)}
	if l.harmless(data) {
		l = nil
	}
	if err := s.value(0, l); err != nil {
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
	budget     budget
	timestamps []span
}

// value steps over one value that is inside of so many others, and spends what it costs to decode it to l.
func (s *msgPackScanner) value(depth int, l *layout) error {
	if depth > maxMsgPackDepth {
		return errMsgPackDeep
	}
	code, err := s.uint(1)
	if err != nil {
		return err
	}
	if code == 0xc0 { // nil
		return nil
	}
	if l, err = l.pointed(&s.budget); err != nil {
		return err
	}
	switch {
	case code < 0x80 || code >= 0xe0: // fixint
		return l.spendScalar(&s.budget, 0)
	case code < 0x90: // fixmap
		return s.pairs(code&0x0f, depth, l)
	case code < 0xa0: // fixarray
		return s.array(code&0x0f, depth, l)
	case code < 0xc0: // fixstr
		return s.bytes(code&0x1f, l)
	}
	return s.coded(msgPackForms[code-0xc0], depth, l)
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

func (s *msgPackScanner) coded(form msgPackForm, depth int, l *layout) error {
	size := form.size
	if form.length > 0 {
		var err error
		if size, err = s.uint(form.length); err != nil {
			return err
		}
	}
	switch form.kind {
	case msgPackBytes:
		return s.bytes(size, l)
	case msgPackArray:
		return s.array(size, depth, l)
	case msgPackMap:
		return s.pairs(size, depth, l)
	case msgPackExt:
		return errors.Join(s.timestamp(size), l.spendScalar(&s.budget, 2*smallest))
	}
	return errors.New("invalid code")
}

func (s *msgPackScanner) bytes(n uint64, l *layout) error {
	if err := s.skip(n); err != nil {
		return err
	}
	return l.spendScalar(&s.budget, int64(n))
}

// array steps over n values. Each takes a byte at least, so that a lie ends soon.
func (s *msgPackScanner) array(n uint64, depth int, l *layout) error {
	if n > uint64(len(s.data)-s.at) {
		return errMsgPackShort
	}
	start, often := s.at, int64(2) // the library makes two slices, and appends one to the other
	if l != nil && l.kind == reflect.Interface {
		often = 1
	} else if l != nil && l.kind == reflect.Slice && l.elem.kind == reflect.String && n > 1e6 {
		often = growth
	}
	if err := l.spendArray(&s.budget, int64(n), often); err != nil {
		return err
	}
	for i := range n {
		if err := s.value(depth+1, l.at(int64(i))); err != nil {
			return err
		}
	}
	return s.recorded(start, l)
}

// pairs steps over a map.
func (s *msgPackScanner) pairs(n uint64, depth int, l *layout) error {
	if n > uint64(len(s.data)-s.at)/2 {
		return errMsgPackShort
	}
	if err := l.spendMap(&s.budget, int64(n)); err != nil {
		return err
	}
	start, keys := s.at, l.keys()
	for range n {
		from := s.at
		if err := s.value(depth+1, keys); err != nil {
			return err
		}
		if err := s.value(depth+1, l.under(msgPackName(s.data[from:s.at]), &msgPackDialect)); err != nil {
			return err
		}
	}
	return s.recorded(start, l)
}

// recorded spends what it costs to give the bytes from start on to a type that decodes itself.
func (s *msgPackScanner) recorded(start int, l *layout) error {
	if l == nil || l.kind != reflect.Invalid {
		return nil
	}
	return l.spendScalar(&s.budget, int64(s.at-start))
}

// msgPackName returns the text of a value that was stepped over.
func msgPackName(value []byte) []byte {
	switch code := value[0]; {
	case code >= 0xa0 && code < 0xc0:
		return value[1:]
	case code < 0xc0 || code >= 0xe0:
		return nil
	default:
		form := msgPackForms[code-0xc0]
		if form.kind != msgPackBytes || form.length == 0 {
			return nil
		}
		return value[1+form.length:]
	}
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
