package identity

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/noipchat/noipchat/daemon/message"
)

// neighbours are the keys of server1, which is us, and others.
func neighbour(n byte) PublicKey { return KeyFromSeed([32]byte{n}).Public() }

func openServers(t testing.TB, dir string) *Servers {
	t.Helper()
	s, err := OpenServers(dir, "server1", neighbour(1))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func meets(t *testing.T, s *Servers, name string, key PublicKey, want Standing) {
	t.Helper()
	if got, err := s.Meet(name, key); err != nil || got != want {
		t.Errorf("%s: %v, %v, want %v", name, got, err, want)
	}
}

func turnsAway(t *testing.T, s *Servers, name string, key PublicKey, code message.Code) {
	t.Helper()
	_, err := s.Meet(name, key)
	refused(t, err, code)
}

func changed(t *testing.T, s *Servers, name string, want, got PublicKey) {
	t.Helper()
	var c *ChangedKeyError
	if _, err := s.Meet(name, got); !errors.As(err, &c) || c.Name != name || c.Want != want || c.Got != got {
		t.Fatalf("%s: %v", name, err)
	}
	for _, part := range []string{name, want.Fingerprint(), got.Fingerprint(), want.Words(), "trust that for " + name} {
		if !strings.Contains(c.Error(), part) {
			t.Errorf("%q is not in: %v", part, c)
		}
	}
}

// find returns the only one of a name.
func find(t *testing.T, s *Servers, name string) (found Server) {
	t.Helper()
	n := 0
	for _, v := range s.List() {
		if v.Name == name {
			found = v
			n++
		}
	}
	if n != 1 {
		t.Errorf("%s is there %d times", name, n)
	}
	return found
}

// Who is let in, by what the configuration says and what was seen.
func TestMeet(t *testing.T) {
	dir := t.TempDir()
	s := openServers(t, dir)
	two, three, four := neighbour(2), neighbour(3), neighbour(4)
	peers := map[string]PublicKey{"server2": two, "server3": {}}
	s.Configure(peers, RefuseUnknown)

	meets(t, s, "server2", two, Pinned)
	changed(t, s, "server2", two, four)
	meets(t, s, "server2", two, Pinned) // a wrong one changes nothing
	turnsAway(t, s, "server3", two, message.CodeExists)
	meets(t, s, "server3", three, FirstSeen)
	changed(t, s, "server3", three, four)
	meets(t, s, "server3", three, FirstSeen)
	turnsAway(t, s, "server4", four, message.CodeNotAllowed)
	turnsAway(t, s, "server1", four, message.CodeExists)
	turnsAway(t, s, "server3", neighbour(1), message.CodeExists)
	turnsAway(t, s, "Server4", four, message.CodeInvalid)
	turnsAway(t, s, "server4", PublicKey{}, message.CodeInvalid)
	if v := find(t, s, "server3"); v.Key != three || v.Refused != four || v.RefusedAt.IsZero() || v.Standing != FirstSeen || !v.Peer || v.Since.IsZero() {
		t.Errorf("%+v", v)
	}
	if len(s.List()) != 2 {
		t.Errorf("a stranger is kept: %+v", s.List())
	}

	// The first key seen outlives the process, at once; the refused ones, its stop.
	if v := find(t, reopen(t, dir, peers), "server3"); v.Key != three {
		t.Errorf("%+v", v)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := reopen(t, dir, peers)
	if !reflect.DeepEqual(again.List(), s.List()) {
		t.Errorf("%+v\nbecame\n%+v", s.List(), again.List())
	}
	changed(t, again, "server3", three, four)
	if key, standing := again.Known("server3"); key != three || standing != FirstSeen {
		t.Error(key, standing)
	}

	// A peer that the configuration has no more is a stranger, whose key stays.
	again.Configure(nil, RefuseUnknown)
	turnsAway(t, again, "server3", three, message.CodeNotAllowed)
	changed(t, again, "server3", three, four)
	again.Configure(map[string]PublicKey{"server3": {}}, RefuseUnknown)
	meets(t, again, "server3", three, FirstSeen)
	// What the configuration pins goes before what was seen.
	again.Configure(map[string]PublicKey{"server3": four}, RefuseUnknown)
	meets(t, again, "server3", four, Pinned)
	changed(t, again, "server3", four, three)
}

func reopen(t *testing.T, dir string, peers map[string]PublicKey) *Servers {
	t.Helper()
	s := openServers(t, dir)
	s.Configure(peers, RefuseUnknown)
	return s
}

// Who waits is remembered, up to a number, and goes in after Trust; none of it
// touches the disk before the stop.
func TestAskUnknown(t *testing.T) {
	dir := t.TempDir()
	s := openServers(t, dir)
	s.Configure(nil, AskUnknown)
	two, three := neighbour(2), neighbour(3)
	wait := func(name string, key PublicKey) {
		t.Helper()
		standing, err := s.Meet(name, key)
		if refused(t, err, message.CodeNotAllowed); standing != Waiting {
			t.Error(standing)
		}
	}
	wait("server2", two)
	wait("server2", two)
	if v := find(t, s, "server2"); v.Standing != Waiting || v.Key != two || v.Peer {
		t.Errorf("%+v", v)
	}
	for i := range maxWaiting - 1 {
		wait(fmt.Sprintf("many%d", i), neighbour(byte(100+i)))
	}
	wait("server2", two) // seen again, so others go first
	wait("server2", three)
	if have := len(s.List()); have != maxWaiting {
		t.Errorf("%d wait", have)
	}
	_, err := s.Trust("many0")
	if !errors.Is(err, ErrNoServer) {
		t.Error("the one seen longest ago was not forgotten", err)
	}
	_, err = s.Trust("server2")
	refused(t, err, message.CodeInvalid) // two keys
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Errorf("strangers made it write %v", files)
	}
	if v, err := s.Trust(three.Fingerprint()); err != nil || v.Name != "server2" || v.Standing != Confirmed || v.Key != three {
		t.Errorf("%+v, %v", v, err)
	}
	if len(s.List()) != maxWaiting-1 { // one was confirmed, and another of its name goes
		t.Errorf("%d", len(s.List()))
	}
	meets(t, s, "server2", three, Confirmed)
	changed(t, s, "server2", three, two)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := openServers(t, dir)
	again.Configure(nil, RefuseUnknown)
	meets(t, again, "server2", three, Confirmed)
	if !reflect.DeepEqual(again.List(), s.List()) {
		t.Errorf("%+v\nbecame\n%+v", s.List(), again.List())
	}
}

func TestAcceptUnknown(t *testing.T) {
	s := openServers(t, t.TempDir())
	s.Configure(nil, AcceptUnknown)
	meets(t, s, "server2", neighbour(2), FirstSeen)
	meets(t, s, "server2", neighbour(2), FirstSeen)
	changed(t, s, "server2", neighbour(2), neighbour(3))
	turnsAway(t, s, "server3", neighbour(2), message.CodeExists)
	for i := range maxKnown { // as if they had come
		s.known[fmt.Sprintf("many%d", i)] = kept{PublicKey{byte(i), byte(i >> 8), 1}, FirstSeen, today()}
	}
	turnsAway(t, s, "server4", neighbour(4), message.CodeLater)
	s.Configure(map[string]PublicKey{"server4": {}}, AcceptUnknown)
	meets(t, s, "server4", neighbour(4), FirstSeen) // a peer always fits
}

// What an admin says holds, whatever the configuration and the other side say.
func TestTrust(t *testing.T) {
	dir := t.TempDir()
	s := openServers(t, dir)
	two, three, four := neighbour(2), neighbour(3), neighbour(4)
	s.Configure(map[string]PublicKey{"server2": two, "server3": {}, "server4": {}}, RefuseUnknown)
	trust := func(who string, want Server) {
		t.Helper()
		v, err := s.Trust(who)
		v.Since = want.Since
		if err != nil || v != want {
			t.Errorf("%+v, %v, want %+v", v, err, want)
		}
	}
	refuses := func(who string, code message.Code) {
		t.Helper()
		_, err := s.Trust(who)
		refused(t, err, code)
	}
	refuses("server3", message.CodeInvalid) // no key yet
	meets(t, s, "server3", three, FirstSeen)
	trust("server3", Server{Name: "server3", Key: three, Standing: Confirmed, Peer: true})
	trust("server2", Server{Name: "server2", Key: two, Standing: Pinned, Peer: true})

	// A new key takes the place of the old one only if it is named.
	changed(t, s, "server3", three, four)
	refuses("server3", message.CodeInvalid)
	trust(four.Fingerprint(), Server{Name: "server3", Key: four, Standing: Confirmed, Peer: true})
	meets(t, s, "server3", four, Confirmed)
	changed(t, s, "server3", four, three)
	trust(four.Fingerprint(), Server{Name: "server3", Key: four, Standing: Confirmed, Peer: true})
	changed(t, s, "server2", two, three)
	refuses(three.Fingerprint(), message.CodeInvalid) // the configuration pins another

	for _, who := range []string{"server2", "server3", "server4"} {
		if v, err := s.Distrust(who); err != nil || v.Standing != Distrusted || v.Name != who {
			t.Errorf("%+v, %v", v, err)
		}
	}
	turnsAway(t, s, "server2", two, message.CodeNotAllowed)
	turnsAway(t, s, "server3", four, message.CodeNotAllowed)
	turnsAway(t, s, "server3", three, message.CodeNotAllowed)
	turnsAway(t, s, "server5", four, message.CodeNotAllowed) // it is the key that is distrusted, too
	turnsAway(t, s, "server4", neighbour(5), message.CodeNotAllowed)
	if key, standing := s.Known("server2"); !key.IsZero() || standing != New {
		t.Error(key, standing)
	}
	again := openServers(t, dir)
	again.Configure(s.peers, AcceptUnknown)
	turnsAway(t, again, "server2", two, message.CodeNotAllowed)
	turnsAway(t, again, "server4", neighbour(5), message.CodeNotAllowed)

	trust("server2", Server{Name: "server2", Key: two, Standing: Pinned, Peer: true})
	trust("server3", Server{Name: "server3", Key: four, Standing: Confirmed, Peer: true})
	trust("server4", Server{Name: "server4", Peer: true})
	meets(t, s, "server2", two, Pinned)
	meets(t, s, "server4", neighbour(5), FirstSeen)

	for _, who := range []string{"server9", "", "3f2a-91c0-77de-0b1c"} {
		if _, err := s.Trust(who); !errors.Is(err, ErrNoServer) {
			t.Errorf("%q: %v", who, err)
		}
		if _, err := s.Distrust(who); !errors.Is(err, ErrNoServer) {
			t.Errorf("%q: %v", who, err)
		}
	}
	// A stranger who calls himself by somebody's fingerprint is not taken for him.
	s.Configure(s.peers, AskUnknown)
	turnsAway(t, s, neighbour(6).Fingerprint(), neighbour(7), message.CodeNotAllowed)
	if _, err := s.Trust(neighbour(6).Fingerprint()); !errors.Is(err, ErrNoServer) {
		t.Error(err)
	}
	if FirstSeen.Proven() || !Confirmed.Proven() || !Pinned.Proven() || New.Proven() || Waiting.Proven() || Distrusted.Proven() {
		t.Error("what is proven")
	}
}

// A file that can't be read is kept, and nobody gets in by it.
func TestServersDamaged(t *testing.T) {
	key := neighbour(3).String()
	for _, text := range []string{
		"", "{", `{"schema":2}`, `{"schema":1,"more":1}`, `{"schema":1}{}`,
		`{"schema":1,"servers":[{"name":"Server3","key":"` + key + `","standing":"confirmed"}]}`,
		`{"schema":1,"servers":[{"name":"server3","key":"noip1","standing":"confirmed"}]}`,
		`{"schema":1,"servers":[{"name":"server3","standing":"confirmed"}]}`,
		`{"schema":1,"servers":[{"name":"server3","key":"` + key + `","standing":"pinned"}]}`,
		`{"schema":1,"servers":[{"name":"server3","key":"` + key + `"}]}`,
		`{"schema":1,"servers":[{"name":"server3","standing":"distrusted"},{"name":"server3","standing":"distrusted"}]}`,
		`{"schema":1,"refused":[{"name":"server3"}]}`,
		`{"schema":1,"waiting":[{"name":"server3","key":"x"}]}`,
		`{"schema":1,"waiting":[` + strings.Repeat(`{"name":"a"},`, maxWaiting) + `{"name":"a"}]}`,
		strings.Repeat(" ", maxFile+1),
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "servers.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := OpenServers(dir, "server1", neighbour(1))
		if err == nil || !strings.Contains(err.Error(), path+" is damaged") || CheckServers(dir) == nil {
			t.Errorf("%.60q: %v", text, err)
			continue
		}
		s.Configure(map[string]PublicKey{"server2": neighbour(2), "server3": {}}, AcceptUnknown)
		meets(t, s, "server2", neighbour(2), Pinned)
		for _, name := range []string{"server3", "server4"} {
			if _, err := s.Meet(name, neighbour(3)); err == nil {
				t.Errorf("%.60q: %s came in", text, name)
			}
		}
		if _, err := s.Distrust("server2"); err == nil {
			t.Errorf("%.60q: it wrote", text)
		}
		changed(t, s, "server2", neighbour(2), neighbour(4))
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if b, _ := os.ReadFile(path); string(b) != text {
			t.Errorf("%.60q became %.60q", text, b)
		}
	}
	if err := CheckServers(t.TempDir()); err != nil {
		t.Error(err)
	}
}

// Of many that meet us at once under one name, one stays.
func TestMeetAtOnce(t *testing.T) {
	dir := t.TempDir()
	s := openServers(t, dir)
	s.Configure(map[string]PublicKey{"server2": {}, "server3": {}}, RefuseUnknown)
	var all sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		all.Go(func() { _, errs[i] = s.Meet("server2", neighbour(byte(10+i))) })
		all.Go(func() { s.Meet("server3", neighbour(3)) })
		all.Go(func() { s.Configure(map[string]PublicKey{"server2": {}, "server3": {}}, RefuseUnknown) })
	}
	all.Wait()
	let := 0
	for i, err := range errs {
		var c *ChangedKeyError
		if err == nil {
			let++
			if key, _ := s.Known("server2"); key != neighbour(byte(10+i)) {
				t.Error("another key is kept")
			}
		} else if !errors.As(err, &c) {
			t.Error(err)
		}
	}
	again := openServers(t, dir)
	if key, _ := again.Known("server2"); let != 1 || key != s.known["server2"].key {
		t.Errorf("%d were let in", let)
	}
	if key, _ := again.Known("server3"); key != neighbour(3) {
		t.Error("a first sight was lost")
	}
}

// Whatever the bytes are, all of them or none is taken, and what was read is written
// as the same again.
func FuzzParseServers(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		var s, again Servers
		if s.parse(b) != nil {
			if len(s.known)+len(s.refused)+len(s.waiting) > 0 {
				t.Error("half of it was taken")
			}
			return
		}
		text, err := s.formatLocked(s.known)
		if err != nil {
			return // a year beyond 9999
		}
		if err := again.parse(text); err != nil || !reflect.DeepEqual(again.List(), s.List()) {
			t.Errorf("%+v\nbecame\n%+v, %v", s.List(), again.List(), err)
		}
	})
}

// TestFirst: the first key of a server that was never met stays the first, also on disk; and
// if that can't be read, none is believed.
func TestFirst(t *testing.T) {
	dir := t.TempDir()
	s := openServers(t, dir)
	believes := func(s *Servers, name string, key PublicKey, want bool) {
		t.Helper()
		if is, err := s.Believe(name, key); is != want || err != nil {
			t.Errorf("%v, %v", is, err)
		}
	}
	if !s.First("server9").IsZero() {
		t.Error("a key of a server that nobody has heard of")
	}
	for range 2 {
		believes(s, "server9", neighbour(9), true)
		believes(s, "server9", neighbour(8), false)
		if s.First("server9") != neighbour(9) || len(s.List()) != 0 {
			t.Errorf("%v, %+v", s.First("server9"), s.List())
		}
		if key, standing := s.Known("server9"); !key.IsZero() || standing != New {
			t.Errorf("it is known: %v", standing)
		}
		s = openServers(t, dir)
	}
	if err := os.WriteFile(filepath.Join(dir, "homes.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := OpenServers(dir, "server1", neighbour(1))
	if err == nil || CheckServers(dir) == nil {
		t.Error("it is damaged, and nobody says so")
	}
	if is, err := s.Believe("server9", neighbour(8)); is || err == nil {
		t.Errorf("%v, %v", is, err)
	}
	if s.lost != nil {
		t.Error("servers.json is whole:", s.lost)
	}
}
