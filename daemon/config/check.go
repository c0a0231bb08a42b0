package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/noipchat/noipchat/daemon/message"
)

// maxSocketPath is what Linux takes as the name of a Unix socket, in bytes.
const maxSocketPath = 107

// check judges what types and ranges can't, and fills in what follows from other
// keys. What had an error before is left alone.
func (l *loader) check() {
	c := &l.config
	top := place{l.main, 1}

	if at, ok := l.given("name"); ok {
		if err := message.CheckName(c.Name); err != nil {
			l.fail(at, "name", "", "%v", err)
		}
	} else if !l.wrong["name"] && !l.partial {
		l.fail(top, "name", `put name = "server1" before the first [table]`, "name is missing")
	}
	if at, ok := l.given("log"); ok && c.Log != "journal" && c.Log != "stderr" && !logFile(c.Log) {
		l.fail(at, "log", "", `log is %.80q, must be "journal", "stderr" or a file such as "%s/server.log"`, c.Log, logDir)
	}

	used := claims{}
	for i := range c.Interfaces {
		l.checkInterface(&c.Interfaces[i], index("interface", i), used)
	}
	if len(c.Interfaces) == 0 && !l.partial && !l.wrong["interface"] {
		l.fail(top, "interface", minimalFile, "an [[interface]] is missing: there must be at least one")
	}
	l.checkPeers()
	if at, ok := l.given("metrics.listen"); ok && c.Metrics.Listen != "" {
		l.listen(&c.Metrics.Listen, at, "metrics.listen", used)
	}

	if c.Spool.Quota > c.Spool.Total && !l.partial && !l.wrong["spool.quota"] && !l.wrong["spool.total"] {
		at, ok := l.given("spool.quota")
		if !ok {
			at, _ = l.given("spool.total")
		}
		l.fail(at, "spool.quota", "", "spool.quota (%v) is more than spool.total (%v)", c.Spool.Quota, c.Spool.Total)
	}
}

// given returns where a key was set, if it was and is good so far.
func (l *loader) given(key string) (place, bool) {
	at, ok := l.config.origin[key]
	return at, ok && !l.wrong[key]
}

func (l *loader) checkInterface(in *Interface, key string, used claims) {
	if _, set := l.config.origin[key+".kind"]; !set {
		in.Kind = "tcp"
	}
	bindKey, publicKey := key+".bind", key+".public"
	shared := false // bind is an address that means the same elsewhere
	if at, ok := l.given(bindKey); !ok {
		if !l.wrong[bindKey] {
			l.fail(l.config.origin[key], bindKey, "", "interface.bind is missing")
		}
	} else if in.Kind == "unix" {
		l.checkPath(in.Bind, at, bindKey, used)
	} else if in.Kind == "tcp" {
		addr, ok := l.listen(&in.Bind, at, bindKey, used)
		shared = ok && !addr.Addr().IsUnspecified() && addr.Addr().Zone() == ""
	}

	if _, set := l.config.origin[publicKey]; !set {
		in.Public = []string{}
		if shared {
			in.Public = append(in.Public, in.Bind)
		}
		return
	}
	for i := range in.Public {
		key := index(publicKey, i)
		at, ok := l.given(key)
		if !ok {
			continue
		}
		addr, ok := l.address(&in.Public[i], at, key)
		if ok && (addr.Addr().IsUnspecified() || addr.Addr().Zone() != "") {
			l.fail(at, key, "write the address that others connect to", "interface.public %v means something on this machine only", addr)
		}
	}
}

func (l *loader) checkPath(path string, at place, key string, used claims) {
	if l.socketPath(path, at, key) {
		l.claim(claim{path, at}, key, used, path)
	}
}

// socketPath checks the path of a Unix socket.
func (l *loader) socketPath(path string, at place, key string) bool {
	switch {
	case !cleanPath(path):
		l.fail(at, key, "", "%s is %.120q; for kind \"unix\" it must be an absolute path without . or ..", plain(key), path)
	case len(path) > maxSocketPath:
		l.fail(at, key, "", "%s is a path of %d bytes, must have at most %d", plain(key), len(path), maxSocketPath)
	default:
		return true
	}
	return false
}

// listen checks an address that we will listen on, and writes it canonically.
func (l *loader) listen(s *string, at place, key string, used claims) (netip.AddrPort, bool) {
	addr, ok := l.address(s, at, key)
	if !ok {
		return addr, false
	}
	whole := netip.AddrPortFrom(netip.IPv6Unspecified(), addr.Port()).String()
	if addr.Addr().Is4() {
		whole = netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port()).String()
	}
	some := "some of " + whole
	clashes := []string{*s, whole}
	if *s == whole {
		clashes = append(clashes, some)
	}
	l.claim(claim{*s, at}, key, used, clashes...)
	if _, taken := used[some]; !taken {
		used[some] = claim{*s, at}
	}
	return addr, true
}

// claims knows which addresses will be listened on. Beside the addresses
// themselves it has "some of 0.0.0.0:10001" for the first that overlaps with that.
type claims map[string]claim

type claim struct {
	address string
	at      place
}

// claim takes an address, unless one of those that it clashes with is taken.
func (l *loader) claim(c claim, key string, used claims, clashes ...string) {
	for _, clash := range clashes {
		other, taken := used[clash]
		if !taken {
			continue
		}
		what := fmt.Sprintf("is the same as at %s", other.at.seenFrom(c.at))
		if other.address != c.address {
			what = fmt.Sprintf("overlaps with %s at %s", other.address, other.at.seenFrom(c.at))
		}
		l.fail(c.at, key, "", "%s %s %s", plain(key), c.address, what)
		return
	}
	used[c.address] = c
}

// address checks an "ip:port" and writes it canonically.
func (l *loader) address(s *string, at place, key string) (netip.AddrPort, bool) {
	fail := func(what, hint string) (netip.AddrPort, bool) {
		l.fail(at, key, hint, "%s is %.80q: %s", plain(key), *s, what)
		return netip.AddrPort{}, false
	}
	host, port, err := net.SplitHostPort(*s)
	if err != nil {
		if _, err := netip.ParseAddr(strings.Trim(*s, "[]")); err == nil {
			return fail("a port is missing", "write 192.0.2.1:10001 or [2001:db8::1]:10001")
		}
		return fail("must be ip:port", "write 192.0.2.1:10001 or [2001:db8::1]:10001")
	}
	if host == "" {
		return fail("an IP address is missing", "for all addresses of this machine write 0.0.0.0 (IPv4) or [::] (IPv6)")
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return fail("must begin with an IP address", "host names can't be used: there is no DNS here")
	}
	if ip.IsMulticast() {
		return fail("multicast addresses can't be used", "")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return fail("the port must be from 1 to 65535", "")
	}
	addr := netip.AddrPortFrom(ip.Unmap(), uint16(n))
	*s = addr.String()
	return addr, true
}

// CheckLog tells why this process can't write the log that is asked for, as far as that can
// be told without making the file. Load doesn't ask: where a configuration is read, the log
// need not be.
func (c *Config) CheckLog() error {
	if !logFile(c.Log) {
		return nil
	}
	const write, enter = 2, 1 // as in access(2)
	info, err := os.Stat(c.Log)
	switch {
	case err == nil && !info.Mode().IsRegular():
		err = errors.New("it is no file")
	case err == nil:
		err = syscall.Access(c.Log, write)
	case errors.Is(err, os.ErrNotExist):
		folder := filepath.Dir(c.Log)
		if err = syscall.Access(folder, write|enter); err != nil {
			err = fmt.Errorf("its folder: %w", err)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: log %s can't be written: %w", c.Origin("log"), c.Log, err)
	}
	return nil
}

func logFile(path string) bool { return cleanPath(path) && strings.HasPrefix(path, logDir+"/") }

// cleanPath tells if a path is absolute, has one spelling and nothing that a
// terminal would act on.
func cleanPath(path string) bool {
	return filepath.IsAbs(path) && filepath.Clean(path) == path && !strings.ContainsFunc(path, control)
}

func control(r rune) bool { return r < ' ' || r == 0x7f }
