package bench

import (
	"runtime"
	"strings"
	"sync"
	"testing"
)

// openSyncMap returns a reader of a sync.Map.
func openSyncMap(_ *testing.B, _ server, d dataset) (getFunc, func()) {
	var m sync.Map
	for _, key := range d.keys {
		m.Store(strings.Clone(key), strings.Clone(d.value))
	}
	return func(key string) (string, bool) {
		v, ok := m.Load(key)
		if !ok {
			return "", false
		}
		return v.(string), true
	}, func() {}
}

// openRWMutex returns a reader of a map under a sync.RWMutex.
func openRWMutex(_ *testing.B, _ server, d dataset) (getFunc, func()) {
	var mu sync.RWMutex
	m := make(map[string]string, len(d.keys))
	for _, key := range d.keys {
		m[strings.Clone(key)] = strings.Clone(d.value)
	}
	return func(key string) (string, bool) {
		mu.RLock()
		defer mu.RUnlock()
		v, ok := m[key]
		return v, ok
	}, func() {}
}

// openMap returns a reader of a plain map, which nobody may write to any more.
// It has grown to its size, as maps do.
func openMap(_ *testing.B, _ server, d dataset) (getFunc, func()) {
	m := make(map[string][]byte)
	for _, key := range d.keys {
		m[strings.Clone(key)] = []byte(d.value)
	}
	return func(key string) (string, bool) {
		v, ok := m[key]
		return string(v), ok
	}, func() { runtime.KeepAlive(m) }
}
