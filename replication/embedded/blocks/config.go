package blocks

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Config is what has to be known of a stream to check its blocks.
type Config struct {
	Name     string   `json:"name"`
	Subjects []string `json:"subjects"`
	Replicas int      `json:"num_replicas"`

	MaxMsgs    int64  `json:"max_msgs"`
	MaxBytes   int64  `json:"max_bytes"`
	MaxAge     int64  `json:"max_age"`
	Discard    string `json:"discard"`
	DenyDelete bool   `json:"deny_delete"`
	DenyPurge  bool   `json:"deny_purge"`
	Rollup     bool   `json:"allow_rollup_hdrs"`

	Mirror    json.RawMessage `json:"mirror"`
	Sources   json.RawMessage `json:"sources"`
	Transform json.RawMessage `json:"subject_transform"`

	Metadata map[string]string `json:"metadata"`
}

// ParseConfig reads meta.inf of the stream in the directory of this name, and compares
// it with meta.sum.
func ParseConfig(inf, sum []byte, dir string) (*Config, error) {
	h := newSum(dir)
	_, _ = h.Write(inf)
	if hex.EncodeToString(h.Sum(nil)) != string(sum) {
		return nil, errors.New("the checksum of meta.inf is not that in meta.sum, or both belong to another stream")
	}
	c := new(Config)
	if err := json.Unmarshal(inf, c); err != nil {
		return nil, fmt.Errorf("meta.inf cannot be read: %w", err)
	}
	if c.Name != dir {
		return nil, fmt.Errorf("meta.inf is that of stream %.256q", c.Name)
	}
	return c, nil
}

// Keeps reports whether every message stays until a later one of its subject takes
// its place, or its own TTL ends. Then what the index has and the blocks do not was lost.
func (c *Config) Keeps() bool {
	limited := c.MaxMsgs > 0 || c.MaxBytes > 0
	return c.DenyDelete && c.DenyPurge && !c.Rollup && c.MaxAge == 0 && (c.Discard == "new" || !limited) && c.Replicas <= 1
}

// subjectCheck checks the subject of a message.
type subjectCheck struct {
	any      bool     // streams of others may have changed their subjects
	prefixes [][]byte // of a namespace
	objects  []byte   // before the name of an object, if all objects are ours; nil otherwise
}

const (
	valueStream  = "KV_"
	objectStream = "OBJ_"
	ourMetadata  = "nearkv.format"
	ourObject    = "nearkv-"
	nuidLen      = 22
)

func (c *Config) subjectCheck() *subjectCheck {
	s := &subjectCheck{any: true}
	named := strings.HasPrefix(c.Name, valueStream) || strings.HasPrefix(c.Name, objectStream)
	if !named || c.Mirror != nil || c.Sources != nil || c.Transform != nil {
		return s
	}
	for _, p := range c.Subjects {
		p, all := strings.CutSuffix(p, ">")
		if !all || strings.ContainsAny(p, "*>") {
			return &subjectCheck{any: true}
		}
		s.prefixes, s.any = append(s.prefixes, []byte(p)), false
	}
	bucket, isObjects := strings.CutPrefix(c.Name, objectStream)
	if isObjects && c.Metadata[ourMetadata] != "" {
		s.objects = []byte("$O." + bucket + ".C.")
	}
	return s
}

// check returns why the subject cannot be, or "".
func (s *subjectCheck) check(subject []byte) string {
	if reason := validSubject(subject); reason != "" {
		return reason
	}
	if s.any {
		return ""
	}
	for _, p := range s.prefixes {
		if name, ok := bytes.CutPrefix(subject, p); ok && len(name) > 0 {
			return s.object(subject)
		}
	}
	return fmt.Sprintf("subject %.600q is none of this stream", subject)
}

// object checks the subject of a chunk of an object: its record has no header, so that
// no checksum says where the subject ends.
func (s *subjectCheck) object(subject []byte) string {
	name, isChunk := bytes.CutPrefix(subject, s.objects)
	if s.objects == nil || !isChunk {
		return ""
	}
	_, id, ok := strings.Cut(strings.TrimPrefix(string(name), ourObject), "-")
	if !ok || len(id) != nuidLen || strings.Contains(id, ".") {
		return fmt.Sprintf("%.600q is no object of this stream", subject)
	}
	return ""
}

func validSubject(s []byte) string {
	if len(s) == 0 {
		return "a message has no subject"
	}
	start := true
	for _, c := range s {
		switch {
		case c == '.' && start, c == ' ', c == '\t', c == '\r', c == '\n':
			return fmt.Sprintf("subject %.600q is not valid", s)
		}
		start = c == '.'
	}
	if start {
		return fmt.Sprintf("subject %.600q is not valid", s)
	}
	return ""
}
