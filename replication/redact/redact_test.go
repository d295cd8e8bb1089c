package redact_test

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"

	"github.com/nearkv/nearkv/replication/redact"
)

func TestURLs(t *testing.T) {
	for in, want := range map[string]string{
		"":                                          "",
		"localhost":                                 "localhost",
		"nats://localhost:4222":                     "nats://localhost:4222",
		"nats://localhost:4222/":                    "nats://localhost:4222/",
		"tls://[::1]:4222":                          "tls://[::1]:4222",
		"nats://SECRET@host":                        "nats://xxxxx@host",
		"nats://user:SECRET@host:4222":              "nats://xxxxx@host:4222",
		"SECRET@host:4222":                          "xxxxx@host:4222",
		"tls://a:SECRET@h1, SECRET@h2,h3":           "tls://xxxxx@h1,xxxxx@h2,h3",
		"nats://user:SEC@RET@host":                  "nats://xxxxx@host",
		"nats://user:SEC/RET@host":                  "nats://xxxxx@host",
		"nats://user:SECRET,SECRET@host":            "nats://xxxxx,xxxxx@host",
		"nats://h1:4222,nats://user:SECRET@h2:4222": "nats://h1:4222,nats://xxxxx@h2:4222",
		"ws://host:80/path?token=SECRET":            "ws://host:80/xxxxx",
		"ws://host?token=SECRET":                    "ws://host?xxxxx",
		"host:name":                                 "host:name",
	} {
		if got := redact.URLs(in); got != want {
			t.Errorf("of %q: %q, not %q", in, got, want)
		}
	}
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"nats: no servers available":                     "nats: no servers available",
		"mail to a@b":                                    "mail to a@b",
		`dial "nats://SECRET@host": refused`:             `dial "nats://xxxxx@host": refused`,
		"tls://a:SECRET@h1: x; nats://b:SECRET@h2:1: y.": "tls://xxxxx@h1: x; nats://xxxxx@h2:1: y.",
		"nats://a:SECRET@h1,nats://b:SECRET@h2":          "nats://xxxxx@h2",
		"see https://nearkv.example/doc, or a@b":         "see https://nearkv.example/doc, or a@b",
	} {
		if got := redact.Text(in); got != want {
			t.Errorf("of %q: %q, not %q", in, got, want)
		}
	}
}

func TestError(t *testing.T) {
	if err := redact.Error(nil); err != nil {
		t.Error(err)
	}
	if err := redact.Error(io.EOF); err != io.EOF { //nolint:errorlint // the same
		t.Error(err)
	}
	secret := &url.Error{Op: "parse", URL: "nats://SECRET@host", Err: io.EOF}
	err := fmt.Errorf("connect: %w", redact.Error(secret))
	if err.Error() != `connect: parse "nats://xxxxx@host": EOF` || !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	for ; err != nil; err = errors.Unwrap(err) {
		if text := fmt.Sprintf("%v", err); strings.Contains(text, "SECRET") {
			t.Errorf("the chain has %s", text)
		}
	}
}
