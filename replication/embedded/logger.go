package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/nearkv/nearkv/replication/redact"
)

// expectedWarning begins the server's remark on every MaxPayload above 8 MiB. Ours is meant to be.
const expectedWarning = "Maximum payloads over"

// brokenError is in what the server says when it gives up a stream. There is no other sign without asking for each one.
const brokenError = "ritical write error"

// serverLog is the server's logger. It passes on what the server says, and keeps the first fatal error: to the server
// that is the end of the process, to us it is the only sign of some failed starts.
type serverLog struct {
	log   *slog.Logger
	fatal atomic.Pointer[StartError]

	// broken: a stream could not be written. It takes no more writes, also when it could, and does not answer them.
	broken atomic.Bool
}

var _ server.Logger = (*serverLog)(nil)

// Noticef is Debug: an application that embeds a store does not want to read about it.
func (l *serverLog) Noticef(format string, v ...any) { l.printf(slog.LevelDebug, format, v...) }

func (l *serverLog) Warnf(format string, v ...any) {
	if strings.HasPrefix(format, expectedWarning) {
		l.printf(slog.LevelDebug, format, v...)
		return
	}
	l.printf(slog.LevelWarn, format, v...)
}

func (l *serverLog) Errorf(format string, v ...any) {
	if strings.Contains(format, brokenError) {
		l.broken.Store(true)
	}
	l.printf(slog.LevelError, format, v...)
}

// Fatalf must return: the server's own logger exits the process here.
func (l *serverLog) Fatalf(format string, v ...any) {
	l.fatal.CompareAndSwap(nil, &StartError{Reason: text(format, v...), Err: firstError(v)})
	l.printf(slog.LevelError, format, v...)
}

// Debugf and Tracef are never called: both are switched off in newServer.
func (l *serverLog) Debugf(string, ...any) {}

// Tracef says nothing, see Debugf.
func (l *serverLog) Tracef(string, ...any) {}

func (l *serverLog) printf(level slog.Level, format string, v ...any) {
	ctx := context.Background()
	if l.log.Enabled(ctx, level) {
		l.log.Log(ctx, level, text(format, v...))
	}
}

// text is one line of the server, which indents some of its lines. Routes are URLs with the voters' secret.
func text(format string, v ...any) string {
	return redact.Text(strings.TrimSpace(fmt.Sprintf(format, v...)))
}

func firstError(v []any) error {
	for _, arg := range v {
		if err, ok := arg.(error); ok {
			return err
		}
	}
	return nil
}
