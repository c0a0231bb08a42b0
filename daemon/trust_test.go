package daemon_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/identity"
)

// TestTrustDials: whom an admin trusts is dialled at once, however long the next attempt
// would have to wait.
func TestTrustDials(t *testing.T) {
	h := run(t, fmt.Sprintf(`name = "server1"
[[interface]]
kind = "unix"
bind = %q
[[peer]]
name = "server2"
key = %q
[[peer.link]]
kind = "unix"
remote = "/nowhere"
timeout = "0s"
`, t.TempDir()+"/chat.sock", identity.KeyFromSeed([32]byte{2}).Public()))
	until := func(what string, is func(p control.Peer) bool) {
		t.Helper()
		for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
			all, err := h.Peers(t.Context())
			if err != nil || len(all) != 1 {
				t.Fatal(all, err)
			}
			if is(all[0]) {
				return
			}
			if time.Since(began) > 20*time.Second {
				t.Fatalf("%s: %+v", what, all[0])
			}
		}
	}
	until("it waits", func(p control.Peer) bool { return time.Until(p.Next) > time.Second })
	before := time.Now()
	if _, err := h.TrustPeer(t.Context(), "server2"); err != nil {
		t.Fatal(err)
	}
	until("it is dialled", func(p control.Peer) bool { return !p.Next.IsZero() && time.Until(p.Next) < 200*time.Millisecond })
	if d := time.Since(before); d > 500*time.Millisecond {
		t.Errorf("it takes %v", d)
	}
}
