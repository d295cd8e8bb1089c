package embedded_test

import (
	"context"
	"fmt"
	"log"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/replication/embedded"
)

// A server in memory. With Options{Dir: ...} and jetstream.FileStorage the message would still be there next time.
func Example() {
	ctx := context.Background()
	server, err := embedded.Start(ctx, embedded.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = server.Shutdown() }()

	nc, err := server.Connect()
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}

	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name:     "GREETINGS",
		Subjects: []string{"greet.>"},
		Storage:  jetstream.MemoryStorage,
	})
	if err != nil {
		log.Fatal(err)
	}
	ack, err := js.Publish(ctx, "greet.world", []byte("hello"))
	if err != nil {
		log.Fatal(err)
	}
	msg, err := stream.GetMsg(ctx, ack.Sequence)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d %s %s\n", msg.Sequence, msg.Subject, msg.Data)
	// Output: 1 greet.world hello
}
