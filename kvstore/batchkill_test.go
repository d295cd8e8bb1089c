package kvstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nearkv/nearkv/kvstore"
)

// batchKeys are the keys of every batch of TestBatchKill9.
var batchKeys = func() (keys []string) {
	for i := range 50 {
		keys = append(keys, fmt.Sprintf("key:%02d", i))
	}
	return keys
}()

const largeKillSize = 1 << 20

func largeKillValue(n int) string {
	word := fmt.Sprintf("%09d.", n)
	return strings.Repeat(word, largeKillSize/len(word))
}

// playBatches writes batches and large values with growing numbers, and says which
// are acknowledged, until it is killed.
func playBatches(dir string) error {
	s, err := kvstore.Open(context.Background(), "kill", kvstore.Options{Dir: dir, CacheBytes: 1 << 20})
	if err != nil {
		return err
	}
	e, err := s.Get(context.Background(), batchKeys[0])
	if err != nil && !errors.Is(err, kvstore.ErrNotFound) {
		return err
	}
	n, _ := strconv.Atoi(e.Text())
	for n++; ; n++ {
		var ops []kvstore.Op
		for _, key := range batchKeys {
			ops = append(ops, kvstore.OpPut(key, []byte(strconv.Itoa(n))))
		}
		if _, err := s.Batch(context.Background(), ops...); err != nil {
			return err
		}
		fmt.Println("batch", n)
		if _, err := s.PutFrom(context.Background(), "large", io.MultiReader(strings.NewReader(largeKillValue(n)))); err != nil {
			return err
		}
		fmt.Println("large", n)
	}
}

// TestBatchKill9 kills processes that write batches and large values: each batch is
// there as a whole or not at all, each value is a whole one, and what was
// acknowledged is there.
func TestBatchKill9(t *testing.T) {
	kills := 8
	if n, err := strconv.Atoi(os.Getenv("NEARKV_KILLS")); err == nil {
		kills = n
	}
	dir := t.TempDir()
	acknowledged := map[string]int{"batch": 0, "large": 0}
	for range kills {
		c := startRole(t, "batches", dir)
		killer := time.AfterFunc(100*time.Millisecond+rand.N(300*time.Millisecond), func() { _ = c.cmd.Process.Kill() })
		for c.lines.Scan() {
			what, number, _ := strings.Cut(c.lines.Text(), " ")
			acknowledged[what], _ = strconv.Atoi(number)
		}
		killer.Stop()
		if err := c.cmd.Wait(); err == nil || c.stderr.Len() > 0 {
			t.Fatalf("the child ended by itself: %v: %s", err, &c.stderr)
		}
		checkBatches(t, dir, acknowledged)
	}
	t.Logf("%d kills, acknowledged were %v", kills, acknowledged)
	t.Logf("soak: kills=%d operations=%d", kills, acknowledged["batch"]+acknowledged["large"])
}

func checkBatches(t *testing.T, dir string, acknowledged map[string]int) {
	t.Helper()
	s, err := kvstore.Open(t.Context(), "kill", kvstore.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	all, err := s.GetAll(t.Context(), batchKeys)
	if err != nil {
		t.Fatal(err)
	}
	first := all[batchKeys[0]].Text()
	for _, key := range batchKeys {
		if got := all[key].Text(); got != first {
			t.Fatalf("%s is %q, %s is %q", batchKeys[0], first, key, got)
		}
	}
	if n, _ := strconv.Atoi(first); n < acknowledged["batch"] {
		t.Errorf("batch %d was acknowledged, there is %d", acknowledged["batch"], n)
	}
	e, err := s.Get(t.Context(), "large")
	if errors.Is(err, kvstore.ErrNotFound) && acknowledged["large"] == 0 {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(e.Text()[:9])
	if n < acknowledged["large"] || e.Text() != largeKillValue(n) {
		t.Errorf("value %d was acknowledged, there is %.20q with %d bytes", acknowledged["large"], e.Text(), e.Len())
	}
}
