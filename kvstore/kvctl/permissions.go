package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/replication"
)

func (c *cli) permissionsCommand() *cobra.Command {
	var writes []string
	var create bool
	var account string
	cmd := &cobra.Command{
		Use:   "permissions",
		Short: "Print what a user of a NATS server needs for a namespace",
		Long: `permissions prints the block of a nats-server configuration, or with --json the
same as JSON, that lets a user open a Store of the namespace. It asks no server.

These permissions prevent accidents, not attacks. nats-server does not check where
it is asked to send an answer: a user that may only read can have one sent to the
subject of a key, or to one that deletes the stream. Whoever may ask JetStream for
anything is an administrator of its account. Against attacks, have the data in an
account of its own: --account NAME prints that account, which exports what a Store
needs, and the account NAME, which imports it. Users of NAME open the namespace
with --api-prefix, as the output says. The users of the account with the data, who
create the namespace, remain its administrators.

A Store reads the whole namespace: reading cannot be confined to a prefix. To
write, name the prefixes with --write, which have to end where NATS can tell them
apart: with : or . or, for all keys, be empty. A user without --write cannot write.
With --create it may also create the namespace, and the object store of its large
values, which comes with the first of them. With --list it may see the names of
all namespaces (kvctl namespaces). Large values are not by prefix: who may write
any key could remove those of others.

Give each user an inbox prefix of its own, and say it with --inbox-prefix here and
to kvctl: otherwise it can read the answers that others get.`,
		Example: `  kvctl permissions -n app                                  # read only
  kvctl permissions -n app --write user: --write session.   # and write these
  kvctl permissions -n app --write '' --create              # everything
  kvctl permissions -n app --write user: --account web      # for users whom you do not trust`,
		Args: cobra.NoArgs,
	}
	var list bool
	cmd.RunE = func(*cobra.Command, []string) error {
		_ = c.environ() // for the namespace; there need not be a store
		if err := replication.CheckNamespace(c.namespace); err != nil {
			return hintError{err, "use --namespace NAME, or set NEARKV_NAMESPACE"}
		}
		p, err := newPermissions(c.namespace, c.inbox, writes)
		if err != nil {
			return err
		}
		if account != "" {
			return c.accounts(account, p, create || list)
		}
		if create {
			p.Publish.Allow = append(p.Publish.Allow, "$JS.API.STREAM.CREATE.KV_"+c.namespace, "$JS.API.STREAM.CREATE.OBJ_"+c.namespace)
		}
		if list {
			p.Publish.Allow = append(p.Publish.Allow, "$JS.API.STREAM.NAMES")
		}
		if c.json {
			return c.out.json(p)
		}
		_, err = fmt.Fprint(c.out, p)
		return err
	}
	f := cmd.Flags()
	f.StringArrayVar(&writes, "write", nil, "allow writes of keys with this prefix (several times; '' for all)")
	f.BoolVar(&create, "create", false, "allow to create the namespace")
	f.BoolVar(&list, "list", false, "allow to list the namespaces")
	f.StringVar(&account, "account", "", "print accounts: one with the data, and this `name`d one that imports what it may use")
	return cmd
}

// permissions are those of a user, as nats-server has them in its configuration.
type permissions struct {
	Publish   subjects `json:"publish"`
	Subscribe subjects `json:"subscribe"`
}

type subjects struct {
	Allow []string `json:"allow"`
}

func newPermissions(namespace, inbox string, writes []string) (p permissions, err error) {
	stream, objects := "KV_"+namespace, "OBJ_"+namespace
	p.Publish.Allow = []string{
		"$JS.API.STREAM.INFO." + stream, // what the log is, and whether it still is that
		"$JS.API.CONSUMER.CREATE." + stream + ".*",
		"$JS.API.CONSUMER.MSG.NEXT." + stream + ".*",
		"$JS.API.CONSUMER.DELETE." + stream + ".*",
		"$JS.API.DIRECT.GET." + stream, // values that are not in memory
		"$JS.API.STREAM.MSG.GET." + stream,
		"$JS.API.STREAM.INFO." + objects, // large values
		"$JS.API.DIRECT.GET." + objects,
		"$JS.API.STREAM.MSG.GET." + objects,
	}
	for _, prefix := range writes {
		s, err := filters(prefix)
		if err != nil {
			return p, err
		}
		for _, filter := range s {
			p.Publish.Allow = append(p.Publish.Allow, "$KV."+namespace+"."+filter)
		}
	}
	if len(writes) > 0 {
		p.Publish.Allow = append(p.Publish.Allow, "$O."+namespace+".C.>", "$O."+namespace+".M.>", "$JS.API.STREAM.PURGE."+objects)
	}
	if inbox == "" {
		inbox = "_INBOX"
	}
	p.Subscribe.Allow = []string{inbox + ".>"}
	return p, nil
}

// filters are the subjects of the keys with a prefix.
func filters(prefix string) ([]string, error) {
	if prefix == "" {
		return []string{">"}, nil
	}
	if err := codec.CheckPrefix(prefix); err != nil {
		return nil, err
	}
	if len(prefix) == codec.MaxKeyLen {
		return []string{codec.Subject(prefix)}, nil
	}
	below, ends := strings.CutSuffix(codec.Subject(prefix+"x"), ".x")
	if !ends {
		return nil, misuse("--write %q: a prefix has to end with : or . (and no . before it), because NATS compares whole tokens", prefix)
	}
	if codec.CheckKey(prefix) != nil {
		return []string{below + ".>"}, nil
	}
	return []string{below + ".>", codec.Subject(prefix)}, nil
}

// String returns a block of configuration.
func (p permissions) String() string {
	var b strings.Builder
	b.WriteString("permissions: {\n")
	for _, part := range []struct {
		name string
		subjects
	}{{"publish", p.Publish}, {"subscribe", p.Subscribe}} {
		fmt.Fprintf(&b, "  %s: {\n    allow: [\n", part.name)
		for _, s := range part.Allow {
			fmt.Fprintf(&b, "      %q\n", s)
		}
		b.WriteString("    ]\n  }\n")
	}
	b.WriteString("}\n")
	return b.String()
}
