package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/replication/redact"
)

// target is the namespace that the command is about.
type target struct {
	dir, url, namespace   string
	creds, user, password string
	ca, cert, key         string
	inbox                 string
	domain, apiPrefix     string
	timeout               time.Duration

	conn atomic.Pointer[nats.Conn] // to url, when there is one
}

func (c *cli) addFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&c.dir, "dir", "", "directory of the store (NEARKV_DIR)")
	f.StringVar(&c.url, "url", "", "URL of a NATS server with JetStream (NEARKV_URL)")
	f.StringVarP(&c.namespace, "namespace", "n", "", "namespace (NEARKV_NAMESPACE)")
	f.StringVar(&c.creds, "creds", "", "file of NATS credentials, for --url (NEARKV_CREDS)")
	f.StringVar(&c.user, "user", "", "user of the NATS server (NEARKV_USER)")
	f.StringVar(&c.password, "password", "", "its password; better given as NEARKV_PASSWORD")
	f.StringVar(&c.ca, "tls-ca", "", "file of the certificates that the NATS server's is checked by")
	f.StringVar(&c.cert, "tls-cert", "", "file of the certificate to show the NATS server, with --tls-key")
	f.StringVar(&c.key, "tls-key", "", "file of its key")
	f.StringVar(&c.inbox, "inbox-prefix", "", "first part of the subjects on which answers come, where _INBOX is not allowed")
	f.StringVar(&c.domain, "domain", "", "JetStream domain of the log, if it is not that of the server (NEARKV_DOMAIN)")
	f.StringVar(&c.apiPrefix, "api-prefix", "", "prefix under which the JetStream API of another account is imported (NEARKV_API_PREFIX)")
	f.DurationVar(&c.timeout, "timeout", 30*time.Second, "to wait for the store; of long work, without progress (0: for ever)")
	f.BoolVar(&c.json, "json", false, "write JSON")
	f.BoolVarP(&c.verbose, "verbose", "v", false, "tell on stderr what the store and its server do")
	complete(root.RegisterFlagCompletionFunc("namespace", c.completeNamespace))
	complete(root.MarkPersistentFlagDirname("dir"))
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return err })
}

// environ completes the flags by the environment. A place that is given by a
// flag overrules both of the environment.
func (t *target) environ() error {
	for _, v := range []struct {
		name string
		flag *string
	}{
		{"NEARKV_NAMESPACE", &t.namespace}, {"NEARKV_CREDS", &t.creds}, {"NEARKV_USER", &t.user}, {"NEARKV_PASSWORD", &t.password},
	} {
		*v.flag = cmp.Or(*v.flag, os.Getenv(v.name))
	}
	if t.dir != "" && t.url != "" {
		return misuse("both --dir and --url: give one")
	}
	if t.dir == "" && t.url == "" {
		t.dir, t.url = os.Getenv("NEARKV_DIR"), os.Getenv("NEARKV_URL")
	}
	if t.url != "" && t.domain == "" && t.apiPrefix == "" {
		t.domain, t.apiPrefix = os.Getenv("NEARKV_DOMAIN"), os.Getenv("NEARKV_API_PREFIX")
	}
	switch {
	case t.dir != "" && t.url != "":
		return misuse("both NEARKV_DIR and NEARKV_URL are set: say --dir or --url")
	case t.dir == "" && t.url == "":
		return misuse("no store given: use --dir DIR or --url URL, or set NEARKV_DIR or NEARKV_URL")
	}
	return nil
}

// logger is where the store and its server tell what they do; nil: nowhere.
func (c *cli) logger() *slog.Logger {
	if !c.verbose {
		return nil
	}
	return slog.New(slog.NewTextHandler(c.err.file, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: redactAttr}))
}

// redactAttr hides credentials in what is logged.
func redactAttr(_ []string, a slog.Attr) slog.Attr {
	if text := a.Value.String(); redact.Text(text) != text {
		a.Value = slog.StringValue(redact.Text(text))
	}
	return a
}

// options are those of the store.
func (c *cli) options(cacheBytes int64) kvstore.Options {
	o := kvstore.Options{
		Dir: c.dir, URL: c.url, Domain: c.domain, APIPrefix: c.apiPrefix,
		CacheBytes: cacheBytes, WriteTimeout: -1, // --timeout bounds all
	}
	o.Logger = c.logger()
	if c.url == "" {
		return o
	}
	o.NATS = append(o.NATS, nats.Name("kvctl"), nats.ConnectHandler(func(nc *nats.Conn) { c.conn.Store(nc) }))
	for _, option := range []struct {
		given  bool
		option func() nats.Option
	}{
		{c.creds != "", func() nats.Option { return nats.UserCredentials(c.creds) }},
		{c.user != "", func() nats.Option { return nats.UserInfo(c.user, c.password) }},
		{c.ca != "", func() nats.Option { return nats.RootCAs(c.ca) }},
		{c.cert != "", func() nats.Option { return nats.ClientCert(c.cert, c.key) }},
		{c.inbox != "", func() nats.Option { return nats.CustomInboxPrefix(c.inbox) }},
	} {
		if option.given {
			o.NATS = append(o.NATS, option.option())
		}
	}
	return o
}

// errTimeout is why a command stops waiting.
var errTimeout = errors.New("no answer within --timeout")

// wait bounds the wait for the store.
func (c *cli) wait(ctx context.Context) (context.Context, context.CancelCauseFunc, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{patience: c.timeout}
	if c.timeout > 0 {
		w.timer = time.AfterFunc(c.timeout, func() { cancel(errTimeout) })
	}
	return ctx, cancel, w
}

// watchdog ends what makes no progress.
type watchdog struct {
	patience time.Duration
	timer    *time.Timer // nil: it may take for ever
}

func (w *watchdog) progress() {
	if w.timer != nil {
		w.timer.Reset(w.patience)
	}
}

func (w *watchdog) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

// session is an open Store and the context of what is done with it.
type session struct {
	*kvstore.Store
	ctx  context.Context
	work *watchdog
}

// patient is a reader for whose data there is time: the store does not keep us
// waiting meanwhile.
type patient struct {
	io.Reader
	work *watchdog
}

func (p *patient) Read(b []byte) (int, error) {
	p.work.stop()
	defer p.work.progress()
	return p.Reader.Read(b)
}

// patientFile can be read again.
type patientFile struct {
	patient
	io.Seeker
}

// patient is for reading a value. That of a file can be read again.
func (s *session) patient(r io.Reader) io.Reader {
	if f, ok := r.(*os.File); ok {
		return &patientFile{patient{f, s.work}, f}
	}
	return &patient{r, s.work}
}

// access says what becomes of a namespace that does not exist.
type access bool

const (
	existing access = false // it is reported
	created  access = true
)

// noValues makes a Store keep no values: what is read once needs no cache.
const noValues = -1

// with opens the namespace, calls f and closes it.
func (c *cli) with(ctx context.Context, a access, cacheBytes int64, f func(*session) error) error {
	if err := c.place(a); err != nil {
		return err
	}
	if c.namespace == "" {
		return misuse("no namespace given: use --namespace NAME, or set NEARKV_NAMESPACE; kvctl namespaces lists them")
	}
	ctx, cancel, work := c.wait(ctx)
	defer cancel(nil)
	defer work.stop()
	store, err := c.open(ctx, a, c.options(cacheBytes))
	if err != nil {
		return c.explain(err)
	}
	work.progress()
	err = f(&session{store, ctx, work})
	return errors.Join(err, store.Close())
}

// place finds out where the store is. A directory that does not exist is created
// only with the namespace.
func (c *cli) place(a access) error {
	if err := c.environ(); err != nil {
		return err
	}
	if c.dir == "" || a == created {
		return nil
	}
	switch info, err := os.Stat(c.dir); {
	case errors.Is(err, fs.ErrNotExist):
		return hintError{fmt.Errorf("%w: the directory %s does not exist", kvstore.ErrNoNamespace, c.dir), "check --dir or NEARKV_DIR; kvctl put creates it"}
	case err == nil && !info.IsDir():
		return misuse("%s is no directory", c.dir)
	default:
		return err
	}
}

func (c *cli) open(ctx context.Context, a access, o kvstore.Options) (*kvstore.Store, error) {
	o.MustExist = true
	s, err := kvstore.Open(ctx, c.namespace, o)
	if a == existing || !errors.Is(err, kvstore.ErrNoNamespace) {
		return s, err
	}
	c.note("creating namespace %s", c.namespace)
	o.MustExist = false
	return kvstore.Open(ctx, c.namespace, o)
}

// explain adds the namespaces that there are to the error that there is none.
func (c *cli) explain(err error) error {
	if !errors.Is(err, kvstore.ErrNoNamespace) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	names, listed := kvstore.Namespaces(ctx, c.options(noValues))
	switch {
	case listed != nil:
		return err
	case len(names) == 0:
		return hintError{err, "there are no namespaces; kvctl put creates one"}
	}
	return hintError{err, "there are: " + strings.Join(names, ", ")}
}
