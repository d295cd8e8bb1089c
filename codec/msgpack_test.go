package codec

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

// TestMsgPackIntegersInAny: one width, whatever the width was (PAINS P13). The sign follows the form that was written.
func TestMsgPackIntegersInAny(t *testing.T) {
	tests := []struct{ in, want any }{
		{0, int64(0)},
		{127, int64(127)},
		{128, uint64(128)},
		{math.MaxInt, uint64(math.MaxInt)},
		{-1, int64(-1)},
		{math.MinInt, int64(math.MinInt)},
		{uint(5), int64(5)},
		{uint(300), uint64(300)},
		{int8(5), int64(5)},
		{int16(300), int64(300)},
		{int32(-70_000), int64(-70_000)},
		{int64(300), int64(300)},
		{uint8(5), uint64(5)},
		{uint16(5), uint64(5)},
		{uint32(5), uint64(5)},
		{uint64(math.MaxUint64), uint64(math.MaxUint64)},
		{float32(0.5), 0.5},
		{0.1, 0.1},
		{[]byte("bin"), "bin"},
		{[]int{1}, []any{int64(1)}},
		{map[string]int8{"a": 1}, map[string]any{"a": int64(1)}},
		{time.Unix(5, 0), time.Unix(5, 0)},
	}
	c := MsgPack[any]()
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%T", tt.in), func(t *testing.T) {
			data, err := c.Append(nil, tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := c.Decode(data); err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Decode = %T %v, %v, want %T %v", got, got, err, tt.want, tt.want)
			}
		})
	}
}

// msgPackTargets decode into types that take the library to each of its decoders.
var msgPackTargets = map[string]func([]byte) (any, error){
	"any":         target[any],
	"string":      target[string],
	"bytes":       target[[]byte],
	"strings":     target[[]string],
	"ints":        target[[]int],
	"array":       target[[4]byte],
	"time":        target[time.Time],
	"times":       target[[]time.Time],
	"person":      target[person],
	"pointer":     target[*person],
	"persons":     target[[]person],
	"map":         target[map[string]any],
	"maps":        target[[]map[string]any],
	"any keys":    target[map[any]any],
	"string map":  target[map[string]string],
	"typed map":   target[map[int]map[string][]int],
	"nested map":  target[nestedMap],
	"interned":    target[[]interned],
	"raw":         target[msgpack.RawMessage],
	"stringer":    target[struct{ Any fmt.Stringer }],
	"unmarshaler": target[struct{ Any *countingUnmarshaler }],
}

type nestedMap map[string]nestedMap

type countingUnmarshaler struct{ bytes int }

func (u *countingUnmarshaler) UnmarshalMsgpack(data []byte) error {
	u.bytes = len(data)
	return nil
}

func target[T any](data []byte) (any, error) { return MsgPack[T]().Decode(data) }

func TestMsgPackHostile(t *testing.T) {
	huge := []byte{0xff, 0xff, 0xff, 0xff}
	mapInTimestamp := "\xd6\xff\xdf\x00\x40\x00" // of 4 million pairs, with the next byte
	tests := []struct {
		name, target string
		data         []byte
	}{
		{"nothing", "any", nil},
		{"unused code", "any", []byte{0xc1}},
		{"bytes after the value", "any", []byte{1, 1}},
		{"bytes after a struct", "person", []byte{0x80, 0xc0}},
		{"cut length", "any", []byte{0xdd, 0, 0}},
		{"huge array", "any", append([]byte{0xdd}, huge...)},
		{"huge map", "any", append([]byte{0xdf}, huge...)},
		{"huge string", "string", append([]byte{0xdb}, huge...)},
		{"huge bytes", "bytes", append([]byte{0xc6}, huge...)},
		{"huge array of ints", "ints", append([]byte{0xdd}, huge...)},
		{"huge array of structs", "persons", append([]byte{0xdd}, huge...)},
		{"huge array of strings", "strings", append([]byte{0xdd}, huge...)},
		{"huge string map", "string map", append([]byte{0xdf}, huge...)},
		{"huge typed map", "typed map", append([]byte{0xdf}, huge...)},
		{"huge extension", "any", append([]byte{0xc9}, append(huge, 0xff)...)},
		{"huge array in an unknown field", "person", append([]byte{0x81, 0xa1, 'x', 0xdd}, huge...)},
		{"huge array in an array", "any", append([]byte{0x92, 1, 0xdd}, huge...)},
		{"deep arrays", "any", bytes.Repeat([]byte{0x91}, MaxValueLen)},
		{"deep maps", "any", bytes.Repeat([]byte("\x81\xa0"), MaxValueLen/2)},
		{"deep arrays in an unknown field", "person", append([]byte("\x81\xa1x"), bytes.Repeat([]byte{0x91}, 1<<20)...)},
		{"deep structs", "person", bytes.Repeat([]byte("\x81\xa6parent"), 1<<17)},
		{"one too deep", "any", append(bytes.Repeat([]byte{0x91}, maxMsgPackDepth+1), 0xc0)},
		{"unknown extension", "any", []byte{0xd4, 5, 0}},
		{"extension without a payload", "any", []byte{0xc7, 0, 0xff}},
		{"timestamp of 5 bytes", "any", []byte{0xc7, 5, 0xff, 0, 0, 0, 0, 0}},
		{"interned string", "any", []byte{0xd4, 0x80, 0}},
		{"huge map in an extension", "map", append([]byte{0xc7, 5, 5, 0xdf}, huge...)},
		{"map in a timestamp", "map", []byte(mapInTimestamp)},
		{"huge map in a timestamp in an array", "maps", []byte("\x92" + mapInTimestamp + "\x00")},
		{"huge map in a timestamp in a field", "person", []byte("\x82\xa8settings" + mapInTimestamp + "\xa0\x00")},
		{"huge map in a timestamp in a map", "nested map", []byte("\x82\xa1a" + mapInTimestamp + "\xa0\x80")},

		// These panic in the library.
		{"nil for a time", "person", []byte("\x81\xa4born\xc0")},
		{"array for a key", "any keys", []byte{0x81, 0x91, 1, 2}},
		{"field of type any twice", "person", []byte("\x82\xa3any\x01\xa3any\x02")},
		{"number for an interface", "stringer", []byte("\x81\xa3Any\x01")},

		{"wrong type", "person", []byte{0x91, 1}},
		{"string for a number", "person", []byte("\x81\xa3age\xa1x")},
		{"number for a key", "map", []byte{0x81, 1, 1}},
		{"too long for an array", "array", []byte("\xc4\x05abcde")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodeWithin(t, msgPackTargets[tt.target], tt.data)
			if err == nil {
				t.Fatalf("decoded to %v", got)
			}
			if !reflect.ValueOf(&got).Elem().IsNil() && !reflect.ValueOf(got).IsZero() {
				t.Errorf("the value of an error is %v", got)
			}
			if len(err.Error()) > 300 {
				t.Errorf("message %q", err)
			}
		})
	}
}

// decodeWithin fails if decode allocates more than a multiple of len(data).
func decodeWithin(t *testing.T, decode func([]byte) (any, error), data []byte) (any, error) {
	t.Helper()
	const fixed, factor = 2 << 20, 1 << 10 // above all: the size of a person, twice, for a byte
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	v, err := decode(data)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > fixed+factor*uint64(len(data)) {
		t.Errorf("%d bytes of data: %d bytes allocated", len(data), used)
	}
	return v, err
}

// TestMsgPackLegal has what the scan must let pass.
func TestMsgPackLegal(t *testing.T) {
	tests := []struct {
		name, target string
		data         []byte
	}{
		{"depth", "any", append(bytes.Repeat([]byte{0x91}, maxMsgPackDepth), 0xc0)},
		{"nil", "person", []byte{0xc0}},
		{"unknown field", "person", []byte("\x82\xa1x\x92\x01\x81\xa0\xc3\xa4name\xa3ann")},
		{"timestamps", "times", []byte{0x93, 0xd6, 0xff, 0xdf, 0, 0, 0, 0xd7, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1, 0xd6, 0xff, 0x8f, 1, 1, 1}},
		{"timestamp of 12 bytes", "any", []byte{0xc7, 12, 0xff, 0, 0, 0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0}},
		{"timestamp in an unknown field", "person", []byte{0x81, 0xa1, 'x', 0xd6, 0xff, 0xdf, 0, 0, 0}},
		{"timestamp for an unmarshaler", "unmarshaler", []byte{0x81, 0xa3, 'A', 'n', 'y', 0xd6, 0xff, 0xdf, 0, 0, 0}},
		{"timestamp as raw data", "raw", []byte{0xd6, 0xff, 0xdf, 0, 0, 0}},
		{"all numbers", "any", []byte("\x9d\x7f\xe0\xcc\x01\xcd\x01\x02\xce\x01\x02\x03\x04\xcf\x01\x02\x03\x04\x05\x06\x07\x08" +
			"\xd0\x01\xd1\x01\x02\xd2\x01\x02\x03\x04\xd3\x01\x02\x03\x04\x05\x06\x07\x08\xca\x01\x02\x03\x04" +
			"\xcb\x01\x02\x03\x04\x05\x06\x07\x08\xc2")},
		{"all strings", "any", []byte("\x97\xa1a\xd9\x01a\xda\x00\x01a\xdb\x00\x00\x00\x01a\xc4\x01a\xc5\x00\x01a\xc6\x00\x00\x00\x01a")},
		{"all containers", "any", []byte("\x94\xdc\x00\x01\x01\xdd\x00\x00\x00\x01\x01\xde\x00\x01\xa0\x01\xdf\x00\x00\x00\x01\xa0\x01")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := decodeWithin(t, msgPackTargets[tt.target], tt.data); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestMsgPackCut: no beginning of an encoding is one.
func TestMsgPackCut(t *testing.T) {
	data, err := MsgPack[person]().Append(nil, ann())
	if err != nil {
		t.Fatal(err)
	}
	for n := range data {
		if _, err := MsgPack[person]().Decode(data[:n]); err == nil {
			t.Errorf("%d of %d bytes were enough", n, len(data))
		}
	}
}

// TestLibraryStillPanics says when decodeMsgPack can do without its recover.
func TestLibraryStillPanics(t *testing.T) {
	decode := func(data string, v any) (p any) {
		defer func() { p = recover() }()
		if err := msgpack.NewDecoder(strings.NewReader(data)).Decode(v); err != nil {
			t.Error(err)
		}
		return nil
	}
	for name, p := range map[string]any{
		"nil for a time":          decode("\x81\xa4born\xc0", new(person)),
		"array for a key":         decode("\x81\x91\x01\x02", new(map[any]any)),
		"field of type any twice": decode("\x82\xa3any\x01\xa3any\x02", new(person)),
	} {
		if p == nil {
			t.Errorf("%s: msgpack %s does not panic any more", name, msgpack.Version())
		}
	}
}

func TestMsgPackReaderSealsTimestamps(t *testing.T) {
	r := &msgPackReader{Reader: *bytes.NewReader([]byte("abcdef")), timestamps: []span{{1, 3}, {4, 5}}}
	if c, err := r.ReadByte(); c != 'a' || err != nil {
		t.Fatal(c, err)
	}
	if _, err := r.ReadByte(); !errors.Is(err, errTimestampOpened) {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 2)); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	for range 2 { // the library peeks
		if c, err := r.ReadByte(); c != 'd' || err != nil {
			t.Fatal(c, err)
		}
		if err := r.UnreadByte(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadByte(); !errors.Is(err, errTimestampOpened) {
		t.Fatal(err)
	}
}

func FuzzMsgPackDecode(f *testing.F) {
	data, err := MsgPack[person]().Append(nil, ann())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	for _, seed := range []string{
		"\xdd\xff\xff\xff\xff", "\x91\xd6\xff\xdf\xff\xff\xff", "\x81\xa4born\xc0", "\x81\x91\x01\x02", "\xc7\x05\x05\xdf\xff\xff\xff\xff",
		"\x92\x81\xa1S\xa5again\x81\xa1S\xd4\x80\x00", "\x81\xa1a\x81\xa1a\xd6\xff\x81\xa1a\x91",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, decode := range msgPackTargets {
			_, _ = decodeWithin(t, decode, data)
		}
		checkReencoding(t, data)
	})
}

// checkReencoding: what was decoded to an any can be written and read again.
func checkReencoding(t *testing.T, data []byte) {
	t.Helper()
	c := MsgPack[any]()
	v, err := c.Decode(data)
	if err != nil {
		return
	}
	again, err := c.Append(nil, v)
	if err != nil {
		t.Fatalf("decoded %#v, which cannot be encoded: %v", v, err)
	}
	if _, err := c.Decode(again); err != nil {
		t.Fatalf("decoded %#v, encoded %x: %v", v, again, err)
	}
}
