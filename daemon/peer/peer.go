// Package peer is the links to other servers: it dials them, takes in those that dial,
// tells and learns routes, and pumps between their connections and the queues for the
// servers that they lead to.
//
//	     config ─▶ peer ─ dials, backs off ─▶ link ◀─ a server that dials us
//	                                           │ mail ─▶ relay       routes ─▶ route.Table
//	queue "server3" ── its next hop ──────────▶│◀── acks              │
//	      ▲                                                           ▼
//	      └──────────── who pumps it changes with the routes ◀────────┘
//
// New starts nothing. Run has a goroutine for each peer, which dials and reads, one for
// each link that was dialled by the other side, and one that watches time; it joins them
// all. On disk is the file epoch, which counts our starts.
package peer

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/relay"
	"github.com/noipchat/noipchat/daemon/route"
	"github.com/noipchat/noipchat/daemon/spool"
	"github.com/noipchat/noipchat/daemon/transport"
	"github.com/noipchat/noipchat/daemon/wire"
)

// Options are what Peers need; a zero time or window means the default.
type Options struct {
	Home    string
	Key     identity.Key
	State   string // folder of the file epoch
	Epoch   uint32 // of this start, as it was reserved; 0: it is counted now
	Servers *identity.Servers
	Relay   *relay.Relay
	Spool   *spool.Spool
	Dial    func(ctx context.Context, a transport.Address) (transport.Conn, error) // default: transport.Address.Dial
	Agent   string
	Log     *slog.Logger
	Start   time.Time // what silences are counted from (now); earlier if links are older: see Resume

	Connect   time.Duration // how long connecting may take (10 s)
	FirstWait time.Duration // before the first new attempt (15 ms); it doubles
	MaxWait   time.Duration // up to this (60 s), and each is shortened by up to a half, at random
	Ping      time.Duration // a link that must stay up is asked after so long a silence (1 min)
	Silence   time.Duration // a link of which nothing is heard so long is ended (5 min)
	Window    wire.Window   // what we take before we ack (1,024 envelopes, 4 MiB)
}

func (o *Options) setDefaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.Connect, 10*time.Second)
	def(&o.FirstWait, 15*time.Millisecond)
	def(&o.MaxWait, time.Minute)
	def(&o.Ping, time.Minute)
	def(&o.Silence, 5*time.Minute)
	if o.Window.Count == 0 {
		o.Window = wire.Window{Count: 1024, Bytes: 4 << 20}
	}
	if o.Start.IsZero() {
		o.Start = time.Now()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, a transport.Address) (transport.Conn, error) { return a.Dial(ctx, o.Log) }
	}
}

// Way is one way to reach a peer.
type Way struct {
	transport.Address
	Timeout time.Duration // without traffic, after which it is closed, and dialled when there is mail; 0: it stays up
	Cost    int
}

// Peer is a server that we dial, or that may dial us.
type Peer struct {
	Name    string
	Reaches []string
	Ways    []Way // in the order in which they are tried; none: it dials us
}

// Config is what may change while Peers run.
type Config struct {
	Peers   []Peer
	MaxHops int
	Open    bool     // others than these may dial us
	Refuse  bool     // mail whose home can't be verified
	Public  []string // where we are reached
	Flood   int64    // bytes of copies of what no route is known for, per origin a tenth
}

// Peers is a server's links.
type Peers struct {
	// fixed
	o      Options
	start  time.Time
	self   route.Server
	copies *copies

	wg        sync.WaitGroup
	dials     sync.WaitGroup // connections that are being made
	refuse    atomic.Bool
	impostors atomic.Uint64

	mu       sync.Mutex         // guards what follows; locks of Flows and queues come after it
	ctx      context.Context    // of Run; nil: no links come or go
	paused   context.Context    // what ctx is after a pause
	dialling context.Context    // a part of ctx, which Still ends
	still    context.CancelFunc // does that
	closed   bool
	peers    map[string]*peer
	table    *route.Table
	epoch    uint32
	reserved uint32 // see Reserve
	public   []string
	hops     map[string]string // server → the peer that its queue is pumped by
	servers  map[string]bool   // that have a queue
	wake     chan struct{}
	proven   provenRoots
	changed  chan struct{} // closed when a link comes or goes
}

// peer is a server that we know a way to, or that has dialled us.
type peer struct {
	name string

	// guarded by Peers.mu
	conf    Peer
	known   bool // by the configuration
	link    *link
	id      route.Server       // of the last link
	idle    bool               // that link was closed because nobody needed it, and counts as up
	news    bool               // that it has not been told since
	stop    context.CancelFunc // ends its dialling
	kick    chan struct{}      // there is mail
	retry   chan struct{}      // somebody wants it to be dialled now
	err     error
	since   time.Time
	next    time.Time // of the next attempt
	dialing bool
	read    int64 // by links that have ended
	written int64
	sent    int64
	took    int64
	links   uint64 // that came up
	fails   uint64 // attempts to dial it
}

// New makes the links of a server that knows no other one yet. Nothing runs until Run.
func New(o Options) (*Peers, error) {
	o.setDefaults()
	p := &Peers{
		o: o, start: o.Start, peers: map[string]*peer{}, hops: map[string]string{}, wake: make(chan struct{}, 1), servers: map[string]bool{},
		self: serverOf(o.Home, o.Key.Public()), proven: provenRoots{}, changed: make(chan struct{}),
	}
	p.copies = newCopies(p)
	p.table = route.New(route.Options{Self: p.self})
	if p.epoch = o.Epoch; p.epoch == 0 {
		var err error
		if p.epoch, err = nextEpoch(o.State, 0); err != nil {
			return nil, err
		}
	}
	for _, q := range o.Spool.Queues() {
		if name := q.Name(); !strings.ContainsAny(name, "@/") {
			p.servers[name] = true
		}
	}
	p.copies.restore()
	o.Relay.OnAway(p.spread, p.wanted, p.overdue, p.copies.arrived)
	return p, nil
}

func (p *Peers) now() time.Duration { return time.Since(p.start) }

// Configure puts a configuration in force: peers come, go and change; a link by a way
// that is not there any more ends.
func (p *Peers) Configure(c Config) {
	p.refuse.Store(c.Refuse)
	hops := 0
	if len(c.Peers) > 0 || c.Open {
		hops = c.MaxHops
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.public = c.Public
	keep := map[string]bool{}
	for _, conf := range c.Peers {
		keep[conf.Name] = true
		e := p.peerLocked(conf.Name)
		e.known = true
		if old := e.conf; !same(old, conf) {
			e.conf = conf
			p.restartLocked(e)
			if e.link != nil && e.link.way != nil && !slices.ContainsFunc(conf.Ways, func(w Way) bool { return w.String() == e.link.way.String() }) {
				go e.link.End(message.Defer(message.CodeIdle, 0, "this way is not to be used any more"))
			}
		}
	}
	for name, e := range p.peers {
		if !keep[name] && e.known {
			e.known, e.conf = false, Peer{Name: name}
			p.copies.removePeer(e.id)
			p.restartLocked(e)
			p.awakeLocked(e)
			if e.link != nil {
				go e.link.End(message.Refuse(message.CodeRemoved, "we are no peers any more"))
			}
		}
	}
	p.o.Relay.SetFederation(hops, time.Minute)
	p.copies.configure(hops, c.Flood)
	p.nudge()
}

func same(a, b Peer) bool {
	return a.Name == b.Name && slices.Equal(a.Reaches, b.Reaches) && slices.EqualFunc(a.Ways, b.Ways, func(a, b Way) bool {
		return a.String() == b.String() && a.Timeout == b.Timeout && a.Cost == b.Cost
	})
}

func (p *Peers) peerLocked(name string) *peer {
	e := p.peers[name]
	if e == nil {
		e = &peer{name: name, conf: Peer{Name: name}, kick: make(chan struct{}, 1), retry: make(chan struct{}, 1), since: time.Now()}
		p.peers[name] = e
	}
	return e
}

// restartLocked has a peer dialled by its configuration of now; of one that has a link
// already, that is another one.
func (p *Peers) restartLocked(e *peer) {
	p.stopDialling(e)
	if id, ok := p.idOf(e.name); ok {
		p.table.Reaches(p.now(), id, e.conf.Reaches)
		p.table.Pin(p.now(), id, e.known)
	}
	p.dialLocked(e, true)
}

func (p *Peers) stopDialling(e *peer) {
	if e.stop != nil {
		e.stop()
		e.stop, e.next = nil, time.Time{}
	}
}

// dialLocked has a peer dialled: at once, or when there is no link and one is wanted.
func (p *Peers) dialLocked(e *peer, atOnce bool) {
	if p.ctx == nil || p.closed || len(e.conf.Ways) == 0 {
		return
	}
	ctx, stop := context.WithCancel(p.dialling)
	e.stop = stop
	conf := e.conf
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		p.keep(ctx, e, conf, atOnce)
	}()
}

// idOf is the name and key of a server that we know the key of.
func (p *Peers) idOf(name string) (route.Server, bool) {
	key, _ := p.o.Servers.Known(name)
	if key.IsZero() {
		return route.Server{}, false
	}
	return serverOf(name, key), true
}

// Start has peers dialled, and taken in, until ctx is done, and links read that were
// handed over.
func (p *Peers) Start(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ctx = ctx
	p.dialling, p.still = context.WithCancel(ctx)
	p.dialAllLocked()
	p.announceLocked(route.Seq{Epoch: p.epoch})
	var kept []*link
	for _, e := range p.peers {
		l := e.link
		if l == nil {
			continue
		}
		if i := slices.IndexFunc(e.conf.Ways, func(w Way) bool { return l.way != nil && w.String() == l.way.String() }); i >= 0 {
			l.way, l.cost = &e.conf.Ways[i], e.conf.Ways[i].Cost // it may cost something else now
		}
		kept = append(kept, l)
		p.upLocked(l)
		p.readLocked(l)
	}
	p.settleLocked()
	p.wg.Go(func() { // it reads much, and nobody is served before Start returns
		var turn spool.Turn
		for _, l := range kept {
			p.copies.addPeer(&turn, l.id)
		}
		turn.Run()
	})
}

// Run keeps the links, after Start, until ctx is done.
func (p *Peers) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-p.wake:
		case <-timer.C:
		}
		timer.Reset(p.tick())
	}
	return nil
}

// tick does what is due, and returns when to look again.
func (p *Peers) tick() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx == nil {
		return time.Hour // Reclaim nudges
	}
	p.table.Tick(p.now())
	p.settleLocked()
	next := max(p.table.Wake()-p.now(), 10*time.Millisecond)
	return min(next, p.watchLocked())
}

// Close ends all links, tells their peers why, and returns when all is over.
func (p *Peers) Close(why *message.Refusal) {
	p.mu.Lock()
	p.closed = true
	for _, e := range p.peers {
		p.stopDialling(e)
	}
	links := p.linksLocked()
	p.mu.Unlock()
	for _, l := range links {
		l.End(why)
	}
	p.wg.Wait()
}

func (p *Peers) linksLocked() (links []*link) {
	for _, e := range p.peers {
		if e.link != nil {
			links = append(links, e.link)
		}
	}
	return links
}

// wanted is told by the relay that something waits for a server whom nobody pumps.
func (p *Peers) wanted(server string) {
	p.mu.Lock()
	p.servers[server] = true
	p.mu.Unlock()
	p.nudge()
}

// overdue is told by the relay that a peer took a text for a server, and that nothing was
// heard of it until it was to be sent again. If the way is still the same, others count more.
func (p *Peers) overdue(server, via string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if hop, ok := p.table.Next(server); ok && hop.Peer.Name == via {
		if p.table.Overdue(p.now(), route.Server{Name: server, Key: hop.Key}, hop.Peer) {
			p.o.Log.Info("a way is doubted: nothing was heard in time of a message that went by it", "server", server, "peer", via)
			p.nudge()
		}
	}
}

// Retry has a server dialled at once, and the peer that leads to it, if they wait for the
// time of the next attempt; if there is a link, the ways that would be cheaper.
func (p *Peers) Retry(server string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range []string{server, p.hops[server]} {
		if e := p.peers[name]; e != nil {
			select {
			case e.retry <- struct{}{}:
			default:
			}
		}
	}
}

// nudge has Run look at once.
func (p *Peers) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Names returns the names of all servers that we have a link to now.
func (p *Peers) Names() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(p.peers)) {
		if p.peers[name].link != nil {
			names = append(names, name)
		}
	}
	return names
}
