package peer

import "github.com/noipchat/noipchat/daemon/message"

// Pause ends all links, tells their peers why, and returns when all is over. Nobody is
// dialled or taken in until Reclaim. What goes to another image of the process are
// sessions: a table of routes that has forgotten what it told is safe only with new links.
func (p *Peers) Pause(why *message.Refusal) {
	p.mu.Lock()
	p.paused, p.ctx = p.ctx, nil // adopt and restartLocked look at ctx
	links := p.stopLocked()
	p.mu.Unlock()
	for _, l := range links {
		l.End(why)
	}
	p.wg.Wait()
}

// Reclaim undoes Pause.
func (p *Peers) Reclaim() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ctx, p.paused = p.paused, nil
	for _, e := range p.peers {
		p.restartLocked(e)
	}
}
