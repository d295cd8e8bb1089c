package codec

import (
	"errors"
	"fmt"
	"io"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonScanner reads the tokens of strict JSON from a stream. It is of our own because a value must neither be held
// twice nor be mended silently, and because of positions in errors: encoding/json replaces what is not UTF-8.
type jsonScanner struct {
	r        io.Reader
	buf      []byte
	pos, end int   // what is read and not used yet
	base     int64 // where buf begins in the file

	line      int   // from 0
	lineStart int64 // where it begins in the file

	half func(rune) error // takes the escape of half a surrogate pair, which stands for no character; nil: it is an error
}

func newJSONScanner(r io.Reader) *jsonScanner {
	return &jsonScanner{r: r, buf: make([]byte, 64<<10)}
}

// place is a position in the file, both from 1, the column in bytes.
type place struct{ line, column int }

func (p place) wrong(reason string) *BulkFileError {
	return &BulkFileError{Line: p.line, Column: p.column, Reason: reason}
}

func (s *jsonScanner) place() place {
	return place{s.line + 1, int(s.base + int64(s.pos) - s.lineStart + 1)}
}

// errTruncated: the file ends where it must not.
var errTruncated = errors.New("the file ends too early")

func isEnd(err error) bool {
	var f *BulkFileError
	return errors.As(err, &f) && f.Cause == io.ErrUnexpectedEOF //nolint:errorlint // set by fill
}

// fill reads more, when all that there is has been used.
func (s *jsonScanner) fill() error {
	s.base += int64(s.end)
	s.pos, s.end = 0, 0
	for range 100 {
		n, err := s.r.Read(s.buf)
		s.end = n
		switch {
		case n > 0:
			return nil // an error will come again
		case err == io.EOF:
			f := s.place().wrong(errTruncated.Error())
			f.Cause = io.ErrUnexpectedEOF
			return f
		case err != nil:
			return err
		}
	}
	return io.ErrNoProgress
}

// peek returns the next byte.
func (s *jsonScanner) peek() (byte, error) {
	if s.pos == s.end {
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	return s.buf[s.pos], nil
}

// next skips white space and returns the byte behind it, which stays the next one.
func (s *jsonScanner) next() (byte, error) {
	for {
		c, err := s.peek()
		if err != nil {
			return 0, err
		}
		switch c {
		case ' ', '\t', '\r':
		case '\n':
			s.line++
			s.lineStart = s.base + int64(s.pos) + 1
		default:
			return c, nil
		}
		s.pos++
	}
}

// start returns where the next token begins.
func (s *jsonScanner) start() (place, error) {
	_, err := s.next()
	return s.place(), err
}

// skipMark skips a byte order mark at the start of the file.
func (s *jsonScanner) skipMark() {
	n, err := io.ReadFull(s.r, s.buf[:3])
	s.end = n
	if err == nil && string(s.buf[:3]) == "\ufeff" {
		s.pos = n
		s.lineStart = int64(n)
	}
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		s.r = failedReader{err} // once what came before is used
	}
}

type failedReader struct{ err error }

func (f failedReader) Read([]byte) (int, error) { return 0, f.err }

func (s *jsonScanner) unexpected(c byte, want string) error {
	return s.place().wrong(fmt.Sprintf("unexpected %s instead of %s", printable(c), want))
}

func printable(c byte) string {
	if c < ' ' || c > '~' {
		return fmt.Sprintf("byte 0x%02x", c)
	}
	return fmt.Sprintf("%q", c)
}

// expect reads a character.
func (s *jsonScanner) expect(want byte, what string) error {
	c, err := s.next()
	if err != nil {
		return err
	}
	if c != want {
		return s.unexpected(c, what)
	}
	s.pos++
	return nil
}

// word reads true, false or null, of which the first letter has been seen.
func (s *jsonScanner) word(word string) error {
	at := s.place()
	for i := range len(word) {
		c, err := s.peek()
		if err != nil {
			return err
		}
		if c != word[i] {
			return at.wrong("neither true, false nor null, nor any other value of JSON")
		}
		s.pos++
	}
	return nil
}

// null reads null if that is what comes.
func (s *jsonScanner) null() (bool, error) {
	c, err := s.next()
	if err != nil || c != 'n' {
		return false, err
	}
	return true, s.word("null")
}

func (s *jsonScanner) boolean(what string) (bool, error) {
	c, err := s.next()
	switch {
	case err != nil:
		return false, err
	case c == 't':
		return true, s.word("true")
	case c == 'f':
		return false, s.word("false")
	}
	return false, s.place().wrong(what + " is neither true nor false")
}

const maxNumber = 1024 // bytes

// number appends a number as it is written.
func (s *jsonScanner) number(dst []byte, what string) ([]byte, error) {
	c, err := s.next()
	if err != nil {
		return dst, err
	}
	at, before := s.place(), len(dst)
	if c != '-' && !isDigit(c) {
		return dst, at.wrong(what + " is no number")
	}
	for err == nil && (isDigit(c) || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E') {
		if dst = append(dst, c); len(dst)-before > maxNumber {
			return dst, at.wrong(fmt.Sprintf("a number of more than %d bytes", maxNumber))
		}
		s.pos++
		c, err = s.peek()
	}
	if err != nil {
		return dst, err
	}
	if !isNumber(dst[before:]) {
		return dst, at.wrong(fmt.Sprintf("%.40q is no number of JSON", dst[before:]))
	}
	return dst, nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isNumber tells whether b, which consists of characters of numbers, is one in JSON.
func isNumber(b []byte) bool {
	digits := func() bool {
		n := 0
		for n < len(b) && isDigit(b[n]) {
			n++
		}
		b = b[n:]
		return n > 0
	}
	skip := func(set string) bool {
		for i := range len(set) {
			if len(b) > 0 && b[0] == set[i] {
				b = b[1:]
				return true
			}
		}
		return false
	}
	skip("-")
	if zero := skip("0"); !zero && !digits() {
		return false
	}
	if skip(".") && !digits() {
		return false
	}
	if skip("eE") {
		skip("+-")
		if !digits() {
			return false
		}
	}
	return len(b) == 0
}

// plain are the bytes of a string that stand for themselves.
var plain = func() (set [256]bool) {
	for c := range set {
		set[c] = c >= ' ' && c != '"' && c != '\\'
	}
	return set
}()

// text appends what a string says, at most limit bytes.
func (s *jsonScanner) text(dst []byte, limit int, what string) ([]byte, error) {
	at, before := place{}, len(dst)
	err := s.string(what, &at, func(part []byte) error {
		if len(dst)-before+len(part) > limit {
			return at.wrong(fmt.Sprintf("%s has more than %d bytes", what, limit))
		}
		dst = append(dst, part...)
		return nil
	})
	if err == nil && !utf8.Valid(dst[before:]) {
		err = at.wrong(what + " is not UTF-8")
	}
	return dst, err
}

// string hands out the parts of what a string says.
func (s *jsonScanner) string(what string, at *place, part func([]byte) error) error {
	c, err := s.next()
	if err != nil {
		return err
	}
	if *at = s.place(); c != '"' {
		return at.wrong(what + " is not a string")
	}
	s.pos++
	for {
		if s.pos == s.end {
			if err := s.fill(); err != nil {
				return err
			}
		}
		i := s.pos
		for i < s.end && plain[s.buf[i]] {
			i++
		}
		if i > s.pos {
			if err := part(s.buf[s.pos:i]); err != nil {
				return err
			}
			s.pos = i
			continue
		}
		switch c := s.buf[i]; c {
		case '"':
			s.pos++
			return nil
		case '\\':
			if err := s.escape(part); err != nil {
				return err
			}
		default:
			return s.place().wrong(fmt.Sprintf("%s has %s in it, which has to be escaped", what, printable(c)))
		}
	}
}

// escape reads an escape in a string.
func (s *jsonScanner) escape(part func([]byte) error) error {
	at := s.place()
	s.pos++
	return s.escaped(at, part)
}

// escaped reads what follows the backslash at a place.
func (s *jsonScanner) escaped(at place, part func([]byte) error) error {
	c, err := s.peek()
	if err != nil {
		return err
	}
	s.pos++
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		return s.escapedRune(at, part)
	default:
		return at.wrong("an escape that JSON does not have")
	}
	return part([]byte{c})
}

// escapedRune reads what follows \u, a pair of surrogates whole.
func (s *jsonScanner) escapedRune(at place, part func([]byte) error) error {
	r, err := s.hex(at)
	for err == nil && utf16.IsSurrogate(r) {
		c, err := s.peek()
		if err != nil {
			return err
		}
		if c != '\\' {
			return s.lone(at, r)
		}
		second := s.place()
		s.pos++
		if c, err = s.peek(); err != nil {
			return err
		}
		if c != 'u' {
			if err := s.lone(at, r); err != nil {
				return err
			}
			return s.escaped(second, part)
		}
		s.pos++
		low, err := s.hex(second)
		if err != nil {
			return err
		}
		if whole := utf16.DecodeRune(r, low); whole != utf8.RuneError {
			return part(utf8.AppendRune(nil, whole))
		}
		if err := s.lone(at, r); err != nil {
			return err
		}
		at, r = second, low
	}
	if err != nil {
		return err
	}
	return part(utf8.AppendRune(nil, r))
}

// lone is for a surrogate that is not half of a pair.
func (s *jsonScanner) lone(at place, r rune) error {
	if s.half == nil {
		return at.wrong("half a surrogate pair, which stands for no character")
	}
	return s.half(r)
}

func (s *jsonScanner) hex(at place) (r rune, err error) {
	for range 4 {
		c, err := s.peek()
		if err != nil {
			return 0, err
		}
		s.pos++
		if 'a' <= c && c <= 'f' {
			c -= 'a' - 'A'
		}
		n, ok := nibble(c)
		if !ok {
			return 0, at.wrong(`\u has not four hexadecimal digits`)
		}
		r = r<<4 | rune(n)
	}
	return r, nil
}
