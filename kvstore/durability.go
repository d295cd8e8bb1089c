package kvstore

import "fmt"

// Durability is what an acknowledged write survives.
type Durability int

const (
	// SurviveCrash has a write written to the file system before it is
	// acknowledged. It survives the death of the process. It is synced in the
	// background, every two minutes, and may be lost with the power.
	SurviveCrash Durability = iota

	// SurvivePowerLoss has a write synced (fsync) before it is acknowledged. It
	// survives a power failure, as far as the disk keeps what it says is synced. A
	// Put costs a sync. A dozen or more at the same time, and those of PutAll,
	// share about ten (BenchmarkPutSynced in bench). A bucket that is not synced,
	// because it is in memory or has persist mode async, is ErrUnsupported.
	SurvivePowerLoss
)

func (d Durability) String() string {
	switch d {
	case SurviveCrash:
		return "SurviveCrash"
	case SurvivePowerLoss:
		return "SurvivePowerLoss"
	}
	return fmt.Sprintf("Durability(%d)", int(d))
}

// MarshalText makes logs and JSON show the name.
func (d Durability) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a name, such as "SurvivePowerLoss".
func (d *Durability) UnmarshalText(name []byte) error {
	for _, known := range []Durability{SurviveCrash, SurvivePowerLoss} {
		if string(name) == known.String() {
			*d = known
			return nil
		}
	}
	return fmt.Errorf("kvstore: %.64q is no durability: it is %v or %v", name, SurviveCrash, SurvivePowerLoss)
}

// DurabilityStatus is what is known of what acknowledged writes survive. Of an
// existing server that is only what the configuration of the stream says: when
// it syncs it tells nobody.
type DurabilityStatus struct {
	Known bool       // the server is that of the Store
	Level Durability // if Known, and not Memory

	Memory   bool // the log is in memory, and gone with its servers
	Async    bool // writes are acknowledged before they are written (persist mode async)
	Replicas int  // copies of the log
}

// String returns the level or "memory", or "unknown" with what is known.
func (d DurabilityStatus) String() string {
	storage := "file"
	if d.Memory {
		storage = "memory"
	}
	switch {
	case d.Known && d.Memory:
		return storage
	case d.Known:
		return d.Level.String()
	case d.Async:
		storage += ", written after the acknowledgement"
	}
	return fmt.Sprintf("unknown (%s, replicas: %d)", storage, d.Replicas)
}

func (s *Store) durabilityStatus() DurabilityStatus {
	kept := s.log.Storage()
	d := DurabilityStatus{Known: s.own, Memory: kept.Memory, Async: kept.Async, Replicas: kept.Replicas}
	if d.Known && !d.Memory {
		d.Level = s.level
	}
	// An asynchronous stream of ours (a bucket of others in Dir) does not even survive a crash.
	d.Known = d.Known && !d.Async
	return d
}
