package codec

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
)

type failing struct{ err error }

func (f failing) MarshalJSON() ([]byte, error) { return nil, f.err }

func TestEncodeMetadata(t *testing.T) {
	type user struct {
		Name string `json:"name"`
		Age  int    `json:"age,omitempty"`
	}
	var typedNil *user
	tests := []struct {
		name string
		in   any
		want string // "" for none
	}{
		{"nil", nil, ""},
		{"typed nil pointer", typedNil, ""},
		{"nil map", map[string]int(nil), ""},
		{"raw null", json.RawMessage("null"), ""},
		{"raw null with space", json.RawMessage(" null\n"), ""},
		{"nil raw", json.RawMessage(nil), ""},
		{"zero", 0, "0"},
		{"false", false, "false"},
		{"empty string", "", `""`},
		{"the string null", "null", `"null"`},
		{"empty map", map[string]int{}, "{}"},
		{"empty array", []int{}, "[]"},
		{"struct", user{Name: "ann"}, `{"name":"ann"}`},
		{"pointer", &user{Name: "bob", Age: 7}, `{"name":"bob","age":7}`},
		{"sorted keys", map[string]any{"b": 1.5, "a": nil}, `{"a":null,"b":1.5}`},
		{"HTML", "<a href='x'>&</a>", `"<a href='x'>&</a>"`},
		{"HTML in a key", map[string]int{"<&>": 1}, `{"<&>":1}`},
		{"line separators", "a\u2028b\u2029", "\"a\u2028b\u2029\""},
		{"line separators in a key", map[string]int{"\u2028": 1}, "{\"\u2028\":1}"},
		{"backslash and the letters of a separator", `\u2028`, `"\\u2028"`},
		{"backslash and a separator", "\\\u2028", "\"\\\\\u2028\""},
		{"neighbours of the separators", "\u2027\u202a", "\"\u2027\u202a\""},
		{"control characters", "\x00\b\t\n\f\r\x1f\x7f", `"\u0000\b\t\n\f\r\u001f` + "\x7f\""},
		{"unicode", "é😀", `"é😀"`},
		{"raw is compacted", json.RawMessage("{ \"a\" : [ 1 ,\r\n 2 ] }"), `{"a":[1,2]}`},
		{"raw keeps its escapes", json.RawMessage(`"\u003c\u00e9"`), `"\u003c\u00e9"`},
		{"large number", json.Number("12345678901234567890"), "12345678901234567890"},
		{"exponent", 1e21, "1e+21"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := EncodeMetadata(tt.in)
			if err != nil || string(got) != tt.want {
				t.Fatalf("EncodeMetadata = %q, %v, want %q", got, err, tt.want)
			}
			if tt.want == "" && got != nil {
				t.Errorf("none is %q, not nil", got)
			}
			r, err := DecodeRecord(Record{Metadata: got}.Header(), nil)
			if err != nil || string(r.Metadata) != tt.want {
				t.Errorf("decoded to %q, %v", r.Metadata, err)
			}
		})
	}
}

func TestEncodeMetadataErrors(t *testing.T) {
	cause := errors.New("no")
	tests := []struct {
		name  string
		in    any
		cause error
	}{
		{"NaN", math.NaN(), nil},
		{"infinity", math.Inf(-1), nil},
		{"channel", make(chan int), nil},
		{"function", func() {}, nil},
		{"NaN inside", map[string]any{"a": []float64{math.NaN()}}, nil},
		{"failing marshaler", failing{cause}, cause},
		{"empty raw", json.RawMessage{}, nil},
		{"cut raw", json.RawMessage(`{"a":`), nil},
		{"two values", json.RawMessage(`1 2`), nil},
		{"not UTF-8", json.RawMessage("\"\xff\""), nil},
		{"too long", strings.Repeat("x", MaxMetadataLen), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := EncodeMetadata(tt.in)
			var metadataErr *MetadataError
			if !errors.Is(err, ErrInvalidMetadata) || !errors.As(err, &metadataErr) || got != nil {
				t.Fatalf("EncodeMetadata = %q, %v, want a *MetadataError", got, err)
			}
			if tt.cause != nil && !errors.Is(err, tt.cause) {
				t.Errorf("%v is not %v", err, tt.cause)
			}
			if !strings.HasPrefix(err.Error(), "invalid metadata: ") {
				t.Errorf("message %q", err)
			}
		})
	}
	var unsupported *json.UnsupportedTypeError
	if _, err := EncodeMetadata(make(chan int)); !errors.As(err, &unsupported) {
		t.Errorf("%v does not wrap the error of encoding/json", err)
	}
}

// TestMetadataLimit measures like JSON.stringify: two quotes, and each of these characters in its UTF-8 bytes.
func TestMetadataLimit(t *testing.T) {
	for _, unit := range []string{"x", "<", "&", "\u2028", "é", "😀"} {
		room := MaxMetadataLen - 2
		fits := strings.Repeat("x", room%len(unit)) + strings.Repeat(unit, room/len(unit))
		got, err := EncodeMetadata(fits)
		if err != nil || len(got) != MaxMetadataLen {
			t.Errorf("%q: %d bytes, %v", unit, len(got), err)
		}
		if _, err := EncodeMetadata(fits + "x"); !errors.Is(err, ErrInvalidMetadata) {
			t.Errorf("%q and a byte more: %v", unit, err)
		}
	}
}
