package codec

import (
	"bufio"
	"encoding/base64"
	"io"
)

// appendEscaped appends text as a string of JSON has it, with nothing escaped that need not be.
func appendEscaped(dst, text []byte) []byte {
	for len(text) > 0 {
		n := 0
		for n < len(text) && plain[text[n]] {
			n++
		}
		dst, text = append(dst, text[:n]...), text[n:]
		if len(text) > 0 {
			dst, text = appendEscape(dst, text[0]), text[1:]
		}
	}
	return dst
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\b':
		return append(dst, `\b`...)
	case '\f':
		return append(dst, `\f`...)
	case '\n':
		return append(dst, `\n`...)
	case '\r':
		return append(dst, `\r`...)
	case '\t':
		return append(dst, `\t`...)
	}
	const hex = "0123456789abcdef"
	return append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
}

// jsonWriter writes parts of JSON, large ones piece by piece. Its first error stays.
type jsonWriter struct {
	w     *bufio.Writer
	err   error
	piece []byte
}

func newJSONWriter(w io.Writer) *jsonWriter { return &jsonWriter{w: bufio.NewWriterSize(w, 64<<10)} }

func (j *jsonWriter) raw(s string) {
	if j.err == nil {
		_, j.err = j.w.WriteString(s)
	}
}

func (j *jsonWriter) text(text []byte) {
	j.raw(`"`)
	for len(text) > 0 && j.err == nil {
		n := min(len(text), 16<<10)
		j.piece = appendEscaped(j.piece[:0], text[:n])
		_, j.err = j.w.Write(j.piece)
		text = text[n:]
	}
	j.raw(`"`)
}

func (j *jsonWriter) base64(value []byte) {
	j.raw(`"`)
	if j.err == nil {
		e := base64.NewEncoder(base64.StdEncoding, j.w)
		if _, j.err = e.Write(value); j.err == nil {
			j.err = e.Close()
		}
	}
	j.raw(`"`)
}

func (j *jsonWriter) flush() error {
	if j.err == nil {
		j.err = j.w.Flush()
	}
	return j.err
}
