package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/config"
)

// generatorName is what systemd calls this program by when it wants units: see
// systemd.generator(7).
const generatorName = "noipchat-generator"

// generator is the program under that name: its first argument is the folder for units.
func generator(args []string) error {
	if len(args) != 3 {
		return cli.Misuse("systemd runs it: systemctl daemon-reload", "%s takes three folders", generatorName)
	}
	return generate("/etc/noipchat/noipchat.toml", args[0])
}

// generate writes a socket unit for each interface of a configuration, as a wish of
// noipchat.socket. No configuration is none to generate for; a bad one is left to
// the daemon's own words.
func generate(path, dir string) error {
	c, err := config.Load(path)
	if err != nil {
		if _, missing := os.Stat(path); errors.Is(missing, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	wants := filepath.Join(dir, "noipchat.socket.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	written := map[string]bool{}
	for _, i := range c.Interfaces {
		name := unitName(i)
		for written[name] {
			name = strings.TrimSuffix(name, ".socket") + "_.socket"
		}
		written[name] = true
		if err := os.WriteFile(filepath.Join(dir, name), []byte(socketUnit(path, i)), 0o644); err != nil {
			return err
		}
		if err := os.Symlink("../"+name, filepath.Join(wants, name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

var notInUnitNames = regexp.MustCompile(`[^0-9A-Za-z:_.]+`)

func unitName(i config.Interface) string {
	return "noipchat-" + i.Kind + "-" + strings.Trim(notInUnitNames.ReplaceAllString(i.Bind, "_"), "_") + ".socket"
}

// socketUnit is the text of a unit. Texts of the configuration are quoted there by
// doubling %, which is a specifier in units.
func socketUnit(path string, i config.Interface) string {
	options := "# Only one family: the other one's unit has its own.\nBindIPv6Only=ipv6-only\n" +
		"# An address that comes later takes none of the others down.\nFreeBind=yes\n"
	if i.Kind == "unix" {
		options = "SocketUser=noipchat\n# Who may log in is decided by the server, as everywhere.\nSocketMode=0666\n"
	}
	return fmt.Sprintf(`# Made by %s from %s; systemctl daemon-reload makes it again.
[Unit]
Description=NoIPChat server, interface %s
Documentation=man:noipchat.toml(5)
SourcePath=%s
PartOf=noipchat.socket

[Socket]
ListenStream=%s
Service=noipchat.service
Backlog=4096
%s`, generatorName, path, escape(i.String()), path, escape(listenStream(i)), options)
}

func escape(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// listenStream spells an address as systemd.socket(5) wants it: [x]:y%z for one with
// a zone.
func listenStream(i config.Interface) string {
	a, err := netip.ParseAddrPort(i.Bind)
	if err != nil || a.Addr().Zone() == "" {
		return i.Bind
	}
	return netip.AddrPortFrom(a.Addr().WithZone(""), a.Port()).String() + "%" + a.Addr().Zone()
}
