package kvstore_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nearkv/nearkv/kvstore"
)

// A Store knows how old it is from the moment that Open returns, and not only after its first CheckInterval: a log that
// goes away then does not make MaxStaleness refuse what was read a moment ago.
func TestFreshWhenOpen(t *testing.T) {
	dir := t.TempDir()
	first := opened(t, "fresh", kvstore.Options{Dir: dir})
	for i := range 300 {
		wantPut(t, first, fmt.Sprint("key", i%50), "value")
	}
	for range 20 {
		for _, namespace := range []string{"fresh", "empty"} {
			begun := time.Now()
			s := opened(t, namespace, kvstore.Options{Dir: dir, CheckInterval: time.Hour})
			if fresh := s.Status().Fresh; fresh.Before(begun) || fresh.After(time.Now()) {
				t.Errorf("%s: fresh is %v after Open, which was called at %v", namespace, fresh, begun)
			}
			closeStore(t, s)
		}
	}
}
