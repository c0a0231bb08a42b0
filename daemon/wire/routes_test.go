package wire

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/noipchat/noipchat/daemon/identity"
)

func someRoutes() *Routes {
	return &Routes{
		Updates: []RouteUpdate{
			{ServerID: ServerID{"server2", [8]byte{1, 2}}, Epoch: 1, Number: 7, Metric: 30, Announcement: []byte("signed")},
			{ServerID: ServerID{"server3", [8]byte{9}}, Metric: 65535},
		},
		Requests: []RouteRequest{{ServerID: ServerID{"server4", [8]byte{4}}, Epoch: 1, Number: 2, Hops: 16, Proof: []byte("proof")}, {}},
		Anew:     70000, Answer: 3,
	}
}

func TestRoutes(t *testing.T) {
	want := someRoutes()
	kind, body, rest, err := Next(AppendRoutes(nil, want))
	if err != nil || kind != RoutesFrame || len(rest) > 0 {
		t.Fatal(kind, err)
	}
	have, err := ParseRoutes(body)
	if err != nil || fmt.Sprintf("%+v", have) != fmt.Sprintf("%+v", *want) {
		t.Errorf("%+v, %v", have, err)
	}
	for n := range body {
		if _, err := ParseRoutes(body[:n]); err == nil {
			t.Errorf("%d bytes of it are routes", n)
		}
	}
}

// TestAnnouncement: an announcement is its server's, and no other one's, nor another one.
func TestAnnouncement(t *testing.T) {
	key := identity.NewKey()
	a := Announcement{Name: "server1", Key: key.Public(), Epoch: 3, Number: 9, Public: []string{"203.0.113.5:10001", "[2001:db8::1]:1"}}
	b := a.Sign(key)
	have, err := ParseAnnouncement(b)
	if err != nil || fmt.Sprint(have) != fmt.Sprint(a) || !have.Verify(b) {
		t.Fatalf("%+v, %v", have, err)
	}
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 1
		if d, err := ParseAnnouncement(c); err == nil && d.Verify(c) {
			t.Errorf("with another byte %d it is signed still", i)
		}
	}
	if c := a.Sign(identity.NewKey()); have.Verify(c) {
		t.Error("anybody can sign it")
	}
}

func FuzzRoutes(f *testing.F) {
	_, body, _, _ := Next(AppendRoutes(nil, someRoutes()))
	f.Add(body)
	key := identity.KeyFromSeed([32]byte{1})
	a := Announcement{Name: "a", Key: key.Public()}
	f.Add(a.Sign(key))
	f.Add(a.Sign(identity.KeyFromSeed([32]byte{2}))) // by another one
	f.Add(body[:len(body)-1])
	f.Fuzz(func(t *testing.T, body []byte) {
		if m, err := ParseRoutes(body); err == nil {
			m.Anew, m.Answer = 0, 0 // in the map, which may have more
			if _, again, _, err := Next(AppendRoutes(nil, &m)); err != nil || !bytes.HasPrefix(body, again[:len(again)-1]) {
				t.Errorf("%x became %x, %v", body, again, err)
			}
		}
		if a, err := ParseAnnouncement(body); err == nil && a.Verify(body) && a.Key != key.Public() {
			t.Errorf("%x is signed", body)
		}
	})
}
