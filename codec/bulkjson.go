package codec

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// BulkPair is an element of a file of bulk JSON: a key with what is to be written there.
type BulkPair struct {
	Key      string
	Value    []byte
	TTL      time.Duration   // whole seconds; 0: none
	Expires  time.Time       // whole seconds; zero: never. Not both
	Metadata json.RawMessage // compact JSON, at most MaxMetadataLen bytes; nil: none

	// Where ReadBulk found it: its number, from 0, and its first byte, both counted from 1. BulkWriter ignores them.
	Index        int
	Line, Column int
}

// BulkOptions changes how a file of bulk JSON is read. The zero value works.
type BulkOptions struct {
	// Unknown is called, if it is not nil, for each field of an element that bulk JSON does not have.
	Unknown func(BulkUnknown)
}

// BulkUnknown is a field that bulk JSON does not have.
type BulkUnknown struct {
	Field        string // its name
	Index        int    // of the element, from 0
	Line, Column int    // of the name, in bytes, from 1
}

// ReadBulk yields the pairs of bulk JSON as Workers KV and its tool wrangler have it: an array of objects
//
//	{"key": "k", "value": "v", "expiration": 1767225600, "expiration_ttl": 60, "metadata": {"any": "JSON"}, "base64": false}
//
// of which all but key and value may be missing or null. expiration is in unix seconds, expiration_ttl in seconds from
// when it is written; it wins over expiration, which is then only looked at to be a number. With base64 the value is
// that in standard base64, with padding; line breaks in it are ignored.
//
// The file is never held: memory is that for the largest element, and at most about 100 MiB. The Value and the Metadata
// of a pair are valid until the loop goes on. A loop can be had once, for r is read by it, to its end.
//
// The last thing to be yielded may be an error: a *[BulkFileError], which is an [ErrInvalidBulk], or one of r. Each pair
// has been checked: the key ([CheckKey]), the value (at most [MaxValueLen] bytes), the metadata (at most
// [MaxMetadataLen]), and that the expiry is a whole number of seconds, from 1 on to the year 9999. Whether it is past is
// not. JSON is read strictly: text that is not UTF-8, half a surrogate pair in a key or a value, a field that comes
// twice and bytes behind the array are errors. So are a number of more than 1024 bytes and nesting deeper than 1000.
// Text is never replaced; half a surrogate pair in metadata stays the escape that it is. A byte order mark is skipped.
// Of fields that are not known only the syntax is checked, without that of UTF-8.
func ReadBulk(r io.Reader, opts BulkOptions) iter.Seq2[BulkPair, error] {
	return readBulk(r, opts, (*bulkReader).pair)
}

// ReadBulkKeys yields the keys of bulk JSON that names keys, to be deleted or read: an array of strings, or of objects
// with a field name, as a list of keys has them; their fields expiration and metadata are ignored. What is said about
// ReadBulk holds here too.
func ReadBulkKeys(r io.Reader, opts BulkOptions) iter.Seq2[string, error] {
	return readBulk(r, opts, (*bulkReader).name)
}

func readBulk[T any](r io.Reader, opts BulkOptions, read func(*bulkReader) (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		b := &bulkReader{scan: newJSONScanner(r), unknown: opts.Unknown}
		more, err := b.begin()
		for more && err == nil {
			var element T
			if element, err = read(b); err != nil {
				break
			}
			if !yield(element, nil) {
				return
			}
			b.index++
			more, err = b.more(']')
		}
		if err == nil {
			err = b.end()
		}
		if err != nil {
			var zero T
			yield(zero, b.explain(err))
		}
	}
}

const (
	maxBulkText  = 36 << 20 // of a value as it is in the file: base64, with line breaks
	maxBulkName  = 1024     // of a field's name
	maxBulkDepth = 1000     // arrays and objects in each other

	maxBulkTTL     = int64(math.MaxInt64 / time.Second)
	maxBulkExpires = 253_402_300_799 // the end of the year 9999
)

// bulkReader reads one file. Its buffers are those of the element at hand.
type bulkReader struct {
	scan    *jsonScanner
	unknown func(BulkUnknown)
	index   int

	text, binary, metadata, word []byte
}

func (b *bulkReader) begin() (more bool, err error) {
	b.scan.skipMark()
	if err := b.scan.expect('[', "an array"); err != nil {
		return false, err
	}
	return b.notYet(']')
}

// notYet tells whether anything comes before the end of the array or object that has just begun.
func (b *bulkReader) notYet(end byte) (bool, error) {
	c, err := b.scan.next()
	if err != nil || c != end {
		return true, err
	}
	b.scan.pos++
	return false, nil
}

// more tells whether another element follows.
func (b *bulkReader) more(end byte) (bool, error) {
	c, err := b.scan.next()
	if err != nil {
		return false, err
	}
	if c != ',' && c != end {
		return false, b.scan.unexpected(c, fmt.Sprintf("a comma or %q", end))
	}
	b.scan.pos++
	return c == ',', nil
}

func (b *bulkReader) end() error {
	switch c, err := b.scan.next(); {
	case isEnd(err):
		return nil
	case err != nil:
		return err
	default:
		return b.scan.unexpected(c, "the end of the file")
	}
}

// explain makes what ended the reading an error for the user.
func (b *bulkReader) explain(err error) error {
	f, ok := err.(*BulkFileError) //nolint:errorlint // made here, or not at all
	if !ok {
		return fmt.Errorf("read bulk JSON, element %d: %w", b.index, err)
	}
	f.Index = b.index
	return f
}

// The fields of an element.
const (
	fieldKey = iota
	fieldValue
	fieldExpires
	fieldTTL
	fieldMetadata
	fieldBase64
	pairFieldCount
)

var pairFields = map[string]int{
	"key": fieldKey, "value": fieldValue, "expiration": fieldExpires, "expiration_ttl": fieldTTL,
	"metadata": fieldMetadata, "base64": fieldBase64,
}

// bulkDraft is a pair of which not all fields have been read.
type bulkDraft struct {
	BulkPair
	base64       bool
	expires, ttl []byte // the numbers as they are in the file
	at           [pairFieldCount]place
}

func (b *bulkReader) pair() (BulkPair, error) {
	start, err := b.scan.start()
	if err != nil {
		return BulkPair{}, err
	}
	var d bulkDraft
	d.Index, d.Line, d.Column = b.index, start.line, start.column
	seen, err := b.object("an object with key and value", pairFields, func(field int, at place) error {
		return b.pairField(&d, field, at)
	})
	switch {
	case err != nil:
		return BulkPair{}, err
	case seen&(1<<fieldKey) == 0:
		return BulkPair{}, start.wrong("the element has no key")
	case seen&(1<<fieldValue) == 0:
		return BulkPair{}, start.wrong("the element has no value")
	}
	return b.complete(&d)
}

func (b *bulkReader) pairField(d *bulkDraft, field int, at place) (err error) {
	d.at[field] = at
	if field != fieldKey && field != fieldValue {
		if null, err := b.scan.null(); null || err != nil {
			return err
		}
	}
	switch field {
	case fieldKey:
		d.Key, err = b.key("key")
	case fieldValue:
		b.text, err = b.scan.text(b.text[:0], maxBulkText, "the value")
	case fieldExpires:
		d.expires, err = b.scan.number(nil, "expiration")
	case fieldTTL:
		d.ttl, err = b.scan.number(nil, "expiration_ttl")
	case fieldMetadata:
		b.metadata, err = b.scan.compact(b.metadata[:0], MaxMetadataLen, 0)
		d.Metadata = b.metadata
	case fieldBase64:
		d.base64, err = b.scan.boolean("base64")
	}
	return err
}

// complete checks what depends on several fields.
func (b *bulkReader) complete(d *bulkDraft) (BulkPair, error) {
	p, value := d.BulkPair, d.at[fieldValue]
	p.Value = b.text
	if d.base64 {
		var err error
		if b.binary, err = base64.StdEncoding.AppendDecode(b.binary[:0], b.text); err != nil {
			return BulkPair{}, value.wrong("the value is not base64: " + err.Error())
		}
		p.Value = b.binary
	}
	if len(p.Value) > MaxValueLen {
		return BulkPair{}, value.wrong(fmt.Sprintf("the value has %d bytes, at most %d are allowed", len(p.Value), MaxValueLen))
	}
	switch {
	case d.ttl != nil:
		seconds, err := wholeSeconds(d.ttl, maxBulkTTL)
		if err != "" {
			return BulkPair{}, d.at[fieldTTL].wrong("expiration_ttl " + err)
		}
		p.TTL = time.Duration(seconds) * time.Second
	case d.expires != nil:
		seconds, err := wholeSeconds(d.expires, maxBulkExpires)
		if err != "" {
			return BulkPair{}, d.at[fieldExpires].wrong("expiration " + err)
		}
		p.Expires = time.Unix(seconds, 0)
	}
	return p, nil
}

// wholeSeconds reads a number of JSON. The string says what is wrong with it.
func wholeSeconds(number []byte, most int64) (int64, string) {
	n, err := strconv.ParseInt(string(number), 10, 64)
	if err != nil { // 1e9 and 60.0 are whole numbers too
		f, err := strconv.ParseFloat(string(number), 64)
		switch {
		case err != nil || f > 1<<62:
			n = math.MaxInt64
		case f != math.Trunc(f):
			return 0, fmt.Sprintf("%.40s is no whole number of seconds", number)
		default:
			n = int64(max(f, -1))
		}
	}
	if n < 1 || n > most {
		return 0, fmt.Sprintf("%.40s is out of range: 1 to %d seconds", number, most)
	}
	return n, ""
}

// key reads a string that has to be a key.
func (b *bulkReader) key(field string) (string, error) {
	at, err := b.scan.start()
	if err != nil {
		return "", err
	}
	// A longer one is an error too, which quotes its beginning.
	if b.word, err = b.scan.text(b.word[:0], 64<<10, field); err != nil {
		return "", err
	}
	key := string(b.word)
	if err := CheckKey(key); err != nil {
		f := at.wrong(err.Error())
		f.Cause = err
		return "", f
	}
	return key, nil
}

const fieldName = 0

var nameFields = map[string]int{"name": fieldName, "expiration": 1, "metadata": 2}

func (b *bulkReader) name() (key string, err error) {
	start, err := b.scan.start()
	if err != nil {
		return "", err
	}
	if b.scan.buf[b.scan.pos] == '"' {
		return b.key("the key")
	}
	seen, err := b.object("a string, or an object with name", nameFields, func(field int, _ place) (err error) {
		if field == fieldName {
			key, err = b.key("name")
			return err
		}
		return b.scan.skip(0)
	})
	if err == nil && seen&(1<<fieldName) == 0 {
		return "", start.wrong("the element has no name")
	}
	return key, err
}

// object reads an object: field is called to read the values of the known ones. It returns those that were there.
func (b *bulkReader) object(what string, known map[string]int, field func(int, place) error) (seen uint, err error) {
	if err := b.scan.expect('{', what); err != nil {
		return 0, err
	}
	more, err := b.notYet('}')
	for more && err == nil {
		if seen, err = b.field(seen, known, field); err == nil {
			more, err = b.more('}')
		}
	}
	return seen, err
}

func (b *bulkReader) field(seen uint, known map[string]int, field func(int, place) error) (uint, error) {
	at, err := b.scan.start()
	if err != nil {
		return seen, err
	}
	if b.word, err = b.scan.text(b.word[:0], maxBulkName, "a field's name"); err != nil {
		return seen, err
	}
	f, ok := known[string(b.word)]
	if ok && seen&(1<<f) != 0 {
		return seen, at.wrong(fmt.Sprintf("the element has %q twice", b.word))
	}
	if !ok && b.unknown != nil {
		b.unknown(BulkUnknown{Field: string(b.word), Index: b.index, Line: at.line, Column: at.column})
	}
	if err := b.scan.expect(':', "a colon"); err != nil {
		return seen, err
	}
	if at, err = b.scan.start(); err != nil {
		return seen, err
	}
	if !ok {
		return seen, b.scan.skip(0)
	}
	return seen | 1<<f, field(f, at)
}

// BulkWriter writes bulk JSON that ReadBulk and wrangler read.
type BulkWriter struct {
	w   *jsonWriter
	any bool
}

// NewBulkWriter returns a BulkWriter on w, to which it writes about 64 KiB at a time.
func NewBulkWriter(w io.Writer) *BulkWriter { return &BulkWriter{w: newJSONWriter(w)} }

// Write writes a pair. A value that is not UTF-8 is written as base64; what a TTL or Expires has beyond whole seconds is
// rounded up, but in the last second of the year 9999 down. With a TTL, Expires is left out. Of a pair that ReadBulk would not take nothing is written: the error is a
// *[KeyError], a *[MetadataError], or one of [ErrInvalidBulk]. Other errors are those of the writer, and stay.
func (b *BulkWriter) Write(p BulkPair) error {
	metadata, err := checkBulkPair(p)
	if err != nil {
		return err
	}
	b.w.raw(separator(b.any))
	b.any = true
	b.w.raw(`{"key":`)
	b.w.text([]byte(p.Key))
	b.w.raw(`,"value":`)
	binary := !utf8.Valid(p.Value)
	if binary {
		b.w.base64(p.Value)
	} else {
		b.w.text(p.Value)
	}
	switch {
	case p.TTL != 0:
		b.w.raw(`,"expiration_ttl":` + strconv.FormatInt(secondsUp(p.TTL), 10))
	case !p.Expires.IsZero():
		b.w.raw(`,"expiration":` + strconv.FormatInt(unixUp(p.Expires), 10))
	}
	if metadata != nil {
		b.w.raw(`,"metadata":` + string(metadata))
	}
	if binary {
		b.w.raw(`,"base64":true`)
	}
	b.w.raw("}")
	return b.w.err
}

// Close writes the end of the array, and what is not written yet. It does not close the writer.
func (b *BulkWriter) Close() error {
	if !b.any {
		b.w.raw("[")
	}
	b.w.raw("\n]\n")
	return b.w.flush()
}

func separator(later bool) string {
	if later {
		return ",\n"
	}
	return "[\n"
}

func checkBulkPair(p BulkPair) (metadata []byte, err error) {
	if err := CheckKey(p.Key); err != nil {
		return nil, err
	}
	if p.Metadata != nil {
		if metadata, err = EncodeMetadata(p.Metadata); err != nil {
			return nil, err
		}
	}
	switch {
	case len(p.Value) > MaxValueLen:
		return nil, fmt.Errorf("%w: the value has %d bytes, at most %d are allowed", ErrInvalidBulk, len(p.Value), MaxValueLen)
	case p.TTL < 0:
		return nil, fmt.Errorf("%w: TTL %v", ErrInvalidBulk, p.TTL)
	case p.TTL == 0 && !p.Expires.IsZero() && (unixUp(p.Expires) < 1 || unixUp(p.Expires) > maxBulkExpires):
		return nil, fmt.Errorf("%w: expiry %v", ErrInvalidBulk, p.Expires)
	}
	return metadata, nil
}

func secondsUp(d time.Duration) int64 {
	n := int64(d / time.Second)
	if d%time.Second != 0 && n < maxBulkTTL {
		n++
	}
	return n
}

// unixUp rounds up to seconds, except that the year 9999 stays what it is: ReadBulk takes nothing later.
func unixUp(t time.Time) int64 {
	if t.Nanosecond() != 0 && t.Unix() != maxBulkExpires {
		return t.Unix() + 1
	}
	return t.Unix()
}
