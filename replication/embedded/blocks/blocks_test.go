package blocks_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/replication/embedded/blocks"
)

// streamDir has the real server write a stream, and returns its directory and what was published.
func streamDir(t testing.TB, config jetstream.StreamConfig, publish func(js jetstream.JetStream)) string {
	t.Helper()
	dir := t.TempDir()
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, NoLog: true, JetStream: true, StoreDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(context.Background(), config); err != nil {
		t.Fatal(err)
	}
	publish(js)
	nc.Close()
	s.Shutdown()
	s.WaitForShutdown()
	return filepath.Join(dir, "jetstream", "$G", "streams", config.Name)
}

func layoutConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: "KV_a", Subjects: []string{"$KV.a.>"}, MaxMsgsPerSubject: 1, AllowMsgTTL: true,
		Discard: jetstream.DiscardNew, DenyPurge: true,
	}
}

func publishLayout(t testing.TB) func(js jetstream.JetStream) {
	return func(js jetstream.JetStream) {
		for i := range 20 {
			m := nats.NewMsg(fmt.Sprintf("$KV.a.k%d", i))
			m.Data = bytes.Repeat([]byte{byte(i)}, i)
			if i%2 == 0 {
				m.Header.Set("X", fmt.Sprint(i))
			}
			if _, err := js.PublishMsg(context.Background(), m); err != nil {
				t.Fatal(err)
			}
		}
		st, err := js.Stream(context.Background(), "KV_a")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(st.DeleteMsg(context.Background(), 3), st.SecureDeleteMsg(context.Background(), 4)); err != nil {
			t.Fatal(err)
		}
	}
}

func readFile(t testing.TB, path ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// The layout is that of the server in go.mod: blocks, the index and the description of a stream.
func TestCanaryLayout(t *testing.T) {
	dir := streamDir(t, layoutConfig(), publishLayout(t))
	r := blocks.NewReader(readFile(t, dir, "msgs", "1.blk"), "KV_a", 1)
	kinds := make(map[blocks.Kind]int)
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		kinds[rec.Kind]++
		if rec.Kind != blocks.Message {
			continue
		}
		i := int(rec.Sequence) - 1
		if string(rec.Subject) != fmt.Sprintf("$KV.a.k%d", i) || !bytes.Equal(rec.Value, bytes.Repeat([]byte{byte(i)}, i)) || rec.Time == 0 {
			t.Errorf("record %+v", rec)
		}
		if want := fmt.Sprintf("NATS/1.0\r\nX: %d\r\n\r\n", i); i%2 == 0 && string(rec.Header) != want {
			t.Errorf("header %q, want %q", rec.Header, want)
		}
	}
	if kinds[blocks.Message] < 18 || kinds[blocks.Erased] != 1 || kinds[blocks.Tombstone] == 0 {
		t.Errorf("kinds %v", kinds)
	}
	config, err := blocks.ParseConfig(readFile(t, dir, "meta.inf"), readFile(t, dir, "meta.sum"), "KV_a")
	if err != nil {
		t.Fatal(err)
	}
	index, err := blocks.ParseIndex(readFile(t, dir, "msgs", "index.db"), "KV_a")
	if err != nil {
		t.Fatal(err)
	}
	if index.Messages != 18 || index.Last != 20 || index.Subjects != 18 || len(index.Blocks) != 1 || !index.Blocks[0].Live(5) || index.Blocks[0].Live(3) {
		t.Errorf("index %+v", index)
	}
	s := blocks.NewStream(config, index)
	if total, found := s.Compare([]blocks.Summary{s.Check(readFile(t, dir, "msgs", "1.blk"), 1)}); len(found) > 0 || total.Last != 20 {
		t.Errorf("%+v, %+v", total, found)
	}
}

// A block is read also if the server has compressed it.
func TestCanaryCompression(t *testing.T) {
	dir := streamDir(t, layoutConfig(), publishLayout(t))
	file := readFile(t, dir, "msgs", "1.blk")
	packed, err := server.S2Compression.Compress(bytes.Clone(file))
	if err != nil {
		t.Fatal(err)
	}
	info := &server.CompressionInfo{Algorithm: server.S2Compression, OriginalSize: uint64(len(file))}
	packed = append(info.MarshalMetadata(), packed...)
	if got, err := blocks.Unpack(packed); err != nil || !bytes.Equal(got, file) {
		t.Errorf("%d bytes of %d, %v", len(got), len(file), err)
	}
	packed[len(packed)/2] ^= 1
	if _, err := blocks.Unpack(packed); err == nil {
		t.Error("a damaged block is read")
	}
}

// Whatever bit is flipped in a block after a clean end is found, and nothing panics. A flip that is not found changes
// nothing that is read: there is none.
func TestEveryBit(t *testing.T) {
	config := layoutConfig()
	dir := streamDir(t, config, func(js jetstream.JetStream) {
		for i := range 30 {
			m := nats.NewMsg(fmt.Sprintf("$KV.a.k%d", i))
			m.Data, m.Header = []byte("value"), nats.Header{"X": {"y"}}
			if _, err := js.PublishMsg(context.Background(), m); err != nil {
				t.Fatal(err)
			}
		}
	})
	file := readFile(t, dir, "msgs", "1.blk")
	c, err := blocks.ParseConfig(readFile(t, dir, "meta.inf"), readFile(t, dir, "meta.sum"), "KV_a")
	if err != nil {
		t.Fatal(err)
	}
	s := blocks.NewStream(c, nil) // no index: as after a kill
	for bit := range len(file) * 8 {
		file[bit/8] ^= 1 << (bit % 8)
		m := s.Check(file, 1)
		if _, found := s.Compare([]blocks.Summary{m}); len(found) == 0 {
			t.Errorf("bit %d of byte %d of %d: not found: %+v", bit%8, bit/8, len(file), m)
		}
		file[bit/8] ^= 1 << (bit % 8)
	}
}

// FuzzBlock: no input makes Check panic, or read what was not there.
func FuzzBlock(f *testing.F) {
	dir := streamDir(f, layoutConfig(), publishLayout(f))
	file := readFile(f, dir, "msgs", "1.blk")
	f.Add(file)
	f.Add(file[:len(file)/2])
	f.Add([]byte("cmp\x01\x20"))
	c, err := blocks.ParseConfig(readFile(f, dir, "meta.inf"), readFile(f, dir, "meta.sum"), "KV_a")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := blocks.NewStream(c, nil)
		m := s.Check(data, 1)
		if _, found := s.Compare([]blocks.Summary{m}); m.Fault != nil && !m.Fault.Torn && len(found) == 0 {
			t.Error("a fault is not found")
		}
	})
}

// FuzzIndex: no input makes ParseIndex panic.
func FuzzIndex(f *testing.F) {
	dir := streamDir(f, layoutConfig(), publishLayout(f))
	f.Add(readFile(f, dir, "msgs", "index.db"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		if index, err := blocks.ParseIndex(data, "KV_a"); err == nil {
			index.EachSubject(func([]byte, uint64, uint32) bool { return true })
		}
	})
}
