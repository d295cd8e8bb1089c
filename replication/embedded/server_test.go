package embedded_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/replication/embedded"
)

func TestMemory(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	s := start(t, embedded.Options{})
	_, js := connect(t, s)
	st := createStream(t, js, jetstream.MemoryStorage)
	put(t, js, "s.a", "1")
	wantValue(t, st, "s.a", "1")
	if s.Dir() != "" {
		t.Errorf("Dir is %q, want none", s.Dir())
	}

	temp := onlyEntry(t, os.TempDir())
	wantMode(t, temp, 0o700|os.ModeDir)
	shutdown(t, s)
	if _, err := os.Lstat(temp); !os.IsNotExist(err) {
		t.Errorf("temporary directory is still there: %v", err)
	}
}

// Without Dir nobody should store files: the server lets one message through, then none.
func TestMemoryHasNoFileStreams(t *testing.T) {
	_, js := connect(t, start(t, embedded.Options{MaxStore: 1 << 30}))
	createStream(t, js, jetstream.FileStorage)
	put(t, js, "s.a", "1")
	_, err := js.Publish(t.Context(), "s.b", nil)
	wantAPIError(t, err, 10023)
}

func TestReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	for i := range 3 {
		s := start(t, embedded.Options{Dir: dir})
		if s.Dir() != dir {
			t.Errorf("Dir is %q, want %q", s.Dir(), dir)
		}
		_, js := connect(t, s)
		st, err := js.CreateOrUpdateStream(t.Context(), streamConfig(jetstream.FileStorage))
		if err != nil {
			t.Fatal(err)
		}
		put(t, js, fmt.Sprintf("s.%d", i), "v")
		for k := range i + 1 {
			wantValue(t, st, fmt.Sprintf("s.%d", k), "v")
		}
		shutdown(t, s)
	}
}

// The application may change its working directory.
func TestRelativeDir(t *testing.T) {
	home := t.TempDir()
	t.Chdir(home)
	s := start(t, embedded.Options{Dir: "kv"})
	if want := filepath.Join(home, "kv"); s.Dir() != want {
		t.Errorf("Dir is %q, want %q", s.Dir(), want)
	}
	t.Chdir(t.TempDir())
	_, js := connect(t, s)
	createStream(t, js, jetstream.FileStorage)
	put(t, js, "s.a", "1")
	onlyEntry(t, home)
}

func TestThreeServers(t *testing.T) {
	opts := []embedded.Options{
		{},
		{Dir: t.TempDir(), MaxPayload: 1 << 20, MaxStore: 1 << 20},
		{Dir: t.TempDir(), MaxPayload: 2 << 20, MaxMemory: 1 << 20},
	}
	var conns []*nats.Conn
	for _, o := range opts {
		nc, js := connect(t, start(t, o))
		createStream(t, js, jetstream.MemoryStorage)
		conns = append(conns, nc)
	}
	for i, nc := range conns {
		want := int64(opts[i].MaxPayload)
		if want == 0 {
			want = int64(embedded.DefaultMaxPayload)
		}
		if got := nc.MaxPayload(); got != want {
			t.Errorf("server %d: max payload is %d, want %d", i, got, want)
		}
		js := streams(t, nc)
		put(t, js, "s.a", fmt.Sprint(i))
	}
	for i, nc := range conns {
		st, err := streams(t, nc).Stream(t.Context(), "S")
		if err != nil {
			t.Fatal(err)
		}
		wantValue(t, st, "s.a", fmt.Sprint(i))
	}
}

func TestLimits(t *testing.T) {
	const limit = 1 << 20
	for _, storage := range []jetstream.StorageType{jetstream.MemoryStorage, jetstream.FileStorage} {
		t.Run(storage.String(), func(t *testing.T) {
			_, js := connect(t, start(t, embedded.Options{Dir: t.TempDir(), MaxMemory: limit, MaxStore: limit}))
			createStream(t, js, storage)
			half := make([]byte, limit/2)
			for i := range 3 {
				_, err := js.Publish(t.Context(), fmt.Sprintf("s.%d", i), half)
				if i == 2 {
					wantAPIError(t, err, 10023)
				} else if i == 0 && err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestLargestValue(t *testing.T) {
	_, js := connect(t, start(t, embedded.Options{Dir: t.TempDir()}))
	st := createStream(t, js, jetstream.FileStorage)
	value := bytes.Repeat([]byte("0123456789abcdef"), 25<<20/16)
	if _, err := js.Publish(t.Context(), "s.big", value); err != nil {
		t.Fatal(err)
	}
	m, err := st.GetLastMsgForSubject(t.Context(), "s.big")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.Data, value) {
		t.Errorf("got %d other bytes", len(m.Data))
	}
	_, err = js.Publish(t.Context(), "s.big", make([]byte, embedded.DefaultMaxPayload+1))
	wantErrorIs(t, err, nats.ErrMaxPayload)
}

func TestAfterShutdown(t *testing.T) {
	s := start(t, embedded.Options{})
	shutdown(t, s)
	_, err := s.InProcessConn()
	wantErrorIs(t, err, net.ErrClosed)
	_, err = s.Connect()
	wantErrorIs(t, err, net.ErrClosed)
}

func onlyEntry(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Fatalf("%s has %v, want one entry", dir, entries)
	}
	return filepath.Join(dir, entries[0].Name())
}

func wantMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != want {
		t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
	}
}

// What a file manager or a network file system leaves beside the streams is no damage.
func TestHiddenFileAmongStreams(t *testing.T) {
	dir := t.TempDir()
	s := start(t, embedded.Options{Dir: dir})
	_, js := connect(t, s)
	createStream(t, js, jetstream.FileStorage)
	put(t, js, "s.a", "1")
	shutdown(t, s)
	if err := os.WriteFile(filepath.Join(dir, "nats", "jetstream", "$G", "streams", ".DS_Store"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, embedded.Options{Dir: dir})
}

// Other processes try whether the disk takes something, in files that come and go. And
// the log of a raft group is purged as it goes, also when its process is killed.
func TestCheckOfWhatMoves(t *testing.T) {
	dir := t.TempDir()
	s := start(t, embedded.Options{Dir: dir})
	_, js := connect(t, s)
	createStream(t, js, jetstream.FileStorage)
	shutdown(t, s)
	group := filepath.Join(dir, "nats", "jetstream", "$SYS", "_js_", "S-R3F-test")
	for _, d := range []string{"msgs", "__msgs__"} {
		if err := os.MkdirAll(filepath.Join(group, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	var mover sync.WaitGroup
	mover.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			probe := filepath.Join(dir, "nats", fmt.Sprint("probe-", i%7))
			if err := errors.Join(os.WriteFile(probe, nil, 0o600), os.Remove(probe)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 300 {
		if r, err := embedded.Check(t.Context(), dir); err != nil || len(r.Damage) != 0 {
			t.Errorf("%+v, %v", r, err)
			break
		}
	}
	close(done)
	mover.Wait()
}
