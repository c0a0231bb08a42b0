package peer

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/spool"
	"github.com/noipchat/noipchat/daemon/wire"
)

// State is how it stands with one peer.
type State struct {
	Name           string
	Up, Dialing    bool
	Err            error // the last one; nil: none
	Kind, Remote   string
	Cost           int
	RTT            time.Duration // that acks take lately; 0: not known
	Since, Next    time.Time     // it is so; it will be tried again
	Read, Written  int64         // bytes, since the start
	Sent, Received int64         // envelopes

	Configured      bool
	Wanted          bool // a link is to be up now: there is a way that stays up, or something waits
	Links, Failures uint64
	Load
}

// Load is what waits for a way on.
type Load struct {
	Waiting   int           // envelopes that no next server has had
	Untouched time.Duration // age of the oldest of them
	Kept      int           // that the next server has, or did not want yet: until a receipt comes, or it is time to offer them again
}

func (l *Load) add(i spool.Info) {
	l.Waiting, l.Untouched, l.Kept = l.Waiting+i.Messages-i.Kept, max(l.Untouched, i.Untouched), l.Kept+i.Kept
}

// States describes the peers, by name.
func (p *Peers) States() []State {
	p.mu.Lock()
	defer p.mu.Unlock()
	loads, _ := p.loadsLocked()
	return p.statesLocked(loads)
}

func (p *Peers) statesLocked(loads map[string]*Load) (all []State) {
	for _, name := range slices.Sorted(maps.Keys(p.peers)) {
		e := p.peers[name]
		s := State{Name: name, Dialing: e.dialing, Err: e.err, Since: e.since, Next: e.next,
			Read: e.read, Written: e.written, Sent: e.sent, Received: e.took, Configured: e.known, Links: e.links, Failures: e.fails, Load: *loads[name]}
		s.Wanted = s.Waiting > 0 || slices.ContainsFunc(e.conf.Ways, func(w Way) bool { return w.Timeout == 0 })
		if l := e.link; l != nil {
			s.Up, s.Next = true, time.Time{}
			remote := l.Conn().Transport().RemoteAddr()
			s.Kind, s.Remote = remote.Network(), remote.String()
			if l.way != nil {
				s.Cost = l.way.Cost
			}
			read, written := l.Conn().Bytes()
			total, _ := l.Totals()
			s.RTT = total.RTT
			s.Read, s.Written = s.Read+int64(read), s.Written+int64(written)
			s.Sent, s.Received = s.Sent+int64(total.Acked), s.Received+int64(total.Submitted)
		}
		all = append(all, s)
	}
	return all
}

// loadsLocked tells what waits for each peer, for whichever servers, and what waits for
// servers that none leads to.
func (p *Peers) loadsLocked() (loads map[string]*Load, stuck Load) {
	loads = map[string]*Load{}
	for name := range p.peers {
		l := &Load{}
		loads[name] = l
		if q := p.o.Spool.Find(spool.CopiesFor(name)); q != nil {
			l.add(q.Info())
		}
	}
	for server := range p.servers {
		q := p.o.Spool.Find(server)
		if q == nil {
			continue
		}
		if l := loads[cmp.Or(p.hops[server], server)]; l != nil {
			l.add(q.Info())
		} else {
			stuck.add(q.Info())
		}
	}
	return loads, stuck
}

// Figures describe all peers together, and each.
type Figures struct {
	Peers     []State
	Routes    int    // servers that a way leads to
	Limited   uint64 // requests for routes that came too fast, and what was too large
	Impostors uint64 // servers that came with another key than the one known
	Stuck     Load   // what waits for servers that no way leads to

	Copies              int // of what no route is known for, that are kept for others
	CopyBytes, CopyRoom int64
}

// Figures returns them.
func (p *Peers) Figures() Figures {
	p.mu.Lock()
	stats := p.table.Stats()
	f := Figures{Limited: stats.Limited, Impostors: p.impostors.Load() + stats.Impostors}
	for server := range p.servers {
		if _, ok := p.table.Next(server); ok {
			f.Routes++
		}
	}
	var loads map[string]*Load
	loads, f.Stuck = p.loadsLocked() // it looks at all that waits, if that has rested
	f.Peers = p.statesLocked(loads)
	p.mu.Unlock()
	c := p.copies
	c.mu.Lock()
	defer c.mu.Unlock()
	f.CopyBytes, f.Copies, _ = c.flood.Used()
	f.CopyRoom = c.quota
	return f
}

// Route is a way to a server that was learnt.
type Route struct {
	Server, Via string
	Key         identity.PublicKey // as it was announced
	Metric      int
	Doubted     bool // it took mail of which nothing was heard
	Since       time.Time
}

// Routes describes the ways that are used, by name.
func (p *Peers) Routes() (all []Route) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.table.Routes() {
		if len(r.Ways) == 0 || !r.Preferred {
			continue
		}
		hop, ok := p.table.Next(r.Name)
		if !ok || hop.Static {
			continue
		}
		a, _ := wire.ParseAnnouncement(r.Announcement)
		all = append(all, Route{Server: r.Name, Via: hop.Peer.Name, Key: a.Key, Metric: int(hop.Metric), Doubted: r.Ways[0].Doubted, Since: p.start.Add(r.Since)})
	}
	return all
}

// Refresh asks again whether a server may have a link, and ends it if not.
func (p *Peers) Refresh(name string) {
	p.mu.Lock()
	var l *link
	if e := p.peers[name]; e != nil {
		l = e.link
	}
	p.mu.Unlock()
	if l == nil {
		return
	}
	if _, err := p.o.Servers.Meet(name, l.key); err != nil {
		l.End(message.Refuse(message.CodeNotAllowed, "this server is not trusted any more"))
	}
}
