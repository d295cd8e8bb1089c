package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A bulk put needs memory for a replica's index of the keys and for what is under
// way, and not for the file: as much for large values as for small ones. NEARKV_LARGE
// has it write 1,000,000 pairs.
func TestBulkPutMemory(t *testing.T) {
	n, values := 100_000, [2]int{10, 1000}
	if os.Getenv("NEARKV_LARGE") != "" {
		n, values = 1_000_000, [2]int{10, 500}
	}
	server, err := startNATS(t.TempDir(), "") // whose memory is not that of kvctl
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopNATS(server) })
	var peak, size [2]int64
	for i, value := range values {
		file := filepath.Join(t.TempDir(), "pairs.json")
		size[i] = writePairs(t, file, n, value)
		place := []string{"--url", server.ClientURL(), "-n", []string{"small", "large"}[i]}
		var out bytes.Buffer
		cmd := command(t, append([]string{"bulk", "put", file, "--json"}, place...)...)
		cmd.Stdout = &out
		peak[i] = peakMemory(t, cmd)
		t.Logf("%d pairs, file %d MB: peak RSS %d MB: %s", n, size[i]/1e6, peak[i]/1e6, strings.TrimSpace(out.String()))
		wantPairs(t, n, place...)
	}
	if more, held := peak[1]-peak[0], size[1]-size[0]; more > held/2 {
		t.Errorf("%d bytes more of file took %d bytes more of memory", held, more)
	}
}

// peakMemory runs a command and returns the most memory that it had, in bytes. It
// looks while the command runs: what the system tells of it afterwards counts this
// process, which started it, too.
func peakMemory(t *testing.T, cmd *exec.Cmd) (peak int64) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			if err != nil || peak == 0 {
				t.Fatalf("%v, peak %d", err, peak)
			}
			return peak
		case <-time.After(5 * time.Millisecond):
			peak = max(peak, highWater(cmd.Process.Pid))
		}
	}
}

func highWater(pid int) (kib int64) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // it may have ended
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	_, _ = fmt.Sscan(rest, &kib)
	return kib << 10
}
