package kvstore_test

import (
	"context"
	"net/url"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/nearkv/nearkv/kvstore"
)

// What an error of the connection or of the options says of a URL has no secret.
func TestOpenErrorsHideSecrets(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	for name, opts := range map[string]kvstore.Options{
		"connection": {URL: "nats://S3cret@127.0.0.1:1,tls://user:S3cret@127.0.0.1:1", NATS: []nats.Option{func(o *nats.Options) error {
			cancel()
			return &url.Error{Op: "parse", URL: o.Servers[0] + "," + o.Servers[1], Err: nats.ErrBadSubject}
		}}},
		"URL":   {URL: "nats://user:S3cret@host:port"},
		"Voter": {Dir: t.TempDir(), Cluster: &kvstore.Cluster{Name: "c", Voter: "a", Secret: strings.Repeat("x", 16), Voters: map[string]string{"a": "h:1", "b": "nats://S3cret@h:2", "c": "h:3"}}},
	} {
		_, err := kvstore.Open(ctx, "app", opts)
		for e := err; e != nil; {
			if strings.Contains(e.Error(), "S3cret") {
				t.Errorf("%s: %v", name, err)
			}
			switch u := e.(type) { //nolint:errorlint // each of the tree
			case interface{ Unwrap() error }:
				e = u.Unwrap()
			default:
				e = nil
			}
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
