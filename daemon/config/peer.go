package config

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/transport"
)

// checkPeers judges all that is said about other servers.
func (l *loader) checkPeers() {
	names, keys := map[string]place{}, map[string]place{}
	linked := map[string]place{} // names of peers that have links
	for i := range l.config.Peers {
		p, key := &l.config.Peers[i], index("peer", i)
		if at, ok := l.given(key + ".name"); ok {
			l.checkPeerName(p.Name, at, key+".name", names)
			if len(p.Links) > 0 {
				linked[p.Name] = at
			}
		} else if !l.wrong[key+".name"] {
			l.fail(l.config.origin[key], key+".name", "", "peer.name is missing")
		}
		if at, ok := l.given(key + ".key"); ok && p.Key != "" {
			l.checkKey(p.Key, at, key+".key", keys)
		}
		used := map[string]place{}
		for j := range p.Links {
			l.checkLink(&p.Links[j], index(key+".link", j), used)
		}
	}
	for i := range l.config.Peers { // when it is known who has links
		l.checkReaches(&l.config.Peers[i], index("peer", i)+".reaches", linked)
	}
}

func (l *loader) checkPeerName(name string, at place, key string, names map[string]place) {
	if err := message.CheckName(name); err != nil {
		l.fail(at, key, "", "peer.%v", err)
		return
	}
	if name == l.config.Name {
		l.fail(at, key, "", "peer.name is %s: that is this server", name)
		return
	}
	if other, taken := names[name]; taken {
		l.fail(at, key, "one [[peer]] may have many [[peer.link]]", "peer.name is %s, as at %s", name, other.seenFrom(at))
		return
	}
	names[name] = at
}

func (l *loader) checkKey(text string, at place, key string, keys map[string]place) {
	if _, err := identity.ParsePublicKey(text); err != nil {
		l.fail(at, key, "the other server's admin sees its key with: noipctl peer line", "peer.key: %v", err)
		return
	}
	if other, taken := keys[text]; taken {
		l.fail(at, key, "", "peer.key is the same as at %s, and no two servers have one", other.seenFrom(at))
		return
	}
	keys[text] = at
}

// checkLink judges a link, and makes it canonical.
func (l *loader) checkLink(k *Link, key string, used map[string]place) {
	origin := l.config.origin
	at := origin[key]
	if _, set := origin[key+".kind"]; !set {
		k.Kind = "tcp"
	}
	if _, set := origin[key+".timeout"]; !set {
		k.Timeout = defaultTimeout
	}
	if _, set := origin[key+".cost"]; !set {
		k.Cost = defaultCost
	}
	if at, ok := l.given(key + ".timeout"); ok && k.Timeout > 0 && k.Timeout < Duration(time.Second) {
		l.fail(at, key+".timeout", "", `peer.link.timeout is %v, must be 1s at least, or "0s" to keep the link for ever`, k.Timeout)
	}
	if at, ok := l.given(key + ".line"); ok {
		line, err := transport.ParseProperties(k.Line)
		if err != nil {
			l.fail(at, key+".line", "", "peer.link.line: %v", err)
		}
		k.Line = line.String()
	}
	errs := len(l.errs)
	switch {
	case l.wrong[key+".kind"]:
		return
	case k.Kind == "exec":
		l.unfit(k.Remote, key+".remote", k.Kind)
		l.unfit(k.Local, key+".local", k.Kind)
		l.checkCommand(k.Command, at, key+".command")
	default:
		l.unfit(strings.Join(k.Command, " "), key+".command", k.Kind)
		l.checkRemote(k, at, key)
	}
	if len(l.errs) > errs || l.wrong[key+".remote"] || l.wrong[key+".local"] || l.wrong[key+".command"] {
		return
	}
	if other, taken := used[k.String()]; taken {
		l.fail(at, key, "", "peer.link %s is the same as at %s", k, other.seenFrom(at))
		return
	}
	used[k.String()] = at
}

// unfit refuses what a kind has no use for.
func (l *loader) unfit(value, key, kind string) {
	if at, ok := l.given(key); ok && value != "" {
		l.fail(at, key, "", "%s is not for kind %q", plain(key), kind)
	}
}

func (l *loader) checkCommand(argv []string, table place, key string) {
	at, ok := l.given(key)
	switch {
	case l.wrong[key]:
	case !ok || len(argv) == 0 || argv[0] == "":
		if !ok {
			at = table
		}
		l.fail(at, key, "", `peer.link.command is missing: the program and its arguments, as ["ssh", "-T", "noipchat@server2", "noipchatd", "--stdio"]`)
	}
	for i, arg := range argv {
		if at, ok := l.given(index(key, i)); ok && strings.ContainsFunc(arg, control) {
			l.fail(at, key, "", "peer.link.command: %.80q has a control character", arg)
		}
	}
}

func (l *loader) checkRemote(k *Link, table place, key string) {
	at, ok := l.given(key + ".remote")
	if !ok || k.Remote == "" {
		if !ok {
			at = table
		}
		if !l.wrong[key+".remote"] {
			l.fail(at, key+".remote", "", "peer.link.remote is missing: the peer's address")
		}
		return
	}
	if k.Kind == "unix" {
		l.unfit(k.Local, key+".local", k.Kind)
		l.socketPath(k.Remote, at, key+".remote")
		return
	}
	remote, ok := l.address(&k.Remote, at, key+".remote")
	if ok && remote.Addr().IsUnspecified() {
		l.fail(at, key+".remote", "write the address that the peer listens on", "peer.link.remote %v is the address of no machine", remote)
		return
	}
	at, set := l.given(key + ".local")
	if !ok || !set || k.Local == "" {
		return
	}
	local, err := netip.ParseAddr(k.Local)
	switch local = local.Unmap(); {
	case err != nil:
		l.fail(at, key+".local", "the system chooses the port", "peer.link.local is %.80q: must be an IP address", k.Local)
	case local.IsUnspecified() || local.IsMulticast():
		l.fail(at, key+".local", "leave it out to let the system choose", "peer.link.local %v is the address of no machine", local)
	case local.Is4() != remote.Addr().Is4():
		l.fail(at, key+".local", "", "peer.link.local %v and remote %v are of two families, IPv4 and IPv6", local, remote)
	default:
		k.Local = local.String()
	}
}

// checkReaches judges which servers are said to be behind a peer. A peer without
// links may be among them: it stands there for its key.
func (l *loader) checkReaches(p *Peer, key string, linked map[string]place) {
	for i, name := range p.Reaches {
		at, ok := l.given(index(key, i))
		if !ok {
			continue
		}
		err := message.CheckName(name)
		other, hasLinks := linked[name]
		switch {
		case err != nil:
			l.fail(at, key, "", "peer.reaches: %v", err)
		case name == l.config.Name:
			l.fail(at, key, "", "peer.reaches has %s, which is this server", name)
		case name == p.Name:
			l.fail(at, key, "", "peer.reaches has %s, which is the peer itself", name)
		case hasLinks:
			l.fail(at, key, "", "peer.reaches has %s, which is a peer with links of its own, at %s", name, other.seenFrom(at))
		case slices.Contains(p.Reaches[:i], name):
			l.fail(at, key, "", "peer.reaches has %s twice", name)
		}
	}
}
