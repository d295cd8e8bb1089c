package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// describe returns what the benchmarks do not say themselves of where and when
// they run, as lines that a file of benchmarks can begin with. What cannot be
// found out here is left out.
func describe(ctx context.Context, s suite) string {
	var b strings.Builder
	for _, line := range []struct{ key, value string }{
		{"date", time.Now().UTC().Format("2006-01-02 15:04 UTC")},
		{"commit", commit(ctx)},
		{"go", runtime.Version()},
		{"procs", fmt.Sprint(runtime.NumCPU())},
		{"memory", memory()},
		{"os", osName()},
		{"kernel", firstLine("/proc/sys/kernel/osrelease")},
		{"rounds", fmt.Sprint(s.count)},
		{"full", fmt.Sprint(s.full)},
		{"benchtime", s.benchtime},
		{"tags", s.tags},
	} {
		if line.value != "" {
			fmt.Fprintf(&b, "%s: %s\n", line.key, line.value)
		}
	}
	return b.String()
}

// commit is that of the work tree; "+" if there is more in it.
func commit(ctx context.Context) string {
	head, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return ""
	}
	changes, err := exec.CommandContext(ctx, "git", "status", "--porcelain").Output()
	if err != nil || len(changes) > 0 {
		return strings.TrimSpace(string(head)) + "+"
	}
	return strings.TrimSpace(string(head))
}

func memory() string {
	var kib int64
	for line := range strings.Lines(readFile("/proc/meminfo")) {
		if _, err := fmt.Sscanf(line, "MemTotal: %d kB", &kib); err == nil {
			return fmt.Sprintf("%.0f GiB", float64(kib)/(1<<20))
		}
	}
	return ""
}

func osName() string {
	for line := range strings.Lines(readFile("/etc/os-release")) {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(strings.TrimSpace(name), `"`)
		}
	}
	return runtime.GOOS
}

func firstLine(file string) string {
	line, _, _ := strings.Cut(readFile(file), "\n")
	return line
}

// readFile returns nothing where there is no such file: not every system has
// those of Linux.
func readFile(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return string(data)
}
