package codec

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// archived is an entry with its value.
type archived struct {
	ArchiveEntry
	value string
}

func someEntries() []archived {
	put := func(e ArchiveEntry, value string) archived {
		e.Size = int64(len(value))
		return archived{e, value}
	}
	return []archived{
		put(ArchiveEntry{Key: "a", Revision: 1, Modified: time.Unix(1, 999_999_999)}, "value"),
		put(ArchiveEntry{Key: "b:\x00é", Revision: 7, Expires: 1_767_225_600_001, Metadata: []byte(`{"x":[1]}`), Modified: time.Unix(0, 1)}, ""),
		put(ArchiveEntry{Key: "a", Revision: 9, Changed: true, Modified: time.Unix(0, -1)}, "\xff\x00"),
		{ArchiveEntry: ArchiveEntry{Op: OpDelete, Key: "b:\x00é", Revision: 10, Changed: true}},
	}
}

func archive(t testing.TB, entries ...archived) []byte {
	t.Helper()
	var file bytes.Buffer
	w, err := NewArchiveWriter(&file, ArchiveHeader{Namespace: "app", Created: time.UnixMilli(1_767_225_600_001)})
	for _, e := range entries {
		if err == nil {
			err = w.Write(e.ArchiveEntry, strings.NewReader(e.value))
		}
	}
	if err == nil {
		err = w.Close(ArchiveTrailer{Revision: 11, Keys: 1})
	}
	if err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

func unarchive(r io.Reader) (entries []archived, a *ArchiveReader, err error) {
	if a, err = NewArchiveReader(r); err != nil {
		return nil, nil, err
	}
	for {
		e, err := a.Next()
		if errors.Is(err, io.EOF) {
			return entries, a, nil
		}
		if err != nil {
			return entries, a, err
		}
		value, err := io.ReadAll(a)
		if err != nil {
			return entries, a, err
		}
		entries = append(entries, archived{e, string(value)})
	}
}

func TestArchive(t *testing.T) {
	entries := someEntries()
	for _, size := range []int{archiveChunk - 1, archiveChunk, archiveChunk + 1, 3 * archiveChunk, MaxValueLen} {
		e := ArchiveEntry{Key: fmt.Sprint(size), Modified: time.Unix(5, 5), Size: int64(size)}
		entries = append(entries, archived{e, strings.Repeat("\x80", size)})
	}
	got, a, err := unarchive(iotest.HalfReader(bytes.NewReader(archive(t, entries...))))
	if err != nil || len(got) != len(entries) {
		t.Fatalf("%d entries of %d, %v", len(got), len(entries), err)
	}
	for i := range got {
		if g, w := fmt.Sprint(got[i]), fmt.Sprint(entries[i]); g != w || !got[i].Modified.Equal(entries[i].Modified) {
			t.Errorf("entry %d: %.200s, not %.200s", i, g, w)
		}
	}
	if h := a.Header(); h.Namespace != "app" || h.Created.UnixMilli() != 1_767_225_600_001 {
		t.Errorf("header %+v", h)
	}
	want := ArchiveTrailer{Revision: 11, Keys: 1, Entries: uint64(len(entries)), Bytes: 7 + 6*archiveChunk + MaxValueLen}
	if a.Trailer() != want {
		t.Errorf("trailer %+v, not %+v", a.Trailer(), want)
	}
	if got, _, err := unarchive(bytes.NewReader(archive(t))); err != nil || got != nil {
		t.Errorf("an empty one: %v, %v", got, err)
	}
}

// An entry can be passed over without its value.
func TestArchiveSkipsValues(t *testing.T) {
	big := archived{ArchiveEntry{Key: "big", Size: 5 * archiveChunk}, strings.Repeat("x", 5*archiveChunk)}
	_, trailer, err := VerifyArchive(bytes.NewReader(archive(t, big, someEntries()[0])))
	if err != nil || trailer.Entries != 2 {
		t.Errorf("%+v, %v", trailer, err)
	}
}

// No bit of an archive can change, and no end of it be lost, without being noticed.
func TestArchiveDamage(t *testing.T) {
	big := archived{ArchiveEntry{Key: "big", Size: archiveChunk + 9}, strings.Repeat("x", archiveChunk+9)}
	damaged := func(what string, file []byte) {
		t.Helper()
		_, _, err := VerifyArchive(bytes.NewReader(file))
		var a *ArchiveError
		if !errors.As(err, &a) || !errors.Is(err, ErrDamagedArchive) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for name, file := range map[string][]byte{"small": archive(t, someEntries()...), "big": archive(t, big)} {
		step := 1 + len(file)/5000
		for i := 0; i < len(file); i += step {
			for bit := range 8 {
				file[i] ^= 1 << bit
				damaged(fmt.Sprintf("%s: bit %d of byte %d is flipped", name, bit, i), file)
				file[i] ^= 1 << bit
			}
			damaged(fmt.Sprintf("%s: cut off at %d", name, i), file[:i])
		}
		damaged(name+": a byte behind it", append(bytes.Clone(file), 0))
		damaged(name+": twice", append(bytes.Clone(file), file...))
		if _, _, err := VerifyArchive(bytes.NewReader(file)); err != nil {
			t.Error(name, err)
		}
	}
}

// Whole blocks that are left out, repeated or swapped are noticed with the first that is in a wrong place.
func TestArchiveBlocksInOrder(t *testing.T) {
	one := len(archive(t))
	first := len(archive(t, someEntries()[:1]...)) - one
	second := len(archive(t, someEntries()[:2]...)) - one - first
	file := archive(t, someEntries()...)
	begin := len(archiveMagic) + 5 + 10 + len("app") + 4
	a, b := file[begin:begin+first], file[begin+first:begin+first+second]
	rest := file[begin+first+second:]
	for name, parts := range map[string][][]byte{
		"left out": {b, rest}, "repeated": {a, a, b, rest}, "swapped": {b, a, rest},
	} {
		changed := bytes.Join(append([][]byte{file[:begin]}, parts...), nil)
		entries, _, err := unarchive(bytes.NewReader(changed))
		if !errors.Is(err, ErrDamagedArchive) || len(entries) > 1 {
			t.Errorf("%s: %d entries, %v", name, len(entries), err)
		}
	}
	if _, _, err := VerifyArchive(bytes.NewReader(bytes.Join([][]byte{file[:begin], a, b, rest}, nil))); err != nil {
		t.Error("as it was:", err)
	}
}

func TestArchiveWriterRefuses(t *testing.T) {
	for name, e := range map[string]archived{
		"key":       {},
		"operation": {ArchiveEntry: ArchiveEntry{Key: "k", Op: 2}},
		"size":      {ArchiveEntry: ArchiveEntry{Key: "k", Size: maxArchiveValue + 1}},
		"negative":  {ArchiveEntry: ArchiveEntry{Key: "k", Size: -1}},
		"expiry":    {ArchiveEntry: ArchiveEntry{Key: "k", Expires: -1}},
		"metadata":  {ArchiveEntry: ArchiveEntry{Key: "k", Metadata: []byte("{")}},
		"long":      {ArchiveEntry: ArchiveEntry{Key: "k", Metadata: []byte(`"` + strings.Repeat("x", 1024) + `"`)}},
		"short":     {ArchiveEntry: ArchiveEntry{Key: "k", Size: 5}, value: "1234"},
	} {
		w, err := NewArchiveWriter(io.Discard, ArchiveHeader{})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Write(e.ArchiveEntry, strings.NewReader(e.value)); err == nil {
			t.Errorf("%s: written", name)
		}
		if err := w.Close(ArchiveTrailer{}); err == nil {
			t.Errorf("%s: closed as if nothing were", name)
		}
	}
}

// Errors of the reader and the writer are not taken for damage.
func TestArchiveFails(t *testing.T) {
	broken, file := errors.New("broken"), archive(t, someEntries()...)
	for i := range len(file) + 1 {
		_, _, err := VerifyArchive(io.MultiReader(bytes.NewReader(file[:i]), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) || errors.Is(err, ErrDamagedArchive) {
			t.Fatalf("after %d bytes: %v", i, err)
		}
	}
	if _, err := NewArchiveWriter(failingWriter{}, ArchiveHeader{}); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("a writer that fails: %v", err)
	}
}

// sealed makes of in, which has for each block its kind, the length of its payload in two bytes and the payload, a file
// in which the sums agree, and with digest that, too.
func sealed(in []byte, digest bool) []byte {
	file := []byte(archiveMagic)
	var sum uint32
	for len(in) >= 3 {
		n := min(int(binary.LittleEndian.Uint16(in[1:])), len(in)-3)
		block := append(binary.LittleEndian.AppendUint32([]byte{in[0]}, uint32(n)), in[3:3+n]...)
		if digest && in[0] == blockTrailer && n == trailerSize {
			sum := sha256.Sum256(file)
			copy(block[5+n-len(sum):], sum[:])
		}
		sum = crc32.Update(sum, castagnoli, block)
		file = binary.LittleEndian.AppendUint32(append(file, block...), sum)
		in = in[3+n:]
	}
	return file
}

// unsealed is the reverse, of an archive.
func unsealed(file []byte) (out []byte) {
	for file = file[len(archiveMagic):]; len(file) > 0; {
		n := int(binary.LittleEndian.Uint32(file[1:]))
		out = append(append(out, file[0], file[1], file[2]), file[5:5+n]...)
		file = file[5+n+4:]
	}
	return out
}

// Any bytes are an archive or damaged, also if their sums agree. What is an archive is written again as it was.
func FuzzReadArchive(f *testing.F) {
	f.Add(archive(f, someEntries()...))
	f.Add(unsealed(archive(f, someEntries()...)))
	f.Add(unsealed(archive(f)))
	f.Add([]byte(archiveMagic + "H\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, in []byte) {
		rewrite(t, in)
		rewrite(t, sealed(in, true))
	})
}

func rewrite(t *testing.T, in []byte) {
	entries, a, err := unarchive(bytes.NewReader(in))
	if err != nil {
		if !errors.Is(err, ErrDamagedArchive) {
			t.Fatal(err)
		}
		return
	}
	var file bytes.Buffer
	w, err := NewArchiveWriter(&file, a.Header())
	for _, e := range entries {
		if err == nil {
			err = w.Write(e.ArchiveEntry, strings.NewReader(e.value))
		}
	}
	if err == nil {
		err = w.Close(a.Trailer())
	}
	if err != nil || !bytes.Equal(file.Bytes(), in) {
		t.Fatalf("written again it differs, %v", err)
	}
}

// Where the sums agree, as if somebody had made them so, the digest and the counts tell.
func TestArchiveDigest(t *testing.T) {
	file := archive(t, someEntries()...)
	blocks := unsealed(file)
	if !bytes.Equal(sealed(blocks, true), file) || !bytes.Equal(sealed(blocks, false), file) {
		t.Fatal("not the file that it was")
	}
	value, entries := bytes.Index(blocks, []byte("value")), len(blocks)-trailerSize+8
	for name, tt := range map[string]struct {
		at     int
		digest bool
	}{"value": {value, false}, "number of entries": {entries, true}, "bytes": {entries + 8, true}} {
		blocks[tt.at] ^= 1
		if _, _, err := VerifyArchive(bytes.NewReader(sealed(blocks, tt.digest))); !errors.Is(err, ErrDamagedArchive) {
			t.Errorf("%s: %v", name, err)
		}
		blocks[tt.at] ^= 1
	}
}

func BenchmarkArchive(b *testing.B) {
	value := strings.Repeat("x", 100)
	e := ArchiveEntry{Key: "user:00001234", Size: 100, Modified: time.Unix(5, 5)}
	b.Run("do=write", func(b *testing.B) {
		w, _ := NewArchiveWriter(io.Discard, ArchiveHeader{})
		b.ReportAllocs()
		for b.Loop() {
			_ = w.Write(e, strings.NewReader(value))
		}
	})
	b.Run("do=read", func(b *testing.B) {
		var file bytes.Buffer
		w, _ := NewArchiveWriter(&file, ArchiveHeader{})
		for range b.N {
			_ = w.Write(e, strings.NewReader(value))
		}
		_ = w.Close(ArchiveTrailer{})
		b.ReportAllocs()
		b.ResetTimer()
		if _, _, err := VerifyArchive(&file); err != nil {
			b.Fatal(err)
		}
	})
}
