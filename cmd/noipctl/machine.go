package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// ownAddress is an address of this machine that others may use.
type ownAddress struct {
	netip.Addr
	device string
}

// ownAddresses lists them, those of the Internet first.
func ownAddresses() (all []ownAddress) {
	devices, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for _, d := range devices {
		addresses, err := d.Addrs()
		if err != nil || d.Flags&net.FlagUp == 0 {
			continue
		}
		for _, a := range addresses {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap().IsGlobalUnicast() {
				all = append(all, ownAddress{p.Addr().Unmap(), d.Name})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b ownAddress) int { return rank(a.Addr) - rank(b.Addr) })
	return all
}

func rank(a netip.Addr) int {
	if private(a) {
		return 1
	}
	return 0
}

var shared = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598: behind a provider's NAT

// private tells whether an address means nothing on the Internet.
func private(a netip.Addr) bool { return a.IsPrivate() || shared.Contains(a) || a.IsLoopback() }

// run runs a program for a short time, and returns what it prints.
func run(ctx context.Context, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, text)
	}
	return text, err
}

// onSystemd tells whether this machine runs systemd, and path is the configuration
// that its units have.
func onSystemd(path string) bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil && path == defaultConfig
}

// firewall is one that filters here.
type firewall struct {
	name   string
	open   [][]string // commands that let a port in; %d is the port
	lasts  string     // what else has to be done so that it lasts; "": nothing
	closed func(port uint16) bool
}

// firewalls lists those that are at work; only root sees them.
func firewalls(ctx context.Context) (all []firewall) {
	if out, err := run(ctx, "ufw", "status"); err == nil && strings.Contains(out, "Status: active") {
		all = append(all, firewall{"ufw", [][]string{{"ufw", "allow", "%d/tcp"}}, "", func(port uint16) bool {
			return !regexp.MustCompile(fmt.Sprintf(`(?m)^(%d(/tcp)?|NoIPChat) .*ALLOW`, port)).MatchString(out)
		}})
		return all // its rules are in nftables too
	}
	if out, err := run(ctx, "firewall-cmd", "--state"); err == nil && out == "running" {
		open := [][]string{{"firewall-cmd", "--permanent", "--add-port=%d/tcp"}, {"firewall-cmd", "--reload"}}
		all = append(all, firewall{"firewalld", open, "", func(port uint16) bool {
			_, byPort := run(ctx, "firewall-cmd", fmt.Sprintf("--query-port=%d/tcp", port))
			_, byService := run(ctx, "firewall-cmd", "--query-service=noipchat")
			return byPort != nil && byService != nil
		}})
		return all
	}
	if out, err := run(ctx, "nft", "list", "ruleset"); err == nil {
		if table, chain, found := closedChain(out); found {
			open := [][]string{append(append([]string{"nft", "insert", "rule"}, table...), chain, "tcp", "dport", "%d", "accept")}
			all = append(all, firewall{"nftables", open, "put that rule into /etc/nftables.conf too, or it is gone after a boot",
				func(port uint16) bool { return !nftAccepts(out, port) }})
		}
	}
	return all
}

// commands are those that open a port.
func (f firewall) commands(port uint16) (all [][]string) {
	for _, argv := range f.open {
		argv = slices.Clone(argv)
		for i := range argv {
			argv[i] = strings.ReplaceAll(argv[i], "%d", fmt.Sprint(port))
		}
		all = append(all, argv)
	}
	return all
}

// closedChain finds, in nft's rules, the chain that drops what comes in and isn't
// accepted.
func closedChain(rules string) (table []string, chain string, found bool) {
	for line := range strings.Lines(rules) {
		words := strings.Fields(line)
		switch {
		case len(words) == 4 && words[0] == "table":
			table = words[1:3]
		case len(words) == 3 && words[0] == "chain":
			chain = words[1]
		case strings.Contains(line, "hook input") && strings.Contains(line, "policy drop"):
			return table, chain, true
		}
	}
	return nil, "", false
}

var nftRule = regexp.MustCompile(`tcp dport (\{[^}]*\}|\S+).*accept`)

// nftAccepts tells whether a rule lets a port in. Rules that say it in other ways are not
// understood.
func nftAccepts(rules string, port uint16) bool {
	for _, m := range nftRule.FindAllStringSubmatch(rules, -1) {
		for word := range strings.FieldsFuncSeq(m[1], func(r rune) bool { return strings.ContainsRune("{}, ", r) }) {
			var low, high uint16
			if n, _ := fmt.Sscanf(word, "%d-%d", &low, &high); n == 1 {
				high = low
			}
			if low <= port && port <= high {
				return true
			}
		}
	}
	return false
}

// letIn opens a port.
func (f firewall) letIn(ctx context.Context, port uint16) error {
	for _, argv := range f.commands(port) {
		if _, err := run(ctx, argv...); err != nil {
			return err
		}
	}
	return nil
}

// typed is what somebody types to open a port.
func (f firewall) typed(port uint16) string {
	var all []string
	for _, argv := range f.commands(port) {
		all = append(all, strings.Join(argv, " "))
	}
	text := strings.Join(all, " && ")
	if f.lasts != "" {
		text += "   # " + f.lasts
	}
	return text
}
