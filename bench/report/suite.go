package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
)

// suite says what to run, and how often.
type suite struct {
	count     int
	full      bool
	bench     string
	benchtime string
	tags      string
}

const (
	benchPackage = "github.com/nearkv/nearkv/bench"

	// reads are the benchmarks that are measured with one processor too.
	reads = "^Benchmark(Get|View)$"
)

// passes returns the arguments of the runs of go test that make one round.
func (s suite) passes() [][]string {
	common := []string{"test", "-run", "^$", "-count", "1", "-timeout", "2h"}
	if s.benchtime != "" {
		common = append(common, "-benchtime", s.benchtime)
	}
	if s.tags != "" {
		common = append(common, "-tags", s.tags)
	}
	with := func(args ...string) []string {
		return append(append(common[:len(common):len(common)], args...), benchPackage)
	}
	if s.bench != "" {
		return [][]string{with("-bench", s.bench)}
	}
	return [][]string{with("-bench", reads, "-cpu", "1,2"), with("-bench", ".", "-skip", reads)}
}

// record runs the suite and writes what it prints to a file, after a description
// of the machine.
func (s suite) record(ctx context.Context, file string) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.WriteString(f, describe(ctx, s)); err != nil {
		return err
	}
	for round := range s.count {
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, s.count)
		for _, args := range s.passes() {
			if err := s.goTest(ctx, f, args); err != nil {
				return err
			}
		}
	}
	return nil
}

// goTest passes on to w what belongs into a file of benchmarks, and everything
// to the terminal: what a failed test says names files of this machine.
func (s suite) goTest(ctx context.Context, w io.Writer, args []string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stderr = os.Stderr
	if s.full {
		cmd.Env = append(os.Environ(), "NEARKV_BENCH_FULL=1")
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	copied := copyLines(io.MultiWriter(w, os.Stderr), os.Stderr, out)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("go test: %w", err)
	}
	return copied
}

// recorded matches results, and what go test says of the machine.
var recorded = regexp.MustCompile(`^(Benchmark\S+\s+\d+\s|(goos|goarch|pkg|cpu): )`)

// copyLines copies the lines that are to be recorded to w and all others to
// rest. It reads all there is, also after an error.
func copyLines(w, rest io.Writer, r io.Reader) error {
	var failed error
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		to := rest
		if recorded.Match(lines.Bytes()) {
			to = w
		}
		if _, err := fmt.Fprintf(to, "%s\n", lines.Bytes()); err != nil && failed == nil {
			failed = err
		}
	}
	return errors.Join(failed, lines.Err())
}
