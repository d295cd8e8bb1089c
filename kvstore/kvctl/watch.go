package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
)

func (c *cli) watchCommand() *cobra.Command {
	var changes bool
	cmd := &cobra.Command{
		Use:   "watch [PREFIX]",
		Short: "Follow the changes of keys",
		Long: `watch writes a line for each key that there is, and then for each change, until
it is interrupted, which is its regular end (exit status 0). The changes of a
key come in order; who reads too slowly gets the last of those he has missed.

With --json a line is an object: that of get --json, with
"event": "put", "delete" or "expire". A removal has only key and revision.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix := ""
			if len(args) == 1 {
				prefix = args[0]
			}
			if err := codec.CheckPrefix(prefix); err != nil {
				return err
			}
			return c.with(cmd.Context(), existing, 0, func(s *session) error { return c.watch(cmd.Context(), s, prefix, changes) })
		},
	}
	cmd.Flags().BoolVar(&changes, "changes-only", false, "leave out what is there already")
	return cmd
}

func (c *cli) watch(ctx context.Context, s *session, prefix string, changesOnly bool) error {
	s.work.stop()
	var opts []kvstore.WatchOption
	if changesOnly {
		opts = append(opts, kvstore.ChangesOnly())
		c.note("watching")
	}
	if !c.json {
		opts = append(opts, kvstore.Lazy()) // a line has only the beginning of a value
	}
	for e, err := range s.Watch(s.ctx, prefix, opts...) {
		if errors.Is(err, kvstore.ErrDamaged) { // the watch goes on
			c.sayDamaged(err)
			continue
		}
		if err != nil {
			return err
		}
		if err := c.event(e); err != nil {
			return err
		}
	}
	if ctx.Err() != nil { // that is how it ends
		return nil
	}
	return context.Cause(s.ctx)
}

// event writes a line at once: somebody waits for it.
func (c *cli) event(e kvstore.Event) error {
	switch {
	case c.json && e.Kind == kvstore.EventPut:
		if err := c.out.json(struct {
			Event string `json:"event"`
			jsonEntry
		}{e.Kind.String(), jsonEntryOf(e.Entry)}); err != nil {
			return err
		}
	case c.json:
		if err := c.out.json(struct {
			Event    string           `json:"event"`
			Key      string           `json:"key"`
			Revision kvstore.Revision `json:"revision"`
		}{e.Kind.String(), e.Entry.Key(), e.Entry.Revision()}); err != nil {
			return err
		}
	default:
		kind, value := c.out.colored(green, "put   "), "  "+excerpt(e.Entry)
		if e.Kind != kvstore.EventPut {
			kind, value = c.out.colored(red, fmt.Sprintf("%-6s", e.Kind)), ""
		}
		fmt.Fprintf(c.out, "%s %8d  %s%s\n", kind, e.Entry.Revision(), c.out.cell(e.Entry.Key()), value)
	}
	return c.out.Flush()
}
