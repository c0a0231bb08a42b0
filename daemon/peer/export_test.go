package peer

import "github.com/noipchat/noipchat/daemon/message"

// EndLinks ends all links, which come again.
func (p *Peers) EndLinks(why *message.Refusal) {
	p.mu.Lock()
	links := p.linksLocked()
	p.mu.Unlock()
	for _, l := range links {
		l.End(why)
	}
}
