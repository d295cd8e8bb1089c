package kvstore

import (
	"fmt"
	"slices"
	"strings"
)

// callError is an error of a call, with what was called and the key. It makes one
// line of whatever the packages below have said: "kvstore: put "user:7": log
// unavailable: nats: timeout".
type callError struct {
	call string
	key  string // "": the call has none
	err  error
}

// failed returns err as the error of a call. An error that names its key already,
// and a sentinel that needs no key, stay as they are.
func failed(call, key string, err error) error {
	switch e := err.(type) { //nolint:errorlint // one that is wrapped needs the rest of its text
	case nil:
		return nil
	case *callError, *ConflictError, *ValueError, *DecodeError, *EncodeError, *BulkError:
		return err
	default:
		if e == ErrNotFound || e == ErrClosed { //nolint:errorlint // as above
			return err
		}
	}
	return &callError{call, key, err}
}

func (e *callError) Error() string {
	text, begin := plain(e.err), e.call
	if e.key != "" {
		key := fmt.Sprintf("%.64q", e.key)
		if strings.Contains(text, key) {
			return "kvstore: " + text
		}
		begin += " " + key
	}
	if text == begin || strings.HasPrefix(text, begin+": ") {
		return "kvstore: " + text
	}
	return "kvstore: " + begin + ": " + text
}

func (e *callError) Unwrap() error { return e.err }

// prefixes are of the packages through which an error comes. The caller has called
// one, and is told of that.
var prefixes = []string{"kvstore: ", "replication: ", "embedded: ", "nearkv: "}

// plain returns the text of an error in one line, without the prefixes of packages
// and without what it says twice.
func plain(err error) string {
	var lines []string
	for line := range strings.Lines(err.Error()) {
		if line = plainLine(strings.TrimSpace(line)); line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

func plainLine(line string) string {
	var parts []string
	for line != "" {
		var part string
		part, line = cutPart(line)
		known := strings.Contains(part, " ") && slices.Contains(parts, part) // a phrase, not a number
		if !known && !slices.Contains(prefixes, part+": ") && !(part == "nats" && slices.Contains(parts, part)) {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ": ")
}

// cutPart cuts a line after its first ": " that is not in a quoted key.
func cutPart(line string) (part, rest string) {
	quoted := false
	for i := 0; i < len(line); i++ {
		switch {
		case line[i] == '\\' && quoted:
			i++
		case line[i] == '"':
			quoted = !quoted
		case line[i] == ':' && !quoted && strings.HasPrefix(line[i:], ": "):
			return line[:i], line[i+2:]
		}
	}
	return line, ""
}
