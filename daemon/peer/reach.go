package peer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/spool"
	"github.com/noipchat/noipchat/daemon/transport"
	"github.com/noipchat/noipchat/daemon/wire"
)

// Reach is what a peer says of one of our addresses.
type Reach struct {
	Problem string        // "": this server answers there
	Clock   time.Duration // how far theirs is ahead of ours, give or take half of what the question took
}

// reachTime is what a peer gives an address to answer, and askTime what we give the peer.
const (
	reachTime = 5 * time.Second
	askTime   = reachTime + 10*time.Second
)

// Reach has a peer that there is a link to try an address of ours.
func (p *Peers) Reach(ctx context.Context, name, address string) (r Reach, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	p.mu.Lock()
	var l *link
	if e := p.peers[name]; e != nil {
		l = e.link
	}
	if l == nil {
		p.mu.Unlock()
		return r, fmt.Errorf("there is no link to %s", name)
	}
	l.questions++
	number, reply := l.questions, make(chan wire.Reply, 1)
	l.replies[number] = reply
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(l.replies, number)
	}()
	asked := time.Now()
	if !l.tell(func(b []byte) []byte {
		return wire.AppendRequest(b, wire.Request{Number: number, Op: wire.OpReach, Args: []string{address}})
	}) {
		return r, fmt.Errorf("the link to %s is over", name)
	}
	select {
	case <-ctx.Done():
		return r, fmt.Errorf("%s says nothing: %w", name, ctx.Err())
	case a := <-reply:
		if a.No != nil {
			return r, a.No
		}
		if len(a.Results) != 2 {
			return r, fmt.Errorf("%s answers with %d results", name, len(a.Results))
		}
		millis, err := strconv.ParseInt(a.Results[0], 10, 64)
		if err != nil {
			return r, fmt.Errorf("the time of %s: %w", name, err)
		}
		ours := asked.Add(time.Since(asked) / 2)
		return Reach{Problem: a.Results[1], Clock: time.UnixMilli(millis).Sub(ours)}, nil
	}
}

// tell puts a frame into a link, and has it written.
func (l *link) tell(frame func(b []byte) []byte) bool {
	if !l.Offer(frame) {
		return false
	}
	var turn spool.Turn
	turn.Wake(l)
	turn.Run()
	return true
}

// reply takes the reply to a question of ours; one that nobody waits for is dropped.
func (l *link) reply(body []byte) error {
	a, err := wire.ParseReply(body)
	if err != nil {
		return err
	}
	for i, s := range a.Results {
		a.Results[i] = message.Clean(s, message.MaxReason)
	}
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if reply := l.replies[a.Number]; reply != nil {
		delete(l.replies, a.Number)
		reply <- a
	}
	return nil
}

// request does what a peer asks for that is no mail: to try one of its addresses. Strangers
// could look through our network with that, so it is for peers of the configuration, and
// one question at a time.
func (l *link) request(body []byte) error {
	q, err := wire.ParseRequest(body)
	if err != nil {
		return err
	}
	reply := wire.Reply{Number: q.Number}
	p := l.p
	p.mu.Lock()
	switch {
	case q.Op != wire.OpReach || len(q.Args) != 1:
		reply.No = message.Refuse(message.CodeInvalid, "this server doesn't know operation %d with %d arguments", q.Op, len(q.Args))
	case !l.peer.known:
		reply.No = message.Refuse(message.CodeNotAllowed, "only peers that %s has configured may ask for that", p.o.Home)
	case l.trying:
		reply.No = message.Defer(message.CodeLater, reachTime, "one address at a time")
	case p.dialling.Err() != nil || p.closed:
		reply.No = message.Defer(message.CodeStopping, reachTime, "this server is going down")
	default:
		l.trying = true
		p.wg.Add(1)
		p.dials.Add(1)
		ctx, address := p.dialling, q.Args[0]
		go func() {
			defer p.wg.Done()
			defer p.dials.Done()
			began := time.Now()
			problem := l.try(ctx, address)
			now := time.Now().Add(-time.Since(began) / 2) // the middle, as whoever asks reckons it
			p.mu.Lock()
			l.trying = false
			p.mu.Unlock()
			if ctx.Err() != nil {
				reply.No = message.Defer(message.CodeStopping, reachTime, "this server is going down, or hands over")
			} else {
				reply.Results = []string{strconv.FormatInt(now.UnixMilli(), 10), problem}
			}
			l.tell(func(b []byte) []byte { return wire.AppendReply(b, reply) })
		}()
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	return l.Say(func(b []byte) []byte { return wire.AppendReply(b, reply) })
}

// try connects to an address and tells why the peer isn't there; "": it is.
func (l *link) try(ctx context.Context, address string) string {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return "that is no address with a port"
	}
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	conn, err := l.p.o.Dial(ctx, transport.Address{Kind: "tcp", Remote: address})
	if err != nil {
		return why(err)
	}
	h, err := wire.Ask(ctx, conn, l.p.o.Key)
	switch {
	case err != nil:
		return why(err)
	case h.Key != l.key:
		return fmt.Sprintf("another server answers there: %s, with the key %s", h.Name, h.Key.Fingerprint())
	}
	return ""
}

// why is an error without the addresses that are in it, on both ends.
func why(err error) string {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("no answer within %v", reachTime)
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return err.Error()
}
