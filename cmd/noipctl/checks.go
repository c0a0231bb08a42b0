package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/identity"
)

// again is how all of it takes a change that the running server can't.
const again = "systemctl daemon-reload && systemctl stop noipchat.socket noipchat.service && systemctl start noipchat.socket noipchat.service"

func (c *checkup) configuration() {
	disk, err := config.Load(c.path)
	var wrong config.Errors
	switch {
	case err == nil:
		c.disk = disk
	case errors.As(err, &wrong):
		if _, missing := os.Stat(c.path); errors.Is(missing, fs.ErrNotExist) {
			c.add(severe, "configuration", "noipctl guide", "there is no configuration: %s", c.path)
			return
		}
		if f, err := os.Open(c.path); err == nil {
			f.Close()
		} else if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
			c.add(mild, "configuration", "sudo noipctl check", "you may not read %s, and see the less here", c.path)
			return
		}
		for _, e := range wrong {
			do := "editor " + e.File
			if e.Hint != "" {
				do += "   # " + strings.ReplaceAll(e.Hint, "\n", " ")
			}
			c.add(severe, "configuration", do, "%s", e.Error())
		}
	}
}

func (c *checkup) running(err error) {
	switch {
	case err == nil:
	case errors.Is(err, control.ErrPermission):
		c.add(severe, "running", "sudo noipctl check", "%v", err)
	case c.disk != nil:
		do := "systemctl start noipchat.socket noipchat.service; systemctl status noipchat"
		if !onSystemd(c.path) {
			do = "noipchatd --config " + c.path
		}
		c.add(severe, "running", do, "the server does not run: %v", err)
	}
}

// old finds that another configuration is live than is on disk.
func (c *checkup) old() {
	if c.status == nil {
		return
	}
	if e := c.status.Config.LastError; e != "" {
		c.add(severe, "reload", "noipctl reload   # when it is mended", "the last reload was refused, an older configuration is live: %s", oneLine(e))
		return
	}
	if c.live == nil || c.disk == nil || c.status.Config.Path != c.path {
		return
	}
	changes := config.Diff(c.live, c.disk)
	if len(changes) == 0 {
		return
	}
	do := "noipctl reload"
	if slices.ContainsFunc(changes, config.Change.Cold) {
		do = "systemctl restart noipchat"
	}
	c.add(severe, "reload", do, "%s has %d changes that are not live, the first: %s", c.path, len(changes), changes[0])
}

// conf is the configuration on disk or, if that is bad, the live one; it may be nil.
func (c *checkup) conf() *config.Config {
	if c.disk != nil {
		return c.disk
	}
	return c.live
}

// listening tells whether the daemon has an interface open.
func (c *checkup) listening(i config.Interface) bool {
	return c.status != nil && slices.ContainsFunc(c.status.Interfaces, func(s control.Interface) bool {
		return s.Kind == i.Kind && s.Bind == i.Bind && s.State == control.Listening
	})
}

func (c *checkup) interfaces() {
	if c.conf() == nil {
		return
	}
	own := map[netip.Addr]bool{}
	for _, a := range ownAddresses() {
		own[a.WithZone("")] = true
	}
	for _, i := range c.conf().Interfaces {
		a, err := netip.ParseAddrPort(i.Bind)
		if i.Kind != "tcp" || err != nil {
			continue
		}
		ip := a.Addr().WithZone("")
		if !ip.IsUnspecified() && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() && !own[ip] {
			c.add(severe, "address", "ip -brief address; noipctl guide", "%s is no address of this machine", i.Bind)
			continue
		}
		if c.listening(i) {
			continue
		}
		if who := c.takers(a); len(who) > 0 {
			do := fmt.Sprintf("ss -ltnp 'sport = :%d'   # stop that program\nnoipctl reload", a.Port())
			if who[0].unit != "" {
				do = "systemctl disable --now " + who[0].unit + "   # if nothing needs it\nnoipctl reload"
			}
			c.add(severe, "port", do, "port %d is taken: %s", a.Port(), who[0])
		} else if c.status != nil && c.disk != nil {
			n := slices.IndexFunc(c.status.Interfaces, func(s control.Interface) bool { return s.Bind == i.Bind })
			if n >= 0 {
				c.add(severe, "interface", "noipctl reload   # it says why", "%s is not open: %s", i.Bind, c.status.Interfaces[n].Error)
			}
		}
	}
}

// takers are those besides this server who keep it from listening on an address.
func (c *checkup) takers(a netip.AddrPort) []listener {
	all := listeners(a.Port())
	if len(all) == 0 {
		return nil
	}
	units := socketUnits(c.ctx)
	for i := range all {
		all[i].unit = units[all[i].AddrPort]
	}
	own := func(l listener) bool {
		return c.status != nil && l.pid == c.status.PID || strings.HasPrefix(l.unit, "noipchat")
	}
	// [::] takes what is IPv4 too, unless it is for IPv6 only. Then nobody else listens there, also not we.
	both := a.Addr().Is4() && !slices.ContainsFunc(all, own) && busy(a)
	ip := a.Addr().WithZone("")
	return slices.DeleteFunc(all, func(l listener) bool {
		same := l.Addr().Is4() == ip.Is4() && (l.Addr() == ip || l.Addr().IsUnspecified() || ip.IsUnspecified())
		return own(l) || !same && !(both && l.Addr() == netip.IPv6Unspecified())
	})
}

// busy tries whether an IPv4 address is somebody's. It only binds, so that no connection comes, and
// nobody who wants to listen there meanwhile is in its way.
func busy(a netip.AddrPort) bool {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer syscall.Close(fd)
	syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) // as who listens does: old connections don't count
	err = syscall.Bind(fd, &syscall.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()})
	return errors.Is(err, syscall.EADDRINUSE)
}

// listener is a program that listens on TCP.
type listener struct {
	netip.AddrPort
	pid  int // 0: not ours to know
	name string
	unit string // systemd's, which listens for it; "": none
}

func (l listener) String() string {
	if l.unit != "" {
		return fmt.Sprintf("systemd's %s listens on %s", l.unit, l.AddrPort)
	}
	if l.pid == 0 {
		return fmt.Sprintf("somebody listens on %s (root sees who)", l.AddrPort)
	}
	return fmt.Sprintf("%s, pid %d, listens on %s", l.name, l.pid, l.AddrPort)
}

// listeners lists who listens on a port, from /proc.
func listeners(port uint16) (all []listener) {
	inodes := map[string]netip.AddrPort{}
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			words := strings.Fields(line)
			const listen = "0A"
			if len(words) < 10 || words[3] != listen {
				continue
			}
			if a, ok := procAddress(words[1]); ok && a.Port() == port {
				inodes["socket:["+words[9]+"]"] = a
			}
		}
	}
	if len(inodes) == 0 {
		return nil
	}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	seen := map[string]bool{}
	for _, fd := range fds {
		link, err := os.Readlink(fd)
		a, wanted := inodes[link]
		pid, _ := strconv.Atoi(strings.Split(fd, "/")[2])
		if key := link + strconv.Itoa(pid); err == nil && wanted && !seen[key] {
			seen[key], seen[link] = true, true
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			all = append(all, listener{AddrPort: a, pid: pid, name: strings.TrimSpace(string(name))})
		}
	}
	for link, a := range inodes {
		if !seen[link] {
			all = append(all, listener{AddrPort: a})
		}
	}
	return all
}

// socketUnits are systemd's, by what they listen on.
func socketUnits(ctx context.Context) map[netip.AddrPort]string {
	units := map[netip.AddrPort]string{}
	out, err := run(ctx, "systemctl", "list-sockets", "--no-legend", "--plain", "--full")
	if err != nil {
		return nil // no systemd runs here
	}
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		if a, err := netip.ParseAddrPort(words[0]); err == nil {
			units[netip.AddrPortFrom(a.Addr().WithZone(""), a.Port())] = words[1]
		}
	}
	return units
}

// procAddress reads "0100007F:2711": words of 32 bits, each in the machine's order,
// which is little-endian wherever we are built for.
func procAddress(text string) (netip.AddrPort, bool) {
	ip, port, _ := strings.Cut(text, ":")
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil || len(ip) != 8 && len(ip) != 32 {
		return netip.AddrPort{}, false
	}
	var b []byte
	for i := 0; i < len(ip); i += 8 {
		word, err := strconv.ParseUint(ip[i:i+8], 16, 32)
		if err != nil {
			return netip.AddrPort{}, false
		}
		b = append(b, byte(word), byte(word>>8), byte(word>>16), byte(word>>24))
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), true
}

// public finds public addresses that lead nowhere.
func (c *checkup) public() {
	if c.conf() == nil {
		return
	}
	own, told := ownAddresses(), 0
	for _, i := range c.conf().Interfaces {
		for _, p := range i.Public {
			told++
			a, err := netip.ParseAddrPort(p)
			mine := err == nil && slices.ContainsFunc(own, func(o ownAddress) bool { return o.Addr == a.Addr() })
			if mine && !slices.ContainsFunc(c.conf().Interfaces, func(i config.Interface) bool { return reaches(i.Bind, a) }) {
				c.add(severe, "public", "noipctl guide", "others are told %s, which is on this machine, but no interface listens there", p)
			}
		}
	}
	if told == 0 {
		c.add(mild, "public", "noipctl guide --public IP:PORT", "no interface has an address that others are told: no line, no invitation, no peer")
	}
}

// reached says what peers say of our addresses and of our clock. Where some reach us and
// some don't, it may be by their own networks.
func (c *checkup) reached() {
	do := "noipctl guide   # where the router forwards the port, others are told the router's address"
	if i := slices.IndexFunc(c.found, func(f finding) bool { return f.About == "firewall" }); i >= 0 {
		do = c.found[i].Type
	}
	good := map[string]bool{}
	for _, r := range c.reach {
		good[r.Address] = good[r.Address] || r.Silent == "" && r.Problem == ""
	}
	clocks := map[string]bool{}
	for _, r := range c.reach {
		if r.Silent != "" {
			continue
		}
		if r.Problem != "" {
			level := severe
			if good[r.Address] {
				level = mild
			}
			c.add(level, "public", do, "others are told %s, and %s doesn't reach this server there: %s", r.Address, r.Peer, r.Problem)
		}
		if off := time.Duration(r.ClockSeconds * float64(time.Second)).Round(time.Second); off.Abs() >= clockOff && !clocks[r.Peer] {
			clocks[r.Peer] = true
			way := "ahead of"
			if off < 0 {
				way = "behind"
			}
			c.add(mild, "clock", "timedatectl set-ntp true   # here and on "+r.Peer, "the clock of %s is %v %s ours", r.Peer, off.Abs(), way)
		}
	}
}

// clockOff is how far clocks may differ: what they show people would be odd beyond.
const clockOff = time.Minute

// reaches tells whether who listens on bind is found at an address of this machine.
func reaches(bind string, a netip.AddrPort) bool {
	b, err := netip.ParseAddrPort(bind)
	return err == nil && b.Port() == a.Port() && (b.Addr() == a.Addr() || b.Addr().IsUnspecified() && b.Addr().Is4() == a.Addr().Is4())
}

// ports are those that must be open for others.
func ports(interfaces []config.Interface) (all []uint16) {
	for _, i := range interfaces {
		a, err := netip.ParseAddrPort(i.Bind)
		if err == nil && i.Kind == "tcp" && !a.Addr().IsLoopback() && !slices.Contains(all, a.Port()) {
			all = append(all, a.Port())
		}
	}
	return all
}

func (c *checkup) firewall() {
	if c.conf() == nil {
		return
	}
	for _, f := range firewalls(c.ctx) {
		for _, port := range ports(c.conf().Interfaces) {
			if f.closed(port) {
				c.add(severe, "firewall", f.typed(port), "%s lets nobody in at port %d", f.name, port)
			}
		}
	}
}

func (c *checkup) clock() {
	now := time.Now()
	files := []string{c.path}
	if c.status != nil {
		files = append(files, filepath.Join(c.status.State, "key"), filepath.Join(c.status.State, "servers.json"))
	}
	for _, path := range files {
		if info, err := os.Stat(path); err == nil && info.ModTime().After(now.Add(5*time.Minute)) {
			c.add(severe, "clock", "timedatectl set-ntp true   # or: timedatectl set-time …\ntouch "+path+"   # if the clock is right now", "the clock was put back, or is wrong: it is %s, and %s was written at %s", when(now), path, when(info.ModTime()))
			return
		}
	}
	const unsynchronised = 5 // TIME_ERROR of adjtimex(2)
	if state, err := syscall.Adjtimex(new(syscall.Timex)); err == nil && state == unsynchronised {
		do := "timedatectl set-ntp true"
		if can, err := run(c.ctx, "timedatectl", "show", "-p", "CanNTP", "--value"); err == nil && can == "no" {
			do = "apt install systemd-timesyncd   # or chrony"
		}
		c.add(mild, "clock", do, "nobody keeps this machine's clock right")
	}
}

// What a disk should have left.
const (
	full        = 1 << 20   // bytes; the server sees it only when it writes much
	leastFree   = 512 << 20 // bytes
	leastInodes = 10_000
)

func (c *checkup) space() {
	if c.status == nil {
		return
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(c.status.State, &fs); err != nil {
		return
	}
	free, total := int64(fs.Bavail)*int64(fs.Bsize), int64(fs.Blocks)*int64(fs.Bsize)
	if c.status.Disk.Full || free < full {
		c.add(severe, "disk", "df -h "+c.status.State+"   # and make room there", "the disk is full: nothing is accepted for who is away")
		return
	}
	if free < leastFree || free < total/50 {
		c.add(mild, "disk", "df -h "+c.status.State+"   # and make room there", "the disk of %s is nearly full: %s of %s are free", c.status.State, cli.Size(free), cli.Size(total))
	}
	if fs.Files > 0 && fs.Ffree < leastInodes && fs.Ffree < fs.Files/20 {
		c.add(mild, "disk", "df -i "+c.status.State+"   # and remove files there that are not the server's", "the disk of %s has room for %d files only", c.status.State, fs.Ffree)
	}
}

// owners finds files that the service can't read, or that others can.
func (c *checkup) owners() {
	const repair = "systemd-tmpfiles --create noipchat.conf"
	service, err := user.Lookup("noipchat")
	if onSystemd(c.path) && err != nil {
		c.add(severe, "owner", "systemd-sysusers noipchat.conf", "there is no user noipchat, whom the service runs as")
	}
	if service != nil && onSystemd(c.path) {
		uid, gid := number(service.Uid), number(service.Gid)
		drops, _ := filepath.Glob(filepath.Join(filepath.Dir(c.path), "conf.d", "*.toml"))
		for _, path := range append([]string{filepath.Dir(c.path), c.path}, drops...) {
			info, err := os.Stat(path)
			if err != nil {
				continue
			}
			s, mode := info.Sys().(*syscall.Stat_t), info.Mode().Perm()
			readable := mode&0o004 != 0 || s.Gid == gid && mode&0o040 != 0 || s.Uid == uid && mode&0o400 != 0
			switch {
			case !readable:
				c.add(severe, "owner", repair, "the user noipchat may not read %s (%v, group %d)", path, info.Mode(), s.Gid)
			case s.Uid == uid || mode&0o022 != 0:
				c.add(severe, "owner", "chown root "+path+" && chmod go-w "+path, "%s can be written by others than root: who writes it may have commands run", path)
			}
		}
	}
	if c.status == nil {
		return
	}
	state, err := os.Stat(c.status.State)
	if err != nil {
		return
	}
	owner := state.Sys().(*syscall.Stat_t).Uid
	if state.Mode().Perm()&0o077 != 0 {
		c.add(severe, "owner", "chmod 700 "+c.status.State, "%s is open to others (%v): keys and messages are in it", c.status.State, state.Mode())
	}
	if service != nil && onSystemd(c.path) && owner != number(service.Uid) {
		c.add(severe, "owner", "chown -R noipchat: "+c.status.State, "%s is not the user noipchat's", c.status.State)
		return
	}
	names := []string{"key", "users", "invites.json", "servers.json", "homes.json", "spool"}
	for _, name := range names {
		path := filepath.Join(c.status.State, name)
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		if info.Sys().(*syscall.Stat_t).Uid != owner {
			c.add(severe, "owner", "chown -R --reference="+c.status.State+" "+path, "%s has another owner than the folder that it is in", path)
		} else if name == "key" && info.Mode().Perm()&0o077 != 0 {
			c.add(severe, "owner", "chmod 600 "+path, "others may read the private key %s (%v)", path, info.Mode())
		}
	}
}

func number(s string) uint32 {
	n, _ := strconv.ParseUint(s, 10, 32)
	return uint32(n)
}

// keys finds that a server, this one too, has another key than is known.
func (c *checkup) keys() {
	if c.status == nil {
		return
	}
	path := filepath.Join(c.status.State, "key")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(c.status.State); err == nil {
			c.add(severe, "key", "ls -l "+c.status.State+"   # put the key back from your backup before the next start", "%s is gone: at the next start this server would be another one", path)
		}
	} else if key, err := identity.LoadKey(path); err == nil && key.Public().String() != c.status.Key {
		c.add(severe, "key", "systemctl restart noipchat   # if the new key is meant; users and peers must be told", "%s is not the key that is in use: %s", path, key.Public().Fingerprint())
	}
	for _, p := range c.peers {
		if p.RefusedFingerprint != "" {
			do := "noipctl peer trust " + p.RefusedFingerprint + "   # when its admin has told you, by another way, that it is right"
			if p.Standing == "pinned" {
				do = "noipctl peer add LINE   # when its admin has given you its new line, by another way"
			}
			c.add(severe, "key", do+"\nnoipctl peer trust "+p.Fingerprint+"   # if it is not: the key that is known stays",
				"%s showed another key than the one that is known (%s), and was refused", p.Name, p.Fingerprint)
		}
	}
}

// names finds servers that share one, near or far.
func (c *checkup) names() {
	keys, waits := map[string][]string{}, map[string]bool{}
	note := func(name, fingerprint string) {
		if fingerprint != "" && !slices.Contains(keys[name], fingerprint) {
			keys[name] = append(keys[name], fingerprint)
		}
	}
	for _, p := range c.peers {
		note(p.Name, p.Fingerprint)
		waits[p.Name] = waits[p.Name] || p.Standing == "waiting"
	}
	for _, r := range c.routes {
		note(r.Server, r.Fingerprint)
	}
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		switch all := strings.Join(keys[name], ", "); {
		case len(keys[name]) > 1 && waits[name]:
			c.add(severe, "name", "noipctl peer trust "+keys[name][0]+"   # or the other one, if that is meant",
				"%d servers call themselves %s, and one of them needs another name: %s", len(keys[name]), name, all)
		case len(keys[name]) > 1:
			c.add(severe, "name", "noipctl route list   # whose key is not verified needs another name, or has a new key: ask its admin",
				"%d keys are known of %s: %s", len(keys[name]), name, all)
		case waits[name]:
			c.add(mild, "peer", "noipctl peer trust "+name+"   # compare "+all+" with its admin", "%s waits to be trusted", name)
		}
	}
}

// remedies are what to type where a peer refuses this server, by what it says: PEER is its name,
// and SELF this server's.
var remedies = []struct{ says, do string }{
	{"doesn't know this server", "noipctl peer line\nnoipctl peer add LINE   # on PEER, with that line\nnoipctl queue retry PEER"},
	{"another key of", "noipctl peer line\nnoipctl peer add LINE   # on PEER, with that line\nnoipctl queue retry PEER"},
	{"distrusts this server", "noipctl peer trust SELF   # on PEER\nnoipctl queue retry PEER"},
	{"has to trust this server first", "noipctl peer trust SELF   # on PEER\nnoipctl queue retry PEER"},
	{"under another name", "noipctl peer list   # on PEER: this server is there by another name, which is to be removed\nnoipctl queue retry PEER"},
	{"the server there is called", "noipctl peer remove PEER\nnoipctl peer add LINE   # with its right name, as noipctl peer line prints it there"},
	{"", "noipctl peer show PEER\nnoipctl queue retry PEER   # when that is mended"},
}

// links finds peers that can't be reached, and why. One that is never dialled is missed only
// when something waits for it.
func (c *checkup) links() {
	for _, p := range c.peers {
		switch {
		case p.State == control.Up || p.Error == "" || p.RefusedFingerprint != "" || len(p.Links) == 0 && p.Messages == 0:
		case strings.Contains(p.Error, "the server there is called "+c.status.Server+", not"):
			c.add(severe, "name", "noipctl guide   # on "+p.Name+": it needs another name\nnoipctl queue retry "+p.Name, "%s calls itself %s, as this server does", p.Name, c.status.Server)
		default:
			i := slices.IndexFunc(remedies, func(r struct{ says, do string }) bool { return strings.Contains(p.Error, r.says) })
			do := strings.NewReplacer("PEER", p.Name, "SELF", c.status.Server).Replace(remedies[i].do)
			c.add(mild, "peer", do, "%s is not connected, and %d messages wait for it: %s", p.Name, p.Messages, p.Error)
		}
		if p.Standing == "distrusted" && p.Origin != "" {
			c.add(mild, "peer", "noipctl peer trust "+p.Name+"   # or: noipctl peer remove "+p.Name, "%s is configured, and distrusted", p.Name)
		}
	}
}

// units finds what was done to the service's units.
func (c *checkup) units() {
	if !onSystemd(c.path) {
		return
	}
	for _, unit := range []string{"noipchat.socket", "noipchat.service"} {
		out, err := run(c.ctx, "systemctl", "show", "-p", "LoadState,UnitFileState,FragmentPath,DropInPaths,NeedDaemonReload", unit)
		if err != nil {
			continue
		}
		is := map[string]string{}
		for line := range strings.Lines(out) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			is[key] = value
		}
		switch {
		case is["LoadState"] == "masked":
			c.add(severe, "unit", "systemctl unmask "+unit+" && systemctl enable --now "+unit, "%s is masked, so nothing can start it", unit)
			continue
		case is["LoadState"] != "loaded":
			c.add(severe, "unit", "apt install --reinstall ./noipchat_*.deb   # or: rpm -U --replacepkgs noipchat-*.rpm", "%s is not there", unit)
			continue
		case is["UnitFileState"] != "enabled":
			c.add(mild, "unit", "systemctl enable "+unit, "%s is %s: it does not start at boot", unit, is["UnitFileState"])
		}
		if strings.HasPrefix(is["FragmentPath"], "/etc/") {
			c.add(mild, "unit", "systemctl revert "+unit+" && "+again+"   # systemd-delta shows it", "%s is overridden by %s: upgrades don't change it any more", unit, is["FragmentPath"])
		}
		for drop := range strings.FieldsSeq(is["DropInPaths"]) {
			if !strings.HasSuffix(drop, "/exec-links.conf") && strings.HasPrefix(drop, "/etc/") {
				c.add(mild, "unit", "systemctl revert "+unit+" && "+again+"   # if it is not meant: systemctl cat "+unit+" shows it", "%s is changed by %s", unit, drop)
			}
		}
		if is["NeedDaemonReload"] == "yes" {
			c.add(severe, "unit", "systemctl daemon-reload && systemctl restart noipchat", "%s was changed on disk, and systemd has the old one", unit)
		}
	}
	c.generated("/run/systemd/generator")
}

// generated compares the socket units of interfaces with the configuration.
func (c *checkup) generated(dir string) {
	if c.disk == nil {
		return
	}
	made := map[string]bool{}
	files, _ := filepath.Glob(filepath.Join(dir, "noipchat-*.socket"))
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		for s := bufio.NewScanner(f); s.Scan(); {
			if name, ok := strings.CutPrefix(s.Text(), "Description=NoIPChat server, interface "); ok {
				made[strings.ReplaceAll(name, "%%", "%")] = true
			}
		}
		f.Close()
	}
	var missing, left []string
	for _, i := range c.disk.Interfaces {
		if !made[i.String()] {
			missing = append(missing, i.String())
		}
		delete(made, i.String())
	}
	for name := range made {
		left = append(left, name)
	}
	slices.Sort(left)
	if len(missing)+len(left) > 0 {
		c.add(mild, "generator", "systemctl daemon-reload", "systemd's sockets are those of an older configuration: it lacks %d (%s) and has %d that are gone (%s)",
			len(missing), strings.Join(missing, ", "), len(left), strings.Join(left, ", "))
	}
}

// descriptors finds that the process may open fewer files than it needs.
func (c *checkup) descriptors() {
	if c.status == nil || c.live == nil {
		return
	}
	const besides = 200 // spool, journal, interfaces
	limits := c.live.Limits
	need := limits.Sessions + limits.Pending + besides
	may, ok := openFiles(c.status.PID)
	if !ok || may >= need {
		return
	}
	enough := max(need, 1<<20)
	do := fmt.Sprintf("systemctl edit noipchat   # [Service] LimitNOFILE=%d\nsystemctl restart noipchat", enough)
	fewer := fmt.Sprintf("editor %s   # fewer sessions: [limits] sessions = %d", c.path, max(1, may-limits.Pending-besides))
	if may <= limits.Pending+besides {
		fewer += ", and fewer pending"
	}
	if !onSystemd(c.path) {
		do = fewer + fmt.Sprintf("; or start the server again, as root after \"ulimit -n %d\", or in a container that has so many (--ulimit nofile=%[1]d)", enough)
	} else if most, ok := openFiles(1); ok && most < need {
		do = fewer + fmt.Sprintf("; or have this container started with a limit of %d open files: no unit can have more than its systemd, %d", enough, most)
	} else if asked, err := run(c.ctx, "systemctl", "show", "-p", "LimitNOFILE", "--value", "noipchat.service"); err == nil && (asked == "infinity" || int(number(asked)) >= need) {
		do = "systemctl restart noipchat   # it began with another limit than its unit has now"
	}
	c.add(mild, "descriptors", do, "the server may open %d files, and needs %d for the sessions that it allows", may, need)
}

// openFiles is how many files a process may open. The soft limit doesn't count: Go raises it to the
// hard one, and systemd sets both.
func openFiles(pid int) (n int, ok bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		rest, found := strings.CutPrefix(line, "Max open files")
		if words := strings.Fields(rest); found && len(words) >= 2 {
			n, err := strconv.Atoi(words[1])
			return n, err == nil
		}
	}
	return 0, false
}

func (c *checkup) notices() {
	if c.status == nil {
		return
	}
	for _, n := range c.status.Notices {
		if !strings.Contains(n, " showed another key ") && !strings.HasPrefix(n, "servers that wait") { // said better above
			c.add(mild, "notice", "noipctl log; noipctl handoff   # which forgets it, and disconnects nobody", "%s", n)
		}
	}
}
