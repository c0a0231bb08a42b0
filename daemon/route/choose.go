package route

import (
	"cmp"
	"slices"
	"time"
)

// feasible tells whether taking w can make no loop (RFC 8966, 3.5.1): it is better
// than all that we ever told of s, so that nobody who goes through us is on it. A
// link to the server itself ends there, and is always feasible.
func (s *server) feasible(w *way) bool {
	if w.peer.Server == s.Server || s.told == nil {
		return true
	}
	return s.told.seq.Before(w.ann.seq) || s.told.seq == w.ann.seq && w.metric < s.toldMetric
}

// lower notes that somebody is told metric with a.
func (s *server) lower(a *announcement, metric uint16) {
	if s.told == nil || s.told.seq.Before(a.seq) || s.told.seq == a.seq && metric < s.toldMetric {
		s.told, s.toldMetric = a, metric
	}
}

// total is the metric of w as seen from here.
func (w *way) total() uint16 {
	return uint16(min(int(w.metric)+int(w.peer.metric), Infinite))
}

// announcement is the one that w can be told with.
func (s *server) announcement(w *way) *announcement {
	if w.peer.Server == s.Server {
		return s.newest
	}
	return w.ann
}

// margin is what another metric has to be better, or worse, to matter: an eighth.
func margin(metric uint16) int { return max(int(metric)/8, 2) }

// price is what w is chosen by, and told with: its metric, and more if its peer has lost
// mail. So others take another way too, if they have one; and if not, it still is one.
func (t *Table) price(s *server, w *way) uint16 {
	total := w.total()
	if d := s.doubt(w.peer); d != nil && d.until > t.now && total < Infinite {
		return uint16(min(int(total)+doubtCost*d.times, Infinite-1))
	}
	return total
}

// clearly tells whether w is better than o by so much that it matters.
func (t *Table) clearly(s *server, w, o *way) bool {
	return int(t.price(s, w))+margin(o.total()) <= int(t.price(s, o))
}

// doubt returns what p is doubted for, if it ever was.
func (s *server) doubt(p *peer) *doubt {
	if s.trouble != nil {
		for i := range s.trouble.doubts {
			if d := &s.trouble.doubts[i]; d.peer == p {
				return d
			}
		}
	}
	return nil
}

// choose finds the way to s after something about its ways has changed (RFC 8966,
// 3.6), and sees to all that follows.
//
// The chosen way may become unfeasible by what its peer says later, for instance that its own
// way has grown longer, and stays chosen: what the peer has told in all its life only
// gets better, so it is still nearer than what we told anybody; and telling a metric that
// comes from an unfeasible one doesn't improve what we told. Once left, a
// way has to be feasible to be taken again.
func (t *Table) choose(s *server) {
	if s == t.own {
		return
	}
	var best, cur *way
	for i := range s.ways {
		w := &s.ways[i]
		switch {
		case w.total() == Infinite:
			continue
		case w.peer == s.via:
			cur = w
		case !s.feasible(w):
			continue
		}
		if best == nil || cmp.Or(s.freshness(w, best), cmp.Compare(t.price(s, w), t.price(s, best))) < 0 {
			best = w
		}
	}
	if cur != nil && s.freshness(cur, best) <= 0 && !t.clearly(s, best, cur) {
		best = cur
	}

	via, ann, metric := (*peer)(nil), (*announcement)(nil), uint16(Infinite)
	if best != nil {
		via, ann, metric = best.peer, s.announcement(best), t.price(s, best)
	}
	if via != s.via {
		s.since = t.now
		t.note(s)
	}
	if via != s.via || ann != s.ann || metric != s.metric {
		s.via, s.ann, s.metric = via, ann, metric
		t.spread(s)
	}
	t.feed(s)
	t.plan(s)
}

// freshness is below 0 if w has a number as new as somebody asked us for, and o hasn't: that
// counts more than the price. Otherwise one liar who passes on no newer number would keep
// everybody waiting who has gone through us.
func (s *server) freshness(w, o *way) int {
	if s.trouble == nil {
		return 0
	}
	stale := func(w *way) bool { return !s.trouble.passed.Before(s.announcement(w).number()) }
	return order(stale(w), stale(o))
}

// Overdue says that a peer took mail for a server some time ago, and no receipt has
// come; to is the name and key of the Hop. For ten minutes, or twice as long as the last
// time, up to a day, the peer's way counts as much worse, and each time by more; if the best one is not
// feasible then, it is asked for. The caller says it once for each time that he
// has sent the same mail, also on its way: who sees it a second time knows that the way
// he chose was no good. It returns whether that was news.
func (t *Table) Overdue(now time.Duration, to, via Server) bool {
	t.clock(now)
	news := false
	for _, f := range t.static[to.Name] {
		if f.peer == via && to.Key == (Key{}) {
			news = f.doubt <= t.now
			f.doubt = t.now + doubtFirst
			t.changed[to.Name] = struct{}{}
		}
	}
	s, p := t.find(to), t.peers[via]
	if s == nil || p == nil || s == t.own {
		return news
	}
	d := s.doubt(p)
	if d == nil {
		b := s.bad()
		if len(b.doubts) >= maxDoubts {
			b.doubts = slices.Delete(b.doubts, 0, 1)
		}
		b.doubts = append(b.doubts, doubt{peer: p})
		d = &b.doubts[len(b.doubts)-1]
	}
	switch {
	case d.times > 0 && t.now < d.until-d.gap+doubtOnce:
		return false // much mail was lost at once
	case t.now > d.until+doubtLast:
		d.times, d.gap = 0, 0 // that is long ago
	}
	d.times = min(d.times+1, doubtTimes)
	d.gap = min(max(2*d.gap, doubtFirst), doubtLast)
	d.until = t.now + d.gap
	t.choose(s)
	return true
}

// hunger is how much a newer number of a server is missed: only with one can what
// some peer says be used (RFC 8966, 3.8.2).
type hunger uint8

const (
	sated    hunger = iota
	peckish         // there would be a clearly better way
	starving        // there is no way now, or only a doubted one
)

func (t *Table) hunger(s *server) hunger {
	h := sated
	for i := range s.ways {
		w := &s.ways[i]
		switch {
		case !s.useless(w):
		case s.via == nil:
			return starving
		case t.clearly(s, w, s.by(s.via)):
			h = peckish
		}
	}
	return h
}

// useless tells whether w would lead to s, if it were feasible.
func (s *server) useless(w *way) bool {
	return w.peer != s.via && w.total() < Infinite && !s.feasible(w)
}

// feed sees to it that a newer number is asked for if it is missed.
func (t *Table) feed(s *server) {
	h := t.hunger(s)
	if h == sated && s.trouble == nil {
		return
	}
	b := s.bad()
	before := b.hunger
	b.hunger = h
	if h <= before {
		return
	}
	b.askGap = askFirst
	if h == peckish {
		b.askAt = t.now + askBetter
		return
	}
	t.askNewer(s)
}

// askNewer asks everybody who says that he has a way that can't be taken.
func (t *Table) askNewer(s *server) {
	b := s.trouble
	if b.askAt = b.asks.free(t.now, askRate); b.askAt > t.now {
		return
	}
	b.asks.take(t.now, askRate)
	for i := range s.ways {
		w := &s.ways[i]
		if !s.useless(w) {
			continue
		}
		r := Request{Server: s.Server, After: s.told.seq, Hops: requestHops}
		if w.ann.seq.Before(s.told.seq) {
			if b.hunger == peckish {
				r.After = w.ann.seq // the number that we have is new enough
			} else {
				r.Proof = s.told.raw // has the server lost what it was?
			}
		}
		t.ask(w.peer, r)
	}
	b.askAt = t.now + b.askGap
	b.askGap = min(2*b.askGap, askLast)
}

// ask has p asked. What there is no room for is asked again later, if it still matters.
func (t *Table) ask(p *peer, r Request) {
	if p.up && len(p.requests) < maxAsked {
		p.requests = append(p.requests, r)
	}
}
