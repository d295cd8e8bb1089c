package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/nearkv/nearkv/kvstore"
)

// stream is stdout or stderr. What is written to it is held until Flush.
type stream struct {
	*bufio.Writer
	file     *os.File
	terminal bool
	colors   bool
}

func newStream(f *os.File) *stream {
	terminal := term.IsTerminal(int(f.Fd()))
	return &stream{
		Writer: bufio.NewWriterSize(f, 64<<10), file: f, terminal: terminal,
		colors: terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
	}
}

type color string

const (
	bold   color = "1"
	red    color = "31"
	green  color = "32"
	yellow color = "33"
)

func (s *stream) colored(c color, text string) string {
	if !s.colors {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// name returns a key as it is to be shown: as it is, but on a terminal quoted if
// it could control the terminal.
func (s *stream) name(key string) string {
	if s.terminal && (!utf8.ValidString(key) || strings.ContainsFunc(key, func(r rune) bool { return !unicode.IsPrint(r) })) {
		return strconv.Quote(key)
	}
	return key
}

// cell returns a key or another text as a table and a line have it: quoted if it could
// tear the row, or be taken for a quoted one.
func (s *stream) cell(text string) string {
	if strings.HasPrefix(text, `"`) || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return strconv.Quote(text)
	}
	return s.name(text)
}

// metadata returns metadata as a table has it: on one line, with control characters
// escaped.
func (s *stream) metadata(raw json.RawMessage) string {
	var line bytes.Buffer
	if json.Compact(&line, raw) != nil {
		return s.cell(string(raw))
	}
	return string(s.shownJSON(escaped(line.Bytes(), unicode.IsControl, escapeJSON)))
}

// json writes a value as one line.
func (s *stream) json(v any) error {
	data, err := s.marshal(v)
	if err != nil {
		return err
	}
	_, err = s.Write(append(data, '\n'))
	return err
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// note tells the user at a terminal what a program does not want to read.
func (c *cli) note(format string, args ...any) {
	if c.err.terminal {
		c.say(format, args...)
	}
}

// say writes a line to stderr at once.
func (c *cli) say(format string, args ...any) {
	fmt.Fprintln(c.err, c.err.shown(fmt.Sprintf(format, args...)))
	_ = c.err.Flush() // there is nobody left to tell
}

// sayLabeled is say with a coloured label before the line.
func (c *cli) sayLabeled(hue color, label, format string, args ...any) {
	fmt.Fprint(c.err, c.err.colored(hue, label)+" ")
	c.say(format, args...)
}

// table aligns rows of cells. The last column is not padded.
func (c *cli) table(head []string, rows [][]string) error {
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		if row != nil {
			fmt.Fprintln(w, strings.Join(row, "\t"))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for i, line := range strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n") {
		line = strings.TrimRight(line, " ")
		if i == 0 && head != nil { // colours would count as width
			line = c.out.colored(bold, line)
		}
		fmt.Fprintln(c.out, line)
	}
	return nil
}

// jsonList writes an array of JSON, an element a line.
type jsonList struct {
	out  *stream
	some bool
}

func (l *jsonList) add(v any) error {
	data, err := l.out.marshal(v)
	if err != nil {
		return err
	}
	separator := ",\n"
	if !l.some {
		separator, l.some = "[\n", true
	}
	fmt.Fprint(l.out, separator)
	_, err = l.out.Write(data)
	return err
}

func (l *jsonList) close() error {
	if !l.some {
		fmt.Fprint(l.out, "[")
	}
	_, err := l.out.WriteString("\n]\n")
	return err
}

// jsonValue is a value as JSON has it, in the fields of wrangler's bulk files.
type jsonValue struct {
	Value      string          `json:"value"`
	Base64     bool            `json:"base64,omitempty"`
	Expiration int64           `json:"expiration,omitempty"`
	Metadata   json.RawMessage `json:"metadata,omitempty"`
}

// unix returns whole seconds, rounded up, 0 for never.
func unix(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case t.Nanosecond() != 0:
		return t.Unix() + 1
	}
	return t.Unix()
}

// seconds is how long something took, to the millisecond.
func seconds(began time.Time) float64 { return time.Since(began).Round(time.Millisecond).Seconds() }

// size is a number of bytes for people.
func size(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	unit, f := 0, float64(n)/(1<<10)
	for ; f >= 1<<10; unit++ {
		f /= 1 << 10
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTPE"[unit])
}

// excerpt is the beginning of a value, for people.
func excerpt(e kvstore.Entry) string {
	const most = 60
	value := e.Text()
	switch {
	case !e.Loaded() || !utf8.ValidString(value):
		return fmt.Sprintf("(%d bytes)", e.Len())
	case len(value) <= most:
		return strconv.Quote(value)
	}
	return fmt.Sprintf("%q... (%d bytes)", strings.ToValidUTF8(value[:most], ""), len(value))
}
