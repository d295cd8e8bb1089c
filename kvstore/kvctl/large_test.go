//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
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
		r := call(t, append([]string{"bulk", "put", file, "--json"}, place...)...)
		if r.status != exitDone {
			t.Fatal(r.stderr)
		}
		peak[i] = r.process.SysUsage().(*syscall.Rusage).Maxrss << 10 // KiB on Linux
		t.Logf("%d pairs, file %d MB: peak RSS %d MB: %s", n, size[i]/1e6, peak[i]/1e6, strings.TrimSpace(r.stdout))
		wantPairs(t, n, place...)
	}
	if more, held := peak[1]-peak[0], size[1]-size[0]; more > held/4*3 {
		t.Errorf("%d bytes more of file took %d bytes more of memory", held, more)
	}
}
