package kvstore_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/nearkv/nearkv/kvstore"
)

// glance looks at every key of every replica, which may be behind: what it
// holds was written once, has not expired, and is not older than what it held.
func (w *world) glance() {
	for _, r := range w.replicas {
		for _, key := range w.keys {
			if r.store != nil {
				w.glanceAt(r, key)
			}
		}
	}
}

func (w *world) glanceAt(r *replica, key string) {
	now := time.Now()
	e, err := r.store.Get(w.ctx, key)
	if errors.Is(err, kvstore.ErrNotFound) {
		return // it may be deleted
	}
	if err != nil {
		w.fail("%s.Get(%q): %v", r.name, key, err)
	}
	p := w.history[e.Revision()]
	if p == nil || p.key != key || !p.visible(now) {
		w.fail("%s.Get(%q) has revision %d, which is %v", r.name, key, e.Revision(), p)
	}
	w.checkEntry(r, e, p)
	if e.Revision() < r.seen[key] {
		w.fail("%s.Get(%q) has revision %d after %d", r.name, key, e.Revision(), r.seen[key])
	}
	r.seen[key] = e.Revision()
}

// compare compares a replica that has applied all with the model.
func (w *world) compare(r *replica) {
	for _, key := range w.keys {
		w.checkGet(r, key)
	}
	w.checkGetAll(r)
	w.checkInfos(r, "", keysOf(w.rt, r.store, ""))
}

// checkGet compares one key of a replica that must know its last write.
func (w *world) checkGet(r *replica, key string) {
	p := w.now[key]
	before := time.Now()
	e, err := r.store.Get(w.ctx, key)
	visible := p.visible(before)
	if visible != p.visible(time.Now()) {
		return // expired meanwhile
	}
	switch {
	case !visible && !errors.Is(err, kvstore.ErrNotFound):
		w.fail("%s.Get(%q) = %v, %v; was deleted or has expired: %v", r.name, key, e.Revision(), err, p)
	case visible && err != nil:
		w.fail("%s.Get(%q): %v; is %v", r.name, key, err, p)
	case visible:
		w.checkEntry(r, e, p)
		r.seen[key] = e.Revision()
	}
}

func (w *world) checkGetAll(r *replica) {
	before := w.visible(time.Now())
	entries, err := r.store.GetAll(w.ctx, append([]string{"absent"}, w.keys...))
	if err != nil {
		w.fail("%s.GetAll: %v", r.name, err)
	}
	if !maps.Equal(before, w.visible(time.Now())) {
		return // expired meanwhile
	}
	if len(entries) != len(before) {
		w.fail("%s.GetAll has %d entries, not %d", r.name, len(entries), len(before))
	}
	for key, p := range before {
		w.checkEntry(r, entries[key], p)
	}
}

func (w *world) checkEntry(r *replica, e kvstore.Entry, p *put) {
	switch {
	case e.Key() != p.key || e.Revision() != p.revision:
		w.fail("%s has %q at %d, not %v", r.name, e.Key(), e.Revision(), p)
	case e.Text() != p.value || e.Len() != len(p.value):
		w.fail("%s has another value for %v: %d bytes, %.40q, not %.40q", r.name, p, e.Len(), e.Text(), p.value)
	case string(e.Metadata()) != p.metadata:
		w.fail("%s has metadata %s for %v", r.name, e.Metadata(), p)
	case !e.Expires().Equal(p.expires):
		w.fail("%s has expiry %v for %v", r.name, e.Expires(), p)
	case e.Modified().Before(p.from) || e.Modified().After(p.to):
		w.fail("%s has %v, not %v to %v, as the time of %v", r.name, e.Modified(), p.from, p.to, p)
	}
}

// checkHealth: nothing of all that is a reason to doubt the log.
func (w *world) checkHealth(r *replica) {
	stats, status := r.store.Stats(), r.store.Status()
	if status.State != kvstore.Live || stats.Resyncs != 1 || stats.Damaged != 0 || stats.Foreign != 0 || status.Lag() != 0 {
		w.fail("%s is not well: %+v, %+v", r.name, status, stats)
	}
	if want := len(w.visible(time.Now())); stats.Keys != want {
		w.fail("%s counts %d keys, not %d", r.name, stats.Keys, want)
	}
	if limit := max(r.options.CacheBytes, 0); stats.CacheBytes > limit+limit/10 {
		w.fail("%s holds %d bytes, the limit is %d", r.name, stats.CacheBytes, limit)
	}
}

// list walks pages of random length, and looks now and then away.
func (w *world) list(rt *rapid.T) {
	r := w.drawReplica(rt)
	w.catchUp(r)
	prefix := rapid.SampledFrom(prefixes).Draw(rt, "prefix")
	var infos []kvstore.KeyInfo
	cursor := ""
	for {
		limit := rapid.SampledFrom([]int{1, 2, 3, 5, 0, 1000}).Draw(rt, "limit")
		page, err := r.store.List(kvstore.ListOptions{Prefix: prefix, Limit: limit, Cursor: cursor})
		rt.Logf("%v: %s.List(%.20q, limit %d, after %.20q): %d keys, %v", w.clock(), r.name, prefix, limit, cursor, len(page.Keys), err)
		switch {
		case err != nil:
			w.fail("list: %v", err)
		case len(page.Keys) == 0 && !page.Complete:
			w.fail("an empty page before the end")
		case page.Complete != (page.Cursor == ""):
			w.fail("complete is %v, cursor %q", page.Complete, page.Cursor)
		case limit > 0 && len(page.Keys) > limit:
			w.fail("%d keys", len(page.Keys))
		}
		infos = append(infos, page.Keys...)
		if page.Complete {
			break
		}
		cursor = page.Cursor
	}
	w.checkInfos(r, prefix, infos)
}

func (w *world) listKeys(rt *rapid.T) {
	r := w.drawReplica(rt)
	w.catchUp(r)
	prefix := rapid.SampledFrom(prefixes).Draw(rt, "prefix")
	rt.Logf("%v: %s.Keys(%.20q)", w.clock(), r.name, prefix)
	w.checkInfos(r, prefix, keysOf(w.rt, r.store, prefix))
}

// checkInfos compares a list of all keys with a prefix.
func (w *world) checkInfos(r *replica, prefix string, infos []kvstore.KeyInfo) {
	var want []string
	for key := range w.visible(time.Now()) {
		if strings.HasPrefix(key, prefix) {
			want = append(want, key)
		}
	}
	slices.Sort(want)
	var got []string
	for _, info := range infos {
		got = append(got, info.Name)
	}
	if !slices.Equal(got, want) {
		w.fail("%s lists %q, not %q", r.name, got, want)
	}
	for _, info := range infos {
		p := w.now[info.Name]
		if info.Revision != p.revision || info.Size != len(p.value) || string(info.Metadata) != p.metadata || !info.Expires.Equal(p.expires) {
			w.fail("%s lists %+v, not %v", r.name, info, p)
		}
	}
}

// checkFolds: what the watchers of a replica were told adds up to what is there.
func (w *world) checkFolds(r *replica) {
	for _, f := range r.folds {
		f.hurry.Store(true)
	}
	time.Sleep(slowness) // the slow ones wake up
	synctest.Wait()
	w.rest()
	visible := w.visible(time.Now())
	for _, f := range r.folds {
		f.check(w, visible)
	}
}
