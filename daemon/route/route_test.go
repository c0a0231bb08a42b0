package route

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func srv(name string) Server {
	k := Key{}
	copy(k[:], name)
	return Server{name, k}
}

// table is a Table with peers that exist only in what a test has them say.
type table struct {
	*Table
	t   *testing.T
	now time.Duration
}

func newTable(t *testing.T, o Options, peers ...string) *table {
	t.Helper()
	o.Self = srv("home")
	x := &table{New(o), t, time.Second}
	x.Announce(x.now, Seq{1, 0}, []byte("home 1 0"))
	for _, p := range peers {
		x.up(p, 10)
	}
	return x
}

func (x *table) up(name string, cost int) {
	x.t.Helper()
	if !x.PeerUp(x.now, Peer{Server: srv(name), Cost: cost}) {
		x.t.Fatalf("%s can't come up", name)
	}
}

// hear has a peer say that it reaches a server; metric Infinite: not any more.
func (x *table) hear(peer, name string, number uint32, metric uint16) {
	x.t.Helper()
	u := Update{Server: srv(name), Metric: metric}
	if metric != Infinite {
		u.Seq, u.Announcement = Seq{1, number}, fmt.Appendf(nil, "%s 1 %d", name, number)
	}
	x.Receive(x.now, srv(peer), &Message{Updates: []Update{u}})
}

// said returns what a peer is told now, in one line.
func (x *table) said(peer string) (said []string) {
	x.t.Helper()
	x.now += gather
	for {
		m, ok := x.Send(x.now, srv(peer))
		if !ok {
			return said
		}
		for _, u := range m.Updates {
			said = append(said, fmt.Sprintf("%s %d.%d %d %q", u.Name, u.Seq.Epoch, u.Seq.Number, u.Metric, u.Announcement))
		}
		for _, r := range m.Requests {
			said = append(said, fmt.Sprintf("%s? after %d.%d hops %d %q", r.Name, r.After.Epoch, r.After.Number, r.Hops, r.Proof))
		}
	}
}

func (x *table) pass(d time.Duration) {
	for until := x.now + d; x.now < until; x.Tick(x.now) {
		x.now = min(until, max(x.Wake(), x.now+time.Millisecond))
	}
}

func (x *table) wantSaid(peer string, want ...string) {
	x.t.Helper()
	if have := x.said(peer); !slices.Equal(have, want) {
		x.t.Errorf("%s is told\n%q, want\n%q", peer, have, want)
	}
}

func (x *table) wantNext(name, peer string, metric uint16) {
	x.t.Helper()
	h, ok := x.Next(name)
	if have := h.Peer.Name; ok != (peer != "") || have != peer || h.Metric != metric {
		x.t.Errorf("mail for %s goes to %q, metric %d; want %q, %d\n%+v", name, have, h.Metric, peer, metric, x.Ways(name))
	}
}

func TestSeq(t *testing.T) {
	const most = 1<<32 - 1
	for _, c := range []struct{ s, next, jump Seq }{
		{Seq{1, 0}, Seq{1, 1}, Seq{2, 0}},
		{Seq{1, most}, Seq{2, 0}, Seq{2, 0}},
		{Seq{most, 3}, Seq{most, 4}, Seq{most, most}},
		{Seq{most, most}, Seq{most, most}, Seq{most, most}},
	} {
		if n, j := c.s.next(), c.s.jump(); n != c.next || j != c.jump {
			t.Errorf("%v: next %v, jump %v", c.s, n, j)
		}
	}
	if a, b := (Seq{1, 9}), (Seq{2, 0}); !a.Before(b) || b.Before(a) || a.Before(a) {
		t.Error("the epoch doesn't count first")
	}
}

// TestTold is what a peer is told: the announcement once, a metric when it matters, a
// retraction when a way is gone or leads to the peer itself.
func TestTold(t *testing.T) {
	x := newTable(t, Options{}, "b", "c")
	x.wantSaid("b", `home 1.0 0 "home 1 0"`)
	x.hear("b", "z", 5, 30)
	x.wantNext("z", "b", 40)
	x.wantSaid("b")
	x.wantSaid("c", `home 1.0 0 "home 1 0"`, `z 1.5 40 "z 1 5"`)
	x.hear("b", "z", 5, 32)
	x.wantSaid("c")
	x.hear("b", "z", 5, 50)
	x.wantSaid("c", `z 1.5 60 ""`)
	x.hear("b", "z", 6, 50)
	x.wantSaid("c", `z 1.6 60 "z 1 6"`)
	x.hear("c", "z", 7, 1)
	x.wantNext("z", "c", 11)
	x.wantSaid("b", `z 1.7 11 "z 1 7"`)
	x.wantSaid("c", `z 0.0 65535 ""`)
	x.hear("c", "z", 7, Infinite)
	x.wantNext("z", "", 0) // b's way was never better than what b was told
	x.PeerDown(x.now, srv("c"))
	x.wantNext("c", "", 0)
	x.up("c", 10)
	x.wantSaid("c", `home 1.0 0 "home 1 0"`)
}

// TestAnew: what a peer said that has forgotten everything holds no more, and it is told
// everything again; the others hear nothing of it if it soon says the same.
func TestAnew(t *testing.T) {
	x := newTable(t, Options{}, "b", "c")
	x.hear("b", "z", 5, 30)
	x.hear("b", "y", 1, 30)
	x.said("b")
	x.wantSaid("c", `home 1.0 0 "home 1 0"`, `z 1.5 40 "z 1 5"`, `y 1.1 40 "y 1 1"`)
	if !x.Anew(x.now, srv("b")) {
		t.Fatal("it may not begin anew")
	}
	x.wantNext("z", "", 0)
	x.wantNext("b", "b", 10)
	x.wantSaid("b", `home 1.0 0 "home 1 0"`)
	x.wantSaid("c")
	x.hear("b", "z", 5, 30)
	x.wantNext("z", "b", 40)
	x.now += anewPause
	x.wantSaid("c", `y 0.0 65535 ""`)
	for n := 1; x.Anew(x.now, srv("b")); n++ {
		if n > 2*anewRate.burst {
			t.Fatal("it may do so for ever")
		}
	}
}

// TestFeasible: what is no better than what we told anybody is not taken, with the
// number that it was told with; the chosen way may grow longer.
func TestFeasible(t *testing.T) {
	for _, c := range []struct {
		name   string
		number uint32
		metric uint16
		takes  bool
	}{
		{"nearer than what we told", 5, 39, true},
		{"as far", 5, 40, false},
		{"farther", 5, 41, false},
		{"farther with a newer number", 6, 1000, true},
		{"nearer with an older number", 4, 0, false},
		{"beyond all", 6, Infinite - 10, false},
		{"nearly", 6, Infinite - 11, true},
	} {
		x := newTable(t, Options{}, "b", "c", "d")
		x.hear("b", "z", 5, 30)
		x.said("c") // 40
		x.hear("b", "z", 5, Infinite)
		x.hear("d", "z", c.number, c.metric)
		if _, ok := x.Next("z"); ok != c.takes {
			t.Errorf("%s: taken %t", c.name, ok)
		}
	}
	x := newTable(t, Options{}, "b", "c")
	x.hear("b", "z", 5, 30)
	x.said("c")
	x.hear("b", "z", 5, 400)
	x.wantNext("z", "b", 410)
	x.hear("b", "z", 4, 500)
	x.wantNext("z", "b", 510)
	x.hear("b", "z", 5, Infinite)
	x.hear("b", "z", 5, 400)
	x.wantNext("z", "", 0)
}

// TestStarving: if there are only ways that can't be taken, a newer number is asked for,
// at once and then in growing intervals, until there is one that can.
func TestStarving(t *testing.T) {
	x := newTable(t, Options{}, "b", "c", "d")
	x.hear("b", "z", 5, 30)
	x.said("d")
	x.hear("c", "z", 5, 70)
	x.said("c")
	x.PeerDown(x.now, srv("b"))
	x.wantNext("z", "", 0)
	x.wantSaid("d", `z 0.0 65535 ""`)
	ask := `z? after 1.5 hops 64 ""`
	if have := x.said("c"); !slices.Contains(have, ask) {
		t.Fatalf("c is told %q", have)
	}
	var at []time.Duration
	for start := x.now; x.now < start+10*time.Minute; x.pass(time.Second) {
		if have := x.said("c"); slices.Contains(have, ask) {
			at = append(at, (x.now - start).Round(time.Second))
		}
	}
	if len(at) < 10 || len(at) > 16 {
		t.Errorf("asked at %v", at)
	}
	x.hear("c", "z", 6, 70)
	x.wantNext("z", "c", 80)
	x.said("c")
	x.said("d")
	x.pass(10 * time.Minute)
	x.wantSaid("c")

	// One that has an older number than we told is shown how far the server had come.
	x.hear("c", "z", 6, Infinite)
	x.hear("c", "z", 2, 5)
	x.wantSaid("c", `z? after 1.6 hops 64 "z 1 6"`)
}

// TestRequests is what a server does that is asked.
func TestRequests(t *testing.T) {
	ask := func(x *table, from string, r Request) {
		x.Receive(x.now, srv(from), &Message{Requests: []Request{r}})
	}
	settled := func() *table {
		x := newTable(t, Options{}, "b", "c", "d")
		x.hear("b", "z", 5, 30)
		x.hear("c", "z", 5, 35)
		for _, p := range []string{"b", "c", "d"} {
			x.said(p)
		}
		return x
	}

	x := settled()
	ask(x, "d", Request{Server: srv("z"), After: Seq{1, 5}, Hops: 9})
	x.wantSaid("b", `z? after 1.5 hops 8 ""`)
	x.wantSaid("c")
	ask(x, "d", Request{Server: srv("z"), After: Seq{1, 5}, Hops: 9})
	x.wantSaid("b") // not twice in a second
	x.pass(time.Second)
	ask(x, "d", Request{Server: srv("z"), After: Seq{1, 5}, Hops: 9})
	x.wantSaid("c", `z? after 1.5 hops 8 ""`) // b may have swallowed it
	x.pass(time.Second)
	ask(x, "d", Request{Server: srv("z"), After: Seq{1, 5}, Hops: 1})
	ask(x, "d", Request{Server: srv("y"), After: Seq{1, 5}, Hops: 9})
	x.wantSaid("b")
	x.wantSaid("c")
	x.hear("c", "z", 6, 35) // the way whose number is new enough is taken, and told
	x.wantNext("z", "c", 45)
	x.wantSaid("d", `z 1.6 45 "z 1 6"`)

	x = settled()
	x.hear("c", "z", 6, 35)
	x.wantNext("z", "b", 40)
	ask(x, "d", Request{Server: srv("z"), After: Seq{1, 5}, Hops: 9})
	x.wantSaid("d", `z 1.6 45 "z 1 6"`)
	x.wantSaid("c", `z 0.0 65535 ""`)

	x = settled()
	ask(x, "b", Request{Server: srv("z"), After: Seq{1, 5}, Hops: 9})
	x.wantSaid("c", `z? after 1.5 hops 8 ""`) // not back to who asks

	x = settled()
	ask(x, "d", Request{Server: srv("z"), After: Seq{1, 4}, Hops: 9})
	x.wantSaid("d") // it was told already
	ask(x, "d", Request{Server: Server{Name: "z"}})
	x.wantSaid("d", `z 1.5 40 "z 1 5"`)
	ask(x, "d", Request{Server: srv("y")})
	x.wantSaid("d")
	ask(x, "d", Request{})
	x.wantSaid("d", `home 1.0 0 "home 1 0"`, `z 1.5 40 "z 1 5"`)

	// z itself is a neighbour: it is shown what others remember of it.
	x = settled()
	x.up("z", 5)
	x.said("z")
	x.said("d")
	ask(x, "d", Request{Server: srv("z"), After: Seq{1, 5}, Hops: 2})
	x.wantSaid("z", `z? after 1.5 hops 1 "z 1 5"`)

	for range 1000 {
		ask(x, "c", Request{Server: Server{Name: "z"}})
	}
	if s := x.Stats(); s.Requests > 100 || s.Limited < 900 {
		t.Errorf("%+v", s)
	}
}

// TestOwnNumber: we get a newer number when somebody needs one, and jump above what
// we can't remember, but not as often as anybody likes.
func TestOwnNumber(t *testing.T) {
	own := func(after Seq, proof string) (Seq, bool) {
		x := newTable(t, Options{}, "b")
		x.Announce(x.now, Seq{3, 7}, []byte("home 3 7"))
		x.Receive(x.now, srv("b"), &Message{Requests: []Request{{Server: srv("home"), After: after, Hops: 1, Proof: []byte(proof)}}})
		return x.Due(x.now)
	}
	for _, c := range []struct {
		after Seq
		proof string
		want  Seq
	}{
		{Seq{3, 6}, "", Seq{}},
		{Seq{3, 7}, "", Seq{3, 8}},
		{Seq{3, 7}, "home 3 7", Seq{3, 8}},
		{Seq{3, 7}, "home 3 7, by its copy", Seq{4, 0}},
		{Seq{3, 8}, "", Seq{}}, // anybody can say that
		{Seq{3, 8}, "home 3 8", Seq{4, 0}},
		{Seq{9, 1}, "home 9 1", Seq{10, 0}},
	} {
		if have, due := own(c.after, c.proof); have != c.want || due != (c.want != Seq{}) {
			t.Errorf("after %v, %q: %v, %t", c.after, c.proof, have, due)
		}
	}

	x := newTable(t, Options{}, "b")
	x.Receive(x.now, srv("b"), &Message{Updates: []Update{{Server: srv("home"), Seq: Seq{5, 5}, Metric: 3, Announcement: []byte("home 5 5")}}})
	if seq, due := x.Due(x.now); !due || seq != (Seq{6, 0}) {
		t.Errorf("after an update: %v, %t", seq, due)
	}
	times := 0
	for start := x.now; x.now < start+10*time.Minute; x.pass(time.Second) {
		if seq, due := x.Due(x.now); due {
			times++
			x.Announce(x.now, seq, fmt.Appendf(nil, "home %v", seq))
			x.Receive(x.now, srv("b"), &Message{Requests: []Request{{Server: srv("home"), After: seq, Hops: 1}}})
		}
	}
	if times < 20 || times > 30 {
		t.Errorf("%d new numbers in ten minutes", times)
	}
	x.Announce(x.now, Seq{2, 0}, []byte("old"))
	if s := x.said("b"); len(s) > 1 {
		t.Errorf("an older announcement is told: %q", s)
	}
	x.Receive(x.now, srv("b"), &Message{Updates: []Update{{Server: Server{"home", Key{9}}, Seq: Seq{5, 5}, Announcement: []byte("x")}}})
	if _, found := x.NextTo(Server{"home", Key{9}}); found || x.Stats().Impostors != 1 {
		t.Error("somebody else is home")
	}
}

// TestNeighbourBehind: a neighbour that has lost its memory is told so by us.
func TestNeighbourBehind(t *testing.T) {
	x := newTable(t, Options{}, "b")
	x.hear("b", "z", 9, 3)
	x.up("z", 10)
	x.said("z")
	x.wantSaid("b", `home 1.0 0 "home 1 0"`, `z 1.9 10 "z 1 9"`) // its link is a way with any number
	x.hear("z", "z", 2, 0)
	x.wantSaid("z", `z? after 1.9 hops 1 "z 1 9"`)
	x.wantNext("z", "z", 10)
	x.wantSaid("b")
}

// TestOneAnnouncement: the link to a server itself is a way at once, and others are told
// of it when its announcement is known.
func TestOneAnnouncement(t *testing.T) {
	x := newTable(t, Options{}, "b", "c")
	x.wantNext("b", "b", 10)
	x.said("c")
	x.hear("b", "b", 1, 4000)
	x.wantNext("b", "b", 10)
	x.wantSaid("c", `b 1.1 10 "b 1 1"`)
}

// TestHysteresis: a way is not left for one that is hardly better.
func TestHysteresis(t *testing.T) {
	x := newTable(t, Options{}, "b", "c")
	x.hear("b", "z", 1, 80)
	x.hear("c", "z", 1, 75)
	x.wantNext("z", "b", 90)
	x.hear("c", "z", 1, 60)
	x.wantNext("z", "c", 70)
	x.hear("b", "z", 1, 55)
	x.wantNext("z", "c", 70)
	x.Cost(x.now, srv("c"), 30)
	x.wantNext("z", "b", 65)
	if have := x.Changed(); !slices.Equal(have, []string{"b", "c", "z"}) {
		t.Errorf("changed: %q", have)
	}
	if have := x.Changed(); have != nil {
		t.Errorf("changed again: %q", have)
	}
}

// TestMetric is the formula of a link's metric.
func TestMetric(t *testing.T) {
	x := newTable(t, Options{})
	metric := func() uint16 { return x.Links()[0].Metric }
	x.up("b", 10)
	if metric() != 10 {
		t.Errorf("a new link: %d", metric())
	}
	for _, c := range []struct {
		up, down time.Duration
		want     uint16
	}{{50 * time.Minute, 10 * time.Minute, 19}, {time.Hour, time.Hour, 74}, {time.Minute, time.Hour, 970}, {time.Hour, time.Second, 10}} {
		for range 2000 {
			x.pass(c.up)
			x.PeerDown(x.now, srv("b"))
			x.pass(c.down)
			x.up("b", 10)
		}
		if metric() != c.want {
			t.Errorf("up %v, down %v: %d, want %d; share %f", c.up, c.down, metric(), c.want, x.Links()[0].Share)
		}
	}
	x.PeerDown(x.now, srv("b"))
	x.pass(100 * time.Hour)
	x.up("b", 10)
	before := metric()
	x.pass(100 * time.Hour)
	if now := metric(); now >= before || now > 20 {
		t.Errorf("after four days: %d, then %d", before, now)
	}
	for cost, want := range map[int]uint16{-1: 1, 0: 1, 9999999: MaxCost} {
		x.Cost(x.now, srv("b"), cost)
		if have := metric() - (metric()-want)%penalty; have != want {
			t.Errorf("cost %d: %d", cost, metric())
		}
	}
}

// TestOverdue: who took mail that no receipt came for is avoided, longer each time.
func TestOverdue(t *testing.T) {
	x := newTable(t, Options{}, "b", "c", "d")
	x.hear("b", "z", 1, 0)
	x.hear("c", "z", 1, 9)
	x.said("d") // 10: the way of d can't be taken
	x.hear("d", "z", 1, 11)
	x.wantNext("z", "b", 10)
	x.Overdue(x.now, srv("z"), srv("b"))
	x.Overdue(x.now, srv("z"), srv("b")) // at the same time: once
	x.wantNext("z", "c", 19)
	x.Overdue(x.now, srv("z"), srv("c"))
	x.wantNext("z", "b", 138)
	x.wantSaid("c", `home 1.0 0 "home 1 0"`, `z 1.1 138 "z 1 1"`)
	x.said("d")
	x.pass(askBetter)
	x.wantSaid("d", `z? after 1.1 hops 64 ""`)
	x.hear("d", "z", 2, 11)
	x.wantNext("z", "d", 21)
	x.said("b") // 1.2 and 21: the other ways can't be taken any more
	x.pass(doubtOnce)
	x.Overdue(x.now, srv("z"), srv("b"))
	x.pass(doubtFirst)
	x.wantNext("z", "d", 21)
	ways := x.Ways("z")
	if len(ways) != 3 || !ways[0].Chosen || ways[0].Peer != srv("d") || ways[1].Feasible || ways[1].Peer != srv("c") || ways[2].Feasible || !ways[2].Doubted {
		t.Errorf("%+v", ways)
	}
	x.Overdue(x.now, srv("y"), srv("b"))
	x.Overdue(x.now, srv("z"), srv("y"))
	x.Overdue(x.now, srv("home"), srv("b"))
	for range 100 {
		x.pass(doubtOnce)
		x.Overdue(x.now, srv("z"), srv("d"))
	}
	if h, ok := x.Next("z"); !ok || h.Metric == Infinite {
		t.Error("a doubted way is better than none")
	}
}

// TestKeys: of two keys for one name the first stays, until one is pinned; both are shown.
func TestKeys(t *testing.T) {
	x := newTable(t, Options{}, "b", "c")
	other := Server{"z", Key{7}}
	x.hear("b", "z", 1, 100)
	x.Receive(x.now, srv("c"), &Message{Updates: []Update{{Server: other, Seq: Seq{1, 1}, Announcement: []byte("other")}}})
	x.wantNext("z", "b", 110)
	x.hear("b", "z", 1, Infinite)
	x.wantNext("z", "", 0) // nobody takes over because the first is away
	if h, ok := x.NextTo(other); !ok || h.Peer != srv("c") || h.Key != other.Key {
		t.Errorf("%+v, %t", h, ok)
	}
	x.Pin(x.now, other, true)
	x.wantNext("z", "c", 10)
	var shown []string
	for _, r := range x.Routes() {
		if r.Name == "z" {
			shown = append(shown, fmt.Sprint(r.Server, r.Verified, r.Preferred, len(r.Ways)))
		}
	}
	if want := []string{fmt.Sprint(other, true, true, 1), fmt.Sprint(srv("z"), false, false, 0)}; !slices.Equal(shown, want) {
		t.Errorf("%q, want %q", shown, want)
	}
	x.Pin(x.now, other, false)
	x.Pin(x.now, Server{"y", Key{1}}, false)
	x.wantNext("z", "c", 10)
	for i := range 2 * maxKeys {
		x.Receive(x.now, srv("b"), &Message{Updates: []Update{{Server: Server{"w", Key{byte(i)}}, Seq: Seq{1, 1}, Announcement: []byte("w")}}})
	}
	x.Receive(x.now, srv("c"), &Message{Updates: []Update{{Server: Server{"w", Key{99}}, Seq: Seq{1, 1}, Announcement: []byte("w")}}})
	if _, ok := x.NextTo(Server{"w", Key{99}}); !ok || x.Stats().Truncated != maxKeys {
		t.Errorf("b's keys leave no room for c's: %d truncated", x.Stats().Truncated)
	}
}

// TestLimits: a peer that brings too much is cut off, and asked again when there is room.
func TestLimits(t *testing.T) {
	x := newTable(t, Options{Limit: 12})
	x.PeerUp(x.now, Peer{Server: srv("b"), Cost: 10, Limit: 4})
	x.up("c", 10)
	x.said("b")
	x.said("c")
	for i := range 20 {
		x.hear("b", fmt.Sprint("b", i), 1, 1)
	}
	for i := range 20 {
		x.hear("c", fmt.Sprint("c", i), 1, 1)
	}
	if x.known != 12 || x.Stats().Truncated != 31 {
		t.Errorf("%d known, %d truncated", x.known, x.Stats().Truncated)
	}
	links := x.Links()
	if links[0].Servers != 4 || links[0].Truncated != 16 || links[1].Servers != 5 {
		t.Errorf("%+v", links)
	}
	x.pass(time.Minute)
	x.hear("c", "c0", 1, Infinite)
	x.said("c")
	x.said("b")
	x.pass(keepLeast)
	x.hear("c", "c19", 1, 1) // in the place of c0
	if _, ok := x.Next("c19"); !ok || x.known != 12 {
		t.Error("what can't be reached is kept although there is no room")
	}
	x.hear("b", "b0", 1, Infinite)
	x.said("c")
	x.pass(keep + time.Minute)
	x.Tick(x.now)
	if have := x.said("b"); !slices.Contains(have, `? after 0.0 hops 1 ""`) {
		t.Errorf("b is told %q", have)
	}
	big := Update{Server: srv("big"), Seq: Seq{1, 1}, Announcement: make([]byte, MaxAnnouncement+1)}
	x.Receive(x.now, srv("b"), &Message{Updates: []Update{big, {Server: srv("none"), Seq: Seq{1, 1}}, {Announcement: []byte{1}}}})
	if x.find(srv("big")) != nil || x.find(srv("none")) != nil {
		t.Error("too large, or without an announcement, and taken")
	}
	y := newTable(t, Options{Limit: 1})
	if y.PeerUp(y.now, Peer{Server: srv("b")}) || !y.PeerUp(y.now, Peer{Server: srv("b"), Pinned: true}) || y.PeerUp(y.now, Peer{Server: srv("home")}) {
		t.Error("a stranger comes up without room, or a friend does not, or we ourselves do")
	}
}

// TestForgotten: a server that nothing leads to is forgotten after a day, if
// nobody may still have a route to it through us.
func TestForgotten(t *testing.T) {
	x := newTable(t, Options{}, "b", "c")
	x.hear("b", "z", 1, 1)
	x.said("c")
	x.hear("b", "z", 1, Infinite)
	x.pass(2 * keep)
	if x.find(srv("z")) == nil {
		t.Error("it is forgotten, and c wasn't told that it is gone")
	}
	x.wantSaid("c", `z 0.0 65535 ""`)
	x.pass(2 * time.Minute)
	if x.find(srv("z")) != nil {
		t.Error("it is not forgotten")
	}
	x.hear("c", "y", 1, 1) // in its place
	x.wantSaid("b", `home 1.0 0 "home 1 0"`, `y 1.1 11 "y 1 1"`)
	x.hear("c", "z", 1, 500)
	x.wantNext("z", "c", 510)
}

// TestCalm: what changes all the time is not told all the time, and what is told at last is
// what holds.
func TestCalm(t *testing.T) {
	x := newTable(t, Options{}, "b", "c")
	x.said("c")
	told := 0
	for i := range 600 {
		x.hear("b", "z", uint32(i), uint16(i%2*200))
		x.pass(time.Second)
		told += len(x.said("c"))
	}
	if told < 100 || told > 140 {
		t.Errorf("told %d times in ten minutes", told)
	}
	x.hear("b", "z", 700, 7)
	x.pass(time.Minute)
	x.wantSaid("c", `z 1.700 17 "z 1 700"`)
	x.hear("b", "z", 700, Infinite)
	x.wantSaid("c", `z 0.0 65535 ""`)
}

// TestQuiet: nothing goes over a quiet link but what is asked for.
func TestQuiet(t *testing.T) {
	x := newTable(t, Options{}, "b")
	quiet := Peer{Server: srv("q"), Cost: 100, Quiet: true}
	x.PeerUp(x.now, quiet)
	x.hear("b", "z", 1, 1)
	x.hear("b", "y", 1, 1)
	x.wantSaid("q", `q? after 0.0 hops 1 ""`) // once, to tell the others of it
	x.PeerUp(x.now, quiet)
	x.wantSaid("q")
	x.said("b")
	x.hear("q", "q", 1, 0)
	x.wantSaid("b", `q 1.1 100 "q 1 1"`)

	ask := func(r Request) { x.Receive(x.now, srv("q"), &Message{Requests: []Request{r}}) }
	ask(Request{Server: Server{Name: "z"}})
	x.wantSaid("q", `z 1.1 11 "z 1 1"`)
	ask(Request{}) // not everything
	x.hear("b", "z", 1, 300)
	x.hear("b", "z", 2, 300)
	x.wantSaid("q")
	ask(Request{Server: srv("z"), After: Seq{1, 2}, Hops: 5})
	x.wantSaid("b", `z? after 1.2 hops 4 ""`)
	x.hear("b", "z", 3, 300)
	x.wantSaid("q", `z 1.3 310 "z 1 3"`)
	x.hear("b", "z", 4, 300)
	x.wantSaid("q")
	x.hear("b", "z", 4, Infinite)
	x.wantSaid("q", `z 0.0 65535 ""`)

	x.Want(x.now, "x")
	x.Want(x.now, "y") // has a route
	x.pass(time.Millisecond)
	x.wantSaid("q", `x? after 0.0 hops 1 ""`)
	asked := 0
	for range 24 * 60 {
		x.Want(x.now, "x")
		x.pass(time.Minute)
		asked += len(x.said("q"))
	}
	if asked < 5 || asked > 9 {
		t.Errorf("asked %d times in a day", asked)
	}
	x.hear("q", "x", 1, 3)
	x.wantNext("x", "q", 103)
	x.pass(wantLast)
	x.wantSaid("q")
	for i := range 2 * maxWanted {
		x.Want(x.now, fmt.Sprint("w", i))
	}
	x.Tick(x.now)
	if len(x.wanted) != maxWanted || len(x.peers[srv("q")].requests) != maxAsked {
		t.Errorf("%d wanted, %d asked for", len(x.wanted), len(x.peers[srv("q")].requests))
	}
	x.pass(2 * wantKeep)
	if len(x.wanted) != 0 {
		t.Error("what nobody wants any more is asked for")
	}
}

// TestReaches: what the configuration says is used when nothing else is known.
func TestReaches(t *testing.T) {
	x := newTable(t, Options{})
	x.Reaches(x.now, srv("p"), []string{"z", "y", "z"})
	x.Reaches(x.now, srv("q"), []string{"z"})
	x.wantNext("z", "", 0)
	x.up("q", 20)
	x.wantNext("z", "q", 20)
	x.up("p", 10)
	x.Changed()
	x.wantNext("z", "p", 10) // the order in which they were stated
	x.Overdue(x.now, Server{Name: "z"}, srv("p"))
	x.wantNext("z", "q", 20)
	x.Overdue(x.now, Server{Name: "z"}, srv("q"))
	x.wantNext("z", "p", 10)
	if have := x.Changed(); !slices.Equal(have, []string{"z"}) {
		t.Errorf("changed: %q", have)
	}
	x.pass(doubtFirst)
	x.hear("q", "z", 1, 500)
	x.wantNext("z", "q", 520)
	if have := x.Ways("z"); len(have) != 3 || !have[0].Chosen || have[1].Chosen || !have[2].Static {
		t.Errorf("%+v", have)
	}
	x.hear("q", "z", 1, Infinite)
	x.wantNext("z", "p", 10)
	x.Reaches(x.now, srv("p"), []string{"y"})
	x.PeerDown(x.now, srv("q"))
	x.wantNext("z", "", 0)
	x.wantNext("y", "p", 10)
	for _, r := range x.Routes() {
		if r.Name == "y" && (len(r.Ways) != 1 || !r.Ways[0].Static || !r.Ways[0].Chosen || r.Verified) {
			t.Errorf("%+v", r)
		}
	}
	for _, told := range x.said("p") {
		if told[0] == 'z' || told[0] == 'y' {
			t.Errorf("p is told of a static way: %s", told)
		}
	}
}

// TestNoCounting cuts a server off a ring. Nobody counts to infinity: each says once that
// it is gone.
func TestNoCounting(t *testing.T) {
	w := newWorld(t, 1, 6, 0)
	w.links = nil
	for _, n := range w.nodes {
		n.links = nil
	}
	link := func(a, b int) *cable {
		c := &cable{ends: [2]*node{w.nodes[a], w.nodes[b]}, cost: 10}
		w.links = append(w.links, c)
		for _, n := range c.ends {
			n.links = append(n.links, c)
		}
		c.join()
		return c
	}
	for i := range 5 {
		link(i, (i+1)%5)
	}
	last := link(0, 5)
	w.settled(time.Minute)
	last.cut()
	before, at := w.said+w.asked, w.now
	w.run(w.now + time.Hour)
	if n := w.said + w.asked - before; n > 20 {
		t.Errorf("%d updates and requests in %v after a server is gone", n, w.now-at)
	}
	w.settled(time.Minute)
}

// TestLarge: a message is small enough for a frame, and what there is no room for comes in the
// next one.
func TestLarge(t *testing.T) {
	x := newTable(t, Options{}, "b", "c", "d")
	x.said("d")
	large := make([]byte, MaxAnnouncement)
	for i := range 200 {
		x.Receive(x.now, srv("b"), &Message{Updates: []Update{{Server: srv(fmt.Sprint("s", i)), Seq: Seq{1, 1}, Metric: 1, Announcement: large}}})
		x.ask(x.peers[srv("d")], Request{Server: srv("z"), After: Seq{1, 1}, Proof: large})
	}
	x.now += gather
	updates, requests := 0, 0
	for {
		m, ok := x.Send(x.now, srv("d"))
		if !ok {
			break
		}
		updates, requests = updates+len(m.Updates), requests+len(m.Requests)
		if n := 1060 * (len(m.Updates) + len(m.Requests)); n > MaxBytes+1060 || len(m.Updates) > MaxUpdates || len(m.Requests) > MaxRequests {
			t.Errorf("%d updates and %d requests at a time", len(m.Updates), len(m.Requests))
		}
	}
	if updates != 200 || requests != 200 {
		t.Errorf("%d updates, %d requests", updates, requests)
	}
}

// TestMany fills a table and empties it: nothing is left that only grows.
func TestMany(t *testing.T) {
	x := newTable(t, Options{}, "b", "c")
	for round := range 3 {
		for i := range 3000 {
			x.hear("b", fmt.Sprint("s", i), uint32(round), 9)
		}
		x.now += gather
		updates := 0
		for {
			m, ok := x.Send(x.now, srv("c"))
			if !ok {
				break
			}
			updates += len(m.Updates)
		}
		if updates < 3000 {
			t.Errorf("c is told %d", updates)
		}
		x.PeerDown(x.now, srv("b"))
		x.said("c")
		x.pass(2 * keep)
		x.up("b", 10)
		x.said("c")
	}
	if x.known > 3 || len(x.slots) > 3010 || len(x.timers) > 3 {
		t.Errorf("%d known, %d slots, %d timers", x.known, len(x.slots), len(x.timers))
	}
	for i := range 2 * maxStrangers {
		x.up(fmt.Sprint("stranger", i), 1)
		x.PeerDown(x.now, srv(fmt.Sprint("stranger", i)))
	}
	if n := len(x.Links()); n > maxStrangers+3 {
		t.Errorf("%d peers are remembered", n)
	}
}
