package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
)

func (c *cli) bulkGetCommand() *cobra.Command {
	var skip bool
	cmd := &cobra.Command{
		Use:   "get FILE",
		Short: "Write the values of the keys of a file",
		Long: `bulk get reads the keys of a JSON file, or of stdin (-), as bulk delete does, and
writes their values as wrangler kv bulk get, each key once:
  {"k":{"value":"v"},"absent":{"value":null}}
Beside value there are base64, expiration and metadata, where the entry needs them.
With --skip-damaged, keys whose values are damaged are named on stderr and left
out; the exit status is 1 then.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := c.openInput(args[0])
			if err != nil {
				return err
			}
			defer func() { _ = in.Close() }() // it was read
			keys := bulk[string]{read: codec.ReadBulkKeys, check: func(string) error { return nil }}
			total, err := checkBulk(cmd.Context(), c, keys, in)
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), existing, 0, func(s *session) error { return c.bulkGet(s, in, total, skip) })
		},
	}
	cmd.Flags().BoolVar(&skip, "skip-damaged", false, "leave out keys whose values are damaged")
	return cmd
}

func (c *cli) bulkGet(s *session, in *input, total int, skip bool) error {
	r, err := in.again()
	if err != nil {
		return err
	}
	bar, done, damaged := c.begin("reading", int64(total), "keys"), 0, 0
	defer bar.end()
	seen := map[string]bool{} // an object has a member once
	for key, err := range codec.ReadBulkKeys(r, codec.BulkOptions{}) {
		if err != nil {
			return fmt.Errorf("%s: %w", in.name, err)
		}
		if seen[key] {
			continue
		}
		seen[key] = true
		err := c.member(s, key, done == damaged)
		if skip && errors.Is(err, kvstore.ErrDamaged) {
			c.sayDamaged(err)
			damaged, err = damaged+1, nil
		}
		if err != nil {
			return err
		}
		done++
		s.work.progress()
		bar.set(int64(done))
	}
	if done == damaged {
		fmt.Fprint(c.out, "{")
	}
	_, err = c.out.WriteString("\n}\n")
	return errors.Join(err, skipped(damaged))
}

// member writes the value of a key as a member of the object.
func (c *cli) member(s *session, key string, first bool) error {
	e, err := s.Get(s.ctx, key)
	var value any = jsonValueOf(e)
	if errors.Is(err, kvstore.ErrNotFound) {
		value, err = map[string]any{"value": nil}, nil
	}
	if err == nil {
		err = context.Cause(s.ctx) // values in memory are had without it
	}
	if err != nil {
		return err
	}
	name, err := c.out.marshal(key)
	if err != nil {
		return err
	}
	text, err := c.out.marshal(value)
	if err != nil {
		return err
	}
	separator := ",\n"
	if first {
		separator = "{\n"
	}
	_, err = fmt.Fprintf(c.out, "%s%s:%s", separator, name, text)
	return err
}
