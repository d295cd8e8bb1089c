package codec

import (
	"strings"
	"testing"
	"time"
)

var benchKeys = []struct{ name, key string }{
	{"plain", "users/00001234.profile"},
	{"colon", "user:00001234:profile"},
	{"worst", strings.Repeat(":", MaxKeyLen)},
}

func BenchmarkSubject(b *testing.B) {
	for _, bb := range benchKeys {
		b.Run("key="+bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Subject(bb.key)
			}
		})
	}
}

func BenchmarkKey(b *testing.B) {
	for _, bb := range benchKeys {
		subject := Subject(bb.key)
		b.Run("key="+bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Key(subject); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

var benchRecords = []struct {
	name   string
	record Record
}{
	{"none", Record{}},
	{"expiry", Record{Expires: 1_700_000_000_000, TTL: time.Minute}},
	{"metadata", Record{Metadata: []byte(`{"type":"text/html","size":1234}`)}},
}

func BenchmarkDecodeRecord(b *testing.B) {
	payload := make([]byte, 100)
	for _, bb := range benchRecords {
		header := bb.record.Header()
		b.Run("header="+bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := DecodeRecord(header, payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkHeader(b *testing.B) {
	for _, bb := range benchRecords {
		b.Run("header="+bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bb.record.Header()
			}
		})
	}
}

func BenchmarkMsgPack(b *testing.B) {
	c, buf := MsgPack[person](), make([]byte, 0, 1024)
	data, err := c.Append(nil, ann())
	if err != nil {
		b.Fatal(err)
	}
	b.Run("op=append", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Append(buf, ann()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("op=decode", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if _, err := c.Decode(data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("op=scan", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if _, err := scanMsgPack(data, layoutOf[any](&msgPackDialect)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
