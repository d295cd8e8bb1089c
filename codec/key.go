package codec

import (
	"fmt"
	"unicode/utf8"
)

const (
	// MaxKeyLen is the greatest length of a key or a prefix, in bytes.
	MaxKeyLen = 512

	// maxSubjectLen is what MaxKeyLen colons take: "=3A." each, but the last has no boundary behind it.
	maxSubjectLen = 4*MaxKeyLen - 1

	upperHex = "0123456789ABCDEF"
)

// literal are the bytes that always stand for themselves in a subject.
var literal = func() (set [256]bool) {
	for _, c := range []byte("-_/0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") {
		set[c] = true
	}
	return set
}()

// CheckKey returns a *KeyError, which is an ErrInvalidKey, unless key is 1 to MaxKeyLen bytes of UTF-8 other than
// "." and "..". Nothing else is illegal: control characters, NUL, "..." and "a/.." are keys.
func CheckKey(key string) error {
	switch key {
	case "":
		return &KeyError{Key: key, Reason: "empty"}
	case ".", "..":
		return &KeyError{Key: key, Reason: "reserved"}
	}
	return CheckPrefix(key)
}

// CheckPrefix returns a *KeyError, which is an ErrInvalidKey, unless prefix is at most MaxKeyLen bytes of UTF-8.
// The empty prefix, ".", and ".." are fine: keys may begin with them.
func CheckPrefix(prefix string) error {
	if len(prefix) > MaxKeyLen {
		return &KeyError{Key: prefix, Reason: fmt.Sprintf("longer than %d bytes", MaxKeyLen)}
	}
	if !utf8.ValidString(prefix) {
		return &KeyError{Key: prefix, Reason: "not UTF-8"}
	}
	return nil
}

// Subject returns the subject of key below the subject of its namespace; the package comment has the rules.
// The key must have passed CheckKey: of any other the result is of no use. A key that is its own subject is
// returned as it is, without allocating.
func Subject(key string) string {
	if isPlain(key) {
		return key
	}
	var buf [128]byte
	return string(AppendSubject(buf[:0], key))
}

// AppendSubject appends Subject(key) to dst and returns the extended slice.
func AppendSubject(dst []byte, key string) []byte {
	tokenStart := true // a dot here would make an empty token
	for i := range len(key) {
		c, last := key[i], i == len(key)-1
		switch {
		case literal[c]:
			dst = append(dst, c)
			tokenStart = false
		case c == '.' && !tokenStart && !last:
			dst = append(dst, '.')
			tokenStart = true
		default:
			dst = append(dst, '=', upperHex[c>>4], upperHex[c&15])
			tokenStart = c == ':' && !last
			if tokenStart {
				dst = append(dst, '.')
			}
		}
	}
	return dst
}

// Key returns the key whose Subject is subject. It is ErrForeignSubject if there is none: a key may be spelt in
// only one way. The key shares the memory of a subject that stands for itself; that does not allocate.
func Key(subject string) (string, error) {
	if len(subject) <= MaxKeyLen && isPlain(subject) {
		return subject, nil
	}
	if len(subject) > maxSubjectLen {
		return "", foreign(subject)
	}
	var buf [128]byte
	unescaped, ok := unescape(buf[:0], subject)
	if !ok {
		return "", foreign(subject)
	}
	key := string(unescaped)
	if CheckKey(key) != nil {
		return "", foreign(subject)
	}
	return key, nil
}

// isPlain reports whether s is the subject of the key s: literal bytes in tokens none of which is empty.
func isPlain(s string) bool {
	tokenStart := true
	for i := range len(s) {
		switch {
		case literal[s[i]]:
			tokenStart = false
		case s[i] == '.' && !tokenStart:
			tokenStart = true
		default:
			return false
		}
	}
	return !tokenStart
}

// unescape undoes AppendSubject and appends the result to dst. It accepts nothing but what AppendSubject makes: each
// case here is the mirror of one there.
func unescape(dst []byte, subject string) ([]byte, bool) {
	tokenStart := true
	for i := 0; i < len(subject); i++ {
		c := subject[i]
		switch {
		case literal[c]:
			tokenStart = false
		case c == '.' && !tokenStart:
			tokenStart = true
		case c == '=':
			var ok bool
			if c, ok = escaped(subject[i:]); !ok {
				return nil, false
			}
			i += 2
			last := i == len(subject)-1
			if literal[c] || c == '.' && !tokenStart && !last {
				return nil, false // has no need of an escape
			}
			tokenStart = c == ':' && !last
			if tokenStart {
				i++
				if subject[i] != '.' {
					return nil, false
				}
			}
		default:
			return nil, false
		}
		dst = append(dst, c)
	}
	return dst, !tokenStart
}

// escaped returns the byte that the escape at the front of s stands for.
func escaped(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	high, ok := nibble(s[1])
	low, ok2 := nibble(s[2])
	return high<<4 | low, ok && ok2
}

func nibble(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func foreign(subject string) error {
	return fmt.Errorf("%w %s", ErrForeignSubject, quote(subject))
}
