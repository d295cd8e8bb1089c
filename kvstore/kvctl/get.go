package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/nearkv/nearkv/kvstore"
)

func (c *cli) getCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "get KEY",
		Short: "Write the value of a key to stdout",
		Long: `get writes the value of a key to stdout, byte by byte; on a terminal with a
newline after it, if it has none, and with what would act on the terminal escaped,
as \x1b.

With --json it writes the fields of a bulk file, and the revision:
  {"key":"k","value":"v","base64":true,"expiration":1767225600,"metadata":1,"revision":7}
base64 is there when the value is not UTF-8, expiration and metadata when the
entry has them.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), existing, noValues, func(s *session) error { return c.get(s, args[0]) })
		},
	}
}

func (c *cli) get(s *session, key string) error {
	var opts []kvstore.ReadOption
	if !c.json {
		opts = append(opts, kvstore.Lazy()) // what is large goes through, without being held
	}
	e, err := s.Get(s.ctx, key, opts...)
	if errors.Is(err, kvstore.ErrNotFound) {
		return fmt.Errorf("%w: %q in namespace %s", err, key, c.namespace)
	}
	if err != nil {
		return err
	}
	if c.json {
		return c.out.json(jsonEntryOf(e))
	}
	value, err := e.Open(s.ctx)
	if err != nil {
		return err
	}
	return errors.Join(c.show(value, s.work), value.Close())
}

// show writes a value; on a terminal so that nothing of it acts on that.
func (c *cli) show(value io.Reader, work *watchdog) error {
	if !c.out.terminal {
		_, err := io.Copy(&lastByte{Writer: c.out, work: work}, value)
		return err
	}
	text := &visible{Writer: c.out, escape: escapeText}
	end := &lastByte{Writer: text, work: work}
	if _, err := io.Copy(end, value); err != nil {
		return err
	}
	if end.last != '\n' {
		defer fmt.Fprintln(c.out)
	}
	return text.end()
}

// lastByte remembers how what was written ends.
type lastByte struct {
	io.Writer
	work *watchdog
	last byte
}

func (l *lastByte) Write(p []byte) (int, error) {
	if len(p) > 0 {
		l.last = p[len(p)-1]
	}
	l.work.progress()
	return l.Writer.Write(p)
}

// jsonEntry is an entry as an element of a bulk file, with its revision.
type jsonEntry struct {
	Key string `json:"key"`
	jsonValue
	Revision kvstore.Revision `json:"revision"`
}

func jsonEntryOf(e kvstore.Entry) jsonEntry { return jsonEntry{e.Key(), jsonValueOf(e), e.Revision()} }

func jsonValueOf(e kvstore.Entry) jsonValue {
	v := jsonValue{Value: e.Text(), Expiration: unix(e.Expires()), Metadata: e.Metadata()}
	if v.Base64 = !utf8.ValidString(v.Value); v.Base64 {
		v.Value = base64.StdEncoding.EncodeToString(e.Value())
	}
	return v
}

// completeKey completes keys, of a namespace that can be opened soon. It offers only
// plain ones.
func (c *cli) completeKey(cmd *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
	const most = 100
	keys := []string{}
	if len(args) > 0 && cmd.Name() == "get" {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	c.timeout = completionTimeout
	_ = c.with(context.Background(), existing, noValues, func(s *session) error { // without a store there is nothing to offer
		for k, err := range s.Keys(begin) {
			if err != nil {
				return err
			}
			if !plain(k.Name) {
				continue
			}
			if keys = append(keys, k.Name); len(keys) == most {
				break
			}
		}
		return nil
	})
	return keys, cobra.ShellCompDirectiveNoFileComp
}
