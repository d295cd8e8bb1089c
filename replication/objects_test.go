package replication

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/replication/embedded"
)

// smallServer has the default max_payload of nats-server.
func smallServer(t testing.TB) *Log {
	t.Helper()
	nc := connect(t, startServer(t, embedded.Options{MaxPayload: 1 << 20}))
	return openLog(t, nc, "test", Config{Memory: true})
}

func randomValue(t testing.TB, size int) []byte {
	t.Helper()
	value := make([]byte, size)
	for i, r := 0, newRand(t, 1); i < len(value); i++ {
		value[i] = byte(r.Uint32())
	}
	return value
}

func putObject(t testing.TB, l *Log, value []byte) *codec.Object {
	t.Helper()
	object, err := l.Objects().Put(t.Context(), bytes.NewReader(value))
	if err != nil {
		t.Fatal(err)
	}
	return object
}

func readObject(t testing.TB, l *Log, object *codec.Object) ([]byte, error) {
	t.Helper()
	r := l.Objects().Open(t.Context(), object)
	defer func() { _ = r.Close() }()
	return io.ReadAll(r)
}

func TestObjectRoundTrip(t *testing.T) {
	l := smallServer(t)
	for _, size := range []int{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, (readAhead + 1) * chunkSize, codec.MaxValueLen} {
		value := randomValue(t, size)
		object := putObject(t, l, value)
		if object.Size != int64(size) || object.Digest != sha256.Sum256(value) {
			t.Fatalf("%d bytes: put as %+v", size, object)
		}
		got, err := readObject(t, l, object)
		if err != nil || !bytes.Equal(got, value) {
			t.Fatalf("%d bytes: read %d, %v", size, len(got), err)
		}
	}
}

func TestObjectReaderObeysTheContract(t *testing.T) {
	l := smallServer(t)
	value := randomValue(t, 3*chunkSize+17)
	r := l.Objects().Open(t.Context(), putObject(t, l, value))
	if err := iotest.TestReader(r, value); err != nil {
		t.Fatal(err)
	}
}

// TestObjectOfOthers reads our objects with the client of nats.go.
func TestObjectOfOthers(t *testing.T) {
	l := smallServer(t)
	value := randomValue(t, 5*chunkSize)
	object := putObject(t, l, value)
	store, err := newJetStream(t, l.nc).ObjectStore(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	got, err := store.GetBytes(t.Context(), object.Name)
	if err != nil || !bytes.Equal(got, value) {
		t.Fatalf("nats.go reads %d bytes, %v", len(got), err)
	}
	infos, err := store.List(t.Context())
	if err != nil || len(infos) != 1 || infos[0].Name != object.Name {
		t.Fatalf("nats.go lists %v, %v", infos, err)
	}
}

func TestObjectTooLarge(t *testing.T) {
	l := smallServer(t)
	_, err := l.Objects().Put(t.Context(), io.LimitReader(zeros{}, codec.MaxValueLen+1))
	if !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
	waitForObjects(t, l, 0)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestObjectOfBrokenReader(t *testing.T) {
	l := smallServer(t)
	broken := errors.New("broken")
	_, err := l.Objects().Put(t.Context(), io.MultiReader(strings.NewReader(strings.Repeat("x", 3*chunkSize)), iotest.ErrReader(broken)))
	if r, ok := errors.AsType[*ReadError](err); !ok || !errors.Is(err, broken) || r.Error() == "" {
		t.Fatal(err)
	}
	waitForObjects(t, l, 0)
}

// waitForObjects waits until there are n objects, or parts of them.
func waitForObjects(t *testing.T, l *Log, n int) {
	t.Helper()
	for {
		names, err := l.Objects().Names(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(names) == n {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func TestRemoveObject(t *testing.T) {
	l := smallServer(t)
	kept, removed := putObject(t, l, randomValue(t, 1000)), putObject(t, l, randomValue(t, 2*chunkSize))
	for range 2 {
		if err := l.Objects().Remove(t.Context(), removed.Name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := readObject(t, l, removed); !errors.Is(err, ErrNoObject) {
		t.Errorf("the removed one: %v", err)
	}
	if _, err := readObject(t, l, kept); err != nil {
		t.Errorf("the other: %v", err)
	}
	names, err := l.Objects().Names(t.Context())
	if err != nil || len(names) != 1 || names[0] != kept.Name {
		t.Errorf("Names = %v, %v", names, err)
	}
}

func TestNamesWithoutObjects(t *testing.T) {
	l := smallServer(t)
	if names, err := l.Objects().Names(t.Context()); err != nil || len(names) != 0 {
		t.Errorf("Names = %v, %v", names, err)
	}
	object := codec.Object{Name: "nearkv-none", Size: 1}
	if _, err := readObject(t, l, &object); !errors.Is(err, ErrNoObject) {
		t.Error(err)
	}
}

// TestNamesSpareOthers: an object store of this name may hold what is not ours.
func TestNamesSpareOthers(t *testing.T) {
	l := smallServer(t)
	store, err := newJetStream(t, l.nc).CreateObjectStore(t.Context(), jetstream.ObjectStoreConfig{Bucket: "test", Storage: jetstream.MemoryStorage})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.PutBytes(t.Context(), "photo", randomValue(t, 1000)); err != nil {
		t.Fatal(err)
	}
	object := putObject(t, l, randomValue(t, 1000))
	names, err := l.Objects().Names(t.Context())
	if err != nil || len(names) != 1 || names[0] != object.Name {
		t.Errorf("Names = %v, %v", names, err)
	}
}

func TestNamedAt(t *testing.T) {
	l := smallServer(t)
	at, ok := NamedAt(l.Objects().newName())
	if age := time.Since(at); !ok || age < -time.Second || age > time.Hour {
		t.Errorf("made %v ago, %v", age, ok)
	}
	for _, name := range []string{"", "photo", "nearkv-", "nearkv-!-x", "nearkv-1", "xnearkv-1-x"} {
		if _, ok := NamedAt(name); ok {
			t.Errorf("%q has a time", name)
		}
	}
}

func TestDamagedObject(t *testing.T) {
	l := smallServer(t)
	js := newJetStream(t, l.nc)
	value := randomValue(t, 3*chunkSize)
	tests := map[string]func(t *testing.T, chunks string, seqs []uint64, s jetstream.Stream){
		"first chunk missing": func(t *testing.T, _ string, seqs []uint64, s jetstream.Stream) { deleteMsg(t, s, seqs[0]) },
		"last chunk missing":  func(t *testing.T, _ string, seqs []uint64, s jetstream.Stream) { deleteMsg(t, s, seqs[2]) },
		"another's end": func(t *testing.T, chunks string, seqs []uint64, s jetstream.Stream) {
			deleteMsg(t, s, seqs[2])
			publish(t, js, chunks, make([]byte, chunkSize))
		},
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			object := putObject(t, l, value)
			s, err := js.Stream(t.Context(), "OBJ_test")
			if err != nil {
				t.Fatal(err)
			}
			end := s.CachedInfo().State.LastSeq // that of the description
			damage(t, "$O.test.C."+object.Name, []uint64{end - 3, end - 2, end - 1}, s)
			got, err := readObject(t, l, object)
			if !errors.Is(err, ErrDamagedObject) || bytes.Equal(got, value) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
		})
	}
}

func deleteMsg(t *testing.T, s jetstream.Stream, seq uint64) {
	t.Helper()
	if err := s.DeleteMsg(t.Context(), seq); err != nil {
		t.Fatal(err)
	}
}

func publish(t *testing.T, js jetstream.JetStream, subject string, data []byte) {
	t.Helper()
	if _, err := js.Publish(t.Context(), subject, data); err != nil {
		t.Fatal(err)
	}
}

// TestObjectStoreIsClosed: a rollup header on one object would remove all.
func TestObjectStoreIsClosed(t *testing.T) {
	l := smallServer(t)
	putObject(t, l, []byte("x"))
	s, err := newJetStream(t, l.nc).Stream(t.Context(), "OBJ_test")
	if err != nil {
		t.Fatal(err)
	}
	if s.CachedInfo().Config.AllowRollup {
		t.Error("it takes rollup headers")
	}
}

// TestObjectSurvivesCuts reads on after the connection was lost, as often as it
// takes; a put that is cut is told as one that may pass.
func TestObjectSurvivesCuts(t *testing.T) {
	server := startServer(t, embedded.Options{MaxPayload: 1 << 20})
	w := &wire{to: server}
	l := openLog(t, w.tough(t), "test", Config{Memory: true})
	value := randomValue(t, 40*chunkSize)
	object := putObject(t, l, value)

	r := l.Objects().Open(t.Context(), object)
	var got []byte
	for p := make([]byte, 3*chunkSize); ; {
		n, err := io.ReadFull(r, p)
		got = append(got, p[:n]...)
		if err != nil {
			break
		}
		w.cut()
	}
	if !bytes.Equal(got, value) {
		t.Fatalf("read %d bytes of %d", len(got), len(value))
	}

	cutting := readerFunc(func(p []byte) (int, error) {
		w.cut()
		return len(p), nil
	})
	_, err := l.Objects().Put(t.Context(), cutting)
	if !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrUncertain) {
		t.Errorf("a put that is cut: %v", err)
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestObjectEndsWithContext(t *testing.T) {
	server := startServer(t, embedded.Options{MaxPayload: 1 << 20})
	w := &wire{to: server}
	l := openLog(t, w.tough(t), "test", Config{Memory: true})
	object := putObject(t, l, randomValue(t, 20*chunkSize))
	w.deafen()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, fmt.Errorf("enough"))
	defer cancel()
	if _, err := io.ReadAll(l.Objects().Open(ctx, object)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("read: %v", err)
	}
	if _, err := l.Objects().Put(ctx, zeros{}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("put: %v", err)
	}
}

// TestObjectWithoutDirectGet: where no server answers directly, the leader is asked.
func TestObjectWithoutDirectGet(t *testing.T) {
	l := smallServer(t)
	value := randomValue(t, 3*chunkSize)
	object := putObject(t, l, value)
	js := newJetStream(t, l.nc)
	s, err := js.Stream(t.Context(), "OBJ_test")
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.AllowDirect = false
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	got, err := readObject(t, l, object)
	if err != nil || !bytes.Equal(got, value) {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
}
