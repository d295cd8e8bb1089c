package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/replication/embedded"
)

const repairKeys = 300

// damagedDir returns a Dir with a damaged record, the subject of which is the last result.
func damagedDir(t *testing.T) (dir, block, lost string) {
	t.Helper()
	dir = t.TempDir()
	s := start(t, embedded.Options{Dir: dir})
	_, js := connect(t, s)
	createStream(t, js, jetstream.FileStorage)
	for i := range repairKeys {
		m := nats.NewMsg(fmt.Sprintf("s.%d", i))
		m.Data = []byte(fmt.Sprintf("value %d", i))
		m.Header = nats.Header{"Nats-Expected-Last-Subject-Sequence": {"0"}, "X-Meta": {"of " + m.Subject}}
		if i%2 == 0 {
			m.Header.Set("Nats-TTL", "3600s")
		}
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	put(t, js, "s.7", "value 7")
	shutdown(t, s)
	block = filepath.Join(dir, "nats", "jetstream", "$G", "streams", "S", "msgs", "1.blk")
	data, err := os.ReadFile(block)
	if err != nil {
		t.Fatal(err)
	}
	data[strings.Index(string(data), "value 150")] ^= 4
	if err := os.WriteFile(block, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, block, "s.150"
}

func wantRepaired(t *testing.T, dir string, missing ...string) {
	t.Helper()
	s := start(t, embedded.Options{Dir: dir})
	_, js := connect(t, s)
	st, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	for i := range repairKeys {
		subject := fmt.Sprintf("s.%d", i)
		m, err := st.GetLastMsgForSubject(t.Context(), subject)
		if len(missing) > 0 && subject == missing[0] {
			if !errors.Is(err, jetstream.ErrMsgNotFound) {
				t.Errorf("%s: %v", subject, err)
			}
			continue
		}
		if err != nil || string(m.Data) != fmt.Sprintf("value %d", i) || i != 7 && m.Header.Get("X-Meta") != "of "+subject || i != 7 && i%2 == 0 && m.Header.Get("Nats-TTL") == "" {
			t.Fatalf("%s: %+v, %v", subject, m, err)
		}
	}
	shutdown(t, s)
}

func TestCheck(t *testing.T) {
	dir, block, _ := damagedDir(t)
	r, err := embedded.Check(t.Context(), dir)
	if err != nil || len(r.Damage) != 1 || r.Damage[0].Path != block || r.Damage[0].Offset <= 0 {
		t.Errorf("%+v, %v", r, err)
	}
	whole := t.TempDir()
	s := start(t, embedded.Options{Dir: whole})
	_, err = embedded.Check(t.Context(), whole)
	wantErrorIs(t, err, embedded.ErrLocked)
	_, js := connect(t, s)
	createStream(t, js, jetstream.FileStorage)
	put(t, js, "s.a", "1")
	shutdown(t, s)
	if r, err := embedded.Check(t.Context(), whole); err != nil || len(r.Damage) != 0 || len(r.Streams) != 1 || r.Streams[0].Messages != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	empty := t.TempDir()
	_, err = embedded.Check(t.Context(), empty)
	wantErrorIs(t, err, os.ErrNotExist)
	if left, _ := os.ReadDir(empty); len(left) != 0 {
		t.Errorf("Check has left %v", left)
	}
}

// What is whole is saved, with headers and expiries; what is not is named; the old store stays.
func TestRepair(t *testing.T) {
	dir, block, lost := damagedDir(t)
	before := listing(t, filepath.Join(dir, "nats"))
	dry, err := embedded.Repair(t.Context(), dir, embedded.RepairOptions{DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if after := listing(t, filepath.Join(dir, "nats")); after != before {
		t.Errorf("the dry run has made of\n%s\n%s", before, after)
	}
	r, err := embedded.Repair(t.Context(), dir, embedded.RepairOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s := r.Streams[0]
	if len(s.Missing) != 1 || s.Missing[0] != lost || len(s.Lost) != 1 || s.Lost[0].Path != block || s.Written != repairKeys-1 || s.Unsure {
		t.Errorf("%+v", s)
	}
	if d := dry.Streams[0]; d.Written != s.Written || len(d.Missing) != 1 {
		t.Errorf("the dry run says %+v", d)
	}
	if aside := listing(t, r.Aside); aside != before {
		t.Errorf("the old store was\n%s\nand is\n%s", before, aside)
	}
	wantRepaired(t, dir, lost)
}

// A repair that is killed, wherever, loses nothing: the next one, or the next start, goes on.
func TestRepairIsKilled(t *testing.T) {
	dir, _, lost := damagedDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	log := newRecords("Starting nats-server")
	go func() {
		<-log.reached
		cancel()
		close(log.release)
	}()
	if _, err := embedded.Repair(ctx, dir, embedded.RepairOptions{Logger: log.logger()}); err == nil {
		t.Fatal("the repair was not interrupted")
	}
	_, err := embedded.Start(t.Context(), embedded.Options{Dir: dir})
	wantErrorIs(t, err, embedded.ErrDamaged)
	r, err := embedded.Repair(t.Context(), dir, embedded.RepairOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// As a kill between the last two renames leaves it:
	if err := os.Rename(filepath.Join(dir, "nats"), filepath.Join(dir, "nats.repairing")); err != nil {
		t.Fatal(err)
	}
	wantRepaired(t, dir, lost)
	if _, err := os.Stat(r.Aside); err != nil {
		t.Error(err)
	}
}
