package main

import (
	"fmt"
	"strings"

	"github.com/nearkv/nearkv/replication"
)

// accounts prints two accounts of a nats-server: one that has the data and exports what p allows to publish, and one that
// imports that.
//
// An export is a boundary where permissions are none: the server replaces the subject for the answer by one of its own,
// so that it reaches nobody but who asked.
func (c *cli) accounts(name string, p permissions, admin bool) error {
	data := "KV_" + c.namespace
	switch {
	case admin:
		return misuse("--account: the users of the account with the data create and list namespaces; --create and --list are not for others")
	case replication.CheckNamespace(name) != nil || name == data:
		return misuse("--account %q: name the account with A-Z a-z 0-9 - _, and not as that of the data, %s", name, data)
	}
	prefix := data + ".API"
	if c.json {
		return c.out.json(accountsJSON(data, name, prefix, p))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "accounts: {\n  # Has the data. Its users are its administrators: one of them creates the namespace.\n"+
		"  %s: {\n    jetstream: enabled\n    users: []\n    exports: [\n", data)
	for _, subject := range p.Publish.Allow {
		fmt.Fprintf(&b, "      {service: %q, response_type: %s, accounts: [%s]}\n", subject, responses(subject), name)
	}
	fmt.Fprintf(&b, "    ]\n  }\n  # Its users open the namespace with --api-prefix %s (Options.APIPrefix).\n  %s: {\n    users: []\n    imports: [\n", prefix, name)
	for _, subject := range p.Publish.Allow {
		fmt.Fprintf(&b, "      {service: {account: %s, subject: %q}, to: %q}\n", data, subject, imported(prefix, subject))
	}
	b.WriteString("    ]\n  }\n}\n")
	_, err := fmt.Fprint(c.out, b.String())
	return err
}

// responses is how many answers a request has: one of a consumer and one for an object have many.
func responses(subject string) string {
	if strings.HasPrefix(subject, "$JS.API.CONSUMER.MSG.NEXT.") || strings.HasPrefix(subject, "$JS.API.DIRECT.GET.OBJ_") {
		return "stream"
	}
	return "singleton"
}

// imported is where a Store publishes that has the prefix for JetStream's API: below it, but for objects.
func imported(prefix, subject string) string {
	if api, ok := strings.CutPrefix(subject, "$JS.API."); ok {
		return prefix + "." + api
	}
	if strings.HasPrefix(subject, "$O.") {
		return subject
	}
	return prefix + "." + subject
}

type (
	accountJSON struct {
		JetStream string        `json:"jetstream,omitempty"`
		Exports   []serviceJSON `json:"exports,omitempty"`
		Imports   []importJSON  `json:"imports,omitempty"`
	}
	serviceJSON struct {
		Service      string   `json:"service"`
		ResponseType string   `json:"response_type"`
		Accounts     []string `json:"accounts"`
	}
	importJSON struct {
		Service struct {
			Account string `json:"account"`
			Subject string `json:"subject"`
		} `json:"service"`
		To string `json:"to"`
	}
)

func accountsJSON(data, name, prefix string, p permissions) any {
	from, to := accountJSON{JetStream: "enabled"}, accountJSON{}
	for _, subject := range p.Publish.Allow {
		from.Exports = append(from.Exports, serviceJSON{subject, responses(subject), []string{name}})
		i := importJSON{To: imported(prefix, subject)}
		i.Service.Account, i.Service.Subject = data, subject
		to.Imports = append(to.Imports, i)
	}
	return map[string]map[string]accountJSON{"accounts": {data: from, name: to}}
}
