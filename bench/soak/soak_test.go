package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var errExit = errors.New("exit status 1")

func TestParse(t *testing.T) {
	test, fuzz := &job{}, &job{fuzz: true}
	for _, tt := range []struct {
		name    string
		job     *job
		output  string
		err     error
		verdict string // "": it has passed
		counts  map[string]int64
	}{
		{"counts", test, "    kill_test.go:52: soak: kills=12 operations=3400\n    a.go:1: soak: kills=1\nPASS\n", nil, "", map[string]int64{"kills": 13, "operations": 3400}},
		{"fuzz", fuzz, "fuzz: elapsed: 3s, execs: 10 (3/sec)\nfuzz: elapsed: 6s, execs: 25 (5/sec)\nPASS\n", nil, "", map[string]int64{"fuzz_inputs": 25}},
		{"fuzz that ended late", fuzz, "fuzz: elapsed: 6s, execs: 25 (5/sec)\n--- FAIL: FuzzX (6.00s)\n    context deadline exceeded\nFAIL\n", errExit, "", map[string]int64{"fuzz_inputs": 25}},
		{"fuzz that found", fuzz, "--- FAIL: FuzzX (6.00s)\n    --- FAIL: FuzzX (0.00s)\n        x_test.go:1: wrong\n", errExit, otherwise, nil},
		{"hung", test, "=== RUN TestX\npanic: test timed out after 10m0s\n", errExit, hung, nil},
		{"killed", test, "", errHung, hung, nil},
		{"panicked", test, "panic: runtime error: index out of range\n", errExit, panicked, nil},
		{"leaked", test, "goleak: Errors on successful test run: found unexpected goroutines:\n", errExit, leaked, nil},
		{"lost", test, "--- FAIL: TestX\n    x: k is \"\" in the log, and was acknowledged as 7\n", errExit, lost, nil},
		{"resurrected", test, "--- FAIL: TestX\n    x: k came back\n", errExit, resurrected, nil},
		{"silent", test, "    x: known to be silent: a\n    d_test.go:9: silent, 1.blk, bit 7: k\n--- FAIL: TestX\n", errExit, silent, nil},
		{"not silent", test, "    x: known to be silent: a\n    d_test.go:9: untyped, 1.blk, bit 7: k\n--- FAIL: TestX\n", errExit, otherwise, nil},
		{"other", test, "    x: 3 kills, 7 writes acknowledged\n--- FAIL: TestX\n", errExit, otherwise, nil},
	} {
		r := parse(tt.job, []byte(tt.output), tt.err)
		if r.failed != (tt.verdict != "") || r.verdict != tt.verdict {
			t.Errorf("%s: %+v", tt.name, r)
		}
		for what, n := range tt.counts {
			if r.counts[what] != n {
				t.Errorf("%s: %s is %d, not %d", tt.name, what, r.counts[what], n)
			}
		}
	}
}

// Runs add up, also over several calls of the command.
func TestTally(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		total, err := readTally(filepath.Join(dir, tallyFile))
		if err != nil {
			t.Fatal(err)
		}
		total.begin(t.Context())
		total.Seconds += 90
		total.add("kills", &result{counts: map[string]int64{"kills": 5, "virtual_seconds": 60, "sheep": 1}, seconds: 2})
		total.add("damage", &result{counts: map[string]int64{"opened": 7, "silent": 1}})
		total.add("damage", &result{failed: true, verdict: hung, failure: &failure{Job: "damage", Verdict: hung, Seed: 9, Command: "go test"}})
		if err := total.write(dir); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, tableFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"3m0s of running", "| processes killed (kill -9) | 10 |", "| damaged stores opened | 14 |", "| virtual time | 2m0s |", "| sheep | 2 |",
		"| silent | 2 |", "| hung | 2 |", "| lost | 0 |", "| damage | 4 | 2 | 0s |", "| kills | 2 | 0 | 4s |", "## Failures", "damage, hung",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, tallyFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readTally(filepath.Join(dir, tallyFile)); err == nil {
		t.Error("counts that cannot be read are not to be written over")
	}
}

func TestRepeat(t *testing.T) {
	j := job{pkg: "kvstore", tests: "^TestKill9$", seed: "NEARKV_SEED=", env: []string{"NEARKV_KILLS=30"}}
	if got, want := j.repeat(7), "NEARKV_KILLS=30 NEARKV_SEED=7 go test ./kvstore -v -run='^TestKill9$' -timeout='10m0s'"; got != want {
		t.Error(got)
	}
	j = job{pkg: "kvstore", tests: "^TestFaults$", seed: "-faultseed="}
	if got, want := j.repeat(7), "go test ./kvstore -v -run='^TestFaults$' -timeout='10m0s' -faultseed='7'"; got != want {
		t.Error(got)
	}
	j = fuzzJob("codec", "FuzzReadBulk")
	if got, want := j.repeat(7), "go test ./codec -run='^$' -fuzz='^FuzzReadBulk$'"; got != want {
		t.Error(got)
	}
}
