package kvstore

import (
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nearkv/nearkv/codec"
)

func TestCursor(t *testing.T) {
	long := strings.Repeat("k", codec.MaxKeyLen)
	for _, test := range []struct{ prefix, last string }{
		{"", "a"},
		{"a", "a"},
		{"a", "ab"},
		{".", "..."},
		{".", ".a"},
		{"", " "},
		{" ", "  "},
		{"1 ", "1 2 3"},
		{"\x00", "\x00\x00"},
		{"\u20ac", "\u20ac1"},
		{long, long},
		{"", long},
	} {
		cursor := newCursor(test.prefix, test.last)
		if after, err := parseCursor(cursor, test.prefix); err != nil || after != test.last {
			t.Errorf("%q, %q: %q, %v", test.prefix, test.last, after, err)
		}
		for _, other := range []string{test.prefix + "a", "x" + test.prefix, "", "zz", strings.ToUpper(test.prefix)} {
			if other == test.prefix {
				continue
			}
			if _, err := parseCursor(cursor, other); !errors.Is(err, ErrInvalidOptions) {
				t.Errorf("the cursor of %q is taken for %q: %v", test.prefix, other, err)
			}
		}
	}
}

// The cursors of keys that were deleted, and of 1.0, stay valid for ever.
func TestCursorFormat(t *testing.T) {
	for cursor, want := range map[string][2]string{
		"MSAwIGtleQ":                  {"", "key"},
		"MSA1IHVzZXI6MTI":             {"user:", "user:12"},
		"MSAzIOKCrOKCrOKCrA":          {"\u20ac", "\u20ac\u20ac\u20ac"},
		"MSAyIAAAIA":                  {"\x00\x00", "\x00\x00 "},
		"MSAxMiBhIHByZWZpeCAxMiBrZXk": {"a prefix 12 ", "a prefix 12 key"},
	} {
		if got := newCursor(want[0], want[1]); got != cursor {
			t.Errorf("the cursor after %q is %q, not %q", want[1], got, cursor)
		}
		if after, err := parseCursor(cursor, want[0]); err != nil || after != want[1] {
			t.Errorf("%q means %q, %v, not %q", cursor, after, err, want[1])
		}
	}
}

func TestCursorMalformed(t *testing.T) {
	encode := base64.RawURLEncoding.EncodeToString
	for _, cursor := range []string{
		"x", "=", "MSAwIGtleQ==", " MSAwIGtleQ", "MSAwIGtleR", // not strict base64
		encode(nil), encode([]byte("1")), encode([]byte("1 ")), encode([]byte("1 0")), encode([]byte("1 0 ")),
		encode([]byte("2 0 key")), encode([]byte("0 key")), encode([]byte("1 -1 key")), encode([]byte("1 x key")),
		encode([]byte("1  key")), encode([]byte("1 99999999999999999999 key")),
		encode([]byte("1 0 .")), encode([]byte("1 0 ..")), encode([]byte("1 0 \xff")),
		encode(fmt.Appendf(nil, "1 0 %s", strings.Repeat("k", codec.MaxKeyLen+1))),
	} {
		if cursor == "" {
			continue // the first page
		}
		if after, err := parseCursor(cursor, ""); !errors.Is(err, ErrInvalidOptions) {
			t.Errorf("%q means %q, %v", cursor, after, err)
		}
	}
}

// A cursor that is longer than any can be costs nothing to refuse.
func TestCursorTooLong(t *testing.T) {
	long := strings.Repeat("k", codec.MaxKeyLen)
	if n := len(newCursor(long, long)); n != maxCursor {
		t.Errorf("the longest cursor has %d bytes, not %d", n, maxCursor)
	}
	huge := newCursor("", strings.Repeat("k", 100<<20))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := parseCursor(huge, "")
	runtime.ReadMemStats(&after)
	if !errors.Is(err, ErrInvalidOptions) {
		t.Error(err)
	}
	if cost := after.TotalAlloc - before.TotalAlloc; cost > 1<<20 {
		t.Errorf("to refuse it cost %d bytes", cost)
	}
}

func FuzzParseCursor(f *testing.F) {
	f.Add("", "")
	f.Add("x", "")
	f.Add(newCursor("", "a"), "")
	f.Add(newCursor("a", "ab"), "a")
	f.Add(newCursor("a", "ab"), "b")
	f.Add(newCursor("\x00", "\x00 1"), "\x00")
	f.Add(base64.RawURLEncoding.EncodeToString([]byte("1 01 ab")), "a")
	f.Fuzz(func(t *testing.T, cursor, prefix string) {
		after, err := parseCursor(cursor, prefix)
		switch {
		case err != nil:
			if !errors.Is(err, ErrInvalidOptions) || after != "" {
				t.Fatalf("%q, %v", after, err)
			}
			return
		case cursor == "":
			if after != "" {
				t.Fatalf("the first page begins after %q", after)
			}
			return
		case codec.CheckKey(after) != nil || !strings.HasPrefix(after, prefix):
			t.Fatalf("begins after %q, which has not the prefix %q", after, prefix)
		}
		// It is bound to its prefix.
		for _, other := range []string{prefix + after, prefix + "x", strings.TrimSuffix(prefix, "x") + "y", after[:len(prefix)/2]} {
			if other != prefix && codec.CheckPrefix(other) == nil {
				if _, err := parseCursor(cursor, other); err == nil {
					t.Fatalf("the cursor of %q is taken for %q", prefix, other)
				}
			}
		}
		if again, err := parseCursor(newCursor(prefix, after), prefix); err != nil || again != after {
			t.Fatalf("%q becomes %q, %v", after, again, err)
		}
	})
}

// ascend yields what a plain sorted list of the keys would.
func TestAscend(t *testing.T) {
	name := rapid.StringOfN(rapid.RuneFrom([]rune{'a', 'b', '.', 0, 0x7f, 0xe9, 0xffff, 0x10ffff}), 0, 4, -1)
	rapid.Check(t, func(rt *rapid.T) {
		now := time.Now().UnixMilli()
		x := newIndex(newCache(-1))
		var want []string
		prefix, after := name.Draw(rt, "prefix"), name.Draw(rt, "after")
		after = rapid.SampledFrom([]string{"", prefix + after}).Draw(rt, "start")
		for _, key := range rapid.SliceOfNDistinct(name, 0, 30, rapid.ID).Draw(rt, "keys") {
			if codec.CheckKey(key) != nil {
				continue
			}
			m := message(key, uint64(x.records.size+1), "v")
			visible := true
			switch rapid.IntRange(0, 4).Draw(rt, "kind") {
			case 0:
				m.Record.Op, visible = codec.OpDelete, false
			case 1:
				m.VisibleUntil, visible = now-1, false
			case 2:
				m.VisibleUntil = now + 1<<40
			}
			x.Apply(1, m)
			if visible && strings.HasPrefix(key, prefix) && (after == "" || key > after) {
				want = append(want, key)
			}
		}
		slices.Sort(want)
		var got []string
		for r := range x.ascend(prefix, after) {
			got = append(got, r.key())
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("%q after %q: %q, not %q", prefix, after, got, want)
		}
		most, n := rapid.IntRange(1, 5).Draw(rt, "most"), 0
		for range x.ascend(prefix, after) {
			if n++; n == most {
				break
			}
		}
		if n != min(most, len(want)) {
			rt.Fatalf("%d of %d, at most %d", n, len(want), most)
		}
	})
}

// A list that is under way does not see later changes, and does not hold them up.
func TestAscendIsOfOneMoment(t *testing.T) {
	x := newIndex(newCache(-1))
	for i := range 10 {
		x.Apply(1, message(fmt.Sprint(i), uint64(i+1), "v"))
	}
	revision := uint64(10)
	var got []string
	for r := range x.ascend("", "") {
		got = append(got, r.key())
		revision++
		x.Apply(1, message(r.key()+"x", revision, "new"))
		m := message(fmt.Sprint(9-len(got)), revision+1, "")
		m.Record.Op = codec.OpDelete
		revision++
		x.Apply(1, m)
	}
	if strings.Join(got, "") != "0123456789" {
		t.Errorf("the list is %q", got)
	}
	if n := x.counts.visible.Load(); n != 11 {
		t.Errorf("%d keys, not 11", n)
	}
}
