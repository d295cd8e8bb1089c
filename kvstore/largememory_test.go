package kvstore_test

import (
	"io"
	"runtime"
	"testing"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
)

// TestLargeMemory streams the largest value into and out of a Store whose server is
// in another process, and looks now and then at the memory that is in use.
func TestLargeMemory(t *testing.T) {
	dir := t.TempDir()
	c := startRole(t, "open", dir)
	c.expect(t, "ready")
	s := opened(t, "memory", kvstore.Options{Dir: dir, CacheBytes: -1})
	before := heapInUse()
	var most int64
	look := func() { most = max(most, heapInUse()-before) }
	if _, err := s.PutFrom(t.Context(), "large", &watched{r: io.LimitReader(pattern{}, codec.MaxValueLen), look: look}); err != nil {
		t.Fatal(err)
	}
	e, err := s.Get(t.Context(), "large", kvstore.Lazy())
	if err != nil {
		t.Fatal(err)
	}
	r, err := e.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, &watched{r: r, look: look})
	if err != nil || n != codec.MaxValueLen {
		t.Fatal(n, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if most > 4<<20 {
		t.Errorf("%d bytes are in use while 25 MiB are streamed", most)
	}
	t.Logf("at most %d bytes in use", most)
	c.end(t)
}

func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// pattern is a value that differs from byte to byte.
type pattern struct{}

func (pattern) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(i * 7)
	}
	return len(p), nil
}

// watched has look called with every 2 MiB that are read.
type watched struct {
	r    io.Reader
	look func()
	n    int
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if w.n/(2<<20) != (w.n+n)/(2<<20) {
		w.look()
	}
	w.n += n
	return n, err
}
