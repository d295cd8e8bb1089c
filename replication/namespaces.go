package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
)

// Namespaces returns the names of the key-value buckets of a server, in order. It
// waits for the server until ctx ends; then the error is ErrUnavailable. What does
// not pass by itself (Lasting) is an error at once. Of cfg it needs the APIPrefix and
// the Logger.
func Namespaces(ctx context.Context, nc *nats.Conn, cfg Config) ([]string, error) {
	requests := newRequester(nc)
	l := &Log{nc: nc, cfg: cfg.withDefaults(), requests: requests, watchers: make(map[watcher]bool), warned: make(map[string]struct{})}
	l.to = l.cfg.APIPrefix // all of it is ours to warn of
	l.objects = newObjects(l)
	l.link = newLink(nc, requests.interrupt)
	listenForViolations(l)
	defer l.Close()
	if err := requests.open(); err != nil {
		return nil, fmt.Errorf("replication: list of namespaces: %w", err)
	}
	vigil := l.newVigil(ctx)
	for {
		names, err := l.namespaces(ctx)
		if err == nil {
			return names, nil
		}
		if Lasting(err) {
			return nil, fmt.Errorf("replication: list of namespaces: %w", err)
		}
		if err := vigil.wait(err); err != nil {
			return nil, fmt.Errorf("replication: list of namespaces: %w", err)
		}
	}
}

// namespaces asks once. A cluster without a leader does not answer.
func (l *Log) namespaces(ctx context.Context) (names []string, err error) {
	for offset := 0; ; {
		request, err := json.Marshal(map[string]int{"offset": offset})
		if err != nil {
			return nil, err
		}
		m, err := l.requests.do(ctx, l.api("STREAM.NAMES"), nil, request)
		if err != nil {
			return nil, unanswered(err)
		}
		var page struct {
			apiReply
			Total   int      `json:"total"`
			Streams []string `json:"streams"`
		}
		if err := json.Unmarshal(m.Data, &page); err != nil {
			return nil, fmt.Errorf("replication: %w: %w", ErrUnavailable, err)
		}
		if page.Error != nil {
			return nil, apiError(page.Error, "streams")
		}
		for _, stream := range page.Streams {
			if name, ok := strings.CutPrefix(stream, streamPrefix); ok && CheckNamespace(name) == nil {
				names = append(names, name)
			}
		}
		offset += len(page.Streams)
		if len(page.Streams) == 0 || offset >= page.Total {
			slices.Sort(names)
			return slices.Compact(names), nil
		}
	}
}

// vigil is for what waits until JetStream answers, and says what it may be that it
// does not.
type vigil struct {
	log   *Log
	ctx   context.Context
	retry *Backoff
	tries int
}

func (l *Log) newVigil(ctx context.Context) *vigil {
	return &vigil{log: l, ctx: ctx, retry: NewBackoff()}
}

// warnAfter is after how many tries a warning is due. They take about a second.
const warnAfter = 5

// errNoJetStream explains that a server says that there is nobody to answer.
var errNoJetStream = errors.New("no JetStream answers here: if it is in another domain or account, set Options.Domain or Options.APIPrefix")

// wait waits before the next try. It returns an error when ctx ends.
func (v *vigil) wait(cause error) error {
	v.tries++
	if errors.Is(cause, nats.ErrNoResponders) {
		cause = fmt.Errorf("%w: %w", errNoJetStream, cause)
	}
	if v.tries == warnAfter {
		v.log.cfg.Logger.Warn("nearkv: waiting for JetStream", "stream", v.log.stream, "error", cause)
	}
	if ended := v.retry.Wait(v.ctx, nil); ended != nil {
		return fmt.Errorf("%w: %w: %w", ErrUnavailable, cause, ended)
	}
	return nil
}
