package peer

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/pump"
	"github.com/noipchat/noipchat/daemon/spool"
	"github.com/noipchat/noipchat/daemon/transport"
	"github.com/noipchat/noipchat/daemon/wire"
)

// Carried is all links between two images of a process. The table of routes is not in
// it: each conversation about routes begins anew.
type Carried struct {
	Epoch uint32 // of the other image, on disk already: nothing of a handoff may fail there
	Links []CarriedLink
}

// CarriedLink is one of them.
type CarriedLink struct {
	Peer   string
	Known  bool // by the configuration
	Key    identity.PublicKey
	Way    *Way // that we dialled; nil: it dialled us
	Cost   int  // what it costs who has dialled; 0: he doesn't say
	Since  time.Time
	Answer uint32 // that is owed
	Stream transport.Carried
	Flow   pump.State
}

// Reserve counts the start of another image, for Export, before anything is paused.
func (p *Peers) Reserve() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	epoch, err := nextEpoch(p.o.State, 0)
	p.reserved = epoch
	return err
}

// Still has nobody dialled until Reclaim, which must follow unless the process ends.
func (p *Peers) Still() {
	p.mu.Lock()
	p.still()
	p.mu.Unlock()
	p.dials.Wait()
}

// Pause has all readers end, without an end of their links, and takes nobody in, until
// Reclaim. Still was called before.
func (p *Peers) Pause() {
	p.mu.Lock()
	p.paused, p.ctx = p.ctx, nil // adopt and tick look at ctx
	for _, l := range p.linksLocked() {
		l.Pause()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

// Export returns the state of all links, which are paused, after the spool has settled.
// keep is as in transport.Carry.
func (p *Peers) Export(keep func(syscall.Conn) (int, error)) (all Carried, err error) {
	p.mu.Lock()
	all.Epoch = p.reserved
	links := slices.DeleteFunc(p.linksLocked(), func(l *link) bool { return l.Ended() != nil })
	var states []CarriedLink
	for _, l := range links {
		states = append(states, CarriedLink{Peer: l.peer.name, Known: l.peer.known, Key: l.key, Way: l.way, Cost: l.cost, Since: l.peer.since, Answer: l.answer})
	}
	p.mu.Unlock()
	for i, l := range links {
		c := states[i]
		if c.Flow, err = l.Export(); err == nil {
			c.Stream, err = transport.Carry(l.Conn().Transport(), keep)
		}
		switch {
		case l.Ended() != nil: // perhaps meanwhile
		case err != nil:
			return all, fmt.Errorf("the link to %s: %w", l.peer.name, err)
		default:
			all.Links = append(all.Links, c)
		}
	}
	return all, nil
}

// Reclaim undoes Still, and Pause and Export if they were called: links go on.
func (p *Peers) Reclaim() {
	p.mu.Lock()
	defer p.mu.Unlock()
	paused := p.ctx == nil
	if paused {
		p.ctx, p.paused = p.paused, nil
	}
	p.dialling, p.still = context.WithCancel(p.ctx)
	p.dialAllLocked()
	if !paused {
		return
	}
	for _, l := range p.linksLocked() {
		l.Reclaim()
		p.readLocked(l)
	}
	p.nudge()
}

// dialAllLocked has all peers dialled that there is no link to.
func (p *Peers) dialAllLocked() {
	for _, e := range p.peers {
		p.dialLocked(e, e.link == nil)
	}
}

// Resume makes the links of another image, and returns how many could not be made:
// they are dialled anew. It is called before Configure, and nobody is read before Start.
func (p *Peers) Resume(all Carried) (lost int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range all.Links {
		if err := p.resumeLocked(c); err != nil {
			p.o.Log.Warn("a link could not be handed over, and is closed", "peer", c.Peer, "error", err)
			lost++
		}
	}
	return lost
}

func (p *Peers) resumeLocked(c CarriedLink) error {
	stream, err := c.Stream.Conn(p.o.Log)
	if err != nil {
		return err
	}
	conn, err := wire.Resume(stream, c.Flow.Conn)
	if err != nil {
		stream.Close()
		return err
	}
	e := p.peerLocked(c.Peer)
	l := p.linkTo(e, c.Key, c.Way)
	l.cost = max(l.cost, c.Cost) // an older image doesn't say
	l.anew, l.since, l.answer = p.epoch, l.still, c.Answer
	l.questions = uint64(p.epoch) << 30 // who answers a question of before answers none of ours
	c.Flow.Control = wire.AppendRoutes(c.Flow.Control, &wire.Routes{Anew: l.anew})
	l.Flow = pump.Resume(conn, l, pump.Options{Relay: p.o.Relay, Spool: p.o.Spool, Start: p.start}, c.Flow)
	p.anewLocked(l)
	e.known, e.link, e.id, e.since = c.Known, l, l.id, c.Since
	for _, name := range c.Flow.Queues {
		if !spool.IsCopies(name) {
			p.hops[name], p.servers[name] = c.Peer, true
		}
	}
	return nil
}
