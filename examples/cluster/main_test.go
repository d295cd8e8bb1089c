package main

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The test binary is a voter too: the program starts itself.
func TestMain(m *testing.M) {
	if os.Getenv(planEnv) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// Reads and writes go on while one of three processes is dead.
func TestCluster(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // this is a hang
	defer cancel()
	var out text
	if err := run(ctx, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"three voters: counted to 20", "voter1 was killed", "two voters: counted to 40", "again: counted to 60"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing", want)
		}
	}
	t.Logf("%s", out.String())
}

// text is what several processes write.
type text struct {
	mu sync.Mutex
	b  strings.Builder
}

func (t *text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}
