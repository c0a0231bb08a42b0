package route

import (
	"math"
	"slices"
	"time"
)

// Peer is a server that we have a link to.
type Peer struct {
	Server
	Cost   int  // of the link, from 1 to MaxCost
	Quiet  bool // the link is too slow, dear or shared for gossip: only what is asked for goes over it
	Pinned bool // see Pin
	Limit  int  // servers that it may bring; 0: as many as the table has room for
}

// peer is a Peer, and what we know of the link. It is remembered while it is down.
type peer struct {
	Peer
	up     bool
	metric uint16 // of the link

	// How much of the time it is up: a mean over about a day, and in sixteenths.
	share    float64
	level    int
	measured time.Duration

	count     int  // ways that it brought
	truncated int  // that there was no room for
	missed    bool // it has more than we took: ask again when there is room

	out      []sent  // by the server's slot
	queue    []int32 // slots of the servers that it may have to be told of
	head     int     // of the queue
	requests []Request
	gather   time.Duration // until then nothing is sent

	asked  bucket // of it
	anews  bucket
	dumped bucket
	dumps  bucket // asked of it
	self   bucket
}

// sent is what a peer was told of a server since its link came up.
type sent struct {
	ann    *announcement // nil: nothing, or that it can't be reached
	metric uint16
	queued bool
	again  bool // it asked: it is told whatever it was told before
	asked  bool // over a quiet link: it wants to know
	newer  bool // over a quiet link: the next newer number too
}

func (p *peer) String() string {
	if p == nil {
		return "nobody"
	}
	return p.Server.String()
}

// sent returns what p was told of s.
func (p *peer) sent(s *server) sent {
	if int(s.slot) >= len(p.out) {
		return sent{}
	}
	return p.out[s.slot]
}

// mark returns it to be changed.
func (p *peer) mark(s *server) *sent {
	if n := int(s.slot) + 1 - len(p.out); n > 0 {
		p.out = append(p.out, make([]sent, n)...)
	}
	return &p.out[s.slot]
}

// PeerUp says that a new conversation with a peer begins: neither side remembers
// what was said before. Being up means that mail may be given to the link now; one
// that is closed when idle and dialled on demand stays up, as long as nothing
// that was said is lost and the peer is not started anew. If it is up already, it
// was down in between. The link leads to the peer itself; its other ways come by Receive.
// It returns false if there is no room for one that isn't pinned.
func (t *Table) PeerUp(now time.Duration, id Peer) bool {
	t.clock(now)
	t.PeerDown(now, id.Server)
	s := t.find(id.Server)
	switch {
	case id.Name == t.own.Name:
		return false
	case s != nil:
	case id.Pinned:
		s = t.add(id.Server)
	default:
		if s = t.admit(id.Server, nil); s == nil {
			t.stats.Truncated++
			return false
		}
	}
	if id.Pinned && !s.pinned {
		t.pin(s, true)
	}

	p := t.peers[id.Server]
	if p == nil {
		p = &peer{share: 1, level: levels, measured: t.now}
		t.peers[id.Server] = p
		t.order = append(t.order, p)
	}
	t.measure(p)
	p.Peer, p.up = id, true
	p.metric = p.linkMetric()
	s.ways = append(s.ways, way{peer: p, since: t.now})
	t.choose(s)
	if !p.Quiet {
		for _, s := range t.slots {
			if s != nil {
				t.queue(p, s)
			}
		}
	} else if s.newest == nil && p.self.may(t.now, rate{time.Hour, 1}) {
		t.ask(p, Request{Server: id.Server, Hops: 1}) // to tell the others of it
	}
	t.noteStatic(id.Server)
	t.fewerStrangers()
	return true
}

// PeerDown says that a conversation has ended: what the peer said holds no more.
func (t *Table) PeerDown(now time.Duration, id Server) {
	t.clock(now)
	p := t.peers[id]
	if p == nil || !p.up {
		return
	}
	t.measure(p)
	p.up, p.count, p.missed = false, 0, false
	p.out, p.queue, p.head, p.requests, p.gather = nil, nil, 0, nil, 0
	for _, s := range t.slots {
		if s != nil && s.drop(p) {
			t.choose(s)
		}
	}
	t.noteStatic(id)
}

// Anew says that a peer that is up, and whose link stays, has forgotten what was said:
// it is as if the link had been down. It returns false if that comes too often.
func (t *Table) Anew(now time.Duration, id Server) bool {
	t.clock(now)
	p := t.peers[id]
	if p == nil || !p.up {
		return true
	}
	if !p.anews.may(t.now, anewRate) {
		return false
	}
	for _, other := range t.order {
		if other != p && other.up {
			other.gather = max(other.gather, t.now+anewPause)
		}
	}
	return t.PeerUp(now, p.Peer)
}

// Cost says that the link to a peer has another cost now.
func (t *Table) Cost(now time.Duration, id Server, cost int) {
	t.clock(now)
	if p := t.peers[id]; p != nil && p.up {
		p.Cost = cost
		t.reprice(p)
	}
}

// fewerStrangers forgets those that have been down for longest, if there are too many.
func (t *Table) fewerStrangers() {
	down := 0
	var oldest *peer
	for _, p := range t.order {
		if !p.up {
			down++
			if oldest == nil || p.measured < oldest.measured {
				oldest = p
			}
		}
	}
	if down > maxStrangers {
		delete(t.peers, oldest.Server)
		t.order = slices.DeleteFunc(t.order, func(p *peer) bool { return p == oldest })
	}
}

// drop removes the way that p brought, and tells whether there was one.
func (s *server) drop(p *peer) bool {
	i := slices.IndexFunc(s.ways, func(w way) bool { return w.peer == p })
	if i < 0 {
		return false
	}
	s.ways = slices.Delete(s.ways, i, i+1)
	return true
}

// The metric of a link is its cost and, if it is up for only u sixteenths of the
// time, 64 · (16/u − 1) more: nothing for one that is always up, 64 for one that is
// up half of the time, 960 for one that is hardly ever. The metric of a way is the
// sum of those of its links.
const (
	levels   = 16
	halfLife = 24 * time.Hour
	penalty  = 64
)

func (p *peer) linkMetric() uint16 {
	return uint16(min(max(p.Cost, 1), MaxCost) + penalty*(levels-p.level)/p.level)
}

// shareAt is the share as of now.
func (p *peer) shareAt(now time.Duration) float64 {
	old := math.Exp2(-float64(now-p.measured) / float64(halfLife))
	if p.up {
		return 1 - (1-p.share)*old
	}
	return p.share * old
}

// measure brings the share of p up to date.
func (t *Table) measure(p *peer) {
	p.share, p.measured = p.shareAt(t.now), t.now
	// A little beyond the half, so that it doesn't go to and fro.
	if x := p.share * levels; math.Abs(x-float64(p.level)) > 0.75 {
		p.level = min(max(int(math.Round(x)), 1), levels)
	}
}

// remeasure is when the share of p, which is up, should be looked at again: not any more
// once it can't get better.
func (p *peer) remeasure() time.Duration {
	if !p.up || p.level == levels {
		return never
	}
	return p.measured + 10*time.Minute
}

// reprice applies the link's metric, if it has changed.
func (t *Table) reprice(p *peer) {
	m := p.linkMetric()
	if m == p.metric {
		return
	}
	p.metric = m
	for _, s := range t.slots {
		if s != nil && slices.ContainsFunc(s.ways, func(w way) bool { return w.peer == p }) {
			t.choose(s)
		}
	}
}
