package blocks

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"github.com/klauspost/compress/s2"
)

// compressed begins a block of a stream with compression.
var compressed = []byte{'c', 'm', 'p', 1}

// Unpack returns the records of a block file: the file itself, or what is compressed
// in it. A block of a stream with compression begins with "cmp", 1 and the length;
// the last checksum follows after what is compressed.
func Unpack(file []byte) ([]byte, error) {
	if len(file) < len(compressed)+1 || !bytes.HasPrefix(file, compressed) {
		return file, nil
	}
	size, n := binary.Uvarint(file[len(compressed):])
	body := file[len(compressed)+max(n, 0):]
	if n <= 0 || size > MaxFileLen || size < sumLen || len(body) < sumLen {
		return nil, &Fault{Reason: "the compressed block has no valid length"}
	}
	packed, sum := body[:len(body)-sumLen], body[len(body)-sumLen:]
	buf := make([]byte, 0, size)
	w := bytes.NewBuffer(buf)
	_, err := io.CopyN(w, s2.NewReader(bytes.NewReader(packed)), int64(size)-sumLen+1)
	if !errors.Is(err, io.EOF) || w.Len() != int(size)-sumLen {
		return nil, &Fault{Reason: "the compressed block cannot be read"}
	}
	return append(w.Bytes(), sum...), nil
}
