package codec

import (
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// What a caller gave and can mend.
var (
	// ErrInvalidKey is returned by CheckKey and CheckPrefix, inside a *KeyError.
	ErrInvalidKey = errors.New("invalid key")
	// ErrInvalidMetadata is returned by EncodeMetadata, inside a *MetadataError.
	ErrInvalidMetadata = errors.New("invalid metadata")
	// ErrInvalidBulk is returned by ReadBulk and ReadBulkKeys, inside a *BulkFileError, and by BulkWriter.
	ErrInvalidBulk = errors.New("invalid bulk JSON")
)

// What was found in the log and is to be counted and skipped.
var (
	// ErrForeignSubject is returned by Key: the subject is not the encoding of a valid key.
	ErrForeignSubject = errors.New("foreign subject")
	// ErrDamagedRecord is returned by DecodeRecord: the headers cannot be what a writer meant, or need a newer reader.
	ErrDamagedRecord = errors.New("damaged record")
)

// ErrDamagedArchive is returned by ArchiveReader and VerifyArchive, inside an *ArchiveError: the archive is not as it was
// written, or needs a newer reader.
var ErrDamagedArchive = errors.New("damaged archive")

// KeyError says why a key or a prefix is not valid. It is an ErrInvalidKey.
type KeyError struct {
	Key    string // as it was given, whatever its length
	Reason string // such as "longer than 512 bytes"
}

// Error quotes no more than the beginning of a long key.
func (e *KeyError) Error() string {
	return fmt.Sprintf("%v %s: %s", ErrInvalidKey, quote(e.Key), e.Reason)
}

// Unwrap returns ErrInvalidKey.
func (e *KeyError) Unwrap() error { return ErrInvalidKey }

// MetadataError says why a value cannot be metadata. It is an ErrInvalidMetadata and, if there is one, its Cause.
type MetadataError struct {
	Reason string // such as "1025 bytes of JSON, at most 1024 are allowed"
	Cause  error  // of encoding/json or of a MarshalJSON; nil: there is none
}

func (e *MetadataError) Error() string {
	if e.Cause == nil {
		return fmt.Sprintf("%v: %s", ErrInvalidMetadata, e.Reason)
	}
	return fmt.Sprintf("%v: %s: %v", ErrInvalidMetadata, e.Reason, e.Cause)
}

// Unwrap returns ErrInvalidMetadata and the Cause.
func (e *MetadataError) Unwrap() []error {
	if e.Cause == nil {
		return []error{ErrInvalidMetadata}
	}
	return []error{ErrInvalidMetadata, e.Cause}
}

// BulkFileError says what is wrong with a file of bulk JSON, and where. It is an ErrInvalidBulk and, if there is one,
// its Cause.
type BulkFileError struct {
	Index        int    // of the element, from 0; all before it are fine
	Line, Column int    // of what is wrong, from 1; the column in bytes
	Reason       string // such as "the element has no key"
	Cause        error  // io.ErrUnexpectedEOF of a file that is cut off, a *KeyError, a *MetadataError, or nil
}

func (e *BulkFileError) Error() string {
	return fmt.Sprintf("line %d, column %d (element %d): %s", e.Line, e.Column, e.Index, e.Reason)
}

// Unwrap returns ErrInvalidBulk and the Cause.
func (e *BulkFileError) Unwrap() []error {
	if e.Cause == nil {
		return []error{ErrInvalidBulk}
	}
	return []error{ErrInvalidBulk, e.Cause}
}

// ArchiveError says what is wrong with an archive, and where. It is an ErrDamagedArchive.
type ArchiveError struct {
	Offset int64 // how many bytes had been read when it was noticed
	Reason string
}

func (e *ArchiveError) Error() string {
	return fmt.Sprintf("%v: %s, before byte %d", ErrDamagedArchive, e.Reason, e.Offset)
}

// Unwrap returns ErrDamagedArchive.
func (e *ArchiveError) Unwrap() error { return ErrDamagedArchive }

// damaged is the error for a header value that a record cannot have.
func damaged(header, value, reason string) error {
	return fmt.Errorf("%w: header %s %s: %s", ErrDamagedRecord, header, quote(value), reason)
}

// quote makes s fit for one line of a log: anybody may have chosen it.
func quote(s string) string {
	const most = 64
	if len(s) <= most {
		return strconv.Quote(s)
	}
	end := most
	for end > most-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return fmt.Sprintf("%s... (%d bytes)", strconv.Quote(s[:end]), len(s))
}
