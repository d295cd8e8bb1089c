package main

import (
	"context"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/nearkv/nearkv/kvstore"
)

func (c *cli) namespacesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "namespaces",
		Short: "List the namespaces of a store",
		Long: `namespaces writes the names of the namespaces, one a line. They are all key-value
buckets of the server, also those that other NATS clients have made.

With --json: [{"name":"app"}]`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			names, err := c.namespaces(cmd.Context())
			if err != nil {
				return err
			}
			list := &jsonList{out: c.out}
			for _, name := range names {
				if !c.json {
					_, err = c.out.WriteString(c.out.name(name) + "\n")
				} else {
					err = list.add(map[string]string{"name": name})
				}
				if err != nil {
					return err
				}
			}
			if c.json {
				return list.close()
			}
			return nil
		},
	}
}

func (c *cli) namespaces(ctx context.Context) ([]string, error) {
	if err := c.place(existing); err != nil {
		return nil, err
	}
	ctx, cancel, work := c.wait(ctx)
	defer cancel(nil)
	defer work.stop()
	return kvstore.Namespaces(ctx, c.options(noValues))
}

// completionTimeout is how long a shell may wait for what it could offer.
const completionTimeout = 2 * time.Second

func (c *cli) completeNamespace(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	c.timeout = completionTimeout
	names, _ := c.namespaces(context.Background()) // without a store there is nothing to offer
	names = slices.DeleteFunc(names, func(name string) bool { return !plain(name) })
	return names, cobra.ShellCompDirectiveNoFileComp
}

// plain reports whether a name means itself in every shell. Others must not be offered
// for completion: bash expands what it is offered, and so runs what a key says that
// has $(...) in it.
func plain(name string) bool {
	if name == "" || strings.ContainsRune("-=", rune(name[0])) { // a flag; a command in zsh
		return false
	}
	for _, r := range name {
		if r < utf8.RuneSelf {
			if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("_-./:@%+,=", r) {
				return false
			}
		} else if r == utf8.RuneError || !unicode.In(r, unicode.L, unicode.M, unicode.Nd) {
			return false
		}
	}
	return true
}

// complete is for registrations that fail only if there is no such flag.
func complete(err error) {
	if err != nil {
		panic(err)
	}
}
