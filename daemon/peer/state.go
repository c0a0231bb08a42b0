package peer

import (
	"maps"
	"slices"
	"time"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
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
}

// States describes the peers, by name.
func (p *Peers) States() (all []State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(p.peers)) {
		e := p.peers[name]
		s := State{Name: name, Dialing: e.dialing, Err: e.err, Since: e.since, Next: e.next,
			Read: e.read, Written: e.written, Sent: e.sent, Received: e.took}
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
