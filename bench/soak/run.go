package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

const (
	atATime   = 2                // runs, each on one core
	saveEvery = time.Minute      // the results
	grace     = 30 * time.Second // after its time-out a test that hangs is killed
)

// soak is one run of the command.
type soak struct {
	bin, out string
	jobs     []job

	mu    sync.Mutex
	next  int // counts the runs that were begun
	total *tally
}

// build makes the test binaries, and finds out which jobs there are.
func (s *soak) build(ctx context.Context, only *regexp.Regexp) error {
	listed := make(map[string][]string) // tests by package
	all := jobs[:len(jobs):len(jobs)]
	for _, pkg := range fuzzPackages {
		targets, err := s.binary(ctx, pkg, true)
		if err != nil {
			return err
		}
		for _, target := range targets {
			all = append(all, fuzzJob(pkg, target))
		}
	}
	for _, j := range all {
		if !only.MatchString(j.name) {
			continue
		}
		if _, ok := listed[j.pkg]; !ok && !j.fuzz {
			tests, err := s.binary(ctx, j.pkg, false)
			if err != nil {
				return err
			}
			listed[j.pkg] = tests
		}
		if !j.fuzz && !anyMatch(j.tests, listed[j.pkg]) {
			log.Printf("%s: no test in ./%s matches %s", j.name, j.pkg, j.tests)
			continue
		}
		s.jobs = append(s.jobs, j)
	}
	if len(s.jobs) == 0 {
		return errors.New("there is nothing to run")
	}
	return nil
}

func anyMatch(pattern string, names []string) bool {
	re := regexp.MustCompile(pattern)
	for _, name := range names {
		if re.MatchString(name) {
			return true
		}
	}
	return false
}

// binary builds the tests of a package, for fuzzing with the instructions that count coverage, and lists them.
func (s *soak) binary(ctx context.Context, pkg string, fuzz bool) ([]string, error) {
	args, list := []string{"test", "-c", "-o", s.path(pkg, fuzz)}, "^Test"
	if fuzz {
		args, list = append(args, "-fuzz=Fuzz"), "^Fuzz"
	}
	if text, err := exec.CommandContext(ctx, "go", append(args, "./"+pkg)...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the tests of %s: %w: %s", pkg, err, text)
	}
	text, err := exec.CommandContext(ctx, s.path(pkg, fuzz), "-test.list="+list).Output()
	return strings.Fields(string(text)), err
}

func (s *soak) path(pkg string, fuzz bool) string {
	name := strings.ReplaceAll(pkg, "/", "-")
	if fuzz {
		name += "-fuzz"
	}
	return filepath.Join(s.bin, name+".test")
}

// run runs jobs until it is time, or the context ends. A run that has begun comes to its end; one that is interrupted
// does not count.
func (s *soak) run(ctx context.Context, length time.Duration) {
	end, began := time.Now().Add(length), time.Now()
	var workers sync.WaitGroup
	for range atATime {
		workers.Go(func() {
			for time.Now().Before(end) && ctx.Err() == nil {
				s.once(ctx, s.take())
			}
		})
	}
	done := make(chan struct{})
	go func() { workers.Wait(); close(done) }()
	save := time.NewTicker(saveEvery)
	defer save.Stop()
	last := began
	for {
		select {
		case <-done:
			s.account(time.Since(last))
			return
		case <-save.C:
			s.account(time.Since(last))
			last = time.Now()
			s.mu.Lock()
			if err := s.total.write(s.out); err != nil {
				log.Print(err)
			}
			s.mu.Unlock()
		}
	}
}

func (s *soak) account(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total.Seconds += d.Seconds()
}

// take returns the job that comes next.
func (s *soak) take() *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := &s.jobs[s.next%len(s.jobs)]
	s.next++
	return j
}

// once runs a job, and adds what came of it.
func (s *soak) once(ctx context.Context, j *job) {
	seed, began := rand.Uint32()>>1, time.Now()
	output, err := s.execute(ctx, j, seed)
	if ctx.Err() != nil {
		return
	}
	r := parse(j, output, err)
	r.seconds = time.Since(began).Seconds()
	if r.failed {
		r.failure = s.keep(j, seed, output, r.verdict)
		log.Printf("%s: %s: %s", j.name, r.verdict, r.failure.Command)
	} else {
		log.Printf("%s: ok, %.0f s, %v", j.name, r.seconds, r.counts)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total.add(j.name, &r)
}

func (s *soak) execute(ctx context.Context, j *job, seed uint32) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, j.limit()+grace, errHung)
	defer cancel()
	args, env := j.command(seed)
	if j.fuzz {
		args = append(args, "-test.fuzzcachedir="+filepath.Join(s.bin, "cache"))
	}
	temp, err := os.MkdirTemp(s.bin, "run-*")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(temp) }()
	if err := os.Chmod(temp, open); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, s.path(j.pkg, j.fuzz), args...)
	cmd.Dir = j.pkg
	cmd.Env = append(append(os.Environ(), "GOMAXPROCS=1", "TMPDIR="+temp), env...)
	cmd.WaitDelay = grace // for what a child of the test holds
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err = cmd.Run()
	if errors.Is(context.Cause(ctx), errHung) {
		err = errHung
	}
	return output.Bytes(), err
}

var errHung = errors.New("did not end")

// keep writes the output of a run that failed to a file.
func (s *soak) keep(j *job, seed uint32, output []byte, verdict string) *failure {
	f := &failure{Job: j.name, Verdict: verdict, Seed: seed, Command: j.repeat(seed), When: time.Now().UTC().Format(time.RFC3339)}
	name := fmt.Sprintf("%s-%d.log", regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(j.name, "-"), seed)
	f.Log = filepath.ToSlash(filepath.Join("soak", name))
	file := filepath.Join(s.out, "soak", name)
	text := append([]byte(f.Command+"\n\n"), bytes.ReplaceAll(output, []byte(s.bin), []byte("BIN"))...)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, text, 0o600)); err != nil {
		log.Print(err)
	}
	return f
}
