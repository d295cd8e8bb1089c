package embedded_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/nearkv/nearkv/replication/embedded"
)

func TestInvalidOptions(t *testing.T) {
	for _, tc := range []struct {
		option string
		opts   embedded.Options
	}{
		{"MaxMemory", embedded.Options{MaxMemory: -1}},
		{"MaxStore", embedded.Options{MaxStore: -1}},
		{"MaxPayload", embedded.Options{MaxPayload: -1}},
		{"MaxPayload", embedded.Options{MaxPayload: embedded.MinMaxPayload - 1}},
		{"MaxPayload", embedded.Options{MaxPayload: embedded.MaxMaxPayload + 1}},
	} {
		tc.opts.Dir = filepath.Join(t.TempDir(), "kv")
		_, err := embedded.Start(t.Context(), tc.opts)
		wantErrorIs(t, err, embedded.ErrInvalidOptions)
		var bad *embedded.OptionsError
		if !errors.As(err, &bad) || bad.Option != tc.option {
			t.Errorf("error is %v, want it to be about %s", err, tc.option)
		}
		if _, err := os.Lstat(tc.opts.Dir); !os.IsNotExist(err) {
			t.Errorf("%s: Dir was touched", tc.option)
		}
	}
}

func TestSmallestAndLargestMaxPayload(t *testing.T) {
	for _, size := range []int32{embedded.MinMaxPayload, embedded.MaxMaxPayload} {
		nc, _ := connect(t, start(t, embedded.Options{MaxPayload: size}))
		if got := nc.MaxPayload(); got != int64(size) {
			t.Errorf("max payload is %d, want %d", got, size)
		}
	}
}
