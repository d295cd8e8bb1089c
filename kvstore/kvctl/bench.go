package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nuid"
	"github.com/spf13/cobra"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
)

type benchFlags struct {
	count, concurrency, size int
	cache                    int64
}

func (c *cli) benchCommand() *cobra.Command {
	var b benchFlags
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure puts and gets",
		Long: `bench puts --count keys, one after the other in each of --concurrency goroutines,
reads as many at random from this process' replica, and deletes them. The keys
are kvctl-bench/<random>/<number>, with a TTL of one hour: after that no trace of
them is left in the log, also if bench is killed. Others who watch the namespace
see them.

It shows for each kind the rate, and how long one takes at the median, the 99th
and the 99.9th percentile and the most. Gets are those of a Store in a
process, which is what a service does, without the start of kvctl.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case b.count < 1 || b.concurrency < 1:
				return misuse("--count and --concurrency are at least 1")
			case b.size < 0 || b.size > codec.MaxValueLen:
				return misuse("--size is 0 to %d", codec.MaxValueLen)
			}
			return c.with(cmd.Context(), created, b.cache, func(s *session) error { return c.bench(s, b) })
		},
	}
	f := cmd.Flags()
	f.IntVar(&b.count, "count", 10_000, "number of keys")
	f.IntVar(&b.concurrency, "concurrency", 1, "goroutines that put and get")
	f.IntVar(&b.size, "size", 100, "bytes of a value")
	f.Int64Var(&b.cache, "cache", kvstore.DefaultCacheBytes, "memory for values, in bytes; -1: each get asks the log")
	return cmd
}

// measured is how long the calls of one kind took.
type measured struct {
	Op      string  `json:"op"`
	Count   int     `json:"count"`
	Seconds float64 `json:"seconds"`
	Rate    float64 `json:"per_second"`
	P50     float64 `json:"p50_us"`
	P99     float64 `json:"p99_us"`
	P999    float64 `json:"p999_us"`
	Max     float64 `json:"max_us"`
}

func (c *cli) bench(s *session, b benchFlags) (err error) {
	prefix := "kvctl-bench/" + nuid.Next() + "/"
	defer func() { err = errors.Join(err, c.sweep(s, prefix)) }()
	value := []byte(strings.Repeat("v", b.size))
	key := func(i int) string { return fmt.Sprintf("%s%d", prefix, i) }
	puts, err := c.measure(s, "put", b, func(i int) error {
		_, err := s.Put(s.ctx, key(i), value, kvstore.WithTTL(time.Hour))
		return err
	})
	if err != nil {
		return err
	}
	keys := make([]string, b.count)
	for i := range keys {
		keys[i] = key(rand.IntN(b.count)) // to draw numbers needs no secrecy, and is not measured
	}
	gets, err := c.measure(s, "get", b, func(i int) error {
		e, err := s.Get(s.ctx, keys[i])
		if err == nil && e.Len() != b.size {
			err = fmt.Errorf("%s has %d bytes", keys[i], e.Len())
		}
		return err
	})
	if err != nil {
		return err
	}
	if c.json {
		return c.out.json([]measured{puts, gets})
	}
	return c.table([]string{"OP", "COUNT", "PER SECOND", "P50", "P99", "P99.9", "MAX"}, [][]string{puts.row(), gets.row()})
}

// measure calls f with the numbers up to the count, in several goroutines.
func (c *cli) measure(s *session, op string, b benchFlags, f func(int) error) (measured, error) {
	bar := c.begin(op, int64(b.count), op+"s")
	defer bar.end()
	took := make([]time.Duration, b.count)
	failed := make([]error, b.concurrency)
	var next atomic.Int64
	var work sync.WaitGroup
	began := time.Now()
	for g := range b.concurrency {
		work.Go(func() {
			for i := int(next.Add(1)) - 1; i < b.count && failed[g] == nil; i = int(next.Add(1)) - 1 {
				start := time.Now()
				failed[g] = f(i)
				took[i] = time.Since(start)
				if i%1024 == 0 {
					s.work.progress()
					bar.set(int64(i))
				}
			}
		})
	}
	work.Wait()
	elapsed := time.Since(began)
	slices.Sort(took)
	at := func(p float64) float64 { return float64(took[int(p*float64(b.count-1))].Nanoseconds()) / 1e3 }
	return measured{
		Op: op, Count: b.count, Seconds: elapsed.Seconds(), Rate: float64(b.count) / elapsed.Seconds(),
		P50: at(0.5), P99: at(0.99), P999: at(0.999), Max: at(1),
	}, errors.Join(failed...)
}

func (m measured) row() []string {
	us := func(f float64) string { return time.Duration(f * 1e3).String() }
	return []string{m.Op, fmt.Sprint(m.Count), fmt.Sprintf("%.0f", m.Rate), us(m.P50), us(m.P99), us(m.P999), us(m.Max)}
}

// sweep deletes the keys, also when it was interrupted.
func (c *cli) sweep(s *session, prefix string) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(s.ctx), 30*time.Second, errTimeout)
	defer cancel()
	_, err := s.DeletePrefix(ctx, prefix)
	if err != nil {
		c.say("the keys %s* are left, and expire within an hour", prefix)
	}
	return err
}
