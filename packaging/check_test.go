package packaging_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// patient is a host with a server from its package, to be made ill.
type patient struct {
	*host
	server string
	other  *patient // its peer; nil: it has none yet
	seen   *findings
}

// finding is what noipctl check --json prints of one.
type finding struct{ Level, About, What, Type string }

// findings are all that hosts have had.
type findings struct {
	mu  sync.Mutex
	all []finding
}

// illness is something that goes wrong, and what somebody does about it who asks check.
type illness struct {
	about, what string   // the finding
	there       string   // what happens at the peer
	cause       string   // and then here
	check       string   // another command than noipctl check --json
	before      string   // what is done here before that is typed which check says
	then        string   // and at the peer
	answers     []string // what a person types instead of parts of that: old, new, …
}

// unsynchronised is true or not of the machine that all hosts share.
const unsynchronised = "nobody keeps this machine's clock right"

// check returns what is wrong there.
func (p *patient) check(command string) (all []finding) {
	p.t.Helper()
	out, _ := p.try(cmp.Or(command, "noipctl check --json"))
	for line := range strings.Lines(out) {
		var f finding
		if json.Unmarshal([]byte(line), &f) == nil && (f.What != unsynchronised || command != "") {
			all = append(all, f)
		}
	}
	p.seen.mu.Lock()
	defer p.seen.mu.Unlock()
	p.seen.all = append(p.seen.all, all...)
	return all
}

// patience is what the effect of something may take: hosts are slow that share a machine.
const patience = 3 * time.Minute

// ill provokes a finding, types what it says, and sees it go. What that brings to light
// is typed too, until nothing is wrong.
func (p *patient) ill(i illness) {
	p.t.Helper()
	if i.there != "" {
		p.other.sh(i.there)
	}
	p.sh(i.cause)
	var all []finding
	told := -1
	for end := time.Now().Add(patience); told < 0; {
		all = p.check(i.check)
		for n, f := range all {
			if f.About == i.about && strings.Contains(f.What, i.what) && f.Type != "" {
				told = n
			}
		}
		if told < 0 && time.Now().After(end) {
			p.t.Fatalf("after %s\ncheck doesn't tell of %s: %s\n%q\njournal:\n%s", i.cause, i.about, i.what, all, p.journal())
		}
	}
	f := all[told]
	for n := 0; n < len(i.answers); n += 2 {
		if !strings.Contains(f.Type, i.answers[n]) {
			p.t.Errorf("%q says to type %q, without %s", f.What, f.Type, i.answers[n])
		}
	}
	if i.before != "" {
		p.sh(i.before)
	}
	if i.then != "" {
		p.other.sh(i.then)
	}
	log := p.types(f, i.answers)
	typed := map[finding]bool{f: true}
	for end := time.Now().Add(patience); ; {
		all = p.check("")
		if len(all) == 0 {
			return
		}
		for _, f := range all {
			if !typed[f] {
				typed[f] = true
				log += p.types(f, nil)
				break
			}
		}
		if time.Now().After(end) {
			p.t.Fatalf("after %s\ncheck still tells of %q\nThis was typed: %s\njournal:\n%s", i.cause, all, log, p.journal())
		}
	}
}

// well fails unless nothing is wrong, soon.
func (p *patient) well() {
	p.t.Helper()
	var all []finding
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if all = p.check(""); len(all) == 0 {
			return
		}
	}
	p.t.Fatalf("of a healthy server check says %q", all)
}

var elsewhere = regexp.MustCompile(`# on (server\d+)`)

// types does what a finding says to type, line by line, each where it is to be typed, and
// returns what came of it.
func (p *patient) types(f finding, answers []string) (log string) {
	p.t.Helper()
	for line := range strings.Lines(f.Type) {
		at := p
		if m := elsewhere.FindStringSubmatch(line); m != nil && p.other != nil && m[1] == p.other.server {
			at = p.other
		}
		line = strings.NewReplacer(answers...).Replace(strings.TrimSpace(line))
		if before, after, found := strings.Cut(line, "LINE"); found {
			line = before + at.other.line() + " --idle 0s" + after
		}
		out, err := at.try(line)
		log += fmt.Sprintf("\n%s $ %s\n%s %v", at.server, line, out, err)
	}
	return log
}

// TestCheck provokes on real systemds, with what the package installs, all that check finds;
// then what it says is typed, and nothing is wrong any more.
func TestCheck(t *testing.T) {
	t.Parallel()
	seen := new(findings)
	patients := []*patient{{server: "server1", seen: seen}, {server: "server2", seen: seen}}
	for i, suite := range []string{"bookworm", "trixie"} {
		patients[i].host = reserve(t, "c"+suite[:1])
	}
	files := []string{deb(t, 1, "noipchat"), deb(t, 1, "noipchat-client")}
	t.Run("alone", func(t *testing.T) {
		for i, suite := range []string{"bookworm", "trixie"} {
			t.Run(suite, func(t *testing.T) {
				t.Parallel()
				p := *patients[i]
				p.host = p.on(t)
				p.tool("up", p.name, "--suite", suite, "--with", tools)
				p.tool("push", p.name, files[0], files[1], "/root/")
				p.sh(install + "/root/*.deb")
				p.alone()
			})
		}
	})
	if t.Failed() {
		return
	}
	patients[0].other, patients[1].other = patients[1], patients[0]
	for _, p := range patients {
		t.Run(p.server, p.federated)
	}
	if !t.Failed() {
		seen.complete(t)
	}
}

// tools are what hosts have that are looked at, beside the least; open has them let in
// everybody, and check not ask them, because they are slow; few is for hosts that may open few files.
const (
	tools = "tmux,ufw,firewalld,nftables,strace"
	open  = "systemctl -q disable --now firewalld ufw 2>/dev/null; nft flush ruleset; chmod -x /usr/sbin/ufw /usr/bin/firewall-cmd\n"
	few   = "printf '[limits]\\nsessions = 1000\\n' >/etc/noipchat/conf.d/limits.toml\n"
)

// alone is what can be wrong with one server.
func (p *patient) alone() {
	const (
		all   = "systemctl daemon-reload; systemctl start noipchat.socket noipchat.service; noipctl status >/dev/null; "
		toml  = "/etc/noipchat/noipchat.toml"
		drop  = "mkdir -p /etc/systemd/system/noipchat.service.d; printf '[Service]\\n%s\\n' >/etc/systemd/system/noipchat.service.d/override.conf; systemctl daemon-reload; "
		taken = "systemd-run -q --unit=taker systemd-socket-activate -l 127.0.0.1:10007 /bin/cat; until ss -ltn | grep -q 127.0.0.1:10007; do sleep 0.1; done; "
		state = "/var/lib/noipchat"
	)
	address := p.address(4, 0) + ":10001"
	guide := "noipctl guide --yes --public " + address
	p.sh(open + few + "ln -s /usr/bin/env /usr/local/bin/sudo; printf '#!/bin/sh\\nsed -i s/^nmae/name/ \"$1\"\\n' >/usr/local/bin/editor; chmod +x /usr/local/bin/editor\n" +
		guide + " --name " + p.server)
	p.well()
	for _, i := range []illness{
		{about: "running", what: "not allowed to open /run/noipchat/control.sock", check: "setpriv --reuid=nobody --regid=nogroup --clear-groups noipctl check --json"},
		{about: "running", what: "the server does not run", cause: stop},
		{about: "configuration", what: "there is no configuration", cause: stop + "rm " + toml, answers: []string{"noipctl guide", guide + " --name " + p.server}},
		{about: "configuration", what: "unknown key nmae", cause: "sed -i s/^name/nmae/ " + toml},
		{about: "reload", what: "the last reload was refused", cause: "sed -i s/^name/nmae/ " + toml + "; noipctl reload || true", before: "sed -i s/^nmae/name/ " + toml},

		{about: "unit", what: "noipchat.service is masked", cause: stop + "systemctl -q mask noipchat.service"},
		{about: "reload", what: "changes that are not live", // nobody is told that something was mounted
			cause: "cp -p " + toml + " /root/other.toml; sed -i '1i max_hops = 7' /root/other.toml; mount --bind /root/other.toml " + toml},
		{about: "unit", what: "noipchat.socket is not there", cause: "rm /usr/lib/systemd/system/noipchat.socket; systemctl daemon-reload", answers: []string{"./noipchat_*.deb", "/root/noipchat_*.deb"}},
		{about: "unit", what: "noipchat.socket is disabled", cause: "systemctl -q disable noipchat.socket"},
		{about: "unit", what: "is overridden by /etc/systemd/system/noipchat.service", cause: "cp /usr/lib/systemd/system/noipchat.service /etc/systemd/system/; systemctl daemon-reload"},
		{about: "unit", what: "override.conf", cause: fmt.Sprintf(drop, "Nice=1")},
		{about: "unit", what: "systemd has the old one", cause: fmt.Sprintf(drop, "Nice=1") + "touch -d '+1 min' /etc/systemd/system/noipchat.service.d/override.conf"},
		{about: "descriptors", what: "may open 2000 files", cause: fmt.Sprintf(drop, "LimitNOFILE=2000") + "systemctl restart noipchat; printf '#!/bin/sh\\nsed -i s/2000/1048576/ \"$@\"\\n' >/root/edit; chmod +x /root/edit",
			answers: []string{"systemctl edit noipchat", "SYSTEMD_EDITOR=/root/edit script -qec 'systemctl edit noipchat' /dev/null"}},
		{about: "generator", what: "lacks 1 (tcp 127.0.0.1:10005)", cause: "umount " + toml + "; printf '\\n[[interface]]\\nbind = \"127.0.0.1:10005\"\\n' >>" + toml + "; noipctl reload"},

		{about: "owner", what: "there is no user noipchat", cause: stop + "userdel noipchat"},
		{about: "owner", what: "may not read " + toml, cause: "chmod 600 " + toml},
		{about: "owner", what: "can be written by others", cause: "chmod 666 " + toml},
		{about: "owner", what: "is open to others", cause: "chmod 755 " + state},
		{about: "owner", what: "is not the user noipchat's", cause: "chown root " + state},
		{about: "owner", what: "has another owner", cause: "chown root " + state + "/users"},
		{about: "owner", what: "others may read the private key", cause: "chmod 644 " + state + "/key"},
		{about: "key", what: "key is gone", cause: "mv " + state + "/key /root/", before: "mv /root/key " + state},
		{about: "key", what: "is not the key that is in use", cause: otherKey},
		{about: "clock", what: "was put back", cause: "touch -d '+3 days' " + state + "/key"},
		{about: "clock", what: unsynchronised, check: "strace -f -qq -o /dev/null -e inject=adjtimex:retval=5 noipctl check --json"},

		{about: "port", what: "port 10007 is taken: systemd-socket-, pid ", cause: taken + "printf '\\n[[interface]]\\nbind = \"127.0.0.1:10007\"\\n' >>" + toml + "; noipctl reload || true", before: "systemctl stop taker"},
		{about: "port", what: "port 10001 is taken: python3, pid ", cause: stop + "systemd-run -q --unit=taker python3 -m http.server --bind :: 10001; until ss -ltn | grep -q '\\*:10001'; do sleep 0.1; done", before: "systemctl stop taker"},
		{about: "port", what: "port 10007 is taken: systemd's taker.socket listens on [::]:10007",
			cause: stop + "printf '[Socket]\\nListenStream=10007\\nAccept=yes\\n[Install]\\nWantedBy=sockets.target\\n' >/etc/systemd/system/taker.socket; printf '[Service]\\nExecStart=/bin/cat\\n' >/etc/systemd/system/taker@.service; systemctl daemon-reload; systemctl -q enable --now taker.socket; " + all},
		{about: "interface", what: "127.0.0.1:10007 is not open", cause: stop + taken + all + "systemctl stop taker"},
		{about: "address", what: "10.99.99.9:10001 is no address of this machine", cause: "noipctl guide --yes --no-start --listen 10.99.99.9:10001", answers: []string{"noipctl guide", guide + " --listen 0.0.0.0:10001"}},
		{about: "public", what: "which is on this machine, but no interface listens there", cause: strings.Replace(guide, ":10001", ":4", 1), answers: []string{"noipctl guide", guide}},
		{about: "public", what: "no interface has an address that others are told", cause: "sed -i 's/^public.*/public = []/' " + toml + "; noipctl reload",
			answers: []string{"noipctl guide", "noipctl guide --yes", "IP:PORT", address}},
		{about: "notice", what: "moved to", cause: stop + "f=" + state + "/spool/journal/1; echo no journal >$f; chown noipchat $f; " + all},

		{about: "firewall", what: "ufw lets nobody in at port 10001", cause: "chmod +x /usr/sbin/ufw; ufw --force enable"},
		{about: "firewall", what: "firewalld lets nobody in at port 10001", cause: "ufw --force disable; chmod -x /usr/sbin/ufw; chmod +x /usr/bin/firewall-cmd; systemctl start firewalld"},
		{about: "firewall", what: "nftables lets nobody in at port 10001", cause: "systemctl stop firewalld; chmod -x /usr/bin/firewall-cmd; nft flush ruleset; " + dropped},
	} {
		p.ill(i)
	}

	// More files than the systemd of this container may open, so that no unit can.
	if most, _ := strconv.Atoi(p.sh("awk '/^Max open files/ { print $5 }' /proc/1/limits")); most < 1_000_000 {
		p.ill(illness{about: "descriptors", what: "needs 2000200 for", cause: "printf '[limits]\nsessions = 1000000\npending = 1000000\n' >/etc/noipchat/conf.d/limits.toml; noipctl reload",
			answers: []string{"editor " + toml, strings.TrimSpace(few) + "; noipctl reload", "no unit can have more than its systemd, " + strconv.Itoa(most), "too few"}})
	}

	// A disk of its own, which is small, or has room for few files, or is full.
	const size = "mount -o remount,size=%s " + state
	large := fmt.Sprintf(size, "600M")
	p.sh("nft flush ruleset; " + stop + "mv " + state + " /root/state; mkdir " + state + "; mount -t tmpfs -o size=600M,nr_inodes=4000,mode=700 tmpfs " + state + "; cp -a /root/state/. " + state + "; chown noipchat: " + state + "; " + all)
	for _, i := range []illness{
		{about: "disk", what: "is nearly full", cause: fmt.Sprintf(size, "100M"), before: large},
		{about: "disk", what: "has room for", cause: "mkdir " + state + "/junk; cd " + state + "/junk; touch $(seq 3850)", before: "rm -r " + state + "/junk"},
		{about: "disk", what: "the disk is full", cause: fmt.Sprintf(size, "$(df --output=used -k "+state+" | tail -1 | tr -d ' ')k"), before: large},
	} {
		p.ill(i)
	}
	p.sh(stop + "cp -a " + state + "/. /root/state; umount " + state + "; rmdir " + state + "; mv /root/state " + state + "; " + all)
}

const (
	// otherKey puts the key of another server into the place of this one's.
	otherKey = `mkdir -p /root/another && printf 'name = "x"\nlog = "stderr"\n[[interface]]\nbind = "127.0.0.1:10099"\n' >/root/another/c.toml
systemd-run -q --unit=another -p Type=notify noipchatd --config /root/another/c.toml --state /root/another/state --runtime /root/another/run
systemctl stop another && cat /root/another/state/key >/var/lib/noipchat/key && rm -r /root/another`
	// dropped lets nobody in who has no connection yet.
	dropped = "nft add table inet filter; nft add chain inet filter input '{ type filter hook input priority 0; policy drop; }'; nft add rule inet filter input iif lo accept; nft add rule inet filter input ct state established accept"
)

// federated is what can be wrong between servers.
func (p *patient) federated(t *testing.T) {
	q, o := *p, *p.other
	q.host, o.host = p.on(t), o.on(t)
	p = &q
	p.other, o.other = &o, p
	address, there := p.address(4, 0)+":10001", o.address(4, 0)
	const conf = "/etc/noipchat/conf.d/"
	sixth := "server6" + p.server // the other direction has distrusted it
	if !strings.Contains(p.sh("noipctl peer list"), o.server) {
		join(p.host, o.host, " --idle 0s")
	}
	// others runs a server beside the peer, with another name, which dials the patient.
	others := func(unit, name, port, more string) string {
		return fmt.Sprintf(`mkdir -p /srv/%[1]s; cat >/srv/%[1]s/c.toml <<'END'
name = "%[2]s"
log = "stderr"
[[interface]]
bind = "0.0.0.0:%[3]s"
public = ["%[4]s:%[3]s"]
%[5]s
END
systemd-run -q --unit=%[1]s -p Type=notify noipchatd --config /srv/%[1]s/c.toml --state /srv/%[1]s/state --runtime /srv/%[1]s/run
`, unit, name, port, there, more)
	}
	dials := func(name, address string) string {
		return fmt.Sprintf("[[peer]]\nname = %q\n[[peer.link]]\nremote = %q\ntimeout = \"0s\"\n", name, address)
	}
	const enact = "systemd-tmpfiles --create noipchat.conf; noipctl reload"
	for _, i := range []illness{
		{about: "peer", what: o.server + " is not connected", there: "systemctl stop noipchat.socket noipchat.service", then: "systemctl start noipchat.socket noipchat.service; noipctl status"},
		{about: "peer", what: o.server + " doesn't know this server", there: "noipctl peer remove " + p.server},
		{about: "peer", what: o.server + " distrusts this server", there: "noipctl peer distrust " + p.server},
		{about: "peer", what: o.server + " is configured, and distrusted", cause: "noipctl peer distrust " + o.server},
		{about: "peer", what: o.server + " knows this key under another name",
			there: "printf '[[peer]]\\nname = \"older\"\\nkey = \"%s\"\\n' $(noipctl peer show " + p.server + " --json | grep -o 'noip1[a-z2-7]*' | head -1) >" + conf + "older.toml; noipctl peer remove " + p.server + "; " + enact,
			then:  "rm " + conf + "older.toml; noipctl peer add " + p.line() + " --idle 0s"},
		{about: "key", what: o.server + " showed another key", there: otherKey + "; systemctl restart noipchat", answers: []string{"noipctl peer trust", "# noipctl peer trust"}},
		{about: "peer", what: "another key of " + p.server + " is known here", cause: otherKey + "; systemctl restart noipchat"},
		{about: "public", what: o.server + " doesn't reach this server there: no answer", cause: dropped},
		{about: "public", what: o.server + " doesn't reach this server there: connection refused", cause: "noipctl guide --yes --public " + there + ":10077",
			answers: []string{"noipctl guide", "noipctl guide --yes --public " + address}},
		{about: "clock", what: "the clock of " + o.server + " is 2h0m0s ahead of ours", there: o.late(), then: "mv /usr/lib/noipchat/right /usr/lib/noipchat/noipchatd; noipctl handoff"},

		{about: "peer", what: "the server there is called server4, not server8", there: others("called", "server4", "10008", "[federation]\nunknown = \"accept\""),
			cause: "noipctl peer add 'noipchat://server8@" + there + ":10008/'; noipctl queue retry server8", answers: []string{"LINE", "'noipchat://server4@" + there + ":10008/'"}},
		{about: "name", what: "2 servers call themselves server3", there: others("twin1", "server3", "10003", dials(p.server, address)) + others("twin2", "server3", "10004", dials(p.server, address)),
			cause: "printf '[federation]\nunknown = \"ask\"\n' >" + conf + "ask.toml; " + enact, then: "systemctl stop twin1 twin2"},
		{about: "peer", what: "server5 waits to be trusted", there: others("fifth", "server5", "10005", dials(p.server, address))},
		{about: "name", what: "server9 calls itself " + p.server + ", as this server does", there: others("namesake", p.server, "10009", ""),
			cause: "cat >" + conf + "server9.toml <<'END'\n" + dials("server9", there+":10009") + "END\n" + enact,
			then:  "systemctl stop namesake; " + others("namesake", "server9", "10009", "[federation]\nunknown = \"accept\""), answers: []string{"noipctl guide", "# noipctl guide"}},
		{about: "name", what: "2 keys are known of " + sixth, there: "printf '[federation]\nunknown = \"accept\"\n' >" + conf + "accept.toml; " + enact + "\n" + others("sixth", sixth, "10006", dials(o.server, "127.0.0.1:10001")),
			cause:  "printf '[[peer]]\nname = \"" + sixth + "\"\nkey = \"%s\"\n' $(noipctl peer show server5 --json | grep -o 'noip1[a-z2-7]*' | head -1) >" + conf + "sixth.toml; " + enact,
			before: "rm " + conf + "sixth.toml; noipctl reload"},
		{about: "peer", what: "an admin of " + o.server + " has to trust this server first", there: "printf '[federation]\\nunknown = \"ask\"\\n' >" + conf + "accept.toml; " + enact + "; noipctl peer remove " + p.server},
	} {
		p.ill(i)
	}
	// As it was.
	o.sh("systemctl stop called fifth namesake sixth; rm -rf /srv/* " + conf + "accept.toml; noipctl reload; noipctl peer distrust " + sixth + "; noipctl peer add " + p.line() + " --idle 0s")
	p.sh("nft flush ruleset; noipctl peer remove server4; rm -f " + conf + "ask.toml " + conf + "server9.toml; noipctl reload; for s in server3 server4 server5; do noipctl peer distrust $s; done")
	p.well()
	o.well()
}

// late has the script that puts a noipchatd in the place of the right one which believes that
// it is two hours later, as on a machine whose clock is ahead: the hosts of a lab share one, and the clock isn't theirs to set.
func (p *patient) late() string {
	t := p.t
	t.Helper()
	const file = "daemon/peer/reach.go"
	text := read(t, "../"+file)
	changed := strings.Replace(text, "now := time.Now()", "now := time.Now().Add(2 * time.Hour)", 1)
	if changed == text {
		t.Fatal(file + " tells the time in another way")
	}
	dir := t.TempDir()
	path, err := filepath.Abs("../" + file)
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: filepath.Join(dir, "reach.go")}})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"reach.go": changed, "overlay.json": string(overlay)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-trimpath", "-overlay", filepath.Join(dir, "overlay.json"), "-o", filepath.Join(dir, "late"), "../cmd/noipchatd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	p.tool("push", p.name, filepath.Join(dir, "late"), "/usr/lib/noipchat/")
	return "cd /usr/lib/noipchat; cp -p noipchatd right; mv late noipchatd; noipctl handoff"
}

// complete fails if check has a finding that no host has had.
func (s *findings) complete(t *testing.T) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../cmd/noipctl/checks.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	ast.Inspect(file, func(node ast.Node) bool {
		call, ok := node.(*ast.CallExpr)
		if !ok || len(call.Args) < 4 {
			return true
		}
		if f, ok := call.Fun.(*ast.SelectorExpr); !ok || f.Sel.Name != "add" {
			return true
		}
		n++
		about, format := literal(t, call.Args[1]), literal(t, call.Args[3])
		like := regexp.MustCompile("(?s)^" + regexp.MustCompile(`%[a-z]`).ReplaceAllLiteralString(regexp.QuoteMeta(format), ".*") + "$")
		for _, f := range s.all {
			if f.About == about && like.MatchString(f.What) {
				return true
			}
		}
		t.Errorf("no host had this: %s: %s", about, format)
		return true
	})
	t.Logf("%d findings", n)
	if n < 30 {
		t.Errorf("checks.go has %d findings only", n)
	}
}

func literal(t *testing.T, e ast.Expr) string {
	t.Helper()
	l, ok := e.(*ast.BasicLit)
	if !ok {
		t.Fatalf("%#v is no literal", e)
	}
	s, err := strconv.Unquote(l.Value)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
