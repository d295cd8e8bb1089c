package kvstore

import (
	"context"
	"errors"

	"github.com/nearkv/nearkv/replication"
)

// Namespaces returns the names of the namespaces that there are, in order: all
// key-value buckets of the server that the options lead to, those of other NATS
// clients included. It opens none of them. With Dir it does what Open does to
// reach the server: where no process serves the directory, this one does
// meanwhile.
//
// Errors: ErrInvalidOptions before anything is done; ErrLocked and ErrStart with
// Dir; ErrForbidden when the user may not list them; ErrUnsupported when the account
// has no JetStream; ErrUnavailable when ctx ended first.
func Namespaces(ctx context.Context, opts Options) ([]string, error) {
	if err := opts.check(); err != nil {
		return nil, failed("namespaces", "", err)
	}
	opts = opts.withDefaults()
	b, err := newBackend(ctx, "namespaces", &opts)
	if err != nil {
		return nil, failed("namespaces", "", err)
	}
	names, err := replication.Namespaces(ctx, b.conn, opts.replication())
	return names, failed("namespaces", "", errors.Join(err, b.close()))
}
