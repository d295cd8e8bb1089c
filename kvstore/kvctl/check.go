package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/replication/embedded"
)

// errDamaged ends a check that has found something; what it is was written.
var errDamaged = errors.New("the directory is damaged; kvctl repair saves what is whole")

func (c *cli) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check [DIR]",
		Short: "Read everything in a directory, and report what is damaged",
		Long: `check reads all records of a directory (DIR, or --dir), as a Store does before it
uses one, and writes a line for each thing that is damaged: file, offset, reason.
It changes nothing. No process may have the directory open.

The status is 0 if all is well, and 1 if something is damaged, cannot be opened, or
the directory is in use.

With --json: {"dir":"...","streams":[{"name":"KV_app","blocks":1,"messages":7,
"first":1,"last":9,"torn":0}],"damage":[{"path":"...","offset":7,"reason":"..."}]}`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := c.directory(args)
			if err != nil {
				return err
			}
			report, err := embedded.Check(cmd.Context(), dir)
			if err != nil {
				return err
			}
			if err := c.showCheck(report); err != nil {
				return err
			}
			if len(report.Damage) > 0 {
				return errDamaged
			}
			return nil
		},
	}
}

// directory is the store that a command is about which needs no namespace.
func (c *cli) directory(args []string) (string, error) {
	if len(args) == 1 {
		return args[0], nil
	}
	if err := c.environ(); err != nil {
		return "", err
	}
	if c.dir == "" {
		return "", misuse("say which directory: a NATS server looks after its own")
	}
	return c.dir, nil
}

func (c *cli) showCheck(r *embedded.Report) error {
	if c.json {
		if r.Damage == nil {
			r.Damage = []embedded.Damage{}
		}
		return c.out.json(r)
	}
	for _, d := range r.Damage {
		fmt.Fprintln(c.out, c.out.cell(d.String()))
	}
	for _, s := range r.Streams {
		c.note("%s: %d records in %d blocks, up to revision %d", s.Name, s.Messages, s.Blocks, s.Last)
	}
	return nil
}

func (c *cli) repairCommand() *cobra.Command {
	var dry, accept bool
	cmd := &cobra.Command{
		Use:   "repair [DIR]",
		Short: "Save what is whole in a damaged directory",
		Long: `repair writes every whole record of a directory (DIR, or --dir) into a new store,
and moves the old one aside, to nats.damaged-TIME in the same directory. It removes
nothing, and can be interrupted and called again. It needs room for both stores, and
no process may have the directory open.

Keys, values, metadata and expirations stay. Revisions change, and replicas read the
whole namespace again. A line is written for each part of a file without a record,
and for each key that is known to be missing. With --dry-run nothing is written but
these lines.

Where records of a namespace are gone and leave no trace in the files, the Stores of
the directory know, and stay Degraded. With --accept the loss is accepted for the
namespace (--namespace), which is created again if nothing of it is left; nothing
else is done.

With --json: {"dir":"...","aside":"...","streams":[{"name":"KV_app","written":7,
"lost":[{"path":"...","offset":7,"reason":"..."}],"missing":["$KV.app.key"],
"skipped":"","unsure":false}]}`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := c.directory(args)
			if err != nil {
				return err
			}
			if accept {
				return c.acceptLoss(cmd.Context(), dir)
			}
			report, err := embedded.Repair(cmd.Context(), dir, embedded.RepairOptions{DryRun: dry, Logger: c.logger()})
			if err != nil {
				return err
			}
			if c.json {
				return c.out.json(report)
			}
			c.showRepair(report)
			return nil
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only report what would be saved and what is lost")
	cmd.Flags().BoolVar(&accept, "accept", false, "accept that records of the namespace are gone")
	return cmd
}

// acceptLoss opens the namespace once, and says so to all later ones.
func (c *cli) acceptLoss(ctx context.Context, dir string) error {
	if c.namespace == "" {
		c.namespace = os.Getenv("NEARKV_NAMESPACE")
	}
	ctx, cancel, work := c.wait(ctx)
	defer cancel(nil)
	defer work.stop()
	s, err := kvstore.Open(ctx, c.namespace, kvstore.Options{Dir: dir, AcceptLoss: true, CacheBytes: noValues, Logger: c.logger()})
	if err != nil {
		return err
	}
	return s.Close()
}

func (c *cli) showRepair(r *embedded.RepairReport) {
	for _, s := range r.Streams {
		for _, d := range s.Lost {
			fmt.Fprintf(c.out, "lost: %s\n", c.out.cell(d.String()))
		}
		for _, subject := range s.Missing {
			fmt.Fprintf(c.out, "missing: %s\n", c.out.cell(keyOf(s.Name, subject)))
		}
		switch {
		case s.Skipped != "":
			fmt.Fprintf(c.out, "%s: nothing was saved: %s\n", c.out.cell(s.Name), c.out.shown(s.Skipped))
		case s.Unsure:
			fmt.Fprintf(c.out, "%s: a value may be older than the last one, and a deleted key may be there again, where a later record was lost\n", c.out.cell(s.Name))
		}
		fmt.Fprintf(c.out, "%s: %d records saved\n", c.out.cell(s.Name), s.Written)
	}
	if r.Aside != "" {
		fmt.Fprintf(c.out, "the old store is now %s\n", c.out.cell(r.Aside))
	}
}

// keyOf returns the key of a subject, or the subject where it is none of a key.
func keyOf(stream, subject string) string {
	namespace, ok := strings.CutPrefix(stream, "KV_")
	if name, found := strings.CutPrefix(subject, "$KV."+namespace+"."); ok && found {
		if key, err := codec.Key(name); err == nil {
			return namespace + " " + key
		}
	}
	return subject
}
