// Kvctl reads and writes namespaces of nearkv from the command line.
//
//	go install github.com/nearkv/nearkv/kvstore/kvctl@latest
//
//	kvctl get KEY                    the value of a key
//	kvctl put KEY VALUE|-|--path F   write it: --ttl, --expiration, --metadata, --if-absent, --if-revision
//	kvctl delete KEY...              delete keys: --if-revision
//	kvctl list                       names of keys: --prefix, --limit, --cursor, --long
//	kvctl watch [PREFIX]             a line for each key, and then for each change
//	kvctl bulk put|delete|get FILE   many keys, by the JSON files of wrangler
//	kvctl export FILE                a namespace as of one revision: --format archive|json, --skip-damaged
//	kvctl import FILE                write it back: --delete-others, --only-if-empty
//	kvctl namespaces                 what namespaces there are
//	kvctl status                     state, lag, keys, bytes, hit ratio, durability, server, limits
//	kvctl permissions                what a user of a NATS server needs: --write, --account
//	kvctl check [DIR]                what is damaged in a directory
//	kvctl repair [DIR]               save what is whole in it: --dry-run
//	kvctl bench                      rate and latency of puts and gets
//	kvctl completion bash|zsh|fish   completion for a shell, of keys and namespaces too
//
// # Where the data is
//
// --dir DIR is the Dir of a Store; other processes may use it at the same time.
// --url URL is a NATS server, with --creds, --user and --password, or --tls-ca,
// --tls-cert and --tls-key. --namespace NAME (-n) says which namespace. Where no
// flag is given, NEARKV_DIR, NEARKV_URL, NEARKV_NAMESPACE, NEARKV_CREDS, NEARKV_USER
// and NEARKV_PASSWORD count. put, bulk put, import and bench create a namespace that
// does not exist; the other commands report it, and name those that there are.
//
// Each call opens a replica, which reads the index of the namespace: about a second
// for a million keys. What has to be quick and often belongs into a program, with
// package kvstore.
//
// The permissions of users of a NATS server prevent accidents, not attacks: who may ask
// JetStream for anything can do everything in its account. kvctl permissions --account
// prints accounts, which are a boundary.
//
// # Output
//
// stdout has data and nothing else; everything for people goes to stderr. get
// writes the bytes of the value, with no newline added but on a terminal. On a
// terminal, what would act on it (escape sequences, controls, marks of direction) is
// escaped, in JSON as \u001b; in pipes and files all bytes are exact. --json
// is there for every command; a list is that of wrangler, one element a line.
// Expirations are in unix seconds there, rounded up. Colours and progress bars
// are for terminals only, colours not with NO_COLOR.
//
// # Bulk files
//
// bulk put and bulk delete check the whole file before the first write, with the
// line and the column of what is wrong, and hold neither the file nor the pairs:
// memory is that of a replica without values. What does not come to its end says
// with which --skip to go on.
//
// # Time
//
// --timeout (30 s) bounds the wait for the store; of long work, the time without
// progress. SIGINT, SIGTERM and SIGHUP end a command cleanly, a second signal at once.
//
// # Exit status
//
//	0    done; a watch that was interrupted
//	1    failed for another reason than the following
//	2    wrong usage or invalid input; nothing was written
//	3    no such key or namespace
//	4    the condition of a write does not hold; nothing was written
//	5    the store could not be reached in time
//	6    a write was sent, and whether it happened is not known
//	130  interrupted
//
// # Reading the source
//
// A command is a file. open.go has the flags and opens the Store, output.go and
// progress.go write, exit.go knows the exit status and what to do about an error,
// spool.go reads a file twice.
package main
