package bench

import (
	"runtime"
	"runtime/metrics"
	"testing"
)

// holders keep everything in the heap of this process.
var holders = []reader{
	{"nearkv", openNearKV},
	{"ristretto", openRistretto},
	{"otter", openOtter},
	{"map", openMap},
}

// BenchmarkHeap measures what it costs to hold all keys: bytes, and work for
// the garbage collector, also of a process that holds nothing. The log of nearkv
// is in another process.
func BenchmarkHeap(b *testing.B) {
	for _, n := range sizesOf(100_000, 1_000_000) {
		server, d := startProcess(b), datasetOf(n, valueSize)
		makeNamespace(b, server, d)
		for _, h := range holders {
			run(b, h.name, func(b *testing.B) { benchmarkMemory(b, h, server, d) }, "measure=memory/n=%d", n)
		}
		run(b, "none", benchmarkGC, "measure=gc/n=%d", n)
		for _, h := range holders {
			_, release := h.open(b, server, d)
			run(b, h.name, benchmarkGC, "measure=gc/n=%d", n)
			release()
		}
	}
}

// benchmarkMemory reports the bytes for each key beyond those of key and value.
func benchmarkMemory(b *testing.B, h reader, s server, d dataset) {
	var grown uint64
	for b.Loop() {
		before := heap()
		get, release := h.open(b, s, d)
		grown += heap() - before
		checkHeld(b, get, d)
		release()
	}
	perKey := float64(grown) / float64(b.N*len(d.keys))
	b.ReportMetric(perKey-float64(len(d.keys[0])+len(d.value)), "B/key")
	b.ReportMetric(0, "ns/op") // how long that took says nothing
}

// heap returns the bytes of what is reachable. What has a finalizer goes with
// the second collection.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// checkHeld fails the benchmark unless everything is there: what has been
// dropped needs no memory.
func checkHeld(b *testing.B, get getFunc, d dataset) {
	b.Helper()
	for _, key := range d.keys {
		if v, ok := get(key); !ok || v != d.value {
			b.Fatalf("%s is missing", key)
		}
	}
}

// benchmarkGC reports, beside the time of a collection, for how much of it the
// program stood still, and the time that it takes from all processors.
func benchmarkGC(b *testing.B) {
	runtime.GC() // of what came before
	paused, busy := pauseTotal(), gcSeconds()
	for b.Loop() {
		runtime.GC()
	}
	b.ReportMetric(float64(pauseTotal()-paused)/float64(b.N), "pause-ns/op")
	b.ReportMetric((gcSeconds()-busy)*1e9/float64(b.N), "gc-cpu-ns/op")
}

func pauseTotal() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.PauseTotalNs
}

// gcSeconds is the time of all processors for marking, without that of idle
// ones, which nobody misses.
func gcSeconds() float64 {
	s := []metrics.Sample{
		{Name: "/cpu/classes/gc/total:cpu-seconds"},
		{Name: "/cpu/classes/gc/mark/idle:cpu-seconds"},
	}
	metrics.Read(s)
	return s[0].Value.Float64() - s[1].Value.Float64()
}
