package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// document is a Markdown file that is being written.
type document struct{ bytes.Buffer }

func (d *document) printf(text string, args ...any) { fmt.Fprintf(&d.Buffer, text, args...) }

// row writes a row of a table. No name of a benchmark has a bar in it.
func (d *document) row(cells ...string) { d.printf("| %s |\n", strings.Join(cells, " | ")) }

func (d *document) head(cells ...string) {
	d.row(cells...)
	d.printf("|%s\n", strings.Repeat("---|", len(cells)))
}

// markdown is the whole report.
func markdown(r *results) []byte {
	d := new(document)
	d.printf("# Benchmarks\n\nMade by `go run ./bench/report`; the figures are in [raw.txt](raw.txt), for benchstat. ")
	d.printf("Medians of all rounds; the spread is from the least to the most. A ratio is that of two figures of one round.\n\n")
	d.head("machine", "")
	for _, m := range r.machine {
		if m[0] != "pkg" {
			d.row(m[0], m[1])
		}
	}
	d.bars(r)
	d.losses(r)
	d.printf("\n## Charts\n")
	for _, c := range charts(r) {
		d.printf("\n![%s](%s)\n", c.title, c.file)
	}
	d.medians(r)
	return d.Bytes()
}

func (d *document) bars(r *results) {
	d.printf("\n## Bars\n\nTwo processors, and all else that the design asks for.\n\n")
	d.head("what", "against", "bar", "median", "spread", "met")
	for _, b := range bars() {
		v := b.judge(r)
		if !v.known {
			d.row(b.what, b.against, b.require(), "not measured", "", "")
			continue
		}
		met := "**no**"
		if v.met {
			met = "yes"
		}
		m := v.measured
		d.row(b.what, b.against, b.require(), b.format(m.median), b.format(m.least)+" to "+b.format(m.most), met)
	}
}

// losses lists every figure in which a peer is better than nearkv.
func (d *document) losses(r *results) {
	d.printf("\n## Where a peer wins\n\n`~`: the rounds do not tell the two apart (Mann-Whitney, 5 %%).\n\n")
	d.head("benchmark", "procs", "figure", "peer", "nearkv", "peer's", "nearkv / peer", "")
	for _, ours := range r.order {
		if !isOurs(ours.peer) || !shown(ours.unit) {
			continue
		}
		for _, theirs := range r.order {
			if theirs.withPeer(ours.peer) == ours && isPeer(theirs.peer) {
				d.loss(r, ours, theirs)
			}
		}
	}
}

// isPeer leaves out other ways of nearkv, and a process that holds nothing.
func isPeer(name string) bool { return !isOurs(name) && name != "none" }

func (d *document) loss(r *results, ours, theirs series) {
	a, _ := r.summarize(ours)
	b, _ := r.summarize(theirs)
	better := b.median < a.median
	if strings.HasSuffix(ours.unit, "/s") { // more is better
		better = b.median > a.median
	}
	if !better {
		return
	}
	sure := "~"
	if r.differ(ours, theirs) {
		sure = ""
	}
	name := ours.group
	if ours.peer != "nearkv" {
		name += " (" + ours.peer + ")"
	}
	d.row(name, fmt.Sprint(ours.procs), label(ours.unit), theirs.peer, format(a.median, ours.unit), format(b.median, ours.unit),
		fmt.Sprintf("%.2fx", a.median/b.median), sure)
}

// shown tells whether a figure has a table here; all are in raw.txt.
func shown(unit string) bool { return unit != "B/op" && unit != "allocs/op" }

// medians writes a table for each figure of each benchmark: one row for each
// group, one column for each peer.
func (d *document) medians(r *results) {
	type table struct{ name, unit string }
	var seen []table
	for _, s := range r.order {
		t := table{s.name(), s.unit}
		if !shown(s.unit) || slices.Contains(seen, t) {
			continue
		}
		seen = append(seen, t)
		d.printf("\n## %s: %s\n\n", t.name, label(t.unit))
		d.table(r, slices.DeleteFunc(slices.Clone(r.order), func(s series) bool {
			return s.name() != t.name || s.unit != t.unit
		}))
	}
}

func (d *document) table(r *results, all []series) {
	var peers []string
	var rows []series // without peers
	for _, s := range all {
		if !slices.Contains(peers, s.peer) {
			peers = append(peers, s.peer)
		}
		if row := s.withPeer(""); !slices.Contains(rows, row) {
			rows = append(rows, row)
		}
	}
	d.head(append([]string{"", "procs"}, peers...)...)
	for _, row := range rows {
		_, config, _ := strings.Cut(row.group, "/")
		cells := []string{config, fmt.Sprint(row.procs)}
		for _, peer := range peers {
			cells = append(cells, cell(r, row.withPeer(peer)))
		}
		d.row(cells...)
	}
}

// cell is the median, and how far the rounds are from it.
func cell(r *results, s series) string {
	m, ok := r.summarize(s)
	if !ok {
		return ""
	}
	if m.median == 0 || m.least == m.most {
		return format(m.median, s.unit)
	}
	return fmt.Sprintf("%s −%.0f %% +%.0f %%", format(m.median, s.unit), 100*(1-m.least/m.median), 100*(m.most/m.median-1))
}
