package codec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// MaxMetadataLen is the greatest length of metadata, in bytes of compact JSON.
const MaxMetadataLen = 1024

// EncodeMetadata returns v as metadata of a record: what encoding/json makes of it, compact, with the characters
// < > & U+2028 and U+2029 as they are, so that it is as long as JSON.stringify would make it. What is null in JSON
// (nil, a nil pointer, json.RawMessage("null")) is no metadata: nil without an error. 0, false and "" are metadata.
//
// It returns a *MetadataError, which is an ErrInvalidMetadata, if v cannot be marshaled (errors.As and errors.Is
// find the cause), or if the result is not UTF-8 or longer than MaxMetadataLen.
func EncodeMetadata(v any) ([]byte, error) {
	if v == nil {
		return nil, nil
	}
	text, err := marshalJSON(nil, v)
	if err != nil {
		return nil, &MetadataError{Reason: "not representable as JSON", Cause: err}
	}
	text, err = limitMetadata(rawSeparators(text))
	if err != nil {
		return nil, &MetadataError{Reason: err.Error()}
	}
	return text, nil
}

// decodeMetadata reads the header KV-Metadata, which anybody may have written.
func decodeMetadata(header string) ([]byte, error) {
	if header == "" {
		return nil, nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(header)); err != nil {
		return nil, damaged(headerMetadata, header, err.Error())
	}
	text, err := limitMetadata(compact.Bytes())
	if err != nil {
		return nil, damaged(headerMetadata, header, err.Error())
	}
	return text, nil
}

// limitMetadata returns a copy of compact JSON, without spare capacity because replicas keep it; nil for null.
func limitMetadata(compact []byte) ([]byte, error) {
	switch {
	case string(compact) == "null":
		return nil, nil
	case len(compact) > MaxMetadataLen:
		return nil, fmt.Errorf("%d bytes of JSON, at most %d are allowed", len(compact), MaxMetadataLen)
	case !utf8.Valid(compact): // encoding/json lets it pass in a RawMessage
		return nil, errors.New("not UTF-8")
	}
	return bytes.Clone(compact), nil
}

// rawSeparators undoes the escaping of U+2028 and U+2029, which encoding/json cannot be told to leave out: six bytes
// for three, against the user's limit. It changes text in place.
func rawSeparators(text []byte) []byte {
	if !bytes.Contains(text, []byte(`\u202`)) {
		return text
	}
	out := text[:0]
	for i := 0; i < len(text); {
		switch escape := text[i:]; {
		case bytes.HasPrefix(escape, []byte(`\u2028`)), bytes.HasPrefix(escape, []byte(`\u2029`)):
			out = utf8.AppendRune(out, 0x2020+rune(escape[5]-'0'))
			i += 6
		case escape[0] == '\\': // two bytes at once: what follows `\\` begins no escape
			out = append(out, escape[:2]...)
			i += 2
		default:
			out = append(out, escape[0])
			i++
		}
	}
	return out
}
