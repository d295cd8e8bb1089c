package blocks

import (
	"errors"
	"io"
)

// Salvage calls each with every whole record of a block, and lost with every part of it, from an offset to another,
// in which there is none. The slices of a record are valid during the call only.
func (s *Stream) Salvage(file []byte, number uint32, each func(Record), lost func(from, to int, reason string)) {
	buf, err := Unpack(file)
	if err != nil {
		lost(0, len(file), err.Error())
		return
	}
	for r := NewReader(buf, s.config.Name, number); ; {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err == nil {
			if reason := s.belongs(&rec); reason != "" {
				lost(rec.Offset, rec.Offset+rec.Len, reason)
			} else {
				each(rec)
			}
			continue
		}
		from := r.off
		r.resume()
		lost(from, r.off, asFault(err).Reason)
	}
}

func (s *Stream) belongs(r *Record) string {
	if r.Kind != Message || s.subjects == nil {
		return ""
	}
	return s.subjects.check(r.Subject)
}

// resume moves on to the next whole record, or to the end.
func (r *Reader) resume() {
	rest := r.buf[r.off:]
	if off := r.find(rest); off > 0 {
		r.off += off
		return
	}
	r.off = len(r.buf)
}
