// Command featureflags is an HTTP service that looks its feature flags up in a
// kvstore.Store on every request. Several instances share their flags through
// a NATS server:
//
//	featureflags -addr 127.0.0.1:8081 -url nats://127.0.0.1:4222 -seed flags.json
//	featureflags -addr 127.0.0.1:8082 -url nats://127.0.0.1:4222 -seed flags.json
//	curl 127.0.0.1:8081/flags/dark-mode
//	curl -X POST 127.0.0.1:8081/admin/flags/dark-mode/flip
//	curl 127.0.0.1:8082/
//
// With -dir there is one instance, with a server of its own that keeps the log
// in that directory; with neither, the flags live as long as the process.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nearkv/nearkv/kvstore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "featureflags:", err)
		os.Exit(1)
	}
}

type config struct {
	addr, url, dir, seed string
	writeTimeout         time.Duration
}

func parse(args []string) (config, error) {
	var c config
	flags := flag.NewFlagSet("featureflags", flag.ContinueOnError)
	flags.StringVar(&c.addr, "addr", "127.0.0.1:8080", "`address` to listen on")
	flags.StringVar(&c.url, "url", "", "`URL` of a NATS server with JetStream")
	flags.StringVar(&c.dir, "dir", "", "`directory` for a server in this process")
	flags.StringVar(&c.seed, "seed", "", "`file` of flags to begin with, in the bulk format of Workers KV")
	flags.DurationVar(&c.writeTimeout, "write-timeout", 5*time.Second, "how long a write may wait for the log")
	return c, flags.Parse(args)
}

// run serves until ctx ends, and then finishes the requests that are under way.
func run(ctx context.Context, args []string, out io.Writer) error {
	c, err := parse(args)
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	store, err := kvstore.Open(ctx, "flags", kvstore.Options{URL: c.url, Dir: c.dir, Logger: logger})
	if err != nil {
		return err
	}
	err = seed(ctx, store, c.seed)
	if err == nil {
		err = serve(ctx, c.addr, (&service{store: store, writeTimeout: c.writeTimeout}).handler(), out)
	}
	return errors.Join(err, store.Close())
}

func serve(ctx context.Context, addr string, h http.Handler, out io.Writer) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "listening on http://%s\n", listener.Addr())
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err = server.Shutdown(grace)
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
