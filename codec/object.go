package codec

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

// Object says where a large value is: under a name of its own in the object store of the namespace. A record with an
// Object has no payload.
type Object struct {
	Name   string            // one token of a NATS subject, never used twice
	Size   int64             // of the value in bytes
	Digest [sha256.Size]byte // SHA-256 of the value
}

// maxObjectName is the longest name of an object in bytes.
const maxObjectName = 64

// String returns the value of the header KV-Object: name, size and digest (base64, for URLs), with spaces between.
func (o *Object) String() string {
	return o.Name + " " + strconv.FormatInt(o.Size, 10) + " " + base64.URLEncoding.EncodeToString(o.Digest[:])
}

// decodeObject reads KV-Object; "" is none.
func decodeObject(value string) (*Object, error) {
	if value == "" {
		return nil, nil
	}
	o, err := parseObject(value)
	if err != nil {
		return nil, damaged(headerObject, value, err.Error())
	}
	return o, nil
}

func parseObject(value string) (*Object, error) {
	name, rest, _ := strings.Cut(value, " ")
	size, digest, _ := strings.Cut(rest, " ")
	if !validObjectName(name) {
		return nil, fmt.Errorf("the name is not 1 to %d bytes of A-Z a-z 0-9 - _", maxObjectName)
	}
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n < 0 || n > MaxValueLen {
		return nil, fmt.Errorf("the size is not 0 to %d", MaxValueLen)
	}
	o := &Object{Name: name, Size: n}
	sum, err := base64.URLEncoding.Strict().DecodeString(digest)
	if err != nil || len(sum) != len(o.Digest) {
		return nil, fmt.Errorf("the digest is not that of SHA-256")
	}
	copy(o.Digest[:], sum)
	return o, nil
}

func validObjectName(name string) bool {
	for _, b := range []byte(name) {
		letter := 'a' <= b|0x20 && b|0x20 <= 'z'
		if !letter && (b < '0' || '9' < b) && b != '-' && b != '_' {
			return false
		}
	}
	return name != "" && len(name) <= maxObjectName
}
