//go:build peers

package bench

import (
	"context"
	"crypto/tls"
	"net"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

func init() { readers = append(readers, reader{"rueidis", openRueidis}) }

// openRueidis returns a reader of a redis-server by way of rueidis, which keeps
// what it has read in memory and is told by the server of what has changed.
func openRueidis(b *testing.B, _ server, d dataset) (getFunc, func()) {
	b.Helper()
	client, stop := startRedis(b)
	ctx := context.Background()
	for _, key := range d.keys {
		if err := client.Do(ctx, client.B().Set().Key(key).Value(d.value).Build()).Error(); err != nil {
			b.Fatal(err)
		}
	}
	get := func(key string) (string, bool) {
		value, err := client.DoCache(ctx, client.B().Get().Key(key).Cache(), time.Hour).ToString()
		return value, err == nil
	}
	for _, key := range d.keys {
		get(key)
	}
	return get, stop
}

// startRedis starts a redis-server that keeps nothing on disk, on a unix socket.
func startRedis(b *testing.B) (rueidis.Client, func()) {
	b.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		b.Fatal(err)
	}
	socket := filepath.Join(b.TempDir(), "redis.sock")
	cmd := exec.Command(binary, "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no")
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	option := rueidis.ClientOption{
		InitAddress: []string{socket}, CacheSizeEachConn: 1 << 30, DisableRetry: true,
		DialCtxFn: func(ctx context.Context, path string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
			return d.DialContext(ctx, "unix", path)
		},
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		client, err := rueidis.NewClient(option)
		if err == nil {
			return client, func() {
				client.Close()
				_ = cmd.Process.Kill()
				_ = cmd.Wait() // it was killed
			}
		}
		if time.Now().After(end) {
			b.Fatal(err)
		}
	}
}
