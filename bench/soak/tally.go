package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// The files that the results are in.
const (
	tallyFile = "soak.json"
	tableFile = "SOAK.md"
)

// tally is what all runs together did and found.
type tally struct {
	Began    string   `json:"began"`
	Ended    string   `json:"ended"`
	Seconds  float64  `json:"seconds"`
	Machine  string   `json:"machine"`
	Commits  []string `json:"commits"` // that were tested
	Jobs     map[string]*jobTally
	Failures []*failure `json:"failures"`
}

// jobTally is that of one job.
type jobTally struct {
	Runs    int              `json:"runs"`
	Failed  int              `json:"failed"`
	Seconds float64          `json:"seconds"`
	Counts  map[string]int64 `json:"counts"`
}

// failure is a run that failed.
type failure struct {
	Job     string `json:"job"`
	Verdict string `json:"verdict"`
	Seed    uint32 `json:"seed"`
	Command string `json:"command"`
	Log     string `json:"log"` // a file beside the table
	When    string `json:"when"`
	Commit  string `json:"commit"`
}

// readTally reads the results of earlier runs, if there are any.
func readTally(name string) (*tally, error) {
	t := &tally{}
	text, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(text, t)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if t.Jobs == nil {
		t.Jobs = make(map[string]*jobTally)
	}
	return t, nil
}

// begin notes what is tested, and where.
func (t *tally) begin(ctx context.Context) {
	if t.Began == "" {
		t.Began = time.Now().UTC().Format(time.RFC3339)
	}
	t.Machine = fmt.Sprintf("%s/%s, %d cores, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
	text, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output()
	if commit := strings.TrimSpace(string(text)); err == nil && !slices.Contains(t.Commits, commit) {
		t.Commits = append(t.Commits, commit)
	}
}

// add adds a run.
func (t *tally) add(name string, r *result) {
	j := t.Jobs[name]
	if j == nil {
		j = &jobTally{Counts: make(map[string]int64)}
		t.Jobs[name] = j
	}
	j.Runs++
	j.Seconds += r.seconds
	for what, n := range r.counts {
		j.Counts[what] += n
	}
	if r.failed {
		j.Failed++
		if len(t.Commits) > 0 {
			r.failure.Commit = t.Commits[len(t.Commits)-1]
		}
		t.Failures = append(t.Failures, r.failure)
	}
}

// sum returns the count of all jobs.
func (t *tally) sum(what string) (n int64) {
	for _, j := range t.Jobs {
		n += j.Counts[what]
	}
	return n
}

// found returns how often a verdict was found: by tests that count it, and by runs that failed.
func (t *tally) found(verdict string) int64 {
	n := t.sum(verdict)
	for _, f := range t.Failures {
		if f.Verdict == verdict {
			n++
		}
	}
	return n
}

// write writes the counts and the table.
func (t *tally) write(dir string) error {
	t.Ended = time.Now().UTC().Format(time.RFC3339)
	text, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, tallyFile), append(text, '\n'), 0o644), //nolint:gosec // it is to be read
		os.WriteFile(filepath.Join(dir, tableFile), []byte(t.table()), 0o644),  //nolint:gosec // it is to be read
	)
}
