package kvstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore/kvstoretest"
	"github.com/nearkv/nearkv/replication/embedded"
)

// account is what most Views here are of.
type account struct {
	Name    string
	Balance int
	Tags    map[string]int
}

// countingCodec counts what it is asked to decode, by the bytes.
type countingCodec[T any] struct {
	codec.Codec[T]

	mu      sync.Mutex
	decoded map[string]int
}

func counting[T any](c codec.Codec[T]) *countingCodec[T] {
	return &countingCodec[T]{Codec: c, decoded: make(map[string]int)}
}

func (c *countingCodec[T]) Decode(data []byte) (T, error) {
	c.mu.Lock()
	c.decoded[string(data)]++
	c.mu.Unlock()
	return c.Codec.Decode(data)
}

// take returns the counts since the last call.
func (c *countingCodec[T]) take() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := maps.Clone(c.decoded)
	clear(c.decoded)
	return taken
}

func (c *countingCodec[T]) want(t *testing.T, want map[string]int) {
	t.Helper()
	if got := c.take(); !maps.Equal(got, want) {
		t.Errorf("decoded %v, want %v", got, want)
	}
}

func openForView(t testing.TB, opts Options) *Store {
	t.Helper()
	s, err := Open(context.Background(), "view", opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// openTwoForView opens two replicas of one namespace.
func openTwoForView(t testing.TB) [2]*Store {
	t.Helper()
	server, err := embedded.Start(context.Background(), embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	var stores [2]*Store
	for i := range stores {
		conn, err := nats.Connect("", nats.InProcessServer(server))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		stores[i] = openForView(t, Options{Conn: conn, Memory: true})
	}
	return stores
}

// putRaw writes bytes past the View.
func putRaw(t testing.TB, s *Store, key, value string, opts ...WriteOption) Revision {
	t.Helper()
	revision, err := s.Put(context.Background(), key, []byte(value), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func wantView[T any](t testing.TB, v *View[T], key string, want T) {
	t.Helper()
	if got, err := v.Get(context.Background(), key); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%s is %v, %v; want %v", key, got, err, want)
	}
}

// kept returns how many decoded values v has.
func kept[T any](v *View[T]) (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	table := *v.table.Load()
	for i := range table {
		if table[i].decoded.Load() != nil {
			n++
		}
	}
	return n
}

// What is put is what is got, whatever T is.
func TestViewKinds(t *testing.T) {
	s := openForView(t, Options{})
	ada := account{"Ada", 7, map[string]int{"vip": 1}}
	t.Run("struct", func(t *testing.T) { roundTrip(t, s, codec.MsgPack[account](), ada) })
	t.Run("pointer", func(t *testing.T) { roundTrip(t, s, codec.JSON[*account](), &ada) })
	t.Run("nil pointer", func(t *testing.T) { roundTrip(t, s, codec.MsgPack[*account](), nil) })
	t.Run("map", func(t *testing.T) { roundTrip(t, s, codec.MsgPack[map[string]int](), ada.Tags) })
	t.Run("any", func(t *testing.T) { roundTrip[any](t, s, codec.MsgPack[any](), int64(7)) })
	t.Run("string", func(t *testing.T) { roundTrip(t, s, codec.String(), "Ada") })
	t.Run("empty string", func(t *testing.T) { roundTrip(t, s, codec.String(), "") })
	t.Run("bytes", func(t *testing.T) { roundTrip(t, s, codec.Raw(), []byte("Ada")) })
	t.Run("empty bytes", func(t *testing.T) { roundTrip(t, s, codec.Raw(), []byte{}) })
}

func roundTrip[T any](t *testing.T, s *Store, c codec.Codec[T], value T) {
	ctx, v := t.Context(), NewView(s, c)
	revision, err := v.Put(ctx, "key", value, WithMetadata("m"))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // the later ones find what the first one has decoded
		got, e, err := v.GetEntry(ctx, "key", AtLeast(revision))
		if err != nil || !reflect.DeepEqual(got, value) || e.Revision() != revision || string(e.Metadata()) != `"m"` {
			t.Fatalf("got %#v of revision %d with %s, %v; want %#v of %d", got, e.Revision(), e.Metadata(), err, value, revision)
		}
		if plain, err := s.Get(ctx, "key"); err != nil || plain != e {
			t.Fatalf("the entry is %v, that of the Store is %v, %v", e, plain, err)
		}
	}
	if err := v.Delete(ctx, "key"); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Get(ctx, "key"); !errors.Is(err, ErrNotFound) || kept(v) != 0 {
		t.Fatalf("after Delete: %v, %d kept", err, kept(v))
	}
}

// A revision is decoded once, however many read it at once, and each View of a
// Store does it for itself.
func TestViewDecodesOnce(t *testing.T) {
	s := openForView(t, Options{})
	c, other := counting(codec.String()), counting(codec.String())
	v, independent := NewView(s, c), NewView(s, other)
	for _, value := range []string{"first", "second", ""} {
		putRaw(t, s, "key", value)
		var readers errgroup.Group
		for range 8 {
			readers.Go(func() error {
				for range 1000 {
					if got, err := v.Get(t.Context(), "key"); err != nil || got != value {
						return fmt.Errorf("got %q, %w; want %q", got, err, value)
					}
				}
				return nil
			})
		}
		if err := readers.Wait(); err != nil {
			t.Fatal(err)
		}
		wantView(t, independent, "key", value)
		c.want(t, map[string]int{value: 1})
		other.want(t, map[string]int{value: 1})
	}
}

// A Get of a View is as current as one of the Store: it never goes back, and sees
// what was written before it. What one revision is decoded to is the same for all.
func TestViewIsCurrent(t *testing.T) {
	s := openForView(t, Options{CacheBytes: 64}) // hardly anything stays
	c := counting(codec.String())
	v := NewView(s, c)
	const keys, rounds = 20, 50
	var written [keys]atomic.Int64
	var group errgroup.Group
	stop := make(chan struct{})
	for range 3 {
		group.Go(func() error {
			var seen [keys]int64
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				i := rand.IntN(keys)
				least := max(seen[i], written[i].Load())
				got, e, err := v.GetEntry(context.Background(), strconv.Itoa(i))
				if errors.Is(err, ErrNotFound) && least == 0 {
					continue
				}
				n, _ := strconv.ParseInt(got, 10, 64)
				if err != nil || n < least || e.Text() != got {
					return fmt.Errorf("key %d is %q (entry %q), %w; at least %d was written", i, got, e.Text(), err, least)
				}
				seen[i] = n
			}
		})
	}
	for round := range int64(rounds) {
		for i := range keys {
			putRaw(t, s, strconv.Itoa(i), strconv.FormatInt(round+1, 10))
			written[i].Store(round + 1)
		}
	}
	close(stop)
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// An entry that expires is gone from a View too, without a read meanwhile.
func TestViewExpiry(t *testing.T) {
	s := openForView(t, Options{})
	v := NewView(s, codec.String())
	expires := time.Now().Add(1500 * time.Millisecond)
	for key, value := range map[string]string{"key": "value", "empty": ""} {
		putRaw(t, s, key, value, WithExpiry(expires))
		wantView(t, v, key, value)
	}
	time.Sleep(time.Until(expires) + time.Millisecond)
	for _, key := range []string{"key", "empty"} {
		if _, err := v.Get(t.Context(), key); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", key, err)
		}
	}
	if n := kept(v); n != 0 {
		t.Errorf("%d values of gone keys are kept", n)
	}
}

// A hit allocates nothing, whether it is a value or an error.
func TestViewAllocs(t *testing.T) {
	ctx, s := t.Context(), openForView(t, Options{})
	v := NewView(s, codec.MsgPack[account]())
	if _, err := v.Put(ctx, "key", account{Name: "Ada"}); err != nil {
		t.Fatal(err)
	}
	putRaw(t, s, "broken", "\xc1")
	putRaw(t, s, "empty", "")
	for _, key := range []string{"key", "broken", "empty", "absent"} {
		if n := testing.AllocsPerRun(2000, func() { _, _ = v.Get(ctx, key) }); n != 0 {
			t.Errorf("Get of %q: %v allocations", key, n)
		}
	}
}

// A value that cannot be decoded is told as that, once tried; the key is as good
// as any.
func TestViewUndecodable(t *testing.T) {
	ctx, s := t.Context(), openForView(t, Options{})
	c := counting(codec.MsgPack[account]())
	v := NewView[account](s, c)
	for _, value := range []string{"\xc1", ""} {
		revision := putRaw(t, s, "key", value)
		for range 3 {
			got, e, err := v.GetEntry(ctx, "key")
			var failed *DecodeError
			if !errors.As(err, &failed) || failed.Key != "key" || failed.Revision != revision || failed.Err == nil ||
				!errors.Is(err, failed.Err) || !reflect.DeepEqual(got, account{}) || e.Text() != value {
				t.Fatalf("got %v, %q, %#v", got, e.Text(), err)
			}
		}
		c.want(t, map[string]int{value: 1})
	}
	_, err := v.Update(ctx, "key", func(account) (account, error) {
		t.Error("Update of what cannot be decoded")
		return account{}, nil
	})
	if failed := new(DecodeError); !errors.As(err, &failed) {
		t.Fatalf("Update: %v", err)
	}
	if _, err := v.Put(ctx, "key", account{Name: "Ada"}); err != nil {
		t.Fatal(err)
	}
	wantView(t, v, "key", account{Name: "Ada"})
}

type failingCodec struct {
	codec.Codec[string]
	panics atomic.Bool
}

var errFailing = errors.New("no")

func (*failingCodec) Append(dst []byte, _ string) ([]byte, error) { return dst, errFailing }

func (c *failingCodec) Decode([]byte) (string, error) {
	if c.panics.Load() {
		panic(errFailing)
	}
	return "wrong", errFailing
}

// What the codec refuses is not written; when it panics, so does the first read,
// and none after it takes that for a value.
func TestViewFailingCodec(t *testing.T) {
	ctx, s := t.Context(), openForView(t, Options{})
	c := new(failingCodec)
	v := NewView[string](s, c)
	for name, err := range map[string]error{
		"Put":    second(v.Put(ctx, "key", "value")),
		"Update": second(v.Update(ctx, "key", func(string) (string, error) { return "value", nil })),
	} {
		var refused *EncodeError
		if !errors.As(err, &refused) || refused.Key != "key" || !errors.Is(err, errFailing) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := s.Stats().Writes; n != 0 {
		t.Errorf("%d writes", n)
	}
	putRaw(t, s, "key", "value")
	c.panics.Store(true)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the first read does not panic")
			}
		}()
		_, _ = v.Get(ctx, "key")
	}()
	got, err := v.Get(ctx, "key")
	if failed := new(DecodeError); !errors.As(err, &failed) || got != "" {
		t.Errorf("the second read: %q, %v", got, err)
	}
}

func second[T any](_ T, err error) error { return err }

// Of updates anywhere none is lost and none happens twice.
func TestViewUpdate(t *testing.T) {
	stores := openTwoForView(t)
	const writers, updates = 4, 25
	var group errgroup.Group
	for _, s := range stores {
		v := NewView(s, codec.MsgPack[account]())
		for range writers {
			group.Go(func() error {
				for range updates {
					before := -1
					after, err := v.Update(context.Background(), "counter", func(a account) (account, error) {
						before = a.Balance
						a.Balance++
						return a, nil
					})
					if err != nil || after.Balance != before+1 {
						return fmt.Errorf("update from %d to %d: %w", before, after.Balance, err)
					}
				}
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, s := range stores {
		if err := s.Sync(context.Background()); err != nil {
			t.Fatal(err)
		}
		wantView(t, NewView(s, codec.MsgPack[account]()), "counter", account{Balance: 2 * writers * updates})
	}
	if stores[0].Stats().Conflicts+stores[1].Stats().Conflicts == 0 {
		t.Error("there was no conflict: this tested nothing")
	}
}

// An Update that does not succeed changes nothing, also not what readers share.
func TestViewUpdateRefused(t *testing.T) {
	ctx, s := t.Context(), openForView(t, Options{})
	v := NewView(s, codec.JSON[*account]())
	if _, err := v.Put(ctx, "key", &account{Tags: map[string]int{"a": 1}}); err != nil {
		t.Fatal(err)
	}
	wantView(t, v, "key", &account{Tags: map[string]int{"a": 1}})
	for _, refusal := range []error{errFailing, &ConflictError{Key: "of its own"}} {
		_, err := v.Update(ctx, "key", func(a *account) (*account, error) {
			a.Tags["a"]++ // it is its own
			return a, refusal
		})
		if err != refusal { //nolint:errorlint // it must be the same
			t.Errorf("the error is %v, the function's was %v", err, refusal)
		}
	}
	for _, opt := range []WriteOption{IfAbsent(), IfRevision(1)} {
		if _, err := v.Update(ctx, "key", nil, opt); !errors.Is(err, ErrInvalidOptions) {
			t.Errorf("with a condition: %v", err)
		}
	}
	wantView(t, v, "key", &account{Tags: map[string]int{"a": 1}})
}

// An Update that never wins ends with its context, and TestViewUpdateTries after
// some tries.
func TestViewUpdateEnds(t *testing.T) {
	s := openForView(t, Options{})
	v := NewView(s, codec.String())
	calls := 0
	interfere := func(string) (string, error) {
		calls++
		putRaw(t, s, "key", strconv.Itoa(calls))
		return "mine", nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := v.Update(ctx, "key", interfere)
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrConflict) {
		t.Errorf("when the context ends: %v", err)
	}
	if calls < 2 || calls >= updateTries {
		t.Errorf("%d tries in 100 ms", calls)
	}
	wantView(t, v, "key", strconv.Itoa(calls))
}

func TestViewUpdateTries(t *testing.T) {
	kvstoretest.Run(t, func(t *testing.T) {
		s := openForView(t, Options{CheckInterval: time.Hour})
		v, calls := NewView(s, codec.String()), 0
		_, err := v.Update(t.Context(), "key", func(string) (string, error) {
			calls++
			putRaw(t, s, "key", strconv.Itoa(calls))
			return "mine", nil
		})
		if !errors.Is(err, ErrConflict) || calls != updateTries {
			t.Errorf("after %d tries: %v", calls, err)
		}
	})
}

// The events of a Watch have what Get would return; what cannot be decoded does
// not end it.
func TestViewWatch(t *testing.T) {
	ctx, s := t.Context(), openForView(t, Options{})
	c := counting(codec.MsgPack[int]())
	v := NewView(s, c)
	if _, err := v.Put(ctx, "a", 1); err != nil {
		t.Fatal(err)
	}
	putRaw(t, s, "b", "\xc1")
	wantView(t, v, "a", 1)
	var got []string
	for e, err := range v.Watch(ctx, "") {
		if err != nil {
			t.Fatal(err)
		}
		var failed *DecodeError
		if e.Err != nil && !errors.As(e.Err, &failed) {
			t.Errorf("an event with %v", e.Err)
		}
		got = append(got, fmt.Sprint(e.Kind, " ", e.Entry.Key(), " ", e.Value, " ", failed != nil))
		switch len(got) {
		case 2:
			if _, err := v.Put(ctx, "b", 2); err != nil {
				t.Fatal(err)
			}
		case 3:
			if err := v.Delete(ctx, "b"); err != nil {
				t.Fatal(err)
			}
		}
		if len(got) == 4 {
			break
		}
	}
	want := []string{"put a 1 false", "put b 0 true", "put b 2 false", "delete b 0 false"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	c.want(t, map[string]int{"\x01": 1, "\xc1": 1, "\x02": 1})
	for _, err := range v.Watch(ctx, "\xff") {
		if !errors.Is(err, ErrInvalidKey) {
			t.Errorf("a watch of an invalid prefix: %v", err)
		}
	}
}

// What is kept is bounded by what the Store has in memory, and does not outlive
// its keys.
func TestViewBound(t *testing.T) {
	const keys = 3 * viewSpare
	name := strconv.Itoa
	t.Run("deleted", func(t *testing.T) {
		ctx, s := t.Context(), openForView(t, Options{})
		v := NewView(s, codec.String())
		for i := range keys {
			putRaw(t, s, name(i), "value")
			wantView(t, v, name(i), "value")
		}
		if n := kept(v); n != keys {
			t.Errorf("%d of %d values are kept", n, keys)
		}
		for i := range keys {
			if err := s.Delete(ctx, name(i)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := v.Get(ctx, "absent"); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		if n := kept(v); n != 0 {
			t.Errorf("%d values of deleted keys are kept", n)
		}
	})
	t.Run("evicted", func(t *testing.T) {
		s := openForView(t, Options{CacheBytes: 100 * 5})
		v := NewView(s, codec.String())
		for i := range keys {
			putRaw(t, s, name(i), "value")
			wantView(t, v, name(i), "value")
		}
		if n := kept(v); n > 2*100+viewSpare+100 {
			t.Errorf("%d values are kept; the Store has room for 100", n)
		}
	})
	t.Run("none held", func(t *testing.T) {
		s := openForView(t, Options{CacheBytes: -1})
		v := NewView(s, codec.String())
		putRaw(t, s, "key", "value")
		wantView(t, v, "key", "value")
		if n := kept(v); n != 0 {
			t.Errorf("%d values are kept, the Store keeps none", n)
		}
	})
}

// After Close a View says so.
func TestViewClosed(t *testing.T) {
	ctx, s := t.Context(), openForView(t, Options{})
	v := NewView(s, codec.String())
	putRaw(t, s, "key", "value")
	wantView(t, v, "key", "value")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"Get":    second(v.Get(ctx, "key")),
		"Put":    second(v.Put(ctx, "key", "value")),
		"Update": second(v.Update(ctx, "key", func(string) (string, error) { return "", nil })),
		"Delete": v.Delete(ctx, "key"),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func BenchmarkViewGet(b *testing.B) {
	const keys = 100_000
	ctx, s := b.Context(), openForView(b, Options{CheckInterval: time.Hour}) // it will not miss what is not in its log
	v := NewView(s, codec.MsgPack[account]())
	value, err := codec.MsgPack[account]().Append(nil, account{Name: "Ada Lovelace, of a hundred bytes or so, as the others are too", Balance: 7})
	if err != nil {
		b.Fatal(err)
	}
	names := make([]string, keys)
	for i := range names {
		names[i] = "user:" + strconv.Itoa(i)
		x := message(names[i], uint64(i+1), string(value))
		s.index.applyAhead(s.index.epoch, &x, x.Record.Value)
	}
	for _, name := range names {
		if _, err := v.Get(ctx, name); err != nil {
			b.Fatal(err)
		}
	}
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.01, 1, keys-1)
	drawn := make([]string, 1<<20)
	for i := range drawn {
		drawn[i] = names[zipf.Uint64()]
	}
	hot := []string{names[0]}
	for _, bm := range []struct {
		name  string
		drawn []string
	}{{"zipf", drawn}, {"hot", hot}} {
		b.Run("of=Store/keys="+bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := s.Get(ctx, bm.drawn[i&(len(bm.drawn)-1)]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("of=View/keys="+bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := v.Get(ctx, bm.drawn[i&(len(bm.drawn)-1)]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
