package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nearkv/nearkv/kvstore"
)

// The formats of export and import.
const (
	formatArchive = "archive"
	formatJSON    = "json"
)

func completeFormat(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{formatArchive, formatJSON}, cobra.ShellCompDirectiveNoFileComp
}

var errArchiveOnTerminal = misuse("an archive is nothing for a terminal: redirect it, or name a file")

func (c *cli) exportCommand() *cobra.Command {
	var format string
	var skip bool
	cmd := &cobra.Command{
		Use:   "export FILE",
		Short: "Back a namespace up into a file",
		Long: `export writes all entries of a namespace, as of one revision, to a file, or to
stdout (-). Others may read and write meanwhile. A file is only there, or replaced,
once it is complete. A symbolic link is followed; a named pipe or a device is
written to as it is.

An archive has all bytes as they are: values, metadata, and expiry to the
millisecond. It has checksums and counts, so that import knows whether it is what
was written. --format json writes what bulk put and wrangler kv bulk put read.

An entry whose value is damaged or missing in the log ends the export. With
--skip-damaged it is named on stderr and left out; the file has all others and is
complete, and the exit status is 1.

With --json (to a file) a summary goes to stdout:
  {"file":"app.nkv","format":"archive","revision":7,"keys":5,"bytes":80,"skipped":0,"seconds":0.1}`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case format != formatArchive && format != formatJSON:
				return misuse("--format %s: say archive or json", format)
			case args[0] == "-" && c.json:
				return misuse("--json writes a summary to stdout, where the export is to go")
			case args[0] == "-" && format == formatArchive && c.out.terminal:
				return errArchiveOnTerminal
			}
			return c.with(cmd.Context(), existing, 0, func(s *session) error { return c.export(s, args[0], format, skip) })
		},
	}
	cmd.Flags().StringVar(&format, "format", formatArchive, "archive or json")
	cmd.Flags().BoolVar(&skip, "skip-damaged", false, "leave out entries whose values are damaged")
	complete(cmd.RegisterFlagCompletionFunc("format", completeFormat))
	return cmd
}

func (c *cli) export(s *session, name, format string, skip bool) error {
	began := time.Now()
	opts := []kvstore.ExportOption{}
	if skip {
		opts = append(opts, kvstore.SkipDamaged(func(err *kvstore.ValueError) { c.sayDamaged(err) }))
	}
	if name == "-" {
		info, err := c.exportTo(s, writerTo(c.out.file), format, opts)
		return errors.Join(err, skipped(info.Skipped))
	}
	info, err := c.exportFile(s, name, format, opts)
	if errors.Is(err, kvstore.ErrDamaged) {
		err = hintError{err, "--skip-damaged leaves such entries out"}
	}
	if err != nil {
		return err
	}
	return errors.Join(c.exported(name, format, began, info), skipped(info.Skipped))
}

// sayDamaged tells of an entry that is left out.
func (c *cli) sayDamaged(err error) {
	c.sayLabeled(red, "kvctl:", "left out: %s", strings.TrimPrefix(err.Error(), "kvstore: "))
}

// skipped is how a command ends that left entries out.
func skipped(n int) error {
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d damaged entries were left out; all others are there", n)
}

func (c *cli) exported(name, format string, began time.Time, info kvstore.ExportInfo) error {
	if !c.json {
		c.note("%d keys as of revision %d, %s of values, in %.1f s", info.Keys, info.Revision, size(info.Bytes), time.Since(began).Seconds())
		return nil
	}
	return c.out.json(struct {
		File     string           `json:"file"`
		Format   string           `json:"format"`
		Revision kvstore.Revision `json:"revision"`
		Keys     int              `json:"keys"`
		Bytes    int64            `json:"bytes"`
		Skipped  int              `json:"skipped"`
		Seconds  float64          `json:"seconds"`
	}{name, format, info.Revision, info.Keys, info.Bytes, info.Skipped, seconds(began)})
}

func (c *cli) exportTo(s *session, f io.Writer, format string, opts []kvstore.ExportOption) (kvstore.ExportInfo, error) {
	bar := c.begin("exporting", int64(s.Stats().Keys), "keys")
	defer bar.end()
	opts = append(opts, kvstore.OnProgress(func(done int) {
		bar.set(int64(done))
		s.work.progress()
	}))
	if format == formatJSON {
		return s.ExportJSON(s.ctx, f, opts...)
	}
	return s.Export(s.ctx, f, opts...)
}
