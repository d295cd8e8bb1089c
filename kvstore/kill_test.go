package kvstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nearkv/nearkv/kvstore"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
	"github.com/nearkv/nearkv/replication/embedded"
)

// TestKill9 kills a process that writes to a Dir, again and again, and each
// time looks whether what comes after keeps what the acknowledgements promised:
// no acknowledged write lost, no deleted or expired key back, no revision given
// twice, and a write that was under way at the kill done or not done.
//
// The child writes from several goroutines, each with keys of its own, so that
// each key has one writer. It says what it is about to do, and the outcome
// afterwards. Most keys are written in one round of fifteen, and looked at in
// every one: in between their TTLs end and the server removes their records.
//
// NEARKV_KILLS is the number of kills, NEARKV_SEED decides what is written.
func TestKill9(t *testing.T) {
	kills := envInt(t, "NEARKV_KILLS", 50)
	if testing.Short() {
		kills = min(kills, 5)
	}
	seed := envInt(t, "NEARKV_SEED", int(time.Now().UnixNano()>>16))
	rng := rand.New(rand.NewPCG(uint64(seed), 0))
	m := newKillModel(t)
	dir := t.TempDir()
	for round := range kills {
		if round%10 == 9 {
			m.look(dir) // and closes cleanly
		}
		m.round(round, killArgs{dir, round, seed}, rng)
	}
	m.look(dir)
	m.look(dir)
	t.Logf("seed %d: %d kills, %d of them before the child was ready; %d writes acknowledged, %d cut off, %d of these done; "+
		"%d looks at a key, %d of them more than seven seconds after its value had expired", seed, kills, m.early, m.acked, m.cut, m.done, m.looks, m.late)
	t.Logf("soak: kills=%d operations=%d", kills, m.acked+m.looks)
	if kills >= 50 && (m.acked == 0 || m.cut == 0 || m.late == 0) {
		t.Error("this has tested nothing")
	}
}

func envInt(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// killModel is what must be.
type killModel struct {
	t    *testing.T
	keys map[string]*killState

	// No revision up to floor may be given again.
	floor kvstore.Revision

	// Of the child that runs:
	name   string
	ready  bool
	least  kvstore.Revision // floor when it was started
	writes [killWriters]killWrite

	early, acked, cut, done, looks, late int
}

// killState is what must be in one key: now, or what a write that was cut off
// would have made of it.
type killState struct {
	now   killValue
	maybe *killValue
	above kvstore.Revision // maybe's revision must be
}

// killWrite is what one writer of the child is about.
type killWrite struct {
	op    *killOp
	begun int64
	last  kvstore.Revision // of its writes
}

func newKillModel(t *testing.T) *killModel {
	m := &killModel{t: t, keys: make(map[string]*killState)}
	for key := range allKillKeys {
		m.keys[key] = &killState{}
	}
	return m
}

// look opens the directory in this process.
func (m *killModel) look(dir string) {
	m.t.Helper()
	m.begin("this process")
	s, err := kvstore.Open(context.Background(), "kill", kvstore.Options{Dir: dir})
	if err != nil {
		m.t.Fatal(err)
	}
	err = tellKeys(s, func(l killLine) error {
		m.hear(l)
		return nil
	})
	if err := errors.Join(err, s.Close()); err != nil {
		m.t.Fatal(err)
	}
}

// round runs a child and kills it, one time in five before it can be ready.
func (m *killModel) round(round int, args killArgs, rng *rand.Rand) {
	text, err := json.Marshal(args)
	if err != nil {
		m.t.Fatal(err)
	}
	m.begin(fmt.Sprintf("the child of round %d", round))
	c := startRole(m.t, "writer", string(text))
	kill := time.AfterFunc(time.Hour, func() { _ = c.cmd.Process.Kill() })
	defer kill.Stop()
	if rng.IntN(5) == 0 {
		kill.Reset(time.Duration(rng.IntN(150)) * time.Millisecond)
	}
	lifetime := time.Duration(rng.IntN(1500)) * time.Millisecond
	for c.lines.Scan() {
		var l killLine
		if err := json.Unmarshal(c.lines.Bytes(), &l); err != nil {
			m.t.Fatalf("%v: %s", err, c.lines.Bytes())
		}
		m.hear(l)
		if l.Kind == sayReady {
			kill.Reset(lifetime)
		}
	}
	_ = c.cmd.Wait() // its error is the kill
	if c.cmd.ProcessState.Exited() {
		m.t.Fatalf("%s ended by itself: %v; stderr: %s", m.name, c.cmd.ProcessState, &c.stderr)
	}
	m.cutOff()
}

func (m *killModel) begin(name string) {
	m.name, m.ready, m.least = name, false, m.floor
	m.writes = [killWriters]killWrite{}
}

// cutOff notes what was under way when the child was killed.
func (m *killModel) cutOff() {
	if !m.ready {
		m.early++
	}
	for _, w := range m.writes {
		if w.op != nil {
			m.cut++
			k := m.keys[w.op.Key]
			k.maybe, k.above = &w.op.Value, max(m.least, w.last)
		}
	}
}

func (m *killModel) hear(l killLine) {
	m.t.Helper()
	switch l.Kind {
	case sayHead:
		if l.Revision < m.floor {
			m.t.Fatalf("%s: the log ends at revision %d, which was at %d", m.name, l.Revision, m.floor)
		}
	case sayGet, sayList:
		m.see(l)
	case sayReady:
		m.ready = true
	case sayDo:
		w := &m.writes[l.Writer]
		w.op, w.begun = l.Op, l.Begun
	default:
		w := &m.writes[l.Writer]
		m.outcome(w, l)
		w.op = nil
	}
}

// see compares what was found with what must be.
func (m *killModel) see(l killLine) {
	m.t.Helper()
	m.looks++
	k := m.keys[l.Key]
	if k.now.Expires != 0 && k.now.Expires+7_000 < l.Begun {
		m.late++
	}
	is, may := k.now.seenAs(l), k.maybe != nil && k.maybe.seenAs(l) && (l.Value.ID == "" || l.Value.Revision > k.above)
	switch {
	case !is && !may:
		m.t.Fatalf("%s, %s of %s from %d to %d: found %+v, must be %+v or %+v", m.name, l.Kind, l.Key, l.Begun, l.Ended, l.Value, k.now, k.maybe)
	case is && may: // nothing is there, either way
		k.now = killValue{}
	case may:
		m.done++
		k.now = *k.maybe
		k.now.Revision = l.Value.Revision
	}
	k.maybe = nil
	m.floor = max(m.floor, l.Value.Revision)
}

// seenAs tells whether l can be what is seen of v.
func (v killValue) seenAs(l killLine) bool {
	if l.Value.ID == "" {
		return v.gone(l.Ended)
	}
	if v.gone(l.Begun) {
		return false
	}
	want := v
	if l.Kind == sayList {
		want.ID = l.Value.ID
	}
	if v.Revision == 0 {
		want.Revision = l.Value.Revision
	}
	return want == l.Value
}

// outcome is told how a write has ended.
func (m *killModel) outcome(w *killWrite, l killLine) {
	m.t.Helper()
	k := m.keys[w.op.Key]
	if why := w.contradiction(k.now, l); why != "" {
		m.t.Fatalf("%s: %+v on %+v, from %d to %d: %+v: %s", m.name, *w.op, k.now, w.begun, l.Ended, l, why)
	}
	if l.Kind != sayDone {
		return
	}
	m.acked++
	k.now = w.op.Value
	if k.now.ID == "" {
		return
	}
	if l.Revision <= max(m.least, w.last) {
		m.t.Fatalf("%s: %+v was given revision %d after %d", m.name, *w.op, l.Revision, max(m.least, w.last))
	}
	k.now.Revision, w.last = l.Revision, l.Revision
	m.floor = max(m.floor, l.Revision)
}

// contradiction tells why a write cannot have ended like this; "": it can.
func (w *killWrite) contradiction(now killValue, l killLine) string {
	surelyThere, surelyGone := !now.gone(l.Ended), now.gone(w.begun)
	holds, fails := true, false // the condition, surely
	switch w.op.Cond {
	case "absent":
		holds, fails = surelyGone, surelyThere
	case "revision":
		same := w.op.Expect == now.Revision
		holds, fails = same && surelyThere, !same || surelyGone
	}
	switch {
	case l.Kind == sayDone && fails:
		return "its condition did not hold"
	case l.Kind == sayConflict && holds:
		return "its condition held"
	}
	return ""
}

// Every history of a key that is put without expiry (p), with a short TTL (s)
// or a long one (l), deleted (d) or left alone (-), once in each of five slots.
// They include the shapes of nats-server#8505 that a Store can make; purge and
// rollup, which make the others, are refused (TestBucketIsClosed).
const (
	historySteps = "psld-"
	historySlots = 4
	historySlot  = 12 * time.Second // in it the short TTL ends and the record is removed
	shortTTL     = 2 * time.Second
	longTTL      = 30 * time.Second // ends two slots later, when the short one of the next slot is long gone
)

// TestNoResurrection takes images of a Dir as a kill would leave it, right after
// the writes of each slot and at its end, and opens each at once and an hour
// later: every key must be as its history says.
func TestNoResurrection(t *testing.T) {
	for _, markers := range []bool{false, true} { // does the server leave markers where it removes records?
		for _, crash := range []bool{false, true} { // does each slot begin after a kill?
			t.Run(fmt.Sprintf("markers=%v,crash=%v", markers, crash), func(t *testing.T) {
				p := newPast(t)
				kvstoretest.Run(t, func(t *testing.T) { p.play(t, markers, crash) })
			})
		}
	}
}

// past is all histories in one Dir. The keys are named after what happens to
// them.
type past struct {
	base   string // of all directories
	dirs   int
	keys   []string
	now    []killValue // of keys
	last   kvstore.Revision
	images []pastImage
}

type pastImage struct {
	dir, when string
	now       []killValue
	last      kvstore.Revision
}

func newPast(t *testing.T) *past {
	p := &past{base: t.TempDir(), keys: []string{""}}
	for range historySlots {
		var longer []string
		for _, key := range p.keys {
			for _, step := range historySteps {
				longer = append(longer, key+string(step))
			}
		}
		p.keys = longer
	}
	p.now = make([]killValue, len(p.keys))
	return p
}

func (p *past) play(t *testing.T, markers, crash bool) {
	dir := p.newDir()
	if markers {
		makeMarkerBucket(t, dir)
	}
	s := p.open(t, dir)
	for slot := range historySlots {
		end := time.Now().Add(historySlot)
		for i := range p.keys {
			p.step(t, s, i, slot)
		}
		p.takeImage(t, dir, fmt.Sprintf("after the writes of slot %d", slot))
		time.Sleep(time.Until(end))
		p.takeImage(t, dir, fmt.Sprintf("at the end of slot %d", slot))
		if crash {
			closeStore(t, s)
			dir = p.copyDir(t, p.images[len(p.images)-1].dir)
			s = p.open(t, dir)
		}
	}
	closeStore(t, s)
	time.Sleep(time.Hour)
	for _, image := range p.images {
		p.check(t, image, "opened an hour later")
	}
}

func (p *past) newDir() string {
	p.dirs++
	return filepath.Join(p.base, strconv.Itoa(p.dirs))
}

// copyDir copies a directory. The server that has it, if one does, stands still.
func (p *past) copyDir(t *testing.T, dir string) string {
	t.Helper()
	to := p.newDir()
	synctest.Wait()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func (p *past) open(t *testing.T, dir string) *kvstore.Store {
	t.Helper()
	s, err := kvstore.Open(t.Context(), "past", kvstore.Options{Dir: dir, Exclusive: true, CheckInterval: time.Hour, CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// step does what the key's name says for the slot.
func (p *past) step(t *testing.T, s *kvstore.Store, i, slot int) {
	t.Helper()
	key, v := p.keys[i], killValue{ID: strconv.Itoa(slot)}
	var opts []kvstore.WriteOption
	switch key[slot] {
	case '-':
		return
	case 'd':
		p.now[i] = killValue{}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		return
	case 's':
		opts = append(opts, kvstore.WithTTL(shortTTL))
		v.Expires = roundUp(time.Now().Add(shortTTL))
	case 'l':
		opts = append(opts, kvstore.WithTTL(longTTL))
		v.Expires = roundUp(time.Now().Add(longTTL))
	}
	var err error
	if v.Revision, err = s.Put(t.Context(), key, []byte(v.ID), opts...); err != nil {
		t.Fatal(err)
	}
	p.now[i], p.last = v, v.Revision
}

func (p *past) takeImage(t *testing.T, dir, when string) {
	t.Helper()
	image := pastImage{p.copyDir(t, dir), when, slices.Clone(p.now), p.last}
	p.images = append(p.images, image)
	p.check(t, image, "opened at once")
}

// check opens a copy of an image.
func (p *past) check(t *testing.T, image pastImage, how string) {
	t.Helper()
	s := p.open(t, p.copyDir(t, image.dir))
	defer closeStore(t, s)
	if head := s.Status().Head; head < image.last {
		t.Errorf("image %s, %s: ends at revision %d, %d was acknowledged", image.when, how, head, image.last)
	}
	now, there, wrong := time.Now().UnixMilli(), 0, 0
	for i, key := range p.keys {
		want := image.now[i]
		if want.gone(now) {
			want = killValue{}
		} else {
			there++
		}
		var got killValue
		e, err := s.Get(t.Context(), key)
		if err == nil {
			got = killValue{ID: e.Text(), Revision: e.Revision()}
			if at := e.Expires(); !at.IsZero() {
				got.Expires = at.UnixMilli()
			}
		}
		if (err != nil && !errors.Is(err, kvstore.ErrNotFound)) || got != want {
			if wrong++; wrong <= 3 {
				t.Errorf("image %s, %s: key %s is %+v, %v; must be %+v", image.when, how, key, got, err, want)
			}
		}
	}
	if n := len(keysOf(t, s, "")); n != there || wrong > 0 {
		t.Errorf("image %s, %s: %d keys are wrong, %d are listed, not %d", image.when, how, wrong, n, there)
	}
}

// makeMarkerBucket makes a bucket as other clients do that want the server to
// leave a marker where the TTL of a record has ended.
func makeMarkerBucket(t *testing.T, dir string) {
	t.Helper()
	server, err := embedded.Start(t.Context(), embedded.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := server.Connect()
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "past", LimitMarkerTTL: time.Second}); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := server.Shutdown(); err != nil {
		t.Fatal(err)
	}
}

// roundUp is how the Store makes milliseconds of a time.
func roundUp(t time.Time) int64 { return t.Add(time.Millisecond - time.Nanosecond).UnixMilli() }
