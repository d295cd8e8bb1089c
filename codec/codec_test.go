package codec

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"
)

type address struct {
	Street string
	Zip    int32
}

type person struct {
	Name     string             `msgpack:"name" json:"name"`
	Age      uint8              `msgpack:"age" json:"age"`
	Born     time.Time          `msgpack:"born" json:"born"`
	Balance  *big.Int           `msgpack:"balance" json:"balance"`
	Debt     big.Int            `msgpack:"debt" json:"debt"` // its marshaler has a pointer receiver
	Photo    []byte             `msgpack:"photo" json:"photo"`
	Homes    []address          `msgpack:"homes" json:"homes"`
	Parent   *person            `msgpack:"parent" json:"parent"`
	Scores   map[int]float64    `msgpack:"scores" json:"scores"`
	ByName   map[string]address `msgpack:"by_name" json:"by_name"`
	Tags     map[string]string  `msgpack:"tags" json:"tags"`
	Timeout  time.Duration      `msgpack:"timeout" json:"timeout"`
	Settings map[string]any     `msgpack:"settings" json:"settings"`
	Any      any                `msgpack:"any" json:"any"`
}

func ann() person {
	return person{
		Name: "ann", Age: 200, Born: time.Unix(1_000_000_000, 5).UTC(), Balance: big.NewInt(-7), Debt: *big.NewInt(8),
		Photo: []byte{0, 0xff}, Homes: []address{{"a", 1}, {"<b>", -1}}, Parent: &person{Name: "eve", Balance: new(big.Int)},
		Scores: map[int]float64{-1: 0.5, 70_000: 2}, ByName: map[string]address{"x": {}}, Tags: map[string]string{"k": "v"},
		Timeout: time.Minute, Settings: map[string]any{"on": true}, Any: "text",
	}
}

func TestCodecRoundTrip(t *testing.T) {
	roundTrip(t, "raw", Raw(), []byte("\x00\xff"))
	roundTrip(t, "raw/empty", Raw(), []byte{})
	roundTrip(t, "string", String(), "é\xff")
	roundTrip(t, "string/empty", String(), "")
	roundTrip(t, "json/string", JSON[string](), "<&>\u2028")
	roundTrip(t, "json/any", JSON[any](), any(map[string]any{"a": []any{1.0, nil}}))
	roundTrip(t, "json/nil pointer", JSON[*person](), nil)
	roundTrip(t, "json/pointer receiver", JSON[big.Int](), *big.NewInt(12))
	roundTrip(t, "msgpack/string", MsgPack[string](), strings.Repeat("é", 40_000))
	roundTrip(t, "msgpack/bytes", MsgPack[[]byte](), bytes.Repeat([]byte{0xc1}, 70_000))
	roundTrip(t, "msgpack/int", MsgPack[int](), math.MinInt)
	roundTrip(t, "msgpack/uint64", MsgPack[uint64](), 1<<64-1)
	roundTrip(t, "msgpack/float32", MsgPack[float32](), 0.1)
	roundTrip(t, "msgpack/strings", MsgPack[[]string](), []string{"", "a"})
	roundTrip(t, "msgpack/array", MsgPack[[3]int](), [3]int{1, 2, 3})
	roundTrip(t, "msgpack/duration", MsgPack[time.Duration](), time.Hour)
	roundTrip(t, "msgpack/nil pointer", MsgPack[*person](), nil)
	roundTrip(t, "msgpack/nil any", MsgPack[any](), nil)
	roundTrip(t, "msgpack/nil map", MsgPack[map[string]any](), nil)
	roundTrip(t, "msgpack/pointer receiver", MsgPack[big.Int](), *big.NewInt(12))
	roundTrip(t, "msgpack/struct keys", MsgPack[map[address]bool](), map[address]bool{{"a", 1}: true})
}

func TestStructRoundTrip(t *testing.T) {
	for name, c := range map[string]Codec[person]{"json": JSON[person](), "msgpack": MsgPack[person]()} {
		t.Run(name, func(t *testing.T) {
			data, err := c.Append(nil, ann())
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			got.Born = got.Born.UTC()
			got.Parent.Born = got.Parent.Born.UTC()
			if want := ann(); !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func roundTrip[T any](t *testing.T, name string, c Codec[T], v T) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Helper()
		dst := []byte("before")
		out, err := c.Append(dst, v)
		if err != nil {
			t.Fatal(err)
		}
		data, ok := bytes.CutPrefix(out, dst)
		if !ok {
			t.Fatalf("Append replaced what was there: %q", out)
		}
		before := bytes.Clone(data)
		got, err := c.Decode(data)
		if err != nil || !bytes.Equal(data, before) {
			t.Fatalf("Decode: %v; data was %q, is %q", err, before, data)
		}
		for i := range data {
			data[i] ^= 0xff // what Decode returned must not change
		}
		if !reflect.DeepEqual(got, v) {
			t.Errorf("got %#v, want %#v", got, v)
		}
	})
}

func TestCodecsTakeNoMemory(t *testing.T) {
	sizes := []uintptr{
		unsafe.Sizeof(raw{}), unsafe.Sizeof(text{}), unsafe.Sizeof(jsonCodec[person]{}), unsafe.Sizeof(msgPack[person]{}),
	}
	for i, size := range sizes {
		if size != 0 {
			t.Errorf("codec %d has %d bytes", i, size)
		}
	}
}

func TestRawDecodesEmptyToEmpty(t *testing.T) {
	if got, err := Raw().Decode(nil); got == nil || len(got) != 0 || err != nil {
		t.Errorf("Decode(nil) = %#v, %v", got, err)
	}
}

func TestJSONIsCompactAndNotEscaped(t *testing.T) {
	got, err := JSON[map[string]any]().Append(nil, map[string]any{"b": "<&>", "a": 1})
	if want := `{"a":1,"b":"<&>"}`; string(got) != want || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestJSONDecodeErrors(t *testing.T) {
	for _, data := range []string{
		"", " ", "{", `{"name":"a"} {}`, `{"name":"a"}x`, `{"name":1}`, "[]", "\x00", `{"age":256}`, strings.Repeat("[", 1<<20),
	} {
		if got, err := JSON[person]().Decode([]byte(data)); err == nil || got.Name != "" {
			t.Errorf("Decode(%.20q) = %+v, %v", data, got, err)
		}
	}
}

func TestAppendErrors(t *testing.T) {
	cause := errors.New("no")
	appendFails(t, "json/channel", JSON[chan int](), make(chan int), nil)
	appendFails(t, "json/cause", JSON[[]failing](), []failing{{cause}}, cause)
	appendFails(t, "msgpack/channel", MsgPack[[]chan int](), []chan int{nil}, nil)
	appendFails(t, "msgpack/cause", MsgPack[[]failingMsgPack](), []failingMsgPack{{err: cause}}, cause)
	appendFails(t, "msgpack/garbage", MsgPack[failingMsgPack](), failingMsgPack{out: []byte{0xc1}}, nil)
	appendFails(t, "msgpack/two values", MsgPack[failingMsgPack](), failingMsgPack{out: []byte{1, 1}}, nil)
	appendFails(t, "msgpack/extension", MsgPack[failingMsgPack](), failingMsgPack{out: []byte{0xd6, 5, 0, 0, 0, 0}}, nil)
	appendFails(t, "msgpack/empty extension", MsgPack[failingMsgPack](), failingMsgPack{out: []byte{0xc7, 0, 0xff}}, nil)
	appendFails(t, "msgpack/interned", MsgPack[[]interned](), []interned{{"again"}, {"again"}, {"again"}}, nil)
	var deep any
	for range maxMsgPackDepth + 1 {
		deep = []any{deep}
	}
	appendFails(t, "msgpack/deep", MsgPack[any](), deep, nil)
}

type interned struct {
	S string `msgpack:",intern"`
}

type failingMsgPack struct {
	out []byte
	err error
}

func (f failingMsgPack) MarshalMsgpack() ([]byte, error) { return f.out, f.err }

func appendFails[T any](t *testing.T, name string, c Codec[T], v T, cause error) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Helper()
		dst := append(make([]byte, 0, 100), "before"...)
		out, err := c.Append(dst, v)
		if err == nil || string(out) != "before" {
			t.Fatalf("Append = %q, %v", out, err)
		}
		if cause != nil && !errors.Is(err, cause) {
			t.Errorf("%v is not %v", err, cause)
		}
	})
}

// TestCodecsConcurrently is for the race detector.
func TestCodecsConcurrently(t *testing.T) {
	codecs := []Codec[person]{JSON[person](), MsgPack[person]()}
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for i := range cap(errs) {
		wg.Go(func() { errs <- roundTrips(codecs[i%2], fmt.Sprint("name", i), 50) })
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
}

func roundTrips(c Codec[person], name string, n int) error {
	for range n {
		p := ann()
		p.Name = name
		data, err := c.Append(nil, p)
		if err != nil {
			return err
		}
		got, err := c.Decode(data)
		if err != nil {
			return err
		}
		if got.Name != name {
			return fmt.Errorf("name %q, want %q", got.Name, name)
		}
	}
	return nil
}
