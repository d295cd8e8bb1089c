package embedded_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/replication/embedded"
)

// A server that ends while it removes what has expired leaves an index with messages of whose expiry its wheel does not
// know. They expire nevertheless.
func TestWheelLacksExpiries(t *testing.T) {
	dir := t.TempDir()
	config := streamConfig(jetstream.FileStorage)
	config.AllowMsgTTL = true
	s := start(t, embedded.Options{Dir: dir})
	_, js := connect(t, s)
	if _, err := js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"s.a", "s.b"} {
		if _, err := js.Publish(t.Context(), subject, nil, jetstream.WithMsgTTL(time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	put(t, js, "s.c", "stays")
	shutdown(t, s)

	wheel := filepath.Join(dir, "nats", "jetstream", "$G", "streams", config.Name, "msgs", "thw.db")
	if _, err := os.Stat(wheel); err != nil {
		t.Fatal(err)
	}
	empty := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64([]byte{1}, 0), 4) // no entry, valid up to 3
	if err := os.WriteFile(wheel, empty, 0o600); err != nil {
		t.Fatal(err)
	}

	_, js = connect(t, start(t, embedded.Options{Dir: dir}))
	st, err := js.Stream(t.Context(), config.Name)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		info, err := st.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.State.Msgs == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("there are %d messages, and 1 does not expire", info.State.Msgs)
		}
	}
	wantValue(t, st, "s.c", "stays")
}
