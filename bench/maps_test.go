package bench

import (
	"strings"
	"sync"
	"testing"
)

// openSyncMap returns a reader of a sync.Map.
func openSyncMap(_ *testing.B, keys []string) getFunc {
	var m sync.Map
	for _, key := range keys {
		m.Store(key, strings.Clone(value))
	}
	return func(key string) (string, bool) {
		v, ok := m.Load(key)
		if !ok {
			return "", false
		}
		return v.(string), true
	}
}

// openRWMutex returns a reader of a map under a sync.RWMutex.
func openRWMutex(_ *testing.B, keys []string) getFunc {
	var mu sync.RWMutex
	m := make(map[string]string, len(keys))
	for _, key := range keys {
		m[key] = strings.Clone(value)
	}
	return func(key string) (string, bool) {
		mu.RLock()
		defer mu.RUnlock()
		v, ok := m[key]
		return v, ok
	}
}
