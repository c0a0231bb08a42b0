package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/pump"
	"github.com/noipchat/noipchat/daemon/relay"
	"github.com/noipchat/noipchat/daemon/route"
	"github.com/noipchat/noipchat/daemon/spool"
	"github.com/noipchat/noipchat/daemon/wire"
)

// link is a connection to a peer.
type link struct {
	*pump.Flow
	// fixed
	p    *Peers
	peer *peer
	id   route.Server
	key  identity.PublicKey
	way  *Way // that we dialled; nil: it dialled us
	cost int  // what it costs who has dialled; 0: he doesn't say

	replies   map[uint64]chan wire.Reply // to what we have asked; guarded by Peers.mu
	questions uint64                     // so many were asked; guarded by Peers.mu
	trying    bool                       // an address of the peer; guarded by Peers.mu

	broken error // what was wrong with what came before converse; its

	leaving message.Envelope // that Stamp looks at: under the Flow's lock
	said    []relay.Said     // the reader's

	copies map[*spool.Entry]int // with how many hops left those under way were sent; guarded by copies.mu

	anew   uint32        // what we have begun the conversation about routes with, and is not answered; guarded by Peers.mu
	since  int64         // when; the same
	answer uint32        // what the other side has begun it with, and we have not answered; the same
	stays  time.Duration // until then the queues that it pumps stay with it, also without a route; the same
	tested int64         // since when a pong is awaited, as Flow.Heard; 0: none is; the same
	why    error         // it has ended, if that wasn't our wish; the same
	rested bool          // it has ended because nobody needed it; the same

	asked int64  // when Watch pinged, as Flow.Heard; guarded by Peers.mu
	moved uint64 // envelopes both ways when Watch last looked
	still int64  // since when they are so many
	acked uint64 // envelopes
	owing int64  // since when the other side owes acks, or has acked the last; Watch's last look if it owes none
}

// meet compares who answers with whom we want, and says who we are.
func meet(p *Peers, e *peer, way *Way) func(wire.ServerHello) (wire.ClientHello, error) {
	return func(h wire.ServerHello) (wire.ClientHello, error) {
		var ch wire.ClientHello
		if h.Name != e.name {
			return ch, message.Refuse(message.CodeInvalid, "the server there is called %s, not %s", h.Name, e.name)
		}
		if err := p.know(h.Name, h.Key); err != nil {
			return ch, err
		}
		return wire.ClientHello{Agent: p.o.Agent, Window: p.o.Window, Method: wire.ByLink, User: p.o.Home, Cost: way.Cost}, nil
	}
}

// carried tells whether anything was acked by either side.
func (l *link) carried() bool {
	total, _ := l.Totals()
	return total.Submitted+total.Acked > 0
}

// know tells whether a server may have a link, with the key that it has proved to have.
func (p *Peers) know(name string, key identity.PublicKey) error {
	_, err := p.o.Servers.Meet(name, key)
	var changed *identity.ChangedKeyError
	if errors.As(err, &changed) {
		p.impostors.Add(1)
	}
	return err
}

// open dials a way and makes a link.
func (p *Peers) open(ctx context.Context, e *peer, way *Way) (*link, error) {
	dialing, cancel := context.WithTimeout(ctx, way.Line.Patience(p.o.Connect, handshakeBytes))
	defer cancel()
	conn, err := p.o.Dial(dialing, way.Address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(dialing, func() { conn.SetDeadline(time.Unix(1, 0)) })
	var hello wire.ServerHello
	ask := meet(p, e, way)
	c, err := wire.Open(conn, p.o.Key, func(h wire.ServerHello) (wire.ClientHello, error) {
		hello = h
		return ask(h)
	})
	var welcome wire.Welcome
	var early [][]byte
	if err == nil {
		welcome, early, err = c.ReceiveWelcome()
	}
	if !stop() && err == nil {
		err = dialing.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	c.Meet(welcome.Have)
	l := p.newLink(e, c, hello.Key, hello.Window, way, nil)
	if no := p.adopt(l); no != nil {
		l.End(no)
		return nil, fmt.Errorf("a link, and not kept: %w", no)
	}
	for _, plain := range early {
		if err := l.Early(plain); err != nil {
			l.broken = err // converse says so
		}
	}
	return l, nil
}

const handshakeBytes = 600

// Accept takes in a server that has dialled us and said who it is; its key is proved.
func (p *Peers) Accept(c *wire.Conn, hello wire.ClientHello, source string) {
	no := func(err error) {
		var refusal *message.Refusal
		var changed *identity.ChangedKeyError
		switch {
		case errors.As(err, &refusal):
		case errors.As(err, &changed):
			refusal = message.Refuse(message.CodeNotAllowed, "another key of %s is known here", hello.User)
		default:
			p.o.Log.Error("taking a server in", "server", hello.User, "source", source, "error", err)
			refusal = message.Defer(message.CodeLater, time.Minute, "it could not be done; the log here says why")
		}
		p.o.Log.Warn("a server was refused", "server", hello.User, "fingerprint", hello.Key.Fingerprint(), "source", source, "reason", err)
		c.Flush(&once{wire.AppendWelcome(nil, wire.Welcome{No: refusal})})
		c.Close()
	}
	if hello.User == p.o.Home {
		no(message.Refuse(message.CodeInvalid, "it has our own name"))
		return
	}
	if err := p.know(hello.User, hello.Key); err != nil {
		no(err)
		return
	}
	p.mu.Lock()
	e := p.peerLocked(hello.User)
	p.mu.Unlock()
	l := p.newLink(e, c, hello.Key, hello.Window, nil, wire.AppendWelcome(nil, wire.Welcome{}))
	l.cost = hello.Cost
	if refusal := p.adopt(l); refusal != nil {
		no(refusal)
		return
	}
	go p.converse(l)
}

// once is a Source of some bytes.
type once struct{ b []byte }

// Fill implements wire.Source.
func (o *once) Fill(b []byte, _ int) ([]byte, bool) {
	b = append(b, o.b...)
	o.b = nil
	return b, false
}

// overhead is what an envelope's frame takes beyond what Pack made of it: a proof with
// all its siblings 335 bytes, a key 67, the receivers one by one 67, the rest a dozen.
const overhead = 500

func (p *Peers) linkTo(e *peer, key identity.PublicKey, way *Way) *link {
	now := int64(p.now())
	l := &link{p: p, peer: e, id: serverOf(e.name, key), key: key, way: way, copies: map[*spool.Entry]int{}, replies: map[uint64]chan wire.Reply{}, owing: now, still: now}
	if way != nil {
		l.cost = way.Cost
	}
	return l
}

func (p *Peers) newLink(e *peer, c *wire.Conn, key identity.PublicKey, theirs wire.Window, way *Way, greeting []byte) *link {
	l := p.linkTo(e, key, way)
	l.Flow = pump.New(c, l, pump.Options{
		Relay: p.o.Relay, Spool: p.o.Spool, Ours: p.o.Window, Theirs: theirs, Start: p.start, Exceptions: true, Overhead: overhead, Greeting: greeting,
	})
	return l
}

// adopt makes l the link to its peer, unless there is a better one. If it returns
// nil, converse is to follow.
func (p *Peers) adopt(l *link) *message.Refusal {
	p.mu.Lock()
	e := l.peer
	if p.closed || p.ctx == nil {
		p.mu.Unlock()
		return message.Defer(message.CodeStopping, 0, "the server is not ready for links")
	}
	before := e.link
	if before != nil {
		if !p.better(l, before) {
			p.testLocked(before)
			p.mu.Unlock()
			return message.Refuse(message.CodeReplaced, "there is another link, which stays")
		}
		p.anewLocked(l) // what goes by this peer goes on to do so
	}
	p.wg.Add(1) // for converse
	e.link, e.err, e.since, e.next = l, nil, time.Now(), time.Time{}
	e.id, e.idle, e.news = l.id, false, false
	e.links++
	p.mu.Unlock()
	if before != nil {
		before.End(message.Refuse(message.CodeReplaced, "there is a newer link"))
	}
	l.Attach(p.o.Spool.Queue(spool.CopiesFor(e.name)))
	var turn spool.Turn
	p.copies.addPeer(&turn, l.id)
	turn.Wake(l)
	defer turn.Run()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.upLocked(l)
	p.settleLocked()
	p.nudge()
	p.changedLocked()
	p.o.Log.Info("a link is up", "peer", e.name, "fingerprint", l.key.Fingerprint(), "dialled", l.way != nil, "cost", l.cost, "remote", l.Conn().Transport().RemoteAddr().String())
	return nil
}

// better tells whether l is to take the place of the link before it. One that the same side
// has dialled anew does: that side knows why. Of two that each side has dialled one of, the one
// stays that costs less whoever has dialled it, as far as both say so; else the one that the
// server with the lower key has dialled. So both sides keep the same.
func (p *Peers) better(l, before *link) bool {
	mine, old := l.way != nil, before.way != nil
	switch {
	case mine == old:
		return true
	case l.cost != before.cost && l.cost > 0 && before.cost > 0:
		return l.cost < before.cost
	}
	return mine == (string(p.self.Key[:]) < string(l.id.Key[:]))
}

// testLocked has a link end soon if nothing is heard of it: the other side has dialled
// another one, and may know that this one is dead.
func (p *Peers) testLocked(l *link) {
	if l.tested == 0 {
		l.tested = int64(p.now())
		go l.tell(wire.AppendPing) // it writes: not with the lock
		p.nudge()
	}
}

// upLocked begins a conversation about routes.
func (p *Peers) upLocked(l *link) {
	e := l.peer
	cost := 10 // of who dials us, and whom we don't
	if l.way != nil {
		cost = l.way.Cost
	} else if len(e.conf.Ways) > 0 {
		cost = max(l.cost, slices.MinFunc(e.conf.Ways, func(a, b Way) int { return a.Cost - b.Cost }).Cost) // who has dialled may have had to take a dearer way
	}
	p.table.PeerUp(p.now(), route.Peer{Server: l.id, Cost: min(cost, route.MaxCost), Quiet: l.Conn().Transport().Properties().Quiet(), Pinned: e.known})
	if e.known {
		p.table.Pin(p.now(), l.id, true)
		p.table.Reaches(p.now(), l.id, e.conf.Reaches)
	}
}

// readLocked has a link read that was handed over, or kept in spite of a pause.
func (p *Peers) readLocked(l *link) {
	p.wg.Add(1)
	go p.converse(l)
}

func (p *Peers) changedLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// converse reads until a link ends, or there is a pause.
func (p *Peers) converse(l *link) {
	defer p.wg.Done()
	err := l.broken
	if err == nil {
		err = l.Run()
	}
	if errors.Is(err, pump.ErrPaused) {
		return
	}
	why := message.Defer(message.CodeIdle, 0, "the connection has ended")
	if errors.Is(err, wire.ErrProtocol) || errors.Is(err, message.ErrMalformed) {
		why = message.Refuse(message.CodeProtocol, "%s", wire.Clean(err.Error(), message.MaxReason))
		p.o.Log.Warn("a server broke the protocol", "peer", l.peer.name, "reason", err)
	}
	if ended := l.Ended(); ended != nil {
		err = ended
	}
	l.End(why)
	p.mu.Lock()
	defer p.mu.Unlock()
	e := l.peer
	total, _ := l.Totals()
	read, written := l.Conn().Bytes()
	e.read, e.written, e.sent, e.took = e.read+int64(read), e.written+int64(written), e.sent+int64(total.Acked), e.took+int64(total.Submitted)
	if e.link != l {
		return
	}
	e.link, e.since = nil, time.Now()
	idle := isIdle(err)
	l.rested = idle
	if !idle {
		e.err = err
		if !errors.Is(err, net.ErrClosed) {
			l.why = err
		}
	}
	// Who can't be dialled leads nowhere. The other side may have heard of a better link before
	// we do, which is being dialled.
	if e.idle = (idle || isReplaced(err) && e.dialing) && len(e.conf.Ways) > 0; !e.idle {
		p.table.PeerDown(p.now(), l.id)
	}
	p.o.Log.Info("a link is down", "peer", e.name, "reason", err)
	p.settleLocked()
	p.nudge()
	p.changedLocked()
}

// isReplaced tells whether a link was closed because the other side has another one.
func isReplaced(err error) bool {
	var no *message.Refusal
	return errors.As(err, &no) && no.Code == message.CodeReplaced
}

// isIdle tells whether a link was closed because nobody needed it.
func isIdle(err error) bool {
	var no *message.Refusal
	return errors.As(err, &no) && no.Code == message.CodeIdle && no.Reason == idleReason
}

const idleReason = "nothing to say for now"

// Take implements pump.Side.
func (l *link) Take(e *message.Envelope, transit wire.Transit, token uint64) {
	a := relay.Arrival{Open: transit.Open, Age: transit.Age, Link: l.peer.name, Passage: transit.Passage}
	home := e.From.Server()
	a.Passage.Unverified = false
	if home == l.p.o.Home { // our own come back by another way: we have them, or they have arrived
		l.settle(e, a.Open, token, message.Held, nil)
		return
	}
	if a.Link != home {
		l.p.copies.remember(home, a.Link)
	}
	if a.Passage.Hops == 0 && !l.p.mayKeep(e, a.Open) {
		l.settle(e, a.Open, token, message.Refused, message.Defer(message.CodeNoRoute, time.Minute, "it has crossed as many servers as it may"))
		return
	}
	a.Verified = home == l.peer.name
	known := a.Verified
	if !a.Verified && l.p.isHere(e, a.Open) {
		var by identity.PublicKey
		by, known = l.p.verify(home, e.Raw, &a.Passage)
		a.Verified = !by.IsZero()
		if !a.Verified && (known || e.Kind.Reports() && l.p.keyed(home)) { // marked, it would still take the place of what has the same counter, or be believed as a receipt
			l.settle(e, a.Open, token, message.Refused, message.Refuse(message.CodeNotAllowed, "%s has not signed it", home))
			return
		}
		switch {
		case known:
		case l.p.refuse.Load():
			a.No = message.Refuse(message.CodeNotAllowed, "the key of %s is not known here", home)
		case a.Verified && e.Kind.Reports():
			a.Verified = l.p.believes(home, by, e)
		}
	}
	a.Known = known
	l.p.o.Relay.Accept(&l.Turn, e, a, l, token)
}

// keyed tells whether any key of a server is known, be it only announced.
func (p *Peers) keyed(name string) bool {
	key, _ := p.keyOf(name)
	return !key.IsZero()
}

func (l *link) settle(e *message.Envelope, open uint64, token uint64, s message.State, no *message.Refusal) {
	for i := range e.To {
		if open == 0 || open&(1<<i) != 0 {
			l.Settled(&l.Turn, token+uint64(i), s, no)
		}
	}
}

// isHere tells whether a receiver lives here: only then somebody looks at proofs.
func (p *Peers) isHere(e *message.Envelope, open uint64) bool {
	for i, to := range e.To {
		if (open == 0 || open&(1<<i) != 0) && to.Server() == p.o.Home {
			return true
		}
	}
	return false
}

// mayKeep tells whether what may cross no other server can be kept: all receivers live
// here, or on servers that we have a link to; or it is text, and waits for such a link,
// since no other way is known.
func (p *Peers) mayKeep(e *message.Envelope, open uint64) bool {
	text := e.Kind == message.Text
	for i, to := range e.To {
		if server := to.Server(); (open == 0 || open&(1<<i) != 0) && server != p.o.Home {
			p.mu.Lock()
			e := p.peers[server]
			linked := e != nil && e.link != nil
			waits := text && !p.routedLocked(server)
			p.mu.Unlock()
			if !linked && !waits {
				return false
			}
		}
	}
	return true
}

// Acked implements pump.Side.
func (l *link) Acked(q *spool.Queue, e *spool.Entry, exceptions []wire.Exception) {
	l.said = l.said[:0]
	for _, x := range exceptions {
		l.said = append(l.said, relay.Said{Receiver: x.Receiver, State: x.State, No: x.Refusal})
	}
	if spool.IsCopies(q.Name()) {
		l.p.copies.acked(&l.Turn, l, q, e, l.said)
		return
	}
	if q.Name() == l.peer.name {
		l.p.copies.reached(l, q, e)
	}
	l.p.o.Relay.Taken(&l.Turn, &l.Ledger, q, e, l.peer.name, l.said)
}

// Stamp implements pump.Side: what goes on to a third server, and is from here, gets a
// proof, one signature for all of it.
func (l *link) Stamp(out []pump.Outgoing) {
	var prove []int
	for i := range out {
		o := &out[i]
		passage, open, envelope, err := message.Unpack(o.Raw)
		if err != nil {
			o.Envelope = o.Raw // the other side will say what it thinks of it
			continue
		}
		o.Transit.Passage, o.Transit.Open, o.Envelope = passage, open, envelope
		if left := o.Queue.Open(o.Entry); left != 0 {
			o.Transit.Open = left
		}
		for _, m := range o.More {
			o.Transit.Open |= m.Queue.Open(m.Entry)
		}
		p := &o.Transit.Passage
		if p.Hops > 0 {
			p.Hops--
		}
		unrouted := spool.IsCopies(o.Queue.Name())
		if unrouted {
			p.Hops = l.p.copies.leaves(l, o.Entry, o.Raw, p.Hops)
		}
		if p.Path.Len() == 1 && l.leadsOn(o) {
			prove = append(prove, i)
			if unrouted { // no announcement of ours is known where it goes
				key := l.p.o.Key.Public()
				p.Key = key[:]
			}
		}
	}
	for len(prove) > 0 {
		n := min(len(prove), message.MaxTogether)
		l.p.prove(out, prove[:n])
		prove = prove[n:]
	}
}

// Frame implements pump.Side.
func (l *link) Frame(t wire.Type, body []byte) error {
	switch t {
	case wire.RoutesFrame:
	case wire.RequestFrame:
		return l.request(body)
	case wire.AnswerFrame:
		return l.reply(body)
	default:
		return wire.Skip(t)
	}
	m, err := wire.ParseRoutes(body)
	if err != nil {
		return err
	}
	l.EndTurn()
	return l.p.learn(l, &m)
}
