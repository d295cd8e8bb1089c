package replication

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

// rawClient speaks the protocol of NATS itself: it can send what no library
// would.
type rawClient struct {
	conn net.Conn
	acks chan string // what comes to its inbox; closed with the connection
}

const rawInbox = "_RAW.inbox"

func dialRaw(t *testing.T, server nats.InProcessConnProvider) *rawClient {
	t.Helper()
	conn, err := server.InProcessConn()
	if err != nil {
		t.Fatal(err)
	}
	c := &rawClient{conn: conn, acks: make(chan string, 16)}
	ready := make(chan struct{})
	go c.read(ready)
	<-ready
	c.send(t, `CONNECT {"verbose":false,"headers":true,"no_responders":true,"protocol":1}`+"\r\nSUB "+rawInbox+" 1\r\n")
	return c
}

func (c *rawClient) send(t *testing.T, bytes string) {
	t.Helper()
	if _, err := io.WriteString(c.conn, bytes); err != nil {
		t.Fatal(err)
	}
}

// read handles what the server sends. It ends with the connection.
func (c *rawClient) read(ready chan<- struct{}) {
	defer close(c.acks)
	in := bufio.NewReader(c.conn)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		fields := strings.Fields(line)
		switch {
		case fields[0] == "INFO":
			if ready != nil {
				close(ready)
				ready = nil
			}
		case strings.HasSuffix(fields[0], "MSG"):
			var size int
			if _, err := fmt.Sscan(fields[len(fields)-1], &size); err != nil {
				return
			}
			payload := make([]byte, size+2)
			if _, err := io.ReadFull(in, payload); err != nil {
				return
			}
			c.acks <- string(payload[:size])
		}
	}
}

// publish stores a message and returns its sequence.
func (c *rawClient) publish(t *testing.T, subject, header, data string) uint64 {
	t.Helper()
	c.send(t, fmt.Sprintf("HPUB %s %s %d %d\r\n%s%s\r\n", subject, rawInbox, len(header), len(header)+len(data), header, data))
	var ack struct {
		Seq   uint64
		Error any
	}
	text := <-c.acks
	if err := json.Unmarshal([]byte(text), &ack); err != nil || ack.Seq == 0 {
		t.Fatalf("%q %q is not stored: %s", subject, header, text)
	}
	return ack.Seq
}

func (c *rawClient) close() {
	_ = c.conn.Close() // nothing of it is needed any more
	for range c.acks {
	}
}
