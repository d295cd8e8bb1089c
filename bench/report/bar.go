package main

import "fmt"

// bar is something that nearkv has to reach, from section 11 of its design.
type bar struct {
	what, against string
	of, to        series // to is only of a kind that compares
	kind          kind
	limit         float64
}

// kind is how a bar compares.
type kind int

const (
	timesAtMost  kind = iota // of / to <= limit: time
	timesAtLeast             // to / of >= limit: speed
	atMost                   // of <= limit, in its unit
)

// bars are measured with all keys that the design asks for, on two processors.
func bars() []bar {
	var all []bar
	for _, part := range [][]bar{readBars(), writeBars(), replicaBars(), listBars()} {
		all = append(all, part...)
	}
	return all
}

func of(group, peer, unit string) series { return series{group, 2, peer, unit} }

// ratioBar compares two peers of one benchmark.
func ratioBar(what, group, ours, theirs, unit string, k kind, limit float64) bar {
	return bar{what, theirs, of(group, ours, unit), of(group, theirs, unit), k, limit}
}

func readBars() []bar {
	const zipf, hot, view = "Get/size=100/case=zipf", "Get/size=100/case=hot", "View/case="
	return []bar{
		ratioBar("Get hit, 100k keys, zipf, 100 B", zipf, "nearkv", "ristretto", "sec/op", timesAtMost, 0.8),
		ratioBar("Get hit, 100k keys, zipf, 100 B", zipf, "nearkv", "otter", "sec/op", timesAtMost, 1),
		{"Get hit, allocations", "–", of(zipf, "nearkv", "allocs/op"), series{}, atMost, 0},
		ratioBar("Get hit, one hot key", hot, "nearkv", "ristretto", "sec/op", timesAtMost, 0.4),
		ratioBar("Get hit, one hot key", hot, "nearkv", "otter", "sec/op", timesAtMost, 1),
		ratioBar("Get hit, zipf", zipf, "nearkv", "jetstream", "sec/op", timesAtLeast, 200),
		ratioBar("Get of an evicted value", "GetEvicted/goroutines=1", "nearkv", "direct-get", "sec/op", timesAtMost, 1.2),
		ratioBar("View.Get, MessagePack struct, 100k keys, zipf", view+"zipf", "view", "get", "sec/op", timesAtMost, 1.5),
		ratioBar("View.Get, MessagePack struct, one hot key", view+"hot", "view", "get", "sec/op", timesAtMost, 1.5),
		{"View.Get, allocations", "–", of(view+"zipf", "view", "allocs/op"), series{}, atMost, 0},
	}
}

func writeBars() []bar {
	var all []bar
	for _, storage := range []string{"memory", "file"} {
		put := "Put/storage=" + storage + "/ttl=0s/goroutines="
		all = append(all,
			ratioBar("Put, sequential, p50, "+storage, put+"1", "nearkv", "publish", "p50-sec/op", timesAtMost, 1.15),
			ratioBar("Put, 64 goroutines, "+storage, put+"64", "nearkv", "publish-followed", "sec/op", timesAtLeast, 2),
			ratioBar("PutAll, "+storage, "PutAll/storage="+storage, "nearkv", "publish-async", "sec/op", timesAtLeast, 1.2))
	}
	const synced = "PutSynced/durability=powerloss/goroutines="
	one := of(synced+"1", "publish", "sec/op")
	return append(all,
		ratioBar("Put, synced, sequential, p50", synced+"1", "nearkv", "publish", "p50-sec/op", timesAtMost, 1),
		bar{"Put, synced, 64 goroutines", "publish, sequential", of(synced+"64", "nearkv", "sec/op"), one, timesAtLeast, 20})
}

func replicaBars() []bar {
	const propagation, memory = "Propagation", "Heap/measure=memory/n=1000000"
	return []bar{
		ratioBar("Put to visible in another replica's Get, p50", propagation, "nearkv-watch", "consumer", "p50-sec/op", timesAtMost, 1.3),
		{"Put to visible in another replica's Get, p99", "–", of(propagation, "nearkv-watch", "p99-sec/op"), series{}, atMost, 1e-3},
		ratioBar("the same, to a Get that polls without a rest, p50", propagation, "nearkv-poll", "consumer", "p50-sec/op", timesAtMost, 1.3),
		{"the same, to a Get that polls without a rest, p99", "–", of(propagation, "nearkv-poll", "p99-sec/op"), series{}, atMost, 1e-3},
		ratioBar("Open with 1,000,000 keys", "Open/n=1000000", "nearkv", "consumer", "sec/op", timesAtMost, 1.5),
		{"memory per key beyond its bytes and the value's, 1M keys", "–", of(memory, "nearkv", "B/key"), series{}, atMost, 160},
	}
}

// listBars also say that a page costs the same whatever it is taken from: at
// most twice as much where the tree is five times as deep and not in the
// processor's cache.
func listBars() []bar {
	var all []bar
	for _, c := range []struct{ name, text string }{{"page", "List of the first 1000 keys"}, {"prefix", "List of a prefix of 1000 keys"}} {
		group := "List/case=" + c.name + "/n="
		million, thousand := of(group+"1000000", "nearkv", "sec/op"), of(group+"1000", "nearkv", "sec/op")
		all = append(all,
			bar{c.text + " out of 1M", "–", million, series{}, atMost, 200e-6},
			bar{c.text + " out of 1M", "the same out of 1k", million, thousand, timesAtMost, 2})
	}
	return all
}

// verdict on a bar.
type verdict struct {
	measured summary
	known    bool // it was measured at all
	met      bool
}

func (b bar) judge(r *results) verdict {
	var v verdict
	switch b.kind {
	case timesAtMost:
		v.measured, v.known = r.ratio(b.of, b.to)
	case timesAtLeast:
		v.measured, v.known = r.ratio(b.to, b.of)
		v.met = v.known && v.measured.median >= b.limit
		return v
	case atMost:
		v.measured, v.known = r.summarize(b.of)
	}
	v.met = v.known && v.measured.median <= b.limit
	return v
}

// require writes the bar itself.
func (b bar) require() string {
	if b.kind == timesAtLeast {
		return "≥ " + b.format(b.limit) + " as fast"
	}
	if b.kind == timesAtMost {
		return "≤ " + b.format(b.limit) + " the time"
	}
	return "≤ " + b.format(b.limit)
}

func (b bar) format(value float64) string {
	if b.kind == atMost {
		return format(value, b.of.unit)
	}
	return fmt.Sprintf("%.3gx", value)
}
