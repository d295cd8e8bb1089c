package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
)

// putFlags say what is put, and how.
type putFlags struct {
	path            string
	ttl, expiration string
	metadata        string
	absent          bool
	revision        uint64
}

func (c *cli) putCommand() *cobra.Command {
	var p putFlags
	cmd := &cobra.Command{
		Use:   "put KEY (VALUE | - | --path FILE)",
		Short: "Write the value of a key",
		Long: `put writes the value of a key: the argument, what stdin has (-), or a file
(--path). It replaces value, metadata and expiry; what is not given is cleared.
On a terminal it tells the revision; with --json it writes it to stdout. A key or
a value that begins with - comes behind --.`,
		Example: `  kvctl put user:7 Ada --ttl 1h --metadata '{"role":"admin"}'
  date | kvctl put now -
  kvctl put logo --path logo.png --if-absent`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := p.options(cmd)
			if err != nil {
				return err
			}
			value, err := c.openValue(args[1:], p.path)
			if err != nil {
				return err
			}
			defer func() { _ = value.Close() }() // it was read
			if err := codec.CheckKey(args[0]); err != nil {
				return err // before a namespace is created
			}
			return c.with(cmd.Context(), created, noValues, func(s *session) error {
				return c.put(s, args[0], s.patient(value), opts)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.path, "path", "", "file to read the value from")
	f.StringVar(&p.ttl, "ttl", "", "expire after this time, at least 1s: 90s, 24h; without a unit in seconds")
	f.StringVar(&p.expiration, "expiration", "", "expire at this time: unix seconds, or as 2027-01-31T12:00:00Z")
	f.StringVar(&p.metadata, "metadata", "", "metadata, as JSON of at most 1024 bytes")
	f.BoolVar(&p.absent, "if-absent", false, "only if the key does not exist")
	f.Uint64Var(&p.revision, "if-revision", 0, "only if the key has this revision")
	return cmd
}

func (c *cli) put(s *session, key string, value io.Reader, opts []kvstore.WriteOption) error {
	revision, err := s.PutFrom(s.ctx, key, value, opts...)
	if err != nil {
		return err
	}
	if c.json {
		return c.out.json(struct {
			Key      string           `json:"key"`
			Revision kvstore.Revision `json:"revision"`
		}{key, revision})
	}
	c.note("revision %d", revision)
	return nil
}

// openValue opens the value, of which there must be exactly one.
func (c *cli) openValue(args []string, path string) (io.ReadCloser, error) {
	switch {
	case (len(args) == 1) == (path != ""):
		return nil, misuse("give a value, - for stdin, or --path FILE")
	case path != "":
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return nil, misuse("%s is a directory", path)
		}
		return os.Open(path)
	case args[0] == "-":
		return c.stdin()
	}
	return io.NopCloser(strings.NewReader(args[0])), nil
}

func (p *putFlags) options(cmd *cobra.Command) (opts []kvstore.WriteOption, err error) {
	given := cmd.Flags().Changed
	switch {
	case given("ttl") && given("expiration"):
		return nil, misuse("give --ttl or --expiration, not both")
	case p.absent && given("if-revision"):
		return nil, misuse("give --if-absent or --if-revision, not both")
	case given("if-revision") && p.revision == 0:
		return nil, misuse("--if-revision 0: there is no such revision; --if-absent is for a key that does not exist")
	}
	if given("ttl") {
		ttl, err := parseTTL(p.ttl)
		if err != nil {
			return nil, err
		}
		opts = append(opts, kvstore.WithTTL(ttl))
	}
	if given("expiration") {
		at, err := parseTime(p.expiration)
		if err != nil {
			return nil, err
		}
		opts = append(opts, kvstore.WithExpiry(at))
	}
	if given("metadata") {
		raw, err := codec.EncodeMetadata(json.RawMessage(p.metadata))
		if err != nil {
			return nil, err
		}
		opts = append(opts, kvstore.WithMetadata(json.RawMessage(raw)))
	}
	if p.absent {
		opts = append(opts, kvstore.IfAbsent())
	}
	if given("if-revision") {
		opts = append(opts, kvstore.IfRevision(kvstore.Revision(p.revision)))
	}
	return opts, nil
}

// parseTTL reads a time, in seconds if it has no unit.
func parseTTL(s string) (time.Duration, error) {
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		s += "s"
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, misuse("--ttl %s: say 90s, 24h, or a number of seconds", s)
	}
	if d < time.Second {
		return 0, misuse("--ttl %s: the least is 1s", s)
	}
	return d, nil
}

// parseTime reads a moment, at least a second ahead.
func parseTime(s string) (time.Time, error) {
	at, err := time.Parse(time.RFC3339Nano, s)
	if seconds, notANumber := strconv.ParseInt(s, 10, 64); notANumber == nil {
		at, err = time.Unix(seconds, 0), nil
	}
	if err != nil {
		return time.Time{}, misuse("--expiration %s: say unix seconds, or a time as 2027-01-31T12:00:00Z", s)
	}
	if time.Until(at) < time.Second {
		return time.Time{}, misuse("--expiration %s is not a second ahead", s)
	}
	return at, nil
}

func (c *cli) deleteCommand() *cobra.Command {
	var revision uint64
	cmd := &cobra.Command{
		Use:   "delete KEY...",
		Short: "Delete keys",
		Long: `delete deletes keys. It is no error if one does not exist, unless --if-revision
is given. For very many keys there is kvctl bulk delete.`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: c.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			var opts []kvstore.DeleteOption
			if cmd.Flags().Changed("if-revision") {
				if len(args) > 1 {
					return misuse("--if-revision is for one key")
				}
				opts = append(opts, kvstore.IfRevision(kvstore.Revision(revision)))
			}
			if err := checkKeys(args); err != nil {
				return err
			}
			return c.with(cmd.Context(), existing, noValues, func(s *session) error {
				for i, key := range args {
					if err := s.Delete(s.ctx, key, opts...); err != nil {
						return fmt.Errorf("%w (of the keys %d are deleted)", err, i)
					}
					s.work.progress()
				}
				if c.json {
					return c.out.json(map[string]int{"deleted": len(args)})
				}
				return nil
			})
		},
	}
	cmd.Flags().Uint64Var(&revision, "if-revision", 0, "only if the key has this revision")
	return cmd
}

// checkKeys looks at all keys before anything is done.
func checkKeys(keys []string) (err error) {
	for _, key := range keys {
		err = errors.Join(err, codec.CheckKey(key))
	}
	return err
}
