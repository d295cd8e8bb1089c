package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// chart is a picture of the report.
type chart struct {
	file, title string
	svg         []byte
}

// charts draws those for which there are figures.
func charts(r *results) []chart {
	var all []chart
	for _, draw := range []func(*results) (chart, bool){readsChart, listChart, propagationChart, openChart} {
		if c, ok := draw(r); ok {
			all = append(all, c)
		}
	}
	return all
}

// readsChart shows the reads with as many processors as were measured.
func readsChart(r *results) (chart, bool) {
	b := barChart{axis: "time of a read, logarithmic: shorter is better", unit: "sec/op"}
	for _, c := range []string{"zipf", "hot", "miss"} {
		group := "Get/size=100/case=" + c
		if procs := r.procs(group); len(procs) > 0 {
			most := procs[len(procs)-1]
			b.title = fmt.Sprintf("Get: 100,000 keys, 100-byte values, %d processors", most)
			b.groups = append(b.groups, barGroup{readNames[c], r.peersOf(group, most, "sec/op")})
		}
	}
	if len(b.groups) == 0 {
		return chart{}, false
	}
	return chart{"reads.svg", b.title, b.draw()}, true
}

var readNames = map[string]string{"zipf": "keys by a zipf law", "hot": "one hot key", "miss": "keys that are not there"}

// peersOf returns the medians of a group, in the order of the benchmark.
func (r *results) peersOf(group string, procs int, unit string) []namedValue {
	var values []namedValue
	for _, s := range r.order {
		if s.group == group && s.procs == procs && s.unit == unit {
			m, _ := r.summarize(s)
			values = append(values, namedValue{s.peer, m.median})
		}
	}
	return values
}

func listChart(r *results) (chart, bool) {
	l := lineChart{
		title: "List: 1000 keys out of more and more", unit: "sec/op",
		xAxis: "keys in the namespace, logarithmic", yAxis: "time of a list, logarithmic",
	}
	l.addSizes(r, "List/case=page/n=", " page")
	l.addSizes(r, "List/case=prefix/n=", " prefix")
	return l.chart("list.svg")
}

func openChart(r *results) (chart, bool) {
	l := lineChart{
		title: "Open: reading the whole log, 100-byte values", unit: "sec/op",
		xAxis: "keys in the namespace, logarithmic", yAxis: "time to catch up, logarithmic",
	}
	l.addSizes(r, "Open/n=", "")
	return l.chart("catchup.svg")
}

func propagationChart(r *results) (chart, bool) {
	l := lineChart{
		title: "Propagation: from the begin of a write until another connection has it", unit: "sec/op",
		xAxis: "percentile of the writes", yAxis: "time, logarithmic",
	}
	for i, p := range []string{"p50", "p90", "p99", "p999"} {
		l.marks = append(l.marks, mark{float64(i), p})
		for _, s := range r.order {
			if s.group == "Propagation" && s.unit == p+"-sec/op" {
				m, _ := r.summarize(s)
				l.add(s.peer, i, m.median)
			}
		}
	}
	return l.chart("propagation.svg")
}

func (l *lineChart) chart(file string) (chart, bool) {
	if len(l.lines) == 0 {
		return chart{}, false
	}
	return chart{file, l.title, l.draw()}, true
}

// addSizes adds a line for each peer, over the numbers with which the groups of
// a prefix end.
func (l *lineChart) addSizes(r *results, prefix, suffix string) {
	for _, s := range r.order {
		digits, ok := strings.CutPrefix(s.group, prefix)
		n, err := strconv.Atoi(digits)
		if !ok || err != nil || s.unit != "sec/op" {
			continue
		}
		m, _ := r.summarize(s)
		l.add(s.peer+suffix, l.markOf(n), m.median)
	}
}

// markOf returns the index of the mark of a number of keys, which it makes if
// need be. The numbers of a benchmark ascend.
func (l *lineChart) markOf(n int) int {
	m := mark{math.Log10(float64(n)), thousands(n)}
	if i := slices.Index(l.marks, m); i >= 0 {
		return i
	}
	l.marks = append(l.marks, m)
	return len(l.marks) - 1
}

func thousands(n int) string {
	if n >= 1_000_000 {
		return fmt.Sprintf("%dM", n/1_000_000)
	}
	return fmt.Sprintf("%dk", n/1000)
}

// add sets the value of a line at a mark.
func (l *lineChart) add(name string, at int, value float64) {
	i := slices.IndexFunc(l.lines, func(line line) bool { return line.name == name })
	if i < 0 {
		i = len(l.lines)
		l.lines = append(l.lines, line{name: name})
	}
	line := &l.lines[i]
	for len(line.values) <= at {
		line.values = append(line.values, math.NaN())
	}
	line.values[at] = value
}
