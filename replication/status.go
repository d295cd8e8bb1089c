package replication

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// State is how a replica stands to its log.
type State uint8

const (
	// Syncing means that the replica follows the log and has not reached its end since it connected.
	// What it serves may be old.
	Syncing State = iota
	// Live means that the replica has applied all that the log had, and hears of news at once.
	Live
	// Stale means that the replica cannot reach the log.
	Stale
	// Degraded means that the replica reaches the server, but the log is missing or damaged.
	Degraded
	// Closed means that the replica follows no more.
	Closed
)

var stateNames = [...]string{"syncing", "live", "stale", "degraded", "closed"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "unknown"
}

// MarshalText makes logs and JSON show the name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a name.
func (s *State) UnmarshalText(name []byte) error {
	i := slices.Index(stateNames[:], string(name))
	if i < 0 {
		return fmt.Errorf("replication: %.64q is no state: %s", name, strings.Join(stateNames[:], ", "))
	}
	*s = State(i) // of a handful
	return nil
}

// Status is how a Feed stands at one moment.
type Status struct {
	State   State
	Since   time.Time // when it came into this state
	Reason  string    // why it is not Live, or what is damaged
	Applied Position  // of the last record that was applied
	Head    uint64    // the last sequence of the log that the feed has heard of
	// Fresh is a moment at which the log had nothing that is not applied now.
	Fresh   time.Time
	Resyncs uint64 // how often it began anew, the first time included
}

// Lag is how many revisions of the log are known and not applied.
func (s Status) Lag() uint64 { return s.Head - min(s.Head, s.Applied.Sequence) }
