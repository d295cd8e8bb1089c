// Package codec says what a key, a record and a value of nearkv look like as bytes. It does no I/O, starts no
// goroutine of its own and holds no state but caches: all of it may be called from any number of goroutines.
//
// # Keys
//
// A key is 1 to [MaxKeyLen] bytes of UTF-8 that are never decoded or normalised; only "." and ".." are illegal
// (the rules of Cloudflare Workers KV). [Subject] makes of it the tail of a NATS subject, [Key] goes back:
//
//   - the bytes - _ / A-Z a-z 0-9 stand for themselves;
//   - so does the dot, which separates tokens, except where it would make an empty token (first, last, or after a
//     token boundary): there it is =2E;
//   - the colon is =3A and, unless it is the last byte, ends its token: user:123 is user=3A.123, so that the
//     filter user=3A.> selects the keys that begin with "user:", except "user:" itself, which is user=3A;
//   - every other byte is = and two upper-case hexadecimal digits.
//
// A key that a NATS KV bucket can hold and that has no = is thus its own subject. The encoding is injective, and
// its results are literal subjects of at most 2047 bytes. A subject that is not the encoding of what it decodes to
// is foreign ([ErrForeignSubject]): otherwise two subjects could claim one key.
// (TestAllShortKeys, TestAllShortSubjects, FuzzKeyRoundTrip, FuzzSubjectDecode)
//
// # Records
//
// The payload of a message is the value as it is. Headers exist only when there is something to say, or when the log is
// a file (see [PlainHeader]):
//
//	KV-Format      1: the message is a record; it says nothing else
//	KV-Operation   DEL: a tombstone. PURGE, and any message with Nats-Marker-Reason, are read as one, too
//	KV-Metadata    compact JSON, at most MaxMetadataLen bytes, not HTML-escaped
//	KV-Expires     until when the record is visible, in unix milliseconds
//	KV-Hides       until when it hides older records of its key, in unix milliseconds; only with Nats-TTL
//	Nats-TTL       for how long the server keeps the message, in whole seconds ("90s")
//	KV-Write       id of a conditional or batched write
//	KV-Batch       place in a batch that is visible as a whole: "2/3" is the second of three records
//	KV-Object      where a large value lives ([Object]); the payload is then empty, and is not looked at
//
// Names match exactly, with their case; an empty value says nothing; of a repeated header the last value counts,
// except that of Nats-TTL it is the first, because that is the one that nats-server goes by. Other headers are ignored.
// (TestRecordRoundTrip, TestPlainHeader, TestDecodeRecord, TestDecodeDamagedRecord, TestDecodeTTL)
//
// # Values
//
// A [Codec] turns values of one type into bytes and back: [MsgPack], [JSON], [Raw] and [String].
//
// # Archives
//
// An archive ([ArchiveWriter], [ArchiveReader], [VerifyArchive]) is a file with the entries of a namespace as of one
// revision, that checks itself. All numbers are little-endian. It begins with the 8 bytes "nearkv\r\n" and goes on with
// blocks, without anything between them or behind the last:
//
//	kind      1 byte
//	length    4 bytes, of the payload: at most 128 KiB
//	payload
//	sum       4 bytes: CRC-32C of all kinds, lengths and payloads from the first block to this one
//
// The kinds of blocks, and what is in their payloads, one after the other, with its length in bytes:
//
//	H  the first: version (2; it is 1), created (8; unix milliseconds), namespace (the rest)
//	P  a value: changed (1; 0 or 1), revision (8), modified (8; unix nanoseconds), expires (8; unix milliseconds, 0 is
//	   never), lengths of key (2), metadata (2) and value (4), key, metadata, the first 64 KiB of the value
//	C  behind a P or C: the next 64 KiB of its value, or what is left of it
//	D  a removal: revision (8), key (the rest)
//	T  the last: revision of the namespace (8), number of P and D (8), bytes of the values of all P (8), keys in the
//	   end (8), SHA-256 of the file up to this block (32)
//
// Of several P and D of a key the last counts. Those with changed = 0 are of different keys, in any order; those with
// changed = 1, and all D, tell what became of keys while the archive was written.
// (TestArchive, TestArchiveDamage, TestArchiveDigest, FuzzReadArchive)
//
// # Bulk JSON
//
// [ReadBulk], [ReadBulkKeys] and [BulkWriter] are for the files of Workers KV and its tool wrangler. Nothing in them is
// mended silently. (TestReadBulk, TestReadBulkRefuses, TestBulkRoundTrip, FuzzReadBulk)
//
// # Hostile input
//
// Whoever may write to a stream may write anything. [Key], [DecodeRecord] and every [Codec.Decode] of this package
// answer any input with a value or an error: they do not panic, do not recurse without bound, and do not need more
// memory than a multiple of what they are given: 64 MiB and 32 bytes for each byte ([ErrExpands]). Growing slices copies:
// all that is allocated, one after the other, can be three times that. So do the readers of archives and of bulk JSON, which hold no more than a
// block, or an element. (FuzzSubjectDecode, FuzzDecodeRecord, FuzzMsgPackDecode, TestMsgPackHostile,
// TestDecodingIsBounded, TestHonestValuesFit, FuzzMsgPackMemory, FuzzJSONMemory, FuzzReadArchive, FuzzReadBulk, TestReadBulkEndless)
package codec
