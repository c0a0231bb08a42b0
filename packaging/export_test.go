package packaging_test

import (
	"fmt"
	"testing"
)

// carry copies a file of /root to another host.
func (h *host) carry(name string, to *host) {
	h.t.Helper()
	dir := h.t.TempDir()
	h.tool("pull", h.name, "/root/"+name, dir+"/"+name)
	h.tool("push", to.name, dir+"/"+name, "/root/")
}

const (
	stop      = "systemctl stop noipchat.socket noipchat.service; "
	begin     = "systemctl daemon-reload && systemctl enable --now noipchat.socket noipchat.service"
	recipient = "age1rr2rtse5pr0tfwpfz4fcks58zynqvpchutt84u5ztu0wu7555sps57uvfk"
	recovers  = "AGE-SECRET-KEY-1TS05DHEF99LGZWQRJHJKNN9AZ2YG2PXXQAJHRK6SS2FLVPPF6QTSNHN5PN" // what is sealed for it
	wipe      = "rm -rf /var/lib/noipchat; find /etc/noipchat -type f -delete; "
)

// killed imports back.age again and again, killed at each of its steps on the disk. The service
// must not start with what that leaves, and the next import must make the server whole.
const killed = `exec 2>/dev/null # where bash says who was killed
import() { "$@" noipctl import --identity /root/identity /root/back.age >/root/out 2>&1; }
all() { (cd /var/lib/noipchat && find . ! -name lock | sort); ls /etc/noipchat /etc/noipchat/conf.d; } # what is hidden in there nobody reads
wrong() { echo "WRONG: killed at $call $n: $*"; }
` + wipe + `
import env || cat /root/out
all >/root/want
cp -p /etc/noipchat/noipchat.toml /root/kept.toml
kills=0; half=0
for call in mkdirat renameat fsync syncfs unlinkat; do
	for n in $(seq 100); do
		` + wipe + `
		import strace -f -qq -o /dev/null -e trace=$call -e inject=$call:signal=KILL:when=$n && break
		kills=$((kills+1))
		if [ -e /etc/noipchat/noipchat.toml ]; then
			all | cmp -s - /root/want || wrong a configuration, and no whole server
			continue
		fi
		systemctl start noipchat.socket noipchat.service
		systemctl -q is-active noipchat.service && wrong the service has started
		if [ -e /var/lib/noipchat/import.new ] && [ -e /var/lib/noipchat/imported ]; then # and if somebody gives it a configuration
			half=$((half+1))
			cp -p /root/kept.toml /etc/noipchat/noipchat.toml
			noipchatd --check 2>&1 | grep -q "a part of the server is missing" || wrong --check finds a whole server
			if [ $half = 1 ]; then systemctl start noipchat.service 2>/dev/null && wrong the service has started with a half; ` + stop + ` fi
			rm /etc/noipchat/noipchat.toml
		fi
		import env || { wrong it cannot be imported; cat /root/out; }
		all | cmp -s - /root/want || wrong after the next import it is not whole
	done
done
echo $kills kills, $half halves`

// TestExport moves a server from one host to another and back, by noipctl as the package has
// it, and kills imports; then it copies the folders.
func TestExport(t *testing.T) {
	t.Parallel()
	first, second := reserve(t, "eb"), reserve(t, "et")
	files := []string{deb(t, 1, "noipchat"), deb(t, 1, "noipchat-client")}
	t.Run("install", func(t *testing.T) {
		for suite, h := range map[string]*host{"bookworm": first, "trixie": second} {
			t.Run(suite, func(t *testing.T) {
				t.Parallel()
				h := h.on(t)
				h.tool("up", h.name, "--suite", suite, "--with", tools)
				h.tool("push", h.name, files[0], files[1], "/root/")
				h.sh(install + "/root/*.deb; " + open + "echo six words that nobody guesses >/root/pass; echo " + recovers + " >/root/identity")
			})
		}
	})
	if t.Failed() {
		return
	}
	address := map[*host]string{first: first.address(4, 0), second: second.address(4, 0)}
	// server1 listens on an address that it takes along to a machine that has another one.
	guide := func(h *host) string {
		return fmt.Sprintf("noipctl guide --yes --no-start --name server1 --listen %[1]s:10001 --public %[1]s:10001 && %[2]s && noipctl status >/dev/null; ", address[h], begin)
	}
	login := func(user, server, at string) string {
		return fmt.Sprintf("echo correct horse | noipchat --profile %[1]s login %[1]s@%[2]s --server %[3]s --trust-first --password-stdin; ", user, server, at)
	}
	const other = "noipctl --socket /srv/2/run/control.sock " // the peer is a process on the first host
	first.sh(few + guide(first) + `
for u in alice bob carol; do echo correct horse | noipctl user add $u --password-stdin; done
mkdir -p /srv/2; printf 'name = "server2"\nlog = "stderr"\n[[interface]]\nbind = "` + address[first] + `:10002"\n[[peer]]\nname = "server1"\nkey = "%s"\n' $(noipctl status --json | grep -o 'noip1[a-z2-7]*') >/srv/2/c.toml
systemd-run -q --unit=server2 -p Type=notify noipchatd --config /srv/2/c.toml --state /srv/2/state --runtime /srv/2/run
noipctl peer add "$(` + other + `peer line)" --idle 0s
echo correct horse | ` + other + "user add dave --password-stdin\n" +
		login("dave", "server2", address[first]+":10002") + login("alice", "server1", address[first]+":10001") + login("carol", "server1", address[first]+":10001") +
		"noipchat --profile alice send bob@server1 carol@server1 -m 'before the move' --wait held")
	first.follow("dave")
	receives := func(h *host, user, text string) {
		t.Helper()
		h.want("noipchat --profile "+user+" receive --count 1 --timeout 60s", text)
	}

	// One that goes on can't be another one too; nothing is left of the attempt.
	first.sh("noipctl export /root/early.age --recipient " + recipient)
	first.carry("early.age", second)
	second.want("! noipctl import --identity /root/identity /root/early.age 2>&1; ls -d /var/lib/noipchat 2>&1; ls -A /etc/noipchat",
		"server1 answers at "+address[first]+":10001: it runs elsewhere, with this key", "cannot access '/var/lib/noipchat'", "\nconf.d")

	// It moves, sealed with a passphrase. Those who are there go on with their devices, and who
	// never was logs in with the password that he had.
	first.want("noipctl export --stop /root/move.age --passphrase-file /root/pass; stat -c %a /root/move.age; systemctl is-active noipchat.socket noipchat.service; systemctl -q disable noipchat.socket noipchat.service; noipctl import --identity /root/identity /root/early.age 2>&1; true",
		"/root/move.age: server1, ", "The server is stopped. Don't start it again", "\n600\ninactive\ninactive", "there is a server here: /var/lib/noipchat/")
	first.carry("move.age", second)
	second.want("noipctl import --passphrase-file /root/pass /root/move.age; systemctl is-active noipchat.service; true", "this machine is server1 now, as of ",
		"\n  noipctl guide --no-start   # this machine does not have "+address[first]+"\n  "+begin+"\n  noipctl check\ninactive")
	const owned = `find /var/lib/noipchat \( -not -user noipchat -o -not -group noipchat -o -type d -not -perm 700 -o -type f -not -perm 600 \); stat -c '%U:%G %a' /etc/noipchat/noipchat.toml /etc/noipchat/conf.d/peer-server2.toml`
	if out := second.sh(owned); out != "root:noipchat 640\nroot:noipchat 640" {
		t.Errorf("after an import others own, or have other modes: %s", out)
	}
	second.sh(guide(second))
	(&patient{host: second, server: "server1", seen: new(findings)}).well()
	second.sh(login("bob", "server1", address[second]+":10001"))
	receives(second, "bob", "before the move")
	first.sh("for u in alice carol; do noipchat --profile $u server add " + address[second] + ":10001; done")
	receives(first, "carol", "before the move")
	first.says("alice", "dave@server2", "by the new machine")
	first.sh("noipchat --profile dave send carol@server1 -m 'to the new machine' --wait held --timeout 60s")
	receives(first, "carol", "to the new machine")

	// It moves back, sealed for a key; and is killed on the way.
	first.sh("noipchat --profile alice send bob@server1 -m 'before the way back' --wait held")
	second.want("noipctl export --stop /root/back.age --recipient "+recipient, "The server is stopped")
	second.carry("back.age", first)
	out := first.sh(killed)
	var kills, halves int
	if n, _ := fmt.Sscanf(out, "%d kills, %d halves", &kills, &halves); n != 2 || kills < 15 || halves < 2 {
		t.Error(out)
	}
	t.Logf("an import was killed %d times, %d times among moves", kills, halves)
	first.sh(wipe + "noipctl import --identity /root/identity /root/back.age; " + guide(first))
	second.sh("noipchat --profile bob server add " + address[first] + ":10001")
	receives(second, "bob", "before the way back")
	first.sh("for u in alice carol; do noipchat --profile $u server add " + address[first] + ":10001; done")
	first.says("alice", "dave@server2", "back again")
	for _, text := range []string{"by the new machine", "back again"} {
		first.has("dave", text)
	}

	// Plain copies: of a server that is stopped it is all; of one that runs it starts, as itself.
	const copied = "tar -C / -cf /root/copy.tar var/lib/noipchat etc/noipchat; "
	const taken = "tar -C / -xpf /root/copy.tar; "
	first.sh("noipchat --profile alice send bob@server1 -m 'in the copy' --wait held; " + stop + copied)
	first.carry("copy.tar", second)
	second.sh(wipe + taken + guide(second) + "noipchat --profile bob server add " + address[second] + ":10001")
	receives(second, "bob", "in the copy")
	const self = "noipctl status --json | grep -o '\"fingerprint\":\"[^\"]*\"'; noipctl user list | cut -d' ' -f1; noipctl peer list --json | grep -o '\"standing\":\"[a-z ]*\"'"
	before := second.sh(self)
	second.sh(copied + stop)
	second.carry("copy.tar", first)
	first.sh(wipe + taken + guide(first))
	if after := first.sh(self); after != before || before == "" {
		t.Errorf("a copy of a server that ran is\n%s\nand the server was\n%s", after, before)
	}
}
