package peer

import (
	"crypto/sha256"
	"maps"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/relay"
	"github.com/noipchat/noipchat/daemon/route"
	"github.com/noipchat/noipchat/daemon/spool"
)

// copies is what becomes of mail for servers that no route leads to: text goes as copies
// to all peers (see route.Flood); receipts and bounces go back to the peer that brought
// something from that server. Both wait in a queue of copies for each such peer. The home
// of a text keeps it in the queue for its server too, until a receipt comes.
type copies struct {
	p *Peers

	mu    sync.Mutex // guards what follows; nothing is called with it held but Flood's methods
	flood *route.Flood
	hops  int
	quota int64
	back  map[string]string // server → the peer that brought the last that came from there
}

// resendCopy is after what time a copy that a peer had no room for is offered again.
const resendCopy = time.Minute

// maxBack bounds the servers that the way back to is remembered of.
const maxBack = 1 << 14

func newCopies(p *Peers) *copies {
	return &copies{p: p, flood: route.NewFlood(1<<7, 0, 0), back: map[string]string{}}
}

// restore counts the copies that have waited since before the start, and knows then for
// whom they are. Whether who brought one, or its home, had it on its account isn't known
// any more: it was whom its path has before us.
func (c *copies) restore() {
	kept := map[route.ID]route.Copy{}
	queued := map[route.ID][]route.Server{}
	for _, q := range c.p.o.Spool.Queues() {
		peer, is := strings.CutSuffix(q.Name(), spool.CopiesFor(""))
		if !is {
			continue
		}
		id, known := c.p.idOf(peer)
		if known {
			c.flood.AddPeer(id)
		}
		q.Recall(func(raw []byte) (open uint64) {
			x, ok := readCopy(raw)
			if !ok || x.e.Kind != message.Text {
				return x.open
			}
			copied := route.Copy{ID: x.id, To: x.server, Hops: int(x.passage.Hops), Size: len(raw)}
			if path := x.passage.Path.Unpack(); x.e.From.Server() != c.p.o.Home && len(path) > 1 {
				copied.Origin = path[len(path)-2].Server
				copied.From, _ = c.p.idOf(copied.Origin)
				copied.From.Name = copied.Origin
			}
			kept[x.id] = copied
			if known {
				queued[x.id] = append(queued[x.id], id)
			}
			return x.open
		})
	}
	for id, copied := range kept {
		c.flood.Restore(copied, queued[id])
	}
}

func (c *copies) configure(hops int, quota int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hops, c.quota = hops, quota
	c.flood.SetQuota(quota)
}

// remember notes that something came from a server by a peer.
func (c *copies) remember(server, peer string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.back[server] != peer {
		if len(c.back) >= maxBack {
			clear(c.back)
		}
		c.back[server] = peer
	}
}

// copyID names the copy of an envelope that is for the users of a server.
func copyID(server string, envelope []byte) route.ID {
	id := message.IDOf(envelope)
	sum := sha256.Sum256(append(id[:], server...))
	return route.ID(sum[:16])
}

// written is what waits in a queue for copies, or may go there.
type written struct {
	passage message.Passage
	open    uint64
	e       message.Envelope
	server  string // whose users it is for
	id      route.ID
}

// readCopy reads what was put; with false only open is right, if that.
func readCopy(packed []byte) (x written, ok bool) {
	var envelope []byte
	var err error
	if x.passage, x.open, envelope, err = message.Unpack(packed); err != nil || x.e.Parse(envelope) != nil {
		return x, false
	}
	if i := bits.TrailingZeros64(x.open); i < len(x.e.To) {
		x.server = x.e.To[i].Server()
	}
	x.id = copyID(x.server, envelope)
	return x, true
}

// spread gives peers what no route is known for, and tells whether they alone are to
// have it. It is what the relay asks.
func (p *Peers) spread(t *spool.Turn, a *relay.Away) bool {
	reply := a.Envelope.Kind.Reports()
	if !reply && a.Envelope.Kind != message.Text {
		return false
	}
	p.mu.Lock()
	if p.routedLocked(a.Server) {
		p.mu.Unlock()
		return false
	}
	from := route.Server{}
	if e := p.peers[a.Link]; e != nil && e.link != nil {
		from = e.link.id
	}
	p.mu.Unlock()
	c := p.copies
	if reply {
		c.mu.Lock()
		by := c.back[a.Server]
		c.mu.Unlock()
		if by == "" || by == a.Link {
			return false
		}
		p.o.Spool.Queue(spool.CopiesFor(by)).Put(t, a.Put)
		p.wanted(by)
		return true
	}
	copied := route.Copy{ID: copyID(a.Server, a.Envelope.Raw), To: a.Server, From: from, Origin: a.Link, Hops: int(a.Passage.Hops), Size: len(a.Put.Raw)}
	if a.Verified {
		copied.Origin = a.Envelope.From.Server()
	}
	ours := a.Link == ""
	c.mu.Lock()
	verdict, pass := c.flood.Offer(copied)
	c.mu.Unlock()
	switch {
	case ours:
		c.put(t, besides(a.Server, pass), a.Put, nobody{})
		return false
	case verdict == route.NoRoom:
		a.Put.Owner.Settled(t, a.Put.Token, message.Refused, message.Defer(message.CodeFull, resendCopy, "too many copies for servers without a route are kept here"))
		return true
	case len(pass) > 0:
		c.put(t, pass, a.Put, &allOf{owner: a.Put.Owner, token: a.Put.Token})
		return true
	case verdict == route.Take:
		return false // it waits for a link to its server
	}
	a.Put.Owner.Settled(t, a.Put.Token, message.Held, nil)
	return true
}

// besides leaves out the server itself, of peers that mail of ours for it is spread to: it gets
// that from its own queue, in which it waits as well, behind what was put there before.
func besides(server string, peers []route.Server) []route.Server {
	return slices.DeleteFunc(peers, func(p route.Server) bool { return p.Name == server })
}

// reached notes that the server that mail is for has taken it from its own queue.
func (c *copies) reached(l *link, q *spool.Queue, e *spool.Entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, kept, _ := c.flood.Used(); kept == 0 {
		return
	}
	if x, ok := readCopy(q.Raw(e)); ok {
		c.flood.Acked(x.id, l.id, c.hops)
	}
}

// put puts a copy into the queues for some peers.
func (c *copies) put(t *spool.Turn, peers []route.Server, put spool.Put, owner spool.Owner) {
	if all, ok := owner.(*allOf); ok {
		all.left.Store(int32(len(peers)))
	}
	put.Owner, put.Group = owner, 0 // each has its own hops
	for _, peer := range peers {
		c.p.o.Spool.Queue(spool.CopiesFor(peer.Name)).Put(t, put)
		c.p.wanted(peer.Name)
	}
}

// nobody is the owner of copies whose home is here.
type nobody struct{}

// Settled implements spool.Owner.
func (nobody) Settled(*spool.Turn, uint64, message.State, *message.Refusal) {}

// moved is the owner of a copy that takes the place of what waits in a queue.
type moved struct {
	q  *spool.Queue
	id message.ID
}

// Settled implements spool.Owner.
func (m *moved) Settled(_ *spool.Turn, _ uint64, s message.State, _ *message.Refusal) {
	if s == message.Held {
		m.q.Remove([]message.ID{m.id}, m.q.Forget)
	}
}

// allOf is the owner of copies for several peers; who brought it is told when all are safe.
type allOf struct {
	owner spool.Owner
	token uint64
	left  atomic.Int32
	kept  atomic.Bool
}

// Settled implements spool.Owner.
func (a *allOf) Settled(t *spool.Turn, _ uint64, s message.State, no *message.Refusal) {
	if no == nil {
		a.kept.Store(true)
	}
	if a.left.Add(-1) > 0 {
		return
	}
	if a.kept.Load() {
		s, no = message.Held, nil
	}
	a.owner.Settled(t, a.token, s, no)
}

// leaves tells how many servers a copy that leaves now may cross after the next one.
func (c *copies) leaves(l *link, e *spool.Entry, raw []byte, came uint8) uint8 {
	x, _ := readCopy(raw)
	c.mu.Lock()
	defer c.mu.Unlock()
	hops := c.flood.Hops(x.id)
	if hops == 0 { // a reply, or it is here since before the start
		return came
	}
	hops = min(hops, c.hops)
	l.copies[e] = hops
	return uint8(hops)
}

// acked ends a copy that a peer has taken.
func (c *copies) acked(t *spool.Turn, l *link, q *spool.Queue, e *spool.Entry, said []relay.Said) {
	for _, s := range said {
		if s.No != nil && !s.No.Permanent {
			q.Rest(t, e, max(relay.Later(s.No, q, e), resendCopy))
			return
		}
	}
	if x, ok := readCopy(q.Raw(e)); ok {
		c.mu.Lock()
		again, _ := c.flood.Acked(x.id, l.id, l.copies[e])
		delete(l.copies, e)
		c.mu.Unlock()
		if again {
			q.Rest(t, e, 0)
			return
		}
	}
	q.End(t, e, message.Held)
}

// maxArrived bounds how many numbers of one report are looked for.
const maxArrived = 1 << 10

// arrived takes out the copies of what a report says the end of: whoever has passed on one
// needn't pass it on to others.
func (c *copies) arrived(t *spool.Turn, r *message.Report) {
	c.mu.Lock()
	_, kept, _ := c.flood.Used()
	c.mu.Unlock()
	if kept == 0 {
		return
	}
	c.p.mu.Lock()
	peers := slices.Collect(maps.Keys(c.p.peers))
	c.p.mu.Unlock()
	for _, peer := range peers {
		q := c.p.o.Spool.Find(spool.CopiesFor(peer))
		if q == nil {
			continue
		}
		for n := range r.Counters.All(maxArrived) {
			c.end(t, q, r, n)
		}
	}
}

// end is arrived for one queue and one number.
func (c *copies) end(t *spool.Turn, q *spool.Queue, r *message.Report, counter uint64) {
	for entry, packed := range q.ByAuthor(r.Device, counter) {
		x, ok := readCopy(packed)
		if !ok {
			continue
		}
		for i, to := range x.e.To {
			if to == r.Receiver && q.Open(entry)&(1<<i) != 0 && q.Narrow(entry, 1<<i) == 0 {
				q.End(t, entry, message.Held)
				c.mu.Lock()
				c.flood.Drop(x.id)
				c.mu.Unlock()
			}
		}
	}
}

// removePeer makes no more copies for a peer, until there is a link to it.
func (c *copies) removePeer(peer route.Server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flood.RemovePeer(peer)
}

// addPeer has a peer given all that waits here and no route leads for. It is called
// when a link comes up, so what has lost its route is thought of again then.
func (c *copies) addPeer(t *spool.Turn, peer route.Server) {
	p := c.p
	c.mu.Lock()
	kept := map[route.ID]bool{}
	for _, id := range c.flood.AddPeer(peer) {
		kept[id] = true
	}
	c.mu.Unlock()
	var queues []*spool.Queue
	p.mu.Lock()
	for _, q := range p.o.Spool.Queues() {
		if name := q.Name(); spool.IsCopies(name) && len(kept) > 0 || p.servers[name] && !p.routedLocked(name) {
			queues = append(queues, q)
		}
	}
	p.mu.Unlock()
	for _, q := range queues {
		for _, it := range q.Items(message.ID{}, 1<<20) {
			x, ok := readCopy(it.Envelope)
			if !ok || x.e.Kind != message.Text {
				continue
			}
			var pass []route.Server
			var owner spool.Owner = nobody{}
			if kept[x.id] {
				pass = []route.Server{peer}
				delete(kept, x.id)
				if !spool.IsCopies(q.Name()) && x.e.From.Server() != p.o.Home { // it waited for somebody to be passed to
					owner = &allOf{owner: &moved{q, it.ID}}
				}
			} else if x.e.From.Server() == p.o.Home {
				c.mu.Lock()
				_, pass = c.flood.Offer(route.Copy{ID: x.id, To: x.server, Hops: int(x.passage.Hops), Size: len(it.Envelope)})
				c.mu.Unlock()
			}
			if x.e.From.Server() == p.o.Home {
				pass = besides(x.server, pass)
			}
			if it.Age >= it.Life { // the clock isn't believed: it would have expired
				it.Age = 0
			}
			c.put(t, pass, spool.Put{Raw: it.Envelope, Priority: it.Priority, Age: uint32(it.Age.Seconds()), Life: uint32(it.Life.Seconds()), Open: x.open}, owner)
		}
	}
}

// routedLocked tells whether mail for a server waits for a link, and no copies are made.
func (p *Peers) routedLocked(server string) bool {
	if _, ok := p.table.Next(server); ok || p.staysLocked(p.hops[server]) {
		return true
	}
	e := p.peers[server]
	return e != nil && (e.link != nil || len(e.conf.Ways) > 0)
}
