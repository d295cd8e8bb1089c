package embedded

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/nearkv/nearkv/replication/redact"
)

// MinSecretLen is the least length of Secret and of ClientToken, in bytes.
const MinSecretLen = 16

// Cluster makes a server one of the voters of a JetStream cluster. All of its voters have the same Name, Voters, and
// Secret or TLS. A cluster lives while more than half of its voters do: of 3 one may fail, of 5 two.
type Cluster struct {
	// Name of the cluster, and that of this voter, which is one of Voters and stays the same for ever: who comes back under
	// another name is counted as one more voter, and the old one as one that has failed.
	Name, Voter string

	// Voters has the route address, host:port, of each voter by its name. There are 3 or 5. Two could go on only with both,
	// and would be less available than one; the same goes for 4 beside 3.
	Voters map[string]string

	// Listen is where this voter accepts routes, host:port. Default: its own address in Voters.
	Listen string

	// Secret that the voters share, at least MinSecretLen bytes. It proves who dials, not who is dialled: without TLS whoever
	// takes the address of a voter is believed to be it. And it crosses the network as a hash that is as good as the secret,
	// beside all that is stored.
	Secret string

	// TLS for routes. It needs Certificates, and RootCAs and ClientCAs: each voter proves to each other who it is. With it, the
	// Secret may be left out.
	TLS *tls.Config

	// ClientListen is where clients come in that are no voters and do not share the Dir, host:port, with Options.URL of the
	// store. They show ClientToken, at least MinSecretLen bytes. Default: nobody comes in; the server has to listen
	// somewhere, and does so on the loopback interface, on any port, and turns everybody away.
	ClientListen, ClientToken string

	// ClientTLS is required of those clients, if it is set.
	ClientTLS *tls.Config
}

func (c *Cluster) check() error {
	refuse := func(option, format string, args ...any) error {
		return &OptionsError{"Cluster." + option, fmt.Sprintf(format, args...)}
	}
	switch n := len(c.Voters); {
	case c.Name == "":
		return refuse("Name", "is empty")
	case n == 2 || n == 4:
		return refuse("Voters", "%d of them bear the loss of no more than %d do, and fail more often: use %d or %d", n, n-1, n-1, n+1)
	case n != 3 && n != 5:
		return refuse("Voters", "there are %d, not 3 or 5: further processes join by URL", n)
	case c.Voters[c.Voter] == "":
		return refuse("Voter", "%q is none of Voters", c.Voter)
	case c.Secret == "" && c.TLS == nil:
		return refuse("Secret", "without it or TLS anybody who reaches the port could join")
	case c.Secret != "" && len(c.Secret) < MinSecretLen:
		return refuse("Secret", "has %d bytes, the least is %d", len(c.Secret), MinSecretLen)
	case c.TLS != nil && (len(c.TLS.Certificates) == 0 && c.TLS.GetCertificate == nil || c.TLS.ClientCAs == nil || c.TLS.RootCAs == nil):
		return refuse("TLS", "needs Certificates, RootCAs and ClientCAs")
	case c.ClientListen != "" && len(c.ClientToken) < MinSecretLen:
		return refuse("ClientToken", "has %d bytes, the least is %d", len(c.ClientToken), MinSecretLen)
	}
	return c.checkAddresses()
}

func (c *Cluster) checkAddresses() error {
	seen := make(map[string]string, len(c.Voters))
	for _, name := range slices.Sorted(maps.Keys(c.Voters)) {
		address := c.Voters[name]
		if host, _, err := splitAddress(address); err != nil || host == "" {
			return &OptionsError{"Cluster.Voters", fmt.Sprintf("%s: %q is not host:port", name, redact.URLs(address))}
		}
		if other, twice := seen[address]; twice {
			return &OptionsError{"Cluster.Voters", fmt.Sprintf("%s and %s have the same address", other, name)}
		}
		seen[address] = name
	}
	for option, address := range map[string]string{"Listen": c.Listen, "ClientListen": c.ClientListen} {
		if _, _, err := splitAddress(address); address != "" && err != nil {
			return &OptionsError{"Cluster." + option, fmt.Sprintf("%q is not host:port", redact.URLs(address))}
		}
	}
	return nil
}

func splitAddress(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	if strings.ContainsAny(host, "@/?#, ") { // of a URL: the name would be looked up, and logged
		return "", 0, errors.New("not a host")
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if n == 0 {
		return "", 0, errors.Join(err, errors.New("no port"))
	}
	return host, int(n), err
}

// routeUser is the name under which voters show the secret.
const routeUser = "nearkv"

// configure changes the options of a server that is alone. c has been checked.
func (c *Cluster) configure(o *server.Options) {
	listen := c.Listen
	if listen == "" {
		listen = c.Voters[c.Voter]
	}
	o.ServerName = c.Voter
	o.Cluster.Name = c.Name
	o.Cluster.Host, o.Cluster.Port, _ = splitAddress(listen) // checked
	if c.Secret != "" {
		o.Cluster.Username, o.Cluster.Password = routeUser, c.password()
	}
	if c.TLS != nil {
		o.Cluster.TLSConfig = c.TLS.Clone()
		o.Cluster.TLSConfig.ClientAuth = tls.RequireAndVerifyClientCert
	}
	// All voters, this one too: the server takes their number for that of the cluster when it makes one.
	for _, name := range slices.Sorted(maps.Keys(c.Voters)) {
		u := &url.URL{Scheme: "nats-route", Host: c.Voters[name]}
		if c.Secret != "" {
			u.User = url.UserPassword(routeUser, c.password())
		}
		o.Routes = append(o.Routes, u)
	}

	o.DontListen = false // a server with routes is never ready otherwise, and cannot shut down
	o.Cluster.NoAdvertise = c.ClientListen == ""
	if c.ClientListen != "" {
		o.Host, o.Port, _ = splitAddress(c.ClientListen) // checked
	}
	o.LameDuckGracePeriod, o.LameDuckDuration = time.Millisecond, 2*time.Millisecond // clients reconnect by themselves
	o.TLSConfig = c.ClientTLS
	o.CustomClientAuthentication = doorkeeper{c.ClientToken}
}

// password is what stands for the secret in the protocol and in the server, which might take the secret itself for a hash.
func (c *Cluster) password() string {
	sum := sha256.Sum256([]byte("nearkv route\n" + c.Secret))
	return hex.EncodeToString(sum[:])
}

// doorkeeper lets in who is in this process, or came through the socket of the directory, and who shows the token.
type doorkeeper struct{ token string }

// Check implements server.Authentication.
func (d doorkeeper) Check(c server.ClientAuthentication) bool {
	if a := c.RemoteAddress(); a != nil && a.Network() == "pipe" {
		return true
	}
	shown := c.GetOpts().Token
	return d.token != "" && subtle.ConstantTimeCompare([]byte(shown), []byte(d.token)) == 1
}

// memberName is the file that tells which voter a directory belongs to.
const memberName = "voter"

// claim makes sure that a directory belongs to this voter, or to a server that is alone if c is nil.
//
// A server that joins a cluster takes streams that the cluster does not know for forgotten ones, and deletes them. One
// that leaves its cluster would go on alone, with what the others do not get.
func (c *Cluster) claim(store string) error {
	file := filepath.Join(store, memberName)
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed("look whose directory it is", err)
	}
	owner := string(text)
	if c == nil {
		if owner != "" {
			return &StartError{Reason: fmt.Sprintf("the directory belongs to voter %s of a cluster: it cannot be used without it", owner)}
		}
		return nil
	}
	self := c.Name + "/" + c.Voter
	switch {
	case owner == self:
		return nil
	case owner != "":
		return &StartError{Reason: fmt.Sprintf("the directory belongs to voter %s, not to %s", owner, self)}
	}
	if streams, _ := filepath.Glob(filepath.Join(store, "jetstream", "*", "streams", "*")); len(streams) > 0 { // the pattern is valid
		return &StartError{Reason: "the directory has namespaces of a server that was alone: a cluster would delete them"}
	}
	if err := os.WriteFile(file, []byte(self), lockMode); err != nil {
		return failed("note whose directory it is", err)
	}
	return nil
}
