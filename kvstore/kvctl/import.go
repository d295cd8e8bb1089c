package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
)

type importFlags struct {
	format    string
	skip      int
	mirror    bool
	onlyEmpty bool
}

func (c *cli) importCommand() *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Restore a namespace from a file",
		Long: `import writes the entries of a file that export has written, or of stdin (-), into
the namespace, over what is there. Keys that the file does not have stay, unless
there is --delete-others. What has expired meanwhile is left out.

The whole file is checked before the first write, an archive by its checksums and
counts; stdin goes through a temporary file for it. What the format is, the
file tells. When it fails or is interrupted it tells with which --skip to go on.

With --json there is a summary on stdout:
  {"namespace":"app","revision":7,"written":5,"expired":0,"deleted":0,"bytes":80,"seconds":0.1}`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case f.format != "" && f.format != formatArchive && f.format != formatJSON:
				return misuse("--format %s: say archive or json", f.format)
			case f.skip < 0:
				return misuse("--skip %d is negative", f.skip)
			case f.skip > 0 && (f.mirror || f.onlyEmpty):
				return misuse("--skip cannot be combined with --delete-others or --only-if-empty: begin anew")
			}
			return c.importFile(cmd.Context(), args[0], f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.format, "format", "", "archive or json, instead of what the file looks like")
	flags.IntVar(&f.skip, "skip", 0, "leave out so many entries at the beginning")
	flags.BoolVar(&f.mirror, "delete-others", false, "delete the keys that the file does not have, at the end")
	flags.BoolVar(&f.onlyEmpty, "only-if-empty", false, "refuse a namespace that has keys")
	complete(cmd.RegisterFlagCompletionFunc("format", completeFormat))
	return cmd
}

func (c *cli) importFile(ctx context.Context, name string, f importFlags) error {
	in, err := c.openInput(name)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // it was read
	if f.format == "" {
		if f.format, err = formatOf(in); err != nil {
			return err
		}
	}
	total, err := c.checkImport(ctx, in, f.format)
	if err != nil {
		return err
	}
	if f.skip > total {
		return misuse("--skip %d: %s has %d entries", f.skip, in.name, total)
	}
	return c.with(ctx, created, noValues, func(s *session) error { return c.importTo(s, in, f, total) })
}

// formatOf takes for an archive what begins as one.
func formatOf(in *input) (string, error) {
	r, err := in.again()
	if err != nil {
		return "", err
	}
	begin := make([]byte, 6)
	if _, err := io.ReadFull(r, begin); err == nil && string(begin) == "nearkv" {
		return formatArchive, nil
	}
	return formatJSON, nil // whose errors say where it is none
}

// checkImport reads the whole file, and counts its entries.
func (c *cli) checkImport(ctx context.Context, in *input, format string) (int, error) {
	if format == formatJSON {
		return checkBulk(ctx, c, bulk[codec.BulkPair]{read: codec.ReadBulk, check: func(codec.BulkPair) error { return nil }}, in)
	}
	r, err := in.again()
	if err != nil {
		return 0, err
	}
	bar := c.begin("checking "+in.name, in.size, "bytes")
	defer bar.end()
	_, trailer, err := codec.VerifyArchive(io.TeeReader(untilDone{ctx, r}, bar))
	switch {
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case err != nil:
		return 0, fmt.Errorf("%s: %w", in.name, err)
	}
	return int(trailer.Entries), nil
}

// untilDone reads until the context ends.
type untilDone struct {
	ctx context.Context
	io.Reader
}

func (r untilDone) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}

func (c *cli) importTo(s *session, in *input, f importFlags, total int) error {
	r, err := in.again()
	if err != nil {
		return err
	}
	began, bar := time.Now(), c.begin("importing", int64(total-f.skip), "entries")
	read := s.ImportJSON
	if f.format == formatArchive {
		read = s.Import
	}
	info, err := read(s.ctx, r, f.options(func(done int) {
		bar.set(int64(done))
		s.work.progress()
	})...)
	bar.end()
	if e, ok := errors.AsType[*kvstore.BulkError](err); ok {
		hint := fmt.Sprintf("%d of %d entries are in; go on with --skip %d", f.skip+info.Written+info.Expired, total, e.Index)
		return hintError{fmt.Errorf("entry %d, key %.64q: %w", e.Index, e.Key, e.Err), hint}
	}
	if err != nil {
		return err
	}
	if !c.json {
		c.note("%d entries in %.1f s; %d have expired, %d others were deleted", info.Written, time.Since(began).Seconds(), info.Expired, info.Deleted)
		return nil
	}
	return c.out.json(struct {
		Namespace string           `json:"namespace,omitempty"` // of an archive: what it is of
		Revision  kvstore.Revision `json:"revision,omitempty"`
		Written   int              `json:"written"`
		Expired   int              `json:"expired"`
		Deleted   int              `json:"deleted"`
		Bytes     int64            `json:"bytes"`
		Seconds   float64          `json:"seconds"`
	}{info.Namespace, info.Revision, info.Written, info.Expired, info.Deleted, info.Bytes, seconds(began)})
}

func (f *importFlags) options(progress func(int)) []kvstore.ImportOption {
	opts := []kvstore.ImportOption{kvstore.OnProgress(progress), kvstore.StartAt(f.skip)}
	if f.mirror {
		opts = append(opts, kvstore.DeleteOthers())
	}
	if f.onlyEmpty {
		opts = append(opts, kvstore.OnlyIfEmpty())
	}
	return opts
}
