package packaging_test

import (
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestTwoServers joins two fresh hosts, one of them behind NAT, by nothing but the guide and
// each other's line; then their users talk.
func TestTwoServers(t *testing.T) {
	t.Parallel()
	open := up(t, "o", "bookworm")
	const net = "behind" // it outlives the test: the tool takes networks down with all hosts only
	exec.Command(open.lab, "net", "add", net, "--nat", "lan").Run()
	hidden := up(t, "h", "bookworm", "--net", net)
	hidden.tool("net", "dnat", net, "10001", hidden.name)
	open.equip()
	hidden.equip()
	address := strings.Fields(open.sh("hostname -I"))[0]
	router := strings.Fields(open.sh("getent ahostsv4 " + net + "-gw"))[0]

	hidden.want("noipctl guide --yes --no-start --name server2 --listen $(hostname -I | cut -d' ' -f1):10001", `bind = "10.`)
	const guide = "noipctl guide --yes --name %s --public %s:10001 --register invite --user %s --invite | grep -o \"noipchat join '[^']*'\""
	alice := open.sh(fmt.Sprintf(guide, "server1", address, "alice"))
	bob := hidden.sh(fmt.Sprintf(guide, "server2", router, "bob"))
	lineOfOpen, lineOfHidden := open.sh("noipctl peer line"), hidden.sh("noipctl peer line")
	if !strings.Contains(lineOfHidden, "@"+router+":10001/") {
		t.Errorf("the line of the server behind NAT is %s", lineOfHidden)
	}
	open.sh("noipctl peer add '" + lineOfHidden + "'")
	hidden.sh("noipctl guide --yes --peer '" + lineOfOpen + "'")
	open.sh(alice + " --password-stdin <<<'correct horse'")
	hidden.sh(bob + " --password-stdin <<<'correct horse'")

	open.sh("noipchat send bob@server2 -m 'are you there?' --wait held --timeout 30s")
	hidden.want("noipchat receive --timeout 30s", "are you there?")
	hidden.sh("noipchat send alice@server1 -m 'behind a router' --wait held --timeout 30s")
	open.want("noipchat receive --timeout 30s", "behind a router")
	t.Log("\n" + open.sh("noipctl status; noipctl log --peer server2; noipctl check || true"))
}

// TestGuide is the guide in a terminal. Its screens are those of docs/guide.md, into which -update
// writes them.
func TestGuide(t *testing.T) {
	t.Parallel()
	h := boot(t, "bookworm", "tmux", "ufw", "firewalld", "nftables")
	address := h.address(4, 0)
	c := openChapter(t, "guide.md")
	s := &session{t: t, known: map[string]string{}, edits: map[int]edit{},
		real: map[string]string{"192.168.1.10": address, "fd00::10": h.address(6, 0), "host1": h.name}}
	if *update {
		defer s.write(c)
	}

	// By hand, in a terminal. A QR code is other each time.
	code := regexp.MustCompile(`(?m)(^[█▀▄ ]*[█▀▄][█▀▄ ]*\n)+`)
	capture := func(flags string) string {
		return code.ReplaceAllString(strings.TrimRight(h.sh("tmux capture-pane -p"+flags), " \n")+"\n", "(the QR code)\n")
	}
	h.sh("export LANG=C.UTF-8 TERM=xterm-256color; tmux -u new-session -d -x 80 -y 40 'noipctl guide; tmux wait-for -S ended; sleep 1d'")
	for _, answer := range []struct{ screen, keys string }{
		{"name", "C-u server1 Enter"}, {"port", "Enter"}, {"addresses", "Enter"}, {"public", "Enter"}, {"register", "Down Enter"},
		{"user", "alice Enter"}, {"invitation", "Enter"}, {"peers", "Enter"}, {"log", "Enter"}, {"firewall", "Up Enter"},
	} {
		s.screen(c, answer.screen, func() string { return capture("") })
		h.sh("tmux send-keys " + answer.keys)
	}
	s.screen(c, "plan", func() string { return capture("") })
	h.want("ls /etc/noipchat; systemctl is-active noipchat.service || true", "conf.d\ninactive")
	h.sh("tmux send-keys Enter; timeout 60 tmux wait-for ended")
	s.screen(c, "end", func() string {
		_, end, _ := strings.Cut(capture("J -S -200"), "number [1]:")
		return strings.TrimSpace(end) + "\n"
	})
	h.want("stat -c '%U:%G %a' /etc/noipchat/noipchat.toml; systemctl is-active noipchat.service noipchat.socket", "root:noipchat 640\nactive\nactive")
	h.want("cat /etc/noipchat/noipchat.toml", `name = "server1"`, `public = ["`+address+`:10001"]`, `mode = "invite"`)
	h.want(`noipchat join "$(noipctl user invite bob)" --password-stdin <<<'correct horse' && noipctl user list`, "bob")
	h.want("noipctl check --json | grep -c error || true", "0")

	// Again, by flags: an edit, and what it adds.
	h.sh("sed -i '1s/^/# mine\\n/' /etc/noipchat/noipchat.toml")
	h.want("noipctl guide --yes --user carol --invite --listen 0.0.0.0:10001 --listen [::]:10001 --listen 127.0.0.1:443", `+ bind = "127.0.0.1:443"`, "the server restarts", "noipchat join")
	h.want(connect+"connect 127.0.0.1 443; connect 127.0.0.1 10001; noipctl check || true", "443 up\n10001 up")
	h.want("head -1 /etc/noipchat/noipchat.toml; ls /etc/noipchat", "# mine", "noipchat.toml.2")
}

// ill provokes a finding of check, and sees it go.
func (h *host) ill(about, what, cause, cure string) {
	h.t.Helper()
	h.sh(cause)
	found, _ := h.try("noipctl check --json")
	told := false
	for line := range strings.Lines(found) {
		told = told || strings.Contains(line, `"about":"`+about+`"`) && strings.Contains(line, what) && !strings.Contains(line, `"type":""`)
	}
	if !told {
		h.t.Errorf("after %s\ncheck doesn't tell of %s: %s\n%s", cause, about, what, found)
	}
	h.sh(cure)
	if found, _ := h.try("noipctl check --json"); strings.Contains(found, what) {
		h.t.Errorf("after %s\ncheck still tells of %s: %s\n%s", cure, about, what, found)
	}
}

// TestCheck provokes on a host what cmd/noipctl can't in a process.
func TestCheck(t *testing.T) {
	t.Parallel()
	h := boot(t, "bookworm", "ufw", "firewalld", "nftables")
	h.sh("systemctl disable --now firewalld 2>/dev/null; nft flush ruleset; timedatectl set-ntp true 2>/dev/null; noipctl guide --yes --name server1 --listen 0.0.0.0:10001; printf '[limits]\\nsessions = 1000\\n' >>/etc/noipchat/noipchat.toml; noipctl reload")
	const all = "systemctl daemon-reload; systemctl reset-failed 'noipchat*' 2>/dev/null; systemctl start noipchat.socket noipchat.service; noipctl status >/dev/null"

	h.ill("running", "the server does not run", "systemctl stop noipchat.socket noipchat.service", all)
	h.ill("unit", "noipchat.service is masked", "systemctl stop noipchat.socket noipchat.service; systemctl -q mask noipchat.service", "systemctl -q unmask noipchat.service; "+all)
	h.ill("unit", "noipchat.socket is disabled", "systemctl -q disable noipchat.socket", "systemctl -q enable noipchat.socket")
	h.ill("unit", "is overridden by /etc/systemd/system/noipchat.service", "cp /usr/lib/systemd/system/noipchat.service /etc/systemd/system/; systemctl daemon-reload", "rm /etc/systemd/system/noipchat.service; systemctl daemon-reload")
	const drop = "mkdir -p /etc/systemd/system/noipchat.service.d; printf '[Service]\\n%s\\n' >/etc/systemd/system/noipchat.service.d/override.conf"
	const undrop = "rm -r /etc/systemd/system/noipchat.service.d; systemctl daemon-reload; systemctl restart noipchat; noipctl status >/dev/null"
	h.ill("unit", "override.conf", fmt.Sprintf(drop, "Nice=1")+"; systemctl daemon-reload", undrop)
	h.ill("unit", "systemd has the old one", fmt.Sprintf(drop, "Nice=1")+"; systemctl daemon-reload; touch -d '+1 min' /etc/systemd/system/noipchat.service.d/override.conf", undrop)
	h.ill("descriptors", "may open 2000 files", fmt.Sprintf(drop, "LimitNOFILE=2000")+"; systemctl daemon-reload; systemctl restart noipchat; noipctl status >/dev/null", undrop)
	h.ill("generator", "lacks 1 (tcp 127.0.0.1:10005)", "printf '\\n[[interface]]\\nbind = \"127.0.0.1:10005\"\\n' >>/etc/noipchat/noipchat.toml; noipctl reload", "systemctl daemon-reload")

	h.ill("owner", "may not read /etc/noipchat/noipchat.toml", "chmod 600 /etc/noipchat/noipchat.toml", "systemd-tmpfiles --create noipchat.conf; noipctl reload")
	h.ill("owner", "can be written by others", "chmod 666 /etc/noipchat/noipchat.toml", "systemd-tmpfiles --create noipchat.conf")
	h.ill("owner", "has another owner", "chown root /var/lib/noipchat/users", "chown -R noipchat: /var/lib/noipchat")
	h.ill("owner", "is not the user noipchat's", "chown root /var/lib/noipchat", "chown -R noipchat: /var/lib/noipchat")
	h.ill("key", "key is gone", "mv /var/lib/noipchat/key /root/", "mv /root/key /var/lib/noipchat/")
	h.ill("clock", "was put back", "touch -d '+3 days' /var/lib/noipchat/key", "touch /var/lib/noipchat/key")

	// Another program has the port; another machine the address.
	h.ill("port", "port 10007 is taken: systemd-socket-, pid ",
		"systemd-run -q --unit=taker systemd-socket-activate -l 127.0.0.1:10007 /bin/cat; until ss -ltn | grep -q :10007; do sleep 0.1; done\n"+
			"printf '\\n[[interface]]\\nbind = \"127.0.0.1:10007\"\\n' >>/etc/noipchat/noipchat.toml; noipctl reload || true",
		"systemctl stop taker; noipctl reload")
	h.ill("address", "10.99.99.9:10001 is no address of this machine", "cp -p /etc/noipchat/noipchat.toml /root/good; noipctl guide --yes --no-start --listen 10.99.99.9:10001", "cp -p /root/good /etc/noipchat/noipchat.toml; noipctl reload")
	h.ill("public", "which is on this machine, but no interface listens there", "echo 'public = [\"'$(hostname -I | cut -d' ' -f1)':4\"]' >>/etc/noipchat/noipchat.toml; noipctl reload", "cp -p /root/good /etc/noipchat/noipchat.toml; noipctl reload")

	// Each firewall, and that what check says to type helps.
	typed := func() string {
		return "noipctl check --json | sed -n 's/.*\"about\":\"firewall\".*\"type\":\"\\([^#\"]*\\).*/\\1/p' | sh"
	}
	h.ill("firewall", "ufw lets nobody in at port 10001", "ufw --force enable", typed())
	h.sh("ufw --force disable; systemctl start firewalld")
	h.ill("firewall", "firewalld lets nobody in at port 10001", "firewall-cmd --state", typed())
	h.sh("systemctl stop firewalld; nft flush ruleset")
	h.ill("firewall", "nftables lets nobody in at port 10001", "nft add table inet filter; nft add chain inet filter input '{ type filter hook input priority 0; policy drop; }'; nft add rule inet filter input iif lo accept", typed())
	h.sh("nft flush ruleset")

	// A small disk, and a full one.
	h.sh("systemctl stop noipchat.socket noipchat.service; mount -t tmpfs -o size=300M,mode=700,uid=$(id -u noipchat),gid=$(id -g noipchat) tmpfs /var/lib/noipchat")
	h.ill("disk", "is nearly full", all, "systemctl stop noipchat.socket noipchat.service; umount /var/lib/noipchat; "+all)
	h.want("noipctl check || true", "")
	t.Log("\n" + h.sh("noipctl check || true"))
}

// TestHostFiles uses what contrib has for a host: a firewall's names for the port, and the
// Ansible role, whose second run changes nothing.
func TestHostFiles(t *testing.T) {
	t.Parallel()
	h := boot(t, "bookworm", "ufw", "firewalld", "nftables", "ansible-core")
	h.sh("systemctl disable --now firewalld 2>/dev/null; nft flush ruleset")
	h.tool("push", h.name, "../contrib/ansible", "/root/")
	h.tool("push", h.name, "../contrib/ufw/noipchat", "/etc/ufw/applications.d/")
	h.tool("push", h.name, "../contrib/firewalld/noipchat.xml", "/usr/lib/firewalld/services/")
	const play = "cd /root/ansible && ansible-playbook -c local -i localhost, -e '{\"noipchat_name\": \"server1\", \"noipchat_public\": [\"203.0.113.5:10001\"]}' example.yml"
	h.want(play, "changed=1", "failed=0")
	h.want(play, "changed=0", "failed=0")
	h.want("noipctl status; grep -c public /etc/noipchat/noipchat.toml", "listening tcp 0.0.0.0:10001, public 203.0.113.5:10001")
	h.want(play+" -e noipchat_register=open && grep mode /etc/noipchat/noipchat.toml", "changed=1", `mode = "open"`)

	h.sh("ufw --force enable; ! noipctl check >/dev/null")
	h.want("ufw allow NoIPChat && ufw status && noipctl check --json | grep -c firewall || true", "NoIPChat", "\n0")
	h.sh("ufw --force disable; systemctl start firewalld; ! noipctl check >/dev/null")
	h.want("firewall-cmd --add-service=noipchat && noipctl check --json | grep -c firewall || true", "success\n0")
}
