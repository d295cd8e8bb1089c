package kvstore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nearkv/nearkv/replication"
)

// crashImage fills a Dir with several blocks of records, some of which are replaced or
// deleted later, and returns a copy of it as a killed process leaves it.
func crashImage(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	s, err := Open(t.Context(), "app", Options{Dir: dir, Exclusive: true}) // a socket cannot be copied
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	value := bytes.Repeat([]byte("v"), 8<<10)
	for i := range 1500 {
		if _, err := s.Put(t.Context(), fmt.Sprintf("key%d", i%1400), value); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			if err := s.Delete(t.Context(), fmt.Sprintf("key%d", i/2)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := os.CopyFS(image, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return image
}

// What is gone from a Dir is told, also after a kill, when the server's own files do
// not show it: the state is Degraded at every Open, until that is accepted.
func TestWitness(t *testing.T) {
	image := crashImage(t)
	streams := filepath.Join("nats", "jetstream", "$G", "streams", "KV_app")
	blocks, err := filepath.Glob(filepath.Join(image, streams, "msgs", "*.blk"))
	if err != nil || len(blocks) < 3 {
		t.Fatalf("there are %d blocks, %v", len(blocks), err)
	}
	block := func(n int) string { return filepath.Join(streams, "msgs", fmt.Sprintf("%d.blk", n)) }
	remove := func(paths ...string) func(dir string) error {
		return func(dir string) (err error) {
			for _, p := range paths {
				err = errors.Join(err, os.RemoveAll(filepath.Join(dir, p)))
			}
			return err
		}
	}
	for name, tt := range map[string]struct {
		harm func(dir string) error
		lost bool
		gone bool // all of the namespace
	}{
		"nothing":            {remove(), false, false},
		"a damaged witness":  {spoilWitness, false, false},
		"no witness":         {remove("witness"), false, false},
		"the first block":    {remove(block(1)), true, false},
		"a block in between": {remove(block(2)), true, false},
		"the last block":     {remove(block(len(blocks))), true, false},
		"the stream":         {remove(streams), true, true},
		"all of the server":  {remove("nats"), true, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dir")
			if err := errors.Join(os.CopyFS(dir, os.DirFS(image)), tt.harm(dir)); err != nil {
				t.Fatal(err)
			}
			for range 4 {
				wantLoss(t, dir, tt.lost, tt.gone)
			}
			if files, err := filepath.Glob(filepath.Join(dir, witnessDir, "*"+seenSuffix)); err != nil || len(files) > 1 {
				t.Errorf("there are %q, %v", files, err)
			}
			s, err := Open(t.Context(), "app", Options{Dir: dir, AcceptLoss: true})
			if err != nil {
				t.Fatal(err)
			}
			if st := s.Status(); st.State != Live {
				t.Errorf("when it is accepted the state is %v: %s", st.State, st.Reason)
			}
			if _, err := s.Put(t.Context(), "key", nil); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			wantLoss(t, dir, false, false)
		})
	}
}

// wantLoss opens a Store of a Dir that has lost something, or not.
func wantLoss(t *testing.T, dir string, lost, gone bool) {
	t.Helper()
	s, err := Open(t.Context(), "app", Options{Dir: dir})
	if gone {
		if !errors.Is(err, ErrDirDamaged) || !strings.Contains(err.Error(), "AcceptLoss") {
			t.Fatalf("Open: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	st := s.Status()
	if degraded := st.State == Degraded; degraded != lost {
		t.Errorf("the state is %v: %s", st.State, st.Reason)
	}
	if lost && !strings.Contains(st.Reason, "lost") {
		t.Errorf("the reason is %q", st.Reason)
	}
}

func spoilWitness(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, witnessDir, "*"+seenSuffix))
	for _, f := range files {
		b, readErr := os.ReadFile(f)
		b[20] ^= 1
		err = errors.Join(err, readErr, os.WriteFile(f, b, 0o600))
	}
	return err
}

// One bit is enough to make a testimony one that says nothing.
func TestTestimony(t *testing.T) {
	want := testimony{nameOf(replication.Incarnation("a")), 7, 5}
	b := want.append(nil)
	if got, ok := parseTestimony(b); !ok || got != want {
		t.Fatalf("read is %+v, %v", got, ok)
	}
	for i := range 8 * len(b) {
		b[i/8] ^= 1 << (i % 8)
		if got, ok := parseTestimony(b); ok {
			t.Errorf("with bit %d changed read is %+v", i, got)
		}
		b[i/8] ^= 1 << (i % 8)
	}
	if _, ok := parseTestimony(b[:len(b)-1]); ok {
		t.Error("a short file says something")
	}
}

// Stores that live are not robbed of their files, and those of dead ones do not pile up.
func TestWitnessFiles(t *testing.T) {
	dir := t.TempDir()
	open := func() *Store {
		s, err := Open(t.Context(), "app", Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	count := func(want int) {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(dir, witnessDir, "*"))
		if err != nil || len(files) != want {
			t.Errorf("there are %q, %v, and not %d", files, err, want)
		}
	}
	a, b := open(), open()
	count(2)
	c := open()
	count(3)
	for _, s := range []*Store{a, b, c} {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	d := open()
	count(1)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	count(1)
}
