package codec

import (
	"bytes"
	"encoding/json"
	"reflect"
)

// meterJSON returns ErrExpands if it would take too much memory to decode data into what has the layout l. Of data that
// is not JSON it says nothing: encoding/json checks all of it before it decodes any.
func meterJSON(data []byte, l *layout) error {
	if l.harmless(data) {
		return nil
	}
	m := jsonMeter{data: data, budget: budgetOf(data)}
	return m.value(0, l)
}

// jsonMeter walks over JSON without building values. It ends at the end of the data, or where they cannot be JSON.
type jsonMeter struct {
	data   []byte
	at     int
	budget budget
	ended  bool
}

// maxJSONDepth is the limit of encoding/json.
const maxJSONDepth = 10_000

func (m *jsonMeter) value(depth int, l *layout) (err error) {
	c := m.peek()
	if m.ended = m.ended || depth > maxJSONDepth; m.ended || c == 'n' {
		m.literal()
		return nil
	}
	if l, err = l.pointed(&m.budget); err != nil {
		return err
	}
	start := m.at
	switch c {
	case '[':
		err = m.array(depth, l)
	case '{':
		err = m.object(depth, l)
	case '"':
		m.text()
		return l.spendScalar(&m.budget, int64(m.at-start))
	default:
		m.literal()
		return l.spendScalar(&m.budget, 0)
	}
	if err == nil && l != nil && l.kind == reflect.Invalid {
		return l.spendScalar(&m.budget, int64(m.at-start))
	}
	return err
}

// peek skips spaces and returns the next byte.
func (m *jsonMeter) peek() byte {
	for m.at < len(m.data) {
		switch c := m.data[m.at]; c {
		case ' ', '\t', '\r', '\n':
			m.at++
		default:
			return c
		}
	}
	m.ended = true
	return 0
}

// skip steps over c, if that comes next.
func (m *jsonMeter) skip(c byte) bool {
	if m.peek() != c || m.ended {
		return false
	}
	m.at++
	return true
}

func (m *jsonMeter) array(depth int, l *layout) error {
	m.at++
	n := int64(0)
	for ; !m.ended && !m.skip(']'); n++ {
		if err := m.value(depth+1, l.at(n)); err != nil {
			return err
		}
		m.skip(',')
	}
	if l != nil && l.kind == reflect.Struct {
		return nil
	}
	return l.spendArray(&m.budget, n, growth)
}

func (m *jsonMeter) object(depth int, l *layout) error {
	m.at++
	keys, n := l.keys(), int64(0)
	for ; !m.ended && !m.skip('}'); n++ {
		m.peek()
		name := m.text()
		if err := keys.spendScalar(&m.budget, int64(len(name))); err != nil {
			return err
		}
		m.skip(':')
		if err := m.value(depth+1, l.under(m.unescaped(l, name), &jsonDialect)); err != nil {
			return err
		}
		m.skip(',')
	}
	return l.spendMap(&m.budget, n)
}

// unescaped returns the text of a field's name in quotes.
func (m *jsonMeter) unescaped(l *layout, quoted []byte) []byte {
	if l == nil || l.kind != reflect.Struct || len(quoted) < 2 {
		return nil
	}
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1]
	}
	var name string
	if json.Unmarshal(quoted, &name) != nil {
		m.ended = true
	}
	return []byte(name)
}

// text steps over a string, and returns it with its quotes.
func (m *jsonMeter) text() []byte {
	start := m.at
	if !m.skip('"') {
		m.ended = true
		return nil
	}
	for m.at < len(m.data) {
		switch m.data[m.at] {
		case '\\':
			m.at++
		case '"':
			m.at++
			return m.data[start:m.at]
		}
		m.at++
	}
	m.ended = true
	return nil
}

// literal steps over a number, true, false or null.
func (m *jsonMeter) literal() {
	start := m.at
	for m.at < len(m.data) {
		switch m.data[m.at] {
		case ',', ']', '}', ' ', '\t', '\r', '\n', ':', '"', '[', '{':
			m.ended = m.ended || m.at == start // no progress: not JSON
			return
		}
		m.at++
	}
}
