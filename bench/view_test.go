package bench

import (
	"context"
	"testing"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
)

// session is a value as services have it: 100 bytes of MessagePack, nearly.
type session struct {
	User    string
	Agent   string
	Scopes  []string
	Begin   int64
	Renewed int64
}

var exampleSession = session{
	User: "u-0001f4a3c2", Agent: "Mozilla/5.0 (X11)", Scopes: []string{"read", "write"}, Begin: 1_700_000_000, Renewed: 1_700_003_600,
}

// BenchmarkView reads values as structs: by a View, and by decoding what Get
// returns; get does not decode it.
func BenchmarkView(b *testing.B) {
	msgpack := codec.MsgPack[session]()
	encoded, err := msgpack.Append(nil, exampleSession)
	if err != nil {
		b.Fatal(err)
	}
	server, d := startServer(b, ""), dataset{keysOf(100_000), string(encoded)}
	makeNamespace(b, server, d)
	store := openStore(b, server)
	view, ctx := kvstore.NewView(store, msgpack), context.Background()
	for _, key := range d.keys { // what is measured is not the first read
		if s, err := view.Get(ctx, key); err != nil || s.User != exampleSession.User {
			b.Fatalf("%s is %+v, %v", key, s, err)
		}
	}
	for _, q := range []request{{"zipf", drawZipf(d.keys), true}, {"hot", drawUniform(d.keys[:1]), true}} {
		for _, peer := range []struct {
			name string
			get  getFunc
		}{
			{"view", func(key string) (string, bool) {
				s, err := view.Get(ctx, key)
				return s.User, err == nil
			}},
			{"get", func(key string) (string, bool) {
				entry, err := store.Get(ctx, key)
				return entry.Text(), err == nil
			}},
			{"decode", func(key string) (string, bool) {
				entry, err := store.Get(ctx, key)
				if err != nil {
					return "", false
				}
				s, err := msgpack.Decode(entry.Value())
				return s.User, err == nil
			}},
		} {
			run(b, peer.name, func(b *testing.B) { benchmarkGet(b, peer.get, q) }, "case=%s", q.name)
		}
	}
}
