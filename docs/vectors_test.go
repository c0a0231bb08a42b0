package docs

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/wire"
)

// TestLinkBytes: the bytes of section 9.6 of the protocol are those that servers send.
func TestLinkBytes(t *testing.T) {
	key := identity.KeyFromSeed([32]byte{1})
	a := wire.Announcement{Name: "server1", Key: key.Public(), Epoch: 3, Number: 1, Public: []string{"203.0.113.5:10001"}}
	announcement := a.Sign(key)
	id := func(n uint64) (b [8]byte) {
		for i := range b {
			b[i] = byte(n >> (56 - 8*i))
		}
		return b
	}(uint64(key.Public().DeviceID()))
	server1 := wire.ServerID{Name: "server1", Key: id}
	told := wire.AppendRoutes(nil, &wire.Routes{Updates: []wire.RouteUpdate{{ServerID: server1, Epoch: 3, Number: 1, Metric: 10, Announcement: announcement}}})
	gone := wire.AppendRoutes(nil, &wire.Routes{Updates: []wire.RouteUpdate{{ServerID: server1, Metric: 65535}}})
	asked := wire.AppendRoutes(nil, &wire.Routes{Requests: []wire.RouteRequest{{ServerID: server1, Epoch: 3, Number: 1, Hops: 64}}})

	proofs := message.Prove(key.Sign, [][]byte{[]byte("one"), []byte("two"), []byte("three")})
	head := wire.AppendEnvelope(nil, wire.Transit{Age: 7, Open: 1, Passage: message.Passage{Hops: 9, Path: message.Path{{Server: "server1"}}.Pack(), Proof: proofs[2]}}, []byte("three")) // the proof needs no envelope

	text := read(t, "protocol.md")
	at := strings.Index(text, "### 9.6")
	if at < 0 {
		t.Fatal("there is no section 9.6")
	}
	text = strings.Join(strings.Fields(text[at:]), "")
	for name, b := range map[string][]byte{"announcement": announcement, "told": told[:28], "gone": gone, "asked": asked, "envelope": head} {
		if h := hex.EncodeToString(b); !strings.Contains(text, h) {
			t.Errorf("%s is not there: %s", name, h)
		}
	}
	if k := hex.EncodeToString(func() []byte { p := key.Public(); return p[:] }()); !strings.Contains(text, k) {
		t.Errorf("the key is not there: %s", k)
	}
}
