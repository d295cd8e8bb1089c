package kvstore

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/nearkv/nearkv/codec"
)

// TestRecordKey: a key of any length is with its record, and stays what it was.
func TestRecordKey(t *testing.T) {
	var records []*record
	for n := range codec.MaxKeyLen + 1 {
		records = append(records, allocate(strings.Repeat(string(rune('a'+n%26)), n)))
	}
	for n, r := range records {
		if want := strings.Repeat(string(rune('a'+n%26)), n); r.key() != want || r.size != 0 || r.revision != 0 || r.rare != nil {
			t.Fatalf("%d bytes are %q", n, r.key())
		}
	}
}

// TestKeyMap drives a map beside Go's, through growth and with few keys, which
// are removed and come again.
func TestKeyMap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m, want := newKeyMap(), make(map[string]*record)
		most := rapid.SampledFrom([]int{5, 50, 2000}).Draw(rt, "keys")
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		for range rapid.IntRange(0, 5000).Draw(rt, "steps") {
			key := fmt.Sprint("key", random.IntN(most))
			switch random.IntN(10) {
			case 0, 1:
				m.remove(key)
				delete(want, key)
			default:
				r := allocate(key)
				m.set(r)
				want[key] = r
			}
			if m.find(key) != want[key] {
				rt.Fatalf("%q is %p, not %p", key, m.find(key), want[key])
			}
		}
		got := make(map[string]*record)
		for r := range m.all() {
			if got[r.key()] != nil {
				rt.Fatalf("%q is there twice", r.key())
			}
			got[r.key()] = r
		}
		if !maps.Equal(got, want) || m.size != len(want) {
			rt.Fatalf("%d keys of %d, counted %d", len(got), len(want), m.size)
		}
	})
}

// TestKeyMapReaders: readers beside one who changes never miss a key that stays,
// never see one go backwards, and never get another.
func TestKeyMapReaders(t *testing.T) {
	const staying, passing = 200, 20_000
	m := newKeyMap()
	name := func(i int) string { return fmt.Sprint("staying", i) }
	for i := range staying {
		m.set(allocate(name(i)))
	}
	var done atomic.Bool
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			var seen [staying]uint64
			for n := 0; !done.Load() || n < staying; n++ {
				i := n % staying
				r := m.find(name(i))
				if r == nil || r.key() != name(i) || r.revision < seen[i] {
					t.Errorf("%s is %v after %d", name(i), r, seen[i])
					return
				}
				seen[i] = r.revision
				if r := m.find(fmt.Sprint("passing", n%passing)); r != nil && r.key() != fmt.Sprint("passing", n%passing) {
					t.Errorf("another key: %q", r.key())
					return
				}
			}
		})
	}
	for i := range passing {
		r := allocate(name(i % staying))
		r.revision = uint64(i)
		m.set(r)
		m.set(allocate(fmt.Sprint("passing", i)))
		if i%3 == 0 {
			m.remove(fmt.Sprint("passing", i/2))
		}
	}
	done.Store(true)
	readers.Wait()
}

// TestMatches compares the search for a tag in a word with a loop.
func TestMatches(t *testing.T) {
	for range 100_000 {
		tags, tag := rand.Uint64()&0x0000_ffff_ffff_ffff, rand.Uint64()&0xff
		if rand.IntN(2) == 0 {
			tag = tags >> (8 * rand.IntN(bucketSlots)) & 0xff
		}
		want := uint64(0)
		for i := range bucketSlots {
			if tags>>(8*i)&0xff == tag {
				want |= 0x80 << (8 * i)
			}
		}
		if got := matches(tags, tag); got != want {
			t.Fatalf("%x in %x: %x, not %x", tag, tags, got, want)
		}
	}
}
