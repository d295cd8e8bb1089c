package codec

import (
	"fmt"
	"unicode/utf8"
)

// compact appends a value of any kind as JSON.stringify would write it, except that numbers stay as they are: without
// white space, and with nothing escaped that need not be. null is nil. The limit is in bytes.
func (s *jsonScanner) compact(dst []byte, limit, depth int) ([]byte, error) {
	at, err := s.start()
	if err != nil {
		return dst, err
	}
	w := compactor{s: s, dst: dst, limit: limit, at: at}
	err = w.value(depth)
	return w.dst, err
}

// skip reads a value of any kind and keeps nothing of it.
func (s *jsonScanner) skip(depth int) error {
	w := compactor{s: s, limit: -1}
	return w.value(depth)
}

// compactor walks through one value.
type compactor struct {
	s     *jsonScanner
	dst   []byte
	limit int // -1: nothing is kept
	at    place
}

func (w *compactor) emit(part ...byte) error {
	if w.limit < 0 {
		return nil
	}
	if len(w.dst)+len(part) > w.limit {
		err := w.at.wrong(fmt.Sprintf("metadata of more than %d bytes of compact JSON", w.limit))
		err.Cause = &MetadataError{Reason: fmt.Sprintf("more than %d bytes of JSON", w.limit)}
		return err
	}
	w.dst = append(w.dst, part...)
	return nil
}

func (w *compactor) value(depth int) error {
	c, err := w.s.next()
	if err != nil {
		return err
	}
	switch c {
	case '{', '[':
		if depth == maxBulkDepth {
			return w.s.place().wrong(fmt.Sprintf("nested deeper than %d", maxBulkDepth))
		}
		return w.group(c, c+2, depth)
	case '"':
		return w.text()
	case 't':
		return w.word("true")
	case 'f':
		return w.word("false")
	case 'n':
		return w.word("null")
	}
	var room [32]byte
	number, err := w.s.number(room[:0], "what is not a string, true, false or null")
	if err != nil {
		return err
	}
	return w.emit(number...)
}

func (w *compactor) word(word string) error {
	if err := w.s.word(word); err != nil {
		return err
	}
	return w.emit([]byte(word)...)
}

// text is a string. Its parts are cut anywhere, so that it is checked as a whole. The escape of half a surrogate pair
// stays one: JSON may have it, and so may the metadata of a record.
func (w *compactor) text() error {
	if err := w.emit('"'); err != nil {
		return err
	}
	var at place
	from := len(w.dst)
	w.s.half = func(r rune) error { return w.emit(fmt.Appendf(nil, `\u%04x`, r)...) }
	defer func() { w.s.half = nil }()
	err := w.s.string("a string", &at, func(part []byte) error {
		if w.limit < 0 {
			return nil
		}
		return w.emit(appendEscaped(nil, part[:min(len(part), w.limit+1)])...)
	})
	if err != nil {
		return err
	}
	if !utf8.Valid(w.dst[from:]) {
		err := at.wrong("a string in metadata is not UTF-8")
		err.Cause = &MetadataError{Reason: "not UTF-8"}
		return err
	}
	return w.emit('"')
}

// group is an array or an object: in JSON the closing character is the second after the opening one.
func (w *compactor) group(open, end byte, depth int) error {
	w.s.pos++
	if err := w.emit(open); err != nil {
		return err
	}
	for n := 0; ; n++ {
		c, err := w.s.next()
		if err != nil {
			return err
		}
		switch {
		case c == end && n == 0:
			w.s.pos++
			return w.emit(end)
		case c == end && open == '{':
			return w.s.unexpected(c, "a field")
		case open == '{':
			err = w.field()
		}
		if err == nil {
			err = w.value(depth + 1)
		}
		if err != nil {
			return err
		}
		if last, err := w.comma(end); err != nil || last {
			return err
		}
	}
}

func (w *compactor) field() error {
	if c, err := w.s.next(); err != nil || c != '"' {
		if err == nil {
			err = w.s.unexpected(c, "a field")
		}
		return err
	}
	if err := w.text(); err != nil {
		return err
	}
	if err := w.s.expect(':', "a colon"); err != nil {
		return err
	}
	return w.emit(':')
}

func (w *compactor) comma(end byte) (last bool, err error) {
	c, err := w.s.next()
	if err != nil {
		return false, err
	}
	if c != ',' && c != end {
		return false, w.s.unexpected(c, fmt.Sprintf("a comma or %q", end))
	}
	w.s.pos++
	return c == end, w.emit(c)
}
