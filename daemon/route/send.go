package route

import (
	"slices"
	"time"
)

// spread sees to it that all peers are told of a change to s; if it changes often,
// not at once.
func (t *Table) spread(s *server) {
	if s.mute {
		return
	}
	differs := false
	for _, p := range t.order {
		differs = differs || p.up && t.differs(p, s)
	}
	if !differs {
		return
	}
	if s.tellAt = s.tells.take(t.now, tellRate); s.tellAt > t.now {
		s.mute = true
		t.plan(s)
		return
	}
	t.tell(s)
}

func (t *Table) tell(s *server) {
	s.mute = false
	for _, p := range t.order {
		if p.up && t.differs(p, s) {
			t.queue(p, s)
		}
	}
}

// queue has p told of s, if there is something to tell when its link takes it.
func (t *Table) queue(p *peer, s *server) {
	if o := p.mark(s); !o.queued {
		o.queued = true
		p.queue = append(p.queue, s.slot)
	}
}

// offer is what p should know of s: the way, unless it leads back to p (split
// horizon; what p was told before is retracted, so it is a poisoned one).
func (t *Table) offer(p *peer, s *server) (*announcement, uint16) {
	if s.ann == nil || s.via == p || s.Server == p.Server || s.metric == Infinite {
		return nil, Infinite
	}
	return s.ann, s.metric
}

// differs tells whether p should be told of s: that there is a way or is none any
// more, the newer number, a metric that is clearly another.
func (t *Table) differs(p *peer, s *server) bool {
	o := p.sent(s)
	ann, metric := t.offer(p, s)
	switch {
	case p.Quiet && !o.asked:
		return false
	case o.again, (ann == nil) != (o.ann == nil):
		return true
	case ann == nil:
		return false
	case p.Quiet:
		return o.newer && o.ann.seq.Before(ann.seq)
	}
	d := int(metric) - int(o.metric)
	return ann != o.ann || max(d, -d) >= margin(o.metric)
}

// Send returns the next message for a peer whose link would take one, and counts it
// as told. It is to be called until there is none, at the time that Wake says, and after
// every other call that may have changed something. What it returns must not be changed.
func (t *Table) Send(now time.Duration, id Server) (m Message, ok bool) {
	t.clock(now)
	p := t.peers[id]
	if p == nil || !p.waits() || t.now < p.gather {
		return m, false
	}
	m.Updates = make([]Update, 0, min(len(p.queue)-p.head, MaxUpdates))
	size := 0
	for ; p.head < len(p.queue) && len(m.Updates) < MaxUpdates && size < MaxBytes; p.head++ {
		slot := p.queue[p.head]
		o := &p.out[slot]
		o.queued = false
		s := t.slots[slot]
		if s == nil || !t.differs(p, s) {
			continue
		}
		u := Update{Server: s.Server, Metric: Infinite}
		ann, metric := t.offer(p, s)
		if ann != nil {
			u.Seq, u.Metric = ann.seq, metric
			if ann != o.ann || o.again {
				u.Announcement = ann.raw
			}
			if s != t.own {
				s.lower(ann, metric)
			}
			o.newer = o.newer && (o.ann == nil || !o.ann.seq.Before(ann.seq))
		}
		o.ann, o.metric, o.again = ann, metric, false
		m.Updates = append(m.Updates, u)
		size += len(u.Announcement) + len(u.Name) + 32
	}
	if p.head > len(p.queue)/2 {
		p.queue, p.head = p.queue[:copy(p.queue, p.queue[p.head:])], 0
	}
	n := 0
	for ; n < len(p.requests) && n < MaxRequests && size < MaxBytes; n++ {
		m.Requests = append(m.Requests, p.requests[n])
		size += len(p.requests[n].Proof) + len(p.requests[n].Name) + 32
	}
	p.requests = slices.Delete(p.requests, 0, n)
	t.stats.Told += uint64(len(m.Updates))
	t.stats.Asked += uint64(n)
	if !p.waits() { // a long answer is not held up
		p.gather = t.now + gather
	}
	return m, len(m.Updates) > 0 || n > 0
}

// waits tells whether p may have to be told something.
func (p *peer) waits() bool { return p.up && (p.head < len(p.queue) || len(p.requests) > 0) }
