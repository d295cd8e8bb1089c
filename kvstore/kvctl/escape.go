package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/term"
)

// acts reports whether a terminal could act on a character, or show nothing for it:
// controls, marks of direction and format, separators of lines, what is not assigned.
// A newline and a tab are text.
func acts(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsGraphic(r) }

// An escape appends a character that is not to be shown, or a byte that is not UTF-8.
type escape func(dst []byte, r rune, char []byte) []byte

// escapeText writes as Go does.
func escapeText(dst []byte, r rune, char []byte) []byte {
	if r == utf8.RuneError && len(char) == 1 {
		return fmt.Appendf(dst, `\x%02x`, char[0])
	}
	quoted := strconv.QuoteRune(r)
	return append(dst, quoted[1:len(quoted)-1]...)
}

// escapeJSON writes the same JSON: such characters are only in strings.
func escapeJSON(dst []byte, r rune, _ []byte) []byte {
	if high, low := utf16.EncodeRune(r); high != utf8.RuneError {
		return fmt.Appendf(dst, `\u%04x\u%04x`, high, low)
	}
	return fmt.Appendf(dst, `\u%04x`, r)
}

// escaped returns text with what is not to be shown escaped.
func escaped(text []byte, hide func(rune) bool, esc escape) (dst []byte) {
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		if r == utf8.RuneError && n == 1 || hide(r) {
			dst = esc(dst, r, text[:n])
		} else {
			dst = append(dst, text[:n]...)
		}
		text = text[n:]
	}
	return dst
}

// shown returns a text as it is, but on a terminal with what acts on it escaped.
func (s *stream) shown(text string) string {
	if !s.terminal {
		return text
	}
	return string(escaped([]byte(text), acts, escapeText))
}

// shownJSON is shown for JSON, which stays the same JSON.
func (s *stream) shownJSON(text []byte) []byte {
	if !s.terminal {
		return text
	}
	return escaped(text, acts, escapeJSON)
}

// writerTo returns a writer of JSON for a file that may be a terminal.
func writerTo(f *os.File) io.Writer {
	if !term.IsTerminal(int(f.Fd())) {
		return f
	}
	return &visible{Writer: f, escape: escapeJSON}
}

// visible is a writer for a terminal.
type visible struct {
	io.Writer
	escape escape
	begun  []byte // the first bytes of a character whose last have not come
}

func (v *visible) Write(p []byte) (int, error) {
	text := append(v.begun, p...)
	whole := len(text)
	for i := 1; i < utf8.UTFMax && i <= len(text); i++ {
		if tail := text[len(text)-i:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				whole -= i
			}
			break
		}
	}
	if _, err := v.Writer.Write(escaped(text[:whole], acts, v.escape)); err != nil {
		return 0, err
	}
	v.begun = append([]byte(nil), text[whole:]...)
	return len(p), nil
}

// end writes the character that was cut.
func (v *visible) end() error {
	_, err := v.Writer.Write(escaped(v.begun, acts, v.escape))
	v.begun = nil
	return err
}

// marshal is marshal for what is shown.
func (s *stream) marshal(v any) ([]byte, error) {
	data, err := marshal(v)
	if err != nil {
		return nil, err
	}
	return s.shownJSON(data), nil
}
