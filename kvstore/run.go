package kvstore

import (
	"errors"
	"slices"
	"time"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/replication"
)

const (
	ingestAfter  = 64      // writes in a row that could be part of a run
	maxIngest    = 4096    // writes of runs under way
	maxIngestLen = 4 << 10 // of the value of each
)

// run is a run of writes, all under way.
type run struct {
	ingest *replication.Ingest
	done   uint64 // writes of it that are in the log
	queue  []queued
	broken bool // what is in queue will not be answered
}

type queued struct {
	i      int
	before uint64 // revision of the key
	change *change
}

// roomInRun tells whether a run can take another write. The writes of one run
// come into the log one after the other.
func (b *bulk) roomInRun(c *change) bool {
	_, busy := b.flight[c.key]
	return !busy && b.queued() < maxIngest
}

func (b *bulk) queued() (n int) {
	for _, r := range b.runs {
		n += len(r.queue)
	}
	return n
}

// joins tells whether a write can be part of a run, with what would be written.
// One that has something to fear from what others write cannot.
func (b *bulk) joins(c *change) (known, codec.Record, bool) {
	k := b.store.index.lookUp(c.key)
	if c.body != nil || c.expires != 0 || k.object != "" {
		b.plain = 0
		return k, codec.Record{}, false
	}
	step, rec, expect := c.plan(k, time.Now().UnixMilli())
	if step != stepAppend || expect.Set || b.store.backend.disk.doubt.Load() || len(c.value) > maxIngestLen || !b.store.log.CanIngest() {
		b.plain = 0
		return k, rec, false
	}
	b.plain++
	return k, rec, b.plain > ingestAfter
}

// join sends a write as part of a run. If it returns false nothing was sent.
func (b *bulk) join(c *change, before uint64, rec codec.Record) bool {
	for range 2 { // a run may just have ended by itself
		if b.run == nil && !b.beginRun() {
			break
		}
		r := b.run
		b.mu.Lock()
		i := b.next
		if !r.broken {
			b.next++
			r.queue = append(r.queue, queued{i, before, c})
		}
		broken := r.broken
		b.mu.Unlock()
		if !broken && (r.ingest.Send(c.key, rec) == nil || !b.unqueue(r, i)) {
			return true
		}
		b.endRun()
	}
	b.plain = 0
	return false
}

// unqueue takes back a write that was not sent, unless its run has broken: then
// it goes on with the others.
func (b *bulk) unqueue(r *run, i int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.broken {
		return false
	}
	b.next = i
	r.queue = r.queue[:len(r.queue)-1]
	return true
}

func (b *bulk) beginRun() bool {
	if _, err := b.store.feed.Attached(ended); err != nil {
		return false // it may come back while a write waits for it by itself
	}
	r := new(run)
	ingest, err := b.store.log.Ingest(
		func(n uint64) { b.stored(r, n) },
		func(n, last uint64, err error) { b.ranOut(r, n, last, err) })
	if err != nil {
		return false
	}
	r.ingest, b.run, b.ran = ingest, r, true
	b.mu.Lock()
	defer b.mu.Unlock()
	b.runs = append(b.runs, r)
	return true
}

// endRun has the log tell how far the run has come.
func (b *bulk) endRun() {
	if b.run != nil {
		b.run.ingest.End()
		b.run = nil
	}
}

// stored notes that the first n writes of a run are in the log.
func (b *bulk) stored(r *run, n uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return
	}
	for ; r.done < n && len(r.queue) > 0; r.done++ {
		b.store.stats.wrote(nil)
		b.in(r.queue[0].i)
		r.queue[0] = queued{}
		r.queue = r.queue[1:]
	}
	b.look()
}

// ranOut is told the end of a run. The writes that have not come into the log go
// on one after the other, as there may be several of one key.
func (b *bulk) ranOut(r *run, n, last uint64, err error) {
	b.store.feed.Heard(last)
	b.stored(r, n)
	b.mu.Lock()
	r.broken = true
	rest := r.queue
	b.runs = slices.DeleteFunc(b.runs, func(other *run) bool { return other == r && len(rest) == 0 })
	b.look()
	b.mu.Unlock()
	if len(rest) == 0 {
		return
	}
	uncertain := errors.Is(err, replication.ErrUncertain)
	if !b.store.begin() {
		for _, q := range rest {
			b.carried(r, q, b.alone(q, uncertain).giveUp(ErrClosed))
		}
		return
	}
	go func() {
		defer b.store.work.Done()
		for _, q := range rest {
			_, err := b.alone(q, uncertain).run(b.writes)
			b.carried(r, q, err)
		}
	}()
}

// alone makes a write of its own of one that its run did not bring into the log.
func (b *bulk) alone(q queued, uncertain bool) *write {
	w := &write{store: b.store, change: q.change}
	if uncertain {
		w.uncertain(q.before)
	}
	return w
}

// carried notes the end of a write that its run did not bring into the log.
func (b *bulk) carried(r *run, q queued, err error) {
	b.outOfTime(err)
	b.store.stats.wrote(err)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return
	}
	r.queue = r.queue[1:]
	if err != nil {
		b.failed[q.i] = failedWrite{q.change.key, err}
	} else {
		b.in(q.i)
	}
	b.look()
}
