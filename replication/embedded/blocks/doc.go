// Package blocks reads the files of a NATS file store: blocks of records, the
// index that the server writes at a clean end, and the description of a stream.
// It changes nothing, and needs no server.
//
// The server cannot be asked what is wrong with its files: it skips, cuts off or
// removes what it cannot read. So nearkv reads them first.
//
// # Layout of a block
//
// N.blk is a sequence of records, all numbers little endian:
//
//	length     4  of the whole record; the highest bit says that it has a header
//	sequence   8  bit 62: a tombstone of the sequence; bit 63: the record was erased
//	time       8  in nanoseconds since 1970
//	subject    2  length of the subject
//	           n  subject
//	header     4  length of the header, if there is one
//	           n  header
//	value      n
//	checksum   8  HighwayHash64 of sequence, time, subject, header and value
//
// The key of the checksum is the SHA-256 of "STREAM-N": a block that takes the
// place of another one fits none of its checksums. The three lengths are not part
// of what is summed. Check says how they are checked nevertheless.
//
// TestCanaryLayout compares all this with the server in go.mod.
package blocks
