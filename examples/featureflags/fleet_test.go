//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nearkv/nearkv/kvstore"
)

// What is switched at one instance is seen at the other, and stays when an
// instance starts again with the same seed.
func TestFlip(t *testing.T) {
	nats := startNATS(t)
	a, b := startService(t, nats.url), startService(t, nats.url)
	for _, s := range []*instance{a, b} {
		if got := s.get(t, "/"); got != "beta-search\nnew-checkout\nspring-sale\n" {
			t.Errorf("on at first: %q", got)
		}
	}

	var flipped flagState
	decode(t, a.post(t, "/admin/flags/dark-mode/flip"), &flipped)
	if !flipped.On || flipped.Name != "dark-mode" {
		t.Fatalf("flip returns %+v", flipped)
	}
	var seen flagState
	decode(t, b.get(t, fmt.Sprintf("/flags/dark-mode?at_least=%d", flipped.Revision)), &seen)
	if seen != flipped {
		t.Errorf("one instance flipped %+v, the other serves %+v", flipped, seen)
	}

	b.terminate(t)
	b = startService(t, nats.url)
	decode(t, b.get(t, "/flags/dark-mode"), &seen)
	if seen != flipped {
		t.Errorf("flipped %+v, after a restart %+v", flipped, seen)
	}
}

// Of flips that happen at the same time at both instances none is lost.
func TestConcurrentFlips(t *testing.T) {
	nats := startNATS(t)
	instances := []*instance{startService(t, nats.url), startService(t, nats.url)}
	var before, after flagState
	decode(t, instances[0].get(t, "/flags/dark-mode"), &before)

	const each = 15 // an odd number, by two instances: even
	var flips sync.WaitGroup
	var highest atomic.Uint64
	var on atomic.Int64
	for _, s := range instances {
		for range each {
			flips.Go(func() {
				status, body, err := s.do(http.MethodPost, "/admin/flags/dark-mode/flip")
				if err != nil || status != http.StatusOK {
					t.Errorf("flip: %d %s %v", status, body, err)
					return
				}
				var f flagState
				decode(t, body, &f)
				if f.On {
					on.Add(1)
				}
				for h := highest.Load(); uint64(f.Revision) > h; h = highest.Load() {
					highest.CompareAndSwap(h, uint64(f.Revision))
				}
			})
		}
	}
	flips.Wait()
	if on.Load() != each {
		t.Errorf("of %d flips %d were on: they did not take turns", 2*each, on.Load())
	}
	for _, s := range instances {
		decode(t, s.get(t, fmt.Sprintf("/flags/dark-mode?at_least=%d", highest.Load())), &after)
		if after.On != before.On {
			t.Errorf("on: %v; after %d flips %v", before.On, 2*each, after.On)
		}
	}
	// Each flip is one write to the log, and a lost race is none.
	if writes := highest.Load() - uint64(instances[0].seeded); writes != 2*each {
		t.Errorf("%d flips are %d writes", 2*each, writes)
	}
}

// While the NATS server stands still, and when it has been killed, every request
// is served with the right value: from memory, as every request is.
func TestServesFromMemory(t *testing.T) {
	nats := startNATS(t)
	instances := []*instance{startService(t, nats.url), startService(t, nats.url, "-write-timeout", "1s")}
	var flipped flagState
	decode(t, instances[0].post(t, "/admin/flags/dark-mode/flip"), &flipped)
	instances[1].get(t, fmt.Sprintf("/flags/dark-mode?at_least=%d", flipped.Revision))
	before := statsOf(t, instances)

	const requests, workers = 4000, 8
	events := map[int64]func(){ // at these requests
		requests / 4: func() { nats.signal(t, syscall.SIGSTOP) },
		requests / 2: func() { nats.signal(t, syscall.SIGCONT) },
		requests / 4 * 3: func() {
			nats.signal(t, syscall.SIGKILL)
			nats.wait()
		},
	}
	wants := []struct{ path, body string }{
		{"/", "beta-search\ndark-mode\nnew-checkout\nspring-sale\n"},
		{"/flags/dark-mode", encode(t, flipped)},
		{"/flags/no-such-flag", kvstore.ErrNotFound.Error() + "\n"},
	}
	var load sync.WaitGroup
	var count atomic.Int64
	for range workers {
		load.Go(func() {
			for i := count.Add(1); i <= requests; i = count.Add(1) {
				if event := events[i]; event != nil {
					event()
				}
				want := wants[i%int64(len(wants))]
				_, body, err := instances[i%2].do(http.MethodGet, want.path)
				if err != nil || body != want.body {
					t.Errorf("request %d: %s returns %q, %v, want %q", i, want.path, body, err, want.body)
					return
				}
			}
		})
	}
	load.Wait()

	for i, after := range statsOf(t, instances) {
		if after.Loads != 0 || after.Misses != before[i].Misses {
			t.Errorf("instance %d asked the log for values: before %+v, after %+v", i, before[i], after)
		}
		if after.Absent-before[i].Absent < requests/2/uint64(len(wants)) {
			t.Errorf("instance %d: the Store was not asked: %+v", i, after)
		}
	}
	status, body, err := instances[1].do(http.MethodPost, "/admin/flags/dark-mode/flip")
	if err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("a write without a log: %d %q %v, want %d", status, body, err, http.StatusServiceUnavailable)
	}
}

func statsOf(t *testing.T, instances []*instance) []kvstore.Stats {
	t.Helper()
	var all []kvstore.Stats
	for _, s := range instances {
		var r statsReply
		decode(t, s.get(t, "/stats"), &r)
		all = append(all, r.Stats)
	}
	return all
}

// instance is a process of this service.
type instance struct {
	*process
	url    string
	seeded kvstore.Revision // of what it began with
}

func startService(t *testing.T, nats string, args ...string) *instance {
	t.Helper()
	args = append([]string{"-addr", "127.0.0.1:0", "-url", nats, "-seed", "flags.json", "-write-timeout", "1m"}, args...)
	p, out := start(t, binaries.service, args...)
	var url string
	if _, err := fmt.Fscanf(out, "listening on %s\n", &url); err != nil {
		t.Fatalf("the service did not start: %v", err)
	}
	s := &instance{process: p, url: url}
	for _, name := range []string{"dark-mode", "new-checkout", "beta-search", "spring-sale"} {
		var f flagState
		decode(t, s.get(t, "/flags/"+name), &f)
		s.seeded = max(s.seeded, f.Revision)
	}
	return s
}

// client gives up what would keep a test from ending.
var client = &http.Client{Timeout: time.Minute}

func (s *instance) do(method, path string) (status int, body string, err error) {
	r, err := http.NewRequest(method, s.url+path, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	resp, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }() // it was read to its end
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

func (s *instance) get(t *testing.T, path string) string {
	t.Helper()
	return s.must(t, http.MethodGet, path)
}

func (s *instance) post(t *testing.T, path string) string {
	t.Helper()
	return s.must(t, http.MethodPost, path)
}

func (s *instance) must(t *testing.T, method, path string) string {
	t.Helper()
	status, body, err := s.do(method, path)
	if err != nil || status != http.StatusOK {
		t.Fatalf("%s %s: %d %s %v", method, path, status, body, err)
	}
	return body
}

// terminate asks the service to end, which it does without an error.
func (s *instance) terminate(t *testing.T) {
	t.Helper()
	s.signal(t, syscall.SIGTERM)
	s.wait()
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the service ended with %d", code)
	}
}

func decode(t *testing.T, body string, v any) {
	t.Helper()
	if err := json.NewDecoder(strings.NewReader(body)).Decode(v); err != nil {
		t.Errorf("%q: %v", body, err)
	}
}

func encode(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data) + "\n"
}

// process is one that ends with the test at the latest.
type process struct {
	cmd  *exec.Cmd
	once sync.Once
}

// start runs a program and returns what it prints.
func start(t *testing.T, binary string, args ...string) (*process, io.Reader) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd}
	t.Cleanup(p.wait)
	return p, out
}

// wait waits for the end of the process, which a signal or the end of the test
// has caused.
func (p *process) wait() { p.once.Do(func() { _ = p.cmd.Wait() }) }

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Errorf("signal %v: %v", s, err)
	}
}
