package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
)

// answered is a question that has its answer: from its flag; what is proposed, with
// --yes; or from somebody.
func (g *guide) answered(q question, given ...string) error {
	switch {
	case g.cmd.Flags().Changed(strings.TrimPrefix(q.flag, "--")):
		if err := q.check(given); err != nil {
			return cli.Misuse("", "%s: %w", q.flag, err)
		}
	case g.yes:
		if err := q.check(q.answer); err != nil {
			return cli.Misuse("give "+q.flag, "%s %w", q.title, err)
		}
	default:
		words, err := g.asker.ask(q)
		if err == nil {
			err = q.check(words)
		}
		return err
	}
	return nil
}

// one makes the check of an answer that is one word.
func one(take func(word string) error) func([]string) error {
	return func(words []string) error {
		word := ""
		if len(words) > 1 {
			return errors.New("one word, please")
		}
		if len(words) == 1 {
			word = words[0]
		}
		return take(word)
	}
}

func (g *guide) questions(ctx context.Context) error {
	for _, ask := range []func() error{g.askName, g.askListen, g.askPublic, g.askRegister, g.askUser, g.askPeers, g.askLog} {
		if err := ask(); err != nil {
			return err
		}
	}
	return g.askFirewall(ctx)
}

func (g *guide) askName() error {
	s := g.setup
	name := s.name
	if name == "" {
		host, _ := os.Hostname()
		name, _, _ = strings.Cut(strings.ToLower(host), ".")
		if message.CheckName(name) != nil || name == "localhost" {
			name = "server1"
		}
	}
	about := "Users are user@name. Letters, digits, - and dots; no DNS is asked for it, and\nno two servers that know each other may have the same."
	if s.have != nil {
		about += "\nA new name is a new address for every user, and needs a restart."
	}
	return g.answered(question{flag: "--name", title: "The name of this server", about: about, answer: []string{name},
		check: one(func(word string) error {
			s.name = word
			return message.CheckName(word)
		})}, g.name)
}

// askPort asks for the port of all addresses, where they have the same.
func (g *guide) askPort() error {
	given := g.cmd.Flags().Changed("port")
	before := g.setup.interfaces
	var have []string
	for _, i := range before {
		if a, err := netip.ParseAddrPort(i.Bind); err == nil && !slices.Contains(have, fmt.Sprint(a.Port())) {
			have = append(have, fmt.Sprint(a.Port()))
		}
	}
	switch {
	case given && len(g.listen) > 0:
		return cli.Misuse("give each --listen its port", "--port and --listen don't go together")
	case len(before) == 0:
		have = []string{g.port}
	case given && len(have) != 1:
		return cli.Misuse("give all addresses, each with its port: --listen", "--port: the addresses that are there have the ports %s", cmp.Or(strings.Join(have, ", "), "none"))
	}
	if len(g.listen) > 0 || len(have) != 1 || g.from != "" && !given {
		return nil
	}
	return g.answered(question{flag: "--port", title: "The port", about: "TCP, on every address. Below 1024 works too.", answer: have,
		check: one(func(word string) error {
			a, err := netip.ParseAddrPort("127.0.0.1:" + word)
			if err != nil || a.Port() == 0 {
				return errors.New("want a number from 1 to 65535")
			}
			g.port = fmt.Sprint(a.Port())
			g.setup.interfaces = moved(before, have[0], g.port)
			return nil
		})}, g.port)
}

// moved are interfaces that have another port, also for others where that was the same.
func moved(all []config.Interface, from, to string) []config.Interface {
	all = slices.Clone(all)
	if from == to {
		return all
	}
	other := func(address string) string {
		if a, err := netip.ParseAddrPort(address); err == nil && fmt.Sprint(a.Port()) == from {
			return net.JoinHostPort(a.Addr().String(), to)
		}
		return address
	}
	for n, i := range all {
		all[n].Bind, all[n].Public = other(i.Bind), slices.Clone(i.Public)
		for k, p := range i.Public {
			all[n].Public[k] = other(p)
		}
	}
	return all
}

func (g *guide) askListen() error {
	if err := g.askPort(); err != nil {
		return err
	}
	if g.from != "" && !g.cmd.Flags().Changed("listen") {
		return nil
	}
	options, proposed := g.addresses(g.port)
	return g.answered(question{
		flag: "--listen", title: "The addresses to listen on", about: "Behind NAT: those of this machine, the public one comes next.",
		options: options, many: true, answer: proposed, check: g.takeListen,
	}, g.listen...)
}

// addresses are those that can be listened on, and those that are proposed: what is
// configured or was answered before, or else all.
func (g *guide) addresses(port string) (options []option, proposed []string) {
	add := func(bind, text string) {
		if !slices.ContainsFunc(options, func(o option) bool { return o.word == bind }) {
			options = append(options, option{bind, fmt.Sprintf("%-24s %s", bind, text)})
		}
	}
	origins := g.setup.origins()
	for n, i := range g.setup.interfaces {
		if o := origins[n]; o >= 0 && g.setup.were[o].Bind == i.Bind {
			add(i.Bind, "as it is now")
		} else if o >= 0 {
			add(i.Bind, "now "+g.setup.were[o].Bind)
		}
		proposed = append(proposed, i.Bind)
		if a, err := netip.ParseAddrPort(i.Bind); err == nil {
			port = fmt.Sprint(a.Port())
		}
	}
	if len(proposed) == 0 {
		proposed = append(proposed, "0.0.0.0:"+port)
	}
	add("0.0.0.0:"+port, "all IPv4 addresses, also those that come later")
	for _, o := range g.own {
		if !o.Is4() {
			add("[::]:"+port, "all IPv6 addresses, also those that come later")
			if len(g.setup.interfaces) == 0 {
				proposed = append(proposed, "[::]:"+port)
			}
			break
		}
	}
	for _, o := range g.own {
		text := o.device
		if private(o.Addr) {
			text += ", private"
		}
		add(net.JoinHostPort(o.String(), port), text)
	}
	for _, bind := range proposed {
		add(bind, "")
	}
	return options, proposed
}

func (g *guide) takeListen(words []string) error {
	s := g.setup
	var all []config.Interface
	for _, word := range words {
		n := slices.IndexFunc(s.interfaces, func(i config.Interface) bool { return i.Bind == word })
		if n >= 0 {
			all = append(all, s.interfaces[n])
			continue
		}
		a, err := netip.ParseAddrPort(word)
		if err != nil || a.Port() == 0 || a.Addr().IsMulticast() {
			return fmt.Errorf("%.60q: want ip:port, as in 192.168.1.10:10001 or [2001:db8::1]:10001", word)
		}
		bind := netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
		all = append(all, config.Interface{Kind: "tcp", Bind: bind})
	}
	if len(all) == 0 {
		return errors.New("one address at least")
	}
	for n, i := range all {
		for _, other := range all[:n] {
			if i.Kind == "tcp" && overlap(i.Bind, other.Bind) {
				return fmt.Errorf("%s and %s are in each other's way", other.Bind, i.Bind)
			}
		}
	}
	s.interfaces = all
	return nil
}

// overlap tells whether two addresses can't be listened on at once.
func overlap(a, b string) bool {
	x, errX := netip.ParseAddrPort(a)
	y, errY := netip.ParseAddrPort(b)
	return errX == nil && errY == nil && (x == y || reaches(a, y) || reaches(b, x))
}

func (g *guide) askPublic() error {
	s := g.setup
	if g.from != "" && len(g.public) == 0 {
		return nil
	}
	proposed := public(s.interfaces, g.own)
	about := "With the port. Users and other servers are told these addresses; - is none."
	for _, p := range proposed {
		if a, err := netip.ParseAddrPort(p); err == nil && private(a.Addr()) && !a.Addr().IsLoopback() {
			about += fmt.Sprintf("\n%s is private: others in this network reach it.\nFor who is elsewhere, give the address and port of your router here, and\nhave it forward that port to this machine.", a.Addr())
			break
		}
	}
	return g.answered(question{flag: "--public", title: "How others reach this server", about: about, many: true, answer: proposed, check: s.setPublic}, g.public...)
}

func (g *guide) askRegister() error {
	return g.answered(question{
		flag: "--register", title: "Who may make an account",
		options: []option{{"closed", "closed: you make them"}, {"invite", "invite: who has an invitation of yours"}, {"open", "open: everybody"}},
		answer:  []string{g.setup.register},
		check: one(func(word string) error {
			g.setup.register = word
			_, err := identity.ParseMode(word)
			return err
		}),
	}, g.register)
}

func (g *guide) askUser() error {
	title, about := "The first user", "A name such as alice; nothing for none."
	if g.setup.have != nil {
		title = "Another user"
	}
	err := g.answered(question{flag: "--user", title: title, about: about, check: one(func(word string) error {
		g.user = word
		if word == "" {
			return nil
		}
		return message.CheckName(word)
	})}, g.user)
	if err != nil || g.user == "" || g.stdin {
		return err
	}
	if g.setup.register != "closed" {
		err := g.answered(question{
			flag: "--invite", title: "How " + g.user + " comes in",
			options: []option{{"invitation", "by an invitation, with a password that nobody else knows"}, {"password", "with a password that you type now"}},
			answer:  []string{"invitation"},
			check:   one(func(word string) error { g.invite = word == "invitation"; return nil }),
		}, map[bool]string{true: "invitation", false: "password"}[g.invite])
		if err != nil || g.invite {
			return err
		}
	} else if g.invite {
		return cli.Misuse("--register invite allows them", "nobody can use an invitation while registration is closed")
	}
	if g.yes {
		return cli.Misuse("use --password-stdin; or --register invite --invite", "%s needs a password", g.user)
	}
	return g.answered(question{flag: "--password-stdin", title: "The password of " + g.user, about: "8 bytes at least.", secret: true,
		check: one(func(word string) error {
			g.password = word
			if len(word) < cli.MinPassword || len(word) > cli.MaxPassword {
				return fmt.Errorf("want %d to %d bytes", cli.MinPassword, cli.MaxPassword)
			}
			return nil
		})})
}

func (g *guide) askPeers() error {
	older := g.setup.peers // those of Servers.json
	about := "Paste the line that noipctl peer line prints on each of them. More can be added later: noipctl peer add"
	if len(older) > 0 {
		about = fmt.Sprintf("%d come from the older server's list. %s", len(older), about)
	}
	return g.answered(question{flag: "--peer", title: "Other servers", about: about, many: true, more: true, check: func(words []string) error {
		peers := map[string]string{}
		for path, text := range older {
			peers[path] = text
		}
		for _, word := range words {
			l, err := parsePeerLine(word)
			if err != nil {
				return err
			}
			if l.Server == g.setup.name {
				return fmt.Errorf("that is the line of %s, this server", l.Server)
			}
			text, err := peerText(l, linkFlags{})
			if err != nil {
				return err
			}
			peers[peerPath(g.path, l.Server)] = sealed(text)
		}
		g.setup.peers = peers
		return nil
	}}, g.peers...)
}

func (g *guide) askLog() error {
	options := []option{{"journal", "the journal: noipctl log, journalctl -u noipchat"}, {logFile, "the file " + logFile}}
	if now := g.setup.log; !slices.ContainsFunc(options, func(o option) bool { return o.word == now }) {
		options = append(options, option{now, now + ", as it is now"})
	}
	return g.answered(question{flag: "--log", title: "Where the log goes", options: options, answer: []string{g.setup.log},
		check: one(func(word string) error { g.setup.log = word; return nil })}, g.log)
}

func (g *guide) askFirewall(ctx context.Context) error {
	g.walls = nil
	about := ""
	for _, f := range firewalls(ctx) {
		for _, port := range ports(g.setup.interfaces) {
			if f.closed(port) {
				g.walls = append(g.walls, f)
				about += fmt.Sprintf("%s lets nobody in at port %d. What opens it:\n  %s\n", f.name, port, f.typed(port))
			}
		}
	}
	check := one(func(word string) error {
		g.closed = word
		if word != "run" && word != "show" {
			return fmt.Errorf("%.20q: want run or show", word)
		}
		return nil
	})
	if err := check([]string{g.closed}); err != nil {
		return cli.Misuse("", "--firewall: %w", err)
	}
	if len(g.walls) == 0 {
		return nil
	}
	return g.answered(question{flag: "--firewall", title: "The firewall", about: about, answer: []string{"show"}, check: check,
		options: []option{{"run", "run that"}, {"show", "leave it to me"}}}, g.closed)
}
