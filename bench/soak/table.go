package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// rows are the counts of the table. Those that a test prints and that are not here have a row of their own name.
var rows = []struct{ count, name string }{
	{"kills", "processes killed (kill -9)"},
	{"server_faults", "servers of a cluster killed, halted or parted"},
	{"cuts", "connections cut"},
	{"harms", "logs purged, rolled back, made again, or written by others"},
	{"opened", "damaged stores opened"},
	{"right", "of these: nothing lost"},
	{"told", "of these: told by an error or by the state Degraded"},
	{"hostile", "hostile messages"},
	{"fuzz_inputs", "fuzz inputs"},
	{"operations", "operations checked"},
}

// table returns the results as Markdown.
func (t *tally) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Soak\n\nBy `go run ./bench/soak`: %s of running, between %s and %s, two tests at a time with one core each.\n",
		duration(t.Seconds), t.Began, t.Ended)
	fmt.Fprintf(&b, "Machine: %s. Commits: %s. soak.json has the counts.\n\n", t.Machine, strings.Join(t.Commits, ", "))
	t.counts(&b)
	b.WriteString("\n| found | count |\n|---|---:|\n")
	for _, verdict := range verdicts {
		fmt.Fprintf(&b, "| %s | %d |\n", verdict, t.found(verdict))
	}
	b.WriteString("\n| tests | runs | failed | time |\n|---|---:|---:|---:|\n")
	for _, name := range slices.Sorted(maps.Keys(t.Jobs)) {
		j := t.Jobs[name]
		fmt.Fprintf(&b, "| %s | %d | %d | %s |\n", name, j.Runs, j.Failed, duration(j.Seconds))
	}
	if len(t.Failures) > 0 {
		b.WriteString("\n## Failures\n\n")
	}
	for _, f := range t.Failures {
		fmt.Fprintf(&b, "* %s, %s at %s (%s): `%s`\n", f.Job, f.Verdict, f.When, f.Commit, f.Command)
	}
	return b.String()
}

func (t *tally) counts(b *strings.Builder) {
	b.WriteString("| done | count |\n|---|---:|\n")
	known := map[string]bool{"virtual_seconds": true}
	for _, row := range rows {
		known[row.count] = true
		fmt.Fprintf(b, "| %s | %d |\n", row.name, t.sum(row.count))
	}
	fmt.Fprintf(b, "| virtual time | %s |\n", duration(float64(t.sum("virtual_seconds"))))
	others := make(map[string]bool)
	for _, j := range t.Jobs {
		for what := range j.Counts {
			if !known[what] && !slices.Contains(verdicts, what) {
				others[what] = true
			}
		}
	}
	for _, what := range slices.Sorted(maps.Keys(others)) {
		fmt.Fprintf(b, "| %s | %d |\n", strings.ReplaceAll(what, "_", " "), t.sum(what))
	}
}

func duration(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}
