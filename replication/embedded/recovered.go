package embedded

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/nats-io/nats-server/v2/server"
)

// compareRecovered finds the streams of the report that the server does not have, or not all of. What has expired
// since the report was made is not missed.
func (s *Server) compareRecovered(r *Report) ([]Damage, error) {
	info, err := s.nats.Jsz(&server.JSzOptions{Accounts: true, Streams: true, Limit: 1 << 20})
	if err != nil {
		return nil, failed("look what was recovered", err)
	}
	have := make(map[string]server.StreamState)
	for _, account := range info.AccountDetails {
		for _, stream := range account.Streams {
			have[filepath.Join(account.Name, "streams", stream.Name)] = stream.State
		}
	}
	var missing []Damage
	for _, stream := range r.Streams {
		name, err := filepath.Rel(filepath.Join(s.home.store, "jetstream"), stream.path)
		if err != nil {
			return nil, failed("look what was recovered", err)
		}
		state, ok := have[name]
		switch {
		case stream.empty:
		case !ok:
			missing = append(missing, Damage{stream.path, -1, "the server did not recover this stream; its log says why"})
		case state.LastSeq < stream.Last || state.Msgs < stream.least:
			missing = append(missing, Damage{stream.path, -1, fmt.Sprintf("the server recovered %d messages up to sequence %d, and there are at least %d up to %d",
				state.Msgs, state.LastSeq, stream.least, stream.Last)})
		}
	}
	return missing, nil
}

// finishCreations lets the server create again what it was killed in the middle of creating: it would take a
// description without a checksum for its own, and miss the checksum at the next start.
func (r *Report) finishCreations() error {
	for _, stream := range r.Streams {
		if !stream.empty {
			continue
		}
		inf := filepath.Join(stream.path, "meta.inf")
		if _, err := os.Lstat(inf); err != nil {
			continue
		}
		if err := os.Rename(inf, inf+".unfinished"); err != nil {
			return failed("finish the creation of "+stream.Name, err)
		}
	}
	return nil
}

// dropWheels has the server find out anew when messages expire, where what it has noted may lack some. It reads the
// headers of the messages for that.
func (r *Report) dropWheels() error {
	for _, stream := range r.Streams {
		if stream.wheel == "" {
			continue
		}
		if err := os.Remove(stream.wheel); err != nil {
			return failed("have the expiries of "+stream.Name+" read anew", err)
		}
	}
	return nil
}
