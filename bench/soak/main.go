// Command soak runs the tests that break things, for as long as it is told, and counts what they did and found:
//
//	go run ./bench/soak -for 60m     # from the root of the repository
//
// The tests with faults, kills, damage, hostile neighbours, random models and fuzzing run with new seeds, two at a time,
// each on one core. The results are added to those of earlier runs: bench/results/soak.json has the counts, SOAK.md the
// table that is made of them. An interrupt (Ctrl-C) ends it early; what has been completed is counted. Remove soak.json to
// begin again.
//
// A test that fails leaves its output, with its seed and the command that repeats it, in bench/results/soak.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(log.Ltime)
	log.SetPrefix("soak: ")
	length := flag.Duration("for", time.Hour, "how long to run")
	out := flag.String("out", filepath.Join("bench", "results"), "`directory` to write to")
	only := flag.String("run", "", "`regexp` of the jobs to run; default all")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *length, *out, *only); err != nil {
		log.Fatal(err)
	}
}

// open is the mode of directories that tests use, some of which run processes of another user.
const open = 0o755

func run(ctx context.Context, length time.Duration, out, only string) error {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	total, err := readTally(filepath.Join(out, tallyFile))
	if err != nil {
		return err
	}
	bin, err := os.MkdirTemp("", "nearkv-soak-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(bin) }()
	if err := os.Chmod(bin, open); err != nil {
		return err
	}
	s := &soak{bin: bin, out: out, total: total}
	if err := s.build(ctx, pattern); err != nil {
		return err
	}
	total.begin(ctx)
	s.run(ctx, length)
	return s.total.write(out)
}
