package replication

import (
	"fmt"
	"strings"
	"testing"
)

// A script tells a cursor what happens, a line at a time, and what it has to
// make of it, behind the arrow. The lines:
//
//	attach A 5         the log is of incarnation A and ends at 5
//	begin A 5          begin anew on it
//	follow 3           the new consumer has 3 records to deliver
//	record 4 k left 2  4 is delivered, of subject k, and 2 will follow
//	hole               the consumer's sequence has a hole before the next record
//	ask                for a view
//	view A 9 has 3     it comes: incarnation A, last sequence 9, 3 subjects
//	tally 3            compare it with a replica of 3 records, if that is due
//	tally 3..4 unconfirmed 7   of 3 or 4, and 7 was acknowledged and has not come
//	sight 4 same       the log still has landmark 4
//	sight 4 last 9     it has not, and the subject's last record is 9 (0: none)
//	sight 4 last 0 now 60      at that time
//	state              where the cursor is
//
// A record may end with "until 50": the time until which the log keeps it.
var cursorScripts = []struct{ name, script string }{
	{"the first look at an empty log", `
		attach A 0    -> resync: first look at the log
		begin A 0
		follow 0      -> swept
		state         -> A/0, epoch 1, live
	`},
	{"the first look at a log with records", `
		attach A 3           -> resync: first look at the log
		begin A 3
		follow 2             -> more to come
		state                -> A/0, epoch 1, resyncing to 3
		record 1 a left 1    -> apply
		record 3 b left 0    -> apply, swept
		state                -> A/3, epoch 1, live
		record 4 c left 0    -> apply
	`},
	{"a resync is complete at its target, whatever is written meanwhile", `
		attach A 2           -> resync: first look at the log
		begin A 2
		follow 2             -> more to come
		record 1 a left 5    -> apply
		record 2 b left 5    -> apply, swept
		record 3 c left 5    -> apply
	`},
	{"the target was replaced before it was delivered", `
		attach A 2           -> resync: first look at the log
		begin A 2
		follow 2             -> more to come
		record 1 a left 1    -> apply
		record 3 b left 9    -> apply, swept
	`},
	{"the last records of a log are gone", `
		attach A 9           -> resync: first look at the log
		begin A 9
		follow 0             -> swept
		state                -> A/9, epoch 1, live
	`},
	{"the last records are removed while it resyncs", `
		attach A 9           -> resync: first look at the log
		begin A 9
		follow 2             -> more to come
		record 3 a left 0    -> apply
		ask
		view A 9 has 1       -> gap: records do not come
		attach A 9           -> verify
		sight 3 same         -> in step
		follow 0             -> swept
		state                -> A/9, epoch 1, live
	`},
	{"the server counts too few that follow", `
		attach A 9           -> resync: first look at the log
		begin A 9
		follow 2             -> more to come
		record 3 a left 0    -> apply
		ask
		record 9 b left 0    -> apply, swept
		view A 9 has 2       -> in step
		tally 2              -> in step
	`},
	{"a connection is lost and comes back", `
		attach A 1           -> resync: first look at the log
		begin A 1
		follow 1             -> more to come
		record 1 a left 0    -> apply, swept
		attach A 3           -> verify
		sight 1 same         -> in step
		follow 2             -> more to come
		state                -> A/1, epoch 1, following to 3
		record 2 b left 1    -> apply
		record 3 c left 0    -> apply
		state                -> A/3, epoch 1, live
	`},
	{"a connection is lost in the middle of a resync, which goes on", `
		attach A 3           -> resync: first look at the log
		begin A 3
		follow 3             -> more to come
		record 1 a left 2    -> apply
		attach A 4           -> verify
		sight 1 same         -> in step
		follow 3             -> more to come
		state                -> A/1, epoch 1, resyncing to 4
		record 2 b left 2    -> apply
		record 3 c left 1    -> apply
		record 4 d left 0    -> apply, swept
	`},
	{"nothing was ever delivered, so there is nothing to verify", `
		attach A 0           -> resync: first look at the log
		begin A 0
		follow 0             -> swept
		attach A 7           -> in step
		follow 1             -> more to come
		record 7 a left 0    -> apply
	`},
	{"the stream was created anew", `
		attach A 5           -> resync: first look at the log
		begin A 5
		follow 1             -> more to come
		record 5 a left 0    -> apply, swept
		attach B 9           -> resync: the stream was created anew
		begin B 9
		follow 2             -> more to come
		state                -> B/0, epoch 2, resyncing to 9
		record 8 a left 1    -> apply
		record 9 b left 0    -> apply, swept
	`},
	{"the stream was created anew while it was followed", `
		attach A 5           -> resync: first look at the log
		begin A 5
		follow 1             -> more to come
		record 5 a left 0    -> apply, swept
		ask
		view B 5 has 1       -> resync: the stream was created anew
	`},
	{"the stream was rolled back", `
		attach A 5           -> resync: first look at the log
		begin A 5
		follow 1             -> more to come
		record 5 a left 0    -> apply, swept
		attach A 4           -> resync: the stream was rolled back
	`},
	{"the stream was rolled back while it was followed", `
		attach A 5           -> resync: first look at the log
		begin A 5
		follow 1             -> more to come
		record 5 a left 0    -> apply, swept
		ask
		view A 4 has 1       -> resync: the stream was rolled back
	`},
	{"a view can be older than what was delivered since it was asked for", `
		attach A 5           -> resync: first look at the log
		begin A 5
		follow 1             -> more to come
		record 5 a left 0    -> apply, swept
		ask
		record 6 b left 0    -> apply
		record 7 c left 0    -> apply
		view A 6 has 9       -> in step
		tally 3              -> not due
	`},
	{"a hole in what the consumer delivers", `
		attach A 5           -> resync: first look at the log
		begin A 5
		follow 2             -> more to come
		record 1 a left 1    -> apply
		hole
		record 5 b left 0    -> gap
		state                -> A/1, epoch 1, resyncing to 5
	`},
	{"a record where there was none when the cursor passed", `
		attach A 5           -> resync: first look at the log
		begin A 5
		follow 2             -> more to come
		record 5 a left 1    -> apply, swept
		record 4 c left 0    -> resync
	`},
	{"holes between the sequences of the stream are records that were replaced", `
		attach A 9           -> resync: first look at the log
		begin A 9
		follow 2             -> more to come
		record 2 a left 1    -> apply
		record 9 b left 0    -> apply, swept
	`},
	{"what was to come never comes", `
		attach A 1           -> resync: first look at the log
		begin A 1
		follow 1             -> more to come
		record 1 a left 0    -> apply, swept
		ask
		view A 3 has 2       -> in step
		ask
		view A 3 has 2       -> gap: records do not come
		attach A 3           -> verify
		sight 1 same         -> in step
		follow 0             -> caught up
		state                -> A/3, epoch 1, live
		ask
		view A 3 has 1       -> in step
		tally 1              -> in step
	`},
	{"what was looked for out of turn may still come", `
		attach A 1           -> resync: first look at the log
		begin A 1
		follow 1             -> more to come
		record 1 a left 0    -> apply, swept
		ask
		view A 3 has 2       -> in step
		ask now
		view A 3 has 2       -> in step
		ask now
		view A 3 has 2       -> in step
		ask
		view A 3 has 2       -> gap: records do not come
	`},
	{"something came, if not all", `
		attach A 1           -> resync: first look at the log
		begin A 1
		follow 1             -> more to come
		record 1 a left 0    -> apply, swept
		ask
		view A 3 has 3       -> in step
		record 2 b left 1    -> apply
		ask
		view A 3 has 3       -> in step
		record 3 c left 0    -> apply
		tally 3              -> in step
		ask
		view A 3 has 3       -> in step
		tally 3              -> in step
	`},
	{"all came: the next delay counts anew", `
		attach A 0           -> resync: first look at the log
		begin A 0
		follow 0             -> swept
		ask
		view A 1 has 1       -> in step
		record 1 a left 0    -> apply
		tally 1              -> in step
		ask
		view A 1 has 1       -> in step
		ask
		view A 2 has 2       -> in step
		ask
		view A 2 has 2       -> gap: records do not come
	`},
	{"at the very beginning nothing comes", `
		attach A 0           -> resync: first look at the log
		begin A 0
		follow 0             -> swept
		ask
		view A 1 has 1       -> in step
		ask
		view A 1 has 1       -> gap: records do not come
	`},
	{"nothing is compared during a resync", `
		attach A 3           -> resync: first look at the log
		begin A 3
		follow 2             -> more to come
		record 2 a left 1    -> apply
		ask
		view A 3 has 7       -> in step
		record 3 b left 0    -> apply, swept
		tally 2              -> not due
	`},
	{"the count is compared at exactly the sequence of the view", `
		attach A 2           -> resync: first look at the log
		begin A 2
		follow 1             -> more to come
		record 2 a left 0    -> apply, swept
		ask
		view A 4 has 3       -> in step
		tally 1              -> not due
		record 3 b left 1    -> apply
		tally 2              -> not due
		record 4 c left 0    -> apply
		tally 3              -> in step
		tally 3              -> not due
	`},
	{"the sequence of the view was skipped: nothing can be said", `
		attach A 2           -> resync: first look at the log
		begin A 2
		follow 1             -> more to come
		record 2 a left 0    -> apply, swept
		ask
		view A 4 has 9       -> in step
		record 5 b left 0    -> apply
		tally 2              -> in step
	`},
	{"a purge", `
		attach A 3           -> resync: first look at the log
		begin A 3
		follow 3             -> more to come
		record 1 a left 2    -> apply
		record 2 b left 1    -> apply
		record 3 c left 0    -> apply, swept
		ask
		view A 3 has 2       -> in step
		tally 3              -> resync: records were removed from the stream
		attach A 3           -> verify
		begin A 3
		follow 2             -> more to come
		record 1 a left 1    -> apply
		record 3 c left 0    -> apply, swept
		ask
		view A 3 has 2       -> in step
		tally 2              -> in step
	`},
	{"a purge of everything, after which the server knows the last sequence", `
		attach A 2           -> resync: first look at the log
		begin A 2
		follow 2             -> more to come
		record 1 a left 1    -> apply
		record 2 b left 0    -> apply, swept
		ask
		view A 2 has 0       -> in step
		tally 2              -> resync: records were removed from the stream
	`},
	{"records that are about to be removed may be missing", `
		attach A 3           -> resync: first look at the log
		begin A 3
		follow 1             -> more to come
		record 3 a left 0    -> apply, swept
		ask
		view A 3 has 2       -> in step
		tally 2..4           -> in step
		ask
		view A 3 has 4       -> in step
		tally 2..4           -> in step
		ask
		view A 3 has 1       -> in step
		tally 2..4           -> resync: records were removed from the stream
	`},
	{"a difference that a resync does not mend is damage, for which the log is read again ever more seldom", `
		attach A 3           -> resync: first look at the log
		begin A 3
		follow 1             -> more to come
		record 3 a left 0    -> apply, swept
		ask
		view A 3 has 2       -> in step
		tally 1              -> resync: records were removed from the stream
		begin A 3
		follow 1             -> more to come
		record 3 a left 0    -> apply, swept
		ask
		view A 3 has 2       -> in step
		tally 1              -> in step
		ask
		view A 3 has 2       -> in step
		tally 1              -> resync: records were removed from the stream
		begin A 3
		follow 1             -> more to come
		record 3 a left 0    -> apply, swept
		state                -> A/3, epoch 3, live, damage +1
		ask
		view A 3 has 2       -> in step
		tally 1              -> in step
		ask
		view A 3 has 2       -> in step
		tally 1..2           -> in step
		ask
		view A 3 has 2       -> in step
		tally 1              -> in step
		ask
		view A 3 has 2       -> in step
		tally 1              -> in step
		ask
		view A 3 has 2       -> in step
		tally 1              -> resync: records were removed from the stream
	`},
	{"a difference after a resync is damage until it is gone, and a new one is another", `
		attach A 3           -> resync: first look at the log
		begin A 3
		follow 1             -> more to come
		record 3 a left 0    -> apply, swept
		ask
		view A 3 has 2       -> in step
		tally 1              -> resync: records were removed from the stream
		begin A 3
		follow 1             -> more to come
		record 3 a left 0    -> apply, swept
		ask
		view A 3 has 2       -> in step
		tally 1              -> in step
		state                -> A/3, epoch 2, live, damage +1
		ask
		view A 3 has 3       -> in step
		tally 1              -> resync: records were removed from the stream
		begin A 3
		follow 1             -> more to come
		record 3 a left 0    -> apply, swept
		ask
		view A 3 has 3       -> in step
		tally 1              -> in step
		state                -> A/3, epoch 3, live, damage +2
		ask
		view A 3 has 1       -> in step
		tally 1              -> in step
		state                -> A/3, epoch 3, live
		ask
		view A 3 has 3       -> in step
		tally 1              -> resync: records were removed from the stream
	`},
	{"an acknowledged write that never came", `
		attach A 3               -> resync: first look at the log
		begin A 3
		follow 1                 -> more to come
		record 3 a left 0        -> apply, swept
		ask
		view A 3 has 2           -> in step
		tally 1..2 unconfirmed 4 -> in step
		record 5 b left 0        -> apply
		ask
		view A 5 has 3           -> in step
		tally 2..3 unconfirmed 4 -> resync: an acknowledged write is not in the log
	`},
	{"landmarks: the last record was replaced, the one before is there", `
		attach A 2           -> resync: first look at the log
		begin A 2
		follow 2             -> more to come
		record 1 a left 1    -> apply
		record 2 b left 0    -> apply, swept
		attach A 3           -> verify
		sight 2 last 3       -> ignore
		sight 1 same         -> in step
	`},
	{"landmarks: a record is gone, and nothing new has replaced it", `
		attach A 2           -> resync: first look at the log
		begin A 2
		follow 2             -> more to come
		record 1 a left 1    -> apply
		record 2 b left 0    -> apply, swept
		attach A 2           -> verify
		sight 2 last 0       -> resync
		sight 2 last 1       -> resync
		sight 2 last 2       -> resync
	`},
	{"landmarks: one that has expired says nothing", `
		attach A 2                -> resync: first look at the log
		begin A 2
		follow 2                  -> more to come
		record 1 a left 1         -> apply
		record 2 b left 0 until 50 -> apply, swept
		attach A 2                -> verify
		sight 2 last 0 now 49     -> resync
		sight 2 last 0 now 50     -> ignore
		sight 2 last 1 now 50     -> resync
		sight 1 same              -> in step
	`},
}

func TestCursor(t *testing.T) {
	for _, s := range cursorScripts {
		t.Run(s.name, func(t *testing.T) {
			p := &scriptPlayer{landmarks: make(map[uint64]landmark)}
			for line := range strings.Lines(s.script) {
				event, want, _ := strings.Cut(strings.TrimSpace(line), "->")
				event, want = strings.TrimSpace(event), strings.TrimSpace(want)
				if event == "" {
					continue
				}
				if got := p.play(t, event); got != want {
					t.Fatalf("%s\n\tgives %q\n\tnot   %q", event, got, want)
				}
			}
		})
	}
}

// scriptPlayer plays the part of Feed.
type scriptPlayer struct {
	cursor    cursor
	consumer  uint64
	landmarks map[uint64]landmark
}

var verdictNames = map[verdict]string{
	inStep: "in step", apply: "apply", ignore: "ignore", gap: "gap", verify: "verify", resync: "resync",
}

func told(v verdict, why string) string {
	if why == "" {
		return verdictNames[v]
	}
	return verdictNames[v] + ": " + why
}

func (p *scriptPlayer) play(t *testing.T, event string) string {
	verb, args, _ := strings.Cut(event, " ")
	var v View
	switch verb {
	case "attach":
		scan(t, args, "%s %d", &v.Incarnation, &v.Last)
		p.consumer = 0
		return told(p.cursor.attach(v))
	case "begin":
		scan(t, args, "%s %d", &v.Incarnation, &v.Last)
		p.cursor.begin(v)
	case "follow":
		var pending uint64
		scan(t, args, "%d", &pending)
		return p.follow(pending)
	case "hole":
		p.consumer++
	case "record":
		return p.record(t, args)
	case "ask":
		p.cursor.ask()
		if args == "now" {
			p.cursor.hasten()
		}
	case "view":
		scan(t, args, "%s %d has %d", &v.Incarnation, &v.Last, &v.Subjects)
		return told(p.cursor.inspect(v))
	case "tally":
		return p.tally(t, args)
	case "sight":
		return p.sight(t, args)
	case "state":
		return p.state()
	default:
		t.Fatalf("no such event: %s", event)
	}
	return ""
}

// scan reads the arguments of an event, all of them.
func scan(t *testing.T, args, format string, into ...any) {
	t.Helper()
	if _, err := fmt.Sscanf(args, format, into...); err != nil {
		t.Fatalf("%q is not %q: %v", args, format, err)
	}
}

func (p *scriptPlayer) follow(pending uint64) string {
	swept := p.cursor.following(pending)
	switch {
	case swept:
		return "swept"
	case p.cursor.live:
		return "caught up"
	}
	return "more to come"
}

func (p *scriptPlayer) record(t *testing.T, args string) string {
	args, until, _ := strings.Cut(args, " until ")
	var l landmark
	var pending uint64
	scan(t, args, "%d %s left %d", &l.revision, &l.subject, &pending)
	if until != "" {
		scan(t, until, "%d", &l.keptUntil)
	}
	p.consumer++
	what := p.cursor.delivered(l.revision, p.consumer)
	if what != apply {
		return told(what, "")
	}
	p.landmarks[l.revision] = l
	if p.cursor.applied(l, pending) {
		return "apply, swept"
	}
	return "apply"
}

func (p *scriptPlayer) tally(t *testing.T, args string) string {
	if !p.cursor.due() {
		return "not due"
	}
	args, unconfirmed, _ := strings.Cut(args, " unconfirmed ")
	var tally Tally
	least, most, ranged := strings.Cut(args, "..")
	if !ranged {
		most = least
	}
	scan(t, least, "%d", &tally.Least)
	scan(t, most, "%d", &tally.Most)
	if unconfirmed != "" {
		scan(t, unconfirmed, "%d", &tally.Unconfirmed)
	}
	return told(p.cursor.check(tally))
}

func (p *scriptPlayer) sight(t *testing.T, args string) string {
	args, now, _ := strings.Cut(args, " now ")
	var s sighting
	var revision uint64
	if _, err := fmt.Sscanf(args, "%d last %d", &revision, &s.last); err != nil {
		scan(t, args, "%d same", &revision)
		s.same = true
	}
	if now != "" {
		scan(t, now, "%d", &s.now)
	}
	return told(p.cursor.recognise(p.landmarks[revision], s), "")
}

func (p *scriptPlayer) state() string {
	c := &p.cursor
	s := fmt.Sprintf("%v, epoch %d, ", c.at, c.epoch)
	switch {
	case c.live:
		s += "live"
	case c.resyncing:
		s += fmt.Sprintf("resyncing to %d", c.target)
	default:
		s += fmt.Sprintf("following to %d", c.target)
	}
	if damage := c.doubt.damage(); damage != 0 {
		s += fmt.Sprintf(", damage %+d", damage)
	}
	return s
}

func TestRecent(t *testing.T) {
	var r recent
	r.newest(func(landmark) bool {
		t.Error("an empty ring has a landmark")
		return true
	})
	const size = uint64(len(r.ring))
	for i := range size + 10 {
		r.add(landmark{subject: fmt.Sprint(i % 200), revision: i})
	}
	r.add(landmark{subject: "200", revision: size + 10})
	r.add(landmark{subject: fmt.Sprint(size + 9), revision: size + 11}) // again
	var got []uint64
	for l := range r.newest {
		got = append(got, l.revision)
	}
	// The newest of each subject, and nothing that has left the ring.
	want := []uint64{size + 11, size + 10}
	for i := size + 8; i >= 12; i-- {
		want = append(want, i)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("newest yields\n%v, not\n%v", got, want)
	}
	for l := range r.newest {
		if l.revision != size+11 {
			t.Error("newest goes on after the loop has ended")
		}
		break
	}
}
