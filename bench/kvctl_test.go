package bench

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/codec"
)

// kvctlBinary builds kvctl, of the library's module.
var kvctlBinary = sync.OnceValues(func() (string, error) {
	binary := filepath.Join(binaries, "kvctl")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "./kvstore/kvctl")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build kvctl: %w\n%s", err, out)
	}
	return binary, nil
})

// BenchmarkBulkFile writes a file of bulk JSON to a nats-server process: kvctl
// bulk put, from its start to its end, which reads the file twice, and a loop that
// reads it once and calls Put of the NATS client. Each makes a bucket of its own, as
// it does by default.
func BenchmarkBulkFile(b *testing.B) {
	for _, n := range sizesOf(10_000, 1_000_000) {
		file := filepath.Join(b.TempDir(), "pairs.json")
		if err := writeBulkFile(file, datasetOf(n, valueSize)); err != nil {
			b.Fatal(err)
		}
		for _, peer := range []struct {
			name string
			put  func(s *natsServer, js jetstream.JetStream, bucket, file string) error
		}{
			{"nearkv", putFileByKvctl},
			{"jetstream", putFileByLoop},
		} {
			run(b, peer.name, func(b *testing.B) { benchmarkBulkFile(b, n, file, peer.put) }, "n=%d", n)
		}
	}
}

func benchmarkBulkFile(b *testing.B, n int, file string, put func(*natsServer, jetstream.JetStream, string, string) error) {
	if _, err := kvctlBinary(); err != nil { // not within the time
		b.Fatal(err)
	}
	server := startProcess(b)
	js := newJetStream(b, connect(b, server))
	for b.Loop() {
		if err := put(server, js, "bulk", file); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := checkBucket(js, "bulk", n); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "keys/s")
}

// checkBucket counts the keys, and removes the bucket for the next round.
func checkBucket(js jetstream.JetStream, bucket string, n int) error {
	ctx := context.Background()
	kv, err := js.KeyValue(ctx, bucket)
	if err != nil {
		return err
	}
	status, err := kv.Status(ctx)
	if err != nil {
		return err
	}
	if status.Values() != uint64(n) {
		return fmt.Errorf("%d keys, not %d", status.Values(), n)
	}
	return js.DeleteKeyValue(ctx, bucket)
}

func writeBulkFile(file string, d dataset) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriter(f)
	w := codec.NewBulkWriter(buffered)
	for _, key := range d.keys {
		if err := w.Write(codec.BulkPair{Key: key, Value: []byte(d.value)}); err != nil {
			return err
		}
	}
	for _, end := range []func() error{w.Close, buffered.Flush, f.Close} {
		if err := end(); err != nil {
			return err
		}
	}
	return nil
}

func putFileByKvctl(s *natsServer, _ jetstream.JetStream, bucket, file string) error {
	binary, err := kvctlBinary()
	if err != nil {
		return err
	}
	out, err := exec.Command(binary, "bulk", "put", file, "--url", s.url, "-n", bucket).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func putFileByLoop(_ *natsServer, js jetstream.JetStream, bucket, file string) error {
	ctx := context.Background()
	kv, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: bucket})
	if err != nil {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was read
	for p, err := range codec.ReadBulk(bufio.NewReader(f), codec.BulkOptions{}) {
		if err != nil {
			return err
		}
		if _, err := kv.Put(ctx, p.Key, p.Value); err != nil {
			return err
		}
	}
	return nil
}
