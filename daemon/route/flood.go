package route

import (
	"slices"
)

// ID is the id of an envelope.
type ID [16]byte

// Copy is an envelope for a server that no route leads to. Only text is flooded: the
// caller sees to that, and to it that mail he has a route for, or that is for himself, doesn't come here.
type Copy struct {
	ID     ID
	To     string // the server
	Origin string // on whose account it is: its home, or who brought it if the home's signature can't be checked
	From   Server // who brought it; zero: it is from here, and on nobody's account
	Hops   int    // as they came with it; for one from here, all
	Size   int    // bytes
}

// Verdict is what becomes of a copy.
type Verdict uint8

// The verdicts.
const (
	Take   Verdict = iota + 1 // keep it durably, for the peers that it is to be passed to
	Again                     // it is here, or was, and is to be passed to these peers, with more hops left
	Known                     // it is here, or was: ack it
	NoRoom                    // the quota is used up, in all or of the origin: refuse it for now
)

// Flood decides what becomes of copies (architecture.md, Routing). A copy is passed
// to every peer, up or down, that is not known to have it with as many hops left; it
// is kept until all of them have it, a receipt has come, or it has expired, and then only a
// tombstone stays. One that can't be passed to anybody waits for a link to its server.
// So it crosses a link once, and once more each time it comes with more hops left.
//
// What is kept is in the caller's queues; after a restart he calls Restore. Tombstones
// are forgotten then, which costs another crossing.
type Flood struct {
	// fixed
	hops  int
	tombs int

	quota   int64
	used    int64
	origins map[string]int64 // bytes used; those without any are not in it
	peers   []Server         // by number; the zero Server where one was removed
	copies  map[ID]*copied
	kept    []*copied // those that are no tombstones, in any order
	buried  []ID      // tombstones, in the order of burial, from first
	first   int
}

// copied is a copy that is here, or was.
type copied struct {
	id     ID
	to     string
	origin string
	hops   int8 // the most that it had left here
	at     int32
	size   int64 // 0: on nobody's account
	waits  bool  // it is kept although there is nobody to pass it to
	has    []holder
}

// holder is a peer that has a copy, or is to be given it. Of both, with how many
// hops left; none is no copy.
type holder struct {
	peer uint16
	has  int8
	owed int8 // it is queued
}

const (
	maxFloodPeers = 1 << 16
	// leastSize is what a copy counts at least, for what is remembered of it.
	leastSize = 1 << 10
	buriedAt  = -1
	none      = -1
	allHops   = 127
)

// NewFlood makes a flood in which copies have at most so many hops left, keeps
// quota bytes of them, a tenth for one origin, and remembers so many tombstones (100,000).
func NewFlood(hops int, quota int64, tombstones int) *Flood {
	if tombstones <= 0 {
		tombstones = 100000
	}
	return &Flood{hops: min(max(hops, 0), allHops-1), quota: quota, tombs: tombstones, origins: map[string]int64{}, copies: map[ID]*copied{}}
}

// SetQuota puts another quota in force for what comes from now on.
func (f *Flood) SetQuota(quota int64) { f.quota = quota }

// Used returns the bytes that are kept for others, and how many copies there are and tombstones.
func (f *Flood) Used() (bytes int64, copies, tombstones int) {
	return f.used, len(f.kept), len(f.copies) - len(f.kept)
}

// AddPeer makes a peer known, and returns which copies are to be queued for it.
func (f *Flood) AddPeer(peer Server) []ID {
	if _, known := f.number(peer); known || peer == (Server{}) {
		return nil
	}
	n := slices.Index(f.peers, Server{})
	if n < 0 {
		if n = len(f.peers); n >= maxFloodPeers {
			return nil
		}
		f.peers = append(f.peers, Server{})
	}
	f.peers[n] = peer
	var ids []ID
	for _, c := range f.kept {
		if f.owe(c, n) {
			ids = append(ids, c.id)
		}
	}
	slices.SortFunc(ids, func(a, b ID) int { return slices.Compare(a[:], b[:]) })
	return ids
}

// RemovePeer forgets a peer that is no peer any more. What was for it alone waits.
func (f *Flood) RemovePeer(peer Server) {
	n, ok := f.number(peer)
	if !ok {
		return
	}
	f.peers[n] = Server{}
	for _, c := range f.copies {
		c.has = slices.DeleteFunc(c.has, func(h holder) bool { return int(h.peer) == n })
		c.waits = c.at != buriedAt && !c.owed()
	}
}

func (f *Flood) number(peer Server) (int, bool) {
	n := slices.Index(f.peers, peer)
	return n, n >= 0 && peer != Server{}
}

// Offer decides about a copy that has come, or that this server begins with. It
// returns the peers to queue it for. None, with Take, means that it waits for a link to
// its server.
func (f *Flood) Offer(c Copy) (Verdict, []Server) {
	left := int8(min(max(c.Hops, 0), f.hops))
	from, ok := f.number(c.From)
	k := f.copies[c.ID]
	v, kept := Again, false
	switch {
	case k != nil && left <= k.hops:
		v = Known
	case k == nil || k.at == buriedAt: // it needs room, or needs it again
		size := int64(0)
		if c.From != (Server{}) {
			size = int64(max(c.Size, leastSize))
		}
		if size > 0 && (f.used+size > f.quota || f.origins[c.Origin]+size > f.quota/10) {
			return NoRoom, nil
		}
		if k == nil {
			v, k = Take, &copied{id: c.ID, to: c.To, has: make([]holder, 0, len(f.peers))}
		}
		k.origin, k.size, kept = c.Origin, size, true
		f.keep(k)
	}
	if ok {
		h := k.holder(from)
		h.has = max(h.has, left+1)
	}
	if v == Known {
		return v, nil
	}
	k.hops = left
	var pass []Server
	others := false
	for n, p := range f.peers {
		if p != (Server{}) {
			others = others || p != c.From
			if f.owe(k, n) {
				pass = append(pass, p)
			}
		}
	}
	k.waits = !k.owed() && (left == 0 || !others)
	f.settle(k)
	if len(pass) == 0 && (!kept || k.at == buriedAt) {
		v = Known
	}
	return v, pass
}

// owe notes that a peer is to have c, and tells whether it has to be queued. It goes to
// its server whatever hops are left, and only once. One that is queued
// already goes with what is left when it goes.
func (f *Flood) owe(c *copied, peer int) bool {
	want := c.hops - 1
	if f.peers[peer].Name == c.to {
		want = 0
	}
	if want < 0 {
		return false
	}
	h := c.holder(peer)
	if h.has >= want || h.owed >= want {
		return false
	}
	queued := h.owed != none
	h.owed, c.waits = want, false
	return !queued
}

// holder returns what is known of a peer and c, to be changed.
func (c *copied) holder(peer int) *holder {
	i := slices.IndexFunc(c.has, func(h holder) bool { return int(h.peer) == peer })
	if i < 0 {
		i = len(c.has)
		c.has = append(c.has, holder{uint16(peer), none, none})
	}
	return &c.has[i]
}

func (c *copied) owed() bool {
	return slices.ContainsFunc(c.has, func(h holder) bool { return h.owed != none })
}

// Hops returns with how many hops left a copy is to be sent now.
func (f *Flood) Hops(id ID) int {
	if c := f.copies[id]; c != nil {
		return int(max(c.hops-1, 0))
	}
	return 0
}

// Acked says that a peer has taken a copy that was sent with so many hops left. again:
// it came with more in the meantime, and is to be queued for the peer again. last: that
// was the last peer, and the copy needn't be kept.
func (f *Flood) Acked(id ID, peer Server, hops int) (again, last bool) {
	c := f.copies[id]
	n, ok := f.number(peer)
	if c == nil || c.at == buriedAt || !ok {
		return false, false
	}
	h := c.holder(n)
	h.has = max(h.has, int8(min(max(hops, 0), f.hops)))
	if again = h.owed > h.has; !again {
		h.owed = none
	}
	f.settle(c)
	return again, c.at == buriedAt
}

// settle buries c if there is no reason to keep it.
func (f *Flood) settle(c *copied) {
	if !c.waits && !c.owed() {
		f.bury(c)
	}
}

// Drop says that a copy is not to be kept any more: a receipt has come for it, or it has
// expired. It is to be taken out of all queues, and none goes on that comes later.
func (f *Flood) Drop(id ID) {
	if c := f.copies[id]; c != nil {
		c.hops = allHops
		f.bury(c)
	}
}

// Restore makes a copy known that was kept over a restart, with the peers that
// it is queued for. It is beyond quotas, since it is here.
func (f *Flood) Restore(c Copy, queued []Server) {
	if f.copies[c.ID] != nil {
		return
	}
	k := &copied{id: c.ID, to: c.To, origin: c.Origin, hops: int8(min(max(c.Hops, 0), f.hops))}
	if c.From != (Server{}) {
		k.size = int64(max(c.Size, leastSize))
	}
	f.keep(k)
	for n, p := range f.peers {
		h := holder{uint16(n), max(k.hops-1, 0), none}
		if slices.Contains(queued, p) {
			h.has, h.owed = none, h.has
		}
		if p != (Server{}) {
			k.has = append(k.has, h)
		}
	}
	k.waits = !k.owed()
}

func (f *Flood) keep(c *copied) {
	c.at = int32(len(f.kept))
	f.kept = append(f.kept, c)
	f.copies[c.id] = c
	f.used += c.size
	if c.size > 0 {
		f.origins[c.origin] += c.size
	}
}

// bury makes c a tombstone, and forgets the oldest ones.
func (f *Flood) bury(c *copied) {
	if c.at == buriedAt {
		return
	}
	last := f.kept[len(f.kept)-1]
	f.kept[c.at], last.at = last, c.at
	f.kept[len(f.kept)-1] = nil
	f.kept = f.kept[:len(f.kept)-1]
	c.at = buriedAt
	f.used -= c.size
	if f.origins[c.origin] -= c.size; f.origins[c.origin] <= 0 {
		delete(f.origins, c.origin)
	}
	c.size, c.origin, c.waits = 0, "", false
	for i := range c.has {
		c.has[i].owed = none
	}
	f.buried = append(f.buried, c.id)
	for len(f.buried)-f.first > f.tombs {
		if old := f.copies[f.buried[f.first]]; old != nil && old.at == buriedAt {
			delete(f.copies, old.id)
		}
		f.first++
	}
	if f.first > len(f.buried)/2 {
		f.buried = f.buried[:copy(f.buried, f.buried[f.first:])]
		f.first = 0
	}
}
