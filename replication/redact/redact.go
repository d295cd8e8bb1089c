// Package redact hides the credentials in URLs that are shown to somebody: in output, errors and logs.
//
// It differs from (*url.URL).Redacted in what it hides: all that is before the @, because the user alone can be the
// secret (nats://TOKEN@host), and the path and the query, which no NATS URL needs. And it works on what is not a URL:
// a list, an address without a scheme, a text in which URLs occur.
package redact

import (
	"errors"
	"net/url"
	"regexp"
	"strings"
)

// hidden stands for what is not shown, as in net/url.
const hidden = "xxxxx"

// URLs returns a list of URLs or addresses, separated by commas, with the scheme, the host and the port of each.
func URLs(list string) string {
	pieces := strings.Split(list, ",")
	last := len(pieces) - 1 // the last piece with credentials
	for last >= 0 && !strings.Contains(pieces[last], "@") {
		last--
	}
	for i, piece := range pieces {
		pieces[i] = one(strings.TrimSpace(piece), i < last)
	}
	return strings.Join(pieces, ",")
}

// one redacts a piece of a list. If credentials follow, a piece that is not an address may be part of them: a password
// with a comma in it.
func one(piece string, follow bool) string {
	scheme, rest, ok := strings.Cut(piece, "://")
	if ok {
		scheme += "://"
	} else {
		scheme, rest = "", piece
	}
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		rest = hidden + rest[at:]
	} else if _, err := url.Parse("nats://" + rest); err != nil && follow {
		return scheme + hidden
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 && rest[i:] != "/" {
		rest = rest[:i+1] + hidden
	}
	return scheme + rest
}

// credentials is the beginning of a URL, up to its last @.
var credentials = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^\s"]*@`)

// Text returns a text without the credentials of the URLs in it. What it takes for a URL begins with a scheme.
func Text(s string) string {
	if !strings.Contains(s, "://") {
		return s
	}
	return credentials.ReplaceAllString(s, "${1}"+hidden+"@")
}

// Error returns an error whose text is redacted, if there is anything to hide in it, or err itself.
func Error(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	redacted := Text(text)
	if redacted == text {
		return err
	}
	return &redactedError{text: redacted, err: err}
}

// redactedError is an error whose text had credentials. It is what err is for errors.Is, and has no Unwrap: whoever
// prints the errors of a chain one by one must not get at the text either.
type redactedError struct {
	text string
	err  error
}

func (e *redactedError) Error() string { return e.text }

// Is reports whether the error that was redacted is target.
func (e *redactedError) Is(target error) bool { return errors.Is(e.err, target) }
