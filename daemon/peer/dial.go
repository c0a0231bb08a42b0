package peer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// keeper dials one peer for as long as it is to be reached: while there is no link, all
// ways in the order of their costs; while there is one, those that cost less than it does.
//
//	     ┌────────────── it ended, a pause ──────────────┐
//	     ▼                                               │
//	no link ── a way answers ─▶ link ── a cheaper way answers ─▶ that takes its place
//	     ▲  │                     │  ▲                           │
//	     └──┘ none: a pause       └──┘ none: a pause             └─▶ link
//
// It belongs to one goroutine, which ends with the configuration of the peer.
type keeper struct {
	// fixed
	p    *Peers
	e    *peer
	conf Peer

	backoff message.Backoff // while there is no link
	at      time.Time       // before that nobody is dialled
	last    *link           // that was dialled here, as long as its end wasn't looked at
	began   time.Time       // its dialling

	link        *link // the one that cheaper ways are looked for to
	moved       uint64
	fast, quiet tries // of cheaper ways: on lines that may be talked on, and on others
	said        bool  // that they fail
	asked       bool  // somebody wants them to be tried now

	better *link           // that took the place of a dearer one
	hold   message.Backoff // if such links don't last
	held   time.Time       // until then cheaper ways aren't tried
}

// tries are attempts that repeat.
type tries struct {
	message.Backoff
	at time.Time // of the next one
}

// How a cheaper way is tried on a line where nothing may be said that nobody has asked for,
// and again after it has taken a link's place and not lasted: first after Options.MaxWait,
// and at the longest this many times as long, 1 h.
const seldom = 60

// lasting is how many times Options.MaxWait a link has to last that has taken another one's
// place, 10 min, or else the next time is waited for longer: each change costs what was
// under way, and news of all routes.
const lasting = 10

func (p *Peers) keep(ctx context.Context, e *peer, conf Peer, atOnce bool) {
	k := &keeper{p: p, e: e, conf: conf, backoff: message.Backoff{First: p.o.FirstWait, Max: p.o.MaxWait}}
	k.hold = message.Backoff{First: p.o.MaxWait, Max: seldom * p.o.MaxWait}
	for ways, linked := conf.Ways, false; ; {
		if !atOnce {
			if ways, linked = k.await(ctx); ways == nil {
				return
			}
		}
		atOnce = false
		began := time.Now()
		l, err := p.dial(ctx, e, ways)
		switch {
		case l != nil:
			k.last, k.began = l, began
			if linked {
				k.better = l
			}
		case ctx.Err() != nil:
			return
		case linked:
			if !k.said { // once for each link: it may be so for months
				p.o.Log.Info("no cheaper link", "peer", e.name, "error", err)
				k.said = true
			}
		default:
			p.mu.Lock()
			e.fails++
			p.mu.Unlock()
			k.pause(err)
		}
	}
}

// await waits until the peer is to be dialled, and returns by which ways, and whether there
// is a link already; no ways if ctx has ended.
func (k *keeper) await(ctx context.Context) (ways []Way, linked bool) {
	p, e := k.p, k.e
	for ctx.Err() == nil {
		p.mu.Lock()
		l, due, changed := e.link, e.err != nil || e.news, p.changed
		over := k.last != nil && l != k.last
		p.mu.Unlock()
		wait := time.Duration(-1)
		switch {
		case over:
			k.over()
			continue
		case l != nil:
			if ways, wait = k.cheaper(l); len(ways) > 0 {
				return ways, true
			}
		case time.Until(k.at) > 0:
			wait = time.Until(k.at)
		default:
			if ways = k.wanted(due); len(ways) > 0 {
				return ways, false
			}
		}
		var timer <-chan time.Time
		if wait >= 0 {
			timer = time.After(wait)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer:
		case <-e.kick:
		case <-e.retry:
			k.backoff.Reset()
			k.at, k.link, k.asked = time.Time{}, nil, true
		}
	}
	return nil, false
}

// wanted returns the ways by which a peer is to be dialled that there is no link to: all
// of them if mail waits, or news of routes, or the last attempt has failed; else those by
// which it is to stay up.
func (k *keeper) wanted(due bool) []Way {
	if due || k.p.waits(k.e.name) {
		return k.conf.Ways
	}
	return slices.DeleteFunc(slices.Clone(k.conf.Ways), func(w Way) bool { return w.Timeout > 0 })
}

// cheaper returns the ways that are to be tried now because they cost less than a link
// does, or after what time to look again; below 0: not for this link.
//
// A way with a timeout is not opened for that while nothing is to be said: one that has a
// timeout too is closed then, and next time the cheapest is dialled first; and one that
// stays up would come back as soon as the cheaper one is closed again. So it has to be worth it.
func (k *keeper) cheaper(l *link) (ways []Way, wait time.Duration) {
	now := time.Now()
	if l != k.link {
		k.link, k.said, k.moved = l, false, 0
		begin := func(t *tries, first, most time.Duration) {
			t.Backoff = message.Backoff{First: first, Max: most}
			t.next(now)
			if t.at.Before(k.held) {
				t.at = k.held
			}
			if k.asked {
				t.at = now
			}
		}
		begin(&k.fast, k.p.o.FirstWait, k.p.o.MaxWait)
		begin(&k.quiet, k.p.o.MaxWait, seldom*k.p.o.MaxWait)
	}
	wait = -1
	total, unacked := l.Totals()
	moved := total.Given + total.Submitted
	used := k.asked || unacked > 0 || l.way != nil && l.way.Timeout > 0 && moved != k.moved || k.p.waits(k.e.name)
	k.asked = false
	var due []*tries
	for _, way := range k.conf.Ways {
		if way.Cost >= l.cost {
			continue
		}
		t := &k.fast
		if way.Line.Quiet() {
			t = &k.quiet
		}
		if rest := t.at.Sub(now); rest > 0 {
			if wait < 0 || rest < wait {
				wait = rest
			}
			continue
		}
		due = append(due, t)
		if way.Timeout == 0 || used {
			ways = append(ways, way)
		}
	}
	if len(due) == 0 {
		return nil, wait
	}
	k.moved = moved
	for _, t := range due {
		if !t.at.After(now) { // both of two ways may have it
			t.next(now)
		}
	}
	return ways, 0
}

func (t *tries) next(now time.Time) {
	pause, _ := t.Pause(nil)
	t.at = now.Add(pause)
}

// over looks at the end of the last link that was dialled here.
func (k *keeper) over() {
	l, lasted := k.last, time.Since(k.began)
	k.last = nil
	k.p.mu.Lock()
	err, rested := l.why, l.rested
	k.p.mu.Unlock()
	if l == k.better {
		k.better = nil
		if rested || lasted >= lasting*k.p.o.MaxWait {
			k.hold.Reset()
		} else {
			pause, _ := k.hold.Pause(nil)
			k.held = time.Now().Add(pause)
		}
	}
	k.backoff.Met(lasted, l.carried())
	k.pause(err)
}

// pause has the next attempt wait, after one has failed, or after a link.
func (k *keeper) pause(err error) {
	p, e := k.p, k.e
	pause, _ := k.backoff.Pause(err)
	k.at = time.Now().Add(pause)
	if err == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.link == nil { // else the other side has dialled meanwhile
		e.err, e.next = err, k.at
		p.awakeLocked(e)
	}
	p.o.Log.Info("no link", "peer", e.name, "error", err, "again in", pause.Round(time.Millisecond).String())
}

// awakeLocked has a link that rests lead nowhere any more: there may be another way.
func (p *Peers) awakeLocked(e *peer) {
	if e.idle {
		e.idle = false
		p.table.PeerDown(p.now(), e.id)
		p.settleLocked()
		p.nudge()
	}
}

// waits tells whether mail waits that goes by a peer.
func (p *Peers) waits(name string) bool {
	p.mu.Lock()
	servers := []string{name}
	for server, by := range p.hops {
		if by == name && server != name {
			servers = append(servers, server)
		}
	}
	p.mu.Unlock()
	for _, server := range servers {
		if q := p.o.Spool.Find(server); q != nil && q.Waits(message.Priorities) {
			return true
		}
	}
	return p.copiesWait(name)
}

// dial tries some ways in turn, and has the link read, if there is one then.
func (p *Peers) dial(ctx context.Context, e *peer, ways []Way) (*link, error) {
	var failed noWay
	for i := range ways {
		way := &ways[i]
		p.mu.Lock()
		if ctx.Err() != nil { // before Still waits
			p.mu.Unlock()
			return nil, ctx.Err()
		}
		e.dialing, e.next = true, time.Time{}
		p.dials.Add(1)
		p.mu.Unlock()
		l, err := p.open(ctx, e, way)
		p.mu.Lock()
		e.dialing = false
		p.dials.Done()
		p.mu.Unlock()
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", way.Address, err))
			continue
		}
		go p.converse(l)
		return l, nil
	}
	return nil, failed
}

// noWay is why each way leads nowhere, in one line.
type noWay []error

func (w noWay) Error() string {
	all := make([]string, len(w))
	for i, err := range w {
		all[i] = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return strings.Join(all, "; ")
}

func (w noWay) Unwrap() []error { return w }
