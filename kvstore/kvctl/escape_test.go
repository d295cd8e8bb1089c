package main

import (
	"bytes"
	"fmt"
	"testing"
)

// A character is shown as one wherever the writes are cut.
func TestVisibleCut(t *testing.T) {
	const text = "ä\u202e日\x9b\xe6\x97\U0001f600\U000e0041\x1b[m\xf0\x9f"
	for size := len(text); size > 0; size-- {
		var out bytes.Buffer
		v := &visible{Writer: &out, escape: escapeText}
		for rest := text; rest != ""; rest = rest[min(size, len(rest)):] {
			if _, err := fmt.Fprint(v, rest[:min(size, len(rest))]); err != nil {
				t.Fatal(err)
			}
		}
		if err := v.end(); err != nil {
			t.Fatal(err)
		}
		const want = `ä\u202e日\x9b\xe6\x97` + "\U0001f600" + `\U000e0041\x1b[m\xf0\x9f`
		if out.String() != want {
			t.Errorf("in writes of %d: %q, not %q", size, out.String(), want)
		}
	}
}
