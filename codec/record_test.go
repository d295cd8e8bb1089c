package codec

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

type headers = map[string][]string

func TestRecordHeader(t *testing.T) {
	tests := []struct {
		name string
		in   Record
		want headers
	}{
		{"plain value", Record{Value: []byte("v")}, nil},
		{"delete", Record{Op: OpDelete}, headers{"KV-Operation": {"DEL"}}},
		{
			"everything",
			Record{Metadata: []byte(`{"a":1}`), Expires: 1_700_000_000_123, Hides: 9, TTL: 5 * time.Second, Write: "id"},
			headers{"KV-Metadata": {`{"a":1}`}, "KV-Expires": {"1700000000123"}, "KV-Hides": {"9"}, "Nats-TTL": {"5s"}, "KV-Write": {"id"}},
		},
		{
			"tombstone",
			Record{Op: OpDelete, TTL: time.Hour, Write: "id"},
			headers{"KV-Operation": {"DEL"}, "Nats-TTL": {"3600s"}, "KV-Write": {"id"}},
		},
		{"TTL is rounded up", Record{TTL: time.Second + 1}, headers{"Nats-TTL": {"2s"}}},
		{"TTL below a second", Record{TTL: 1}, headers{"Nats-TTL": {"1s"}}},
		{"TTL of a hundred years", Record{TTL: maxTTL}, headers{"Nats-TTL": {"3153600000s"}}},
		{"TTL that the server cannot add", Record{TTL: math.MaxInt64}, nil},
		{"negative numbers", Record{TTL: -time.Second, Expires: -1, Hides: -1}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.in.Header()
			if !maps.EqualFunc(got, tt.want, slices.Equal) || (got == nil) != (tt.want == nil) {
				t.Errorf("Header() = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestDecodeRecord(t *testing.T) {
	put := func(r Record) Record { r.Value = []byte("payload"); return r }
	tests := []struct {
		name string
		in   headers
		want Record
	}{
		{"nil", nil, put(Record{})},
		{"empty", headers{}, put(Record{})},
		{"others' headers", headers{"Nats-Msg-Id": {"1"}, "X": {"\x00\xff"}, "": {""}}, put(Record{})},
		{"PUT", headers{"KV-Operation": {"PUT"}}, put(Record{})},
		{"empty values", headers{
			"KV-Operation": {""}, "KV-Metadata": {""}, "KV-Expires": {""}, "Nats-TTL": {""}, "KV-Write": {""},
			"Nats-Marker-Reason": {""},
		}, put(Record{})},
		{"no values", headers{"KV-Operation": {}, "KV-Metadata": nil, "KV-Expires": {}, "Nats-TTL": {}}, put(Record{})},
		{"DEL", headers{"KV-Operation": {"DEL"}}, Record{Op: OpDelete}},
		{"PURGE", headers{"KV-Operation": {"PURGE"}, "Nats-Rollup": {"sub"}}, Record{Op: OpDelete}},
		{
			"marker of nats-server",
			headers{"Nats-Marker-Reason": {"MaxAge"}, "Nats-TTL": {"5m0s"}, "Nats-Rollup": {"sub"}},
			Record{Op: OpDelete, TTL: 5 * time.Minute},
		},
		{"marker wins", headers{"Nats-Marker-Reason": {"Remove"}, "KV-Operation": {"PUT"}}, Record{Op: OpDelete}},
		{
			"names have a case",
			headers{"kv-operation": {"DEL"}, "KV-EXPIRES": {"x"}, "nats-ttl": {"x"}, "kv-object": {"x"}},
			put(Record{}),
		},
		{"the last value counts", headers{"KV-Operation": {"junk", "DEL"}, "KV-Write": {"a", "b"}}, Record{Op: OpDelete, Write: "b"}},
		{"the first TTL counts", headers{"Nats-TTL": {"5s", "junk"}}, put(Record{TTL: 5 * time.Second})},
		{"metadata is compacted", headers{"KV-Metadata": {`{ "a" : "< >" }`}}, put(Record{Metadata: []byte(`{"a":"< >"}`)})},
		{"null metadata", headers{"KV-Metadata": {" null "}}, put(Record{})},
		{"false metadata", headers{"KV-Metadata": {"false"}}, put(Record{Metadata: []byte("false")})},
		{
			"metadata that is short enough when compact",
			headers{"KV-Metadata": {strings.Repeat(" ", 5000) + "1"}},
			put(Record{Metadata: []byte("1")}),
		},
		{
			"longest metadata",
			headers{"KV-Metadata": {`"` + strings.Repeat("x", 1022) + `"`}},
			put(Record{Metadata: []byte(`"` + strings.Repeat("x", 1022) + `"`)}),
		},
		{"last millisecond", headers{"KV-Expires": {"9223372036854775807"}}, put(Record{Expires: math.MaxInt64})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			payload := []byte("payload")
			got, err := DecodeRecord(tt.in, payload)
			if err != nil {
				t.Fatal(err)
			}
			checkSame(t, got, tt.want)
			if got.Op == OpPut && &got.Value[0] != &payload[0] {
				t.Error("the value is a copy")
			}
		})
	}
}

// emptyDigest is the SHA-256 of nothing.
const emptyDigest = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU="

func TestObjectRoundTrip(t *testing.T) {
	for _, size := range []int64{0, 1, MaxValueLen} {
		want := Record{Object: &Object{Name: "nearkv-0_Zz", Size: size, Digest: sha256.Sum256(nil)}, Metadata: []byte("1")}
		header := want.Header()
		if got := header["KV-Object"]; len(got) != 1 || !strings.HasSuffix(got[0], emptyDigest) {
			t.Fatalf("KV-Object is %q", got)
		}
		got, err := DecodeRecord(header, []byte("a payload that is not looked at"))
		if err != nil {
			t.Fatal(err)
		}
		if got.Object == nil || *got.Object != *want.Object || got.Value != nil || got.Size() != size {
			t.Errorf("decoded %+v, with object %+v", got, got.Object)
		}
	}
	got, err := DecodeRecord(headers{"KV-Operation": {"DEL"}, "KV-Object": {"a 1 " + emptyDigest}}, nil)
	if err != nil || got.Object != nil {
		t.Errorf("a deletion has the object %v, %v", got.Object, err)
	}
}

func TestBatchRoundTrip(t *testing.T) {
	for _, want := range []Batch{{}, {1, 1}, {1, 2}, {1000, 1000}} {
		got, err := DecodeRecord(Record{Batch: want, Write: "id"}.Header(), nil)
		if err != nil || got.Batch != want {
			t.Errorf("%v is decoded as %v, %v", want, got.Batch, err)
		}
	}
}

func TestDecodeDamagedRecord(t *testing.T) {
	tests := []struct{ name, header, value string }{
		{"unknown operation", "KV-Operation", "DELETE"},
		{"lower-case operation", "KV-Operation", "del"},
		{"operation with space", "KV-Operation", "DEL "},
		{"batch of none", "KV-Batch", "1/0"},
		{"no batch", "KV-Batch", "1"},
		{"before the batch", "KV-Batch", "0/2"},
		{"behind the batch", "KV-Batch", "3/2"},
		{"batch too large", "KV-Batch", "1/1001"},
		{"batch with a sign", "KV-Batch", "+1/2"},
		{"large value", "KV-Object", "name size digest"},
		{"large value without a name", "KV-Object", " 1 " + emptyDigest},
		{"name of two tokens", "KV-Object", "a.b 1 " + emptyDigest},
		{"name too long", "KV-Object", strings.Repeat("a", 65) + " 1 " + emptyDigest},
		{"no digest", "KV-Object", "a 1"},
		{"digest too short", "KV-Object", "a 1 " + emptyDigest[4:]},
		{"digest with a space", "KV-Object", "a 1 " + emptyDigest + " "},
		{"size below zero", "KV-Object", "a -1 " + emptyDigest},
		{"size above 25 MiB", "KV-Object", "a 26214401 " + emptyDigest},
		{"no JSON", "KV-Metadata", "{"},
		{"two values", "KV-Metadata", "1 2"},
		{"space", "KV-Metadata", " "},
		{"single quotes", "KV-Metadata", "{'a':1}"},
		{"NaN", "KV-Metadata", "NaN"},
		{"control character", "KV-Metadata", "\"\x01\""},
		{"metadata not UTF-8", "KV-Metadata", "\"\xff\""},
		{"metadata too long", "KV-Metadata", `"` + strings.Repeat("x", 1023) + `"`},
		{"metadata too deep", "KV-Metadata", strings.Repeat("[", 60_000)},
		{"zero expiry", "KV-Expires", "0"},
		{"negative expiry", "KV-Expires", "-1"},
		{"overflowing expiry", "KV-Expires", "9223372036854775808"},
		{"fraction", "KV-Expires", "1.5"},
		{"exponent", "KV-Expires", "1e3"},
		{"hex", "KV-Expires", "0x10"},
		{"date", "KV-Expires", "2026-01-01T00:00:00Z"},
		{"expiry with space", "KV-Expires", " 5"},
		{"hides until nothing", "KV-Hides", "0"},
		{"hides until a word", "KV-Hides", "never"},
		{"TTL of zero", "Nats-TTL", "0"},
		{"TTL below a second", "Nats-TTL", "999ms"},
		{"negative TTL", "Nats-TTL", "-5s"},
		{"negative seconds", "Nats-TTL", "-5"},
		{"TTL without a number", "Nats-TTL", "s"},
		{"TTL in days", "Nats-TTL", "1d"},
		{"TTL with space", "Nats-TTL", "5 s"},
		{"too long a duration", "Nats-TTL", "9223372037s"},
		{"seconds that wrap below zero", "Nats-TTL", "9223372036854775808"},
		{"nearly never", "Nats-TTL", "nevers"},
		{"line break", "Nats-TTL", "5s\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := DecodeRecord(headers{tt.header: {tt.value}}, []byte("payload"))
			if !errors.Is(err, ErrDamagedRecord) {
				t.Fatalf("DecodeRecord = %+v, %v, want ErrDamagedRecord", got, err)
			}
			checkSame(t, got, Record{})
			if msg := err.Error(); !strings.Contains(msg, tt.header) || len(msg) > 400 || strings.ContainsAny(msg, "\r\n") {
				t.Errorf("message %q", msg)
			}
		})
	}
}

// TestDecodeTTL has what parseMessageTTL of nats-server 2.15.2 (server/stream.go) accepts.
func TestDecodeTTL(t *testing.T) {
	tests := []struct {
		in    string
		want  time.Duration
		never bool
	}{
		{"1s", time.Second, false},
		{"1000ms", time.Second, false},
		{"1.9s", time.Second, false},
		{"1m0.999s", time.Minute, false},
		{"+5s", 5 * time.Second, false},
		{"1h0m0s", time.Hour, false},
		{"9223372036s", 9223372036 * time.Second, false},
		{"1", time.Second, false},
		{"90", 90 * time.Second, false},
		{"007", 7 * time.Second, false},
		{"00", 0, false},
		{"9223372036", 9223372036 * time.Second, false},
		{"9223372037", 9223372036 * time.Second, false},
		{"9223372036854775807", 9223372036 * time.Second, false},
		{"18446744073709551621", 5 * time.Second, false}, // 2^64+5 wraps in the server as well
		{"never", 0, true},
		{"NEVER", 0, true},
		{"Never", 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			got, err := DecodeRecord(headers{"Nats-TTL": {tt.in}}, nil)
			if err != nil || got.TTL != tt.want || got.never != tt.never {
				t.Fatalf("TTL = %v, never = %v, %v, want %v, %v", got.TTL, got.never, err, tt.want, tt.never)
			}
		})
	}
}

// anyRecord draws records that a writer of ours may make.
var anyRecord = rapid.Custom(func(t *rapid.T) Record {
	r := Record{
		Op:      rapid.SampledFrom([]Op{OpPut, OpDelete}).Draw(t, "op"),
		Expires: rapid.Int64Range(0, math.MaxInt64).Draw(t, "expires"),
		Hides:   rapid.Int64Range(0, math.MaxInt64).Draw(t, "hides"),
		TTL:     time.Duration(rapid.Int64Range(0, int64(maxTTL/time.Second)).Draw(t, "ttl")) * time.Second,
		Write:   rapid.StringMatching(`[0-9A-Za-z]{0,22}`).Draw(t, "write"),
		never:   false,
	}
	if r.TTL == 0 {
		r.never = rapid.Bool().Draw(t, "never")
	}
	if r.Op == OpPut {
		r.Value = rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "value")
	}
	metadata := rapid.OneOf(
		rapid.Just[any](nil),
		rapid.StringN(0, 100, 500).AsAny(),
		rapid.Int64().AsAny(),
		rapid.MapOfN(rapid.StringN(0, 10, 40), rapid.Bool(), 0, 8).AsAny(),
	).Draw(t, "metadata")
	text, err := EncodeMetadata(metadata)
	if err != nil {
		t.Fatal(err)
	}
	r.Metadata = text
	return r
})

func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyRecord.Draw(t, "record")
		header := want.Header()
		got, err := DecodeRecord(header, want.Value)
		if err != nil {
			t.Fatal(err)
		}
		checkSame(t, got, want)
		for name, values := range header {
			if len(values) != 1 || values[0] == "" || strings.ContainsAny(values[0], "\r\n") {
				t.Fatalf("header %s: %q", name, values)
			}
		}
	})
}

// checker is what testing.TB and rapid.T have in common.
type checker interface {
	Helper()
	Fatalf(format string, args ...any)
}

func checkSame(t checker, got, want Record) {
	t.Helper()
	same := got.Op == want.Op && got.Expires == want.Expires && got.Hides == want.Hides && got.TTL == want.TTL && got.Write == want.Write &&
		got.never == want.never && bytes.Equal(got.Value, want.Value) && bytes.Equal(got.Metadata, want.Metadata) &&
		(got.Metadata == nil) == (want.Metadata == nil)
	if !same {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
}

func TestRecordUntil(t *testing.T) {
	const none = time.Duration(0)
	stored := time.UnixMilli(1_000_000).Add(999_999 * time.Nanosecond)
	tests := []struct {
		name          string
		in            Record
		stored        time.Time
		maxAge        time.Duration
		visible, kept int64
	}{
		{"for ever", Record{}, stored, none, 0, 0},
		{"expires", Record{Expires: 5}, stored, none, 5, 0},
		{"TTL", Record{TTL: 3 * time.Second}, stored, none, 1_003_000, 1_003_000},
		{"max age", Record{}, stored, time.Minute, 1_060_000, 1_060_000},
		{"visible for shorter than kept", Record{Expires: 1_001_000, TTL: time.Hour}, stored, none, 1_001_000, 4_600_000},
		{"kept for shorter than visible", Record{Expires: 9_000_000, TTL: time.Second}, stored, none, 1_001_000, 1_001_000},
		{"max age before TTL", Record{TTL: time.Hour}, stored, time.Minute, 1_060_000, 1_060_000},
		{"TTL before max age", Record{TTL: time.Minute}, stored, time.Hour, 1_060_000, 1_060_000},
		{"never is exempt from max age", Record{never: true}, stored, time.Minute, 0, 0},
		{"never expires all the same", Record{never: true, Expires: 7}, stored, time.Minute, 7, 0},
		{"fractions are cut off", Record{}, stored, 1500 * time.Microsecond, 1_000_001, 1_000_001},
		{"negative is none", Record{TTL: -time.Hour}, stored, -time.Hour, 0, 0},
		{"longest TTL", Record{TTL: math.MaxInt64}, stored, none, 1_000_000 + math.MaxInt64/1_000_000, 1_000_000 + math.MaxInt64/1_000_000},
		{"sum too large", Record{TTL: 2 * time.Second}, time.UnixMilli(math.MaxInt64 - 1999), none, 0, 0},
		{"largest sum", Record{TTL: 2 * time.Second}, time.UnixMilli(math.MaxInt64 - 2000), none, math.MaxInt64, math.MaxInt64},
		{"sum too large, expires", Record{TTL: 2 * time.Second, Expires: 9}, time.UnixMilli(math.MaxInt64 - 1999), none, 9, 0},
		{"a sum of 0 is past", Record{TTL: time.Second}, time.UnixMilli(-1000), none, 1, 1},
		{"before 1970", Record{TTL: time.Second}, time.Time{}, none, 1, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.in.VisibleUntil(tt.stored, tt.maxAge); got != tt.visible {
				t.Errorf("VisibleUntil = %d, want %d", got, tt.visible)
			}
			if got := tt.in.KeptUntil(tt.stored, tt.maxAge); got != tt.kept {
				t.Errorf("KeptUntil = %d, want %d", got, tt.kept)
			}
		})
	}
}

func TestRecordHidesUntil(t *testing.T) {
	stored := time.UnixMilli(1_000_000)
	tests := []struct {
		name   string
		in     Record
		maxAge time.Duration
		want   int64
	}{
		{"without a TTL for ever", Record{Op: OpDelete, Hides: 5_000_000}, 0, 0},
		{"tombstone", Record{Op: OpDelete, Hides: 5_000_000, TTL: time.Hour}, 0, 4_600_000},
		{"tombstone with a margin", Record{Op: OpDelete, Hides: 4_000_000, TTL: time.Hour}, 0, 4_000_000},
		{"hides for longer than visible", Record{Expires: 2_000_000, Hides: 3_000_000, TTL: time.Hour}, 0, 3_000_000},
		{"hides for as long as visible", Record{Expires: 2_000_000, TTL: time.Hour}, 0, 2_000_000},
		{"only a TTL", Record{TTL: time.Hour}, 0, 4_600_000},
		{"max age", Record{Expires: 2_000_000, Hides: 3_000_000}, time.Minute, 1_060_000},
		{"never", Record{Hides: 3_000_000, never: true}, time.Minute, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.in.HidesUntil(stored, tt.maxAge); got != tt.want {
				t.Errorf("HidesUntil = %d, want %d", got, tt.want)
			}
		})
	}
}

func TestNeverOfAHeader(t *testing.T) {
	r, err := DecodeRecord(headers{"Nats-TTL": {"never"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.KeptUntil(time.Now(), time.Second); got != 0 {
		t.Errorf("KeptUntil = %d", got)
	}
	if got := r.Header()["Nats-TTL"]; !slices.Equal(got, []string{"never"}) {
		t.Errorf("Header = %v", got)
	}
}

func TestOpString(t *testing.T) {
	for op, want := range map[Op]string{OpPut: "put", OpDelete: "delete", 7: "Op(7)"} {
		if got := op.String(); got != want {
			t.Errorf("%d: %s, want %s", op, got, want)
		}
	}
}

func TestPlainRecordsDoNotAllocate(t *testing.T) {
	payload := []byte("payload")
	var r Record
	if got := testing.AllocsPerRun(100, func() { r, _ = DecodeRecord(nil, payload) }); got != 0 {
		t.Errorf("DecodeRecord without a header: %v allocations", got)
	}
	if got := testing.AllocsPerRun(100, func() { _ = r.Header() }); got != 0 {
		t.Errorf("Header of a plain value: %v allocations", got)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add("DEL", "", "", "5s", "id", "", "", []byte(nil))
	f.Add("", `{"a":[1,"\u2028 <"]}`, "1700000000000", "90", "", "", "", []byte("v"))
	f.Add("PURGE", "null", "-1", "never", "", "MaxAge", "", []byte("v"))
	f.Add("", "", "", "", "", "", "nearkv-1 1 "+emptyDigest, []byte(nil))
	f.Add("", "\"\xff\"", "", "18446744073709551621", "", "", "large", []byte("v"))
	f.Fuzz(func(t *testing.T, op, metadata, expires, ttl, write, marker, object string, payload []byte) {
		header := headers{
			"KV-Operation": {op}, "KV-Metadata": {metadata}, "KV-Expires": {expires}, "KV-Hides": {expires}, "Nats-TTL": {ttl, op},
			"KV-Write": {object, write}, "Nats-Marker-Reason": {marker},
		}
		if object != "" {
			header["KV-Object"] = []string{object}
		}
		r, err := DecodeRecord(header, payload)
		if err != nil {
			if !errors.Is(err, ErrDamagedRecord) {
				t.Fatal(err)
			}
			return
		}
		checkDecoded(t, r, payload)
	})
}

// checkDecoded fails unless r keeps the promises of Record's fields and survives being encoded.
func checkDecoded(t *testing.T, r Record, payload []byte) {
	t.Helper()
	if r.Metadata != nil {
		if !json.Valid(r.Metadata) || len(r.Metadata) > MaxMetadataLen || string(r.Metadata) == "null" {
			t.Fatalf("metadata %q", r.Metadata)
		}
		if bytes.ContainsAny(r.Metadata, "\r\n") {
			t.Fatalf("line break in metadata %q", r.Metadata)
		}
	}
	if r.TTL < 0 || r.TTL%time.Second != 0 || r.Expires < 0 {
		t.Fatalf("TTL %v, expires %d", r.TTL, r.Expires)
	}
	if r.Object != nil && (r.Op == OpDelete || r.Value != nil || r.Object.Size < 0 || r.Object.Size > MaxValueLen) {
		t.Fatalf("%v with object %+v and value %q", r.Op, r.Object, r.Value)
	}
	if r.Op == OpDelete && r.Value != nil || r.Op == OpPut && r.Object == nil && !bytes.Equal(r.Value, payload) {
		t.Fatalf("%v with value %q", r.Op, r.Value)
	}
	if r.TTL > maxTTL {
		r.TTL = 0 // as Header writes it
	}
	again, err := DecodeRecord(r.Header(), payload)
	if err != nil {
		t.Fatal(err)
	}
	checkSame(t, again, r)
	if until := r.VisibleUntil(time.UnixMilli(math.MaxInt64-1), math.MaxInt64); until < 0 {
		t.Fatalf("visible until %d", until)
	}
}

// A header that says nothing changes nothing, and costs nothing.
func TestPlainHeader(t *testing.T) {
	payload := []byte("value")
	r, err := DecodeRecord(PlainHeader(), payload)
	if err != nil || r.Op != OpPut || string(r.Value) != "value" || len(r.Header()) != 0 {
		t.Errorf("decoded is %+v, %v", r, err)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = DecodeRecord(PlainHeader(), payload) }); n != 0 {
		t.Errorf("decoding it allocates %v times", n)
	}
	both := map[string][]string{"KV-Format": {"1"}, "KV-Operation": {"DEL"}}
	if r, err := DecodeRecord(both, payload); err != nil || r.Op != OpDelete {
		t.Errorf("beside another header it is %+v, %v", r, err)
	}
}
