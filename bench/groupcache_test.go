//go:build peers

package bench

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/golang/groupcache"
)

func init() { readers = append(readers, reader{"groupcache", openGroupcache}) }

var (
	groups      atomic.Int64 // a group cannot be closed, and its name be used again
	errNoSource = errors.New("no such key")
)

// openGroupcache returns a reader of a groupcache group that has no peers, with
// everything in its memory. It learns of no change: only its hits compare.
func openGroupcache(b *testing.B, _ server, d dataset) (getFunc, func()) {
	b.Helper()
	source := make(map[string]string, len(d.keys))
	for _, key := range d.keys {
		source[strings.Clone(key)] = strings.Clone(d.value)
	}
	name := strings.Repeat("g", int(groups.Add(1)))
	group := groupcache.NewGroup(name, 1<<30, groupcache.GetterFunc(
		func(_ context.Context, key string, dest groupcache.Sink) error {
			value, found := source[key]
			if !found {
				return errNoSource
			}
			return dest.SetString(value)
		}))
	get := func(key string) (string, bool) {
		var value string
		err := group.Get(context.Background(), key, groupcache.StringSink(&value))
		return value, err == nil
	}
	for _, key := range d.keys {
		get(key)
	}
	return get, func() {}
}
