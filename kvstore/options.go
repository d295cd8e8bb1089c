package kvstore

import (
	"cmp"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/replication"
	"github.com/nearkv/nearkv/replication/embedded"
)

// DefaultCacheBytes is the memory for values where Options do not say.
const DefaultCacheBytes = 256 << 20

// DefaultWriteTimeout bounds writes where neither Options nor the context do.
const DefaultWriteTimeout = 10 * time.Second

// Cluster says which voters there are, how they reach each other, and which one
// this is.
type Cluster = embedded.Cluster

// Options of Open. The zero value works: a private server in this process that
// keeps everything in memory. At most one of Dir, URL and Conn may be set.
type Options struct {
	// Dir makes the private server keep the log in this directory, which is
	// created if need be, with mode 0700, and must be on a local file system. Any
	// number of Stores, of any number of processes of one user, can open it: one
	// of them serves the others over a unix socket in it. When that one closes or
	// dies another takes over, within the time that the server needs to start on
	// the data; writes wait for it, reads do not notice.
	Dir string
	// Exclusive keeps everybody else out of Dir: there is no socket, and others
	// get ErrLocked. Virtual time (kvstoretest) needs it.
	Exclusive bool
	// Cluster makes the Stores of this Dir one of 3 or 5 voters that keep the log
	// together, each in a Dir of its own, and go on without the minority of them.
	// Replicas is then the number of voters by default. Open waits until more than
	// half of the voters are there; to create a namespace it needs all.
	Cluster *Cluster
	// URL of an existing NATS server or cluster with JetStream: one or several,
	// separated by commas, as nats.Connect takes them.
	URL string
	// NATS are options of the connection that URL makes: credentials, nkeys, TLS,
	// as nats.Connect takes them. They come after the Store's own; a dialer is
	// overruled.
	NATS []nats.Option
	// Conn is an existing connection. It stays the caller's: Close leaves it
	// open. It must not be closed before the Store: then calls are ErrDisconnected. Its
	// error handler is wrapped while a Store is open; see "What does not pass by itself".
	Conn *nats.Conn

	// Domain is the JetStream domain of the log, where it is not that of the server
	// that URL or Conn leads to: a leaf node without JetStream, for instance. It is what
	// jetstream.NewWithDomain takes.
	Domain string
	// APIPrefix begins the subjects of JetStream's API, where the log is in another
	// account, which exports it, and the account of the connection imports it under this
	// prefix. It is what jetstream.NewWithAPIPrefix takes. With it, as with Domain, records
	// are published to "<prefix>.$KV.<namespace>.<key>", as by the key-value clients of
	// NATS, and large values to "$O.<namespace>.>". At most one of both can be set.
	APIPrefix string

	// MustExist has Open refuse a namespace that does not exist, with
	// ErrNoNamespace, instead of creating it.
	MustExist bool
	// Memory keeps the log in the server's memory instead of on its disk: it is
	// gone when the server is. Used when the namespace is created. Without Dir,
	// URL and Conn it is so anyhow.
	Memory bool

	// AcceptLoss has Open accept that records are gone from Dir, or all of the
	// namespace, which it would otherwise report: by the state Degraded, again at each
	// Open, and by ErrDirDamaged for a namespace of which nothing is left. Records of
	// which other processes know are not brought back.
	AcceptLoss bool

	// Durability is what an acknowledged write in Dir survives; see there.
	// Without Dir it cannot be chosen: memory keeps nothing, and an existing
	// server (URL, Conn) does what it is configured for, and does not tell.
	Durability Durability

	// CacheBytes bounds the memory for values; the index of keys and metadata is
	// beside it. 0 means DefaultCacheBytes, a negative number that no values are
	// kept: each read loads its value from the log.
	CacheBytes int64

	// Replicas is the number of copies of the log on a cluster, 1 to 5, used
	// when the namespace is created. Default 1.
	Replicas int
	// MaxBytes limits the log of the namespace, in bytes, and its object store, to
	// as much again, used when they are created; a write beyond it is ErrNoSpace. 0:
	// only the server's own limit.
	MaxBytes int64

	// InlineBytes is the length of the longest value that is part of its record in
	// the log, in bytes. Longer ones, up to 25 MiB, are put into the object store of
	// the namespace (OBJ_<namespace>), and loaded by a replica only when they are
	// read. Default DefaultInlineBytes; what the server takes in one message bounds it.
	// A negative number keeps the object store out: then that is the longest value.
	InlineBytes int64

	// WriteTimeout bounds a write whose context has no deadline: without one a request
	// handler would wait for as long as the log is away. Default DefaultWriteTimeout;
	// negative: no bound. It counts from the last progress: a value that is read and sent,
	// and a PutAll, DeleteAll or Import of which one write after the other ends, may take
	// longer. The time that a reader given to PutFrom takes does not count. The error is
	// ErrUnavailable or ErrIndeterminate, and context.DeadlineExceeded.
	WriteTimeout time.Duration

	// CheckInterval is how often the replica compares itself with the log, at
	// least 10 ms; default 2 s. A log that was made anew, rolled back or purged
	// is noticed within about three intervals.
	CheckInterval time.Duration

	// Logger is told of what an operator should know. Default: nobody.
	Logger *slog.Logger
}

// check returns an error that names the first contradiction.
func (o *Options) check() error {
	places := 0
	for _, given := range []bool{o.Dir != "", o.URL != "", o.Conn != nil} {
		if given {
			places++
		}
	}
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrInvalidOptions}, args...)...)
	}
	switch {
	case places > 1:
		return refuse("at most one of Dir, URL and Conn can be set")
	case !validURL(o.URL):
		return refuse("URL cannot be read")
	case len(o.NATS) > 0 && o.URL == "":
		return refuse("NATS without URL")
	case o.Domain != "" && o.APIPrefix != "":
		return refuse("both Domain and APIPrefix are set")
	case (o.Domain != "" || o.APIPrefix != "") && o.URL == "" && o.Conn == nil:
		return refuse("Domain and APIPrefix need URL or Conn")
	case o.Domain != "" && !validTokens(o.Domain, 1):
		return refuse("Domain %q is not the name of a domain", o.Domain)
	case o.APIPrefix != "" && !validTokens(strings.TrimSuffix(o.APIPrefix, "."), math.MaxInt):
		return refuse("APIPrefix %q is not the beginning of a subject", o.APIPrefix)
	case o.Exclusive && o.Dir == "":
		return refuse("Exclusive without Dir")
	case o.AcceptLoss && o.Dir == "":
		return refuse("AcceptLoss without Dir")
	case o.Memory && o.Dir != "":
		return refuse("Memory and Dir contradict each other")
	case o.Durability != SurviveCrash && o.Durability != SurvivePowerLoss:
		return refuse("Durability is %v", o.Durability)
	case o.Durability == SurvivePowerLoss && (o.URL != "" || o.Conn != nil):
		return refuse("SurvivePowerLoss is for the server to decide, which does not tell")
	case o.Durability == SurvivePowerLoss && o.Dir == "":
		return refuse("SurvivePowerLoss needs Dir: memory does not survive it")
	case o.Replicas < 0 || o.Replicas > 5:
		return refuse("Replicas is %d, not 1 to 5", o.Replicas)
	case o.Cluster != nil && o.Dir == "":
		return refuse("Cluster without Dir")
	case o.Cluster != nil && o.Replicas > len(o.Cluster.Voters):
		return refuse("Replicas is %d, and there are %d voters", o.Replicas, len(o.Cluster.Voters))
	case o.Replicas > 1 && o.URL == "" && o.Conn == nil && o.Cluster == nil:
		return refuse("Replicas is %d, but the server in this process is alone", o.Replicas)
	case o.MaxBytes < 0:
		return refuse("MaxBytes is negative")
	case o.CheckInterval != 0 && o.CheckInterval < 10*time.Millisecond:
		return refuse("CheckInterval is %v, the least is 10ms", o.CheckInterval)
	case o.CheckInterval > time.Hour:
		return refuse("CheckInterval is %v, the most is 1h", o.CheckInterval)
	}
	return nil
}

// validTokens reports whether s is a subject without wildcards that has at most n
// tokens.
func validTokens(s string, n int) bool {
	tokens := strings.Split(s, ".")
	for _, token := range tokens {
		if token == "" || token == "*" || token == ">" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return false
		}
	}
	return len(tokens) <= n
}

// apiPrefix is where JetStream's API is; "": where it is by default.
func (o *Options) apiPrefix() string {
	switch {
	case o.Domain != "":
		return "$JS." + o.Domain + ".API."
	case o.APIPrefix != "":
		return strings.TrimSuffix(o.APIPrefix, ".") + "."
	}
	return ""
}

// validURL reads URLs as nats.Connect does. What it cannot read is not shown in
// the error: it may hold a password.
func validURL(list string) bool {
	for _, u := range strings.Split(list, ",") {
		u = strings.TrimSpace(u)
		if !strings.Contains(u, "://") {
			u = "nats://" + u
		}
		if _, err := url.Parse(u); err != nil {
			return false
		}
	}
	return true
}

func (o *Options) withDefaults() Options {
	c := *o
	c.WriteTimeout = cmp.Or(c.WriteTimeout, DefaultWriteTimeout)
	c.CacheBytes = cmp.Or(c.CacheBytes, DefaultCacheBytes)
	if c.InlineBytes = cmp.Or(c.InlineBytes, DefaultInlineBytes); c.InlineBytes < 0 {
		c.InlineBytes = codec.MaxValueLen
	}
	if c.Cluster != nil {
		c.Replicas = cmp.Or(c.Replicas, len(c.Cluster.Voters))
	}
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	return c
}

func (o *Options) replication() replication.Config {
	return replication.Config{
		MustExist: o.MustExist,
		Memory:    o.Memory || (o.Dir == "" && o.URL == "" && o.Conn == nil), Replicas: o.Replicas, MaxBytes: o.MaxBytes,
		Synced: o.Durability == SurvivePowerLoss, InFile: o.Dir != "", CheckInterval: o.CheckInterval, Logger: o.Logger,
		APIPrefix: o.apiPrefix(),
	}
}

// past returns what is known of the namespace in Dir. Of the voters of a cluster no
// single one decides what the log is.
func (o *Options) past(namespace string) *past {
	if o.Dir == "" || o.Cluster != nil {
		return nil
	}
	p := readPast(o.Dir, namespace)
	if o.AcceptLoss {
		if err := p.accept(); err != nil {
			o.Logger.Warn("nearkv: cannot accept the loss", "error", err)
		}
	}
	return p
}

// A ReadOption changes one Get or GetAll.
type ReadOption interface{ read(*readOptions) error }

// A WriteOption changes one Put.
type WriteOption interface{ write(*change) error }

// A DeleteOption changes one Delete.
type DeleteOption interface{ remove(*change) error }

// A WatchOption changes one Watch.
type WatchOption interface{ watch(*watcher) }

// A Condition is a WriteOption and a DeleteOption.
type Condition interface {
	WriteOption
	DeleteOption
}

type readOptions struct {
	atLeast   Revision
	lazy      bool
	skip      *skipDamaged
	bounded   bool // staleness is valid
	staleness time.Duration
}

type readOption func(*readOptions) error

func (f readOption) read(o *readOptions) error { return f(o) }

// AtLeast makes the read wait until this replica has applied the revision, or
// holds the key at it or a later one. When the context ends first the error is
// ErrStale. It makes a read see a write that another replica has told about.
func AtLeast(r Revision) ReadOption {
	return readOption(func(o *readOptions) error {
		o.atLeast = max(o.atLeast, r)
		return nil
	})
}

// MaxStaleness makes sure that the read sees all that the log had d ago. A
// replica compares itself with the log every CheckInterval, so that a d above
// that is served from memory; below it the read asks the log first, which
// costs a round trip. If the log cannot be asked before the context ends the
// error is ErrStale. A negative d is ErrInvalidOptions.
func MaxStaleness(d time.Duration) ReadOption {
	return readOption(func(o *readOptions) error {
		if d < 0 {
			return fmt.Errorf("%w: MaxStaleness of %v", ErrInvalidOptions, d)
		}
		if !o.bounded || d < o.staleness {
			o.bounded, o.staleness = true, d
		}
		return nil
	})
}

type writeOption func(*change) error

func (f writeOption) write(c *change) error { return f(c) }

// WithTTL makes the entry expire after d, at least one second, by the clock of
// this process, which should be near that of the others. Fractions of a
// millisecond are rounded up. The TTL counts from the call, not from the
// acknowledgement: a write that the log has not acknowledged when d is over ends with
// ErrExpired. So the caller of a Put with IfAbsent and a TTL holds the lock from the
// call until d later, if the error is nil.
func WithTTL(d time.Duration) WriteOption {
	return writeOption(func(c *change) error {
		if d < time.Second {
			return fmt.Errorf("%w: TTL of %v, the least is 1s", ErrInvalidExpiry, d)
		}
		return c.expireAt(time.Now().Add(d))
	})
}

// WithExpiry makes the entry expire at t, at least one second from now.
// Fractions of a millisecond are rounded up. A write that the log has not
// acknowledged at t ends with ErrExpired.
func WithExpiry(t time.Time) WriteOption {
	return writeOption(func(c *change) error {
		if time.Until(t) < time.Second {
			return fmt.Errorf("%w: %v is not a second ahead", ErrInvalidExpiry, t)
		}
		return c.expireAt(t)
	})
}

// WithMetadata attaches to the entry whatever json.Marshal makes of v, without
// HTML escaping, at most 1024 bytes. nil means none.
func WithMetadata(v any) WriteOption {
	return writeOption(func(c *change) (err error) {
		c.metadata, err = codec.EncodeMetadata(v)
		return err
	})
}

type condition struct {
	kind     conditionKind
	revision Revision
}

type conditionKind uint8

const (
	unconditional conditionKind = iota
	ifAbsent
	ifRevision
)

func (w condition) write(c *change) error {
	if c.condition.kind != unconditional && c.condition != w {
		return fmt.Errorf("%w: two conditions for one write", ErrInvalidOptions)
	}
	if w.kind == ifRevision && w.revision == 0 {
		return fmt.Errorf("%w: IfRevision(0): use IfAbsent", ErrInvalidOptions)
	}
	c.condition = w
	return nil
}

func (w condition) remove(c *change) error { return w.write(c) }

// IfAbsent lets the Put happen only if the key does not exist. The decision is
// the log's: of several writers anywhere exactly one succeeds, the others get
// ErrConflict.
func IfAbsent() WriteOption { return condition{kind: ifAbsent} }

// IfRevision lets the write happen only if the key exists with this revision;
// otherwise it gets ErrConflict. The decision is the log's.
func IfRevision(r Revision) Condition { return condition{ifRevision, r} }

type watchOption func(*watcher)

func (f watchOption) watch(w *watcher) { f(w) }

// ChangesOnly makes a Watch begin with the first change after the loop has
// begun, instead of with what is there.
func ChangesOnly() WatchOption {
	return watchOption(func(w *watcher) { w.changesOnly = true })
}

// latestExpiry is the end of the year 9999, the last one of RFC 3339.
var latestExpiry = time.Date(9999, 12, 31, 23, 59, 59, 999_000_000, time.UTC)

func (c *change) expireAt(t time.Time) error {
	if c.expires != 0 {
		return fmt.Errorf("%w: both a TTL and an expiry", ErrInvalidOptions)
	}
	if t.After(latestExpiry) {
		return fmt.Errorf("%w: after the year 9999", ErrInvalidExpiry)
	}
	c.expires = ceilMilli(t)
	return nil
}

func ceilMilli(t time.Time) int64 {
	ms := t.UnixMilli()
	if t.Nanosecond()%int(time.Millisecond) != 0 && ms != math.MaxInt64 {
		ms++
	}
	return ms
}
