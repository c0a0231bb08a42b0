package peer_test

import (
	"strings"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/transport"
)

// TestSlowLink: over a link between servers on a slow line what is large goes both ways,
// whoever has dialled, and its acks come back.
func TestSlowLink(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.lay("a", "b", 0, transport.Properties{Rate: 9600, Latency: 300 * time.Millisecond})
		time.Sleep(time.Minute)
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b").come()
		for _, c := range [][2]*person{{alice, bob}, {bob, alice}} {
			by, to := c[0], c[1]
			m := by.sendFile("a file", message.PartSize+1, 0, to)
			time.Sleep(10 * time.Second)
			start := time.Now()
			text := strings.Repeat("x", 60<<10-200)
			by.learns(by.send(text, to), to, message.Delivered)
			by.learns(m, to, message.Delivered)
			if took := time.Since(start); took > 3*time.Minute { // 2 at full speed
				t.Errorf("from %s to %s it takes %v", by.name, to.name, took)
			}
			to.has(text, "a file")
		}
	})
}
