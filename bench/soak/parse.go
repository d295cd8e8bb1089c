package main

import (
	"errors"
	"regexp"
	"strconv"
)

// result is what came of a run.
type result struct {
	failed  bool
	verdict string // of a run that failed: one of verdicts
	counts  map[string]int64
	seconds float64
	failure *failure
}

// What a run that fails has found. Tests that know it better count it in their line.
const (
	lost        = "lost"
	resurrected = "resurrected"
	silent      = "silent"
	hung        = "hung"
	panicked    = "panicked"
	leaked      = "leaked"
	otherwise   = "other"
)

var verdicts = []string{lost, resurrected, silent, hung, panicked, leaked, otherwise}

var (
	countLine = regexp.MustCompile(`(?m)soak:((?: [a-z_]+=\d+)+)\s*$`)
	count     = regexp.MustCompile(`([a-z_]+)=(\d+)`)
	fuzzLine  = regexp.MustCompile(`execs: (\d+)`)

	signs = []struct {
		verdict string
		sign    *regexp.Regexp
	}{
		{hung, regexp.MustCompile(`panic: test timed out|deadlock|hangs|: hung, `)},
		{panicked, regexp.MustCompile(`(?m)^(panic:|fatal error:|WARNING: DATA RACE|SIG[A-Z]+:)|: (dead|memory), `)},
		{leaked, regexp.MustCompile(`found unexpected goroutines`)},
		{resurrected, regexp.MustCompile(`(?i)resurrect|came back|is back|was deleted|has expired`)},
		{silent, regexp.MustCompile(`: silent, |without a word`)},
		{lost, regexp.MustCompile(`(?i)\blost\b|acknowledged|missing`)},
	}
	// passed are lines that tell of no failure, whatever words are in them.
	passed = regexp.MustCompile(`(?m)^(\s*--- (PASS|SKIP)|.*(known to be silent|writes acknowledged|level=)).*\n`)
	// fuzzEnds is no failure: the fuzz engine was busy when its time was over.
	fuzzEnds = regexp.MustCompile(`(?m)^--- FAIL: Fuzz\S+ \(\S+\)\s+context deadline exceeded\s*$`)
)

// parse reads the output of a run.
func parse(j *job, output []byte, err error) result {
	r := result{counts: make(map[string]int64)}
	for _, line := range countLine.FindAllSubmatch(output, -1) {
		for _, pair := range count.FindAllSubmatch(line[1], -1) {
			n, _ := strconv.ParseInt(string(pair[2]), 10, 64) // digits
			r.counts[string(pair[1])] += n
		}
	}
	if execs := fuzzLine.FindAllSubmatch(output, -1); j.fuzz && len(execs) > 0 {
		n, _ := strconv.ParseInt(string(execs[len(execs)-1][1]), 10, 64)
		r.counts["fuzz_inputs"] = n
	}
	if err == nil || j.fuzz && fuzzEnds.Match(output) {
		return r
	}
	r.failed, r.verdict = true, otherwise
	if errors.Is(err, errHung) {
		r.verdict = hung
		return r
	}
	failing := passed.ReplaceAll(output, nil)
	for _, s := range signs {
		if s.sign.Match(failing) {
			r.verdict = s.verdict
			break
		}
	}
	return r
}
