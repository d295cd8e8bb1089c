// Package embedded runs a NATS server with JetStream inside the process, with every default turned off that would
// harm the application around it.
//
//	s, err := embedded.Start(ctx, embedded.Options{Dir: "/var/lib/app/kv"})
//	if err != nil { ... }
//	defer s.Shutdown()
//	nc, err := s.Connect()
//
// # What it is for
//
// A log without a server to install: durable with Dir, in memory without. Nobody outside the process can reach it, but
// other processes of the same user where a Member shares its Dir. It opens no port, serves no monitoring, handles no signal and never ends the process; it writes to Dir only, or to a
// private temporary directory, and logs to the given slog.Logger or nowhere.
// (TestNoSockets, TestSignalsKeepTheirDefault, TestSignalHandlerOfApplicationStays, TestFailedStart, TestFileModes)
//
// Servers in one process do not know of each other. (TestThreeServers)
//
// # One server per directory
//
// The server does not lock its directory: two on one directory both acknowledge writes, and one of them loses all of
// its own. So Start takes an exclusive lock on Dir/lock before the server starts and holds it until the server has shut
// down. Who comes second gets ErrLocked at once. The lock dies with its process, also by kill -9. Never remove the file:
// whoever makes a new one locks nothing. (TestSecondStartIsLocked, TestKill9)
//
// # Many processes, one directory
//
// A Member is one of any number of processes that share a directory. Whoever has the lock runs the server, and lets the
// others in through a unix socket, Dir/sock, with mode 0600. When it closes or is killed, the others lose their
// connections, dial again, and find nobody; the first to take the lock starts the server on the same data. The socket gets
// its name when it has its mode, and takes the place of one that a killed process has left. Where its path would be longer
// than the system takes (108 bytes), it is made by way of /proc/self/fd on Linux; elsewhere Join refuses.
// (TestMembersTakeTurns, TestMemberModes, TestMemberFindsStaleSockets, TestMemberInLongDir, TestMemberLeavesStuckClients,
// and TestShareKill9 of kvstore)
//
// A server that cannot write, because its disk is full or read-only, gives its streams up for good or switches JetStream off.
// Its Member cuts its connections once, leaves it running for reads, and starts it anew when the directory can be written
// again. (TestDiskFails of kvstore)
//
// # Clusters
//
// Cluster makes the server one of 3 or 5 voters. A directory belongs to one voter, or to a server that is alone; anything else
// would lose what is in it, and is refused. Who joins, and who comes in as a client, shows a secret or a certificate; nobody
// comes in by default. Shutdown hands leadership over first, which takes a second.
// (TestClusterOptions, TestDirectoryChangesHands, TestDenied, TestNoClientsByDefault, TestRoutePortIsTaken)
//
// # A directory is checked first
//
// The server skips, cuts off or removes what it cannot open or read. So Start looks at everything before the server does,
// and starts it only if all is well; until then it changes nothing that was there:
//
//  1. Dir belongs to this user or to root, and nobody but its owner and its group can write into it (a directory with the
//     sticky bit is fine). Below it there is no symbolic link, nothing but files and directories, and all of them can be
//     opened for reading and writing. Root does not start on a store of another user: what it writes, that user could not
//     open. Whoever serves on the socket runs as this user or as root (Linux only). Otherwise the error is an *AccessError.
//  2. Every record of every block is whole, in its place, and has a subject of its stream; what the server has noted
//     of a stream at its clean end, or since, is there. Only the end of the last block may be missing, within a record:
//     so a kill or a power cut leaves it. Otherwise the error is a *DamagedError. Package blocks does the reading, as many
//     blocks at a time as there are processors.
//  3. The server has recovered every stream of which there is a directory, with as many messages as there must be. If not,
//     it is shut down, and the files that it has removed get their names back.
//
// What cannot be seen in a directory: a stream whose directory was removed, and, after a kill, that the last blocks were
// removed or cut off between two records. (TestDamage of kvstore, TestAccess, TestRemovedByServer)
//
// # Who may call what
//
// All methods of a Server are safe for concurrent use. Connections of InProcessConn are safe as net.Conn are. Start is
// safe to race: one wins.
//
// # Durability
//
// An acknowledged message of a file stream has been written to the file before its acknowledgement: it survives the
// crash of the process, kill -9 included. (TestKill9, TestCanaryWrittenBeforeAck) The server fsyncs in the background
// every 2 minutes, and a clean Shutdown does not fsync either: a power cut can lose the last minutes. With SyncAlways
// it fsyncs before the acknowledgement, which a power cut cannot undo, as far as the disk keeps what it has synced and
// the file system the name of a new file that was synced, as ext4, XFS and Btrfs do: the server syncs no directory for
// it. A stream with persist mode async is excepted. (TestSyncAlwaysIsPassedOn, TestSyncedBeforeAck of kvstore) Memory
// streams last as long as the Server.
//
// # Slow clients
//
// Up to 16 messages of MaxPayload, at least 64 MiB, wait for a client that reads slowly; one more and the server cuts its
// connection, as it does after 10 s without progress. Bound what you ask for at a time. (TestManyLargeMessagesPending)
//
// # Shutdown
//
// Shutdown is idempotent, may be raced, and waits: afterwards no goroutine, no open file, no lock and no temporary
// directory is left; only a look of the server for files of its old versions, in the directory of a stream that was opened
// just before, may end a moment later. It does not need the clients to be gone. (TestShutdownIsIdempotent, TestShutdownWithClients,
// TestNoFilesAfterShutdown, and a leak check after all tests)
//
// A Start whose context ends first says so at once and cleans up behind itself. (TestInterruptedStart)
//
// # Time
//
// A Server runs inside a testing/synctest bubble, in memory and with Dir; hours pass in milliseconds. Call ats.Register
// of nats-server outside of the bubble first, or its clock goroutine holds the bubble's time.
// (TestVirtualTime)
//
// # What it does not do
//
//   - Without Cluster, no TCP and no authentication: all clients are in the process, or came through the socket.
//   - No repair by itself. A directory that is damaged stays as it is until somebody repairs it (kvctl repair), also that
//     of a voter, whose peers have everything: move its Dir/nats aside and it gets all from them.
//   - A Server cannot restart by itself. On a full disk, or when it may not write, it takes no more writes and says so in the
//     log; Shutdown and Start bring it back. A Member does that.
//   - One thing it cannot prevent: the server's start switches the Go block profile of the process off
//     (runtime.SetBlockProfileRate). Set the rate after Start. (TestCanaryBlockProfile)
package embedded
