package kvstoretest

import (
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
// The Store must use the server in the process (no URL): the clock stands still
// while anybody waits for a socket. In f, do not use functions of nats.go that
// take a timeout instead of a context: they share timers across bubbles.
func Run(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	// The server's clock for cache access times runs outside of the bubble, or
	// it would never end.
	ats.Register()
	defer ats.Unregister()
	synctest.Test(t, f)
}
