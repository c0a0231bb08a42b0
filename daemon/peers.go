package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/peer"
	"github.com/noipchat/noipchat/daemon/spool"
	"github.com/noipchat/noipchat/daemon/transport"
)

// ownKey refuses a configuration that has this server's own key for a peer's.
func ownKey(c *config.Config, key identity.PublicKey) error {
	for i, p := range c.Peers {
		if p.Key == key.String() {
			at := fmt.Sprintf("peer[%d].key", i)
			return config.Errors{{File: c.Origin(at), Key: at, What: "peer.key of " + p.Name + " is this server's own key",
				Hint: "its own line is what noipctl peer line prints on " + p.Name}}
		}
	}
	return nil
}

// setPeers puts in force which servers are known.
func (d *Daemon) setPeers(c *config.Config) {
	peers := make(map[string]identity.PublicKey, len(c.Peers))
	for _, p := range c.Peers {
		peers[p.Name], _ = identity.ParsePublicKey(p.Key) // Load has checked it; "" is none
	}
	unknown, _ := identity.ParseUnknown(c.Federation.Unknown) // Load has checked it
	d.servers.Configure(peers, unknown)
	to := peer.Config{
		MaxHops: c.MaxHops, Open: unknown != identity.RefuseUnknown, Refuse: c.Federation.Unverified == "refuse", Public: d.interfaces.public(),
		Flood: int64(c.Federation.FloodQuota),
	}
	for _, p := range c.Peers {
		q := peer.Peer{Name: p.Name, Reaches: p.Reaches}
		for _, k := range byCost(p) {
			line, _ := transport.ParseProperties(k.Line) // Load has checked it
			q.Ways = append(q.Ways, peer.Way{
				Address: transport.Address{Kind: k.Kind, Local: k.Local, Remote: cmp.Or(k.Remote, transport.Command(k.Command)), Line: line},
				Timeout: time.Duration(k.Timeout), Cost: k.Cost,
			})
		}
		to.Peers = append(to.Peers, q)
	}
	d.federation.Configure(to)
	for _, s := range d.servers.List() {
		d.federation.Refresh(s.Name)
	}
}

// Peers implements control.Daemon.
func (d *Daemon) Peers(context.Context) ([]control.Peer, error) {
	return d.peers(d.servers.List()), nil
}

// TrustPeer implements control.Daemon.
func (d *Daemon) TrustPeer(_ context.Context, who string) (control.Peer, error) {
	p, err := d.decide(who, d.servers.Trust)
	if err == nil {
		d.federation.Retry(p.Name)
	}
	return p, err
}

// DistrustPeer implements control.Daemon.
func (d *Daemon) DistrustPeer(_ context.Context, name string) (control.Peer, error) {
	return d.decide(name, d.servers.Distrust)
}

// decide takes what an admin says of a server, and lets the links know.
func (d *Daemon) decide(who string, say func(string) (identity.Server, error)) (control.Peer, error) {
	s, err := say(who)
	if errors.Is(err, identity.ErrNoServer) {
		err = fmt.Errorf("server %s: %w", who, control.ErrNotFound)
	}
	if err != nil {
		return control.Peer{}, err
	}
	d.federation.Refresh(s.Name)
	return d.peers([]identity.Server{s})[0], nil
}

// peers tells all that is known of some servers.
func (d *Daemon) peers(servers []identity.Server) []control.Peer {
	c := d.conf()
	all := make([]control.Peer, len(servers))
	at := map[string]*control.Peer{} // who waits has no link and no queue
	for i, s := range servers {
		all[i] = control.Peer{Name: s.Name, Standing: s.Standing.String(), Trusted: s.Since, State: control.Down}
		all[i].Key, all[i].Fingerprint = keyText(s.Key)
		_, all[i].RefusedFingerprint = keyText(s.Refused)
		all[i].RefusedAt = s.RefusedAt
		if s.Standing != identity.Waiting {
			at[s.Name] = &all[i]
		}
	}
	for i, p := range c.Peers {
		if v := at[p.Name]; v != nil {
			v.Origin, v.Reaches, v.Links = c.Origin(fmt.Sprintf("peer[%d]", i)), p.Reaches, linksOf(p)
		}
	}
	for name, v := range at {
		for _, of := range []string{name, spool.CopiesFor(name)} {
			if q := d.spool.Find(of); q != nil {
				info := q.Info()
				v.Messages, v.Bytes, v.OldestSeconds = v.Messages+info.Messages, v.Bytes+info.Bytes, max(v.OldestSeconds, info.Oldest.Seconds())
			}
		}
	}
	for _, s := range d.federation.States() {
		v := at[s.Name]
		if v == nil {
			continue
		}
		switch {
		case s.Up:
			v.State = control.Up
		case s.Dialing:
			v.State = control.Connecting
		}
		v.Kind, v.Remote, v.Cost, v.Since, v.Next = s.Kind, s.Remote, s.Cost, s.Since, s.Next
		v.BytesIn, v.BytesOut, v.Sent, v.Received = s.Read, s.Written, s.Sent, s.Received
		v.RTTSeconds = s.RTT.Seconds()
		if s.Err != nil {
			v.Error = s.Err.Error()
		}
	}
	return all
}

// keyText is a key and its fingerprint for people; "" for none.
func keyText(key identity.PublicKey) (text, fingerprint string) {
	if key.IsZero() {
		return "", ""
	}
	return key.String(), key.Fingerprint()
}

// byCost returns the links of a peer in the order in which they are tried.
func byCost(p config.Peer) []config.Link {
	links := slices.Clone(p.Links)
	slices.SortStableFunc(links, func(a, b config.Link) int { return cmp.Compare(a.Cost, b.Cost) })
	return links
}

func linksOf(p config.Peer) (all []control.Link) {
	for _, k := range byCost(p) {
		all = append(all, control.Link{
			Kind: k.Kind, Local: k.Local, Remote: k.Remote, Command: k.Command, Line: k.Line,
			TimeoutSeconds: time.Duration(k.Timeout).Seconds(), Cost: k.Cost,
		})
	}
	return all
}

// How many peers are asked about how many addresses: each address is tried for seconds.
const (
	askedPeers     = 3
	askedAddresses = 4
)

// Reach implements control.Daemon. Peers are asked at the same time, and each about one
// address after the other.
func (d *Daemon) Reach(ctx context.Context) ([]control.Reach, error) {
	var addresses []string
	for _, a := range d.interfaces.public() {
		if _, err := netip.ParseAddrPort(a); err == nil && len(addresses) < askedAddresses {
			addresses = append(addresses, a)
		}
	}
	var g errgroup.Group
	var mu sync.Mutex
	var all []control.Reach
	linked, asked := d.federation.Names(), 0
	for _, p := range d.conf().Peers {
		if !slices.Contains(linked, p.Name) || asked == askedPeers {
			continue
		}
		asked++
		g.Go(func() error {
			for _, address := range addresses {
				v := control.Reach{Peer: p.Name, Address: address}
				r, err := d.federation.Reach(ctx, p.Name, address)
				if err != nil {
					v.Silent = err.Error()
				}
				v.Problem, v.ClockSeconds = r.Problem, r.Clock.Seconds()
				mu.Lock()
				all = append(all, v)
				mu.Unlock()
			}
			return nil
		})
	}
	g.Wait()
	slices.SortFunc(all, func(a, b control.Reach) int {
		return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.Peer, b.Peer))
	})
	return all, nil
}

// Routes implements control.Daemon: what was learnt, and what the configuration says.
func (d *Daemon) Routes(context.Context) ([]control.Route, error) {
	var all []control.Route
	for _, r := range d.federation.Routes() {
		v := control.Route{Server: r.Server, Via: r.Via, Metric: r.Metric, Doubted: r.Doubted, AgeSeconds: time.Since(r.Since).Seconds()}
		_, v.Fingerprint = keyText(r.Key)
		key, _ := d.servers.Known(r.Server)
		v.Verified = !r.Key.IsZero() && key == r.Key
		all = append(all, v)
	}
	for _, p := range d.conf().Peers {
		metric := 0
		if links := byCost(p); len(links) > 0 {
			metric = links[0].Cost
		}
		for _, name := range p.Reaches {
			v := control.Route{Server: name, Via: p.Name, Static: true, Metric: metric}
			key, _ := d.servers.Known(name)
			_, v.Fingerprint = keyText(key)
			v.Verified = !key.IsZero()
			all = append(all, v)
		}
	}
	slices.SortStableFunc(all, func(a, b control.Route) int {
		return cmp.Or(cmp.Compare(a.Server, b.Server), cmp.Compare(a.Metric, b.Metric), cmp.Compare(a.Via, b.Via))
	})
	return all, nil
}

// peerNotices are what an admin should look at.
func (d *Daemon) peerNotices() (all []string) {
	waiting := 0
	for _, s := range d.servers.List() {
		if !s.Refused.IsZero() {
			all = append(all, fmt.Sprintf("%s %s showed another key than the one known, %s, and was refused",
				s.RefusedAt.Format(time.RFC3339), s.Name, s.Refused.Fingerprint()))
		}
		if s.Standing == identity.Waiting {
			waiting++
		}
	}
	if waiting > 0 {
		all = append(all, fmt.Sprintf("servers that wait to be trusted: %d", waiting))
	}
	return all
}
