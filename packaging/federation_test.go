package packaging_test

import (
	"fmt"
	"strings"
	"testing"
)

// on is the host in a subtest.
func (h *host) on(t *testing.T) *host {
	c := *h
	c.t = t
	return &c
}

// address is the host's at one of its interfaces, of family 4 or 6.
func (h *host) address(family, nic int) string {
	h.t.Helper()
	return h.sh(fmt.Sprintf("ip -br -%d addr show dev eth%d scope global | awk '{ sub(\"/.*\", \"\", $3); print $3 }'", family, nic))
}

// serve configures server n, which others reach by these addresses.
func (h *host) serve(n int, public ...string) {
	h.t.Helper()
	bind := "0.0.0.0:10001"
	if strings.Contains(strings.Join(public, " "), "[") {
		bind = "[::]:10001\"\n[[interface]]\nbind = \"" + bind
	}
	h.configure(fmt.Sprintf("name = \"server%d\"\n[[interface]]\nbind = \"%s\"\npublic = [\"%s\"]\n", n, bind, strings.Join(public, `", "`)))
}

// line is what the server says of itself to those who are to join it.
func (h *host) line() string {
	h.t.Helper()
	return "'" + h.sh("noipctl peer line") + "'"
}

// join gives each of two servers the line of the other.
func join(a, b *host, flags string) {
	a.t.Helper()
	lineOfA, lineOfB := a.line(), b.line()
	a.sh("noipctl peer add " + lineOfB + flags)
	b.sh("noipctl peer add " + lineOfA + flags)
}

// meets makes server n, which it can't dial, its peer.
func (h *host) meets(n int, other *host) {
	h.t.Helper()
	key := other.sh("noipctl status --json | grep -o 'noip1[a-z2-7]*'")
	h.sh(fmt.Sprintf("printf '[[peer]]\\nname = \"server%[1]d\"\\nkey = \"%[2]s\"\\n' >/etc/noipchat/conf.d/server%[1]d.toml && systemd-tmpfiles --create noipchat.conf && noipctl reload", n, key))
}

// until waits for a script to succeed.
func (h *host) until(script string) {
	h.t.Helper()
	h.sh("timeout 180 bash -c '" + script + "; until tried; do sleep 0.1; done' || { noipctl route list; noipctl peer list; noipctl queue list; exit 1; }")
}

// leads waits until mail for a server goes to a peer next.
func (h *host) leads(server, peer string) {
	h.t.Helper()
	h.until("tried() { noipctl route list | grep -q \"^" + server + " *" + peer + " \"; }")
}

// linked waits until the link to a peer leads to an address.
func (h *host) linked(peer, address string) {
	h.t.Helper()
	h.until("tried() { noipctl peer list --json | grep \"\\\"name\\\":\\\"" + peer + "\\\"\" | grep -qF \"\\\"remote\\\":\\\"" + address + "\\\"\"; }")
}

// says sends a text, and returns when its sender knows that it has arrived.
func (h *host) says(user, to, text string) {
	h.t.Helper()
	h.sh(fmt.Sprintf("noipchat --profile %s send %s -m '%s' --wait delivered --timeout 300s", user, to, text))
}

// has fails unless a user receives a text once. What is on his disk is printed a moment later.
func (h *host) has(user, text string) {
	h.t.Helper()
	h.until(fmt.Sprintf(`tried() { grep -qF "\"text\":\"%s\"" /root/%s.log; }`, text, user))
	if n := h.count(fmt.Sprintf("grep -cF '\"text\":\"%s\"' /root/%s.log || true", text, user)); n != 1 {
		h.t.Errorf("%s has %d times: %s", user, n, text)
	}
}

// TestFederation is the life of five servers, from their packages, and of one behind NAT.
func TestFederation(t *testing.T) {
	t.Parallel()
	const n, nat = 5, 6
	packages := []string{deb(t, 1, "noipchat"), deb(t, 1, "noipchat-client")}
	cable := func(i int) string { return fmt.Sprint("ring", (i+n-1)%n+1) } // from server i to the next one
	hosts := make([]*host, nat+1)                                          // 0 is nobody
	for i := 1; i < len(hosts); i++ {
		hosts[i] = reserve(t, fmt.Sprintf("f%d-", i))
	}
	const hidden = "hidden" // networks outlive the test, as in TestTwoServers
	hosts[nat].tool("net", "add", hidden, "--nat", "lan")
	run := func(name string, f func(t *testing.T, h []*host)) {
		t.Run(name, func(t *testing.T) {
			here := make([]*host, len(hosts))
			for i := 1; i < len(hosts); i++ {
				here[i] = hosts[i].on(t)
			}
			f(t, here)
		})
	}

	run("install", func(t *testing.T, h []*host) {
		for i := 1; i < len(h); i++ {
			t.Run(fmt.Sprint("server", i), func(t *testing.T) {
				t.Parallel()
				h := h[i].on(t)
				nets := hidden
				if i != nat {
					nets = "lan," + cable(i-1) + "," + cable(i)
				}
				h.tool("up", h.name, "--suite", "bookworm", "--net", nets)
				h.tool("push", h.name, packages[0], packages[1], "/root/")
				h.sh(install + "/root/*.deb")
				switch i {
				case nat:
					h.serve(i, h.address(4, 0)+":10001")
				case 4: // the cable between it and server5 knows no IPv4
					h.sh("ip -4 addr flush dev eth2")
					h.serve(i, h.address(4, 1)+":10001", "["+h.address(6, 2)+"]:10001")
				case 5:
					h.sh("ip -4 addr flush dev eth1")
					h.serve(i, "["+h.address(6, 1)+"]:10001", h.address(4, 2)+":10001")
				default:
					h.serve(i, h.address(4, 1)+":10001", h.address(4, 2)+":10001")
				}
				if i != nat { // the lab has routes between its networks
					h.sh("ip -4 route del default; ip -6 route del default")
				}
				h.sh(fmt.Sprintf(`systemctl daemon-reload && systemctl start noipchat.socket noipchat.service
for u in a%[1]d b%[1]d; do
	echo correct horse | noipctl user add $u --password-stdin
	echo correct horse | noipchat --profile $u login $u@server%[1]d --server 127.0.0.1:10001 --trust-first --password-stdin
done`, i))
				h.follow(fmt.Sprint("b", i))
			})
		}
	})
	if t.Failed() {
		return
	}

	// That a link which is kept leads nowhere is seen when nothing was acked for a minute: both
	// ends say something. Meanwhile there is the next part.
	type result struct {
		out string
		err error
	}
	round := make(chan result, 2)
	run("ring", func(t *testing.T, h []*host) {
		for i := 1; i <= n; i++ {
			join(h[i], h[i%n+1], " --idle 0s")
		}
		h[1].leads("server3", "server2")
		h[3].leads("server1", "server2")
		h[1].says("a1", "b3@server3", "the short way")
		h[3].has("b3", "the short way")
		h[4].linked("server5", "["+h[5].address(6, 1)+"]:10001")
		h[4].says("a4", "b5@server5", "without IPv4")
		h[5].has("b5", "without IPv4")

		h[1].tool("net", "cable", h[1].name+":2", "down")
		h[2].tool("net", "cable", h[2].name+":1", "down")
		for from, to := range map[int]int{1: 3, 2: 1} {
			go func() {
				out, err := h[from].try(fmt.Sprintf("noipchat --profile a%d send b%d@server%[2]d -m 'the long way' --wait delivered --timeout 300s", from, to))
				round <- result{out, err}
			}()
		}
	})

	if t.Failed() {
		return
	}

	run("NAT", func(t *testing.T, h []*host) {
		behind, open := h[nat], h[1].address(4, 0)+":10001"
		h[1].serve(1, h[1].address(4, 1)+":10001", h[1].address(4, 2)+":10001", open)
		h[1].sh("noipctl reload")
		h[1].meets(nat, behind)
		behind.sh("noipctl peer add " + h[1].line() + " --idle 0s")
		behind.linked("server1", open)
		behind.says("a6", "b1@server1", "from behind")
		h[1].says("a1", "b6@server6", "to behind")
		behind.says("a6", "b5@server5", "from behind and beyond")
		h[5].says("a5", "b6@server6", "from beyond to behind")

		// Its line is a bad one.
		behind.tool("net", "shape", behind.name, "delay=300", "loss=5", "rate=64")
		behind.says("a6", "b1@server1", "slowly from behind")
		h[1].says("a1", "b6@server6", "slowly to behind")
		behind.tool("net", "shape", behind.name, "off")

		// Its router forwards a port: others are told of that, and dial it.
		behind.tool("net", "dnat", hidden, "10001", behind.name)
		public := strings.Fields(h[5].sh("getent ahostsv4 " + hidden + "-gw"))[0] + ":10001"
		behind.serve(nat, public)
		behind.sh("noipctl reload")
		behind.meets(5, h[5])
		line := behind.line()
		if !strings.Contains(line, "@"+public+"/") {
			t.Errorf("the line of a server that is reached by %s is %s", public, line)
		}
		h[5].sh("noipctl peer add " + line + " --idle 0s")
		h[5].linked("server6", public)
		h[5].says("a5", "b6@server6", "by its public address")
		// A client that comes there is told the same.
		h[5].sh(fmt.Sprintf("echo correct horse | noipchat --profile a6 login a6@server6 --server %s --trust-first --password-stdin", public))
		h[5].want("noipchat --profile a6 server list", public)

		h[1].has("b1", "from behind")
		h[1].has("b1", "slowly from behind")
		h[5].has("b5", "from behind and beyond")
		for _, text := range []string{"to behind", "from beyond to behind", "slowly to behind", "by its public address"} {
			behind.has("b6", text)
		}
	})

	run("the other way round", func(t *testing.T, h []*host) {
		for range 2 {
			r := <-round
			if r.err != nil {
				t.Error(r.out, r.err)
			}
		}
		h[1].leads("server3", "server5")
		h[3].has("b3", "the long way")
		h[1].has("b1", "the long way")
	})

	run("star", func(t *testing.T, h []*host) {
		hub := h[1].address(4, 0) + ":10001"
		h[1].serve(1, hub)
		h[1].sh("noipctl reload")
		for i := 1; i <= n; i++ {
			h[i].sh("cd /etc/noipchat/conf.d && for f in peer-*; do f=${f#peer-}; noipctl peer remove ${f%.toml}; done; rm -f server*; noipctl reload")
			h[i].serve(i, h[i].address(4, 0)+":10001")
			h[i].sh("noipctl reload")
		}
		for i := 2; i <= n; i++ {
			join(h[1], h[i], "")
		}
		h[2].says("a2", "b4@server4", "from leaf to leaf")
		h[4].has("b4", "from leaf to leaf")
		h[2].leads("server4", "server1")

		const texts = 40
		sent := make(chan string, 1)
		go func() {
			out, err := h[2].try(fmt.Sprintf("for i in $(seq %d); do noipchat --profile a2 send b4@server4 -m \"through the hub $i.\" --wait held --timeout 60s | cut -d' ' -f1; done", texts))
			sent <- fmt.Sprint(out, err)
		}()
		h[4].until("tried() { grep -q \"hub 10\\.\" /root/b4.log; }")
		h[1].sh("systemctl kill -s KILL noipchat.service")
		ids := <-sent
		if n := len(strings.Fields(ids)); n != texts {
			t.Errorf("%d were sent: %s", n, ids)
		}
		h[2].until(fmt.Sprintf("tried() { noipchat --profile a2 receive --timeout 1s; [ $(noipchat --profile a2 history b4@server4 --json | grep \"through the hub\" | grep -cE \"state.{3}(delivered|read)\") = %d ]; }", texts))
		for i := range texts {
			h[4].has("b4", fmt.Sprintf("through the hub %d.", i+1))
		}
		h[1].want("systemctl show -p NRestarts noipchat.service", "NRestarts=1")
	})
	run("nothing twice", func(t *testing.T, h []*host) {
		for i := 1; i < len(h); i++ {
			if twice := h[i].sh(fmt.Sprintf("grep -o '\"text\":\"[^\"]*\"' /root/b%d.log | sort | uniq -d", i)); twice != "" {
				t.Errorf("b%d has twice: %s", i, twice)
			}
		}
	})
}

// lined is ten servers in network namespaces of one host, in a row: server1 to server10,
// each with a folder in /srv and a cable to the next one. c N and n N are its client and
// its noipctl, link N up|down is the cable from N to the next one.
const lined = `set -e
c() { local i=$1; shift; ip netns exec s$i noipchat --home /srv/$i/client "$@"; }
n() { local i=$1; shift; noipctl --socket /srv/$i/run/control.sock "$@"; }
link() { ip -n s$1 link set right $2; }
start() { systemd-run -q --unit=server$1 -p Type=notify -p NetworkNamespacePath=/run/netns/s$1 -p StandardError=append:/srv/$1/log noipchatd --config /srv/$1/noipchat.toml --state /srv/$1/state --runtime /srv/$1/run; }
until_() { for try in $(seq 900); do if "$@"; then return; fi; sleep 0.1; done; echo "never: $*"; for i in $(seq 10); do n $i queue list && n $i peer list && n $i route list; done 2>/dev/null; exit 1; }
holds() { n $1 queue list | grep -q ^server; }
`

// TestLineOfTen: a text crosses ten servers of whose links never two are up together; and
// another one, when all are up.
func TestLineOfTen(t *testing.T) {
	t.Parallel()
	h := reserve(t, "ten-")
	packages := []string{deb(t, 1, "noipchat"), deb(t, 1, "noipchat-client")}
	h.tool("up", h.name, "--suite", "bookworm")
	h.tool("push", h.name, packages[0], packages[1], "/root/")
	h.sh(install + "/root/*.deb")
	h.sh(lined + `
for i in $(seq 10); do ip netns add s$i; ip -n s$i link set lo up; done
for i in $(seq 9); do
	j=$((i+1))
	ip link add right netns s$i type veth peer name left netns s$j
	ip -n s$i addr add 10.9.$i.1/24 dev right; ip -n s$j addr add 10.9.$i.2/24 dev left; ip -n s$j link set left up
done
peer() { printf '[[peer]]\nname = "server%s"\n[[peer.link]]\nremote = "%s:10001"\ntimeout = "0s"\n' $1 $2; }
for i in $(seq 10); do
	mkdir -p /srv/$i
	{
		printf 'name = "server%s"\nlog = "stderr"\n[[interface]]\nbind = "0.0.0.0:10001"\npublic = ["10.9.%s.1:10001"]\n' $i $i
		[ $i = 1 ] || peer $((i-1)) 10.9.$((i-1)).1
		[ $i = 10 ] || peer $((i+1)) 10.9.$i.2
	} >/srv/$i/noipchat.toml
done
user() { echo correct horse | n $1 user add $2 --password-stdin; echo correct horse | c $1 login $2@server$1 --server 127.0.0.1:10001 --trust-first --password-stdin; }
start 1; start 10
user 1 alice; user 10 bob
systemctl stop server10`)
	h.sh(lined + `
c 1 send bob@server10 -m 'never together' --wait held | cut -d' ' -f1 >/root/id
for i in $(seq 9); do
	j=$((i+1))
	until_ holds $i
	start $j
	link $i up
	if [ $j = 10 ]; then c 10 receive --timeout 180s >>/root/bob.log; else until_ holds $j; fi
	link $i down
done`)
	h.want("cat /root/bob.log", "never together")
	h.sh(lined + `
for i in $(seq 9); do link $i up; done
knows() { c 1 receive --timeout 1s >/dev/null; c 1 status $1 | grep -qE 'delivered|read'; }
until_ knows $(cat /root/id) 2>/dev/null
until_ eval "n 1 route list | grep -q '^server10 *server2 '"
until_ eval "n 10 route list | grep -q '^server1 *server9 '"
id=$(c 1 send bob@server10 -m 'all at once' --wait held | cut -d' ' -f1)
c 10 receive --timeout 180s >>/root/bob.log
until_ knows $id 2>/dev/null
c 10 receive --count 9 --timeout 2s >>/root/bob.log || [ $? = 75 ]`)
	h.want("grep -c 'never together' /root/bob.log; grep -c 'all at once' /root/bob.log", "1\n1")
}
