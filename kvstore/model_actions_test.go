package kvstore_test

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/nearkv/nearkv/kvstore"
)

// nasty are keys that something could mistake for something else.
var nasty = []string{
	"a", "ab", "abc", "a.", "a.b", ".a", "a..b", "...", "a/..", ":", "::", "a:", "a:b", "a:b:c", "=2E", "a=3A.b",
	"*", ">", "a.*", "a.>", "$KV.model.a", "\x00", "a\x00", "\r\n\t ", "%2F", "/", "user:1", "user:12", "user:2",
	"\u00e9", "e\u0301", "\U0001f642", "\u2028", "\ufffd", strings.Repeat("k", 512), strings.Repeat(":", 512),
	strings.Repeat("\u20ac", 170),
}

var prefixes = []string{"", "", "a", "a.", "a:", ".", ":", "user:", "user:1", "=", "\x00", "\u00e9", "k", "$KV", "absent", strings.Repeat("k", 512)}

func drawKeys(rt *rapid.T) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(nasty), 4, 14, rapid.ID).Draw(rt, "keys")
}

func drawCacheBytes(rt *rapid.T) int64 {
	return rapid.SampledFrom([]int64{1 << 20, -1, 1, 100, 2 << 10, 8 << 10, 80 << 10}).Draw(rt, "cache bytes")
}

func (w *world) actions() map[string]func(*rapid.T) {
	actions := map[string]func(*rapid.T){
		"":        func(*rapid.T) {},
		"put":     w.put,
		"put2":    w.put, // twice as often
		"delete":  w.delete,
		"sleep":   w.sleep,
		"list":    w.list,
		"keys":    w.listKeys,
		"settle":  func(*rapid.T) { w.settle() },
		"watch":   func(rt *rapid.T) { w.watchPrefix(rt, w.drawReplica(rt)) },
		"restart": w.restart,
	}
	for name, action := range actions {
		if name != "" {
			actions[name] = func(rt *rapid.T) {
				action(rt)
				w.steps++
				w.glance()
			}
		}
	}
	return actions
}

// drawReplica draws one that is open; there is always one.
func (w *world) drawReplica(rt *rapid.T) *replica {
	var open []*replica
	w.eachOpen(func(r *replica) { open = append(open, r) })
	return open[rapid.IntRange(0, len(open)-1).Draw(rt, "replica")]
}

func (w *world) drawKey(rt *rapid.T) string { return rapid.SampledFrom(w.keys).Draw(rt, "key") }

// restart closes an open replica or opens a closed one. When none would be
// left open, it opens the one again after a while.
func (w *world) restart(rt *rapid.T) {
	r := w.replicas[rapid.IntRange(0, len(w.replicas)-1).Draw(rt, "which")]
	if r.store == nil {
		w.open(r)
		return
	}
	w.close(r)
	for _, other := range w.replicas {
		if other.store != nil {
			return
		}
	}
	w.sleepSome(rt)
	w.open(r)
}

func (w *world) put(rt *rapid.T) {
	r, key := w.drawReplica(rt), w.drawKey(rt)
	size := rapid.OneOf(rapid.IntRange(0, 200), rapid.IntRange(0, 2000), rapid.IntRange(0, 64<<10)).Draw(rt, "size")
	w.writes++
	value := fill(w.writes, size)
	p := &put{key: key, value: string(value)}
	var opts []kvstore.WriteOption
	var text []string
	if rapid.IntRange(0, 2).Draw(rt, "with metadata") == 0 {
		p.metadata = fmt.Sprintf(`{"n":%d}`, w.writes)
		opts = append(opts, kvstore.WithMetadata(map[string]int{"n": w.writes}))
	}
	if opt, expires, s := drawExpiry(rt); opt != nil {
		p.expires, opts, text = expires, append(opts, opt), append(text, s)
	}
	opt, holds, expected, s := w.drawCondition(rt, key, true)
	if opt != nil {
		opts, text = append(opts, opt), append(text, s)
	}
	p.from = time.Now()
	revision, err := r.store.Put(w.ctx, key, value, opts...)
	p.to, p.revision = time.Now(), revision
	rt.Logf("%v: %s.Put(%.20q, %d bytes, %s) = %d, %v", w.clock(), r.name, key, size, strings.Join(text, " "), revision, err)
	for i := range value {
		value[i] = 'X' // it was the Store's only during the call
	}
	if !holds {
		w.checkConflict(err, key, expected)
		return
	}
	if err != nil {
		w.fail("put: %v", err)
	}
	if revision <= w.last {
		w.fail("revision %d after %d", revision, w.last)
	}
	w.now[key], w.history[revision] = p, p
	w.last, w.deleted, w.settled = revision, false, false
	w.checkGet(r, key)
}

// drawExpiry returns nil for none.
func drawExpiry(rt *rapid.T) (kvstore.WriteOption, time.Time, string) {
	kind := rapid.IntRange(0, 4).Draw(rt, "expiry")
	if kind < 2 {
		return nil, time.Time{}, ""
	}
	most := rapid.SampledFrom([]time.Duration{3 * time.Second, time.Minute, 5 * time.Hour}).Draw(rt, "at most")
	d := time.Duration(rapid.Int64Range(int64(time.Second), int64(most)).Draw(rt, "ttl"))
	expires := time.Now().Add(d)
	exact := expires.Truncate(time.Millisecond)
	if exact.Before(expires) {
		exact = exact.Add(time.Millisecond)
	}
	if kind == 2 {
		return kvstore.WithExpiry(expires), exact, fmt.Sprintf("expires in %v", d)
	}
	return kvstore.WithTTL(d), exact, fmt.Sprintf("TTL %v", d)
}

// drawCondition returns a condition, whether it holds and the revision that it
// names; nil for none.
func (w *world) drawCondition(rt *rapid.T, key string, canBeAbsent bool) (kvstore.WriteOption, bool, kvstore.Revision, string) {
	current := w.now[key]
	visible := current.visible(time.Now())
	expected := w.last + 1 // to come
	switch rapid.SampledFrom([]string{"none", "absent", "right", "any", "future"}).Draw(rt, "condition") {
	case "none":
		return nil, true, 0, ""
	case "absent":
		if canBeAbsent {
			return kvstore.IfAbsent(), !visible, 0, "IfAbsent"
		}
		return nil, true, 0, ""
	case "right":
		if current != nil { // of what expired, too
			expected = current.revision
		}
	case "any":
		if w.last != 0 {
			expected = kvstore.Revision(rapid.Uint64Range(1, uint64(w.last)).Draw(rt, "revision"))
		}
	}
	return kvstore.IfRevision(expected), visible && current.revision == expected, expected, fmt.Sprintf("IfRevision %d", expected)
}

func (w *world) checkConflict(err error, key string, expected kvstore.Revision) {
	conflict, ok := errors.AsType[*kvstore.ConflictError](err)
	if !ok || !errors.Is(err, kvstore.ErrConflict) {
		w.fail("not a conflict: %v", err)
	}
	if conflict.Key != key || conflict.Expected != expected {
		w.fail("conflict of %q over %d: %v", key, expected, err)
	}
	actual := kvstore.Revision(0)
	if p := w.now[key]; p.visible(time.Now()) {
		actual = p.revision
	}
	// A replica that is behind may know an older one that contradicts as well.
	old := w.history[conflict.Actual]
	if conflict.Actual != actual && (w.settled || (conflict.Actual != 0 && (old == nil || old.key != key))) {
		w.fail("revision is %d: %v", actual, err)
	}
}

func (w *world) delete(rt *rapid.T) {
	r, key := w.drawReplica(rt), w.drawKey(rt)
	opt, holds, expected, s := w.drawCondition(rt, key, false)
	var opts []kvstore.DeleteOption
	if c, ok := opt.(kvstore.Condition); ok {
		opts = append(opts, c)
	}
	before := time.Now()
	err := r.store.Delete(w.ctx, key, opts...)
	rt.Logf("%v: %s.Delete(%.20q, %s) = %v", w.clock(), r.name, key, s, err)
	if !holds {
		w.checkConflict(err, key, expected)
		return
	}
	if err != nil {
		w.fail("delete: %v", err)
	}
	if w.now[key].visible(before) { // what has expired stays so
		w.now[key] = nil
	}
	w.deleted, w.settled = true, false
	w.checkGet(r, key)
}

// sleep lets time pass: some, much, or exactly until a key expires.
func (w *world) sleep(rt *rapid.T) {
	p := w.now[w.drawKey(rt)]
	if !p.visible(time.Now()) || p.expires.IsZero() || rapid.Bool().Draw(rt, "some time") {
		w.sleepSome(rt)
		return
	}
	early := rapid.SampledFrom([]time.Duration{0, 1, time.Millisecond}).Draw(rt, "early")
	d := max(time.Until(p.expires)-early, 0)
	rt.Logf("%v: sleep %v", w.clock(), d)
	time.Sleep(d)
}

func (w *world) sleepSome(rt *rapid.T) {
	most := rapid.SampledFrom([]time.Duration{3 * time.Second, 5 * time.Minute, 3 * time.Hour}).Draw(rt, "at most")
	d := time.Duration(rapid.Int64Range(1, int64(most)).Draw(rt, "sleep"))
	rt.Logf("%v: sleep %v", w.clock(), d)
	time.Sleep(d)
}
