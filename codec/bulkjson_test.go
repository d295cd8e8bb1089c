package codec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// readPairs returns all that ReadBulk yields, in memory of its own.
func readPairs(r io.Reader, opts BulkOptions) (pairs []BulkPair, err error) {
	for p, e := range ReadBulk(r, opts) {
		if e != nil {
			err = e
			continue
		}
		p.Value, p.Metadata = bytes.Clone(p.Value), bytes.Clone(p.Metadata)
		pairs = append(pairs, p)
	}
	return pairs, err
}

func inWords(p BulkPair) string {
	s := fmt.Sprintf("%d@%d:%d %q=%q", p.Index, p.Line, p.Column, p.Key, p.Value)
	if p.TTL != 0 {
		s += fmt.Sprint(" ttl ", p.TTL)
	}
	if !p.Expires.IsZero() {
		s += fmt.Sprint(" expires ", p.Expires.Unix())
	}
	if p.Metadata != nil {
		s += " metadata " + string(p.Metadata)
	}
	return s
}

func TestReadBulk(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"nothing", `[]`, ``},
		{"white space", " \r\n\t[ \n ] \n", ``},
		{"a byte order mark", "\ufeff[{\"key\":\"a\",\"value\":\"\"}]", `0@1:2 "a"=""`},
		{"two", `[{"key":"a","value":"1"},` + "\n" + ` {"value":"2","key":"b"}]`, `0@1:2 "a"="1"; 1@2:2 "b"="2"`},
		{
			"everything", `[{"key":"k","value":"AAH/","base64":true,"expiration":1767225600,"metadata":{"a" : [1, 2.50, "x"]}}]`,
			`0@1:2 "k"="\x00\x01\xff" expires 1767225600 metadata {"a":[1,2.50,"x"]}`,
		},
		{"null", `[{"key":"k","value":"v","expiration":null,"expiration_ttl":null,"metadata":null,"base64":null}]`, `0@1:2 "k"="v"`},
		{"base64: false", `[{"key":"k","value":"AAH/","base64":false}]`, `0@1:2 "k"="AAH/"`},
		{"base64 before the value, wrapped", `[{"base64":true,"key":"k","value":"AA\r\nH/"}]`, `0@1:2 "k"="\x00\x01\xff"`},
		{"TTL wins", `[{"key":"k","value":"v","expiration":-1e99,"expiration_ttl":60}]`, `0@1:2 "k"="v" ttl 1m0s`},
		{"whole numbers", `[{"key":"k","value":"v","expiration":17.672256e8},{"key":"l","value":"v","expiration_ttl":60.0}]`, `0@1:2 "k"="v" expires 1767225600; 1@1:51 "l"="v" ttl 1m0s`},
		{"the last second", `[{"key":"k","value":"v","expiration":253402300799}]`, `0@1:2 "k"="v" expires 253402300799`},
		{"escapes", `[{"k\u0065y":"\u00e9\/\\\"","value":"\b\f\n\r\t\u0000\ud83d\uDE00\ufffd"}]`, `0@1:2 "é/\\\""="\b\f\n\r\t\x00😀` + `�"`},
		{"raw characters", "[{\"key\":\"é\u2028\",\"value\":\"😀\x7f\"}]", `0@1:2 "é\u2028"="😀\x7f"`},
		{"metadata as short as can be", `[{"key":"k","value":"v","metadata":"\u00e9\u003c\/\u0001\n"}]`, `0@1:2 "k"="v" metadata "é</\u0001\n"`},
		{"false is metadata", `[{"key":"k","value":"v","metadata":false},{"key":"k","value":"","metadata":0}]`, `0@1:2 "k"="v" metadata false; 1@1:43 "k"="" metadata 0`},
		{"unknown fields", `[{"key":"k","x":{"key":[1,{}],"y":"\u0041"},"value":"v","x":[]}]`, `0@1:2 "k"="v"`},
	}
	for _, tt := range tests {
		for _, read := range []struct {
			name string
			r    io.Reader
		}{{"whole", strings.NewReader(tt.in)}, {"by bytes", iotest.OneByteReader(strings.NewReader(tt.in))}} {
			t.Run(tt.name+"/"+read.name, func(t *testing.T) {
				pairs, err := readPairs(read.r, BulkOptions{})
				if err != nil {
					t.Fatal(err)
				}
				var words []string
				for _, p := range pairs {
					words = append(words, inWords(p))
				}
				if got := strings.Join(words, "; "); got != tt.want {
					t.Errorf("got\n%s, not\n%s", got, tt.want)
				}
			})
		}
	}
}

func TestReadBulkRefuses(t *testing.T) {
	long := strings.Repeat("x", 1023)
	tests := []struct {
		name, in, want string
		is             error
	}{
		{"nothing", ``, `line 1, column 1 (element 0): the file ends too early`, io.ErrUnexpectedEOF},
		{"no array", `{"key":"a"}`, `line 1, column 1 (element 0): unexpected '{' instead of an array`, nil},
		{"JSON lines", "{\"key\":1}\n{}", `line 1, column 1 (element 0): unexpected '{' instead of an array`, nil},
		{"cut off", `[{"key":"a","value":"1"},`, `line 1, column 26 (element 1): the file ends too early`, io.ErrUnexpectedEOF},
		{"cut off in a string", `[{"key":"a`, `line 1, column 11 (element 0): the file ends too early`, io.ErrUnexpectedEOF},
		{"bytes behind it", "[]\n[]", `line 2, column 1 (element 0): unexpected '[' instead of the end of the file`, nil},
		{"a comma too many", `[{"key":"a","value":"1"},]`, `line 1, column 26 (element 1): unexpected ']' instead of an object with key and value`, nil},
		{"no comma", `[{"key":"a","value":"1"} {}]`, `line 1, column 26 (element 1): unexpected '{' instead of a comma or ']'`, nil},
		{"a string", `["a"]`, `line 1, column 2 (element 0): unexpected '"' instead of an object with key and value`, nil},
		{"no key", "[\n  {\"value\":\"a\"}]", `line 2, column 3 (element 0): the element has no key`, nil},
		{"no value", `[{"key":"a"}]`, `line 1, column 2 (element 0): the element has no value`, nil},
		{"no field", `[{}]`, `line 1, column 2 (element 0): the element has no key`, nil},
		{"value is a number", `[{"key":"a","value":1}]`, `line 1, column 21 (element 0): the value is not a string`, nil},
		{"value is null", `[{"key":"a","value":null}]`, `line 1, column 21 (element 0): the value is not a string`, nil},
		{"key is a number", `[{"key":1,"value":"1"}]`, `line 1, column 9 (element 0): key is not a string`, nil},
		{"empty key", `[{"key":"","value":"1"}]`, `line 1, column 9 (element 0): invalid key "": empty`, ErrInvalidKey},
		{"reserved key", `[{"key":"..","value":"1"}]`, `line 1, column 9 (element 0): invalid key "..": reserved`, ErrInvalidKey},
		{"long key", `[{"key":"` + strings.Repeat("é", 257) + `","value":"1"}]`, ``, ErrInvalidKey},
		{"key twice", `[{"key":"a","key":"a","value":""}]`, `line 1, column 13 (element 0): the element has "key" twice`, nil},
		{"no base64", `[{"key":"a","value":"%","base64":true}]`, `line 1, column 21 (element 0): the value is not base64: illegal base64 data at input byte 0`, nil},
		{"no padding", `[{"key":"a","value":"AA","base64":true}]`, ``, nil},
		{"base64 is a string", `[{"key":"a","value":"","base64":"true"}]`, `line 1, column 33 (element 0): base64 is neither true nor false`, nil},
		{"expiration is a string", `[{"key":"a","value":"","expiration":"60"}]`, `line 1, column 37 (element 0): expiration is no number`, nil},
		{"expiration is no whole number", `[{"key":"a","value":"","expiration":60.5}]`, `line 1, column 37 (element 0): expiration 60.5 is no whole number of seconds`, nil},
		{"expiration 0", `[{"key":"a","value":"","expiration":0}]`, `line 1, column 37 (element 0): expiration 0 is out of range: 1 to 253402300799 seconds`, nil},
		{"expiration in milliseconds", `[{"key":"a","value":"","expiration":1767225600000}]`, ``, nil},
		{"huge expiration", `[{"key":"a","value":"","expiration":1e999}]`, ``, nil},
		{"TTL 0", `[{"key":"a","value":"","expiration_ttl":0}]`, `line 1, column 41 (element 0): expiration_ttl 0 is out of range: 1 to 9223372036 seconds`, nil},
		{"negative TTL", `[{"key":"a","value":"","expiration_ttl":-1e999}]`, ``, nil},
		{"TTL of 300 years", `[{"key":"a","value":"","expiration_ttl":9223372037}]`, ``, nil},
		{"expiration that is none, beside a TTL", `[{"key":"a","value":"","expiration_ttl":9,"expiration":true}]`, ``, nil},
		{"number with a zero before it", `[{"key":"a","value":"","expiration":060}]`, `line 1, column 37 (element 0): "060" is no number of JSON`, nil},
		{"number that ends early", `[{"key":"a","value":"","x":1.}]`, ``, nil},
		{"number of 1025 digits", `[{"key":"a","value":"","x":1` + strings.Repeat("0", 1024) + `}]`, ``, nil},
		{"metadata too long", `[{"key":"a","value":"","metadata":"` + long + `"}]`, `line 1, column 35 (element 0): metadata of more than 1024 bytes of compact JSON`, ErrInvalidMetadata},
		{"metadata of many", `[{"key":"a","value":"","metadata":[` + strings.Repeat("1, ", 513) + `1]}]`, ``, ErrInvalidMetadata},
		{"metadata not UTF-8", "[{\"key\":\"a\",\"value\":\"\",\"metadata\":[\"\xff\"]}]", `line 1, column 36 (element 0): a string in metadata is not UTF-8`, ErrInvalidMetadata},
		{"metadata no JSON", `[{"key":"a","value":"","metadata":{a:1}}]`, `line 1, column 36 (element 0): unexpected 'a' instead of a field`, nil},
		{"key not UTF-8", "[{\"key\":\"a\xff\",\"value\":\"\"}]", `line 1, column 9 (element 0): key is not UTF-8`, nil},
		{"value not UTF-8", "[{\"key\":\"a\",\"value\":\"\xed\xa0\x80\"}]", `line 1, column 21 (element 0): the value is not UTF-8`, nil},
		{"half a pair", `[{"key":"\ud83d","value":""}]`, `line 1, column 10 (element 0): half a surrogate pair, which stands for no character`, nil},
		{"the other half", `[{"key":"a","value":"\ude00\ud83d"}]`, ``, nil},
		{"half a pair and a character", `[{"key":"a","value":"\ud83d\u0041"}]`, ``, nil},
		{"escape that is none", `[{"key":"\x41","value":""}]`, `line 1, column 10 (element 0): an escape that JSON does not have`, nil},
		{"escape of three digits", `[{"key":"\u004g","value":""}]`, ``, nil},
		{"line break in a string", "[{\"key\":\"a\nb\",\"value\":\"\"}]", `line 1, column 11 (element 0): key has byte 0x0a in it, which has to be escaped`, nil},
		{"a word that is none", `[{"key":"a","value":"","x":nul}]`, ``, nil},
		{"deep nesting", `[{"key":"a","value":"","x":` + strings.Repeat("[", 1_000_000), ``, nil},
		{"deep nesting of metadata", `[{"key":"a","value":"","metadata":` + strings.Repeat(`{"":`, 1_000_000), ``, ErrInvalidMetadata},
		{"a long name", `[{"` + long + `xx":1}]`, `line 1, column 3 (element 0): a field's name has more than 1024 bytes`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pairs, err := readPairs(strings.NewReader(tt.in), BulkOptions{})
			var f *BulkFileError
			if !errors.As(err, &f) || !errors.Is(err, ErrInvalidBulk) || f.Index != len(pairs) {
				t.Fatalf("%d pairs and %#v", len(pairs), err)
			}
			if tt.want != "" && err.Error() != tt.want {
				t.Errorf("got\n%v, not\n%v", err, tt.want)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v is not %v", err, tt.is)
			}
			_, again := readPairs(iotest.OneByteReader(strings.NewReader(tt.in)), BulkOptions{})
			if again == nil || again.Error() != err.Error() {
				t.Errorf("byte by byte: %v", again)
			}
		})
	}
}

// A value may have 25 MiB, as text and as base64, and not a byte more.
func TestReadBulkLargestValue(t *testing.T) {
	for _, size := range []int{MaxValueLen, MaxValueLen + 1} {
		for _, c := range []string{"x", "\xff"} {
			value := bytes.Repeat([]byte(c), size)
			var file bytes.Buffer
			if size > MaxValueLen {
				text, _ := json.Marshal(value) // base64
				if c == "x" {
					text = append(append([]byte{'"'}, value...), '"')
				}
				fmt.Fprintf(&file, `[{"key":"k","value":%s,"base64":%t}]`, text, c != "x")
			} else {
				w := NewBulkWriter(&file)
				if err := errors.Join(w.Write(BulkPair{Key: "k", Value: value}), w.Close()); err != nil {
					t.Fatal(err)
				}
			}
			pairs, err := readPairs(&file, BulkOptions{})
			switch {
			case size > MaxValueLen && !errors.Is(err, ErrInvalidBulk):
				t.Errorf("%d bytes: %v", size, err)
			case size == MaxValueLen && (err != nil || len(pairs) != 1 || !bytes.Equal(pairs[0].Value, value)):
				t.Errorf("%d bytes: %d pairs, %v", size, len(pairs), err)
			}
		}
	}
}

// endless is a file that never ends.
type endless struct{ begin, again string }

func (e *endless) Read(p []byte) (int, error) {
	if e.begin != "" {
		n := copy(p, e.begin)
		e.begin = e.begin[n:]
		return n, nil
	}
	return copy(p, e.again), nil
}

// However large a file claims to be, no more is read of it than an element may have.
func TestReadBulkEndless(t *testing.T) {
	for name, e := range map[string]*endless{
		"value":        {`[{"key":"k","value":"`, "xxxxxxxxxxxxxxxx"},
		"base64":       {`[{"base64":true,"key":"k","value":"`, "AAAAAAAAAAAAAAAA"},
		"key":          {`[{"key":"`, "x"},
		"name":         {`[{"`, "x"},
		"metadata":     {`[{"metadata":"`, "x"},
		"number":       {`[{"expiration":1`, "0"},
		"deep unknown": {`[{"x":`, `{"a":`},
	} {
		if _, err := readPairs(e, BulkOptions{}); !errors.Is(err, ErrInvalidBulk) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReadBulkFails(t *testing.T) {
	broken := errors.New("broken")
	for _, in := range []string{"", "[", `[{"key":"a","value":"1"}`, `[]`} {
		_, err := readPairs(io.MultiReader(strings.NewReader(in), iotest.ErrReader(broken)), BulkOptions{})
		if !errors.Is(err, broken) || errors.Is(err, ErrInvalidBulk) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestReadBulkUnknown(t *testing.T) {
	var got []string
	note := BulkOptions{Unknown: func(u BulkUnknown) {
		got = append(got, fmt.Sprintf("%s of %d at %d:%d", u.Field, u.Index, u.Line, u.Column))
	}}
	pairs, err := readPairs(strings.NewReader("[{\"key\":\"a\",\"value\":\"\",\"x\":1},\n{\"Key\":\"\",\"key\":\"b\",\"value\":\"\"}]"), note)
	if err != nil || len(pairs) != 2 {
		t.Fatal(pairs, err)
	}
	if want := "x of 0 at 1:24; Key of 1 at 2:2"; strings.Join(got, "; ") != want {
		t.Errorf("got %q, not %q", got, want)
	}
}

func TestReadBulkKeys(t *testing.T) {
	tests := []struct{ in, want, err string }{
		{`[]`, ``, ``},
		{`["a", "b\u0000"]`, `["a" "b\x00"]`, ``},
		{`[{"name":"a","expiration":1,"metadata":{"x":[]}},"b",{"name":"c"}]`, `["a" "b" "c"]`, ``},
		{`["a",""]`, `["a"]`, `line 1, column 6 (element 1): invalid key "": empty`},
		{`["a",1]`, `["a"]`, `line 1, column 6 (element 1): unexpected '1' instead of a string, or an object with name`},
		{`[{"key":"a"}]`, ``, `line 1, column 2 (element 0): the element has no name`},
		{`[{"name":"a","name":"a"}]`, ``, `line 1, column 14 (element 0): the element has "name" twice`},
		{`["a"`, `["a"]`, `line 1, column 5 (element 1): the file ends too early`},
	}
	for _, tt := range tests {
		var keys []string
		var failure string
		for key, err := range ReadBulkKeys(strings.NewReader(tt.in), BulkOptions{}) {
			if err != nil {
				failure = err.Error()
				continue
			}
			keys = append(keys, key)
		}
		got := ""
		if keys != nil {
			got = fmt.Sprintf("%q", keys)
		}
		if got != tt.want || failure != tt.err {
			t.Errorf("%s: got %s and %q", tt.in, got, failure)
		}
	}
}

func TestBulkWriter(t *testing.T) {
	var file strings.Builder
	w := NewBulkWriter(&file)
	for _, p := range []BulkPair{
		{Key: "a", Value: []byte("<é\u2028\n\x00\">")},
		{Key: "b/\"", Value: []byte{0xff}, Metadata: json.RawMessage(`{"x": "<"}`)},
		{Key: "c", TTL: 1500 * time.Millisecond, Expires: time.Unix(5, 0)},
		{Key: "d", Expires: time.Unix(1_767_225_600, 1), Metadata: json.RawMessage(`null`)},
	} {
		if err := w.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	want := `[
{"key":"a","value":"<é` + "\u2028" + `\n\u0000\">"},
{"key":"b/\"","value":"/w==","metadata":{"x":"<"},"base64":true},
{"key":"c","value":"","expiration_ttl":2},
{"key":"d","value":"","expiration":1767225601}
]
`
	if file.String() != want {
		t.Errorf("got\n%s, not\n%s", file.String(), want)
	}
	var none strings.Builder
	if err := NewBulkWriter(&none).Close(); err != nil || none.String() != "[\n]\n" {
		t.Errorf("no pair: %q, %v", none.String(), err)
	}
}

func TestBulkWriterRefuses(t *testing.T) {
	var file strings.Builder
	w := NewBulkWriter(&file)
	for _, tt := range []struct {
		p    BulkPair
		want error
	}{
		{BulkPair{}, ErrInvalidKey},
		{BulkPair{Key: "k", Value: make([]byte, MaxValueLen+1)}, ErrInvalidBulk},
		{BulkPair{Key: "k", Metadata: json.RawMessage(`{`)}, ErrInvalidMetadata},
		{BulkPair{Key: "k", Metadata: json.RawMessage(`"` + strings.Repeat("x", MaxMetadataLen) + `"`)}, ErrInvalidMetadata},
		{BulkPair{Key: "k", TTL: -1}, ErrInvalidBulk},
		{BulkPair{Key: "k", Expires: time.Unix(0, 0)}, ErrInvalidBulk},
		{BulkPair{Key: "k", Expires: time.Unix(maxBulkExpires+1, 0)}, ErrInvalidBulk},
	} {
		if err := w.Write(tt.p); !errors.Is(err, tt.want) {
			t.Errorf("%.40v: %v", tt.p, err)
		}
	}
	if err := w.Close(); err != nil || file.String() != "[\n]\n" {
		t.Errorf("%q, %v", file.String(), err)
	}
	full := NewBulkWriter(failingWriter{})
	_ = full.Write(BulkPair{Key: "k", Value: make([]byte, 1<<20)})
	if err := full.Close(); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("a writer that fails: %v", err)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func drawPair(t *rapid.T) BulkPair {
	p := BulkPair{
		Key:   rapid.String().Filter(func(s string) bool { return CheckKey(s) == nil }).Draw(t, "key"),
		Value: rapid.OneOf(rapid.SliceOf(rapid.Byte()), rapid.Map(rapid.String(), func(s string) []byte { return []byte(s) })).Draw(t, "value"),
	}
	switch rapid.IntRange(0, 2).Draw(t, "expiry") {
	case 1:
		p.TTL = time.Duration(rapid.Int64Range(1, maxBulkTTL).Draw(t, "ttl")) * time.Second
	case 2:
		p.Expires = time.Unix(rapid.Int64Range(1, maxBulkExpires).Draw(t, "expires"), 0)
	}
	switch rapid.IntRange(0, 2).Draw(t, "metadata") {
	case 1:
		p.Metadata, _ = EncodeMetadata(rapid.MapOf(rapid.String(), rapid.Int()).Draw(t, "metadata"))
	case 2: // escapes, halves of surrogate pairs among them, and no pairs, which are read as the character
		units := rapid.SliceOfN(rapid.SampledFrom([]string{`\ud83d`, `\udbff`, `x\udfff`, `\n`, `\\`, "u", "é"}), 0, 20).Draw(t, "units")
		p.Metadata = json.RawMessage(`"` + strings.Join(units, "") + `"`)
	}
	return p
}

// Metadata is any JSON, in which half a surrogate pair may be escaped, and an expiry may be in the last second of the
// year 9999. Both are read as they were written.
func TestBulkOfAnyRecord(t *testing.T) {
	for in, want := range map[string]string{
		`"\ud800"`: `"\ud800"`, `"\uDC00\uD800"`: `"\udc00\ud800"`, `{"a\ud800":["\udfffb"]}`: `{"a\ud800":["\udfffb"]}`,
		`"\ud800\ud83d\ude00"`: `"\ud800😀"`, `"\ud800\n"`: `"\ud800\n"`, `"\ud800u"`: `"\ud800u"`, `"\ud800\\udc00"`: `"\ud800\\udc00"`, `"\ud800\u0041"`: `"\ud800A"`,
	} {
		metadata, err := EncodeMetadata(json.RawMessage(in))
		if err != nil {
			t.Fatal(err)
		}
		var file bytes.Buffer
		w := NewBulkWriter(&file)
		last := time.Unix(maxBulkExpires, 999_000_000)
		if err := errors.Join(w.Write(BulkPair{Key: "k", Metadata: metadata, Expires: last}), w.Close()); err != nil {
			t.Fatal(err)
		}
		pairs, err := readPairs(iotest.OneByteReader(&file), BulkOptions{})
		if err != nil || len(pairs) != 1 || string(pairs[0].Metadata) != want || pairs[0].Expires.Unix() != maxBulkExpires {
			t.Errorf("%s: %v, %v", in, pairs, err)
		}
	}
}

// What BulkWriter writes, ReadBulk reads as it was, and encoding/json can read.
func TestBulkRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pairs := rapid.SliceOfN(rapid.Custom(drawPair), 0, 10).Draw(t, "pairs")
		var file bytes.Buffer
		w := NewBulkWriter(&file)
		for _, p := range pairs {
			if len(p.Metadata) > MaxMetadataLen {
				continue
			}
			if err := w.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if !json.Valid(file.Bytes()) {
			t.Fatalf("not JSON: %s", file.Bytes())
		}
		got, err := readPairs(&file, BulkOptions{})
		if err != nil || len(got) != len(pairs) {
			t.Fatalf("%d pairs of %d, %v", len(got), len(pairs), err)
		}
		for i, p := range pairs {
			g := got[i]
			if g.Key != p.Key || !bytes.Equal(g.Value, p.Value) || g.TTL != p.TTL || !g.Expires.Equal(p.Expires) || !bytes.Equal(g.Metadata, p.Metadata) {
				t.Fatalf("got\n%+v, not\n%+v", g, p)
			}
		}
	})
}

// Any input is pairs or an error. What is accepted encoding/json reads in the same way, and can be written again.
func FuzzReadBulk(f *testing.F) {
	for _, seed := range []string{
		`[]`, `[{"key":"a","value":"1","expiration":1e9,"expiration_ttl":60,"metadata":{"a":[1,null,"\u0041"]},"base64":false}]`,
		`[{"key":"a","value":"AAE=","base64":true,"x":{}},{"key":"\ud83d\ude00","value":""}]`, `["a",{"name":"b"}]`,
		"\ufeff[ ]", `[{"key":"\ud83d","value":"` + "\xff" + `"}]`, `[{"key":"a","value":"","metadata":-0.0e-5}] x`,
		`[{"key":"a","value":"","metadata":{"\udfff\ud83d\ude00":"\ud83d\ud83d\n"}}]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, err := range ReadBulkKeys(bytes.NewReader(in), BulkOptions{}) {
			if err != nil && !errors.Is(err, ErrInvalidBulk) {
				t.Fatal(err)
			}
		}
		unknown := false
		pairs, err := readPairs(bytes.NewReader(in), BulkOptions{Unknown: func(BulkUnknown) { unknown = true }})
		again, err2 := readPairs(iotest.HalfReader(bytes.NewReader(in)), BulkOptions{})
		if fmt.Sprint(pairs, err) != fmt.Sprint(again, err2) {
			t.Fatalf("read in parts:\n%v, %v, not\n%v, %v", again, err2, pairs, err)
		}
		if err != nil {
			if !errors.Is(err, ErrInvalidBulk) {
				t.Fatal(err)
			}
			return
		}
		var peer []map[string]json.RawMessage
		if err := json.Unmarshal(bytes.TrimPrefix(in, []byte("\ufeff")), &peer); err != nil && !unknown {
			t.Fatalf("encoding/json refuses it: %v", err)
		} else if err != nil {
			return
		}
		if len(peer) != len(pairs) {
			t.Fatalf("%d pairs, not %d", len(pairs), len(peer))
		}
		var file bytes.Buffer
		w := NewBulkWriter(&file)
		for i, p := range pairs {
			var key, value string
			_ = json.Unmarshal(peer[i]["key"], &key)
			_ = json.Unmarshal(peer[i]["value"], &value)
			if key != p.Key || string(peer[i]["base64"]) != "true" && value != string(p.Value) || !utf8.ValidString(value) {
				t.Fatalf("%q=%q, not %q=%q", p.Key, p.Value, key, value)
			}
			if err := w.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		_ = w.Close()
		if again, err = readPairs(&file, BulkOptions{}); err != nil || len(again) != len(pairs) {
			t.Fatalf("written again: %d pairs, %v", len(again), err)
		}
	})
}

func BenchmarkReadBulk(b *testing.B) {
	for _, size := range []int{100, 10_000} {
		b.Run(fmt.Sprint("value=", size), func(b *testing.B) {
			var file bytes.Buffer
			w := NewBulkWriter(&file)
			n := 10_000_000 / size / 10
			for i := range n {
				_ = w.Write(BulkPair{Key: fmt.Sprintf("user:%08d", i), Value: bytes.Repeat([]byte("x"), size)})
			}
			_ = w.Close()
			b.SetBytes(int64(file.Len()))
			b.ReportAllocs()
			for b.Loop() {
				got := 0
				for _, err := range ReadBulk(bytes.NewReader(file.Bytes()), BulkOptions{}) {
					if err != nil {
						b.Fatal(err)
					}
					got++
				}
				if got != n {
					b.Fatal(got)
				}
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "pairs/s")
		})
	}
}
