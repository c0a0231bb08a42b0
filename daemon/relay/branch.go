package relay

import (
	"slices"
	"sync"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/spool"
)

// branch waits until one receiver is safe in all his queues, and in those of the
// author's other devices, and tells the owner once.
type branch struct {
	// fixed
	relay   *Relay
	owner   spool.Owner
	token   uint64
	box     *box // the receiver's; nil if he is unknown
	to      message.Address
	others  *others // nil: the author has no other devices here
	author  message.Address
	device  message.DeviceID // that wrote it
	counter uint64
	report  bool // it is one itself: there is no receipt for a receipt
	raw     []byte
	path    message.Path // by which it came from another server; nil: it is no text, or from here
	vouch   bool         // the author is told by us, and whoever brought it that we have it

	mu       sync.Mutex // guards what follows
	left     int
	state    message.State
	no       *message.Refusal
	notYet   *message.Refusal // some queue doesn't take it for now
	noRoom   *message.Refusal // the same, but that of a device which is overfull
	overfull []message.DeviceID
}

// Tokens of a branch that are not the index of one of its box's queues.
const (
	theirs = 1<<32 + iota // what is said of the receiver as a whole
	ours                  // the author's other devices
)

func (r *Relay) newBranch(e *message.Envelope, to message.Address, b *box, owner spool.Owner, token uint64, o *others, vouch bool, path message.Path) *branch {
	br := &branch{relay: r, owner: owner, token: token, box: b, to: to, others: o, author: e.From, device: e.Device, counter: e.Counter, left: 1,
		report: e.Kind.Reports(), vouch: vouch, raw: e.Raw, path: path}
	if b != nil {
		br.left = len(b.queues)
	}
	if o != nil {
		br.left++
		o.waiting = append(o.waiting, br) // nothing was put yet
	}
	return br
}

// Settled implements spool.Owner.
func (b *branch) Settled(t *spool.Turn, token uint64, s message.State, no *message.Refusal) {
	b.mu.Lock()
	full := token < theirs && b.box.overfull(token, no)
	switch {
	case full && !no.Permanent:
		b.noRoom = no
	case no != nil && !no.Permanent:
		b.notYet = no
	case token == ours:
	case rank(s) > rank(b.state):
		b.state, b.no = s, no
	}
	if full {
		b.overfull = append(b.overfull, b.box.devices[token])
	}
	b.left--
	last := b.left == 0
	b.mu.Unlock()
	if !last {
		return
	}
	if rank(b.state) < rank(message.Held) && b.noRoom != nil { // no other device has it
		b.notYet = b.noRoom
	}
	if b.notYet != nil {
		// Some queue would be without it: the sender keeps it, and the others drop the repeat.
		b.owner.Settled(t, b.token, message.Refused, b.notYet)
		return
	}
	if b.no == nil {
		for _, device := range b.overfull {
			b.relay.overfull(b.to, device, "as much waits for it as the server keeps")
		}
	}
	if b.path != nil && b.state == message.Delivered { // what is held leaves its trace when it is
		b.relay.remember(Event{ID: message.IDOf(b.raw), Receiver: b.to, State: b.state, Path: b.path})
	}
	// That a text is held here, its author elsewhere is told too: so its home knows that the
	// way was good, and he, where it waits.
	if !b.report && (b.others != nil || b.vouch) && (b.state != message.Held || b.path != nil) {
		b.relay.echo.add(t, b)
	}
	if b.vouch {
		b.state, b.no = message.Held, nil
	}
	b.owner.Settled(t, b.token, b.state, b.no)
}

// rank: held counts more than a refusal by another queue, because some device will
// have it.
func rank(s message.State) int {
	return [...]int{message.Refused: 1, message.Expired: 2, message.Held: 3, message.Delivered: 4, message.Read: 4}[s]
}

// others is the author's other devices, each of which gets a copy.
type others struct {
	relay  *Relay
	author message.Address
	box    *box

	mu       sync.Mutex // guards what follows
	left     int
	notYet   *message.Refusal
	overfull []message.DeviceID
	waiting  []*branch
}

// others returns nil if the author of e has no other device here, or writes to
// himself as well: then they get it anyway.
func (r *Relay) others(e *message.Envelope) *others {
	b := r.box(e.From)
	if b == nil || len(b.queues) < 2 || slices.Contains(e.To, e.From) {
		return nil
	}
	rest := b.without(e.Device)
	return &others{relay: r, author: e.From, box: rest, left: len(rest.queues)}
}

// overfull tells whether a queue doesn't take more than it has, and its device isn't there
// to take some of that: then a part of a file, though refused for now, would wait for
// weeks, and with it those who are there.
func (b *box) overfull(queue uint64, no *message.Refusal) bool {
	return no != nil && no.Code == message.CodeQuota && (no.Permanent || !b.queues[queue].Pumped())
}

// without returns the box without a device.
func (b *box) without(device message.DeviceID) *box {
	rest := &box{}
	for i, d := range b.devices {
		if d != device {
			rest.devices = append(rest.devices, d)
			rest.queues = append(rest.queues, b.queues[i])
		}
	}
	return rest
}

// Settled implements spool.Owner.
func (o *others) Settled(t *spool.Turn, token uint64, _ message.State, no *message.Refusal) {
	o.mu.Lock()
	switch {
	case no == nil:
	case o.box.overfull(token, no):
		o.overfull = append(o.overfull, o.box.devices[token])
	case !no.Permanent:
		o.notYet = no
	}
	o.left--
	last := o.left == 0
	o.mu.Unlock()
	if !last {
		return
	}
	for _, device := range o.overfull {
		o.relay.overfull(o.author, device, "as much waits for it as the server keeps")
	}
	for _, b := range o.waiting {
		b.Settled(t, ours, 0, o.notYet)
	}
}
