package kvstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore/internal/tempfile"
	"github.com/nearkv/nearkv/replication"
)

// ExportJSON is Export in the bulk JSON of Workers KV, which its tool wrangler
// and ImportJSON read (codec.ReadBulk): each key once, in order except for those
// that were written meanwhile. It has no revision, and expiry in whole seconds:
// fractions are rounded up, but not beyond the year 9999. Values that are not UTF-8 are in base64. What has
// expired is left out. A file of it cannot tell whether it is damaged, beyond
// what JSON can.
//
// It needs room for an archive of the namespace in the directory for temporary
// files. On Unix the file has no name there, and nothing of it stays even if the
// process is killed. Errors are those of Export, of the file system, and, with the
// key, codec.ErrInvalidBulk for what bulk JSON cannot have: a value of another NATS
// client of more than 25 MiB, or an expiry after the year 9999.
func (s *Store) ExportJSON(ctx context.Context, w io.Writer, opts ...ExportOption) (ExportInfo, error) {
	info, err := s.exportJSON(ctx, w, opts)
	return info, failed("export", "", err)
}

func (s *Store) exportJSON(ctx context.Context, w io.Writer, opts []ExportOption) (info ExportInfo, err error) {
	spool, err := tempfile.Create("nearkv-export-*")
	if err != nil {
		return ExportInfo{}, err
	}
	defer func() { err = errors.Join(err, spool.Close()) }()
	e := newExport(s, opts)
	if info, err = e.run(ctx, spool); err != nil {
		return ExportInfo{}, err
	}
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		return ExportInfo{}, err
	}
	info.Keys, info.Bytes, err = e.convert(ctx, bufio.NewReaderSize(spool, 256<<10), codec.NewBulkWriter(w))
	return info, err
}

// convert writes the last value of each key of the archive that was exported.
func (e *export) convert(ctx context.Context, archive io.Reader, out *codec.BulkWriter) (keys int, size int64, err error) {
	in, err := codec.NewArchiveReader(archive)
	if err != nil {
		return 0, 0, err
	}
	var room []byte
	for number := 1; ; number++ {
		entry, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			return keys, size, out.Close()
		case err != nil:
			return keys, size, err
		case ctx.Err() != nil:
			return keys, size, unsent(replication.Ended(ctx))
		case !e.isLast(number, &entry) || expiredAt(entry.Expires, time.Now()):
			continue
		}
		if room, err = readValue(in, room[:0], entry.Size); err != nil {
			return keys, size, err
		}
		pair := codec.BulkPair{Key: entry.Key, Value: room, Metadata: entry.Metadata}
		if entry.Expires != 0 {
			pair.Expires = time.UnixMilli(entry.Expires)
		}
		if err := out.Write(pair); err != nil {
			return keys, size, fmt.Errorf("%.64q: %w", entry.Key, err)
		}
		keys++
		size += entry.Size
	}
}

// isLast tells whether an entry of the archive is what its key has in the end.
func (e *export) isLast(number int, entry *codec.ArchiveEntry) bool {
	last, ok := e.changed[entry.Key]
	return entry.Op == codec.OpPut && (!ok || last == number)
}

func expiredAt(expires int64, now time.Time) bool { return expires != 0 && expires <= now.UnixMilli() }

// readValue appends a value of an archive.
func readValue(in *codec.ArchiveReader, dst []byte, size int64) ([]byte, error) {
	for size > 0 {
		// The archive says the size: memory is taken as the value comes.
		from, n := len(dst), int(min(size, 1<<20))
		dst = append(dst, make([]byte, n)...)
		if _, err := io.ReadFull(in, dst[from:]); err != nil {
			return dst, err
		}
		size -= int64(n)
	}
	return dst, nil
}
