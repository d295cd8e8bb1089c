package replication

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/nearkv/nearkv/codec"
)

// MaxNamespaceLen is the longest name of a namespace in bytes. The server
// allows streams names of 255 bytes; the rest is for our prefixes.
const MaxNamespaceLen = 200

// streamPrefix begins the name of every key-value bucket's stream.
const streamPrefix = "KV_"

// Metadata keys of the streams that Open creates.
const (
	metaFormat      = "nearkv.format"
	metaIncarnation = "nearkv.incarnation"
	formatVersion   = "1"
)

// headerRoom is what the headers of a record may take, in bytes, beside the
// value: metadata, expiry, expectation, identification.
const headerRoom = 4 << 10

const (
	// leastHeaderRoom is what the headers of our records need at most: metadata of
	// codec.MaxMetadataLen, the description of an object, and less than 500 bytes more.
	leastHeaderRoom = 1792
	// leastPayload is the least max_payload of a server that we can work with: headers
	// without a value, and our requests, fit into it.
	leastPayload = 2 << 10
)

// roomFor returns what is left for the headers of a record in a message of a size.
func roomFor(payload int64) int64 { return min(headerRoom, max(payload/2, leastHeaderRoom)) }

// checkPayload refuses a server that takes too little in one message.
func checkPayload(most int64) error {
	if most < leastPayload {
		return fmt.Errorf("replication: %w: the server has a max_payload of %d bytes, needed are %d", ErrUnsupported, most, leastPayload)
	}
	return nil
}

// Config says how Open creates a stream that does not exist, and how often a
// Feed looks after one. The zero value works.
type Config struct {
	MustExist bool  // do not create it: ErrNoStream
	Memory    bool  // keep the stream in the server's memory
	Replicas  int   // copies of the stream on a cluster; default 1
	MaxBytes  int64 // of the stream; default no limit but the server's

	// Synced says that the server, alone and with SyncAlways, syncs each record
	// before it acknowledges it. Appends then share syncs as far as they can
	// (see group), and a stream that is not synced is ErrUnsupported.
	Synced bool

	// InFile says that the log is in files of this machine, which may be damaged: every
	// record gets a header (codec.PlainHeader).
	InFile bool

	// CheckInterval is how often a Feed compares what it applied with what the
	// stream's info says; default 2 s. Recreation, rollback and purge are
	// noticed within about three of them.
	CheckInterval time.Duration

	// APIPrefix begins the subjects of JetStream's API, with the dot at its end;
	// default "$JS.API.". With another one records are written below it too, as by
	// the key-value clients of NATS.
	APIPrefix string

	Logger *slog.Logger // default: discard
}

// DefaultAPIPrefix is that of JetStream in the account and the domain of the
// connection.
const DefaultAPIPrefix = "$JS.API."

func (c Config) withDefaults() Config {
	c.Replicas = cmp.Or(c.Replicas, 1)
	c.MaxBytes = cmp.Or(c.MaxBytes, -1)
	c.CheckInterval = cmp.Or(c.CheckInterval, 2*time.Second)
	c.APIPrefix = cmp.Or(c.APIPrefix, DefaultAPIPrefix)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	return c
}

// Log is the log of one namespace: the stream of a NATS key-value bucket.
// All methods may be called concurrently.
type Log struct {
	nc        *nats.Conn
	namespace string
	stream    string
	prefix    string // of every subject in the stream: "$KV.<namespace>."
	to        string // prefix of the subjects that records are published to
	ack       []byte // how an acknowledgement begins, up to the sequence
	cfg       Config
	requests  *requester
	link      *link
	limits    atomic.Pointer[limits] // of the stream as last seen
	group     *group                 // nil: appends share nothing
	objects   *Objects

	mu       sync.Mutex // held for moments
	watchers map[watcher]bool
	warned   map[string]struct{} // subjects that a warning was about
}

// limits is what a stream's configuration allows.
type limits struct {
	ttl      bool
	direct   bool
	batch    bool // it takes fast-ingest batches
	atomic   bool // it takes atomic batches
	copies   bool // it is replicated
	storage  Storage
	history  bool          // it keeps more than one record of a subject
	maxValue int64         // what a record can hold, also by the server's limit
	maxAge   time.Duration // 0: none
	idle     time.Duration // the longest that a consumer may be without a request; 0: no limit below tapIdle
}

// Open opens the log of a namespace, and creates it if there is none. A bucket
// that was made by another NATS client opens too, if it is laid out as one;
// otherwise the error is ErrUnsupported. The namespace must be made of the
// bytes A-Z a-z 0-9 - _ (CheckNamespace). The connection stays the caller's.
//
// While the server cannot be reached Open waits for it, until ctx ends.
func Open(ctx context.Context, nc *nats.Conn, namespace string, cfg Config) (*Log, error) {
	if err := CheckNamespace(namespace); err != nil {
		return nil, err
	}
	requests := newRequester(nc)
	l := &Log{
		nc: nc, namespace: namespace, stream: streamPrefix + namespace, prefix: "$KV." + namespace + ".",
		ack: fmt.Appendf(nil, `{"stream":"KV_%s","seq":`, namespace),
		cfg: cfg.withDefaults(), requests: requests,
		watchers: make(map[watcher]bool), warned: make(map[string]struct{}),
	}
	if l.to = l.prefix; l.cfg.APIPrefix != DefaultAPIPrefix {
		l.to = l.cfg.APIPrefix + l.prefix
	}
	l.objects = newObjects(l)
	l.link = newLink(nc, requests.interrupt)
	if cfg.Synced {
		l.group = newGroup(l)
	}
	listenForViolations(l)
	if err := requests.open(); err != nil {
		l.Close()
		return nil, err
	}
	if err := checkVersion(nc.ConnectedServerVersion()); err != nil {
		l.Close()
		return nil, err
	}
	if err := checkPayload(nc.MaxPayload()); err != nil && nc.IsConnected() {
		l.Close()
		return nil, err
	}
	if err := l.openStream(ctx); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// needVersion has the TTL of records and gets that read many subjects.
const needVersion = "2.11.0"

// checkVersion refuses a server that is too old.
func checkVersion(have string) error {
	if !since(have, 2, 11) {
		return &ServerVersionError{Have: have, Need: needVersion}
	}
	return nil
}

// since tells whether a version of a server is this one or later. One that does not
// tell, or is not connected, is taken for new: what it cannot do it will say.
func since(have string, major, minor int) bool {
	var is [2]int
	if _, err := fmt.Sscanf(have, "%d.%d", &is[0], &is[1]); err != nil {
		return true
	}
	return slices.Compare(is[:], []int{major, minor}) >= 0
}

// Namespace returns the name of the namespace.
func (l *Log) Namespace() string { return l.namespace }

// Missing names what the stream does without because its server is older, or
// because it was made without.
func (l *Log) Missing() (missing []string) {
	limits := l.limits.Load()
	for _, f := range []struct {
		has  bool
		name string
	}{
		{limits.ttl, "TTL of records"}, {limits.direct, "direct get"}, {limits.atomic, "atomic batches"}, {limits.batch, "fast-ingest batches"},
	} {
		if !f.has {
			missing = append(missing, f.name)
		}
	}
	return missing
}

// ErrNamespace says that the name of a namespace is empty, too long, or has bytes other
// than A-Z a-z 0-9 - _.
var ErrNamespace = errors.New("invalid namespace")

// CheckNamespace returns nil or an error that is ErrNamespace.
func CheckNamespace(namespace string) error {
	if namespace == "" || len(namespace) > MaxNamespaceLen {
		return fmt.Errorf("replication: %w: %d bytes long, not 1 to %d", ErrNamespace, len(namespace), MaxNamespaceLen)
	}
	for _, b := range []byte(namespace) {
		letter := 'a' <= b|0x20 && b|0x20 <= 'z'
		if !letter && (b < '0' || '9' < b) && b != '-' && b != '_' {
			return fmt.Errorf("replication: %w: %.64q has bytes other than A-Z a-z 0-9 - _", ErrNamespace, namespace)
		}
	}
	return nil
}

// Close ends all calls that are under way. It does not close the connection.
func (l *Log) Close() {
	ignoreViolations(l)
	l.link.close()
	if l.group != nil {
		l.group.close()
	}
	l.requests.close()
}

// MaxValue is the largest value in bytes that Append can store inline: what
// the server takes in one message, less the room for headers, and at most
// codec.MaxValueLen.
func (l *Log) MaxValue() int64 { return l.limits.Load().maxValue }

func (l *Log) maxValue(c jetstream.StreamConfig) int64 {
	payload := l.nc.MaxPayload()
	most := min(payload-roomFor(payload), codec.MaxValueLen)
	if c.MaxMsgSize > 0 {
		most = min(most, int64(c.MaxMsgSize))
	}
	return max(most, 0)
}

// Replicated tells whether the log has copies. A leader of such a log can be
// deposed and not know it yet: for some seconds it answers from the past.
func (l *Log) Replicated() bool { return l.limits.Load().copies }

// CanExpire tells whether records can have a TTL: a property of the stream.
func (l *Log) CanExpire() bool { return l.limits.Load().ttl }

func (l *Log) openStream(ctx context.Context) error {
	vigil := l.newVigil(ctx)
	for patience := openPatience; ; patience = min(2*patience, answerTimeout) {
		err := l.viewOrCreate(ctx, patience)
		missing := l.cfg.MustExist && errors.Is(err, ErrNoStream)
		if err == nil || missing || Lasting(err) {
			return err
		}
		if err := vigil.wait(err); err != nil {
			return fmt.Errorf("replication: open %s: %w", l.stream, err)
		}
	}
}

// openPatience bounds the first try to open a stream. A cluster without a leader, as
// it is while it starts, does not answer at all: to ask again soon is what helps.
const openPatience = 500 * time.Millisecond

func (l *Log) viewOrCreate(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := l.view(ctx)
	if errors.Is(err, ErrNoStream) && !l.cfg.MustExist {
		return l.createStream(ctx)
	}
	return err
}

func (l *Log) createStream(ctx context.Context) error {
	wanted := l.streamConfig()
	config, err := l.newStream(ctx, wanted)
	if errors.Is(err, ErrLimit) { // of the account, and then it is that number
		wanted.MaxConsumers = -1
		config, err = l.newStream(ctx, wanted)
	}
	switch {
	case errors.Is(err, errNameInUse):
		_, err = l.view(ctx) // somebody was faster
		return err
	case err != nil:
		return err
	}
	return l.adopt(config)
}

// errNameInUse says that there is a stream of the name.
var errNameInUse = errors.New("replication: the stream exists")

// newStream creates a stream. The error is errNameInUse if there is one of its name
// that is configured otherwise.
func (l *Log) newStream(ctx context.Context, config jetstream.StreamConfig) (created jetstream.StreamConfig, err error) {
	request, err := json.Marshal(config)
	if err != nil {
		return created, err
	}
	m, err := l.requests.do(ctx, l.api("STREAM.CREATE."+config.Name), nil, request)
	if err != nil {
		return created, unanswered(err)
	}
	var reply struct {
		apiReply
		jetstream.StreamInfo
	}
	if err := json.Unmarshal(m.Data, &reply); err != nil {
		return created, fmt.Errorf("replication: creation of %s: %w: %w", config.Name, ErrUnavailable, err)
	}
	switch {
	case reply.Error == nil:
		return reply.Config, nil
	case reply.Error.ErrorCode == jetstream.JSErrCodeStreamNameInUse:
		return created, errNameInUse
	}
	return created, apiError(reply.Error, config.Name)
}

// manyConsumers is as good as no limit: each replica is a consumer. To a server -1 means
// its own default, 1000.
const manyConsumers = 1 << 30

// streamConfig is that of a NATS key-value bucket, but closed: on a standard
// bucket whoever may write one key can wipe the bucket with a rollup header.
func (l *Log) streamConfig() jetstream.StreamConfig {
	version := l.nc.ConnectedServerVersion() // one that does not know a field refuses it
	return jetstream.StreamConfig{
		Name:               l.stream,
		Description:        "nearkv namespace " + l.namespace,
		Subjects:           []string{l.prefix + ">"},
		Storage:            storageType(l.cfg.Memory),
		Replicas:           l.cfg.Replicas,
		MaxMsgsPerSubject:  1,
		MaxBytes:           l.cfg.MaxBytes,
		MaxConsumers:       manyConsumers,
		MaxMsgSize:         codec.MaxValueLen + headerRoom,
		Discard:            jetstream.DiscardNew,
		AllowDirect:        true,
		AllowMsgTTL:        true,
		AllowAtomicPublish: since(version, 2, 12),
		AllowBatchPublish:  since(version, 2, 14),
		AllowRollup:        false,
		DenyDelete:         true,
		DenyPurge:          true,
		Duplicates:         time.Second, // the least that it costs: we use none
		Metadata:           map[string]string{metaFormat: formatVersion, metaIncarnation: nuid.Next()},
	}
}

// adopt checks that a stream is a bucket that we can work on, and notes what
// its configuration allows.
func (l *Log) adopt(c jetstream.StreamConfig) error {
	refuse := func(why string) error {
		return fmt.Errorf("replication: %w: stream %s %s", ErrUnsupported, l.stream, why)
	}
	if err := checkPayload(l.nc.MaxPayload()); err != nil {
		return err // the connection may have come to another server
	}
	switch format := c.Metadata[metaFormat]; {
	case format != "" && format != formatVersion:
		return refuse("has format " + strconv.Quote(format) + ", this version reads " + formatVersion)
	case c.Mirror != nil:
		return refuse("is a mirror: open the bucket that it mirrors")
	case !slices.Contains(c.Subjects, l.prefix+">"):
		return refuse("does not take the subjects " + l.prefix + ">")
	case c.SubjectTransform != nil:
		return refuse("transforms subjects")
	case c.Retention != jetstream.LimitsPolicy:
		return refuse("removes records that are read")
	case c.Sealed:
		return refuse("is sealed")
	case l.cfg.Synced && (c.Storage != jetstream.FileStorage || c.PersistMode == jetstream.AsyncPersistMode):
		return refuse("acknowledges records before they are synced (memory storage or persist mode async)")
	}
	l.limits.Store(&limits{
		ttl: c.AllowMsgTTL, direct: c.AllowDirect, batch: c.AllowBatchPublish, atomic: c.AllowAtomicPublish, storage: storageOf(c),
		history: c.MaxMsgsPerSubject != 1, copies: c.Replicas > 1,
		maxValue: l.maxValue(c), maxAge: c.MaxAge, idle: min(tapIdle, c.ConsumerLimits.InactiveThreshold),
	})
	return nil
}

// View is a stream as its own info describes it at one moment.
type View struct {
	Incarnation Incarnation
	Last        uint64 // sequence
	Subjects    int    // that hold a record
	Replicas    int    // of the stream: whether a server can answer that leads no more
	MaxAge      time.Duration
	Taken       time.Time // by the server's clock
}

type apiReply struct {
	Error *jetstream.APIError `json:"error"`
}

// api returns the subject of a request to JetStream.
func (l *Log) api(request string) string { return l.cfg.APIPrefix + request }

// subject returns the subject to which the records of a key are published.
func (l *Log) subject(key string) string { return l.to + codec.Subject(key) }

func (l *Log) infoSubject() string { return l.api("STREAM.INFO." + l.stream) }

// view asks the stream's leader.
func (l *Log) view(ctx context.Context) (View, error) {
	m, err := l.requests.do(ctx, l.infoSubject(), nil, nil)
	if err != nil {
		return View{}, err
	}
	return l.parseView(m.Data)
}

// Refresh asks for the configuration of the stream, so that what is read from now on
// is seen by that.
func (l *Log) Refresh(ctx context.Context) error {
	_, err := l.view(ctx)
	if err != nil && !errors.Is(err, ErrUnsupported) {
		return unanswered(err)
	}
	return err
}

func (l *Log) parseView(data []byte) (View, error) {
	var reply struct {
		apiReply
		jetstream.StreamInfo
	}
	if err := json.Unmarshal(data, &reply); err != nil {
		return View{}, fmt.Errorf("replication: info of %s: %w", l.stream, err)
	}
	if reply.Error != nil {
		return View{}, apiError(reply.Error, l.stream)
	}
	if err := l.adopt(reply.Config); err != nil {
		return View{}, err
	}
	return View{
		Incarnation: incarnation(&reply.StreamInfo),
		Last:        reply.State.LastSeq,
		Subjects:    int(reply.State.NumSubjects), // a count of things in memory
		Replicas:    reply.Config.Replicas,
		MaxAge:      reply.Config.MaxAge,
		Taken:       reply.TimeStamp,
	}, nil
}

// incarnation combines when the stream was created with our own random id: a
// restored stream keeps the first, a bucket of others has not the second.
func incarnation(info *jetstream.StreamInfo) Incarnation {
	id := strconv.FormatInt(info.Created.UnixNano(), 36)
	if own := info.Config.Metadata[metaIncarnation]; own != "" {
		id += "-" + own
	}
	return Incarnation(id)
}
