package replication

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

func TestParseDelivery(t *testing.T) {
	want := delivery{seq: 7, consumerSeq: 3, stored: 1700000000123456789, pending: 4}
	for _, reply := range []string{
		"$JS.ACK.KV_b.nearkv-x.1.7.3.1700000000123456789.4",
		"$JS.ACK.hub.ACC.KV_b.nearkv-x.1.7.3.1700000000123456789.4.rnd",
		"$JS.ACK._.ACC.KV_b.nearkv-x.1.7.3.1700000000123456789.4", // without the token
	} {
		if got, ok := parseDelivery(reply); !ok || got != want {
			t.Errorf("%s is %+v, %v", reply, got, ok)
		}
	}
	for _, reply := range []string{
		"", "$JS.ACK.", "_INBOX.a.b", "$JS.ACK.KV_b.nearkv-x",
		"$JS.ACK.KV_b.nearkv-x.1.7.3.1700000000123456789",     // too short
		"$JS.ACK.A.KV_b.nearkv-x.1.7.3.1700000000123456789.4", // between the two forms
		"$JS.ACK.KV_b.nearkv-x.1.7.3.1700000000123456789.x",
		"$JS.ACK.KV_b.nearkv-x.1.-7.3.1700000000123456789.4",
		"$JS.ACK.KV_b.nearkv-x.1..3.1700000000123456789.4",
		"$JS.ACK.KV_b.nearkv-x.1.7.3.9223372036854775808.4", // no time of Go
		"$JS.ACK.KV_b.nearkv-x.1.7.3.99999999999999999999.4",
		"$js.ACK.KV_b.nearkv-x.1.7.3.1700000000123456789.4",
	} {
		if got, ok := parseDelivery(reply); ok {
			t.Errorf("%s is %+v", reply, got)
		}
	}
}

// What parseDelivery accepts, nats.go reads alike.
func FuzzParseDelivery(f *testing.F) {
	f.Add("$JS.ACK.KV_b.c.1.7.3.1700000000123456789.4")
	f.Add("$JS.ACK.hub.ACC.KV_b.c.1.7.3.1700000000123456789.4.rnd")
	f.Add("$JS.ACK._.ACC.KV_b.c.1.7.3.1700000000123456789.4")
	f.Add("$JS.ACK.........")
	f.Add("$JS.ACK..........." + strings.Repeat(".", 20))
	f.Add("")
	f.Fuzz(func(t *testing.T, reply string) {
		d, ok := parseDelivery(reply)
		if !ok {
			return
		}
		m := &nats.Msg{Reply: reply, Sub: &nats.Subscription{}}
		meta, err := m.Metadata()
		if err != nil {
			t.Fatalf("%q is %+v, and for nats.go %v", reply, d, err)
		}
		theirs := delivery{
			seq: meta.Sequence.Stream, consumerSeq: meta.Sequence.Consumer,
			stored: meta.Timestamp.UnixNano(), pending: meta.NumPending,
		}
		if d != theirs {
			t.Errorf("%q is %+v, and for nats.go %+v", reply, d, theirs)
		}
	})
}

// Exhaustive for small cases: any number of tokens, each of them bad once.
func TestParseDeliveryOfAnyLength(t *testing.T) {
	for tokens := range 16 {
		for bad := -1; bad < tokens; bad++ {
			parts := []string{"$JS", "ACK"}
			for i := range tokens {
				part := fmt.Sprint(i)
				if i == bad {
					part = "x"
				}
				parts = append(parts, part)
			}
			reply := strings.Join(parts, ".")
			_, ok := parseDelivery(reply)
			first := 3 // of the four numbers
			if tokens > 7 {
				first = 5
			}
			want := (tokens == 7 || tokens >= 9) && (bad < first || bad >= first+4)
			if ok != want {
				t.Errorf("%s: %v, not %v", reply, ok, want)
			}
		}
	}
}
