// Package bench compares nearkv with what one would use in its place.
//
//	go test -bench . ./bench/...
//	go test -bench . -count 10 ./bench/... | tee new.txt && benchstat -col /peer new.txt
//
// Names are key=value, so that benchstat can put any of them in columns or
// rows. There is one file per theme and one per peer:
//
//	get_test.go    reads from memory: uniform, zipf, one hot key, absent keys
//	put_test.go    acknowledged writes, one and 64 at a time, without and with a TTL
//	list_test.go   1000 keys with a prefix, out of more and more
//	watch_test.go  from the begin of a write until another replica has it
//
//	nearkv_test.go, jetstream_test.go, ristretto_test.go, otter_test.go, maps_test.go
//
// A benchmark counts only what it has checked: a read that finds what it should
// not, or does not find what it should, fails it.
//
// All peers of a benchmark get the same keys and values in the same order. What
// runs on a server runs on one in this process, of the same kind for all. Values
// are strings, as nearkv's Text and the caches give them without a copy; the
// NATS client returns bytes.
package bench
