package embedded

import (
	"fmt"
	"log/slog"

	"github.com/nats-io/nats-server/v2/server"
)

// Defaults and bounds of Options, in bytes.
const (
	DefaultMaxMemory int64 = 1 << 30
	DefaultMaxStore  int64 = 32 << 30

	// DefaultMaxPayload holds the largest value of the store, 25 MiB, and a full header block, 64 KiB.
	DefaultMaxPayload int32 = 25<<20 + 64<<10

	// MinMaxPayload is one full header block: less could not carry every record.
	MinMaxPayload int32 = 64 << 10

	// MaxMaxPayload is the largest record of the server's file store, 32 MiB, less room for its framing and for a
	// subject. The server itself starts with more and refuses such messages one by one.
	MaxMaxPayload int32 = 32<<20 - 8<<10
)

const (
	serverName = "nearkv-embedded"

	// pendingPayloads is how many messages of MaxPayload may wait for one client. The server's own bound, 64 MiB,
	// cuts a connection that reads three values of 25 MiB at a time.
	pendingPayloads = 16

	// noStore stands for "no file streams": the server takes 0 for "unset" and then offers the whole disk.
	noStore = 1
)

// Options says how to run the server. The zero value works: memory only, with the default limits.
type Options struct {
	// Dir is where file streams live. It is made with mode 0700, with its parents, if it is missing; one that exists
	// keeps its mode. What the server writes is in Dir/nats, which is kept at 0700 whatever Dir allows. A relative
	// Dir is resolved once, in Start. It must be on a local file system: the lock is flock(2).
	//
	// Without Dir there are memory streams only. The server insists on a directory all the same; it gets a private one
	// with mode 0700 in os.TempDir, removed by Shutdown. A process that is killed leaves it behind, nearly empty.
	Dir string

	// Exclusive keeps a Member from letting other processes in: there is no socket, and Join fails with ErrLocked at once
	// if somebody has the directory. Start is always exclusive.
	Exclusive bool

	// MaxMemory bounds all memory streams together, in bytes. A publish over it is refused with JetStream error
	// 10023. 0: DefaultMaxMemory.
	MaxMemory int64

	// MaxStore bounds all file streams together, in bytes. A publish over it is refused with JetStream error 10023.
	// 0: DefaultMaxStore. Without Dir it is ignored, and a file stream takes at most one message.
	MaxStore int64

	// MaxPayload bounds one message, headers included, in bytes, from MinMaxPayload to MaxMaxPayload. Clients refuse
	// to send more. 0: DefaultMaxPayload.
	MaxPayload int32

	// Cluster makes the server one of several. It needs Dir. nil: it is alone.
	Cluster *Cluster

	// SyncAlways has every message of a file stream fsynced before its acknowledgement. Messages that are published at
	// the same time are synced one after the other; those of one atomic batch together.
	// A Member with SyncAlways that serves a directory makes that so for good, whoever serves it later.
	SyncAlways bool

	// Logger gets what the server says: its notices at Debug, its warnings at Warn, its errors at Error. Its handler
	// runs inside the server, sometimes under the server's locks: it must not call the Server. nil: discard.
	Logger *slog.Logger
}

// withDefaults returns the options that Start uses, or an *OptionsError.
func (o Options) withDefaults() (Options, error) {
	if err := o.check(); err != nil {
		return o, err
	}
	if o.MaxMemory == 0 {
		o.MaxMemory = DefaultMaxMemory
	}
	if o.MaxStore == 0 {
		o.MaxStore = DefaultMaxStore
	}
	if o.Dir == "" {
		o.MaxStore = noStore
	}
	if o.MaxPayload == 0 {
		o.MaxPayload = DefaultMaxPayload
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

func (o Options) check() error {
	if o.MaxMemory < 0 {
		return &OptionsError{"MaxMemory", fmt.Sprintf("%d is negative", o.MaxMemory)}
	}
	if o.MaxStore < 0 {
		return &OptionsError{"MaxStore", fmt.Sprintf("%d is negative", o.MaxStore)}
	}
	if o.Cluster != nil {
		if o.Dir == "" {
			return &OptionsError{"Cluster", "needs Dir: a voter that forgets is none"}
		}
		if err := o.Cluster.check(); err != nil {
			return err
		}
	}
	if p := o.MaxPayload; p != 0 && (p < MinMaxPayload || p > MaxMaxPayload) {
		return &OptionsError{"MaxPayload", fmt.Sprintf("%d is not from %d to %d", p, MinMaxPayload, MaxMaxPayload)}
	}
	return nil
}

// serverOptions is every default of the server that must not stand. o has its defaults.
func (o Options) serverOptions(storeDir string) *server.Options {
	so := &server.Options{
		ServerName: serverName,

		DontListen: true,
		// Only if an upgrade forgets DontListen: the default is 0.0.0.0:4222.
		Host: "127.0.0.1",
		Port: server.RANDOM_PORT,

		NoSigs: true,

		JetStream:          true,
		StoreDir:           storeDir,
		JetStreamMaxMemory: o.MaxMemory,
		JetStreamMaxStore:  o.MaxStore,
		SyncAlways:         o.SyncAlways,
		// Each replica is a consumer; the default is 1000 for a stream.
		JetStreamLimits:        server.JSLimitOpts{DefaultMaxConsumers: -1},
		DisableJetStreamBanner: true,

		MaxPayload: o.MaxPayload,
		MaxPending: max(server.MAX_PENDING_SIZE, pendingPayloads*int64(o.MaxPayload)),
	}
	if o.Cluster != nil {
		o.Cluster.configure(so)
	}
	return so
}
