package embedded_test

import (
	"strings"
	"testing"

	"github.com/nearkv/nearkv/replication/embedded"
)

// A start and an end with default options are nothing to tell anybody about.
func TestLogIsQuiet(t *testing.T) {
	log := newRecords("")
	shutdown(t, start(t, embedded.Options{Dir: t.TempDir(), Logger: log.logger()}))
	for _, level := range []string{"INFO", "WARN", "ERROR"} {
		if lines := log.with(level); len(lines) != 0 {
			t.Errorf("%q", lines)
		}
	}
	if len(log.with("DEBUG Server is ready")) != 1 {
		t.Error("the server's notices did not come through")
	}
}

func TestLogOfFailedStart(t *testing.T) {
	log, err := startObstructed(t, t.TempDir())
	if err == nil {
		t.Fatal("started")
	}
	lines := log.with("ERROR")
	if len(lines) != 1 || !strings.Contains(lines[0], "not a directory") {
		t.Errorf("errors are %q, want one that says why", lines)
	}
}

// Routes are URLs with the voters' secret.
func TestLogHidesSecrets(t *testing.T) {
	if got := embedded.LogLine("  Error trying to connect to %s", "nats-route://nearkv:S3cret@host:6222"); got != "Error trying to connect to nats-route://xxxxx@host:6222" {
		t.Error(got)
	}
}
