package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// binaries is the directory for what benchmarks build.
var binaries string

// natsServerBinary builds nats-server, a tool of this module, when the first
// benchmark needs it.
var natsServerBinary = sync.OnceValues(func() (string, error) {
	binary := filepath.Join(binaries, "nats-server")
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "github.com/nats-io/nats-server/v2").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build nats-server: %w\n%s", err, out)
	}
	return binary, nil
})

// natsServer is a nats-server process with its defaults, on the loopback.
type natsServer struct{ url, dir string }

// startProcess starts a nats-server that keeps its streams in files.
func startProcess(b *testing.B) *natsServer {
	b.Helper()
	binary, err := natsServerBinary()
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	cmd := exec.Command(binary, "-a", "127.0.0.1", "-p", "-1", "-js", "-sd", dir, "--ports_file_dir", dir)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			b.Error(err)
		}
		_ = cmd.Wait() // it was killed
	})
	return &natsServer{awaitURL(b, filepath.Join(dir, fmt.Sprintf("nats-server_%d.ports", cmd.Process.Pid))), dir}
}

// awaitURL waits for the file in which nats-server tells its ports.
func awaitURL(b *testing.B, file string) string {
	b.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		var ports struct {
			NATS []string `json:"nats"`
		}
		data, err := os.ReadFile(file)
		if err == nil && json.Unmarshal(data, &ports) == nil && len(ports.NATS) == 1 {
			return ports.NATS[0]
		}
	}
	b.Fatal("nats-server does not tell its ports")
	return ""
}

// Connect connects to the server.
func (s *natsServer) Connect(opts ...nats.Option) (*nats.Conn, error) {
	return nats.Connect(s.url, opts...)
}

// Dir is where the server keeps its streams.
func (s *natsServer) Dir() string { return s.dir }
