package bench

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// maxPending is how many messages of a publisher wait for their acknowledgement.
const maxPending = 1 << 10

// A publisher publishes without waiting for each acknowledgement, and yet looks
// at all of them: the one that it waits for is that of maxPending messages ago.
type publisher struct {
	js    jetstream.JetStream
	acks  [maxPending]jetstream.PubAckFuture
	count int
}

func newPublisher(b *testing.B, conn *nats.Conn) *publisher {
	b.Helper()
	return &publisher{js: newJetStream(b, conn)}
}

func (p *publisher) publish(subject string, value []byte) error {
	slot := &p.acks[p.count%maxPending]
	if err := settle(*slot); err != nil {
		return err
	}
	ack, err := p.js.PublishAsync(subject, value)
	if err != nil {
		return err
	}
	*slot = ack
	p.count++
	return nil
}

// flush waits for all acknowledgements.
func (p *publisher) flush() error {
	for i := range p.acks {
		if err := settle(p.acks[i]); err != nil {
			return err
		}
		p.acks[i] = nil
	}
	return nil
}

// settle waits for an acknowledgement, if there is something to wait for. The
// client has no timeout of its own for it.
func settle(ack jetstream.PubAckFuture) error {
	if ack == nil {
		return nil
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-ack.Ok():
		return nil
	case err := <-ack.Err():
		return err
	case <-late.C:
		return errors.New("no acknowledgement")
	}
}

// publishAll writes the value of every key to the namespace "bench".
func (p *publisher) publishAll(d dataset) error {
	data := []byte(d.value)
	for _, key := range d.keys {
		if err := p.publish("$KV.bench."+key, data); err != nil {
			return err
		}
	}
	return p.flush()
}

// fill is publishAll, the way of any NATS client: it is faster than one Put after
// another.
func fill(b *testing.B, conn *nats.Conn, d dataset) {
	b.Helper()
	if err := newPublisher(b, conn).publishAll(d); err != nil {
		b.Fatal(err)
	}
}
