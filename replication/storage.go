package replication

import "github.com/nats-io/nats.go/jetstream"

// Storage is what the configuration of a stream says of how its records are
// kept. Whether a server syncs them before it acknowledges them is not told to
// clients.
type Storage struct {
	Memory   bool // of the servers, not on their disks
	Async    bool // acknowledged before they are written (persist mode async)
	Replicas int
}

func storageOf(c jetstream.StreamConfig) Storage {
	return Storage{
		Memory: c.Storage == jetstream.MemoryStorage, Async: c.PersistMode == jetstream.AsyncPersistMode, Replicas: c.Replicas,
	}
}

// Storage returns how the stream keeps its records, as last seen.
func (l *Log) Storage() Storage { return l.limits.Load().storage }

func storageType(memory bool) jetstream.StorageType {
	if memory {
		return jetstream.MemoryStorage
	}
	return jetstream.FileStorage
}
