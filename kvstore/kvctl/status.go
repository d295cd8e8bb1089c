package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/replication/redact"
)

func (c *cli) statusCommand() *cobra.Command {
	var cache int64
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the state of a namespace",
		Long: `status opens a replica of the namespace and shows how it stands: its state and its
lag behind the log, keys, bytes of their values, what acknowledged writes survive,
the server and the limits.

The hit ratio is that of this replica, which has just been opened with a cache of
--cache bytes: the part of its reads, of up to 1000 keys evenly spread, that
need not ask the log. That of a running service is in its Store.Stats.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), existing, cache, func(s *session) error { return c.status(s, cache) })
		},
	}
	cmd.Flags().Int64Var(&cache, "cache", kvstore.DefaultCacheBytes, "memory for values, in bytes")
	return cmd
}

// state is what --json tells of a namespace.
type state struct {
	Namespace  string    `json:"namespace"`
	Store      string    `json:"store"`
	Server     string    `json:"server,omitempty"`
	State      string    `json:"state"`
	Reason     string    `json:"reason,omitempty"`
	Since      time.Time `json:"since"`
	Applied    uint64    `json:"applied"`
	Head       uint64    `json:"head"`
	Lag        uint64    `json:"lag"`
	Keys       int       `json:"keys"`
	Tombstones int       `json:"tombstones"`
	Bytes      int64     `json:"bytes"`
	CacheBytes int64     `json:"cache_bytes"`
	Reads      int       `json:"reads"`
	HitRatio   *float64  `json:"hit_ratio"` // null: there is nothing to read
	Foreign    int       `json:"foreign"`
	Damaged    uint64    `json:"damaged"`
	Durability string    `json:"durability"`
	Missing    []string  `json:"missing,omitempty"`
	Limits     limits    `json:"limits"`
}

type limits struct {
	Key      int `json:"key"`
	Value    int `json:"value"`
	Metadata int `json:"metadata"`
}

func (c *cli) status(s *session, cache int64) error {
	if err := s.Sync(s.ctx); err != nil {
		return err
	}
	reads, ratio, err := hitRatio(s)
	if err != nil {
		return err
	}
	st, n := s.Status(), s.Stats()
	is := state{
		Namespace: c.namespace, Store: c.dir + redact.URLs(c.url), Server: c.server(),
		State: st.State.String(), Reason: st.Reason, Since: st.Since,
		Applied: uint64(st.Applied), Head: uint64(st.Head), Lag: st.Lag(),
		Keys: n.Keys, Tombstones: n.Tombstones, CacheBytes: n.CacheBytes, Reads: reads, HitRatio: ratio,
		Foreign: n.Foreign, Damaged: n.Damaged, Durability: st.Durability.String(), Missing: st.Missing,
		Limits: limits{codec.MaxKeyLen, codec.MaxValueLen, codec.MaxMetadataLen},
	}
	for k, err := range s.Keys("") {
		if err != nil {
			return err
		}
		is.Bytes += int64(k.Size)
	}
	if c.json {
		return c.out.json(is)
	}
	return c.table(nil, c.rows(&is, cache))
}

func (c *cli) rows(is *state, cache int64) [][]string {
	hits := "nothing to read"
	if is.HitRatio != nil {
		hits = fmt.Sprintf("%.1f %% of %d reads, with a cache of %s", 100**is.HitRatio, is.Reads, size(max(cache, 0)))
	}
	mood := green
	if is.State != kvstore.Live.String() {
		mood = red
	}
	rows := [][]string{
		{"namespace", is.Namespace},
		{"store", c.out.cell(is.Store)},
		{"server", c.out.cell(is.Server)},
		{"state", c.out.colored(mood, is.State)},
		{"reason", c.out.cell(is.Reason)},
		{"lag", fmt.Sprintf("%d (applied %d of %d)", is.Lag, is.Applied, is.Head)},
		{"keys", fmt.Sprint(is.Keys)},
		{"tombstones", fmt.Sprint(is.Tombstones)},
		{"bytes", fmt.Sprintf("%s of values, %s of them in memory", size(is.Bytes), size(is.CacheBytes))},
		{"hit ratio", hits},
		{"durability", is.Durability},
		{"missing", c.out.cell(strings.Join(is.Missing, ", "))},
		{"limits", fmt.Sprintf("key %d B, value %s, metadata %d B", is.Limits.Key, size(int64(is.Limits.Value)), is.Limits.Metadata)},
	}
	if is.Foreign > 0 || is.Damaged > 0 {
		rows = append(rows, []string{"foreign", fmt.Sprintf("%d subjects that are no keys, %d damaged records", is.Foreign, is.Damaged)})
	}
	return slices.DeleteFunc(rows, func(row []string) bool { return row[1] == "" })
}

// hitRatio reads up to 1000 keys, without loading large values. Misses of others
// are counted exactly.
func hitRatio(s *session) (reads int, ratio *float64, err error) {
	const most = 1000
	every, i, large := max(s.Stats().Keys/most, 1), 0, 0
	before := s.Stats().Misses
	for k, err := range s.Keys("") {
		if err != nil {
			return 0, nil, err
		}
		if i++; i%every != 0 || reads == most {
			continue
		}
		e, err := s.Get(s.ctx, k.Name, kvstore.Lazy())
		switch {
		case errors.Is(err, kvstore.ErrNotFound): // it has gone
			continue
		case err != nil:
			return 0, nil, err
		case !e.Loaded():
			large++
		}
		reads++
	}
	if reads == 0 {
		return 0, nil, nil
	}
	misses := large + int(s.Stats().Misses-before)
	hits := 1 - float64(misses)/float64(reads)
	return reads, &hits, nil
}

// server tells the version of an existing server, and which one it is.
func (c *cli) server() string {
	if c.url == "" {
		return "in one of the processes that share the directory"
	}
	conn := c.conn.Load()
	if conn == nil {
		return ""
	}
	return fmt.Sprintf("nats-server %s, %s", conn.ConnectedServerVersion(), redact.URLs(conn.ConnectedUrl()))
}
