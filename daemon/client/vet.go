package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/wire"
)

// Keys asks the home for the keys of a user's devices, rising. There are none of
// somebody whom it doesn't know.
func (c *Client) Keys(ctx context.Context, of message.Address) ([]identity.PublicKey, error) {
	return keysOf(ctx, c.Ask, of)
}

// Keys is Client.Keys, by whoever has the session.
func (p *Profile) Keys(ctx context.Context, of message.Address) ([]identity.PublicKey, error) {
	return keysOf(ctx, p.Ask, of)
}

func keysOf(ctx context.Context, ask asker, of message.Address) ([]identity.PublicKey, error) {
	results, err := ask(ctx, wire.OpKeys, string(of))
	if err != nil {
		return nil, err
	}
	return toldKeys(results)
}

func toldKeys(results []string) (keys []identity.PublicKey, err error) {
	for _, r := range results {
		k, err := identity.ParsePublicKey(r)
		if err != nil {
			return nil, fmt.Errorf("%w: the key of a device: %w", wire.ErrProtocol, err)
		}
		keys = append(keys, k)
	}
	return identity.SortKeys(keys), nil
}

// vet takes out of envelopes, which are about to be sent, the receivers who were
// verified and have other devices now. They are refused; the text stays in the
// history. It is done here, because here all pass, whichever process wrote them.
//
// The home is asked once in a session for each contact, and again as long as the
// answer keeps something from being sent. That is a round trip for the first
// envelope; so of contacts that aren't verified, where nothing depends on it, it
// is not asked on links where silence is wanted. Receipts are not looked at.
func (l *link) vet(ctx context.Context, p message.Priority, pending []Pending) ([]Pending, error) {
	if p == message.Urgent {
		return pending, nil
	}
	all, err := l.c.store.addressees(p, pending[0].Counter, pending[len(pending)-1].Counter)
	if err != nil {
		return nil, err
	}
	var refused []Settled
	for _, a := range all {
		why, err := l.doubt(ctx, a)
		if err != nil {
			return nil, err
		}
		if why == nil {
			continue
		}
		refused = append(refused, Settled{Counter: a.first, Receiver: a.receiver, State: message.Refused, Code: message.CodeNotAllowed, Reason: why.Error()})
		for i := range pending {
			if e := &pending[i]; e.Counter >= a.first && e.Counter <= a.last {
				e.Open = slices.DeleteFunc(e.Open, func(r int) bool { return r == a.receiver })
			}
		}
	}
	if err := l.storeSettled(refused); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(pending, func(e Pending) bool { return len(e.Open) == 0 }), nil
}

// patience is how long a home may take to name a user's devices.
const patience = time.Minute

// doubt says why nothing must be sent to a contact now; nil: it may.
func (l *link) doubt(ctx context.Context, a addressee) (why, err error) {
	known := string(a.address) + " " // who was verified anew is asked for anew
	if a.verified {
		known += a.devices
	}
	quiet := !a.verified && l.conn.Transport().Properties().Quiet()
	if a.address.Server() != l.hello.Name || l.vetted[known] || quiet {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	results, err := l.ask(ctx, wire.OpKeys, []string{string(a.address)})
	var no *message.Refusal
	switch {
	case errors.As(err, &no) && a.verified:
		return fmt.Errorf("%s does not say which devices %s has: %w", l.hello.Name, a.address, no), nil
	case errors.As(err, &no):
		return nil, nil
	case err != nil:
		return nil, err
	}
	devices, err := toldKeys(results)
	if err != nil {
		return nil, err
	}
	c, err := l.c.store.SeeDevices(a.address, devices)
	if errors.Is(err, ErrNoContact) { // not any more
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if why = c.Doubt(l.c.server); why == nil {
		l.vetted[known] = true
	}
	return why, nil
}
