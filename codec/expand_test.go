package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
)

type bulky struct {
	Room [1024]byte
	List []bulky
	Next *bulky
	Any  any
}

type embedding struct {
	*person
	*address
	More map[string]embedding
}

// metered decodes, and says what that was expected to cost and what it allocated.
type metered func(data []byte) (expected, allocated int64, err error)

func meteredMsgPack[T any](data []byte) (int64, int64, error) {
	s := msgPackScanner{data: data, budget: budgetOf(data)}
	return meter(&s.budget, s.value(0, layoutOf[T](&msgPackDialect)), func() error {
		_, err := MsgPack[T]().Decode(data)
		return err
	})
}

func meteredJSON[T any](data []byte) (int64, int64, error) {
	m := jsonMeter{data: data, budget: budgetOf(data)}
	return meter(&m.budget, m.value(0, layoutOf[T](&jsonDialect)), func() error {
		_, err := JSON[T]().Decode(data)
		return err
	})
}

func meter(b *budget, err error, decode func() error) (expected, allocated int64, _ error) {
	expected = expandSpare + expandFactor*b.size - b.left
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	decoded := decode()
	runtime.ReadMemStats(&after)
	if (err != nil) != errors.Is(decoded, ErrExpands) && decoded == nil {
		return 0, 0, fmt.Errorf("metered: %w, but decoded", err)
	}
	return expected, int64(after.TotalAlloc - before.TotalAlloc), decoded
}

var msgPackMeters = map[string]metered{
	"any": meteredMsgPack[any], "anys": meteredMsgPack[[]any], "map": meteredMsgPack[map[string]any], "bulky": meteredMsgPack[[]bulky],
	"persons": meteredMsgPack[[]person], "strings": meteredMsgPack[[]string], "string maps": meteredMsgPack[[]map[string]string],
	"map of bulky": meteredMsgPack[map[string]bulky], "map of ints": meteredMsgPack[map[int32]bulky], "embedding": meteredMsgPack[[]embedding],
	"arrays": meteredMsgPack[[][64]*bulky], "ints": meteredMsgPack[[]int], "bytes": meteredMsgPack[[][]byte],
}

var jsonMeters = map[string]metered{
	"any": meteredJSON[any], "anys": meteredJSON[[]any], "map": meteredJSON[map[string]any], "bulky": meteredJSON[[]bulky],
	"persons": meteredJSON[[]person], "strings": meteredJSON[[]string], "string maps": meteredJSON[[]map[string]string],
	"map of bulky": meteredJSON[map[string]bulky], "map of ints": meteredJSON[map[int32]bulky], "embedding": meteredJSON[[]embedding],
	"arrays": meteredJSON[[][64]*bulky], "ints": meteredJSON[[]int], "bytes": meteredJSON[[][]byte],
}

// checkMeter fails if data makes a decoder allocate more than what is documented, or more than was expected.
func checkMeter(t *testing.T, name string, decode metered, data []byte) {
	t.Helper()
	expected, allocated, err := decode(data)
	if most := 3 * (expandSpare + expandFactor*int64(len(data))); allocated > most {
		t.Errorf("%s: %d bytes of data: %d MiB allocated, at most %d are promised (%v)", name, len(data), allocated>>20, most>>20, err)
	}
	// Beside: what encoding/json makes of each value that does not fit, and drops.
	if spare := int64(1<<20) + 96*int64(len(data)); allocated > spare+3*expected {
		t.Errorf("%s: %d bytes of data: %d KiB allocated, %d were expected (%v), %.40q", name, len(data), allocated>>10, expected>>10, err, data)
	}
}

// A few bytes of data cannot stand for much memory, in any type.
func TestDecodingIsBounded(t *testing.T) {
	const size = 64 << 10
	for _, unit := range []string{
		"\xc0", "\x80", "\x90", "\xa0", "\x01", "\xcc\xff", "\x81\xa0\xc0", "\x81\xa4Room\xc0", "\x81\xa4List\x91\xc0", "\x81\xa4Next\x80", "\x81\xa3Any\x80",
		"\x81\x01\x80", "\x91\x80", "\x82\xa1a\x80\xa1b\x80", "\x81\xa6parent\x80", "\x81\xa6Street\xa0", "\xc4\x00", "\x81\xa4tags\x81\xa0\xa0",
	} {
		data := repeatMsgPack([]byte(unit), size)
		for name, decode := range msgPackMeters {
			checkMeter(t, fmt.Sprintf("MessagePack of %x as %s", unit, name), decode, data)
		}
	}
	for _, unit := range []string{
		`null`, `{}`, `[]`, `""`, `0`, `7e7`, `{"":0}`, `{"Room":[]}`, `{"room":null,"LIST":[{}]}`, `{"Next":{}}`, `{"\u0041ny":{}}`, `[{}]`, `{"1":{}}`,
		`{"parent":{}}`, `{"tags":{"":""}}`, `{"ſtreet":"","street":""}`,
	} {
		data := repeatJSON([]byte(unit), size)
		for name, decode := range jsonMeters {
			checkMeter(t, fmt.Sprintf("JSON of %s as %s", unit, name), decode, data)
		}
	}
}

// The largest values, of what was worst without a limit: 25 MiB of nils were 6 GB in 26 s.
func TestDecodingLargestIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("needs much memory")
	}
	for unit, names := range map[string][]string{"\xc0": {"any", "bulky", "persons"}, "\x80": {"any", "strings"}, "\x81\xa0\xc0": {"any"}} {
		for _, name := range names {
			checkMeter(t, fmt.Sprintf("%x as %s", unit, name), msgPackMeters[name], repeatMsgPack([]byte(unit), MaxValueLen))
		}
	}
	checkMeter(t, "objects", jsonMeters["bulky"], repeatJSON([]byte(`{}`), MaxValueLen))
	if _, err := MsgPack[[]bulky]().Decode(repeatMsgPack([]byte{0xc0}, MaxValueLen)); !errors.Is(err, ErrExpands) {
		t.Error(err)
	}
}

// repeatMsgPack is an array of a value, as often as there is room.
func repeatMsgPack(unit []byte, size int) []byte {
	n := (size - 5) / len(unit)
	return append(binary.BigEndian.AppendUint32([]byte{0xdd}, uint32(n)), bytes.Repeat(unit, n)...)
}

func repeatJSON(unit []byte, size int) []byte {
	data := append([]byte("["), bytes.Repeat(append(bytes.Clone(unit), ','), (size-1)/(len(unit)+1))...)
	data[len(data)-1] = ']'
	return data
}

// What people store passes, of any length: it needs less than 32 bytes for a byte, the 64 MiB aside.
func TestHonestValuesFit(t *testing.T) {
	const n = 5000
	fits(t, "nils", make([]any, n))
	fits(t, "persons", repeated(ann(), n/10))
	fits(t, "small structs", repeated(address{"High Street 5", 12345}, n))
	fits(t, "words", repeated("word", n))
	fits(t, "rows", repeated(any(map[string]any{"id": int64(100_000), "name": "somebody", "on": true}), n))
	fits(t, "ints", repeated(123, n))
	fits(t, "floats", repeated(any(1.5), n))
	fits(t, "text", strings.Repeat("x", n))
	fits(t, "bulky", repeated(bulky{List: []bulky{{}}}, n/100))
	tags := make(map[string][]string)
	for i := range n {
		tags[fmt.Sprint("key", i)] = []string{"a", "b", "c"}
	}
	fits(t, "map", tags)
}

func repeated[T any](v T, n int) []T {
	all := make([]T, n)
	for i := range all {
		all[i] = v
	}
	return all
}

func fits[T any](t *testing.T, name string, v T) {
	t.Helper()
	for format, c := range map[string]struct {
		Codec[T]
		metered
	}{"JSON": {JSON[T](), meteredJSON[T]}, "MessagePack": {MsgPack[T](), meteredMsgPack[T]}} {
		data, err := c.Append(nil, v)
		if err != nil {
			t.Fatalf("%s of %s: %v", format, name, err)
		}
		if expected, _, err := c.metered(data); err != nil || expected > 1<<10+expandFactor*int64(len(data)) {
			t.Errorf("%s of %s: %d bytes are expected to need %d: %v", format, name, len(data), expected, err)
		}
	}
}

// What cannot be read is not written.
func TestAppendRefusesWhatExpands(t *testing.T) {
	type empty struct {
		A, B, C, D, E, F, G, H, I, J, K, L string `msgpack:",omitempty" json:",omitempty"`
	}
	appendFails(t, "msgpack", MsgPack[[]*empty](), repeated(new(empty), 500_000), ErrExpands)
	appendFails(t, "json", JSON[[]*empty](), repeated(new(empty), 500_000), ErrExpands)
}

// The layout of a type that refers to itself ends.
func TestLayout(t *testing.T) {
	l := layoutOf[embedding](&msgPackDialect)
	for name, kind := range map[string]reflect.Kind{"More": reflect.Map, "Street": reflect.String, "born": reflect.Invalid, "balance": reflect.Pointer, "any": reflect.Interface} {
		if f := l.fields[name]; f == nil || f.kind != kind {
			t.Errorf("field %s: %+v", name, f)
		}
	}
	type inArray struct {
		_msgpack struct{} `msgpack:",as_array"` //nolint:unused // the library looks for it
		Before   bool
		address
		Rows []bulky
	}
	data := append([]byte("\x94\xc2\xa1a\x01\xdd\x00\x0f\x42\x40"), bytes.Repeat([]byte{0xc0}, 1_000_000)...)
	if _, err := MsgPack[inArray]().Decode(data); !errors.Is(err, ErrExpands) {
		t.Error(err)
	}
	if l := layoutOf[person](&jsonDialect); l.under([]byte("NAME"), &jsonDialect) == nil || l.under([]byte("none"), &jsonDialect) != nil {
		t.Error("fields of JSON have any case")
	}
}

// FuzzMsgPackMemory and FuzzJSONMemory look for values that cost more than is expected, when there are many of them.
func FuzzMsgPackMemory(f *testing.F) {
	data, err := MsgPack[person]().Append(nil, ann())
	if err != nil {
		f.Fatal(err)
	}
	for which := range len(msgPackMeters) {
		f.Add(data, which)
		f.Add([]byte("\x81\xa4Next\x81\xa4List\x92\xc0\xc0"), which)
	}
	f.Fuzz(func(t *testing.T, data []byte, which int) {
		if _, err := scanMsgPack(data, layoutOf[any](&msgPackDialect)); err != nil || len(data) > 1<<10 {
			return
		}
		name := meterName(msgPackMeters, which)
		checkMeter(t, name, msgPackMeters[name], repeatMsgPack(data, 64<<10))
	})
}

func FuzzJSONMemory(f *testing.F) {
	data, err := JSON[person]().Append(nil, ann())
	if err != nil {
		f.Fatal(err)
	}
	for which := range len(jsonMeters) {
		f.Add(data, which)
		f.Add([]byte(`{"next":{"List":[{},{}]}}`), which)
	}
	f.Fuzz(func(t *testing.T, data []byte, which int) {
		if len(data) > 1<<10 || len(data) == 0 {
			return
		}
		name := meterName(jsonMeters, which)
		checkMeter(t, name, jsonMeters[name], repeatJSON(data, 64<<10))
	})
}

func meterName(meters map[string]metered, which int) string {
	names := slices.Sorted(maps.Keys(meters))
	return names[uint(which)%uint(len(names))]
}
