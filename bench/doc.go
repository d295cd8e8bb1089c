// Package bench compares nearkv with what one would use in its place.
//
//	go test -bench . ./bench/...
//	go test -bench 'Get$' -cpu 1,2 -count 10 ./bench | tee new.txt && benchstat -col /peer new.txt
//	NEARKV_BENCH_FULL=1 go test -bench 'Open|Heap|List' ./bench
//	go run ./bench/report -full -tags peers
//
// The first leaves out what needs a million keys. The last writes
// bench/results: a table of the bars that nearkv has to meet, charts, and the raw
// output.
//
// Names are key=value, so that benchstat can put any of them in columns or
// rows. There is one file per theme and one per peer:
//
//	get_test.go          reads from memory: uniform, zipf, one hot key, absent keys, values of 16 B to 64 KiB
//	evicted_test.go      reads of values that are not in memory
//	view_test.go         reads of values as structs
//	put_test.go          acknowledged writes, one and 64 at a time, without and with a TTL
//	put_all_test.go      20,000 writes at once
//	kvctl_test.go        a file of bulk JSON by kvctl bulk put, and by a loop over Put of the NATS client
//	propagation_test.go  from the begin of a write until another replica has it
//	watch_test.go        every write to 1, 10 and 100 replicas in this process
//	open_test.go         from nothing to a replica that has everything
//	list_test.go         1000 keys, out of more and more
//	heap_test.go         bytes per key beyond its own and the value's, and what garbage collection costs
//
//	nearkv_test.go, jetstream_test.go, publisher_test.go, natsserver_test.go,
//	ristretto_test.go, otter_test.go, maps_test.go
//
// A benchmark counts only what it has checked: a read that finds what it should
// not, or does not find what it should, fails it, and so does a write whose
// acknowledgement does not come.
//
// All peers of a benchmark get the same keys and values in the same order, and
// run one after the other. What runs on a server runs on one of the same kind
// for all: in this process, unless the name says loopback. That is a nats-server
// process with its defaults; heap_test.go uses it too, so that what the log needs
// is not counted as the replica's. Values are strings, as nearkv's Text and the
// caches give them without a copy; the NATS client returns bytes.
//
// With -tags peers, so that the suite runs without them:
//
//	groupcache_test.go   loads what it does not have, and never learns of a change
//	rueidis_test.go      client-side caching; needs redis-server in the PATH
//
// Not measured: the cache of the etcd client, go.etcd.io/etcd/cache/v3, which
// has no released version that could be fetched.
package bench
