// Command report runs the benchmarks of nearkv and says how they compare with
// the bars that nearkv has to meet:
//
//	go run ./bench/report -full              # from the root of the repository
//	go run ./bench/report -in FILE           # of what was recorded before
//
// It writes raw.txt (what the benchmarks print, for benchstat), REPORT.md and
// charts. The suite runs -count times from its begin to its end, rather than
// each benchmark so many times in a row: a ratio is one of two measurements that
// were made within seconds of each other, and its spread shows what the memory
// layout of a process and the other load of the machine do.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("report: ")
	var s suite
	out := flag.String("out", filepath.Join("bench", "results"), "`directory` to write to")
	in := flag.String("in", "", "recorded output to report on; nothing is run")
	flag.IntVar(&s.count, "count", 6, "how many times the suite runs; benchstat wants six")
	flag.BoolVar(&s.full, "full", false, "also with a million keys, as the bars ask for")
	flag.StringVar(&s.bench, "bench", "", "`regexp` of the benchmarks to run; default all")
	flag.StringVar(&s.tags, "tags", "", "as of go test; with peers also rueidis, which needs redis-server, and groupcache")
	flag.StringVar(&s.benchtime, "benchtime", "", "as of go test")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := report(ctx, s, *in, *out); err != nil {
		log.Fatal(err)
	}
}

// report writes everything to the directory out.
func report(ctx context.Context, s suite, in, out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	if in == "" {
		in = filepath.Join(out, "raw.txt")
		if err := s.record(ctx, in); err != nil {
			return err
		}
	}
	r, err := readResults(in)
	if err != nil {
		return err
	}
	files := map[string][]byte{"REPORT.md": markdown(r)}
	for _, c := range charts(r) {
		files[c.file] = c.svg
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(out, name), data, 0o644); err != nil {
			return err
		}
	}
	fmt.Println(filepath.Join(out, "REPORT.md"))
	return nil
}
