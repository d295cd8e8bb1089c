package replication

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Namespaces returns the names of the key-value buckets of a server, in order. It
// waits for the server until ctx ends; then the error is ErrUnavailable.
func Namespaces(ctx context.Context, nc *nats.Conn) ([]string, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("replication: %w: %w", ErrUnavailable, err)
	}
	retry := NewBackoff()
	for {
		names, err := namespaces(ctx, js)
		if err == nil {
			return names, nil
		}
		if ended := retry.Wait(ctx, nil); ended != nil {
			return nil, fmt.Errorf("replication: list of namespaces: %w: %w: %w", ErrUnavailable, err, ended)
		}
	}
}

// namespaces asks once. A cluster without a leader does not answer.
func namespaces(ctx context.Context, js jetstream.JetStream) (names []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	streams := js.StreamNames(ctx)
	for stream := range streams.Name() {
		if name, ok := strings.CutPrefix(stream, streamPrefix); ok && CheckNamespace(name) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, streams.Err()
}
