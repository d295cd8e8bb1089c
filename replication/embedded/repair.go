package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/nearkv/nearkv/replication/embedded/blocks"
)

// RepairOptions say how to repair. The zero value works.
type RepairOptions struct {
	DryRun bool         // only report what would be saved and what is lost
	Logger *slog.Logger // of the server that writes the new store; nil: discard
}

// RepairReport is what a repair has done, or would do.
type RepairReport struct {
	Dir     string    `json:"dir"`
	Aside   string    `json:"aside"` // where the old store is now; "" after a dry run
	Streams []Salvage `json:"streams"`
}

const (
	repairName   = storeName + ".repairing" // the new store, while it is written
	completeName = "repaired"               // a file in it says that all was written
)

// Repair writes every whole record of a directory that nobody serves into a new store, and then moves the old one
// aside, within the directory, and the new one into its place. Nothing is removed. Keys, values, metadata and expiries
// stay; the log is a new one: revisions change, and replicas read all of it again.
//
// If ctx ends, Repair returns when the server that writes the new store is gone.
// It can be interrupted or killed at any moment and be called again. The directory needs room for both stores.
// Errors are those of Check, and an *OptionsError for the directory of a voter: move its nats aside, and it gets
// everything from its peers.
func Repair(ctx context.Context, dir string, opts RepairOptions) (_ *RepairReport, err error) {
	h, err := lockExisting(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.lock.Unlock()) }()
	if _, err := os.Lstat(filepath.Join(h.store, memberName)); err == nil {
		return nil, &OptionsError{"Dir", "the directory is that of a voter of a cluster: move its nats aside, and start the voter; it gets everything from the others"}
	}
	if err := errors.Join(checkTree(ctx, h.store), restoreKept(ctx, h.store)); err != nil {
		return nil, err
	}
	all, err := surveyStore(ctx, h.store)
	if err != nil {
		return nil, err
	}
	report := &RepairReport{Dir: h.dir}
	if !opts.DryRun {
		if err := h.rebuild(ctx, all, opts.Logger); err != nil {
			return nil, err
		}
		if report.Aside, err = h.exchange(); err != nil {
			return nil, err
		}
	}
	for _, s := range all {
		report.Streams = append(report.Streams, s.Salvage)
	}
	return report, nil
}

func surveyStore(ctx context.Context, store string) (all []*salvager, err error) {
	streams, err := readDirs(filepath.Join(store, "jetstream", "$G", "streams"))
	if err != nil {
		return nil, err
	}
	for _, path := range streams {
		if strings.HasPrefix(filepath.Base(path), ".") { // it is being deleted
			continue
		}
		s, err := newSalvager(path)
		if err != nil {
			return nil, err
		}
		if s.Skipped == "" {
			if err := s.survey(ctx); err != nil {
				return nil, err
			}
			s.Written = s.countable()
		}
		all = append(all, s)
	}
	return all, nil
}

// countable is how many messages will be written; of a stream with a history it is not known before.
func (s *salvager) countable() (n uint64) {
	for _, seq := range s.latest {
		if !s.removed[seq] {
			n++
		}
	}
	return n
}

// rebuild writes the new store beside the old one. What an earlier repair has left is moved aside: it may be the old store.
func (h *home) rebuild(ctx context.Context, all []*salvager, log *slog.Logger) error {
	path := filepath.Join(h.dir, repairName)
	if _, err := os.Lstat(path); err == nil {
		if err := os.Rename(path, h.aside("unfinished")); err != nil {
			return failed("move an unfinished repair aside", err)
		}
	}
	if err := os.Mkdir(path, dirMode); err != nil {
		return failed("create the new store", err)
	}
	opts, err := Options{Dir: h.dir, Logger: log, MaxStore: 1 << 50, SyncAlways: false}.withDefaults()
	if err != nil {
		return err
	}
	s, err := newServer(opts, &home{store: path, keep: true})
	if err != nil {
		return err
	}
	if s, err = s.boot(ctx); err != nil {
		if interrupted, ok := errors.AsType[*InterruptedError](err); ok {
			<-interrupted.Done() // the next repair must not meet this server in the new store
		}
		return err
	}
	for _, stream := range all {
		if stream.Skipped == "" && err == nil {
			err = stream.write(ctx, s)
		}
	}
	if err := errors.Join(err, s.Shutdown()); err != nil {
		return err
	}
	if synced, err := os.ReadFile(filepath.Join(h.store, syncedName)); err == nil {
		if err := os.WriteFile(filepath.Join(path, syncedName), synced, lockMode); err != nil {
			return failed("complete the new store", err)
		}
	}
	if err := syncTree(path); err != nil {
		return err
	}
	return writeSynced(filepath.Join(path, completeName), time.Now().UTC().Format(time.RFC3339))
}

// syncTree makes all files of the new store last, before the old one leaves its place.
func syncTree(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		if err := f.Sync(); err != nil && !d.IsDir() { // not every system syncs directories
			return errors.Join(err, f.Close())
		}
		return f.Close()
	})
	if err != nil {
		return failed("sync the new store", err)
	}
	return nil
}

func writeSynced(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, lockMode)
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		return failed("complete the new store", err)
	}
	return nil
}

// aside returns a name in Dir that is not taken.
func (h *home) aside(why string) string {
	name := fmt.Sprintf("%s.%s-%s", storeName, why, time.Now().UTC().Format("20060102T150405"))
	for i := 0; ; i++ {
		path := filepath.Join(h.dir, name)
		if i > 0 {
			path += "-" + strconv.Itoa(i)
		}
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return path
		}
	}
}

// exchange puts the new store in the place of the old one. If it is interrupted in between, finishRepair ends it.
func (h *home) exchange() (aside string, err error) {
	aside = h.aside("damaged")
	if err := os.Rename(h.store, aside); err != nil {
		return "", failed("move the old store aside", err)
	}
	return aside, finishRepair(h.dir)
}

// finishRepair gives a repaired store its place, if there is none there: a repair was killed between its last two steps.
func finishRepair(dir string) error {
	done := filepath.Join(dir, repairName)
	if _, err := os.Lstat(filepath.Join(dir, storeName)); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return nil // whoever opens it will see
	}
	if _, err := os.Lstat(filepath.Join(done, completeName)); err != nil {
		return nil
	}
	if err := os.Rename(done, filepath.Join(dir, storeName)); err != nil {
		return failed("finish a repair", err)
	}
	return nil
}

// write makes the stream in a new server and writes what counts of it.
func (s *salvager) write(ctx context.Context, server *Server) error {
	nc, err := server.Connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	var failure error
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(256), jetstream.WithPublishAsyncErrHandler(
		func(_ jetstream.JetStream, _ *nats.Msg, err error) { failure = errors.Join(failure, err) }))
	if err != nil {
		return err
	}
	config := s.config
	if config.Metadata["nearkv.format"] != "" { // replicas that know the old log must not take this for it
		config.Metadata["nearkv.incarnation"] = nuid.Next()
	}
	if _, err := js.CreateStream(ctx, config); err != nil {
		return fmt.Errorf("embedded: repair: create %s: %w", s.Name, err)
	}
	s.Written = 0
	err = s.each(ctx, false, func(r blocks.Record) error {
		if !s.counts(r) {
			return nil
		}
		m := message(r, time.Now())
		if m == nil {
			return nil
		}
		s.Written++
		_, err := js.PublishMsgAsync(m)
		return err
	})
	if err != nil {
		return fmt.Errorf("embedded: repair: write %s: %w", s.Name, err)
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		return fmt.Errorf("embedded: repair: %w", context.Cause(ctx))
	}
	if failure != nil {
		return fmt.Errorf("embedded: repair: write %s: %w", s.Name, failure)
	}
	return nil
}

// message is what is published for a record; nil if it has expired. Its header loses what was meant for the first
// publishing only: conditions, batches, identities.
func message(r blocks.Record, now time.Time) *nats.Msg {
	m := nats.NewMsg(string(r.Subject))
	m.Data = bytes.Clone(r.Value)
	if len(r.Header) == 0 {
		return m
	}
	_, lines, _ := bytes.Cut(r.Header, []byte("\r\n"))
	for name, values := range parseHeader(lines) {
		if strings.HasPrefix(name, "Nats-") && name != ttlName || name == "KV-Batch" {
			continue
		}
		m.Header[name] = values
	}
	if text := m.Header.Get(ttlName); text != "" {
		left, ok := lifeLeft(text, time.Unix(0, r.Time), now)
		if !ok {
			return nil
		}
		m.Header.Set(ttlName, left)
	}
	return m
}

const ttlName = "Nats-TTL"

// parseHeader returns a header by its names as they are written: textproto would change their case.
func parseHeader(lines []byte) nats.Header {
	h := make(nats.Header)
	for line := range bytes.SplitSeq(lines, []byte("\r\n")) {
		if name, value, ok := bytes.Cut(line, []byte(":")); ok {
			h[string(name)] = append(h[string(name)], strings.TrimSpace(string(value)))
		}
	}
	return h
}

// lifeLeft returns what is left of a TTL, in whole seconds, rounded up. It is false if nothing is.
func lifeLeft(text string, since, now time.Time) (string, bool) {
	ttl, err := time.ParseDuration(text)
	if seconds, err2 := strconv.ParseInt(text, 10, 64); err != nil && err2 == nil {
		ttl, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil { // "never"
		return text, true
	}
	left := since.Add(ttl).Sub(now)
	if left <= 0 {
		return "", false
	}
	return strconv.FormatInt(int64((left+time.Second-1)/time.Second), 10), true
}
