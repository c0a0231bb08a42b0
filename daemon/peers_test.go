package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/identity"
)

func neighbour(n byte) identity.PublicKey { return identity.KeyFromSeed([32]byte{n}).Public() }

// open opens a server that listens on a Unix socket only, with more in its
// configuration.
func open(t *testing.T, dir, more string) *Daemon {
	t.Helper()
	configure(t, dir, more)
	d, err := Open(t.Context(), Options{
		Config: filepath.Join(dir, "noipchat.toml"), State: filepath.Join(dir, "state"), Runtime: filepath.Join(dir, "run"),
		Version: "test", Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func configure(t *testing.T, dir, more string) {
	t.Helper()
	text := fmt.Sprintf("name = \"server1\"\n[[interface]]\nkind = \"unix\"\nbind = %q\n", filepath.Join(dir, "chat.sock"))
	if err := os.WriteFile(filepath.Join(dir, "noipchat.toml"), []byte(text+more), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Of a peer is told what the configuration, the keys and the links know.
func TestPeers(t *testing.T) {
	two, three, four := neighbour(2), neighbour(3), neighbour(4)
	dir := t.TempDir()
	d := open(t, dir, fmt.Sprintf(`[[peer]]
name = "server3"
[[peer]]
name = "server2"
key = %q
reaches = ["server9", "server3"]
[[peer.link]]
remote = "198.51.100.7:10001"
timeout = "0s"
[[peer.link]]
kind = "exec"
command = ["true", "x"]
line = "exclusive,rate=1.2k,latency=2500ms"
cost = 5
[federation]
unknown = "ask"
`, two))
	at := time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)
	for name, key := range map[string]identity.PublicKey{"server3": three, "server2": four, "server4": four} {
		d.servers.Meet(name, key)
	}
	peers, err := d.Peers(t.Context())
	if err != nil || len(peers) != 3 {
		t.Fatalf("%+v, %v", peers, err)
	}
	if peers[0].RefusedAt.IsZero() || peers[1].Trusted.IsZero() || peers[2].Trusted.IsZero() {
		t.Errorf("no time: %+v", peers)
	}
	peers[0].RefusedAt, peers[1].Trusted, peers[2].Trusted = at, at, at
	peers[0].Since, peers[1].Since = at, at
	path := filepath.Join(dir, "noipchat.toml")
	want := []control.Peer{{
		Name: "server2", Key: two.String(), Fingerprint: two.Fingerprint(), Standing: "pinned", Origin: path + ":7",
		Reaches: control.List[string]{"server9", "server3"},
		Links: control.List[control.Link]{
			{Kind: "exec", Command: control.List[string]{"true", "x"}, Line: "rate=1200,latency=2.5s,exclusive", TimeoutSeconds: 15, Cost: 5},
			{Kind: "tcp", Remote: "198.51.100.7:10001", Cost: 10},
		},
		RefusedFingerprint: four.Fingerprint(), RefusedAt: at,
		State: control.Down, Since: at,
	}, {
		Name: "server3", Key: three.String(), Fingerprint: three.Fingerprint(), Standing: "first seen", Trusted: at, Origin: path + ":5", State: control.Down, Since: at,
	}, {
		Name: "server4", Key: four.String(), Fingerprint: four.Fingerprint(), Standing: "waiting", Trusted: at, State: control.Down,
	}}
	for i := range want {
		if !reflect.DeepEqual(peers[i], want[i]) {
			t.Errorf("have %+v\nwant %+v", peers[i], want[i])
		}
	}

	routes, err := d.Routes(t.Context())
	wantRoutes := []control.Route{
		{Server: "server3", Fingerprint: three.Fingerprint(), Verified: true, Via: "server2", Metric: 5, Static: true},
		{Server: "server9", Via: "server2", Metric: 5, Static: true},
	}
	if err != nil || !reflect.DeepEqual(routes, wantRoutes) {
		t.Errorf("%+v, %v\nwant %+v", routes, err, wantRoutes)
	}

	status, err := d.Status(t.Context())
	if notices := strings.Join(status.Notices, "\n"); err != nil || len(status.Notices) != 2 ||
		!strings.Contains(notices, "server2 showed another key than the one known, "+four.Fingerprint()) || !strings.Contains(notices, "wait to be trusted: 1") {
		t.Errorf("%v, %v", status.Notices, err)
	}

	// A peer is dialled by its name, whether anything waits for it or not.
	if err := d.RetryQueue(t.Context(), "server2"); err != nil {
		t.Error(err)
	}
	if err := d.RetryQueue(t.Context(), "server4"); !errors.Is(err, control.ErrNotFound) {
		t.Error(err)
	}

	p, err := d.TrustPeer(t.Context(), "server4")
	if err != nil || p.Standing != "confirmed" || p.Key != four.String() {
		t.Errorf("%+v, %v", p, err)
	}
	p, err = d.DistrustPeer(t.Context(), "server2")
	if err != nil || p.Standing != "distrusted" || p.Key != two.String() || len(p.Links) != 2 {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := d.TrustPeer(t.Context(), "server8"); !errors.Is(err, control.ErrNotFound) || err.Error() != "server server8: not found" {
		t.Error(err)
	}
	peers, err = d.Peers(t.Context())
	if err != nil || len(peers) != 3 || peers[0].State != control.Down || peers[2].Standing != "confirmed" {
		t.Errorf("%+v, %v", peers, err)
	}
}

// A reload changes who is known, and its own key is nobody else's.
func TestPeersReload(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, "")
	two := neighbour(2)
	reload := func(more string) error {
		t.Helper()
		configure(t, dir, more)
		_, err := d.Reload(t.Context(), 0)
		return err
	}
	pinned := func(key identity.PublicKey) string {
		return fmt.Sprintf("[[peer]]\nname = \"server2\"\nkey = %q\n", key)
	}
	if _, err := d.servers.Meet("server2", two); err == nil {
		t.Error("a stranger is let in")
	}
	if err := reload(pinned(two)); err != nil {
		t.Fatal(err)
	}
	if standing, err := d.servers.Meet("server2", two); err != nil || standing != identity.Pinned {
		t.Error(standing, err)
	}
	err := reload(pinned(d.key.Public()))
	if !errors.Is(err, control.ErrConfig) || !strings.Contains(err.Error(), "noipchat.toml:7: peer.key of server2 is this server's own key") {
		t.Error(err)
	}
	if _, err := d.servers.Meet("server2", two); err != nil {
		t.Error("a refused configuration is in force:", err)
	}
	if err := reload("[federation]\nunknown = \"accept\"\n"); err != nil {
		t.Fatal(err)
	}
	if standing, err := d.servers.Meet("server3", neighbour(3)); err != nil || standing != identity.FirstSeen {
		t.Error(standing, err)
	}
	if _, err := d.servers.Meet("server2", two); err != nil { // accepted as a stranger, like others
		t.Error(err)
	}

	configure(t, dir, pinned(d.key.Public()))
	if err := Check(d.o); err == nil || !strings.Contains(err.Error(), "own key") {
		t.Error(err)
	}
	d.Close()
	var bad config.Errors
	if again, err := Open(t.Context(), d.o); !errors.As(err, &bad) {
		t.Error(again, err)
	}
}
