// Command quickstart runs two replicas of one namespace on a server inside this
// process, and prints what one sees of the writes of the other.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"slices"
	"time"

	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/replication/embedded"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run starts a server in memory and opens two replicas on it. Replicas in two
// processes would be opened with Options{URL: "nats://..."}.
func run(ctx context.Context, out io.Writer) error {
	server, err := embedded.Start(ctx, embedded.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = server.Shutdown() }() // nothing of it is kept
	return withReplica(ctx, server, func(london *kvstore.Store) error {
		return withReplica(ctx, server, func(tokyo *kvstore.Store) error {
			if err := putAndGet(ctx, out, london, tokyo); err != nil {
				return err
			}
			if err := watch(ctx, out, london, tokyo); err != nil {
				return err
			}
			return converge(ctx, out, london, tokyo)
		})
	})
}

// withReplica opens a replica on a connection of its own for f, and closes both.
func withReplica(ctx context.Context, server *embedded.Server, f func(*kvstore.Store) error) error {
	conn, err := server.Connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	store, err := kvstore.Open(ctx, "sessions", kvstore.Options{Conn: conn, Memory: true})
	if err != nil {
		return err
	}
	return errors.Join(f(store), store.Close())
}

// putAndGet writes on one replica and reads on the other.
func putAndGet(ctx context.Context, out io.Writer, london, tokyo *kvstore.Store) error {
	revision, err := london.Put(ctx, "user:1", []byte("Ada"),
		kvstore.WithTTL(time.Hour), kvstore.WithMetadata(map[string]int{"visits": 3}))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "london put user:1 at revision %d\n", revision)
	// The other replica has the write within milliseconds; AtLeast waits for it.
	entry, err := tokyo.Get(ctx, "user:1", kvstore.AtLeast(revision))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "tokyo has %s = %s, metadata %s, expires in %v\n",
		entry.Key(), entry.Text(), entry.Metadata(), time.Until(entry.Expires()).Round(time.Hour))
	return nil
}

// watch shows on one replica what is there and what changes. The writes happen
// in the loop only to keep them in order with the output.
func watch(ctx context.Context, out io.Writer, london, tokyo *kvstore.Store) error {
	for event, err := range tokyo.Watch(ctx, "user:") {
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "tokyo saw %v %s %q\n", event.Kind, event.Entry.Key(), event.Entry.Text())
		switch {
		case event.Kind == kvstore.EventDelete:
			return nil
		case event.Entry.Key() == "user:1":
			_, err = london.Put(ctx, "user:2", []byte("Bob"))
		case event.Entry.Text() == "Bob":
			_, err = london.Put(ctx, "user:2", []byte("Grace"), kvstore.IfRevision(event.Entry.Revision()))
		default:
			err = london.Delete(ctx, "user:1")
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// converge writes on both replicas; after Sync they list the same.
func converge(ctx context.Context, out io.Writer, london, tokyo *kvstore.Store) error {
	if _, err := london.Put(ctx, "user:3", []byte("Edsger")); err != nil {
		return err
	}
	if _, err := tokyo.Put(ctx, "user:4", []byte("Barbara")); err != nil {
		return err
	}
	var pages []kvstore.Page
	for _, replica := range []*kvstore.Store{london, tokyo} {
		if err := replica.Sync(ctx); err != nil {
			return err
		}
		page, err := replica.List(kvstore.ListOptions{Prefix: "user:"})
		if err != nil {
			return err
		}
		pages = append(pages, page)
	}
	for _, key := range pages[0].Keys {
		fmt.Fprintf(out, "both list %s at revision %d\n", key.Name, key.Revision)
	}
	same := slices.EqualFunc(pages[0].Keys, pages[1].Keys, func(a, b kvstore.KeyInfo) bool {
		return a.Name == b.Name && a.Revision == b.Revision
	})
	fmt.Fprintf(out, "the replicas are the same: %v\n", same)
	return nil
}
