// Package replication keeps a replica up to date with a log that lives in a
// NATS JetStream stream. It knows records (package codec) and nothing of what
// a replica does with them.
//
// A namespace is one stream, KV_<namespace>, laid out as a NATS key-value
// bucket: one subject per key, $KV.<namespace>.<key encoded>, and of each
// subject the last record. A Log appends and loads records; a Feed follows it
// for one Replica.
//
// # Order
//
// The sequence of the stream is the revision of a record and the one total
// order. A Feed applies every record once, in that order; records that were
// replaced before they were delivered are left out. What Append has returned a
// replica may apply ahead of the feed.
//
// # What a feed does when things break
//
// All decisions (apply, ignore, follow again, begin anew) are made by cursor,
// a plain value without goroutine, clock or socket; Feed does the I/O.
//
//   - A lost connection, a consumer that ended, a hole in the consumer's
//     sequence, silence: it follows again from the last record. First it looks
//     whether the log still has what was delivered last (landmarks), because
//     nobody tells a consumer that its stream was rolled back.
//   - Another incarnation, a last sequence that went back, a landmark that is
//     missing or changed, a number of subjects that does not fit at the same
//     sequence, an acknowledged write that never came: a resync. It reads the
//     whole log in a new epoch; what was not seen in it at the end is swept.
//
// The stream's info is asked for every Config.CheckInterval (2 s by default)
// and at each attach; the answers arrive among the records, so that a view can
// be compared with the replica at exactly its sequence. The tests of kvstore
// hold this: TestRecreation, TestRollback, TestPurge, TestFaults.
//
// A difference in the number of records that a resync does not mend is damage
// of the log, and is told as Degraded. The log is then read again after a while,
// and ever more seldom, in case that it was other records that were missing.
//
// # Errors
//
// Append makes one try and tells three outcomes apart: in the log, not in the
// log, ErrUncertain. Whether to try again, and how, is the caller's business.
// Calls that wait for an answer end when the connection is lost.
//
// # Shutting down
//
// Feed.Close and Log.Close wait for their goroutines (one each). The
// connection stays the caller's. The consumer is removed from the server.
//
// # What it does not do
//
// It does not use the ordered consumers of nats.go: they follow the same
// protocol, but reset silently and for ever, also when the stream is another
// one. It does not use message deduplication, which costs memory per write and
// forgets at a restart.
//
// # Reading the source
//
// position.go and message.go are the nouns, log.go the stream and its
// configuration, storage.go what that says of durability. append.go and load.go
// are the two ways to ask it, ingest.go and group.go those to append much.
// cursor.go decides, feed.go drives, tap.go is the pull consumer, request.go and
// link.go the connection.
package replication
