package kvstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// within runs f, which is to end before so much of the bubble's time has passed.
func (l *lab) within(d time.Duration, what string, f func(ctx context.Context) error) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.ctx, d)
	defer cancel()
	if err := f(ctx); err != nil {
		l.t.Errorf("%s: %v", what, err)
	}
}

// Whoever may write a key can put the header of a batch on a record. It holds up
// nobody: not a Sync, not a read, not a Store that is opened, not for a CheckInterval,
// however often it is done.
func TestForgedBatch(t *testing.T) {
	headers := []string{"1/1000", "2/1000", "1000/1000", "1/2", "2/2"}
	inBubble(t, func(b bubble) {
		for _, header := range headers {
			b.lab(header, func(l *lab) {
				s, _ := l.open(Options{CheckInterval: time.Minute})
				raw := l.dialRaw()
				defer raw.close()
				for i := range 50 {
					raw.publish("$KV."+labNamespace+".forged", "NATS/1.0\r\nKV-Batch: "+header+"\r\n\r\n", strconv.Itoa(i))
					if i%3 == 1 {
						l.foreign("k"+strconv.Itoa(i), "v")
					}
					l.within(30*time.Second, "Sync", s.Sync)
					l.want(s, "forged", strconv.Itoa(i))
				}
				l.want(s, "k49", "v")
				if st := s.Status(); st.State != Live || st.Lag() != 0 {
					l.t.Errorf("the state is %v: %s, with a lag of %d", st.State, st.Reason, st.Lag())
				}
				// The last of a batch, the first ones of which may have been replaced, proves nothing.
				if header[0] == '1' && header != "1000/1000" && s.Stats().Damaged == 0 {
					l.t.Error("nothing is counted as damaged")
				}
				opened, _ := l.open(Options{CheckInterval: time.Minute})
				l.want(opened, "forged", "49")
				l.want(opened, "k49", "v")
				uncached, _ := l.open(Options{CheckInterval: time.Minute, CacheBytes: -1})
				l.want(uncached, "forged", "49")
				revision := l.put(s, "own", "1")
				l.within(30*time.Second, "AtLeast", func(ctx context.Context) error {
					_, err := opened.Get(ctx, "own", AtLeast(revision))
					return err
				})
				l.within(30*time.Second, "IfAbsent", func(ctx context.Context) error {
					if _, err := s.Put(ctx, "forged", nil, IfAbsent()); !errors.Is(err, ErrConflict) {
						return fmt.Errorf("IfAbsent: %w", err)
					}
					return nil
				})
			})
		}
	})
}

// Parts of a batch that have expired while a replica was away do not hold up the
// others.
func TestBatchWithExpiredPart(t *testing.T) {
	inBubble(t, func(b bubble) {
		for name, ops := range map[string][]Op{
			"the last":  {OpPut("a", []byte("1")), OpPut("b", []byte("1")), OpPut("c", []byte("1"), WithTTL(2*time.Second))},
			"the first": {OpPut("a", []byte("1"), WithTTL(2*time.Second)), OpPut("b", []byte("1")), OpPut("c", []byte("1"))},
			"all but one": {
				OpPut("a", []byte("1"), WithTTL(2*time.Second)), OpPut("b", []byte("1")), OpPut("c", []byte("1"), WithTTL(2*time.Second)),
			},
		} {
			b.lab(name, func(l *lab) {
				near, _ := l.open(Options{CheckInterval: time.Minute})
				far, w := l.open(Options{CheckInterval: time.Minute})
				l.put(near, "before", "1")
				l.must(far.Sync(l.ctx))
				w.setDown(true)
				l.batch(near, ops...)
				time.Sleep(time.Minute)
				w.setDown(false)
				l.within(30*time.Second, "Sync", far.Sync)
				l.want(far, "b", "1")
				if st := far.Status(); st.State != Live || st.Lag() != 0 {
					l.t.Errorf("the state is %v: %s, with a lag of %d", st.State, st.Reason, st.Lag())
				}
			})
		}
	})
}

// The age limit of a bucket may be changed while a Store is open: what the Store has
// derived from it is derived again.
func TestAgeLimitChanges(t *testing.T) {
	inBubble(t, func(b bubble) {
		for name, age := range map[string]time.Duration{"raised": time.Hour, "removed": 0} {
			b.lab(name, func(l *lab) {
				kv := l.bucket(jetstream.KeyValueConfig{TTL: 10 * time.Second})
				revision, err := kv.Create(l.ctx, "lock", []byte("holder"))
				l.must(err)
				s, _ := l.open(Options{})
				heard := l.listen(s, "", ChangesOnly())
				cfg := l.stream().CachedInfo().Config
				cfg.MaxAge = age
				_, err = l.js.UpdateStream(l.ctx, cfg)
				l.must(err)
				time.Sleep(5 * time.Second)
				l.wantHeard(heard)
				if e := l.want(s, "lock", "holder"); age == 0 && !e.Expires().IsZero() {
					l.t.Errorf("it expires at %v", e.Expires())
				}
				time.Sleep(10 * time.Second)
				l.want(s, "lock", "holder")
				l.wantHeard(heard)
				if _, err := s.Put(l.ctx, "lock", []byte("thief"), IfAbsent()); !errors.Is(err, ErrConflict) {
					l.t.Errorf("IfAbsent: %v", err)
				}
				l.want(s, "lock", "holder")
				_, err = s.Put(l.ctx, "lock", []byte("new"), IfRevision(Revision(revision)))
				l.must(err)
			})
		}
	})
}

// Before the Store has noticed that the age limit of its bucket was changed, a
// condition is decided by the log all the same.
func TestAgeLimitChangesUnnoticed(t *testing.T) {
	inLab(t, func(l *lab) {
		kv := l.bucket(jetstream.KeyValueConfig{TTL: 10 * time.Second})
		_, err := kv.Create(l.ctx, "lock", []byte("holder"))
		l.must(err)
		s, _ := l.open(Options{CheckInterval: time.Hour})
		cfg := l.stream().CachedInfo().Config
		cfg.MaxAge = 0
		_, err = l.js.UpdateStream(l.ctx, cfg)
		l.must(err)
		time.Sleep(15 * time.Second)
		if _, err := s.Put(l.ctx, "lock", []byte("thief"), IfAbsent()); !errors.Is(err, ErrConflict) {
			t.Errorf("IfAbsent: %v", err)
		}
	})
}

// A mirror may answer for its origin, also after that was deleted and made again.
func TestMirrorOfTheDeletedStream(t *testing.T) {
	inLab(t, func(l *lab) {
		l.bucket(jetstream.KeyValueConfig{})
		cfg := l.stream().CachedInfo().Config
		cfg.AllowDirect = true
		_, err := l.js.UpdateStream(l.ctx, cfg)
		l.must(err)
		mirror := jetstream.StreamConfig{
			Name: "mirror", Mirror: &jetstream.StreamSource{Name: cfg.Name}, MirrorDirect: true, AllowDirect: true, Storage: jetstream.MemoryStorage,
		}
		_, err = l.js.CreateStream(l.ctx, mirror)
		l.must(err)
		const keys = 20
		for i := range keys {
			l.foreign("k"+strconv.Itoa(i), "old")
		}
		time.Sleep(time.Minute)
		l.recreate(cfg)
		for i := range keys {
			l.foreign("k"+strconv.Itoa(i), "new")
		}
		s, _ := l.open(Options{CacheBytes: -1})
		for range 10 {
			for i := range keys {
				l.want(s, "k"+strconv.Itoa(i), "new")
			}
		}
		for event, err := range s.Watch(l.ctx, "") {
			l.must(err)
			if event.Entry.Text() != "new" {
				t.Errorf("Watch tells %q of %s", event.Entry.Text(), event.Entry.Key())
			}
			if event.Entry.Key() == "k9" {
				break
			}
		}
	})
}

// The server stores blocks of headers that are malformed, and obeys some of them. A
// record with such a block is a damaged one, and no reason to read the log again when
// the server removes it.
func TestMalformedHeaders(t *testing.T) {
	inBubble(t, func(b bubble) {
		for name, header := range map[string]string{
			"TTL":      "NATS/1.0\r\nNats-TTL: 5s\r\nno colon\r\n\r\n",
			"deletion": "NATS/1.0\r\nKV-Operation: DEL\r\nno colon\r\n\r\n",
			"damaged":  "NATS/1.0\r\nKV-Metadata: {\r\nNats-TTL: 5s\r\n\r\n",
		} {
			b.lab(name, func(l *lab) {
				s, _ := l.open(Options{})
				l.put(s, "key", "value")
				l.put(s, "other", "value")
				raw := l.dialRaw()
				defer raw.close()
				raw.publish("$KV."+labNamespace+".key", header, "hostile")
				l.must(s.Sync(l.ctx))
				l.wantAbsent(s, "key")
				time.Sleep(2 * time.Minute)
				l.want(s, "other", "value")
				if st := s.Stats(); st.Resyncs != 1 || st.Damaged == 0 {
					l.t.Errorf("the log was read %d times, %d records are damaged", st.Resyncs, st.Damaged)
				}
				if st := s.Status(); st.State != Live {
					l.t.Errorf("the state is %v: %s", st.State, st.Reason)
				}
				l.put(s, "key", "again")
				l.want(s, "key", "again")
			})
		}
	})
}

// A few keys that are written all the time are no reason to read the whole log again
// after each lost connection.
func TestHotKeysAndCuts(t *testing.T) {
	inLab(t, func(l *lab) {
		near, _ := l.open(Options{})
		const cold, hot = 3000, 300
		for i := range cold {
			l.foreign("cold"+strconv.Itoa(i), "v")
		}
		far, w := l.open(Options{})
		for round := range 4 {
			w.setDown(true)
			l.put(near, "cold"+strconv.Itoa(round), "changed")
			for i := range hot {
				l.put(near, "hot"+strconv.Itoa(i), strconv.Itoa(round))
			}
			time.Sleep(time.Second)
			w.setDown(false)
			l.must(far.Sync(l.ctx))
			l.want(far, "hot7", strconv.Itoa(round))
			l.want(far, "cold"+strconv.Itoa(round), "changed")
		}
		if n := far.Stats().Resyncs; n != 1 {
			t.Errorf("the log was read %d times", n)
		}
		l.agree(far)
	})
}
