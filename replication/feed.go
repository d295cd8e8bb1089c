package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/nearkv/nearkv/codec"
)

// Replica is what a Feed keeps up to date. The Feed calls it from one
// goroutine, one call at a time, and reads on only when the call has returned.
type Replica interface {
	// Apply is given every record of the log in order of revision, the foreign
	// and the damaged ones too. In one epoch a record may not be applied over a
	// newer one of its key; what an earlier epoch left gives way to any.
	Apply(epoch uint64, m Message)
	// ApplyAll is given records that are to become visible at once, as Apply is.
	ApplyAll(epoch uint64, ms []Message)
	// Sweep ends a resync: what was not applied in this epoch does not exist.
	Sweep(epoch uint64)
	// Landmarks returns records that the replica holds, none with a revision beyond
	// upTo, from the newest to older ones, spread over all of them.
	Landmarks(upTo uint64) []Landmark
	// Holds reports whether the replica holds a record, or one that is newer than
	// upTo. It is asked about records up to upTo that the log tells of again.
	Holds(m *Message, upTo uint64) bool
	// Applied is called when the replica has been given all that has arrived, up to at,
	// and is Live.
	Applied(at Position)
	// Tally says what the replica believes to be in the log. now is a moment by
	// the server's clock.
	Tally(now time.Time) Tally
}

// Feed follows a Log on behalf of one Replica, from the first record on, for
// as long as it is not closed. All methods may be called concurrently.
type Feed struct {
	log     *Log
	replica Replica
	stop    context.CancelCauseFunc
	done    chan struct{}

	nudges chan struct{} // of capacity 1: inspect now
	doubts chan string   // of capacity 1: resync, for this reason

	// Owned by the goroutine of run.
	cursor   cursor
	restart  string    // why the next attach must be a resync
	askedAt  time.Time // when the view that is awaited was asked for
	askAgain bool      // ask for another view when that has come
	lookedAt time.Time // when the view was asked for that told the end of the log, cursor.target
	viewed   bool      // a view has come since the last tick
	stalled  bool      // records that the server counts do not come
	silent   int       // ticks in a row without a view, or without a sign of the tap
	again    bool      // the log that is read anew is the one that was followed, and has copies
	past     time.Time // since when views tell of a log that ends before what was delivered; zero: they do not

	applied atomic.Uint64 // cursor.at.Sequence, after the replica has applied it
	head    atomic.Uint64
	waiting atomic.Int32 // len(waiters), read without mu

	mu       sync.Mutex // held for moments only
	status   Status
	loss     string // what the log lacks; "": nothing
	epoch    uint64
	attached chan struct{} // closed while the log is followed
	refused  error         // what keeps the log from being followed and does not pass by itself; nil: nothing does
	refusal  chan struct{} // closed while there is such an error
	changed  chan struct{} // closed, and renewed, when the state changes
	waiters  map[chan struct{}]uint64
}

// Follow starts to follow the log.
func (l *Log) Follow(r Replica) *Feed {
	ctx, stop := context.WithCancelCause(context.Background())
	f := &Feed{
		log: l, replica: r, stop: stop, done: make(chan struct{}),
		nudges: make(chan struct{}, 1), doubts: make(chan string, 1),
		status:   Status{State: Syncing, Since: time.Now(), Reason: "not connected yet"},
		attached: make(chan struct{}), refusal: make(chan struct{}), changed: make(chan struct{}), waiters: make(map[chan struct{}]uint64),
	}
	go f.run(ctx)
	return f
}

// Close stops following and waits until it has. It is idempotent.
func (f *Feed) Close() {
	f.stop(ErrClosed)
	<-f.done
}

func (f *Feed) run(ctx context.Context) {
	defer close(f.done)
	retry := NewBackoff()
	for ctx.Err() == nil {
		down, err := f.log.link.wait(ctx)
		if errors.Is(err, ErrDisconnected) {
			f.detached(err)
			<-ctx.Done()
		}
		if err != nil {
			break
		}
		t, err := f.attach(ctx)
		if err == nil {
			began := time.Now()
			err = f.follow(ctx, t, down)
			t.close()
			if time.Since(began) > f.log.cfg.CheckInterval {
				retry.Reset()
			}
		}
		f.detached(err)
		f.rest(ctx, retry, err)
	}
	f.setState(Closed, "")
}

// errAgain asks for another attach.
var errAgain = errors.New("follow again")

// attach looks at the log, decides where to follow from and starts to.
func (f *Feed) attach(ctx context.Context) (*tap, error) {
	head := f.head.Load() // known of, also where reading the log anew has just begun
	looked := time.Now()
	view, err := f.log.view(ctx)
	if err != nil {
		return nil, err
	}
	if !f.believe(view, head) {
		return nil, fmt.Errorf("replication: %w: the leader is behind the replica", ErrUnavailable)
	}
	what, why := f.cursor.attach(view)
	f.lookedAt = looked
	if f.restart != "" {
		what, why = resync, f.restart
	}
	from := f.cursor.at.Sequence + 1
	if what == verify {
		if what, why, from, err = f.recognise(ctx, view); err != nil {
			return nil, err
		}
	}
	if what == resync {
		f.begin(view, why)
		from = 1
	}
	t, err := f.log.newTap(ctx, from)
	if err != nil {
		return nil, err
	}
	if err := f.begun(ctx, t, view); err != nil {
		t.close()
		return nil, err
	}
	f.publish()
	f.settle()
	f.setAttached()
	f.ask(t)
	return t, nil
}

// begun notes that the log is followed. A consumer that has nothing to deliver is at
// the end of the log, or it is on a server that has yet to catch up: the leader
// knows. It also knows when a consumer says that there is more, and delivers nothing:
// after a kill the server may count records that it has removed.
func (f *Feed) begun(ctx context.Context, t *tap, view View) error {
	pending := t.pending
	if at := f.cursor.at.Sequence; at < view.Last && (pending == 0 || f.stalled) {
		_, err := f.log.nextFrom(ctx, at+1)
		switch {
		case err == nil:
			pending = max(pending, 1)
		case errors.Is(err, ErrNoRecord):
			pending = 0
		default:
			return err
		}
	}
	f.stalled = false
	f.silent, f.viewed = 0, true
	f.note(view.Last)
	f.settled(f.cursor.following(pending))
	return nil
}

// deposed is how long a leader that has lost its followers can go on answering as
// if it led: the server lets 10 s pass.
const deposed = 15 * time.Second

// believe tells whether a view can be what it says, when the replica was at a
// sequence. Of a replicated log a leader
// that was deposed, and does not know it yet, tells the past; that is no rollback,
// unless it stays so.
func (f *Feed) believe(v View, at uint64) bool {
	if v.Replicas <= 1 || v.Incarnation != f.cursor.at.Incarnation || v.Last >= at {
		f.past = time.Time{}
		return true
	}
	if f.past.IsZero() {
		f.past = time.Now()
	}
	return time.Since(f.past) > deposed
}

func (f *Feed) begin(view View, why string) {
	level := slog.LevelWarn
	if f.cursor.epoch == 0 {
		level = slog.LevelDebug
	}
	f.log.cfg.Logger.Log(context.Background(), level, "nearkv: reading the whole log", "stream", f.log.stream, "reason", why)
	f.restart = ""
	f.again = view.Replicas > 1 && view.Incarnation == f.cursor.at.Incarnation && view.Last >= f.cursor.at.Sequence
	f.cursor.begin(view)
	f.head.Store(view.Last)
}

// recognise looks whether the log still has what was delivered last, and from
// where to follow it: from behind the last landmark that it has. What was
// delivered after that has been replaced, so nothing comes twice; if anything
// comes of what was passed already, the log is another one.
func (f *Feed) recognise(ctx context.Context, view View) (what verdict, why string, from uint64, err error) {
	for l := range f.cursor.recent.newest {
		s, err := f.sight(ctx, l, view)
		if err != nil {
			return 0, "", 0, err
		}
		if v := f.cursor.recognise(l, s); v == inStep {
			return inStep, "", l.revision + 1, nil
		} else if v == resync {
			return resync, "the log has lost or changed records", 1, nil
		}
	}
	if view.Replicas > 1 {
		// All that was delivered last has been replaced since, by what is still to
		// come. On one server that can hide a rollback; a quorum does not forget.
		return inStep, "", f.cursor.at.Sequence + 1, nil
	}
	return f.recogniseOlder(ctx, view)
}

// recogniseOlder looks for the newest of the records of the replica that the log
// still has, and has the log followed from there. What comes again has to be what the
// replica holds. So a log is not read from its start because a few keys are written
// again and again.
func (f *Feed) recogniseOlder(ctx context.Context, view View) (what verdict, why string, from uint64, err error) {
	for _, older := range f.replica.Landmarks(f.cursor.visible()) {
		l := landmark{f.log.prefix + codec.Subject(older.Key), older.Revision, older.Stored, older.KeptUntil}
		s, err := f.sight(ctx, l, view)
		if err != nil {
			return 0, "", 0, err
		}
		if f.cursor.recognise(l, s) == inStep {
			f.cursor.reread = l.revision + 1
			return inStep, "", l.revision + 1, nil
		}
	}
	return resync, "the log cannot be recognised", 1, nil
}

// Landmark is a record that a replica holds, by which it recognises a log.
type Landmark struct {
	Key       string
	Revision  uint64
	Stored    int64 // unix nanoseconds
	KeptUntil int64 // unix milliseconds; 0: forever
}

func (f *Feed) sight(ctx context.Context, l landmark, view View) (sighting, error) {
	s := sighting{now: view.Taken.UnixMilli()}
	m, err := f.log.loadLeader(ctx, revisionQuery(l.revision)) // a mirror may have what the log has lost
	legible := utf8.ValidString(l.subject)                     // the leader answers in JSON
	if err == nil && (m.Subject == l.subject || !legible) && m.Stored.UnixNano() == l.stored {
		s.same = true
		return s, nil
	}
	if err != nil && !errors.Is(err, ErrNoRecord) {
		return s, err
	}
	m, err = f.log.lastOf(ctx, l.subject)
	if errors.Is(err, ErrNoRecord) {
		return s, nil
	}
	s.last = m.Revision
	return s, err
}

var (
	errDisconnected = errors.New("disconnected")
	errSilent       = errors.New("the server does not answer")
)

// follow applies what the tap delivers until that breaks.
func (f *Feed) follow(ctx context.Context, t *tap, down <-chan struct{}) error {
	tick := time.NewTicker(f.log.cfg.CheckInterval)
	defer tick.Stop()
	for {
		var err error
		select {
		case m := <-t.msgs:
			err = f.receive(t, m)
		case <-tick.C:
			err = f.inspect(t)
		case <-f.nudges:
			f.askNow(t)
		case why := <-f.doubts:
			err = f.doubt(why)
		case <-down:
			err = errDisconnected
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// doubt begins a resync, unless one is under way: until that ends it is no wonder
// that the replica has what the log has no more, and who begins anew whenever
// somebody comes across that never ends.
func (f *Feed) doubt(why string) error {
	if f.cursor.resyncing {
		return nil
	}
	f.restart = why
	return errAgain
}

// receive handles one message and whatever else has come meanwhile.
func (f *Feed) receive(t *tap, m *nats.Msg) error {
	err := f.handle(t, m)
	for n := len(t.msgs); n > 0 && err == nil; n-- {
		err = f.handle(t, <-t.msgs)
	}
	if err == nil {
		f.pursue(t)
		f.tellApplied()
	}
	return err
}

func (f *Feed) tellApplied() {
	if f.cursor.live && !f.cursor.hold.sweep { // before that the replica has records of an earlier epoch
		f.replica.Applied(Position{f.cursor.at.Incarnation, f.cursor.visible()})
	}
}

// pursue asks for what ends the keeping back of records.
func (f *Feed) pursue(t *tap) {
	switch view, next := f.cursor.wants(); {
	case view:
		f.askNow(t)
	case next:
		_ = t.askNext(f.cursor.look()) // if it cannot be sent, the link or the silence will tell
	}
}

func (f *Feed) handle(t *tap, m *nats.Msg) error {
	if m.Reply != "" {
		if d, ok := parseDelivery(m.Reply); ok {
			return f.deliver(t, m, d)
		}
	}
	switch t.kind(m) {
	case latestView:
		err := f.view(m)
		if err == nil && f.askAgain {
			f.askNow(t)
		}
		return err
	case nextRecord:
		f.seen(m)
		return nil
	case lateAnswer:
		return nil
	}
	return t.status(m)
}

// seen handles the answer to askNext.
func (f *Feed) seen(m *nats.Msg) {
	switch exists, err := f.log.parseNext(m); {
	case err != nil:
		f.cursor.unseen()
	default:
		f.settled(f.cursor.seen(exists))
		f.publish()
	}
}

func (f *Feed) deliver(t *tap, m *nats.Msg, d delivery) error {
	switch f.cursor.delivered(d.seq, d.consumerSeq) {
	case gap:
		return errAgain
	case resync:
		f.restart = "the log has records that it had not"
		return errAgain
	case confirm:
		if err := f.confirm(m, d); err != nil {
			return err
		}
		return t.taken()
	}
	if err := f.apply(m, d); err != nil {
		return err
	}
	if f.cursor.perhapsEnded() {
		f.askNow(t)
	}
	return t.taken()
}

func (f *Feed) apply(m *nats.Msg, d delivery) error {
	msg := f.log.message(m.Subject, d.seq, time.Unix(0, d.stored), m.Header, m.Data)
	if malformedHeader(m) {
		msg.damage(errHeader)
	}
	msg.Again = f.again && f.cursor.resyncing
	if !f.cursor.keep(&msg) {
		f.replica.Apply(f.cursor.epoch, msg)
	}
	wasLive := f.cursor.live
	f.settled(f.cursor.applied(landmark{subject: msg.Subject, revision: d.seq, stored: d.stored, keptUntil: msg.KeptUntil}, d.pending))
	f.note(d.seq)
	f.publish()
	if f.cursor.live != wasLive {
		f.settle()
	}
	return f.compare()
}

// confirm handles a record that comes again, see recogniseOlder.
func (f *Feed) confirm(m *nats.Msg, d delivery) error {
	msg := f.log.message(m.Subject, d.seq, time.Unix(0, d.stored), m.Header, m.Data)
	if !f.cursor.hold.has(d.seq) && !f.replica.Holds(&msg, f.cursor.visible()) {
		f.restart = "the log has records that the replica does not have"
		return errAgain
	}
	wasLive := f.cursor.live
	f.cursor.confirmed(d.pending)
	if f.cursor.live != wasLive {
		f.settle()
	}
	return nil
}

// settled applies what was kept back, if that is complete, and sweeps the replica
// if it has read the log to its end.
func (f *Feed) settled(swept bool) {
	ms, sweep := f.cursor.release()
	if len(ms) > 0 {
		f.replica.ApplyAll(f.cursor.epoch, ms)
	}
	if swept || sweep {
		f.replica.Sweep(f.cursor.epoch)
	}
	if len(ms) > 0 {
		f.settle()
	}
}

// inspect runs at every tick: it looks for signs of life and asks for the view.
func (f *Feed) inspect(t *tap) error {
	f.silent++
	if t.heard && f.viewed {
		f.silent = 0
	}
	t.heard, f.viewed = false, false
	if f.silent > 3 {
		return errSilent
	}
	f.cursor.tick()
	f.settled(false)
	f.publish()
	f.ask(t)
	f.pursue(t)
	return nil
}

func (f *Feed) ask(t *tap) {
	f.askAgain = false
	f.cursor.ask()
	f.askedAt = time.Now()
	_ = t.ask() // if it cannot be sent, the link or the silence will tell
}

// askNow is ask out of turn. While an answer is awaited it waits for that: who asks
// again and again would never get one, because only the last answer counts.
func (f *Feed) askNow(t *tap) {
	if f.cursor.asking {
		f.askAgain = true
		return
	}
	f.ask(t)
	f.cursor.hasten()
}

// view handles the answer to ask.
func (f *Feed) view(m *nats.Msg) error {
	f.viewed, f.cursor.asking = true, false
	view, err := f.log.parseView(m.Data)
	if err != nil {
		return err
	}
	if !f.believe(view, f.cursor.asked.sequence) {
		return nil
	}
	f.note(view.Last)
	switch what, why := f.cursor.inspect(view); what {
	case resync:
		f.restart = why
		return errAgain
	case gap:
		f.stalled = true
		return errAgain
	}
	f.settled(false)
	f.publish()
	if err := f.compare(); err != nil {
		return err
	}
	f.fresh(view.Last)
	return nil
}

// compare compares the number of records, if a view waits for that.
func (f *Feed) compare() error {
	if !f.cursor.due() || f.cursor.hold.active() {
		return nil
	}
	now := f.cursor.compare.Taken
	what, why := f.cursor.check(f.replica.Tally(now))
	if what == resync {
		f.restart = why
		return errAgain
	}
	f.settle()
	return nil
}

// fresh notes that all the log had when the view was asked for is applied.
func (f *Feed) fresh(last uint64) {
	if f.cursor.live && f.cursor.visible() >= last {
		f.freshen(f.askedAt)
	}
}

// Heard tells the feed of a revision that the log has acknowledged.
func (f *Feed) Heard(revision uint64) { f.note(revision) }

// note raises the known head of the log.
func (f *Feed) note(seq uint64) {
	for head := f.head.Load(); seq > head; head = f.head.Load() {
		if f.head.CompareAndSwap(head, seq) {
			return
		}
	}
}

// publish tells those who wait how far the replica is.
func (f *Feed) publish() {
	at := f.cursor.visible()
	f.applied.Store(at)
	if f.waiting.Load() == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for w, seq := range f.waiters {
		if seq <= at {
			close(w)
			f.forget(w)
		}
	}
}

// settle sets the state of a feed that is attached.
func (f *Feed) settle() {
	if f.cursor.live && f.cursor.visible() >= f.cursor.target {
		f.freshen(f.lookedAt) // before it is Live, which Open waits for
	}
	switch {
	case !f.cursor.live:
		f.setState(Syncing, "following the log")
	case f.cursor.hold.active():
		f.setState(Syncing, "waiting for the rest of a batch")
	case f.cursor.doubt.damage() != 0:
		f.setState(Degraded, fmt.Sprintf("the log counts %+d records beside those it delivers", f.cursor.doubt.damage()))
	default:
		f.setState(Live, "")
	}
}

func (f *Feed) setState(s State, reason string) {
	was, changed := f.enterState(s, reason)
	if !changed {
		return
	}
	level := slog.LevelInfo
	if s == Stale || s == Degraded {
		level = slog.LevelWarn
	}
	f.log.cfg.Logger.Log(context.Background(), level, "nearkv: replica is "+s.String(),
		"stream", f.log.stream, "was", was.String(), "reason", reason)
}

func (f *Feed) enterState(s State, reason string) (was State, changed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.Applied = f.cursor.at
	f.status.Resyncs = f.cursor.epoch
	was = f.status.State
	if was == s && f.status.Reason == reason {
		return was, false
	}
	changed = was != s
	if changed {
		f.status.Since = time.Now()
	}
	f.status.State, f.status.Reason = s, reason
	close(f.changed)
	f.changed = make(chan struct{})
	return was, changed
}

func (f *Feed) setAttached() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch = f.cursor.epoch
	f.status.Applied = f.cursor.at
	f.refuse(nil)
	close(f.attached)
}

// detached tells why the log is not followed at the moment.
func (f *Feed) detached(err error) {
	f.mu.Lock()
	if closed(f.attached) {
		f.attached = make(chan struct{})
	}
	f.refuse(err)
	f.mu.Unlock()
	if s, reason, ok := standing(err); ok {
		f.setState(s, reason)
	}
}

// Status returns how the feed stands now.
func (f *Feed) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.status
	if s.State == Live && f.loss != "" {
		s.State, s.Reason = Degraded, f.loss
	}
	s.Applied.Sequence = f.applied.Load()
	s.Head = max(f.head.Load(), s.Applied.Sequence)
	return s
}

func (f *Feed) incarnation() Incarnation {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status.Applied.Incarnation
}

func (f *Feed) freshen(at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if at.After(f.status.Fresh) {
		f.status.Fresh = at
	}
}

// Lose notes that the log lacks records that it should have. The feed is Degraded
// where it would be Live.
func (f *Feed) Lose(reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loss = reason
}

// Doubt makes the feed read the whole log again, because the caller has seen
// that the replica differs from it.
func (f *Feed) Doubt(reason string) {
	select {
	case f.doubts <- reason:
	default: // one is enough
	}
}

func (f *Feed) nudge() {
	select {
	case f.nudges <- struct{}{}:
	default:
	}
}
