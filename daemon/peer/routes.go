package peer

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/pump"
	"github.com/noipchat/noipchat/daemon/route"
	"github.com/noipchat/noipchat/daemon/spool"
	"github.com/noipchat/noipchat/daemon/wire"
)

func serverOf(name string, key identity.PublicKey) route.Server {
	s := route.Server{Name: name}
	binary.BigEndian.PutUint64(s.Key[:], uint64(key.DeviceID()))
	return s
}

// nextEpoch returns the number of this start, at least least, and has it on disk.
func nextEpoch(dir string, least uint32) (uint32, error) {
	path := filepath.Join(dir, "epoch")
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("reading the number of this start: %w", err)
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32) // what is damaged begins anew: others know the last one
	epoch := max(uint32(n)+1, least)
	if err := durable.WriteFile(path, fmt.Appendln(nil, epoch), 0o600); err != nil {
		return 0, fmt.Errorf("storing the number of this start: %w", err)
	}
	return epoch, nil
}

// announceLocked signs and tells what this server says of itself.
func (p *Peers) announceLocked(seq route.Seq) {
	a := wire.Announcement{Name: p.o.Home, Key: p.o.Key.Public(), Epoch: seq.Epoch, Number: seq.Number, Public: p.public}
	p.table.Announce(p.now(), seq, a.Sign(p.o.Key))
}

// settleLocked does what follows from a change of the table: queues change their pumps,
// and peers are told.
func (p *Peers) settleLocked() {
	if seq, due := p.table.Due(p.now()); due {
		if seq.Epoch > p.epoch {
			if epoch, err := nextEpoch(p.o.State, seq.Epoch); err != nil {
				p.o.Log.Error("announcing this server", "error", err)
			} else {
				p.epoch = epoch
				p.announceLocked(route.Seq{Epoch: epoch})
			}
		} else {
			p.announceLocked(seq)
		}
	}
	var turn spool.Turn
	for _, server := range p.table.Changed() {
		if server != p.o.Home {
			p.servers[server] = true
		}
	}
	for server := range p.servers {
		p.routeLocked(&turn, p.o.Spool.Queue(server))
	}
	for _, e := range p.peers {
		if e.link == nil {
			if _, news := p.table.Send(p.now(), e.id); e.idle && news { // it is lost: with the next link all is said anew
				e.news = true
				e.dial()
			}
			continue
		}
		for e.link.Unsaid() < maxUnsaid {
			m, ok := p.table.Send(p.now(), e.link.id)
			if !ok && e.link.answer == 0 {
				break
			}
			w := toWire(&m)
			w.Answer, e.link.answer = e.link.answer, 0
			e.link.Offer(func(b []byte) []byte { return wire.AppendRoutes(b, w) })
			turn.Wake(e.link)
		}
	}
	go turn.Run() // pumps write: not with the lock
}

// maxUnsaid bounds what is put into a link of routes before it has taken what was.
const maxUnsaid = 1 << 10

// routeLocked has a queue pumped by the link that leads to its server.
func (p *Peers) routeLocked(turn *spool.Turn, q *spool.Queue) {
	server := q.Name()
	hop, ok := p.table.Next(server)
	via, before := hop.Peer.Name, p.hops[server]
	if !ok {
		via = ""
		if p.staysLocked(before) {
			via = before
		}
		if e := p.peers[server]; e != nil && (e.link != nil || len(e.conf.Ways) > 0) {
			via = server
		} else if q.Waits(message.Priorities) {
			p.table.Want(p.now(), server)
		}
	}
	if via == "" {
		delete(p.hops, server)
	} else {
		p.hops[server] = via
	}
	if before != "" && before != via {
		if e := p.peers[before]; e != nil && e.link != nil {
			e.link.Drop(turn, q)
		}
		q.WakeAll(turn) // there is another way
	}
	e := p.peers[via]
	if e == nil {
		return
	}
	if e.link != nil {
		if !q.Pumped() {
			e.link.Attach(q)
			turn.Wake(e.link)
		}
		return
	}
	if q.Waits(message.Priorities) || p.copiesWait(via) {
		e.dial()
	}
}

// dial has whoever dials a peer look whether a link is wanted.
func (e *peer) dial() {
	select {
	case e.kick <- struct{}{}:
	default:
	}
}

// staysLocked tells whether what goes by a peer goes on to do so though no route leads
// there: one side of its link has forgotten what was said, and says it again.
func (p *Peers) staysLocked(peer string) bool {
	e := p.peers[peer]
	return e != nil && e.link != nil && p.now() < e.link.stays
}

// anewLocked is how long that is.
func (p *Peers) anewLocked(l *link) {
	l.stays = p.now() + l.Conn().Transport().Properties().Patience(anewTime, 4<<10)
}

const anewTime = 5 * time.Second

// copiesWait tells whether copies wait for a peer.
func (p *Peers) copiesWait(peer string) bool {
	q := p.o.Spool.Find(spool.CopiesFor(peer))
	return q != nil && q.Waits(message.Priorities)
}

func toWire(m *route.Message) *wire.Routes {
	w := &wire.Routes{}
	for _, u := range m.Updates {
		w.Updates = append(w.Updates, wire.RouteUpdate{ServerID: wire.ServerID{Name: u.Name, Key: u.Key},
			Epoch: u.Seq.Epoch, Number: u.Seq.Number, Metric: u.Metric, Announcement: u.Announcement})
	}
	for _, q := range m.Requests {
		w.Requests = append(w.Requests, wire.RouteRequest{ServerID: wire.ServerID{Name: q.Name, Key: q.Key},
			Epoch: q.After.Epoch, Number: q.After.Number, Hops: q.Hops, Proof: q.Proof})
	}
	return w
}

// learn takes what a peer says of routes. An announcement that its server hasn't signed
// breaks the protocol.
func (p *Peers) learn(l *link, w *wire.Routes) error {
	var m route.Message
	check := func(id route.Server, seq route.Seq, b []byte) error {
		if len(b) == 0 {
			return nil
		}
		p.mu.Lock()
		known := p.table.Known(id, seq, b)
		p.mu.Unlock()
		if known {
			return nil
		}
		a, err := wire.ParseAnnouncement(b)
		if err != nil {
			return err
		}
		if a.Name != id.Name || serverOf(a.Name, a.Key) != id || a.Epoch != seq.Epoch || a.Number != seq.Number || !a.Verify(b) {
			return fmt.Errorf("%w: an announcement of %s that %s has not signed", wire.ErrProtocol, id.Name, id.Name)
		}
		return nil
	}
	for _, u := range w.Updates {
		r := route.Update{Server: route.Server{Name: u.Name, Key: u.Key}, Seq: route.Seq{Epoch: u.Epoch, Number: u.Number}, Metric: u.Metric, Announcement: u.Announcement}
		if err := check(r.Server, r.Seq, u.Announcement); err != nil {
			return err
		}
		m.Updates = append(m.Updates, r)
	}
	for _, q := range w.Requests {
		r := route.Request{Server: route.Server{Name: q.Name, Key: q.Key}, After: route.Seq{Epoch: q.Epoch, Number: q.Number}, Hops: q.Hops, Proof: q.Proof}
		if err := check(r.Server, r.After, q.Proof); err != nil {
			return err
		}
		m.Requests = append(m.Requests, r)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.peer.link == l {
		if w.Anew != 0 {
			if !p.table.Anew(p.now(), l.id) {
				return fmt.Errorf("%w: it begins anew too often", wire.ErrProtocol)
			}
			l.answer = w.Anew
			p.anewLocked(l)
		}
		if w.Answer == l.anew {
			l.anew = 0
		}
		if l.anew != 0 {
			m = route.Message{} // it was said to who has forgotten what was said before
		}
		p.table.Receive(p.now(), l.id, &m)
		p.settleLocked()
		p.nudge()
	}
	return nil
}

// keyOf returns the key of a server; known tells whether we know it ourselves, and not
// only by an announcement, or because it was the first one.
func (p *Peers) keyOf(name string) (key identity.PublicKey, known bool) {
	if key, _ := p.o.Servers.Known(name); !key.IsZero() {
		return key, true
	}
	if key := p.o.Servers.First(name); !key.IsZero() {
		return key, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if a, err := wire.ParseAnnouncement(p.table.Announcement(name)); err == nil {
		return a.Key, false
	}
	return key, false
}

// provenRoots are signatures that were verified lately: what left together has one.
type provenRoots map[[ed25519.SignatureSize]byte]proven

// proven is what a signature was over, and by which key.
type proven struct {
	root string
	key  identity.PublicKey
}

const maxProven = 1024

// verify returns the key by which an envelope's home has signed it, the zero key if it
// hasn't; and whether we know that home's key ourselves.
func (p *Peers) verify(home string, raw []byte, passage *message.Passage) (by identity.PublicKey, known bool) {
	proof := &passage.Proof
	key, known := p.keyOf(home)
	if len(proof.Signature) != ed25519.SignatureSize {
		return by, known
	}
	if key.IsZero() && len(passage.Key) == len(key) { // as good as an announcement: it says who signs, not who that is
		copy(key[:], passage.Key)
	}
	if key.IsZero() {
		return by, false
	}
	root, sig := proof.Root(raw), [ed25519.SignatureSize]byte(proof.Signature)
	p.mu.Lock()
	last := p.proven[sig]
	p.mu.Unlock()
	if last.root != string(root) || last.key != key {
		if !key.Verify(root, proof.Signature) {
			return by, known
		}
		p.mu.Lock()
		if len(p.proven) >= maxProven {
			clear(p.proven)
		}
		p.proven[sig] = proven{string(root), key}
		p.mu.Unlock()
	}
	return key, known
}

// believes tells whether a report of a home that we don't know ourselves, signed by this
// key, may end our keeping of what it is about: by the first such key, and no other one.
func (p *Peers) believes(home string, key identity.PublicKey, e *message.Envelope) bool {
	if !p.o.Relay.Awaits(e) || p.o.Servers.First(home) == key { // strangers make us keep nothing
		return true
	}
	is, err := p.o.Servers.Believe(home, key)
	if err != nil {
		p.o.Log.Error("a receipt is not believed", "server", home, "error", err)
	}
	return is
}

// leadsOn tells whether an entry is from here and has a receiver who doesn't live at the
// peer. That it has crossed nobody else is only said by who brought it.
func (l *link) leadsOn(o *pump.Outgoing) bool {
	e := &l.leaving
	if e.Parse(o.Envelope) != nil || e.From.Server() != l.p.o.Home {
		return false
	}
	for i, to := range e.To {
		if (o.Transit.Open == 0 || o.Transit.Open&(1<<i) != 0) && to.Server() != l.peer.name {
			return true
		}
	}
	return false
}

// prove gives those of out a proof.
func (p *Peers) prove(out []pump.Outgoing, which []int) {
	all := make([][]byte, len(which))
	for k, i := range which {
		all[k] = out[i].Envelope
	}
	for k, proof := range message.Prove(p.o.Key.Sign, all) {
		out[which[k]].Transit.Passage.Proof = proof
	}
}

// watchLocked pings links that must stay up, ends those that are silent, and closes
// those that nobody needs. It returns when to look again.
func (p *Peers) watchLocked() time.Duration {
	next := time.Hour
	now := int64(p.now())
	for _, e := range p.peers {
		l := e.link
		if l == nil {
			continue
		}
		line := l.Conn().Transport().Properties()
		if l.answer != 0 {
			next = 0 // it takes no more for now
		}
		if l.stays > time.Duration(now) {
			next = min(next, l.stays-time.Duration(now))
		}
		if l.anew != 0 {
			rest := line.Patience(p.o.Ping, 4<<10) - time.Duration(now-l.since)
			if rest <= 0 {
				go l.End(message.Defer(message.CodeIdle, 0, "it doesn't begin the conversation about routes anew"))
				continue
			}
			next = min(next, rest)
		}
		if l.tested != 0 {
			switch rest := line.Patience(p.o.Connect, handshakeBytes) - time.Duration(now-l.tested); {
			case l.Heard() >= l.tested:
				l.tested = 0
			case rest <= 0:
				go l.End(message.Defer(message.CodeIdle, 0, "another link was dialled, and nothing is heard by this one"))
				continue
			default:
				next = min(next, rest)
			}
		}
		if line.Quiet() {
			continue
		}
		total, unacked := l.Totals()
		if moved := total.Given + total.Submitted; moved != l.moved || unacked > 0 {
			l.moved, l.still = moved, now
		}
		if acked := total.Acked; unacked == 0 || acked != l.acked {
			l.acked, l.owing = acked, now
		}
		silent := time.Duration(now - max(l.Heard(), l.asked))
		if l.way != nil && l.way.Timeout > 0 {
			rest := l.way.Timeout - time.Duration(now-l.still)
			if rest <= 0 {
				go l.End(message.Defer(message.CodeIdle, 0, idleReason))
				continue
			}
			next = min(next, rest)
		}
		if d := time.Duration(now - l.owing); d >= p.o.Ping { // what is under way could go another way
			go l.End(message.Defer(message.CodeIdle, 0, "nothing was acked for %v", d.Round(time.Second)))
			continue
		}
		if quiet := time.Duration(now - l.Heard()); quiet >= p.o.Silence {
			go l.End(message.Defer(message.CodeIdle, 0, "nothing was heard for %v", quiet.Round(time.Second)))
			continue
		}
		if silent >= p.o.Ping {
			l.asked = now
			go l.tell(wire.AppendPing) // it writes: not with the lock
			silent = 0
		}
		next = min(next, p.o.Ping-silent, p.o.Ping/4) // whether it owes acks is looked at now and then
	}
	return max(next, 10*time.Millisecond)
}
