package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/perf/benchfmt"
	"golang.org/x/perf/benchmath"
)

// series names what was measured once in each round.
type series struct {
	group string // the benchmark, with all that its name says but the peer: Get/size=100/case=zipf
	procs int
	peer  string
	unit  string // as benchfmt has it: sec/op
}

// name is the benchmark alone: Get.
func (s series) name() string {
	name, _, _ := strings.Cut(s.group, "/")
	return name
}

func (s series) withPeer(peer string) series {
	s.peer = peer
	return s
}

// results of a suite, in the order in which they came.
type results struct {
	machine [][2]string // keys and values
	order   []series
	samples map[series][]float64
}

func readResults(file string) (r *results, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r = &results{samples: make(map[series][]float64)}
	reader := benchfmt.NewReader(f, file)
	for reader.Scan() {
		switch record := reader.Result().(type) {
		case *benchfmt.Result:
			r.add(record)
		case *benchfmt.SyntaxError:
			return nil, record
		}
	}
	if err := reader.Err(); err != nil {
		return nil, err
	}
	if len(r.order) == 0 {
		return nil, fmt.Errorf("%s has no results", file)
	}
	return r, nil
}

func (r *results) add(record *benchfmt.Result) {
	if r.machine == nil {
		for _, c := range record.Config {
			r.machine = append(r.machine, [2]string{c.Key, string(c.Value)})
		}
	}
	s := parseName(record.Name)
	for _, v := range record.Values {
		s.unit = v.Unit
		if _, ok := r.samples[s]; !ok {
			r.order = append(r.order, s)
		}
		r.samples[s] = append(r.samples[s], v.Value)
	}
}

func parseName(name benchfmt.Name) series {
	base, parts := name.Parts()
	s := series{group: string(base), procs: 1}
	for _, part := range parts {
		part := string(part)
		if peer, ok := strings.CutPrefix(part, "/peer="); ok {
			s.peer = peer
		} else if procs, err := strconv.Atoi(strings.TrimPrefix(part, "-")); err == nil {
			s.procs = procs
		} else {
			s.group += part
		}
	}
	return s
}

// procs are the numbers of processors with which a benchmark ran, ascending.
func (r *results) procs(group string) []int {
	var procs []int
	for _, s := range r.order {
		if s.group == group && !slices.Contains(procs, s.procs) {
			procs = append(procs, s.procs)
		}
	}
	slices.Sort(procs)
	return procs
}

// summary of a sample.
type summary struct{ median, least, most float64 }

func (r *results) summarize(s series) (summary, bool) { return summarize(r.samples[s]) }

func summarize(sample []float64) (summary, bool) {
	if len(sample) == 0 {
		return summary{}, false
	}
	center := benchmath.AssumeNothing.Summary(newSample(sample), 0.95).Center
	return summary{center, slices.Min(sample), slices.Max(sample)}, true
}

// newSample copies the values: benchmath sorts them.
func newSample(values []float64) *benchmath.Sample {
	return benchmath.NewSample(slices.Clone(values), &benchmath.DefaultThresholds)
}

// ratio compares two series round by round.
func (r *results) ratio(of, to series) (summary, bool) {
	a, b := r.samples[of], r.samples[to]
	if len(a) != len(b) { // a round was cut off
		n := min(len(a), len(b))
		a, b = a[:n], b[:n]
	}
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = a[i] / b[i]
	}
	return summarize(ratios)
}

// differ tells whether the series are different, and not just their samples.
func (r *results) differ(a, b series) bool {
	return benchmath.AssumeNothing.Compare(newSample(r.samples[a]), newSample(r.samples[b])).P < 0.05
}
