package route

import (
	"bytes"
	"slices"
	"time"
)

// Receive takes what a peer says. The caller has checked the signature of each
// announcement and proof, unless Known tells that it isn't a new one, that it is of that
// server's name and key, and that it has the update's Seq, or the request's After. The message
// may be used again.
func (t *Table) Receive(now time.Duration, from Server, m *Message) {
	t.clock(now)
	p := t.peers[from]
	if p == nil || !p.up {
		return
	}
	for i := range m.Updates {
		if i >= MaxUpdates {
			t.stats.Limited++
			p.missed = true
			break
		}
		t.update(p, &m.Updates[i])
	}
	for i := range m.Requests {
		if i >= MaxRequests || !p.asked.may(t.now, requestRate) {
			t.stats.Limited++
			break
		}
		t.request(p, &m.Requests[i])
	}
}

// Known tells whether an announcement is one that the table has already, whose signature
// needn't be checked again.
func (t *Table) Known(id Server, seq Seq, announcement []byte) bool {
	s := t.find(id)
	return s != nil && s.lookup(seq, announcement) != nil
}

// lookup returns the announcement that has seq and, if raw isn't empty, is raw.
func (s *server) lookup(seq Seq, raw []byte) *announcement {
	same := func(a *announcement) bool {
		return a != nil && a.seq == seq && (len(raw) == 0 || bytes.Equal(a.raw, raw))
	}
	if same(s.newest) {
		return s.newest
	}
	if same(s.told) {
		return s.told
	}
	for i := range s.ways {
		if same(s.ways[i].ann) {
			return s.ways[i].ann
		}
	}
	return nil
}

// update takes what p says of one server (RFC 8966, 3.5.3).
func (t *Table) update(p *peer, u *Update) {
	t.stats.Updates++
	if u.Name == t.own.Name {
		switch {
		case u.Key != t.own.Key:
			t.stats.Impostors++
		case len(u.Announcement) > 0:
			t.heardOwn(u.Seq, u.Announcement)
		}
		return
	}
	s := t.find(u.Server)
	if u.Metric == Infinite {
		if s != nil && u.Server != p.Server && s.drop(p) {
			p.count--
			t.choose(s)
		}
		return
	}
	if len(u.Announcement) > MaxAnnouncement || u.Seq == (Seq{}) || u.Name == "" {
		t.stats.Limited++
		return
	}
	if s == nil && len(u.Announcement) == 0 {
		p.missed = true // we had no room for it, or it is forgotten
		return
	}
	var w *way
	if s != nil {
		w = s.by(p)
	}
	if w == nil && p.Limit > 0 && p.count >= p.Limit {
		t.truncate(p)
		return
	}
	if s == nil {
		if s = t.admit(u.Server, p); s == nil {
			t.truncate(p)
			return
		}
	}
	ann := s.lookup(u.Seq, u.Announcement)
	switch {
	case ann != nil:
	case len(u.Announcement) == 0:
		p.missed = true
		return
	default:
		ann = newAnnouncement(u.Seq, u.Announcement)
	}
	if s.newest.number().Before(ann.seq) {
		s.newest = ann
	}
	switch {
	case u.Server == p.Server:
		// Its metric to itself is none of its business. If it has lost what it knew of
		// itself, it hears of it, so that others who remember can use it too.
		if ann.seq.Before(s.newest.seq) || ann.seq == s.newest.seq && ann != s.newest {
			t.ask(p, Request{Server: s.Server, After: s.newest.seq, Hops: 1, Proof: s.newest.raw})
		}
	case w == nil:
		s.ways = append(s.ways, way{peer: p, ann: ann, metric: u.Metric, since: t.now})
		p.count++
	default:
		w.ann, w.metric = ann, u.Metric
	}
	if s.trouble != nil && s.trouble.hunger == starving {
		s.trouble.hunger = sated // who has news may have an answer too
	}
	t.choose(s)
}

// by returns the way that p brought, or nil.
func (s *server) by(p *peer) *way {
	for i := range s.ways {
		if s.ways[i].peer == p {
			return &s.ways[i]
		}
	}
	return nil
}

func (t *Table) truncate(p *peer) {
	t.stats.Truncated++
	p.truncated++
	p.missed = true
}

// request answers what p asks, or passes it on (RFC 8966, 3.8.1).
func (t *Table) request(p *peer, r *Request) {
	t.stats.Requests++
	switch {
	case r.Name == "":
		if p.Quiet || !p.dumped.may(t.now, dumpRate) {
			t.stats.Limited++
			return
		}
		for _, s := range t.slots {
			if s != nil && s.ann != nil {
				t.answer(p, s)
			}
		}
	case r.After == (Seq{}):
		for s := t.names[r.Name]; s != nil; s = s.next {
			if r.Key == (Key{}) || r.Key == s.Key {
				t.answer(p, s)
			}
		}
	case len(r.Proof) > MaxAnnouncement:
		t.stats.Limited++
	default:
		if s := t.find(r.Server); s != nil {
			t.newer(p, s, r)
		}
	}
}

// answer has p told of s whatever it was told before.
func (t *Table) answer(p *peer, s *server) {
	o := p.mark(s)
	o.again, o.asked = true, true
	t.queue(p, s)
}

func (t *Table) newer(p *peer, s *server, r *Request) {
	if p.Quiet {
		o := p.mark(s)
		o.asked, o.newer = true, true
	}
	switch {
	case s == t.own:
		switch at := t.own.ann.number(); {
		case at.Before(r.After):
			if len(r.Proof) > 0 {
				t.heardOwn(r.After, r.Proof)
			}
		case at == r.After && len(r.Proof) > 0 && !bytes.Equal(r.Proof, t.own.ann.raw):
			t.heardOwn(r.After, r.Proof)
		case at == r.After:
			t.renumber(at.next())
		default:
			t.queue(p, s)
		}
	default:
		if len(r.Proof) > 0 && s.newest.number().Before(r.After) {
			s.newest = newAnnouncement(r.After, r.Proof)
		}
		t.pass(p, s, r)
	}
}

// pass answers with a way whose number is new enough, or gives the request to the way that
// we use; each time that the same one comes again, to another that doesn't lead back to who
// asks, since somebody may swallow it. Within a second it is not worth a second time.
// Numbers that nobody has shown us are not remembered, or a liar could keep others from asking.
func (t *Table) pass(p *peer, s *server, r *Request) {
	b := s.bad()
	twice := !b.passed.Before(r.After) && (b.proved || len(r.Proof) == 0) && t.now-b.passedAt < time.Second
	if !twice && !s.newest.number().Before(r.After) {
		b.proved, b.passedAt = len(r.Proof) > 0, t.now
		if b.tries++; b.passed.Before(r.After) {
			b.passed, b.tries = r.After, 0
			t.choose(s) // perhaps there is such a way
		}
	}
	if s.via != p && r.After.Before(s.ann.number()) {
		t.queue(p, s) // if it isn't on its way already
		return
	}
	to := s.successor(p)
	if twice || to == nil || r.Hops <= 1 {
		return
	}
	next := Request{Server: s.Server, After: r.After, Hops: min(r.Hops, requestHops) - 1}
	switch a := s.lookup(r.After, r.Proof); {
	case len(r.Proof) > 0:
		next.Proof = bytes.Clone(r.Proof)
	case a != nil && to.Server == s.Server:
		next.Proof = a.raw // it may have lost what others remember
	}
	t.ask(to, next)
}

// successor returns who brings a request of p nearer to s: itself, or the chosen way, or the
// others in turn.
func (s *server) successor(p *peer) *peer {
	var all []*peer
	for i := range s.ways {
		switch w := &s.ways[i]; {
		case w.peer == p || w.total() == Infinite:
		case w.peer.Server == s.Server:
			return w.peer
		case w.peer == s.via:
			all = slices.Insert(all, 0, w.peer)
		default:
			all = append(all, w.peer)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[s.trouble.tries%len(all)]
}
