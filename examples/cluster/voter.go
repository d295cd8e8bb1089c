package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/nearkv/nearkv/kvstore"
)

const (
	namespace = "demo"
	planEnv   = "NEARKV_CLUSTER_PLAN"
)

func (p *plan) text() string {
	text, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings only
	}
	return string(text)
}

// runVoter is an application that is one of the voters: it opens its Store, and serves it to nobody.
func runVoter(ctx context.Context, name string, out io.Writer) error {
	var p plan
	if err := json.Unmarshal([]byte(os.Getenv(planEnv)), &p); err != nil {
		return fmt.Errorf("%s: %w", planEnv, err)
	}
	store, err := kvstore.Open(ctx, namespace, p.options(name))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s is ready\n", name)
	<-ctx.Done()
	return store.Close()
}

// options are those of one voter.
func (p *plan) options(name string) kvstore.Options {
	c := &kvstore.Cluster{Name: "demo", Voter: name, Voters: make(map[string]string), Secret: p.Secret, ClientToken: p.Token}
	for _, v := range p.Voters {
		c.Voters[v.Name] = v.Routes
		if v.Name == name {
			c.ClientListen = v.Clients
		}
	}
	return kvstore.Options{Dir: filepath.Join(p.Dir, name), Cluster: c}
}
