package replication

import "testing"

func TestPositionText(t *testing.T) {
	tests := []struct {
		p    Position
		text string
	}{
		{Position{}, "/0"},
		{Position{"a", 7}, "a/7"},
		{Position{"dh3k2-Qm4", 1}, "dh3k2-Qm4/1"},
		{Position{"with/slash", 1<<64 - 1}, "with/slash/18446744073709551615"},
	}
	for _, test := range tests {
		if got := test.p.String(); got != test.text {
			t.Errorf("%#v is %q, not %q", test.p, got, test.text)
		}
		if got, err := ParsePosition(test.text); err != nil || got != test.p {
			t.Errorf("ParsePosition(%q) returns %#v, %v", test.text, got, err)
		}
	}
	for _, text := range []string{"", "a", "a/", "a/-1", "a/x", "a/1 ", "a/18446744073709551616", "7"} {
		if got, err := ParsePosition(text); err == nil || got != (Position{}) {
			t.Errorf("ParsePosition(%q) returns %#v, %v", text, got, err)
		}
	}
}

func TestPositionIsZero(t *testing.T) {
	if !(Position{}).IsZero() || (Position{"a", 0}).IsZero() || (Position{"", 1}).IsZero() {
		t.Error("only the zero Position is before everything")
	}
}

func TestPositionCompare(t *testing.T) {
	tests := []struct {
		p, q    Position
		order   int
		ordered bool
	}{
		{Position{"a", 1}, Position{"a", 2}, -1, true},
		{Position{"a", 2}, Position{"a", 2}, 0, true},
		{Position{"a", 3}, Position{"a", 2}, +1, true},
		{Position{"a", 0}, Position{"a", 1<<64 - 1}, -1, true},
		{Position{"a", 1}, Position{"b", 1}, 0, false},
		{Position{"a", 9}, Position{"b", 1}, 0, false},
		{Position{}, Position{"b", 1}, 0, false},
	}
	for _, test := range tests {
		order, ordered := test.p.Compare(test.q)
		if ordered != test.ordered || (ordered && order != test.order) {
			t.Errorf("%v to %v: %d, %v", test.p, test.q, order, ordered)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	for _, text := range []string{"", "/0", "a/7", "a/b/8", "a/08", "a/+8", "\xff/1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePosition(text)
		if err != nil {
			return
		}
		if again, err := ParsePosition(p.String()); err != nil || again != p {
			t.Errorf("%q is %#v, which is %q, which is %#v, %v", text, p, p.String(), again, err)
		}
	})
}
