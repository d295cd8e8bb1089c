package kvstore_test

import (
	"context"
	"fmt"
	"log"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
)

func ExampleNewView() {
	ctx := context.Background()
	store, err := kvstore.Open(ctx, "app", kvstore.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	type User struct {
		Name   string
		Logins int
	}
	users := kvstore.NewView(store, codec.MsgPack[User]())
	if _, err := users.Put(ctx, "user:7", User{Name: "Ada"}); err != nil {
		log.Fatal(err)
	}
	// No login is lost, whoever else writes.
	_, err = users.Update(ctx, "user:7", func(u User) (User, error) {
		u.Logins++
		return u, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	user, err := users.Get(ctx, "user:7")
	fmt.Println(user.Name, user.Logins, err)
	// Output: Ada 1 <nil>
}
