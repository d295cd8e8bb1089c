package main

import (
	"log/slog"
	"strings"
	"testing"
)

// A token or password in a URL is shown nowhere: not in output, errors, hints or the log of --verbose.
func TestSecretsAreNotShown(t *testing.T) {
	for name, of := range map[string]struct{ config, userinfo string }{
		"token":    {"authorization: {token: S3cretOfAll}", "S3cretOfAll"},
		"password": {"authorization: {user: app, password: S3cretOfAll}", "app:S3cretOfAll"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := startNATS(t.TempDir(), of.config)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { stopNATS(s) })
			host := strings.TrimPrefix(s.ClientURL(), "nats://")
			for _, row := range []struct {
				url    string
				args   []string
				status int
				has    string
			}{
				{"nats://" + of.userinfo + "@" + host, []string{"put", "k", "v"}, exitDone, ""},
				{"nats://" + of.userinfo + "@" + host, []string{"status", "-v"}, exitDone, "nats://xxxxx@" + host},
				{"nats://" + of.userinfo + "@" + host, []string{"status", "--json"}, exitDone, `"nats://xxxxx@` + host + `"`},
				{of.userinfo + "@" + host + "," + of.userinfo + "@" + host, []string{"status"}, exitDone, "xxxxx@" + host + ",xxxxx@" + host},
				{"nats://" + of.userinfo + "2@" + host, []string{"status", "-v"}, exitFailed, "nats: "},
				{"nats://" + of.userinfo + "@" + host + "x", []string{"status", "-v"}, exitMisuse, "URL"},
				{"nats://" + of.userinfo + "@127.0.0.1:1", []string{"status", "-v", "--timeout", "50ms"}, exitUnavailable, "--timeout"},
				{"", []string{"nats://" + of.userinfo + "@" + host}, exitMisuse, "xxxxx@" + host},
				{"", []string{"status", "--timeout", "nats://" + of.userinfo + "@" + host}, exitMisuse, "xxxxx@" + host},
			} {
				cmd := command(t, append(row.args, "-n", "app")...)
				cmd.Env = append(cmd.Env, "NEARKV_URL="+row.url)
				r := finish(t, cmd)
				all := r.stdout + r.stderr
				if r.status != row.status || strings.Contains(all, "S3cret") || !strings.Contains(all, row.has) {
					t.Errorf("NEARKV_URL=%s kvctl %v: status %d, not %d; without %q:\n%s", row.url, row.args, r.status, row.status, row.has, all)
				}
			}
		})
	}
}

func TestSecretsAreNotLogged(t *testing.T) {
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: redactAttr}))
	log.Warn("cannot reach nats://S3cret@a", "error", misuse("dial nats://u:S3cret@b: refused"), "n", 3)
	if text := out.String(); strings.Contains(text, "S3cret") || !strings.Contains(text, "nats://xxxxx@b: refused") || !strings.Contains(text, "n=3") {
		t.Error(text)
	}
}
