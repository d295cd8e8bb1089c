package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const sample = "testdata/sample.txt" // made up; of six rounds

func sampleResults(t *testing.T) *results {
	t.Helper()
	r, err := readResults(sample)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReadResults(t *testing.T) {
	r := sampleResults(t)
	for _, c := range []struct {
		s     series
		first float64
	}{
		{series{"Get/size=100/case=zipf", 2, "nearkv", "sec/op"}, 100e-9},
		{series{"Get/size=100/case=zipf", 1, "nearkv", "sec/op"}, 190e-9},
		{series{"Propagation", 2, "nearkv-poll", "p999-sec/op"}, 600e-6},
		{series{"Heap/measure=memory/n=1000000", 2, "map", "B/key"}, 80},
		{series{"Watch/replicas=10/inflight=1", 2, "consumer", "applied/s"}, 90000},
	} {
		got := r.samples[c.s]
		if len(got) != 6 || !near(got[0], c.first) {
			t.Errorf("%+v is %v, want 6 values, first %v", c.s, got, c.first)
		}
	}
	if r.machine[0] != [2]string{"date", "2026-01-02 03:04 UTC"} {
		t.Errorf("machine is %v", r.machine)
	}
}

func TestReadResultsErrors(t *testing.T) {
	for name, text := range map[string]string{
		"empty":  "goos: linux\n",
		"no end": "BenchmarkGet-2 100 12 ns/op 7\n",
	} {
		file := filepath.Join(t.TempDir(), "raw.txt")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := readResults(file); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func near(a, b float64) bool { return a > b*0.9999 && a < b*1.0001 }

// A ratio is of the values of one round, however different the rounds are.
func TestRatio(t *testing.T) {
	a, b, short := series{peer: "a"}, series{peer: "b"}, series{peer: "short"}
	r := &results{samples: map[series][]float64{a: {1, 20, 3}, b: {2, 10, 4}, short: {4, 2}}}
	for _, c := range []struct {
		of, to series
		want   summary
	}{
		{a, b, summary{0.75, 0.5, 2}},
		{a, short, summary{5.125, 0.25, 10}},
	} {
		if got, ok := r.ratio(c.of, c.to); !ok || got != c.want {
			t.Errorf("%v / %v is %+v, want %+v", c.of, c.to, got, c.want)
		}
	}
	if _, ok := r.ratio(a, series{}); ok {
		t.Error("there is a ratio to what was not measured")
	}
	if r.samples[a][1] != 20 {
		t.Error("the sample was sorted")
	}
}

func TestJudge(t *testing.T) {
	r := sampleResults(t)
	want := map[string]string{ // of those that were measured
		"Get hit, 100k keys, zipf, 100 B / ristretto":                  "0.5x yes",
		"Get hit, 100k keys, zipf, 100 B / otter":                      "1.11x no",
		"Get hit, allocations / –":                                     "0 yes",
		"Get hit, one hot key / ristretto":                             "0.5x no",
		"Get hit, one hot key / otter":                                 "0.8x yes",
		"Get hit, zipf / jetstream":                                    "250x yes",
		"Put to visible in another replica's Get, p50 / consumer":      "1.18x yes",
		"Put to visible in another replica's Get, p99 / –":             "166 µs yes",
		"the same, to a Get that polls without a rest, p50 / consumer": "1.07x yes",
		"the same, to a Get that polls without a rest, p99 / –":        "151 µs yes",
		"Open with 1,000,000 keys / consumer":                          "1.32x yes",
		"memory per key beyond its bytes and the value's, 1M keys / –": "90.0 B yes",
		"List of the first 1000 keys out of 1M / –":                    "101 µs yes",
		"List of the first 1000 keys out of 1M / the same out of 1k":   "1x yes",
		"List of a prefix of 1000 keys out of 1M / –":                  "161 µs yes",
		"List of a prefix of 1000 keys out of 1M / the same out of 1k": "1.45x yes",
	}
	for _, b := range bars() {
		v := b.judge(r)
		name := b.what + " / " + b.against
		met := "no"
		if v.met {
			met = "yes"
		}
		if got := b.format(v.measured.median) + " " + met; v.known && got != want[name] {
			t.Errorf("%s: %s, want %s", name, got, want[name])
		} else if !v.known && (want[name] != "" || v.met) {
			t.Errorf("%s: not measured, met %v", name, v.met)
		}
	}
}

func TestFormat(t *testing.T) {
	for _, c := range []struct {
		value float64
		unit  string
		want  string
	}{
		{92.13e-9, "sec/op", "92.1 ns"},
		{1e-3, "p99-sec/op", "1.00 ms"},
		{2.5, "sec/op", "2.50 s"},
		{0, "sec/op", "0 s"},
		{106.62, "B/key", "106.6 B"},
		{36_123, "applied/s", "36.1 k/s"},
		{3, "allocs/op", "3"},
		{999.7e-9, "sec/op", "1.00 µs"},
		{0.2e-9, "sec/op", "0.20 ns"},
		{math.NaN(), "sec/op", "–"},
	} {
		if got := format(c.value, c.unit); got != c.want {
			t.Errorf("%v %s is %q, want %q", c.value, c.unit, got, c.want)
		}
	}
}

// Every row of a table has as many cells as its head.
func TestMarkdown(t *testing.T) {
	text := string(markdown(sampleResults(t)))
	for _, want := range []string{
		"| Get hit, 100k keys, zipf, 100 B | otter | ≤ 1x the time | 1.11x | 1.11x to 1.11x | **no** |\n",
		"| PutAll, file | publish-async | ≥ 1.2x as fast | not measured |  |  |\n",
		"| Get/size=100/case=zipf | 2 | time per operation | otter | 100 ns | 90.5 ns | 1.11x |  |\n",
		"| Watch/replicas=10/inflight=1 | 2 | applied/s | consumer | 52.3 k/s | 90.5 k/s | 0.58x |  |\n",
		"![Open: reading the whole log, 100-byte values](catchup.svg)",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report has no %q", want)
		}
	}
	bars := 0
	for line := range strings.Lines(text) {
		n := strings.Count(line, "|")
		if bars != 0 && n != 0 && n != bars {
			t.Errorf("%d cells instead of %d: %s", n-1, bars-1, line)
		}
		bars = n
	}
	if t.Failed() {
		t.Log(text)
	}
}

// Every chart is XML, and has a ground, its axes and all names.
func TestCharts(t *testing.T) {
	want := map[string][]string{
		"reads.svg":       {"one hot key", "ristretto", "100 ns", "time of a read"},
		"list.svg":        {"nearkv page", "jetstream prefix", "1M", "keys in the namespace"},
		"propagation.svg": {"nearkv-poll", "p999", "percentile"},
		"catchup.svg":     {"consumer", "100k", "time to catch up"},
	}
	for _, c := range charts(sampleResults(t)) {
		text := textOf(t, c)
		for _, s := range want[c.file] {
			if !strings.Contains(text, s) {
				t.Errorf("%s has no %q", c.file, s)
			}
		}
		if !bytes.Contains(c.svg, []byte(`fill="`+ground+`"`)) {
			t.Errorf("%s has no ground", c.file)
		}
		if bytes.Contains(c.svg, []byte("NaN")) || bytes.Contains(c.svg, []byte("Inf")) {
			t.Errorf("%s draws what is no number", c.file)
		}
		delete(want, c.file)
	}
	if len(want) > 0 {
		t.Errorf("not drawn: %v", want)
	}
}

// textOf returns all text of a chart; it fails if the chart is not well-formed.
func textOf(t *testing.T, c chart) string {
	t.Helper()
	var text strings.Builder
	for d := xml.NewDecoder(bytes.NewReader(c.svg)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return text.String()
		}
		if err != nil {
			t.Fatalf("%s: %v", c.file, err)
		}
		if data, ok := token.(xml.CharData); ok {
			text.Write(data)
		}
	}
}

// Nothing of what was not measured is drawn.
func TestChartsOfNothing(t *testing.T) {
	if c := charts(&results{}); len(c) != 0 {
		t.Errorf("%d charts", len(c))
	}
}

// What go test prints is recorded, unless it speaks of this machine.
func TestCopyLines(t *testing.T) {
	const kept = "goos: linux\npkg: a/b\ncpu: c\nBenchmarkGet/peer=nearkv-2 \t 10\t 5 ns/op\n"
	const others = "--- BENCH: BenchmarkGet\n    /home/somebody/get_test.go:3: x\nPASS\nok  \ta/b\t0.1s\n"
	var got, rest strings.Builder
	if err := copyLines(&got, &rest, strings.NewReader(kept+others)); err != nil || got.String() != kept || rest.String() != others {
		t.Errorf("kept %q, others %q, %v", got.String(), rest.String(), err)
	}
}

func TestPasses(t *testing.T) {
	for _, c := range []struct {
		suite suite
		want  []string
	}{
		{suite{}, []string{
			"test -run ^$ -count 1 -timeout 2h -bench ^Benchmark(Get|View)$ -cpu 1,2 " + benchPackage,
			"test -run ^$ -count 1 -timeout 2h -bench . -skip ^Benchmark(Get|View)$ " + benchPackage,
		}},
		{suite{bench: "Put", benchtime: "1x"}, []string{
			"test -run ^$ -count 1 -timeout 2h -benchtime 1x -bench Put " + benchPackage,
		}},
	} {
		passes := c.suite.passes()
		if len(passes) != len(c.want) {
			t.Fatalf("%d passes, want %d", len(passes), len(c.want))
		}
		for i, args := range passes {
			if got := strings.Join(args, " "); got != c.want[i] {
				t.Errorf("go %s, want go %s", got, c.want[i])
			}
		}
	}
}

// report makes everything of recorded results, and runs nothing.
func TestReport(t *testing.T) {
	out := filepath.Join(t.TempDir(), "results")
	if err := report(t.Context(), suite{}, sample, out); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(out)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != "REPORT.md catchup.svg list.svg propagation.svg reads.svg" {
		t.Errorf("files: %s", got)
	}
}
