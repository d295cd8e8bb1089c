// Package kvstore is an embeddable, replicated key-value store.
//
// A process opens a Store, which is a replica of a namespace: it holds all keys
// and as many values as memory is given for. Reads are answered from memory.
// Writes go to the log of the namespace, a NATS JetStream stream, and come back
// to every replica in one order. The log can be in this process (no options),
// in a directory of processes that share it (Dir), in several processes that are
// a cluster themselves (Cluster), or in a NATS server or cluster (URL or Conn). It
// is laid out as a NATS key-value bucket: other NATS clients can read, write and
// watch it.
//
// The shape is that of Workers KV: Get, Put, Delete, List with prefixes and
// cursors, metadata and expiry. Beyond it there are Watch, conditional writes,
// reads that know how old they may be, PutAll, DeleteAll and DeletePrefix for
// many keys, and View, which reads values as a Go type.
//
// # Consistency
//
// Writes of a namespace have one order, the log's. A replica applies it as it
// comes, so reads are eventually consistent, usually within a millisecond. A
// Get never goes back behind what an earlier Get of the same Store has seen,
// and sees every write of the same Store that has returned. A read of
// another replica's write: AtLeast with its Revision. Of all writes: Sync, or
// MaxStaleness. Conditional writes (IfAbsent, IfRevision) are decided by the
// log alone, as if they happened one after the other.
//
// Tests: TestModel, TestFaults.
//
// # Durability
//
// An acknowledged write is in the log. With Dir it has been written to the
// file system: it survives the death of the process (TestKill9), and, since it
// is synced only every two minutes, not always a power failure. With
// SurvivePowerLoss it has been synced too (TestSyncedBeforeAck). Without any
// option the log is gone with the Store. When one of several processes that
// share a Dir dies, the others go on with every acknowledged write
// (TestShareKill9). With URL and Conn it is as durable as the server, which does
// not tell; Status has what the stream tells.
//
// # Expiry
//
// Entries expire by the clock of the replica that is asked, to the
// millisecond: a Get at that time or later does not find them, a List does not
// show them. Neither waits for anything. Processes and the server should have
// clocks that differ by less than five seconds.
//
// A deleted or expired key does not come back, also when the server is killed
// at a bad moment: the log keeps a record for as long as anything that it hides
// could reappear (TestKill9, TestNoResurrection, TestExpiryShadow). A key that
// had a value without expiry thus leaves a tombstone for ever; one whose values
// all expire leaves nothing.
//
// Other NATS clients know nothing of expiry but what the server removes: to
// them an entry is there a few seconds longer, and one that replaced a value
// without expiry stays.
//
// # Large values
//
// A value of more than InlineBytes, 64 KiB by default, is not in its record but in
// the object store of the namespace, a NATS object store of its name: written before
// the record, under a name that is never used again, and loaded by a replica when it
// is read, not before. Then it is kept in memory as others are. PutFrom and
// Entry.Open stream; with Lazy a read or a Watch does not load. The digest of a
// value is checked whenever it is loaded (TestLargeDamaged).
//
// The object of a value that was replaced or deleted stays for five minutes, for
// those who are reading it, and is then removed by the Store that replaced it. It is
// removed earlier when that Store closes, and when a limit (MaxBytes) leaves no room
// for a new value (TestLargeMakesRoom): who is reading it then gets ErrReplaced, and
// can read the key again. What remains, of a process that died or of values that
// expired, each Store looks for every quarter of an hour or so, and removes if it knows
// that it was replaced, or if it is older than an hour (TestLargeOrphans). So it must not take longer than half an hour to put a value.
//
// # Batches
//
// A Batch is one atomic batch of the log: all of it, or nothing, with conditions on
// any of its keys. Its records follow each other in the log, and a replica makes them
// visible at once. A replica that was away does not get the parts that were replaced
// meanwhile: it keeps the others back until it has what replaced them
// (TestBatchIsNeverHalf), or until the log says that they have expired
// (TestBatchWithExpiredPart).
//
// Two limits: a replica keeps at most 64 MiB or 65,536 records back, and no longer than
// about two CheckIntervals while parts of other batches keep missing; beyond that it may
// show a part. So may a Store for a moment after Open, of batches that were replaced in
// part while the log was being read. And a Store that writes a key again sees its own
// write at once, also before an older batch of others.
//
// Anybody who may write to the bucket can put the header of a batch on a record. Such a
// record holds up nobody, and is counted in Stats.Damaged (TestForgedBatch).
//
// # Watching
//
// See Watch: nothing is lost, the changes of one key come in order, a slow
// loop gets the last of what it missed, and it holds nobody up.
//
// # Backup
//
// Export writes a namespace to a file that checks itself, exactly as it was at
// one revision, while others go on writing (TestExportWhileWritten). Import
// writes such a file into any namespace: bytes, metadata, and expiry to the
// millisecond (TestImport). Damage is noticed, wherever it is (TestImportDamaged).
// Check a file with codec.VerifyArchive before it is imported. ExportJSON and
// ImportJSON do so with the bulk JSON of Workers KV.
//
// To have a namespace exactly as a file says, import it with DeleteOthers, or
// with OnlyIfEmpty. Revisions are not restored: what is imported is written anew.
//
// # When the log cannot be reached
//
// Reads of what is in memory go on, also of what is not there. Status says
// Stale, and since when; MaxStaleness makes a read refuse. Writes wait for
// the log until their context ends. What was sent and not acknowledged is
// looked up and resolved; what cannot be is ErrIndeterminate.
//
// # What does not pass by itself
//
// A call does not wait for what only somebody else can mend: it ends at once with
// ErrForbidden, ErrLimit, ErrRefused, ErrUnsupported, ErrNoSpace, ErrTooLarge or
// ErrDisconnected, and Status says why the replica does not follow the log
// (TestForbiddenForAWhile, TestRefusedForGood, TestConnectionClosedForGood). The
// replica looks every CheckInterval whether it has been mended, except where the
// connection is closed for good: then open another Store. A write without a deadline
// ends after Options.WriteTimeout (TestWriteTimeout).
//
// What the user of a connection may not publish only the connection's error handler
// is told. While a Store is open it wraps that handler, also that of Options.Conn,
// which is called as before and is set again by Close unless it was changed meanwhile
// (TestForbiddenHandler). Whoever sets another handler on an open Conn has to call the
// one that was there, or forbidden calls wait for their contexts.
//
// # When the log is not what it was
//
// A stream that was deleted and made anew, rolled back, restored or purged is
// noticed within ten seconds; the replica reads it anew, serves what it has
// meanwhile, and tells watchers the differences (TestRecreation, TestRollback,
// TestPurge).
//
// With Dir each Store also keeps a witness: a file of 40 bytes in Dir/witness that says
// where the log ended and how many records it has to have. If the log has less when it
// is opened again, because a file of the server is gone for instance, the state is
// Degraded with the reason, at every Open, until that is accepted (Options.AcceptLoss);
// and a namespace of which nothing is left is not created again (TestWitness).
//
// # Memory
//
// The index holds every key, with its metadata, also those that the log keeps
// as tombstones: about 100 bytes for each beside the key and the value
// (BenchmarkHeap in bench). Values have CacheBytes. While all fit, all stay; from
// then on ristretto's policy chooses, and the others are loaded from the log when
// they are read. Whether a value is in memory never changes what a read returns
// (TestCacheIsInvisible).
//
// # Concurrency and ownership
//
// Everything may be used concurrently. Byte slices that are passed in are not
// kept, those that are returned are the caller's. No user code is called under
// a lock. Close waits until nothing of the Store runs any more.
//
// # Reading the source
//
// record.go, keymap.go and index.go are the replica: what is known of a key, how
// it is found, and all keys. cache.go decides which values stay. get.go and
// load.go are the way of a read, put.go, change.go (what to write, decided without
// effects) and write.go (how to get it written) the way of a write, and bulk.go
// that of many. export.go writes a file while exportfollow.go tells it what changes
// and when it may end; import.go reads one. expire.go, list.go and watch.go use the index. view.go decodes.
// large.go reads and writes large values, and sweep.go removes those that are not
// needed any more. batch.go is the way of a Batch.
// witness.go notices at Open that a log has lost records, and landmarks.go lets the
// feed recognise a log after a lost connection. errortext.go gives every error one line.
// store.go and backend.go open and close; disk.go knows whether the disk of a Dir
// takes anything, and durability.go is what a write survives.
package kvstore
