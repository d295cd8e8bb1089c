package bench

import (
	"fmt"
	"os"
	"testing"
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

// testMain removes what natsServerBinary has built.
func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "nearkv-bench-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	binaries = dir
	return m.Run()
}
