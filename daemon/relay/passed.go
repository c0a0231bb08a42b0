package relay

import (
	"sync"

	"github.com/noipchat/noipchat/daemon/message"
)

// passed remembers to which server texts were passed on, until something is heard of them.
// Where one comes to be passed on for the second time, its home has waited in vain: the next
// server has lost it, keeps it, or leads nowhere, and another way is better.
type passed struct {
	mu       sync.Mutex // guards what follows
	now, old map[passage]string
}

// passage is a text on its way to a server. Its author's device is enough to tell it from
// others that honest servers carry; a liar who repeats one makes a way doubted, no more.
type passage struct {
	device  message.DeviceID
	counter uint64
	server  string
}

// maxPassed bounds what is remembered: as much again is, of before.
const maxPassed = 8192

// put notes that via has a text now, and returns who had it before; "": nobody, or
// something was heard since.
func (p *passed) put(key passage, via string) (before string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before = p.takeLocked(key)
	if p.now == nil || len(p.now) >= maxPassed {
		p.old, p.now = p.now, map[passage]string{}
	}
	p.now[key] = via
	return before
}

// take returns who has a text, and forgets it.
func (p *passed) take(key passage) (via string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.takeLocked(key)
}

func (p *passed) takeLocked(key passage) (via string) {
	via = p.now[key]
	if via == "" {
		via = p.old[key]
	}
	delete(p.now, key)
	delete(p.old, key)
	return via
}

// heard forgets what a report is about.
func (p *passed) heard(report *message.Report) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.now)+len(p.old) == 0 {
		return
	}
	for n := range report.Counters.All(maxPassed) {
		p.takeLocked(passage{report.Device, n, report.Receiver.Server()})
	}
}
