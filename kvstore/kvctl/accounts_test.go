package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// startAccounts starts a server with the accounts that kvctl prints for the arguments, and returns its address. There are
// a user "owner" of the data, and a user "guest" of the account that imports.
func startAccounts(t *testing.T, args ...string) string {
	t.Helper()
	config := succeed(t, append([]string{"permissions", "-n", "app", "--account", "web"}, args...)...)
	for _, user := range []string{"owner", "guest"} {
		config = strings.Replace(config, "users: []", "users: [{user: "+user+", password: secret}]", 1)
	}
	s, err := startNATS(t.TempDir(), config)
	if err != nil {
		t.Fatalf("%v\n%s", err, config)
	}
	t.Cleanup(func() { stopNATS(s) })
	return s.ClientURL()
}

func connectAs(t *testing.T, url, user string) *nats.Conn {
	t.Helper()
	conn, err := nats.Connect(url, nats.UserInfo(user, "secret"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// An attack is a message from somebody who may ask JetStream for something, but not for this.
type attack struct {
	name, subject, reply, payload string
}

const lastRecord = `{"last_by_subj":"$KV.app.user=3A.1"}`

// Readers can make them all.
func readerAttacks(prefix string) []attack {
	api := func(s string) string { return prefix + s }
	return []attack{
		{"an answer becomes a record", api("DIRECT.GET.KV_app"), "$KV.app.secret", lastRecord},
		{"the leader's answer becomes a record", api("STREAM.MSG.GET.KV_app"), "$KV.app.secret", lastRecord},
		{"an answer deletes the stream", api("DIRECT.GET.KV_app"), "$JS.API.STREAM.DELETE.KV_app", `{"last_by_subj":"$KV.app.empty"}`},
		{"an error deletes the stream", api("CONSUMER.MSG.NEXT.KV_app.none"), "$JS.API.STREAM.DELETE.KV_app", ""},
		{
			"a consumer pushes to a record", api("CONSUMER.CREATE.KV_app.push1"), "",
			`{"stream_name":"KV_app","action":"create","config":{"name":"push1","deliver_subject":"$O.app.C.x.y","deliver_policy":"all","ack_policy":"none"}}`,
		},
		{
			"a consumer pushes to the API", api("CONSUMER.CREATE.KV_app.push2"), "",
			`{"stream_name":"KV_app","action":"create","config":{"name":"push2","deliver_subject":"$JS.API.STREAM.DELETE.KV_app","deliver_policy":"all","ack_policy":"none","filter_subject":"$KV.app.empty"}}`,
		},
	}
}

// harmed reports what is not as it was in the namespace.
func harmed(t *testing.T, js jetstream.JetStream) (harm string) {
	t.Helper()
	for range 20 { // what is under way arrives
		info, err := js.Stream(t.Context(), "KV_app")
		if err != nil {
			return err.Error()
		}
		if i := info.CachedInfo(); i.State.LastSeq != 2 || i.Config.Description != "as it was" {
			return fmt.Sprintf("sequence %d, description %q", i.State.LastSeq, i.Config.Description)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return ""
}

// createApp makes the stream anew, with two records. It tries again: a server that is still deleting a stream of that name, as
// an attack may have it, can fail to create it ("error creating store for stream"), or lose what is published to it.
func createApp(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	var err error
	if !eventually(func() bool { err = recreateApp(t.Context(), js); return err == nil }) {
		t.Fatal(err)
	}
}

func recreateApp(ctx context.Context, js jetstream.JetStream) error {
	if err := js.DeleteStream(ctx, "KV_app"); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	_, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "KV_app", Description: "as it was", Subjects: []string{"$KV.app.>"}, AllowDirect: true, MaxMsgsPerSubject: 1,
		AllowRollup: true, Discard: jetstream.DiscardNew,
	})
	if err != nil {
		return err
	}
	for subject, payload := range map[string]string{"user=3A.1": "Ada", "empty": ""} {
		if _, err := js.Publish(ctx, "$KV.app."+subject, []byte(payload)); err != nil {
			return err
		}
	}
	return nil
}

func (a *attack) make(t *testing.T, conn *nats.Conn) {
	t.Helper()
	if err := conn.PublishMsg(&nats.Msg{Subject: a.subject, Reply: a.reply, Data: []byte(a.payload)}); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
}

// A writer can have its own value taken for a configuration.
func writerAttack(t *testing.T, conn *nats.Conn, prefix, put string) attack {
	t.Helper()
	config := `{"name":"KV_app","subjects":["$KV.app.>"],"max_msgs_per_subject":1,"allow_direct":true,"discard":"new","allow_rollup_hdrs":true,"description":"as the writer wants it"}`
	if _, err := conn.Request(put, []byte(config), patience); err != nil {
		t.Fatal(err)
	}
	return attack{"a value becomes the configuration", prefix + "DIRECT.GET.KV_app", "$JS.API.STREAM.UPDATE.KV_app", lastRecord}
}

const patience = time.Minute

// TestPermissionsAreNoBoundary shows what the help of kvctl permissions says: in one account, a user who may only read can
// write any key, and delete the stream; one who may write a key can change what the stream is.
func TestPermissionsAreNoBoundary(t *testing.T) {
	s, err := startNATS(t.TempDir(), "authorization: {users: [{user: owner, password: secret}, {user: reader, password: secret, "+
		succeed(t, "permissions", "-n", "app")+"}, {user: writer, password: secret, "+succeed(t, "permissions", "-n", "app", "--write", "user:")+"}]}")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopNATS(s) })
	js, err := jetstream.New(connectAs(t, s.ClientURL(), "owner"))
	if err != nil {
		t.Fatal(err)
	}
	reader, writer := connectAs(t, s.ClientURL(), "reader"), connectAs(t, s.ClientURL(), "writer")
	for _, a := range readerAttacks("$JS.API.")[:3] {
		createApp(t, js)
		a.make(t, reader)
		if !eventually(func() bool { return harmed(t, js) != "" }) {
			t.Errorf("%s: this does no harm any more; the help of kvctl permissions is to say so", a.name)
		}
	}
	createApp(t, js)
	a := writerAttack(t, writer, "$JS.API.", "$KV.app.user=3A.1")
	a.make(t, writer)
	if !eventually(func() bool {
		info, err := js.Stream(t.Context(), "KV_app")
		return err == nil && info.CachedInfo().Config.Description == "as the writer wants it"
	}) {
		t.Errorf("%s: this does no harm any more", a.name)
	}
}

func eventually(is func() bool) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if is() {
			return true
		}
	}
	return false
}

// TestAccountsAreABoundary makes the same attacks, and some that are possible only there, from an account that imports what
// a Store needs.
func TestAccountsAreABoundary(t *testing.T) {
	url := startAccounts(t, "--write", "user:")
	js, err := jetstream.New(connectAs(t, url, "owner"))
	if err != nil {
		t.Fatal(err)
	}
	guest := connectAs(t, url, "guest")
	attacks := append(readerAttacks("KV_app.API."), readerAttacks("$JS.API.")...)
	for _, subject := range []string{
		"KV_app.API.$KV.app.other", "$KV.app.other", "$KV.app.user=3A.1", "KV_app.API.STREAM.DELETE.KV_app", "KV_app.API.STREAM.PURGE.KV_app",
		"KV_app.API.STREAM.UPDATE.KV_app", "$JS.API.STREAM.DELETE.KV_app", "KV_app.API.CONSUMER.CREATE.KV_app.a.$KV.app.>", "$JS.ACK.KV_app.x.1.1.1.1.1",
	} {
		attacks = append(attacks, attack{subject, subject, "", ""}, attack{subject + " with an answer", subject, "$KV.app.secret", "{}"})
	}
	for _, a := range attacks {
		createApp(t, js)
		a.make(t, guest)
		if harm := harmed(t, js); harm != "" {
			t.Errorf("%s: %s", a.name, harm)
		}
	}

	createApp(t, js)
	a := writerAttack(t, guest, "KV_app.API.", "KV_app.API.$KV.app.user=3A.1")
	a.make(t, guest)
	if err := guest.Flush(); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		info, err := js.Stream(t.Context(), "KV_app")
		if err != nil || info.CachedInfo().Config.Description != "as it was" || info.CachedInfo().State.LastSeq != 3 {
			t.Fatalf("%s: %v", a.name, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// The configuration of accounts is the same as JSON, and does not offer what only the owner does.
func TestPermissionsAccount(t *testing.T) {
	got := succeed(t, "permissions", "-n", "app", "--account", "web", "--json")
	for _, want := range []string{
		`{"accounts":{"KV_app":{"jetstream":"enabled","exports":[{"service":"$JS.API.STREAM.INFO.KV_app","response_type":"singleton","accounts":["web"]}`,
		`{"service":{"account":"KV_app","subject":"$JS.API.CONSUMER.MSG.NEXT.KV_app.*"},"to":"KV_app.API.CONSUMER.MSG.NEXT.KV_app.*"}`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	for _, args := range [][]string{{"--account", "KV_app"}, {"--account", "a b"}, {"--account", "web", "--create"}, {"--account", "web", "--list"}} {
		if r := call(t, append([]string{"permissions", "-n", "app"}, args...)...); r.status != exitMisuse {
			t.Errorf("%q: %+v", args, r)
		}
	}
}
