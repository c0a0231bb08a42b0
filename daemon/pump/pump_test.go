package pump

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/relay"
	"github.com/noipchat/noipchat/daemon/spool"
	"github.com/noipchat/noipchat/daemon/wire"
)

// passing is a Side before whose envelopes a passage as large as there may be is put.
type passing struct{ Side }

func (passing) Stamp(out []Outgoing) {
	for i := range out {
		out[i].Envelope = out[i].Raw[message.MaxPassage:]
	}
}

// TestLargest: the largest envelope there may be, with the largest passage, goes into the
// smallest window there may be, and into the next record if something else is in this one,
// whatever that leaves.
func TestLargest(t *testing.T) {
	sp, err := spool.Open(t.TempDir(), spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for left := message.MaxEnvelope; left < wire.MaxPlain; left += 100 {
		q := sp.Queue(fmt.Sprint("server", left))
		greeting := wire.AppendRequest(nil, wire.Request{Number: 1, Op: wire.OpKeys, Args: []string{"x"}})
		greeting = bytes.Repeat(greeting, (wire.MaxPlain-left)/len(greeting)+1)
		p := New(nil, passing{}, Options{
			Relay: relay.New("server1", sp), Spool: sp, Theirs: wire.Window{Count: 9, Bytes: message.MaxEnvelope}, Start: time.Now(),
			Overhead: 500, Greeting: greeting,
		})
		p.Attach(q)
		var turn spool.Turn
		q.Put(&turn, spool.Put{Raw: make([]byte, message.MaxPassage+message.MaxEnvelope), Priority: message.Normal, Owner: p})
		records := 0
		for more := true; more; records++ {
			var b []byte
			if b, more = p.Fill(nil, wire.MaxPlain); len(b) > wire.MaxPlain {
				t.Fatalf("%d bytes in a record", len(b))
			}
		}
		if total, _ := p.Totals(); total.Given != 1 {
			t.Fatalf("with %d bytes before it, it isn't sent after %d records", len(greeting), records)
		}
	}
}
