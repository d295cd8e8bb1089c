//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// binaries are built once: the tests run real processes.
var binaries struct{ service, nats string }

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "featureflags-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	binaries.service, binaries.nats = filepath.Join(dir, "featureflags"), filepath.Join(dir, "nats-server")
	for binary, source := range map[string]string{
		binaries.service: ".",
		binaries.nats:    "github.com/nats-io/nats-server/v2", // a tool of this module
	} {
		if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, source).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", source, err, out)
			return 1
		}
	}
	return m.Run()
}

// natsServer is a process of its own, with JetStream, on the loopback.
type natsServer struct {
	*process
	url string
}

func startNATS(t *testing.T) *natsServer {
	t.Helper()
	dir := t.TempDir()
	p, _ := start(t, binaries.nats, "-a", "127.0.0.1", "-p", "-1", "-js", "-sd", dir, "--ports_file_dir", dir)
	pattern := filepath.Join(dir, "*.ports")
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			continue
		}
		var ports struct {
			NATS []string `json:"nats"`
		}
		data, err := os.ReadFile(files[0])
		if err == nil && json.Unmarshal(data, &ports) == nil && len(ports.NATS) == 1 {
			return &natsServer{p, ports.NATS[0]}
		}
	}
	t.Fatalf("nats-server did not write %s", pattern)
	return nil
}
