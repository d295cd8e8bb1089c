//go:build unix

package embedded_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/replication/embedded"
)

const (
	secret = "a secret of the test"
	token  = "a token of the test"
)

// freeAddress returns an address on which nobody listens, nor will: where all of 127.0.0.0/8 is this machine it is one that
// others have no reason to use.
func freeAddress(t *testing.T) string {
	t.Helper()
	host := "127.0.0.1"
	if runtime.GOOS == "linux" {
		host = fmt.Sprintf("127.%d.%d.%d", 1+rand.N(254), rand.N(255), 1+rand.N(254))
	}
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// voter is one of three; the others are not there.
func voter(t *testing.T) *embedded.Cluster {
	t.Helper()
	return &embedded.Cluster{
		Name: "c", Voter: "a", Secret: secret,
		Voters: map[string]string{"a": freeAddress(t), "b": freeAddress(t), "c": freeAddress(t)},
	}
}

// What cannot work, or would be open to everybody, is refused before anything is touched.
func TestClusterOptions(t *testing.T) {
	for name, change := range map[string]func(o *embedded.Options){
		"no Dir":                  func(o *embedded.Options) { o.Dir = "" },
		"no name":                 func(o *embedded.Options) { o.Cluster.Name = "" },
		"two voters":              func(o *embedded.Options) { delete(o.Cluster.Voters, "c") },
		"four voters":             func(o *embedded.Options) { o.Cluster.Voters["d"] = "localhost:1" },
		"one voter":               func(o *embedded.Options) { o.Cluster.Voters = map[string]string{"a": "localhost:1"} },
		"none of the voters":      func(o *embedded.Options) { o.Cluster.Voter = "d" },
		"no secret":               func(o *embedded.Options) { o.Cluster.Secret = "" },
		"short secret":            func(o *embedded.Options) { o.Cluster.Secret = secret[:15] },
		"TLS without authorities": func(o *embedded.Options) { o.Cluster.TLS = &tls.Config{MinVersion: tls.VersionTLS13} },
		"no port":                 func(o *embedded.Options) { o.Cluster.Voters["b"] = "localhost" },
		"port 0":                  func(o *embedded.Options) { o.Cluster.Voters["b"] = "localhost:0" },
		"no host":                 func(o *embedded.Options) { o.Cluster.Voters["b"] = ":4222" },
		"same address":            func(o *embedded.Options) { o.Cluster.Voters["b"] = o.Cluster.Voters["a"] },
		"bad Listen":              func(o *embedded.Options) { o.Cluster.Listen = "nowhere" },
		"clients without token":   func(o *embedded.Options) { o.Cluster.ClientListen = "localhost:4222" },
		"short token":             func(o *embedded.Options) { o.Cluster.ClientListen, o.Cluster.ClientToken = "localhost:4222", "short" },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "new")
			o := embedded.Options{Dir: dir, Cluster: voter(t)}
			change(&o)
			_, err := embedded.Start(t.Context(), o)
			wantErrorIs(t, err, embedded.ErrInvalidOptions)
			if _, err := os.Stat(dir); err == nil {
				t.Error("the directory was made")
			}
		})
	}
}

// An address that is none because it is a URL, with a secret in it, is refused and not shown.
func TestClusterOptionsHideSecrets(t *testing.T) {
	for _, address := range []string{
		"nats://S3cret@host:4222", "nats://user:S3cret@host:4222", "user:S3cret@host:4222", "S3cret@host:4222",
		"host?token=S3cret:4222", "user:S3,cret@host:4222",
	} {
		for option, change := range map[string]func(c *embedded.Cluster){
			"Voters":       func(c *embedded.Cluster) { c.Voters["b"] = address },
			"Listen":       func(c *embedded.Cluster) { c.Listen = address },
			"ClientListen": func(c *embedded.Cluster) { c.ClientListen, c.ClientToken = address, secret },
		} {
			c := voter(t)
			change(c)
			_, err := embedded.Start(t.Context(), embedded.Options{Dir: t.TempDir(), Cluster: c})
			wantErrorIs(t, err, embedded.ErrInvalidOptions)
			if text := fmt.Sprint(err); strings.Contains(text, "S3") || !strings.Contains(text, "Cluster."+option) || !strings.Contains(text, "host") {
				t.Errorf("%s %s: %s", option, address, text)
			}
		}
	}
}

// A directory is that of one voter, or of a server that is alone.
func TestDirectoryChangesHands(t *testing.T) {
	alone, clustered := t.TempDir(), t.TempDir()
	s := start(t, embedded.Options{Dir: alone})
	_, js := connect(t, s)
	createStream(t, js, jetstream.FileStorage)
	shutdown(t, s)
	_, err := embedded.Start(t.Context(), embedded.Options{Dir: alone, Cluster: voter(t)})
	wantErrorIs(t, err, embedded.ErrStart)

	c := voter(t)
	shutdown(t, start(t, embedded.Options{Dir: clustered, Cluster: c}))
	_, err = embedded.Start(t.Context(), embedded.Options{Dir: clustered})
	wantErrorIs(t, err, embedded.ErrStart)
	c.Voter = "b"
	_, err = embedded.Start(t.Context(), embedded.Options{Dir: clustered, Cluster: c})
	wantErrorIs(t, err, embedded.ErrStart)
	c.Voter = "a"
	start(t, embedded.Options{Dir: clustered, Cluster: c})
}

// A port that is taken fails the start; the server itself only says so.
func TestRoutePortIsTaken(t *testing.T) {
	c := voter(t)
	l, err := net.Listen("tcp", c.Voters["a"])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, err = embedded.Start(t.Context(), embedded.Options{Dir: t.TempDir(), Cluster: c})
	wantErrorIs(t, err, embedded.ErrStart)
}

// TestDenied is the table of those who are turned away, and beside each the one who is let in.
func TestDenied(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	plain := func(c *embedded.Cluster) { c.ClientListen, c.ClientToken = freeAddress(t), token }
	encrypted := func(c *embedded.Cluster) {
		plain(c)
		c.TLS, c.ClientTLS, c.Secret = ours.config(t, c), ours.config(t, c), ""
	}
	both := func(c *embedded.Cluster) { encrypted(c); c.Secret = secret }
	secure := func(a *authority) nats.Option {
		return nats.Secure(&tls.Config{RootCAs: a.pool, MinVersion: tls.VersionTLS13})
	}
	for _, tc := range []struct {
		name   string
		server func(*embedded.Cluster)
		try    func(t *testing.T, ours *embedded.Server, c *embedded.Cluster) bool // whether it is let in
		want   bool
	}{
		{"client with the token", plain, client(nats.Token(token)), true},
		{"client without a token", plain, client(), false},
		{"client with a wrong token", plain, client(nats.Token(token + "x")), false},
		{"client with the secret of the voters", plain, client(nats.UserInfo("nearkv", secret)), false},
		{"client by TLS", encrypted, client(nats.Token(token), secure(ours)), true},
		{"client by TLS without a token", encrypted, client(secure(ours)), false},
		{"client that trusts others", encrypted, client(nats.Token(token), secure(theirs)), false},
		{"client in plain text against TLS", encrypted, client(nats.Token(token), plainText), false},

		{"voter with the secret", plain, joins(secret, nil), true},
		{"voter without a secret", plain, joins("", nil), false},
		{"voter with a wrong secret", plain, joins(secret+"x", nil), false},
		{"voter by TLS", encrypted, joins("", ours), true},
		{"voter in plain text against TLS", encrypted, joins("", nil), false},
		{"voter of another authority", encrypted, joins("", &authority{key: theirs.key, cert: theirs.cert, pool: ours.pool}), false},
		{"voter by TLS with the secret", both, joins(secret, ours), true},
		{"voter by TLS without the secret", both, joins("", ours), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := voter(t)
			tc.server(c)
			ours := start(t, embedded.Options{Dir: t.TempDir(), Cluster: c})
			if got := tc.try(t, ours, c); got != tc.want {
				t.Errorf("it is let in: %v, want %v", got, tc.want)
			}
		})
	}
}

// Without ClientListen nobody from outside of the process is let in, whatever he shows.
func TestNoClientsByDefault(t *testing.T) {
	s := start(t, embedded.Options{Dir: t.TempDir(), Cluster: voter(t)})
	connect(t, s) // from inside
	for _, opt := range []nats.Option{nats.Name("nobody"), nats.Token(""), nats.Token(token), nats.UserInfo("nearkv", secret)} {
		if nc, err := nats.Connect("nats://"+s.ClientAddr(), opt); err == nil {
			nc.Close()
			t.Error("somebody was let in")
		}
	}
}

// plainText has a client go on when the server asks for TLS.
func plainText(o *nats.Options) error {
	o.CustomDialer = deafDialer{}
	return nil
}

// deafDialer hides from the client that the server wants TLS.
type deafDialer struct{}

func (deafDialer) Dial(network, address string) (net.Conn, error) {
	c, err := net.Dial(network, address)
	return &deafConn{Conn: c}, err
}

type deafConn struct {
	net.Conn
	said bool
}

func (c *deafConn) Read(p []byte) (int, error) {
	if c.said {
		return c.Conn.Read(p)
	}
	c.said = true
	if _, err := c.Conn.Read(make([]byte, 4096)); err != nil {
		return 0, err
	}
	return copy(p, "INFO {\"server_id\":\"x\",\"max_payload\":1048576,\"proto\":1}\r\n"), nil
}

// client tries to connect.
func client(opts ...nats.Option) func(*testing.T, *embedded.Server, *embedded.Cluster) bool {
	return func(t *testing.T, _ *embedded.Server, c *embedded.Cluster) bool {
		t.Helper()
		all := append([]nats.Option{nats.NoReconnect(), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})}, opts...)
		nc, err := nats.Connect("nats://"+c.ClientListen, all...)
		if err != nil {
			t.Logf("denied: %v", err)
			return false
		}
		defer nc.Close()
		return nc.FlushTimeout(quick) == nil
	}
}

// joins tries to join as voter b, from an address that is not that of b: ours dials that one by itself.
func joins(secret string, a *authority) func(*testing.T, *embedded.Server, *embedded.Cluster) bool {
	return func(t *testing.T, ours *embedded.Server, c *embedded.Cluster) bool {
		t.Helper()
		host, port, err := net.SplitHostPort(freeAddress(t))
		if err != nil {
			t.Fatal(err)
		}
		o := &server.Options{ServerName: "b", DontListen: false, Host: host, Port: server.RANDOM_PORT, NoSigs: true, NoLog: true}
		o.Cluster.Name, o.Cluster.Host = c.Name, host
		if _, err := fmt.Sscan(port, &o.Cluster.Port); err != nil {
			t.Fatal(err)
		}
		u := &url.URL{Scheme: "nats-route", Host: c.Voters["a"]}
		if secret != "" {
			u.User = url.UserPassword("nearkv", (&embedded.Cluster{Secret: secret}).RoutePassword())
		}
		if a != nil {
			o.Cluster.TLSConfig = a.config(t, c)
		}
		o.Routes = []*url.URL{u}
		s, err := server.NewServer(o)
		if err != nil {
			t.Fatal(err)
		}
		log := newRecords("")
		s.SetLoggerV2(canaryLog{log}, false, false, false)
		s.Start()
		defer func() { s.Shutdown(); s.WaitForShutdown() }()
		for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if ours.NumRoutes() > 0 { // the other one counts a route that is still to be refused
				return true
			}
		}
		return false
	}
}

// authority issues certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	a.key, a.cert = issue(t, nil, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.pool.AddCert(a.cert)
	return a
}

// issue makes a certificate, signed by the authority or by itself.
func issue(t *testing.T, a *authority, template *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(rand.Int64())
	template.Subject = pkix.Name{CommonName: "test"}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if a == nil {
		a = &authority{key: key, cert: template}
	}
	der, err := x509.CreateCertificate(crand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

// config is that of a voter whom this authority knows.
func (a *authority) config(t *testing.T, c *embedded.Cluster) *tls.Config {
	t.Helper()
	template := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, address := range append(slices.Collect(maps.Values(c.Voters)), c.ClientListen) {
		host, _, _ := strings.Cut(address, ":")
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(host))
	}
	key, cert := issue(t, a, template)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}},
		RootCAs:      a.pool, ClientCAs: a.pool, MinVersion: tls.VersionTLS13,
	}
}
