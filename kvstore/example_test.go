package kvstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
)

func ExampleOpen() {
	ctx := context.Background()
	store, err := kvstore.Open(ctx, "app", kvstore.Options{}) // or Dir, URL, Conn
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	_, err = store.Put(ctx, "user:7", []byte("Ada"), kvstore.WithTTL(time.Hour), kvstore.WithMetadata("admin"))
	if err != nil {
		log.Fatal(err)
	}
	entry, err := store.Get(ctx, "user:7")
	fmt.Println(entry.Text(), string(entry.Metadata()), err)
	// Output: Ada "admin" <nil>
}

// A read-modify-write that loses no update, whoever else writes.
func ExampleIfRevision() {
	ctx := context.Background()
	store, err := kvstore.Open(ctx, "app", kvstore.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if _, err := store.Put(ctx, "motd", []byte("hello")); err != nil {
		log.Fatal(err)
	}

	for {
		entry, err := store.Get(ctx, "motd")
		if err != nil {
			log.Fatal(err)
		}
		_, err = store.Put(ctx, "motd", []byte(entry.Text()+", world"), kvstore.IfRevision(entry.Revision()))
		if errors.Is(err, kvstore.ErrConflict) {
			continue // somebody was faster
		}
		if err != nil {
			log.Fatal(err)
		}
		break
	}
	entry, err := store.Get(ctx, "motd")
	fmt.Println(entry.Text(), err)
	// Output: hello, world <nil>
}

func ExampleStore_List() {
	ctx := context.Background()
	store, err := kvstore.Open(ctx, "app", kvstore.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	for _, key := range []string{"user:1", "user:2", "user:3", "zone"} {
		if _, err := store.Put(ctx, key, nil); err != nil {
			log.Fatal(err)
		}
	}

	options := kvstore.ListOptions{Prefix: "user:", Limit: 2}
	for {
		page, err := store.List(options)
		if err != nil {
			log.Fatal(err)
		}
		for _, key := range page.Keys {
			fmt.Println(key.Name)
		}
		if page.Complete {
			break
		}
		options.Cursor = page.Cursor
	}
	// Output:
	// user:1
	// user:2
	// user:3
}

func ExampleStore_Watch() {
	ctx := context.Background()
	store, err := kvstore.Open(ctx, "app", kvstore.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if _, err := store.Put(ctx, "flag:a", []byte("on")); err != nil {
		log.Fatal(err)
	}

	for event, err := range store.Watch(ctx, "flag:") {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(event.Kind, event.Entry.Key(), event.Entry.Text())
		if event.Kind == kvstore.EventDelete {
			break
		}
		if err := store.Delete(ctx, "flag:a"); err != nil { // a watch may write
			log.Fatal(err)
		}
	}
	// Output:
	// put flag:a on
	// delete flag:a
}

// A backup in a file, and a namespace that is made exactly what it was.
func ExampleStore_Export() {
	ctx := context.Background()
	store, err := kvstore.Open(ctx, "app", kvstore.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if _, err := store.Put(ctx, "motd", []byte("hello"), kvstore.WithMetadata("en")); err != nil {
		log.Fatal(err)
	}

	var file bytes.Buffer // or a file
	info, err := store.Export(ctx, &file)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d key at revision %d\n", info.Keys, info.Revision)

	for _, key := range []string{"motd", "other"} {
		if _, err := store.Put(ctx, key, []byte("a mistake")); err != nil {
			log.Fatal(err)
		}
	}

	if _, _, err := codec.VerifyArchive(bytes.NewReader(file.Bytes())); err != nil { // the whole of it, first
		log.Fatal(err)
	}
	if _, err := store.Import(ctx, &file, kvstore.DeleteOthers()); err != nil {
		log.Fatal(err)
	}
	for info, err := range store.Keys("") {
		if err != nil {
			log.Fatal(err)
		}
		entry, err := store.Get(ctx, info.Name)
		fmt.Println(info.Name, entry.Text(), string(entry.Metadata()), err)
	}
	// Output:
	// 1 key at revision 1
	// motd hello "en" <nil>
}

func ExampleStore_ExportJSON() {
	ctx := context.Background()
	store, err := kvstore.Open(ctx, "app", kvstore.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	file := `[{"key": "b", "value": "/w==", "base64": true}, {"key": "a", "value": "1", "metadata": {"x": 1}}]`
	if _, err := store.ImportJSON(ctx, strings.NewReader(file)); err != nil {
		log.Fatal(err)
	}
	if _, err := store.ExportJSON(ctx, os.Stdout); err != nil {
		log.Fatal(err)
	}
	// Output:
	// [
	// {"key":"a","value":"1","metadata":{"x":1}},
	// {"key":"b","value":"/w==","base64":true}
	// ]
}
