package kvstoretest

import (
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/nats-io/nats-server/v2/server/ats"
)

// Run runs f in a bubble of virtual time, as synctest.Test does, in which a
// Store can be opened: sleeping costs nothing, and timers fire exactly when all
// goroutines wait. Everything that f opens has to be closed when f and its
// cleanups have run; a goroutine that is left fails the test.
//
// What costs real time is how often something wakes up. A Store looks after its
// log every Options.CheckInterval: a test of days wants a longer one than the
// default of 2 s.
//
// The Store must use the server in the process, that is no URL, and a Dir only
// with Exclusive: the clock stands still while anybody waits for a socket. Run must not run beside another test that
// uses nats.go (no t.Parallel): nats.go shares timers through a sync.Pool, and a
// timer of one bubble must not be used in another or outside.
func Run(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	// The server's clock for cache access times runs outside of the bubble, or
	// it would never end.
	ats.Register()
	defer ats.Unregister()
	forgetTimers()
	defer forgetTimers()
	synctest.Test(t, f)
}

// forgetTimers empties every sync.Pool, among them that of nats.go for timers.
// What a pool holds survives one collection, and not two.
func forgetTimers() {
	runtime.GC()
	runtime.GC()
}
