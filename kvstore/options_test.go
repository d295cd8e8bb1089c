package kvstore

import (
	"errors"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"
)

func TestOptionsCheck(t *testing.T) {
	conn := new(nats.Conn)
	for _, test := range []struct {
		name  string
		opts  Options
		valid bool
	}{
		{"zero", Options{}, true},
		{"Dir", Options{Dir: "d"}, true},
		{"URL", Options{URL: "nats://host:4222"}, true},
		{"several URLs", Options{URL: "host:4222, tls://user:pw@other"}, true},
		{"Conn", Options{Conn: conn}, true},
		{"Dir and URL", Options{Dir: "d", URL: "u"}, false},
		{"Dir and Conn", Options{Dir: "d", Conn: conn}, false},
		{"URL and Conn", Options{URL: "u", Conn: conn}, false},
		{"all three", Options{Dir: "d", URL: "u", Conn: conn}, false},
		{"URL that is none", Options{URL: "nats://a\x00b"}, false},
		{"Memory", Options{Memory: true}, true},
		{"Memory on a server", Options{Memory: true, Conn: conn}, true},
		{"NATS with URL", Options{URL: "u", NATS: []nats.Option{nats.Name("n")}}, true},
		{"NATS without URL", Options{NATS: []nats.Option{nats.Name("n")}}, false},
		{"Exclusive in a Dir", Options{Dir: "d", Exclusive: true}, true},
		{"Exclusive without Dir", Options{Exclusive: true}, false},
		{"Exclusive at a URL", Options{Exclusive: true, URL: "u"}, false},
		{"Memory and Dir", Options{Memory: true, Dir: "d"}, false},
		{"power loss", Options{Durability: SurvivePowerLoss, Dir: "d"}, true},
		{"power loss in memory", Options{Durability: SurvivePowerLoss}, false},
		{"power loss, URL", Options{Durability: SurvivePowerLoss, URL: "u"}, false},
		{"power loss, Conn", Options{Durability: SurvivePowerLoss, Conn: conn}, false},
		{"no Durability", Options{Durability: 2, Dir: "d"}, false},
		{"crash, URL", Options{Durability: SurviveCrash, URL: "u"}, true},
		{"one replica", Options{Replicas: 1}, true},
		{"replicas alone", Options{Replicas: 3}, false},
		{"replicas in a Dir", Options{Replicas: 3, Dir: "d"}, false},
		{"replicas", Options{Replicas: 5, URL: "u"}, true},
		{"too many replicas", Options{Replicas: 6, URL: "u"}, false},
		{"negative replicas", Options{Replicas: -1, URL: "u"}, false},
		{"MaxBytes", Options{MaxBytes: 1}, true},
		{"negative MaxBytes", Options{MaxBytes: -1}, false},
		{"no cache", Options{CacheBytes: math.MinInt64}, true},
		{"CheckInterval", Options{CheckInterval: 10 * time.Millisecond}, true},
		{"short CheckInterval", Options{CheckInterval: 10*time.Millisecond - 1}, false},
		{"negative CheckInterval", Options{CheckInterval: -1}, false},
		{"long CheckInterval", Options{CheckInterval: time.Hour}, true},
		{"too long CheckInterval", Options{CheckInterval: time.Hour + 1}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.opts.check()
			if test.valid && err != nil {
				t.Fatal(err)
			}
			if !test.valid && !errors.Is(err, ErrInvalidOptions) {
				t.Fatalf("the error is %v", err)
			}
		})
	}
}

func TestOptionsDefaults(t *testing.T) {
	given := Options{}
	o := given.withDefaults()
	if o.CacheBytes != DefaultCacheBytes || o.Logger == nil {
		t.Errorf("defaults are %+v", o)
	}
	if !reflect.DeepEqual(given, Options{}) {
		t.Errorf("the caller's options were changed: %+v", given)
	}
	given.CacheBytes = -1
	if o := given.withDefaults(); o.CacheBytes != -1 {
		t.Errorf("CacheBytes is %d", o.CacheBytes)
	}
	for _, test := range []struct {
		opts   Options
		memory bool
	}{
		{Options{}, true},
		{Options{Dir: "d"}, false},
		{Options{URL: "u"}, false},
		{Options{Conn: new(nats.Conn)}, false},
		{Options{URL: "u", Memory: true}, true},
	} {
		if got := test.opts.replication().Memory; got != test.memory {
			t.Errorf("%+v: in memory is %v", test.opts, got)
		}
	}
}

// apply applies write options as Put does.
func apply(opts ...WriteOption) (change, error) {
	var c change
	for _, opt := range opts {
		if err := opt.write(&c); err != nil {
			return c, err
		}
	}
	return c, nil
}

func TestWriteOptions(t *testing.T) {
	soon := time.Now().Add(time.Hour)
	for _, test := range []struct {
		name string
		opts []WriteOption
		err  error
	}{
		{"none", nil, nil},
		{"TTL", []WriteOption{WithTTL(time.Second)}, nil},
		{"TTL of a nanosecond too little", []WriteOption{WithTTL(time.Second - 1)}, ErrInvalidExpiry},
		{"TTL of zero", []WriteOption{WithTTL(0)}, ErrInvalidExpiry},
		{"negative TTL", []WriteOption{WithTTL(math.MinInt64)}, ErrInvalidExpiry},
		{"longest TTL", []WriteOption{WithTTL(math.MaxInt64)}, nil},
		{"expiry", []WriteOption{WithExpiry(soon)}, nil},
		{"expiry in the past", []WriteOption{WithExpiry(time.Now())}, ErrInvalidExpiry},
		{"expiry of the zero time", []WriteOption{WithExpiry(time.Time{})}, ErrInvalidExpiry},
		{"expiry of 1970", []WriteOption{WithExpiry(time.Unix(0, 0))}, ErrInvalidExpiry},
		{"expiry at the end of 9999", []WriteOption{WithExpiry(latestExpiry)}, nil},
		{"expiry after 9999", []WriteOption{WithExpiry(latestExpiry.Add(1))}, ErrInvalidExpiry},
		{"expiry at the end of time", []WriteOption{WithExpiry(time.Unix(math.MaxInt64/2, 0))}, ErrInvalidExpiry},
		{"TTL and expiry", []WriteOption{WithTTL(time.Hour), WithExpiry(soon)}, ErrInvalidOptions},
		{"expiry and TTL", []WriteOption{WithExpiry(soon), WithTTL(time.Hour)}, ErrInvalidOptions},
		{"TTL twice", []WriteOption{WithTTL(time.Hour), WithTTL(time.Hour)}, ErrInvalidOptions},
		{"metadata", []WriteOption{WithMetadata("x")}, nil},
		{"metadata that is none", []WriteOption{WithMetadata(nil)}, nil},
		{"metadata that is no JSON", []WriteOption{WithMetadata(math.NaN())}, ErrInvalidMetadata},
		{"IfAbsent", []WriteOption{IfAbsent()}, nil},
		{"IfAbsent twice", []WriteOption{IfAbsent(), IfAbsent()}, nil},
		{"IfRevision", []WriteOption{IfRevision(1)}, nil},
		{"IfRevision twice", []WriteOption{IfRevision(1), IfRevision(1)}, nil},
		{"IfRevision of two", []WriteOption{IfRevision(1), IfRevision(2)}, ErrInvalidOptions},
		{"IfRevision of none", []WriteOption{IfRevision(0)}, ErrInvalidOptions},
		{"IfRevision and IfAbsent", []WriteOption{IfRevision(1), IfAbsent()}, ErrInvalidOptions},
		{"IfAbsent and IfRevision", []WriteOption{IfAbsent(), IfRevision(1)}, ErrInvalidOptions},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := apply(test.opts...); !errors.Is(err, test.err) {
				t.Fatalf("the error is %v, not %v", err, test.err)
			}
		})
	}
}

// The last of several metadata counts, also when it is none.
func TestWithMetadataReplaces(t *testing.T) {
	c, err := apply(WithMetadata("x"), WithMetadata(map[string]string{"a": "<&>"}))
	if err != nil || string(c.metadata) != `{"a":"<&>"}` {
		t.Errorf("metadata is %s, %v", c.metadata, err)
	}
	c, err = apply(WithMetadata("x"), WithMetadata(nil))
	if err != nil || c.metadata != nil {
		t.Errorf("metadata is %s, %v", c.metadata, err)
	}
}

func TestDeleteOptions(t *testing.T) {
	var c change
	if err := IfRevision(0).remove(&c); !errors.Is(err, ErrInvalidOptions) {
		t.Errorf("IfRevision(0): %v", err)
	}
	if err := IfRevision(3).remove(&c); err != nil || c.condition != (condition{ifRevision, 3}) {
		t.Errorf("IfRevision(3): %+v, %v", c.condition, err)
	}
	if err := IfRevision(4).remove(&c); !errors.Is(err, ErrInvalidOptions) {
		t.Errorf("two revisions: %v", err)
	}
}

func TestReadOptions(t *testing.T) {
	read := func(opts ...ReadOption) (o readOptions, err error) {
		for _, opt := range opts {
			err = errors.Join(err, opt.read(&o))
		}
		return o, err
	}
	if o, err := read(AtLeast(3), AtLeast(7), AtLeast(5)); err != nil || o != (readOptions{atLeast: 7}) {
		t.Errorf("of several AtLeast: %+v, %v", o, err)
	}
	o, err := read(MaxStaleness(time.Minute), MaxStaleness(0), MaxStaleness(time.Hour))
	if err != nil || o != (readOptions{bounded: true}) {
		t.Errorf("of several MaxStaleness: %+v, %v", o, err)
	}
	if o, err := read(MaxStaleness(time.Minute)); err != nil || o != (readOptions{bounded: true, staleness: time.Minute}) {
		t.Errorf("MaxStaleness: %+v, %v", o, err)
	}
	if _, err := read(MaxStaleness(-1)); !errors.Is(err, ErrInvalidOptions) {
		t.Errorf("negative MaxStaleness: %v", err)
	}
}

func TestCeilMilli(t *testing.T) {
	for _, test := range []struct {
		t    time.Time
		want int64
	}{
		{time.Unix(0, 0), 0},
		{time.Unix(0, 1), 1},
		{time.Unix(0, 999_999), 1},
		{time.Unix(0, 1_000_000), 1},
		{time.Unix(0, 1_000_001), 2},
		{time.Unix(5, 999_999_999), 6000},
		{time.Unix(0, -1), 0},
		{time.Unix(0, -1_000_000), -1},
		{time.Unix(0, -1_000_001), -1},
		{latestExpiry, 253402300799_999},
		{time.UnixMilli(math.MaxInt64), math.MaxInt64},
		{time.UnixMilli(math.MaxInt64).Add(1), math.MaxInt64},
	} {
		if got := ceilMilli(test.t); got != test.want {
			t.Errorf("ceilMilli(%v) = %d, not %d", test.t, got, test.want)
		}
	}
}

func TestCeilMilliIsNear(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		at := time.Unix(rapid.Int64Range(-1<<40, 1<<40).Draw(rt, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(rt, "nanoseconds"))
		ms := time.UnixMilli(ceilMilli(at))
		if early := at.Sub(ms); early > 0 || early <= -time.Millisecond {
			rt.Fatalf("%v of %v", ms, at)
		}
	})
}
