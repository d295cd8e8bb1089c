package kvstore_test

import (
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"

	"github.com/nearkv/nearkv/kvstore"
)

// A loop over Keys that cannot see all keys says so: a program that deletes what it
// does not see must not take it for an empty namespace.
func TestKeysYieldsItsError(t *testing.T) {
	s := opened(t, "keys", kvstore.Options{})
	for i := range 10 {
		wantPut(t, s, fmt.Sprint("key", i), "value")
	}
	for _, prefix := range []string{"k\xff", strings.Repeat("p", 513)} {
		yieldsOnly(t, kvstore.ErrInvalidKey, s.Keys(prefix))
	}
	if n := len(keysOf(t, s, "key")); n != 10 {
		t.Errorf("Keys yields %d keys, not 10", n)
	}
	if n := len(keysOf(t, s, "other")); n != 0 {
		t.Errorf("Keys yields %d keys of a prefix without keys", n)
	}
	seen := 0
	var last error
	for info, err := range s.Keys("") {
		if last = err; err != nil {
			if info.Name != "" {
				t.Errorf("beside the error is %+v", info)
			}
			continue
		}
		if seen++; seen == 3 {
			closeStore(t, s)
		}
	}
	if seen != 3 || !errors.Is(last, kvstore.ErrClosed) {
		t.Errorf("a Store that is closed in the loop yields %d keys and last %v", seen, last)
	}
	yieldsOnly(t, kvstore.ErrClosed, s.Keys(""))
	for range s.Keys("") {
		break // is allowed at an error too
	}
}

func yieldsOnly(t testing.TB, want error, keys iter.Seq2[kvstore.KeyInfo, error]) {
	t.Helper()
	n := 0
	for info, err := range keys {
		if n++; n > 1 || !errors.Is(err, want) || info.Name != "" {
			t.Errorf("Keys yields %+v, %v; must be only %v", info, err, want)
		}
	}
	if n == 0 {
		t.Errorf("Keys yields nothing, must be %v", want)
	}
}

// keysOf returns what Keys yields, which must be no error.
func keysOf(t interface{ Fatalf(string, ...any) }, s *kvstore.Store, prefix string) (infos []kvstore.KeyInfo) {
	for info, err := range s.Keys(prefix) {
		if err != nil {
			t.Fatalf("Keys(%.40q): %v", prefix, err)
		}
		infos = append(infos, info)
	}
	return infos
}
