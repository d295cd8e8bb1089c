package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/spf13/cobra"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
)

func (c *cli) bulkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bulk",
		Short: "Put, delete or get many keys, by a JSON file as wrangler has them",
		Args:  cobra.NoArgs,
		RunE:  c.needSubcommand,
	}
	cmd.AddCommand(c.bulkPutCommand(), c.bulkDeleteCommand(), c.bulkGetCommand())
	return cmd
}

const bulkHelp = `
The whole file is checked before the first write; stdin (-) goes through a
temporary file for it. Fields that are not known are warned about. Nothing is
held in memory but what is under way. When it fails or is interrupted it tells
how many of the elements are in, and with which --skip to go on; to begin anew
does no harm. With --json there is a summary on stdout, also of a failure:
  {"done":5,"total":9,"skipped":0,"seconds":0.1,"skip":5,"error":"..."}`

func (c *cli) bulkPutCommand() *cobra.Command {
	var skip int
	cmd := &cobra.Command{
		Use:   "put FILE",
		Short: "Write the pairs of a file",
		Long: `bulk put writes the pairs of a JSON file, or of stdin (-), as wrangler kv bulk put:
  [{"key":"k","value":"v","expiration":1767225600,"expiration_ttl":60,"metadata":1,"base64":false}]
Only key and value are needed; expiration_ttl wins over expiration.
` + bulkHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runBulk(cmd.Context(), c, bulk[codec.BulkPair]{
				file: args[0], skip: skip, access: created, unit: "pairs", read: codec.ReadBulk, check: notPast,
				write: func(s *session, pairs iter.Seq[codec.BulkPair], progress kvstore.BulkOption) (int, error) {
					return s.PutAll(s.ctx, asPairs(pairs), progress)
				},
			})
		},
	}
	cmd.Flags().IntVar(&skip, "skip", 0, "leave out so many pairs at the beginning")
	return cmd
}

func (c *cli) bulkDeleteCommand() *cobra.Command {
	var skip int
	cmd := &cobra.Command{
		Use:   "delete FILE",
		Short: "Delete the keys of a file",
		Long: `bulk delete deletes the keys of a JSON file, or of stdin (-), as wrangler kv bulk
delete: an array of strings, or of objects with a name as list --json writes them.
` + bulkHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runBulk(cmd.Context(), c, bulk[string]{
				file: args[0], skip: skip, access: existing, unit: "keys", read: codec.ReadBulkKeys,
				check: func(string) error { return nil },
				write: func(s *session, keys iter.Seq[string], progress kvstore.BulkOption) (int, error) {
					return s.DeleteAll(s.ctx, keys, progress)
				},
			})
		},
	}
	cmd.Flags().IntVar(&skip, "skip", 0, "leave out so many keys at the beginning")
	return cmd
}

// bulk is a file of elements to be written.
type bulk[T any] struct {
	file   string
	skip   int
	access access
	unit   string
	read   func(io.Reader, codec.BulkOptions) iter.Seq2[T, error]
	check  func(T) error // what is not seen in the file alone
	write  func(*session, iter.Seq[T], kvstore.BulkOption) (int, error)
}

func runBulk[T any](ctx context.Context, c *cli, b bulk[T]) error {
	in, err := c.openInput(b.file)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // it was read
	total, err := checkBulk(ctx, c, b, in)
	if err != nil {
		return err
	}
	if b.skip < 0 || b.skip > total {
		return misuse("--skip %d: %s has %d %s", b.skip, in.name, total, b.unit)
	}
	return c.with(ctx, b.access, noValues, func(s *session) error { return writeBulk(c, s, b, in, total) })
}

// checkBulk reads the whole file, and counts its elements.
func checkBulk[T any](ctx context.Context, c *cli, b bulk[T], in *input) (total int, err error) {
	r, err := in.again()
	if err != nil {
		return 0, err
	}
	bar := c.begin("checking "+in.name, in.size, "bytes")
	defer bar.end()
	unknown := &warnings{cli: c, bar: bar, file: in.name}
	for element, err := range b.read(io.TeeReader(r, bar), codec.BulkOptions{Unknown: unknown.add}) {
		if err == nil {
			err = b.check(element)
		}
		if err != nil {
			return 0, fmt.Errorf("%s: %w", in.name, err)
		}
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		total++
	}
	unknown.end()
	return total, nil
}

// summary is what --json tells of a bulk command.
type summary struct {
	Done    int     `json:"done"` // now
	Total   int     `json:"total"`
	Skipped int     `json:"skipped"`
	Seconds float64 `json:"seconds"`
	Skip    *int    `json:"skip,omitempty"` // to go on
	Error   string  `json:"error,omitempty"`
}

func writeBulk[T any](c *cli, s *session, b bulk[T], in *input, total int) error {
	r, err := in.again()
	if err != nil {
		return err
	}
	began, bar := time.Now(), c.begin("writing", int64(total), b.unit)
	bar.set(int64(b.skip))
	var unread error
	elements := func(yield func(T) bool) {
		i := 0
		for element, err := range b.read(r, codec.BulkOptions{}) {
			if err != nil { // the file is not what it was
				unread = err
				return
			}
			if i++; i > b.skip && !yield(element) {
				return
			}
		}
	}
	last := -1
	n, err := b.write(s, elements, kvstore.OnProgress(func(done int) {
		bar.set(int64(b.skip + done))
		if done != last {
			s.work.progress()
			last = done
		}
	}))
	bar.end()
	sum := summary{Done: n, Total: total, Skipped: b.skip, Seconds: seconds(began)}
	if err = errors.Join(err, unread); err != nil {
		return c.bulkFailed(sum, b.unit, err)
	}
	if c.json {
		return c.out.json(sum)
	}
	c.note("%d %s in %.1f s, %.0f a second", n, b.unit, sum.Seconds, float64(n)/max(sum.Seconds, 1e-9))
	return nil
}

func (c *cli) bulkFailed(sum summary, unit string, err error) error {
	skip := sum.Skipped + sum.Done
	if e, ok := errors.AsType[*kvstore.BulkError](err); ok {
		skip = sum.Skipped + e.Index
		err = fmt.Errorf("element %d, key %.64q: %w", skip, e.Key, e.Err)
	}
	if c.json {
		sum.Skip, sum.Error = &skip, err.Error()
		if err := c.out.json(sum); err != nil {
			return err
		}
	}
	return hintError{err, fmt.Sprintf("%d of %d %s are in; go on with --skip %d", sum.Skipped+sum.Done, sum.Total, unit, skip)}
}

func asPairs(pairs iter.Seq[codec.BulkPair]) iter.Seq[kvstore.Pair] {
	return func(yield func(kvstore.Pair) bool) {
		for p := range pairs {
			pair := kvstore.Pair{Key: p.Key, Value: p.Value, TTL: p.TTL, Expires: p.Expires}
			if p.Metadata != nil {
				pair.Metadata = p.Metadata
			}
			if !yield(pair) {
				return
			}
		}
	}
}

// notPast refuses a pair that cannot be put any more.
func notPast(p codec.BulkPair) error {
	if p.Expires.IsZero() || time.Until(p.Expires) >= time.Second {
		return nil
	}
	return &codec.BulkFileError{
		Index: p.Index, Line: p.Line, Column: p.Column,
		Reason: fmt.Sprintf("expiration %d is not a second ahead", p.Expires.Unix()), Cause: kvstore.ErrInvalidExpiry,
	}
}

// warnings tells of fields that are not known: the first ones, and how many there are.
type warnings struct {
	cli  *cli
	bar  *progress
	file string
	n    int
}

const maxWarnings = 10

func (w *warnings) add(u codec.BulkUnknown) {
	if w.n++; w.n <= maxWarnings {
		w.bar.clear()
		w.cli.sayLabeled(yellow, "warning:", "%s: line %d, column %d (element %d): unknown field %q is ignored",
			w.file, u.Line, u.Column, u.Index, u.Field)
	}
}

func (w *warnings) end() {
	if w.n > maxWarnings {
		w.bar.clear()
		w.cli.say("and %d more unknown fields", w.n-maxWarnings)
	}
}
