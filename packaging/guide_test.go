package packaging_test

import (
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestTwoServers joins two fresh hosts, one of them behind NAT, by nothing but the packages, the
// guide and each other's line; then their users talk. First by flags, then all anew in a terminal.
func TestTwoServers(t *testing.T) {
	t.Parallel()
	packages := []string{deb(t, 1, "noipchat"), deb(t, 1, "noipchat-client")}
	open := up(t, "o", "bookworm", "--with", "tmux")
	const net = "behind" // it outlives the test: the tool takes networks down with all hosts only
	exec.Command(open.lab, "net", "add", net, "--nat", "lan").Run()
	hidden := up(t, "h", "bookworm", "--with", "tmux", "--net", net)
	hidden.tool("net", "dnat", net, "10001", hidden.name)
	address := strings.Fields(open.sh("hostname -I"))[0]
	router := strings.Fields(open.sh("getent ahostsv4 " + net + "-gw"))[0]
	for _, h := range []*host{open, hidden} {
		h.tool("push", h.name, packages[0], packages[1], "/root/")
		h.sh(install + "/root/*.deb")
	}
	talk := func(alice, bob string) {
		t.Helper()
		open.sh(alice + " --password-stdin <<<'correct horse'")
		hidden.sh(bob + " --password-stdin <<<'correct horse'")
		open.sh("noipchat send bob@server2 -m 'are you there?' --wait held --timeout 60s")
		hidden.want("noipchat receive --timeout 180s", "are you there?")
		hidden.sh("noipchat send alice@server1 -m 'behind a router' --wait held --timeout 60s")
		open.want("noipchat receive --timeout 180s", "behind a router")
		for _, h := range []*host{open, hidden} {
			h.want("noipctl check --json | grep -c '\"error\"' || true", "0")
		}
	}

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
	talk(alice, bob)
	t.Log("\n" + open.sh("noipctl status; noipctl log --peer server2; noipctl check"))

	for _, h := range []*host{open, hidden} {
		h.sh("DEBIAN_FRONTEND=noninteractive apt-get purge -y noipchat noipchat-client && rm -r /var/lib/noipchat ~/.local/state/noipchat && ! ls -d /etc/noipchat && " + install + "/root/*.deb")
	}
	// answer has the guide in a terminal on a host, and returns the join command that it ends with.
	answer := func(h *host, name, public, user, line string) string {
		t.Helper()
		h.sh("export LANG=C.UTF-8 TERM=xterm-256color; tmux -u new-session -d -x 100 -y 40 'noipctl guide; tmux wait-for -S ended; sleep 1d'")
		const clear = "C-u BSpace "
		for _, q := range []struct{ title, keys string }{
			{"The name of this server", "C-u " + name + " Enter"}, {"The port", "Enter"}, {"The addresses to listen on", "Enter"},
			{"How others reach this server", strings.Repeat(clear, 8) + public + ":10001 Enter"}, {"Who may make an account", "Down Enter"},
			{"The first user", user + " Enter"}, {"How " + user + " comes in", "Enter"}, {"Other servers", "-l '" + line + "'; tmux send-keys Enter"},
			{"Where the log goes", "Enter"}, {"", "Enter"},
		} {
			seen := "^┃ " + q.title
			if q.title == "" { // the last one stands below the plan
				seen = "^number .1.:"
			}
			h.sh("for try in $(seq 600); do if tmux capture-pane -p | grep -q '" + seen + "'; then exit; fi; sleep 0.1; done; tmux capture-pane -p; exit 1")
			h.sh("tmux send-keys " + q.keys)
		}
		h.sh("timeout 60 tmux wait-for ended")
		return h.sh("tmux capture-pane -pJ -S -200 | grep -o \"noipchat join '[^']*'\"")
	}
	alice = answer(open, "server1", address, "alice", "")
	lineOfOpen = open.sh("noipctl peer line")
	bob = answer(hidden, "server2", router, "bob", lineOfOpen)
	open.sh("noipctl peer add '" + hidden.sh("noipctl peer line") + "'")
	hidden.want("cat /etc/noipchat/noipchat.toml", `public = ["`+router+`:10001"]`)
	talk(alice, bob)
}

// TestGuide is the guide in a terminal. Its screens are those of docs/guide.md, into which -update
// writes them.
func TestGuide(t *testing.T) {
	t.Parallel()
	h := boot(t, "bookworm", tools)
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
	h.sh("tmux send-keys Enter; timeout 180 tmux wait-for ended")
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

	// What the server refuses, a port that is taken, leaves nothing behind: no file, no unit.
	h.sh("systemd-run -q --unit taken systemd-socket-activate -l 127.0.0.1:5555 cat; until ss -ltn | grep -q :5555; do sleep 0.1; done")
	const there = "md5sum /etc/noipchat/* /run/systemd/generator/noipchat* 2>/dev/null"
	before := h.sh(there + " || true")
	h.want("noipctl guide --yes --listen 0.0.0.0:10001 --listen [::]:10001 --listen 127.0.0.1:443 --listen 127.0.0.1:5555 2>&1 || true", "is as it was before")
	if after := h.sh(there + " || true"); after != before {
		t.Errorf("a refused change leaves\n%s\nof\n%s", after, before)
	}
	h.want("noipctl check --json | grep -cE 'generator|NeedDaemonReload' || true", "0")
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
