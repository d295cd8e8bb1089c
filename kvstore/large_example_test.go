package kvstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"strings"

	"github.com/nearkv/nearkv/kvstore"
)

// A large value is written from a reader and read as one, without being held.
func ExampleStore_PutFrom() {
	ctx := context.Background()
	store, err := kvstore.Open(ctx, "files", kvstore.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	file := io.LimitReader(strings.NewReader(strings.Repeat("line\n", 1_000_000)), 5_000_000)
	if _, err := store.PutFrom(ctx, "log.txt", file, kvstore.WithMetadata("text/plain")); err != nil {
		log.Fatal(err)
	}

	entry, err := store.Get(ctx, "log.txt", kvstore.Lazy()) // does not load the value
	if err != nil {
		log.Fatal(err)
	}
	value, err := entry.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = value.Close() }()
	n, err := io.Copy(io.Discard, value) // nil: it was all there, and its digest is right
	fmt.Println(entry.Len(), string(entry.Metadata()), n, err)
	// Output: 5000000 "text/plain" 5000000 <nil>
}

// Money is moved from one account to another, or not at all.
func ExampleStore_Batch() {
	ctx := context.Background()
	store, err := kvstore.Open(ctx, "accounts", kvstore.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	_, err = store.Batch(ctx, kvstore.OpPut("ada", []byte("100")), kvstore.OpPut("eve", []byte("0")))
	if err != nil {
		log.Fatal(err)
	}
	all, err := store.GetAll(ctx, []string{"ada", "eve"}) // both, or neither
	if err != nil {
		log.Fatal(err)
	}
	transfer := []kvstore.Op{
		kvstore.OpPut("ada", []byte("70"), kvstore.IfRevision(all["ada"].Revision())),
		kvstore.OpPut("eve", []byte("30"), kvstore.IfRevision(all["eve"].Revision())),
	}
	_, err = store.Batch(ctx, transfer...)
	fmt.Println(err)

	_, err = store.Batch(ctx, transfer...) // what it was based on is not so any more
	var conflict *kvstore.ConflictError
	fmt.Println(errors.As(err, &conflict), conflict.Key)
	// Output:
	// <nil>
	// true ada
}
