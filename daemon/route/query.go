package route

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Hop is where mail for a name goes next.
type Hop struct {
	Peer   Server
	Key    Key // of the name that is meant; zero for a static way
	Metric uint16
	Static bool
}

// Next returns where mail for a server goes. Of several keys with one name the
// pinned one counts, or else the first that was heard of: also if only others can
// be reached.
func (t *Table) Next(name string) (Hop, bool) {
	s := t.names[name]
	if s != nil && s.via != nil {
		return Hop{Peer: s.via.Server, Key: s.Key, Metric: s.metric}, true
	}
	if len(t.static) == 0 || s == t.own {
		return Hop{}, false
	}
	return t.stated(name)
}

// NextTo returns where mail for the one server goes that has this key, as its sender's
// home has chosen. Servers on the way ask this, not Next: if one preferred one key of a name and
// the next one another, mail could go to and fro between them.
func (t *Table) NextTo(id Server) (Hop, bool) {
	s := t.find(id)
	if s == nil || s.via == nil {
		return Hop{}, false
	}
	return Hop{Peer: s.via.Server, Key: s.Key, Metric: s.metric}, true
}

// stated returns the first static way whose peer is up, and not doubted if there is a choice.
func (t *Table) stated(name string) (h Hop, ok bool) {
	for _, f := range t.static[name] {
		p := t.peers[f.peer]
		if p == nil || !p.up {
			continue
		}
		if doubted := f.doubt > t.now; !doubted || !ok {
			h, ok = Hop{Peer: f.peer, Metric: p.metric, Static: true}, true
			if !doubted {
				break
			}
		}
	}
	return h, ok
}

// Changed returns the names whose Next may have changed since it was last called, sorted.
func (t *Table) Changed() []string {
	if len(t.changed) == 0 {
		return nil
	}
	names := slices.Sorted(maps.Keys(t.changed))
	clear(t.changed)
	return names
}

// Way is one way to a server.
type Way struct {
	Peer     Server
	Metric   uint16
	Seq      Seq
	Since    time.Duration
	Chosen   bool
	Direct   bool // the peer is the server
	Static   bool
	Feasible bool // it could be taken now without fear of a loop
	Doubted  bool // it took mail, and no receipt came
}

// Route is what is known of one server.
type Route struct {
	Server
	Verified     bool // pinned; otherwise anybody may have made the key
	Preferred    bool // of those with its name
	Seq          Seq
	Announcement []byte // the newest; not to be changed
	Since        time.Duration
	Ways         []Way // the chosen one first, then those that could be taken, then the others
}

// Ways returns the ways to the preferred server of a name, as in Route.
func (t *Table) Ways(name string) []Way {
	if s := t.names[name]; s != nil {
		return t.route(s).Ways
	}
	return t.staticWays(name)
}

// Announcement returns the newest one of the preferred server of a name, nil if there is
// none. It is not to be changed.
func (t *Table) Announcement(name string) []byte {
	if s := t.names[name]; s != nil && s.newest != nil {
		return s.newest.raw
	}
	return nil
}

// Routes returns all servers that are known but this one, sorted by name, the preferred
// one of a name first.
func (t *Table) Routes() []Route {
	var all []Route
	names := maps.Clone(t.static) // as a set
	for name := range t.names {
		names[name] = nil
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if t.names[name] == nil {
			all = append(all, Route{Server: Server{Name: name}, Preferred: true, Ways: t.staticWays(name)})
		}
		for s := t.names[name]; s != nil; s = s.next {
			if s != t.own {
				all = append(all, t.route(s))
			}
		}
	}
	return all
}

func (t *Table) route(s *server) Route {
	r := Route{Server: s.Server, Verified: s.pinned, Preferred: t.names[s.Name] == s, Seq: s.newest.number(), Since: s.since}
	if s.newest != nil {
		r.Announcement = s.newest.raw
	}
	for i := range s.ways {
		w := &s.ways[i]
		r.Ways = append(r.Ways, Way{
			Peer: w.peer.Server, Metric: t.price(s, w), Seq: s.announcement(w).number(), Since: w.since,
			Chosen: w.peer == s.via, Direct: w.peer.Server == s.Server,
			Feasible: w.total() < Infinite && (w.peer == s.via || s.feasible(w)), Doubted: t.price(s, w) > w.total(),
		})
	}
	slices.SortStableFunc(r.Ways, func(a, b Way) int {
		return cmp.Or(order(b.Chosen, a.Chosen), order(b.Feasible, a.Feasible), order(a.Doubted, b.Doubted), cmp.Compare(a.Metric, b.Metric))
	})
	if r.Preferred {
		static := t.staticWays(s.Name)
		if s.via != nil {
			for i := range static {
				static[i].Chosen = false
			}
		}
		r.Ways = append(r.Ways, static...)
	}
	return r
}

// order puts false before true.
func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func (t *Table) staticWays(name string) (ways []Way) {
	chosen, ok := t.stated(name)
	for _, f := range t.static[name] {
		w := Way{Peer: f.peer, Metric: Infinite, Static: true, Doubted: f.doubt > t.now, Chosen: ok && chosen.Peer == f.peer}
		if p := t.peers[f.peer]; p != nil && p.up {
			w.Metric, w.Feasible = p.metric, true
		}
		ways = append(ways, w)
	}
	return ways
}

// Link is what is known of a peer.
type Link struct {
	Peer
	Up        bool
	Metric    uint16  // when it was last up
	Share     float64 // of the time that it is up, over about a day
	Servers   int     // that it leads to, besides itself
	Truncated int     // updates that there was no room for
}

// Links returns all peers that are up, or were, in the order in which they came.
func (t *Table) Links() (links []Link) {
	for _, p := range t.order {
		links = append(links, Link{p.Peer, p.up, p.metric, p.shareAt(t.now), p.count, p.truncated})
	}
	return links
}
