package main

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
)

type listFlags struct {
	prefix, cursor string
	limit          int
	long           bool
}

func (c *cli) listCommand() *cobra.Command {
	var l listFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List keys",
		Long: `list writes the names of the keys, one a line, in the order of their bytes. All
of them, unless there is a --limit; then it tells on stderr the cursor to go on with.

With --json it writes what wrangler kv key list does:
  [{"name":"k","expiration":1767225600,"metadata":1}]`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if l.limit < 0 {
				return misuse("--limit %d is negative", l.limit)
			}
			if err := codec.CheckPrefix(l.prefix); err != nil {
				return err
			}
			return c.with(cmd.Context(), existing, noValues, func(s *session) error { return c.list(s, l) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&l.prefix, "prefix", "", "only keys that begin with this")
	f.IntVar(&l.limit, "limit", 0, "at most so many keys (0: all)")
	f.StringVar(&l.cursor, "cursor", "", "go on where a list with a --limit has ended, with the same --prefix")
	f.BoolVarP(&l.long, "long", "l", false, "write a table: size, revision, expiry, name and metadata")
	return cmd
}

func (c *cli) list(s *session, l listFlags) error {
	var rows [][]string
	names := &jsonList{out: c.out}
	next, err := pages(s, l, func(k kvstore.KeyInfo) error {
		switch {
		case c.json:
			return names.add(struct {
				Name       string          `json:"name"`
				Expiration int64           `json:"expiration,omitempty"`
				Metadata   json.RawMessage `json:"metadata,omitempty"`
			}{k.Name, unix(k.Expires), k.Metadata})
		case l.long:
			rows = append(rows, []string{
				strconv.Itoa(k.Size), strconv.FormatUint(uint64(k.Revision), 10), expiry(k.Expires), c.out.cell(k.Name), c.out.metadata(k.Metadata),
			})
			return nil
		}
		_, err := c.out.WriteString(c.out.name(k.Name) + "\n")
		return err
	})
	if err != nil {
		return err
	}
	switch {
	case c.json:
		err = names.close()
	case l.long:
		err = c.table([]string{"SIZE", "REVISION", "EXPIRES", "NAME", "METADATA"}, rows)
	}
	if err == nil && next != "" {
		if err = c.out.Flush(); err == nil {
			c.say("there are more keys: go on with --cursor %s", next)
		}
	}
	return err
}

// pages calls f with the keys, and returns the cursor to go on with.
func pages(s *session, l listFlags, f func(kvstore.KeyInfo) error) (next string, err error) {
	next = l.cursor
	for left := l.limit; ; {
		o := kvstore.ListOptions{Prefix: l.prefix, Cursor: next}
		if l.limit > 0 {
			o.Limit = min(left, kvstore.MaxListLimit)
		}
		page, err := s.List(o)
		if err != nil {
			return "", err
		}
		for _, k := range page.Keys {
			if err := f(k); err != nil {
				return "", err
			}
		}
		next, left = page.Cursor, left-len(page.Keys)
		if page.Complete || l.limit > 0 && left == 0 {
			return next, nil
		}
	}
}

func expiry(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}
