package codec

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// spellings are keys and their subjects, spelt out by hand.
var spellings = []struct{ name, key, subject string }{
	{"plain", "users/42_a-B", "users/42_a-B"},
	{"dot inside", "a.b.c", "a.b.c"},
	{"colon", "user:123", "user=3A.123"},
	{"colons", "a:b:c", "a=3A.b=3A.c"},
	{"colon alone", ":", "=3A"},
	{"colon first", ":a", "=3A.a"},
	{"colon last", "a:", "a=3A"},
	{"colons only", "::", "=3A.=3A"},
	{"dot behind a colon", "a:.b", "a=3A.=2Eb"},
	{"dot behind a colon, last", "a:.", "a=3A.=2E"},
	{"dot before a colon", "a.:b", "a.=3A.b"},
	{"two dots", "a..b", "a.=2Eb"},
	{"three dots", "a...b", "a.=2E.b"},
	{"dot last", "a.", "a=2E"},
	{"dot first", ".a", "=2Ea"},
	{"only dots", "...", "=2E.=2E"},
	{"four dots", "....", "=2E.=2E=2E"},
	{"parent of a", "a/..", "a/.=2E"},
	{"equals", "a=b", "a=3Db"},
	{"looks escaped", "a=2Eb", "a=3D2Eb"},
	{"percent is not decoded", "a%2Fb", "a=252Fb"},
	{"slash", "a/b", "a/b"},
	{"wildcards", "*.>", "=2A.=3E"},
	{"space", "a b", "a=20b"},
	{"newline", "a\r\nb", "a=0D=0Ab"},
	{"NUL", "\x00", "=00"},
	{"DEL", "\x7f", "=7F"},
	{"dollar", "$KV", "=24KV"},
	{"composed e acute (NFC)", "\u00e9", "=C3=A9"},
	{"combining e acute (NFD)", "e\u0301", "e=CC=81"},
	{"four bytes", "😀", "=F0=9F=98=80"},
	{"replacement character", "\ufffd", "=EF=BF=BD"},
	{"byte order mark", "\ufeffa", "=EF=BB=BFa"},
	{"query", "https://x.example/?q=1&r=2#f", "https=3A.//x.example/=3Fq=3D1=26r=3D2=23f"},
}

func TestSubject(t *testing.T) {
	for _, tt := range spellings {
		t.Run(tt.name, func(t *testing.T) {
			if err := CheckKey(tt.key); err != nil {
				t.Fatal(err)
			}
			if got := Subject(tt.key); got != tt.subject {
				t.Errorf("Subject(%q) = %q, want %q", tt.key, got, tt.subject)
			}
			if got, err := Key(tt.subject); got != tt.key || err != nil {
				t.Errorf("Key(%q) = %q, %v, want %q", tt.subject, got, err, tt.key)
			}
			if got := string(AppendSubject([]byte("$KV.n."), tt.key)); got != "$KV.n."+tt.subject {
				t.Errorf("AppendSubject(%q) = %q", tt.key, got)
			}
		})
	}
}

func TestKeyOfForeignSubject(t *testing.T) {
	foreign := []struct{ name, subject string }{
		{"empty", ""},
		{"reserved dot", "=2E"},
		{"reserved dots", "=2E=2E"},
		{"reserved dots as tokens", "=2E.=2E=2E."},
		{"dot", "."},
		{"empty first token", ".a"},
		{"empty last token", "a."},
		{"empty token", "a..b"},
		{"lower case", "a=3d"},
		{"escape of a literal", "=61"},
		{"escape of a dot that may stand", "a=2Eb"},
		{"escaped dot that is not last", "a=2E.b"},
		{"colon without its boundary", "user=3A123"},
		{"boundary behind a last colon", "a=3A."},
		{"two boundaries", "a=3A..b"},
		{"cut escape", "a="},
		{"cut escape with a digit", "a=2"},
		{"no hex", "a=GG"},
		{"sign", "a=+1"},
		{"bare equals", "a=b=c"},
		{"bare colon", "user:123"},
		{"bare percent", "a%2Fb"},
		{"bare UTF-8", "é"},
		{"wildcard", "a.*"},
		{"full wildcard", "a.>"},
		{"space", "a b"},
		{"half a rune", "=C3"},
		{"overlong slash", "=C0=AF"},
		{"surrogate", "=ED=A0=80"},
		{"key too long", strings.Repeat("a", MaxKeyLen+1)},
		{"escaped key too long", strings.Repeat("=00", MaxKeyLen+1)},
		{"longer than any", strings.Repeat("=3A.", MaxKeyLen) + "a"},
		{"huge", strings.Repeat("=", 1<<20)},
	}
	for _, tt := range foreign {
		t.Run(tt.name, func(t *testing.T) {
			key, err := Key(tt.subject)
			if !errors.Is(err, ErrForeignSubject) || key != "" {
				t.Fatalf("Key(%q) = %q, %v, want ErrForeignSubject", tt.subject, key, err)
			}
			if len(err.Error()) > 400 {
				t.Errorf("the message has %d bytes", len(err.Error()))
			}
		})
	}
}

// TestAllShortKeys tries all byte strings of one and two bytes, and all up to eight of the bytes that make tokens.
func TestAllShortKeys(t *testing.T) {
	keys := map[string]string{} // by subject
	try := func(key string) {
		valid := utf8.ValidString(key) && key != "." && key != ".."
		if err := CheckKey(key); (err == nil) != valid {
			t.Fatalf("CheckKey(%q) = %v, want valid=%v", key, err, valid)
		}
		if !valid {
			return
		}
		subject := Subject(key)
		if other, taken := keys[subject]; taken && other != key {
			t.Fatalf("%q and %q share subject %q", key, other, subject)
		}
		keys[subject] = key
		checkRoundTrip(t, key)
	}
	var all [256]byte
	for c := range all {
		all[c] = byte(c)
	}
	forEachString(string(all[:]), 2, try)
	forEachString("a.:=", 8, try)
}

// TestAllShortSubjects is the other direction: what Key accepts is spelt as Subject spells it.
func TestAllShortSubjects(t *testing.T) {
	accepted := 0
	try := func(subject string) {
		key, err := Key(subject)
		if err != nil {
			if !errors.Is(err, ErrForeignSubject) {
				t.Fatalf("Key(%q) = %v", subject, err)
			}
			return
		}
		accepted++
		if CheckKey(key) != nil || Subject(key) != subject {
			t.Fatalf("Key(%q) = %q, whose subject is %q", subject, key, Subject(key))
		}
	}
	forEachString("azAZ09-_/.=:*> \t\r\n\x00\x7f%2EF3\xc3\xa9\xff", 3, try)
	forEachString(".=23AEa", 6, try)
	if accepted == 0 {
		t.Fatal("no subject was accepted")
	}
}

// forEachString calls f for every string of one to n bytes of the alphabet.
func forEachString(alphabet string, n int, f func(string)) {
	var grow func(prefix []byte)
	grow = func(prefix []byte) {
		for i := range len(alphabet) {
			s := append(prefix, alphabet[i])
			f(string(s))
			if len(s) < n {
				grow(s)
			}
		}
	}
	grow(make([]byte, 0, n))
}

func checkRoundTrip(t testing.TB, key string) {
	t.Helper()
	subject := Subject(key)
	checkLiteral(t, subject)
	if got, err := Key(subject); got != key || err != nil {
		t.Fatalf("Key(Subject(%q)) = Key(%q) = %q, %v", key, subject, got, err)
	}
	if natsKVAccepts(key) && subject != key {
		t.Fatalf("NATS KV accepts %q, and its subject is %q", key, subject)
	}
}

// checkLiteral fails unless the server takes subject for a literal one.
func checkLiteral(t testing.TB, subject string) {
	t.Helper()
	if len(subject) > maxSubjectLen {
		t.Fatalf("subject of %d bytes", len(subject))
	}
	for token := range strings.SplitSeq(subject, ".") {
		if token == "" {
			t.Fatalf("empty token in %q", subject)
		}
	}
	for _, c := range []byte(subject) {
		if c <= ' ' || c >= 0x7f || c == '*' || c == '>' {
			t.Fatalf("byte %#x in %q", c, subject)
		}
	}
}

// natsKVAccepts reports whether key is one for nats.go (^[-/_=.a-zA-Z0-9]+$, no dot at an end) that also is a subject
// (no empty token) and has no "=".
func natsKVAccepts(key string) bool {
	return strings.Trim(key, "-/_.abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == "" &&
		!strings.HasPrefix(key, ".") && !strings.HasSuffix(key, ".") && !strings.Contains(key, "..")
}

func TestKeyLimits(t *testing.T) {
	units := []struct {
		name, unit string
		subject    int // length of the subject of MaxKeyLen bytes of it
	}{
		{"plain", "a", 512},
		{"colons, the worst case", ":", 2047},
		{"NUL", "\x00", 3 * 512},
		{"two-byte runes", "é", 3 * 512},
		{"four-byte runes", "😀", 3 * 512},
	}
	for _, tt := range units {
		for _, n := range []int{MaxKeyLen - 1, MaxKeyLen, MaxKeyLen + 1} {
			t.Run(fmt.Sprintf("%s/%d", tt.name, n), func(t *testing.T) {
				key := strings.Repeat("a", n%len(tt.unit)) + strings.Repeat(tt.unit, n/len(tt.unit))
				checkLimit(t, key)
				if got := len(Subject(key)); n == MaxKeyLen && got != tt.subject {
					t.Errorf("the subject has %d bytes, want %d", got, tt.subject)
				}
			})
		}
	}
}

func checkLimit(t *testing.T, key string) {
	t.Helper()
	err, perr := CheckKey(key), CheckPrefix(key)
	if len(key) <= MaxKeyLen {
		if err != nil || perr != nil {
			t.Fatal(err, perr)
		}
		checkRoundTrip(t, key)
		return
	}
	if !errors.Is(err, ErrInvalidKey) || !errors.Is(perr, ErrInvalidKey) {
		t.Errorf("%d bytes: %v, %v", len(key), err, perr)
	}
	if _, err := Key(Subject(key)); !errors.Is(err, ErrForeignSubject) {
		t.Errorf("subject of a key of %d bytes: %v", len(key), err)
	}
}

func TestCheckKey(t *testing.T) {
	tests := []struct {
		name, key       string
		isKey, isPrefix bool
	}{
		{"empty", "", false, true},
		{"dot", ".", false, true},
		{"dots", "..", false, true},
		{"three dots", "...", true, true},
		{"dot in a path", "a/.", true, true},
		{"parent in a path", "a/..", true, true},
		{"control characters", "\x00\x01\n\r\t\x1f\x7f", true, true},
		{"C1 control character", "\u0085", true, true},
		{"percent", "%", true, true},
		{"not a character", "\uffff", true, true},
		{"Latin-1", "\xe9", false, false},
		{"overlong", "\xc0\xaf", false, false},
		{"surrogate", "\xed\xa0\x80", false, false},
		{"beyond Unicode", "\xf4\x90\x80\x80", false, false},
		{"cut rune", "a\xf0\x9f\x98", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			checkVerdict(t, "CheckKey", CheckKey(tt.key), tt.key, tt.isKey)
			checkVerdict(t, "CheckPrefix", CheckPrefix(tt.key), tt.key, tt.isPrefix)
		})
	}
}

func checkVerdict(t *testing.T, name string, err error, key string, valid bool) {
	t.Helper()
	if valid {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return
	}
	var keyErr *KeyError
	if !errors.Is(err, ErrInvalidKey) || !errors.As(err, &keyErr) || keyErr.Key != key || keyErr.Reason == "" {
		t.Errorf("%s = %v, want a *KeyError", name, err)
	}
}

func TestKeyErrorMessage(t *testing.T) {
	tests := []struct{ key, want string }{
		{"", `invalid key "": empty`},
		{"..", `invalid key "..": reserved`},
		{"a\n\xff", `invalid key "a\n\xff": not UTF-8`},
		{
			strings.Repeat("a", 62) + strings.Repeat("é", 1<<20),
			`invalid key "` + strings.Repeat("a", 62) + `é"... (2097214 bytes): longer than 512 bytes`,
		},
		{
			strings.Repeat("a", 63) + strings.Repeat("é", 1<<20), // the limit is inside of a rune
			`invalid key "` + strings.Repeat("a", 63) + `"... (2097215 bytes): longer than 512 bytes`,
		},
		{strings.Repeat("\x80", 513), `invalid key "` + strings.Repeat(`\x80`, 60) + `"... (513 bytes): longer than 512 bytes`},
	}
	for _, tt := range tests {
		if err := CheckKey(tt.key); err == nil || err.Error() != tt.want {
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
	}
}

// TestSubjectsOfPrefix: the keys that begin with a prefix that ends in a colon are those below its filter.
func TestSubjectsOfPrefix(t *testing.T) {
	anyKey := rapid.StringOfN(rapid.SampledFrom([]rune("ab.:=é")), 1, 12, MaxKeyLen)
	rapid.Check(t, func(t *rapid.T) {
		prefix := anyKey.Draw(t, "prefix") + ":"
		key := anyKey.Draw(t, "key")
		if rapid.Bool().Draw(t, "inside") {
			key = prefix + key
		}
		below := Subject(prefix) + "."
		if strings.HasPrefix(Subject(key), below) != (strings.HasPrefix(key, prefix) && key != prefix) {
			t.Fatalf("key %q, subject %q, filter %q", key, Subject(key), below+">")
		}
	})
}

func TestPlainKeysDoNotAllocate(t *testing.T) {
	const plain, escaped = "users.00001234/profile", "user:00001234"
	var sink string
	count := func(want float64, name string, f func()) {
		t.Helper()
		if got := testing.AllocsPerRun(100, f); got > want {
			t.Errorf("%s: %v allocations, want %v", name, got, want)
		}
	}
	count(0, "Subject, plain", func() { sink = Subject(plain) })
	count(0, "Key, plain", func() { sink, _ = Key(plain) })
	count(1, "Subject, escaped", func() { sink = Subject(escaped) })
	escapedSubject := Subject(escaped)
	count(1, "Key, escaped", func() { sink, _ = Key(escapedSubject) })
	_ = sink
}

func FuzzKeyRoundTrip(f *testing.F) {
	for _, tt := range spellings {
		f.Add(tt.key)
	}
	f.Add(strings.Repeat(":", MaxKeyLen))
	f.Add("\xff")
	f.Fuzz(func(t *testing.T, key string) {
		err := CheckKey(key)
		if valid := utf8.ValidString(key) && key != "" && key != "." && key != ".." && len(key) <= 512; valid != (err == nil) {
			t.Fatalf("CheckKey(%q) = %v", key, err)
		}
		if err == nil {
			checkRoundTrip(t, key)
			return
		}
		if _, err := Key(Subject(key)); err == nil {
			t.Fatalf("the subject of the invalid key %q is accepted", key)
		}
	})
}

func FuzzSubjectDecode(f *testing.F) {
	for _, tt := range spellings {
		f.Add(tt.subject)
		f.Add(tt.key)
	}
	f.Fuzz(func(t *testing.T, subject string) {
		key, err := Key(subject)
		if err != nil {
			if !errors.Is(err, ErrForeignSubject) {
				t.Fatal(err)
			}
			return
		}
		if err := CheckKey(key); err != nil {
			t.Fatal(err)
		}
		if again := Subject(key); again != subject {
			t.Fatalf("Key(%q) = %q, whose subject is %q", subject, key, again)
		}
	})
}
