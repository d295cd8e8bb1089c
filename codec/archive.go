package codec

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"time"
	"unicode/utf8"
)

// The format is in the package comment.
const (
	archiveMagic   = "nearkv\r\n"
	archiveVersion = 1

	blockHeader  = 'H'
	blockPut     = 'P'
	blockChunk   = 'C'
	blockDelete  = 'D'
	blockTrailer = 'T'

	maxBlock        = 128 << 10
	archiveChunk    = 64 << 10
	putHead         = 1 + 8 + 8 + 8 + 2 + 2 + 4
	trailerSize     = 4*8 + sha256.Size
	maxArchiveValue = 64 << 20 // what a NATS server takes in one message
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ArchiveHeader says what an archive is of.
type ArchiveHeader struct {
	Namespace string    // at most 1024 bytes
	Created   time.Time // to the millisecond
}

// ArchiveEntry is a value or a removal in an archive, without the value itself.
type ArchiveEntry struct {
	Op       Op
	Changed  bool // it, or its removal, came after the archive was begun; always true of an OpDelete
	Key      string
	Revision uint64

	// Of an OpPut only:
	Modified time.Time
	Expires  int64  // unix milliseconds; 0: never
	Metadata []byte // compact JSON; nil: none
	Size     int64  // of the value in bytes
}

// ArchiveTrailer is the end of an archive.
type ArchiveTrailer struct {
	Revision uint64 // of the namespace: the archive is what it was then
	Keys     uint64 // that it has, as its writer has counted them

	// Counted and checked by the writer and the reader of the archive:
	Entries uint64 // values and removals
	Bytes   uint64 // of all values
}

// ArchiveWriter writes an archive. It holds no more than a block of it.
type ArchiveWriter struct {
	w       io.Writer
	sum     uint32
	digest  hash.Hash
	block   []byte
	trailer ArchiveTrailer
	err     error // the first; it stays
}

// NewArchiveWriter begins an archive on w, which should be buffered if the values are small.
func NewArchiveWriter(w io.Writer, h ArchiveHeader) (*ArchiveWriter, error) {
	if len(h.Namespace) > 1024 {
		return nil, errors.New("archive: the namespace has more than 1024 bytes")
	}
	a := &ArchiveWriter{w: w, digest: sha256.New(), block: make([]byte, 0, maxBlock+16)}
	a.write([]byte(archiveMagic))
	a.begin(blockHeader)
	a.block = binary.LittleEndian.AppendUint16(a.block, archiveVersion)
	a.block = binary.LittleEndian.AppendUint64(a.block, uint64(h.Created.UnixMilli()))
	a.block = append(a.block, h.Namespace...)
	a.end()
	return a, a.err
}

// Write writes an entry. Of an OpPut, exactly Size bytes are read of value. An entry that an archive cannot have, or a
// value that has another length, is an error, and leaves the archive useless, as does one of w.
func (a *ArchiveWriter) Write(e ArchiveEntry, value io.Reader) error {
	if a.err == nil {
		a.err = checkArchiveEntry(&e)
	}
	if a.err != nil {
		return a.err
	}
	a.trailer.Entries++
	if e.Op == OpDelete {
		a.begin(blockDelete)
		a.block = binary.LittleEndian.AppendUint64(a.block, e.Revision)
		a.block = append(a.block, e.Key...)
		a.end()
		return a.err
	}
	a.trailer.Bytes += uint64(e.Size)
	a.begin(blockPut)
	a.block = appendPut(a.block, &e)
	left := a.chunk(e.Size, value)
	for left > 0 && a.err == nil {
		a.begin(blockChunk)
		left = a.chunk(left, value)
	}
	return a.err
}

// chunk ends a block with the next part of a value, of which so much is left. It returns what is left then.
func (a *ArchiveWriter) chunk(left int64, value io.Reader) int64 {
	from, n := len(a.block), int(min(left, archiveChunk))
	a.block = a.block[:from+n]
	if n > 0 {
		if _, err := io.ReadFull(value, a.block[from:]); err != nil && a.err == nil {
			a.err = fmt.Errorf("archive: read a value: %w", err)
		}
	}
	a.end()
	return left - int64(n)
}

func appendPut(b []byte, e *ArchiveEntry) []byte {
	changed := byte(0)
	if e.Changed {
		changed = 1
	}
	b = append(b, changed)
	b = binary.LittleEndian.AppendUint64(b, e.Revision)
	b = binary.LittleEndian.AppendUint64(b, uint64(e.Modified.UnixNano()))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.Expires))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(e.Key)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(e.Metadata)))
	b = binary.LittleEndian.AppendUint32(b, uint32(e.Size))
	return append(append(b, e.Key...), e.Metadata...)
}

// checkArchiveEntry is what both sides hold to.
func checkArchiveEntry(e *ArchiveEntry) error {
	if err := CheckKey(e.Key); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	switch {
	case e.Op > OpDelete:
		return fmt.Errorf("archive: %d is no operation", e.Op)
	case e.Size < 0 || e.Size > maxArchiveValue:
		return fmt.Errorf("archive: a value of %d bytes, at most %d are possible", e.Size, maxArchiveValue)
	case e.Expires < 0:
		return errors.New("archive: an expiry before 1970")
	case len(e.Metadata) > MaxMetadataLen:
		return fmt.Errorf("archive: metadata of %d bytes, at most %d are possible", len(e.Metadata), MaxMetadataLen)
	case len(e.Metadata) > 0 && (!json.Valid(e.Metadata) || !utf8.Valid(e.Metadata)):
		return errors.New("archive: metadata that is no JSON")
	}
	return nil
}

// Close writes the end of the archive: the revision and the keys of t. It does not close the writer.
func (a *ArchiveWriter) Close(t ArchiveTrailer) error {
	sum := a.digest.Sum(nil)
	a.begin(blockTrailer)
	for _, n := range []uint64{t.Revision, a.trailer.Entries, a.trailer.Bytes, t.Keys} {
		a.block = binary.LittleEndian.AppendUint64(a.block, n)
	}
	a.block = append(a.block, sum...)
	a.end()
	err := a.err
	if err == nil {
		a.err = errors.New("archive: the writer is closed")
	}
	return err
}

func (a *ArchiveWriter) begin(kind byte) { a.block = append(a.block[:0], kind, 0, 0, 0, 0) }

func (a *ArchiveWriter) end() {
	binary.LittleEndian.PutUint32(a.block[1:], uint32(len(a.block)-5))
	a.sum = crc32.Update(a.sum, castagnoli, a.block)
	a.write(binary.LittleEndian.AppendUint32(a.block, a.sum))
}

func (a *ArchiveWriter) write(b []byte) {
	if a.err != nil {
		return
	}
	a.digest.Write(b)
	_, a.err = a.w.Write(b)
}

// ArchiveReader reads an archive from a stream and checks it. It holds no more than a block of it, whatever the
// archive says.
type ArchiveReader struct {
	r      io.Reader
	offset int64
	sum    uint32
	digest hash.Hash
	block  []byte // room for a header, a payload and a sum

	header  ArchiveHeader
	trailer ArchiveTrailer
	part    []byte // of the value, that was not handed out yet
	left    int64  // of the value, in blocks to come
	err     error  // the first; it stays. io.EOF: the archive is whole
}

// NewArchiveReader reads the beginning of an archive. Errors are those of Next. It reads small parts: r should be
// buffered.
func NewArchiveReader(r io.Reader) (*ArchiveReader, error) {
	a := &ArchiveReader{r: r, digest: sha256.New(), block: make([]byte, 5+maxBlock+4)}
	magic := a.block[:len(archiveMagic)]
	if err := a.read(magic); err != nil {
		return nil, err
	}
	if string(magic) != archiveMagic {
		return nil, &ArchiveError{Reason: "not an archive of nearkv"}
	}
	a.digest.Write(magic)
	kind, payload, err := a.next()
	if err != nil {
		return nil, err
	}
	if kind != blockHeader || len(payload) < 10 || len(payload) > 10+1024 {
		return nil, a.damaged("the header is missing")
	}
	if v := binary.LittleEndian.Uint16(payload); v != archiveVersion {
		return nil, a.damaged(fmt.Sprintf("version %d of the format, known is %d", v, archiveVersion))
	}
	a.header.Created = time.UnixMilli(int64(binary.LittleEndian.Uint64(payload[2:])))
	a.header.Namespace = string(payload[10:])
	return a, nil
}

// Header returns the beginning of the archive.
func (a *ArchiveReader) Header() ArchiveHeader { return a.header }

// Trailer returns the end of the archive, once Next has returned io.EOF.
func (a *ArchiveReader) Trailer() ArchiveTrailer { return a.trailer }

// Next returns the next entry, which has been checked, but for what is left of its value. io.EOF means that the archive
// has ended and that all of it is as it was written. Any other error is an *[ArchiveError], which is an
// [ErrDamagedArchive], or one of r. What is left of the value before is skipped.
func (a *ArchiveReader) Next() (ArchiveEntry, error) {
	if _, err := io.Copy(io.Discard, a); err != nil {
		return ArchiveEntry{}, err
	}
	if a.err != nil {
		return ArchiveEntry{}, a.err
	}
	kind, payload, err := a.next()
	if err != nil {
		return ArchiveEntry{}, err
	}
	a.trailer.Entries++
	switch kind {
	case blockPut:
		return a.put(payload)
	case blockDelete:
		if len(payload) < 8 {
			return ArchiveEntry{}, a.damaged("a removal is too short")
		}
		e := ArchiveEntry{Op: OpDelete, Changed: true, Revision: binary.LittleEndian.Uint64(payload), Key: string(payload[8:])}
		return a.checked(e)
	case blockTrailer:
		a.trailer.Entries--
		return ArchiveEntry{}, a.end(payload)
	}
	return ArchiveEntry{}, a.damaged(fmt.Sprintf("a block of the kind %q", kind))
}

func (a *ArchiveReader) checked(e ArchiveEntry) (ArchiveEntry, error) {
	if err := checkArchiveEntry(&e); err != nil {
		return ArchiveEntry{}, a.damaged(err.Error())
	}
	return e, nil
}

func (a *ArchiveReader) put(b []byte) (ArchiveEntry, error) {
	if len(b) < putHead || b[0] > 1 {
		return ArchiveEntry{}, a.damaged("a value is too short")
	}
	e := ArchiveEntry{
		Changed: b[0] == 1, Revision: binary.LittleEndian.Uint64(b[1:]),
		Modified: time.Unix(0, int64(binary.LittleEndian.Uint64(b[9:]))), Expires: int64(binary.LittleEndian.Uint64(b[17:])),
		Size: int64(binary.LittleEndian.Uint32(b[29:])),
	}
	key, metadata := int(binary.LittleEndian.Uint16(b[25:])), int(binary.LittleEndian.Uint16(b[27:]))
	b = b[putHead:]
	if int64(len(b)) != int64(key+metadata)+min(e.Size, archiveChunk) {
		return ArchiveEntry{}, a.damaged("the lengths in a value do not agree")
	}
	e.Key = string(b[:key])
	if metadata > 0 {
		e.Metadata = bytes.Clone(b[key : key+metadata])
	}
	a.part = b[key+metadata:]
	a.left = e.Size - int64(len(a.part))
	a.trailer.Bytes += uint64(e.Size)
	return a.checked(e)
}

// Read reads the value of the entry that Next has returned, to io.EOF. What it returns has been checked.
func (a *ArchiveReader) Read(p []byte) (int, error) {
	if len(a.part) == 0 && a.err != nil {
		return 0, a.err
	}
	if len(a.part) == 0 && a.left > 0 {
		kind, payload, err := a.next()
		if err != nil {
			return 0, err
		}
		if kind != blockChunk || int64(len(payload)) != min(a.left, archiveChunk) {
			return 0, a.damaged("a part of a value is missing")
		}
		a.part = payload
		a.left -= int64(len(payload))
	}
	if len(a.part) == 0 {
		return 0, io.EOF
	}
	n := copy(p, a.part)
	a.part = a.part[n:]
	return n, nil
}

// end checks the last block, and that nothing comes behind it.
func (a *ArchiveReader) end(b []byte) error {
	if len(b) != trailerSize {
		return a.damaged("the end has a wrong length")
	}
	a.trailer.Revision, a.trailer.Keys = binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[24:])
	entries, size := binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:])
	if entries != a.trailer.Entries || size != a.trailer.Bytes {
		return a.damaged(fmt.Sprintf("%d entries with %d bytes, not %d with %d", a.trailer.Entries, a.trailer.Bytes, entries, size))
	}
	if !bytes.Equal(a.digest.Sum(nil), b[32:]) {
		return a.damaged("the digest of the archive does not agree")
	}
	if n, err := io.ReadFull(a.r, a.block[:1]); n > 0 {
		return a.damaged("there are bytes behind the end")
	} else if !errors.Is(err, io.EOF) {
		a.err = err
		return err
	}
	a.err = io.EOF
	return io.EOF
}

// next reads a block and checks its sum.
func (a *ArchiveReader) next() (kind byte, payload []byte, err error) {
	if err := a.read(a.block[:5]); err != nil {
		return 0, nil, err
	}
	n := binary.LittleEndian.Uint32(a.block[1:])
	if n > maxBlock {
		return 0, nil, a.damaged(fmt.Sprintf("a block of %d bytes, at most %d are possible", n, maxBlock))
	}
	end := 5 + int(n)
	if err := a.read(a.block[5 : end+4]); err != nil {
		return 0, nil, err
	}
	a.sum = crc32.Update(a.sum, castagnoli, a.block[:end])
	if a.sum != binary.LittleEndian.Uint32(a.block[end:]) {
		return 0, nil, a.damaged("the sum of a block does not agree")
	}
	if kind = a.block[0]; kind != blockTrailer {
		a.digest.Write(a.block[:end+4])
	}
	return kind, a.block[5:end], nil
}

func (a *ArchiveReader) read(b []byte) error {
	n, err := io.ReadFull(a.r, b)
	a.offset += int64(n)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err = a.damaged("it is cut off")
	default:
		a.err = err
	}
	return err
}

func (a *ArchiveReader) damaged(reason string) error {
	a.part, a.left = nil, 0
	a.err = &ArchiveError{Offset: a.offset, Reason: reason}
	return a.err
}

// VerifyArchive reads a whole archive and says what it is, without an error if all of it is as it was written. Errors
// are those of ArchiveReader.Next, less io.EOF.
func VerifyArchive(r io.Reader) (ArchiveHeader, ArchiveTrailer, error) {
	a, err := NewArchiveReader(r)
	if err != nil {
		return ArchiveHeader{}, ArchiveTrailer{}, err
	}
	for err == nil {
		_, err = a.Next()
	}
	if err != io.EOF { //nolint:errorlint // Next returns it as it is; one that is wrapped is of r
		return ArchiveHeader{}, ArchiveTrailer{}, err
	}
	return a.header, a.trailer, nil
}
