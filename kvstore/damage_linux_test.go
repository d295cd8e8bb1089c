package kvstore_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nearkv/nearkv/kvstore"
)

// TestDamage damages copies of a Dir, one thing at a time, and opens each: after a clean end of
// the process that filled it, and after kill -9. Every key must be as it was, or Open or Get must
// say what is wrong, or the Store must be Degraded within ten seconds. Where Open fails, nothing in
// the Dir may be gone. The process that opens stays alive and below a bound of memory.
//
// NEARKV_SEED decides what is damaged; NEARKV_DAMAGE is how many bits of each file are flipped, and
// "all" flips all of one block and 4096 of each other file.
func TestDamage(t *testing.T) {
	seed := envInt(t, "NEARKV_SEED", int(time.Now().UnixNano()>>16))
	bits, all := 24, os.Getenv("NEARKV_DAMAGE") == "all"
	if testing.Short() {
		bits = 1
	}
	if all {
		bits = 4096
	} else {
		bits = envInt(t, "NEARKV_DAMAGE", bits)
	}
	for _, end := range []string{"close", "kill"} {
		t.Run(end, func(t *testing.T) {
			d := newDamager(t, end, uint64(seed))
			d.bits, d.all = bits, all
			d.run()
			t.Logf("damage after %s: seed %d: %d stores opened: %s; at most %d MiB of memory", end, seed, d.opened, d.counts, d.peak>>20)
			t.Logf("soak: opened=%d right=%d told=%d", d.opened, d.counts["right"], d.counts.told())
		})
	}
}

const (
	damageNamespace = "damaged"
	damageKeys      = 1500
	damageMemory    = 768 << 20 // what the process that opens may take, in bytes
	nobody          = 65534
)

// damageOptions make small blocks, so that there are several.
func damageOptions(dir string) kvstore.Options {
	return kvstore.Options{Dir: dir, MaxBytes: 3 << 20, InlineBytes: 64 << 10, CacheBytes: 1 << 20}
}

// damageValue is what is in a key of the reference store; nil: it was deleted.
func damageValue(i int) []byte {
	switch {
	case i%7 == 3:
		return nil
	case i%400 == 1:
		return bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 100<<10)
	}
	return bytes.Repeat(fmt.Appendf(nil, "value %d. ", i), 1+i%60)
}

func damageKey(i int) string { return fmt.Sprintf("key:%d/%05d", i%5, i) }

// fillReference writes the reference store: every key twice, some with metadata or a TTL.
func fillReference(ctx context.Context, s *kvstore.Store) error {
	for round := range 2 {
		for i := range damageKeys {
			if err := putReference(ctx, s, i, round == 1); err != nil {
				return err
			}
		}
	}
	return nil
}

func putReference(ctx context.Context, s *kvstore.Store, i int, last bool) error {
	value := damageValue(i)
	var opts []kvstore.WriteOption
	switch {
	case !last:
		value = []byte("first")
	case value == nil:
		return s.Delete(ctx, damageKey(i))
	case i%11 == 5:
		opts = append(opts, kvstore.WithTTL(24*time.Hour))
	case i%3 == 0:
		opts = append(opts, kvstore.WithMetadata(map[string]int{"i": i}))
	}
	_, err := s.Put(ctx, damageKey(i), value, opts...)
	return err
}

func init() {
	roles["reference"] = playReference
	roles["damage"] = playDamage
}

// playReference fills a Dir, and stays until it is killed.
func playReference(dir string) error {
	s, err := kvstore.Open(context.Background(), damageNamespace, damageOptions(dir))
	if err != nil {
		return err
	}
	if err := fillReference(context.Background(), s); err != nil {
		return err
	}
	if err := awaitWitness(dir, s); err != nil {
		return err
	}
	if err := answer(s); err != nil {
		return err
	}
	return s.Close()
}

// awaitWitness returns when the witness has noted the last record. It does so a moment after that was acknowledged: a kill
// in between loses nothing, but then nobody could tell if the last record was cut off as well.
func awaitWitness(dir string, s *kvstore.Store) error {
	if err := s.Sync(context.Background()); err != nil {
		return err
	}
	head := uint64(s.Status().Head)
	for range 1000 {
		files, err := filepath.Glob(filepath.Join(dir, "witness", "*.seen"))
		if err != nil {
			return err
		}
		for _, file := range files {
			const last = 16 // where the sequence is
			if b, err := os.ReadFile(file); err == nil && len(b) > last+8 && binary.LittleEndian.Uint64(b[last:]) >= head {
				return nil
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("the witness has not noted the last record")
}

// damageVerdict is what opening a damaged Dir has come to.
type damageVerdict struct {
	Outcome string // right, refused, told, degraded; or silent, hung, untyped
	Detail  string
}

// playDamage opens each Dir that it is given a line of.
func playDamage(string) error {
	fmt.Println("ready")
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for in.Scan() {
		if err := out.Encode(openDamaged(in.Text())); err != nil {
			return err
		}
	}
	return in.Err()
}

func openDamaged(dir string) damageVerdict {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, err := kvstore.Open(ctx, damageNamespace, damageOptions(dir))
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return damageVerdict{"hung", err.Error()}
	case errors.Is(err, kvstore.ErrStart): // also ErrDirDamaged and ErrDirAccess
		return damageVerdict{"refused", err.Error()}
	default:
		return damageVerdict{"untyped", err.Error()}
	}
	defer func() { _ = s.Close() }()
	wrong, told := compareReference(ctx, s)
	switch {
	case wrong == "" && told == "":
		return damageVerdict{"right", ""}
	case wrong == "":
		return damageVerdict{"told", told}
	}
	for range 100 {
		if st := s.Status(); st.State == kvstore.Degraded && st.Reason != "" {
			return damageVerdict{"degraded", st.Reason}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return damageVerdict{"silent", wrong}
}

// compareReference returns what is wrong and nobody says so, and what a Get has said.
func compareReference(ctx context.Context, s *kvstore.Store) (wrong, told string) {
	bad := 0
	for i := range damageKeys {
		want := damageValue(i)
		e, err := s.Get(ctx, damageKey(i))
		switch {
		case err != nil && !errors.Is(err, kvstore.ErrNotFound):
			told = err.Error()
		case err != nil && want != nil, err == nil && !bytes.Equal(e.Value(), want):
			if bad++; bad == 1 {
				wrong = fmt.Sprintf("%s: %v", damageKey(i), err)
			}
		}
	}
	want := 0
	for i := range damageKeys {
		if damageValue(i) != nil {
			want++
		}
	}
	if n := s.Stats().Keys; bad == 0 && told == "" && n != want {
		wrong = fmt.Sprintf("%d keys, not %d", n, want)
	}
	if bad > 1 {
		wrong += fmt.Sprintf(" and %d more", bad-1)
	}
	return wrong, told
}

// damager makes damaged copies of a reference store and has another process open them.
type damager struct {
	t         *testing.T
	end       string
	bits      int
	all       bool
	rng       *rand.Rand
	base      string // of all directories, which an ordinary user may enter
	reference string
	user      int // of the process that opens
	opener    *child
	counts    outcomes
	opened    int
	peak      int
}

// outcomes counts verdicts.
type outcomes map[string]int

// told returns how often the Store has said that something is wrong.
func (o outcomes) told() (n int) {
	for name, times := range o {
		switch name {
		case "right", "silent", "hung", "untyped", "dead", "memory", "known to be silent until there is a witness":
		default:
			n += times
		}
	}
	return n
}

func (o outcomes) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(o)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, o[name]))
	}
	return strings.Join(parts, ", ")
}

func newDamager(t *testing.T, end string, seed uint64) *damager {
	base, err := os.MkdirTemp("", "damage-") // not t.TempDir: its parent is closed to the user of the child
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	d := &damager{t: t, end: end, rng: rand.New(rand.NewPCG(seed, 0)), base: base, reference: filepath.Join(base, "reference"), user: os.Geteuid(), counts: make(outcomes)}
	if d.user == 0 {
		d.user = nobody
	}
	d.must(os.Chmod(base, 0o755))
	c := startRole(t, "reference", d.reference)
	c.expect(t, "ready")
	if end == "close" {
		c.end(t)
	} else {
		d.must(c.cmd.Process.Kill())
		_ = c.cmd.Wait() // its error is the kill
		_ = os.Remove(filepath.Join(d.reference, "sock"))
	}
	t.Cleanup(func() { d.stopOpener() })
	return d
}

func (d *damager) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *damager) run() {
	d.try(damage{what: "nothing", f: func(string) error { return nil }})
	if d.counts["right"] != 1 {
		d.t.Fatalf("the reference store itself: %s", d.counts)
	}
	for _, c := range d.cases() {
		d.try(c)
	}
}

// try damages a copy and has it opened.
func (d *damager) try(c damage) {
	dir := filepath.Join(d.base, "dir"+strconv.Itoa(d.opened))
	d.opened++
	defer func() { d.must(os.RemoveAll(dir)) }()
	d.must(d.copyTree(dir))
	d.must(c.f(filepath.Join(dir, c.file)))
	before := treeOf(dir)
	v := d.open(dir)
	d.counts[v.Outcome]++
	switch v.Outcome {
	case "silent", "hung", "untyped", "dead", "memory":
		d.t.Errorf("%s, %s, %s: %s", v.Outcome, c.file, c.what, v.Detail)
	case "refused":
		after := treeOf(dir)
		for path, size := range before {
			if now, ok := after[path]; !ok || now != size && filepath.Base(path) != "pid" {
				d.t.Errorf("%s, %s: Open has failed with %s, and %s has %d bytes, not %d", c.file, c.what, v.Detail, path, now, size)
			}
		}
	}
}

// copyTree copies the reference store for the user of the opener.
func (d *damager) copyTree(dir string) error {
	if err := os.CopyFS(dir, os.DirFS(d.reference)); err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := os.FileMode(0o600)
		if e.IsDir() {
			mode = 0o700
		}
		return errors.Join(os.Chmod(path, mode), os.Lchown(path, d.user, d.user))
	})
}

// treeOf returns the sizes of all files in a directory, -1 for what is none and no directory.
func treeOf(dir string) map[string]int64 {
	tree := make(map[string]int64)
	_ = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return nil // compared by name only
		}
		if e.IsDir() { // the server removes one that is empty
			return nil
		}
		tree[path] = -1
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			tree[path] = info.Size()
		}
		return nil
	})
	return tree
}

// open has the other process open a Dir.
func (d *damager) open(dir string) (v damageVerdict) {
	if d.opener == nil {
		d.startOpener()
	}
	_, err := fmt.Fprintln(d.opener.in, dir)
	d.must(err)
	kill := time.AfterFunc(2*time.Minute, func() { _ = d.opener.cmd.Process.Kill() })
	defer kill.Stop()
	if !d.opener.lines.Scan() {
		d.stopOpener()
		return damageVerdict{"dead", "the process has ended: " + lastLine(d.opener)}
	}
	d.must(json.Unmarshal(d.opener.lines.Bytes(), &v))
	peak := peakMemory(d.opener.cmd.Process.Pid)
	d.peak = max(d.peak, peak)
	if peak > damageMemory {
		d.stopOpener()
		return damageVerdict{"memory", fmt.Sprintf("%d MiB, then %s", peak>>20, v)}
	}
	if v.Outcome == "hung" {
		d.stopOpener()
	}
	return v
}

func lastLine(c *child) string {
	text := c.stderr.String()
	return text[:min(len(text), 2000)]
}

func (d *damager) startOpener() {
	exe := filepath.Join(d.base, "opener")
	if _, err := os.Stat(exe); err != nil {
		self, err := os.Executable()
		d.must(err)
		data, err := os.ReadFile(self)
		d.must(err)
		d.must(os.WriteFile(exe, data, 0o755))
	}
	c := &child{cmd: exec.Command(exe)}
	c.cmd.Dir = d.base
	c.cmd.Env = append(os.Environ(), roleEnv+"=damage", "TMPDIR=/tmp")
	c.cmd.Stderr = &c.stderr
	if os.Geteuid() == 0 {
		c.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	out, err := c.cmd.StdoutPipe()
	d.must(err)
	c.lines = bufio.NewScanner(out)
	c.in, err = c.cmd.StdinPipe()
	d.must(err)
	d.must(c.cmd.Start())
	c.expect(d.t, "ready")
	d.opener = c
}

func (d *damager) stopOpener() {
	if d.opener != nil {
		_ = d.opener.cmd.Process.Kill()
		_ = d.opener.cmd.Wait()
		d.opener = nil
	}
}

// peakMemory returns the most that a process has had, in bytes.
func peakMemory(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	fields := strings.Fields(after)
	if len(fields) == 0 {
		return 0
	}
	kib, _ := strconv.Atoi(fields[0]) // 0 if it is not said
	return kib << 10
}
