package route

import (
	"cmp"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// world is a network of servers in virtual time. Links go up and down and each end
// notices it in its own time; what was under way is lost; a link takes messages
// when it likes; servers start anew without memory, some from an old disk.
type world struct {
	t      *testing.T
	seed   uint64
	rnd    *rand.Rand
	now    time.Duration
	events events
	serial int
	nodes  []*node
	links  []*cable
	said   int // updates that were sent
	asked  int // requests
	log    []string
}

type node struct {
	w      *world
	i      int
	t      *Table
	life   int
	epoch  uint32 // on its disk
	liar   bool
	links  []*cable
	wakeAt time.Duration
	heard  map[Server]Update // by a liar
}

// cable is a link between two servers, and conn what runs over it while it is up.
type cable struct {
	ends  [2]*node
	cost  int
	quiet bool
	conn  *conn // nil while it is down
	cur   [2]*conn
}

type conn struct {
	c       *cable
	dead    bool
	lives   [2]int
	busy    [2]bool          // this end takes nothing now
	arrives [2]time.Duration // the last message to this end
	early   [2][]Message     // before this end has noticed
}

func (c *cable) end(n *node) int {
	if c.ends[0] == n {
		return 0
	}
	return 1
}

func (c *cable) far(n *node) *node { return c.ends[1-c.end(n)] }

type event struct {
	at     time.Duration
	serial int
	do     func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(e[i].at, e[j].at), cmp.Compare(e[i].serial, e[j].serial)) < 0
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	x := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return x
}

func (w *world) after(d time.Duration, do func()) {
	w.serial++
	heap.Push(&w.events, event{w.now + d, w.serial, do})
}

func (w *world) upTo(d time.Duration) time.Duration { return time.Duration(w.rnd.Int64N(int64(d) + 1)) }

func (w *world) run(until time.Duration) {
	for len(w.events) > 0 && w.events[0].at <= until {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
		if w.t.Failed() {
			w.t.FailNow()
		}
	}
	w.now = until
}

func (w *world) logf(format string, args ...any) {
	if testing.Verbose() {
		w.log = append(w.log, fmt.Sprintf("%10.3fs ", w.now.Seconds())+fmt.Sprintf(format, args...))
	}
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	if n := len(w.log); n > 400 {
		w.log = w.log[n-400:]
	}
	w.t.Fatalf("after %s: %s\nagain with NOIPCHAT_SEED=%d\n%s", w.now, fmt.Sprintf(format, args...), w.seed, strings.Join(w.log, "\n"))
}

func (n *node) id() Server { return Server{fmt.Sprint("s", n.i), Key{byte(n.i), 1}} }

func (w *world) node(name string) *node {
	i, err := strconv.Atoi(name[1:])
	if err != nil {
		w.t.Fatal(err)
	}
	return w.nodes[i]
}

// start gives a server a new table, and an announcement of its own.
func (n *node) start() {
	n.t = New(Options{Self: n.id()})
	n.epoch = max(n.epoch, n.epoch+1)
	n.announce(Seq{n.epoch, 0})
}

func (n *node) announce(seq Seq) {
	n.epoch = max(n.epoch, seq.Epoch)
	n.t.Announce(n.w.now, seq, n.sign(seq))
}

func (n *node) sign(seq Seq) []byte {
	return fmt.Appendf(nil, "%s %d %d, life %d", n.id(), seq.Epoch, seq.Number, n.life)
}

// crash loses all that is in memory, and sometimes the disk becomes an older one.
func (n *node) crash() {
	for _, c := range n.links {
		c.cut()
		c.cur[c.end(n)] = nil
	}
	n.life++
	if n.w.rnd.IntN(3) == 0 {
		n.epoch = uint32(n.w.rnd.Uint64N(uint64(n.epoch) + 1))
	}
	n.w.logf("%s starts anew from epoch %d", n.id().Name, n.epoch)
	n.start()
	n.turn()
}

// join has a link come up; both ends notice it later.
func (c *cable) join() {
	w := c.ends[0].w
	c.cut()
	k := &conn{c: c, lives: [2]int{c.ends[0].life, c.ends[1].life}}
	c.conn = k
	w.logf("%s–%s comes up", c.ends[0].id().Name, c.ends[1].id().Name)
	for i, n := range c.ends {
		w.after(w.upTo(time.Second), func() {
			if k.dead || n.life != k.lives[i] {
				return
			}
			c.cur[i] = k
			n.t.PeerUp(w.now, Peer{Server: c.far(n).id(), Cost: c.cost, Quiet: c.quiet, Pinned: true})
			for _, m := range k.early[i] {
				n.t.Receive(w.now, c.far(n).id(), &m)
			}
			n.turn()
		})
	}
}

// cut has a link go down; both ends notice it later, or when it comes up again.
func (c *cable) cut() {
	k, w := c.conn, c.ends[0].w
	if k == nil {
		return
	}
	k.dead, c.conn = true, nil
	w.logf("%s–%s goes down", c.ends[0].id().Name, c.ends[1].id().Name)
	for i, n := range c.ends {
		w.after(w.upTo(20*time.Second), func() {
			if c.cur[i] == k && n.life == k.lives[i] {
				c.cur[i] = nil
				n.t.PeerDown(w.now, c.far(n).id())
				n.turn()
			}
		})
	}
}

// turn does what is due at a server, and looks for loops through it.
func (n *node) turn() {
	w := n.w
	if n.t.Wake() <= w.now {
		n.t.Tick(w.now)
	}
	if seq, due := n.t.Due(w.now); due {
		n.announce(seq)
	}
	for _, c := range n.links {
		n.pull(c)
	}
	for _, name := range n.t.Changed() {
		for s := n.t.names[name]; s != nil; s = s.next {
			w.noLoop(n, s.Server)
		}
	}
	if at := n.t.Wake(); at != n.wakeAt {
		n.wakeAt = at
		life := n.life
		w.after(max(0, at-w.now), func() {
			if n.life == life && n.wakeAt == at {
				n.wakeAt = 0
				n.t.Tick(w.now)
				n.turn()
			}
		})
	}
}

// pull takes what a link is to carry.
func (n *node) pull(c *cable) {
	w, end := n.w, c.end(n)
	k := c.cur[end]
	if k == nil {
		return
	}
	if k.busy[end] {
		return
	}
	if w.rnd.IntN(8) == 0 {
		k.busy[end] = true
		w.after(w.upTo(3*time.Second), func() {
			if k.busy[end] = false; c.cur[end] == k {
				n.turn()
			}
		})
		return
	}
	for {
		m, ok := n.t.Send(w.now, c.far(n).id())
		if !ok {
			return
		}
		w.said += len(m.Updates)
		w.asked += len(m.Requests)
		w.check(n, m)
		if n.liar {
			n.lie(&m)
		}
		if k.dead {
			continue
		}
		far := c.far(n)
		k.arrives[1-end] = max(k.arrives[1-end], w.now+w.upTo(300*time.Millisecond))
		w.after(k.arrives[1-end]-w.now, func() {
			switch {
			case k.dead || far.life != k.lives[1-end]:
			case c.cur[1-end] == k:
				far.receive(n.id(), &m)
			default:
				k.early[1-end] = append(k.early[1-end], m)
			}
		})
	}
}

func (n *node) receive(from Server, m *Message) {
	for _, u := range m.Updates {
		n.w.logf("%s hears from %s: %s %v %d", n.id().Name, from.Name, u.Server, u.Seq, u.Metric)
		if n.liar && u.Metric != Infinite && len(u.Announcement) > 0 {
			n.heard[u.Server] = u
		}
	}
	for _, r := range m.Requests {
		n.w.logf("%s is asked by %s: %s after %v, proof %t", n.id().Name, from.Name, r.Server, r.After, len(r.Proof) > 0)
	}
	n.t.Receive(n.w.now, from, m)
	n.turn()
}

// lie has a liar claim to be next to everybody, and invent servers.
func (n *node) lie(m *Message) {
	for i, u := range m.Updates {
		if u.Server == n.id() {
			continue
		}
		if h, ok := n.heard[u.Server]; ok && n.w.rnd.IntN(2) == 0 {
			m.Updates[i] = h
		}
		if m.Updates[i].Metric != Infinite {
			m.Updates[i].Metric = 0
		}
	}
	if n.w.rnd.IntN(4) == 0 {
		id := Server{n.w.nodes[n.w.rnd.IntN(len(n.w.nodes))].id().Name, Key{byte(n.i), byte(n.w.rnd.IntN(2) + 2)}}
		m.Updates = append(m.Updates, Update{Server: id, Seq: Seq{n.w.rnd.Uint32N(5) + 1, 0}, Metric: 1, Announcement: []byte("forged")})
	}
}

func (w *world) check(n *node, m Message) {
	if len(m.Updates) > MaxUpdates || len(m.Requests) > MaxRequests {
		w.fail("%s sends %d updates, %d requests", n.id().Name, len(m.Updates), len(m.Requests))
	}
}

// noLoop follows a route from n. An edge counts even over a link that is down, as
// long as nobody has lost his memory since.
func (w *world) noLoop(n *node, to Server) {
	way := n.id().Name
	for at := n; !at.liar; {
		h, ok := at.t.NextTo(to)
		if !ok || h.Peer == to {
			return
		}
		next := w.node(h.Peer.Name)
		way += " " + next.id().Name
		for _, c := range at.links {
			if c.far(at) == next {
				k := c.cur[c.end(at)]
				if k == nil {
					w.fail("%s goes to %s by a link that is down: %s", at.id().Name, to, way)
				}
				if k.lives[c.end(next)] != next.life {
					return
				}
			}
		}
		if next == n {
			w.fail("a loop for %s: %s", to, way)
		}
		at = next
	}
}

// arrives follows the route from n to a server.
func (w *world) arrives(n, to *node) (metric int, ok bool) {
	at := n
	for range len(w.nodes) {
		h, ok := at.t.NextTo(to.id())
		if !ok {
			return 0, false
		}
		next := w.node(h.Peer.Name)
		for _, c := range at.links {
			if c.far(at) == next {
				if c.conn == nil {
					return 0, false
				}
				metric += int(at.t.peers[next.id()].metric)
			}
		}
		if next == to {
			return metric, true
		}
		if at = next; at.liar {
			return 0, false
		}
	}
	return 0, false
}

// shortest returns the metrics of the shortest ways from n that don't cross liars.
func (w *world) shortest(n *node) map[*node]int {
	dist := map[*node]int{n: 0}
	for changed := true; changed; {
		changed = false
		for _, c := range w.links {
			for i, a := range c.ends {
				b := c.ends[1-i]
				d, ok := dist[a]
				if !ok || c.conn == nil || a.liar && a != n {
					continue
				}
				d += int(a.t.peers[b.id()].metric)
				if old, ok := dist[b]; !ok || d < old {
					dist[b], changed = d, true
				}
			}
		}
	}
	return dist
}

func newWorld(t *testing.T, seed uint64, nodes, extra int) *world {
	w := &world{t: t, seed: seed, rnd: rand.New(rand.NewPCG(seed, 0))}
	for i := range nodes {
		n := &node{w: w, i: i, heard: map[Server]Update{}}
		w.nodes = append(w.nodes, n)
		n.start()
	}
	link := func(a, b *node) {
		if a == b || slices.ContainsFunc(a.links, func(c *cable) bool { return c.far(a) == b }) {
			return
		}
		c := &cable{ends: [2]*node{a, b}, cost: 1 + w.rnd.IntN(30)}
		w.links = append(w.links, c)
		a.links, b.links = append(a.links, c), append(b.links, c)
	}
	for i := 1; i < nodes; i++ {
		link(w.nodes[i], w.nodes[w.rnd.IntN(i)])
	}
	for range extra {
		link(w.nodes[w.rnd.IntN(nodes)], w.nodes[w.rnd.IntN(nodes)])
	}
	return w
}

// storm has links come and go, costs change and servers start anew for a while, and then
// some links stay up. One change in calm is followed by some calm.
func (w *world) storm(length time.Duration, calm int, crashes bool) {
	for _, c := range w.links {
		if w.rnd.IntN(4) > 0 {
			c.join()
		}
	}
	for _, n := range w.nodes {
		n.turn()
	}
	for until := w.now + length; w.now < until; {
		c := w.links[w.rnd.IntN(len(w.links))]
		switch w.rnd.IntN(8) {
		case 0, 1:
			c.cut()
		case 2, 3, 4:
			if c.conn == nil {
				c.join()
			} else {
				c.cut()
			}
		case 5:
			c.cost = 1 + w.rnd.IntN(60)
			for _, n := range c.ends {
				n.t.Cost(w.now, c.far(n).id(), c.cost)
				n.turn()
			}
		case 6:
			if c.conn != nil { // down and up before anybody notices
				c.join()
			}
		case 7:
			if crashes && w.rnd.IntN(2) == 0 {
				w.nodes[w.rnd.IntN(len(w.nodes))].crash()
			}
		}
		pause := 100 * time.Millisecond
		if w.rnd.IntN(calm) == 0 {
			pause = 20 * time.Second
		}
		w.run(w.now + w.upTo(pause))
	}
	for _, c := range w.links {
		if c.conn == nil && w.rnd.IntN(2) == 0 {
			c.join()
		}
	}
}

// settled checks that all routes are there, and no others, and that there is silence. With
// quiet links not all are there, but those that are lead somewhere.
func (w *world) settled(settle time.Duration) {
	said := w.said + w.asked
	w.run(w.now + settle)
	if n, most := w.said+w.asked-said, 60*len(w.nodes)*(len(w.links)+1); n > most {
		w.fail("%d updates and requests until it was quiet, more than %d", n, most)
	}
	quiet := slices.ContainsFunc(w.links, func(c *cable) bool { return c.quiet })
	for _, a := range w.nodes {
		shortest := w.shortest(a)
		for _, b := range w.nodes {
			if a == b {
				continue
			}
			best, reachable := shortest[b]
			metric, arrives := w.arrives(a, b)
			_, routed := a.t.NextTo(b.id())
			switch {
			case reachable && !arrives && (routed || !quiet):
				w.fail("%s can reach %s, and does not: %+v", a.id().Name, b.id().Name, a.t.Ways(b.id().Name))
			case !reachable && routed:
				w.fail("%s can't reach %s, and has a route: %+v", a.id().Name, b.id().Name, a.t.Ways(b.id().Name))
			case metric > 2*best+20 && !quiet:
				w.fail("%s goes to %s by a way of %d, and there is one of %d", a.id().Name, b.id().Name, metric, best)
			}
		}
	}
	prices := w.prices()
	said = w.said + w.asked
	w.run(w.now + 10*time.Minute)
	if w.said+w.asked != said && slices.Equal(prices, w.prices()) {
		w.fail("%d updates and requests with nothing to tell", w.said+w.asked-said)
	}
}

func (w *world) prices() (all []uint16) {
	for _, n := range w.nodes {
		for _, l := range n.t.Links() {
			all = append(all, l.Metric)
		}
	}
	return all
}

// seeds runs a test for many seeds, with NOIPCHAT_LONG for thirty times as many. NOIPCHAT_SEED
// is one of them alone; -v has it print all that was said.
func seeds(t *testing.T, n uint64, run func(t *testing.T, seed uint64)) {
	if s := os.Getenv("NOIPCHAT_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		run(t, seed)
		return
	}
	if os.Getenv("NOIPCHAT_LONG") != "" {
		n *= 30
	} else if testing.Short() {
		n /= 10
	}
	for seed := range n {
		run(t, seed)
	}
}

// TestStorm holds honest servers to all promises, at every instant and afterwards.
func TestStorm(t *testing.T) {
	seeds(t, 2000, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed, 2+int(seed%9), int(seed/9%12))
		w.storm(5*time.Minute, []int{3, 3, 30}[seed%3], seed%2 == 1)
		w.settled(5 * time.Minute)
	})
}

// TestWide is the same with many servers, few times.
func TestWide(t *testing.T) {
	seeds(t, 10, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed, 60, 60)
		w.storm(time.Minute, 3, true)
		w.settled(5 * time.Minute)
	})
}

// TestQuietStorm has links that carry only what is asked for, and servers that ask.
func TestQuietStorm(t *testing.T) {
	seeds(t, 300, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed, 3+int(seed%8), int(seed/8%10))
		for _, c := range w.links {
			c.quiet = w.rnd.IntN(3) == 0
		}
		for range 40 {
			w.after(w.upTo(6*time.Minute), func() {
				n := w.nodes[w.rnd.IntN(len(w.nodes))]
				n.t.Want(w.now, w.nodes[w.rnd.IntN(len(w.nodes))].id().Name)
				n.turn()
			})
		}
		w.storm(5*time.Minute, 3, seed%2 == 1)
		w.settled(2 * time.Hour)
	})
}

// TestLiars has servers that claim to be next to everybody with the announcements that they
// heard, invent keys for others' names, and drop all mail and all requests. Honest servers have no loop among
// them, and come to deliver wherever there is an honest way, because whoever sees the same mail
// again takes another one. That is no proof, only likely: of the pairs that are left, one
// in a hundred may need longer than the hours that are given here.
func TestLiars(t *testing.T) {
	pairs, lost := 0, 0
	seeds(t, 400, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed, 4+int(seed%7), 2+int(seed/7%12))
		for range 1 + len(w.nodes)/6 {
			w.nodes[w.rnd.IntN(len(w.nodes))].liar = true
		}
		w.storm(2*time.Minute, 3, seed%2 == 1)
		w.run(w.now + 3*time.Minute)
		for _, a := range w.nodes {
			shortest := w.shortest(a)
			for _, b := range w.nodes {
				if _, reachable := shortest[b]; reachable && a != b && !a.liar && !b.liar {
					if pairs++; !w.insist(a, b) {
						lost++
					}
				}
			}
		}
	})
	t.Logf("of %d pairs, %d do not deliver in spite of an honest way", pairs, lost)
	if 100*lost > pairs {
		t.Errorf("of %d pairs, %d do not deliver in spite of an honest way", pairs, lost)
	}
}

// insist sends mail from a to b in growing intervals and tells whether it arrives. Each server that
// sees it again doubts the peer that it gave it to the last time.
func (w *world) insist(a, b *node) bool {
	gave := map[*node]Server{}
	gap := 10 * time.Second
	for range 40 {
		for at := a; !at.liar; {
			if before, again := gave[at]; again {
				at.t.Overdue(w.now, b.id(), before)
				at.turn()
			}
			h, ok := at.t.NextTo(b.id())
			if !ok {
				break
			}
			gave[at] = h.Peer
			if at = w.node(h.Peer.Name); at == b {
				return true
			}
		}
		w.run(w.now + gap)
		gap = min(gap*2, 10*time.Minute)
	}
	return false
}
