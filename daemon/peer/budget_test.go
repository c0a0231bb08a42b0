package peer_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/transport"
)

// TestBudget: what it costs two servers to talk over a slow line that is theirs alone, in bytes.
// The table in docs/protocol.md has these figures.
func TestBudget(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector takes ten times as long for these days, in which bytes are counted")
	}
	radio := transport.Properties{Rate: 1200, Latency: 2500 * time.Millisecond, Exclusive: true}
	bubble(t, func(t *testing.T, w *world) {
		w.add("server1", "server2", "server3")
		line := w.carried("server1", "server2")
		silence := func() {
			t.Helper()
			time.Sleep(24 * time.Hour)
			out, in := line.since()
			documented(t, "a day of silence between servers", fmt.Sprint(out+in))
		}
		w.lay("server1", "server2", 0, radio)
		w.link("server2", "server3", 0)
		time.Sleep(time.Hour)
		out, in := line.since()
		documented(t, "a link between servers comes up, all of it", fmt.Sprintf("%d + %d = %d", out, in, out+in))
		silence()
		alice, bob, carol := w.enter("alice", "server1").come(), w.enter("bob", "server2").come(), w.enter("carol", "server3").come()
		silence()
		// talk returns what one text of several costs there and back, when names have been said.
		talk := func(by, to *person) (there, back int64) {
			t.Helper()
			for range 5 {
				by.learns(by.send(strings.Repeat("a", 200), to), to, message.Delivered)
				time.Sleep(time.Hour)
				if there, back = line.since(); by != alice {
					there, back = back, there
				}
				t.Logf("from %s to %s: %d there, %d back", by.address(), to.address(), there, back)
			}
			return there, back
		}
		alice.learns(alice.send(strings.Repeat("a", 200), bob), bob, message.Delivered)
		time.Sleep(time.Hour)
		out, in = line.since()
		documented(t, "text of 200 bytes and its ack over such a link, the first between two people", fmt.Sprintf("%d + %d", out, in))
		for _, c := range [][2]*person{{alice, bob}, {bob, alice}} {
			there, back := talk(c[0], c[1])
			documented(t, "between the two homes, from the second on", fmt.Sprintf("%d + %d = %d", there, back, there+back))
			if there+back > 300 {
				t.Errorf("a text has %d bytes there and %d back", there, back)
			}
		}
		plain, ack := talk(alice, bob)
		there, back := talk(alice, carol)
		more := there - ack - plain // the ack is that of the receipt
		documented(t, "from one of the homes to a third server, the receipt, and their acks", fmt.Sprintf("%d + %d = %d: the text is longer by %d", there, back, there+back, more))
		if more > 64+16 {
			t.Errorf("a signature makes a text longer by %d bytes", more)
		}
		there, back = talk(carol, alice)
		documented(t, "the same from the third server", fmt.Sprintf("%d + %d = %d", there, back, there+back))
		silence()
	})
}

// documented fails unless the table of section 8 of the protocol has a row whose second column begins
// with a figure.
func documented(t *testing.T, row, figure string) {
	t.Helper()
	b, err := os.ReadFile("../../docs/protocol.md")
	check(t, err)
	for line := range strings.Lines(string(b)) {
		if columns := strings.Split(line, " | "); len(columns) > 1 && columns[0] == "| "+row {
			if got := strings.TrimPrefix(columns[1], figure); got == columns[1] || got != "" && !strings.ContainsAny(got[:1], ":,") {
				t.Errorf("%s: it is %s, and docs/protocol.md says %s", row, figure, columns[1])
			}
			return
		}
	}
	t.Errorf("docs/protocol.md has no row %q", row)
}
