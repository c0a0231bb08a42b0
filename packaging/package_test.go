package packaging_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

// pkg is the path of a package of build 1 or 2 in $NOIPCHAT_PACKAGES, which has what
// contrib/package makes of two versions.
func pkg(t *testing.T, build int, pattern string) string {
	t.Helper()
	dir := os.Getenv("NOIPCHAT_PACKAGES")
	if dir == "" {
		t.Skip("it needs two builds of the packages, in 1 and 2 below $NOIPCHAT_PACKAGES")
	}
	all, err := filepath.Glob(filepath.Join(dir, fmt.Sprint(build), pattern))
	if err != nil || len(all) != 1 {
		t.Fatalf("%s of build %d: %v, %v", pattern, build, all, err)
	}
	return all[0]
}

func deb(t *testing.T, build int, name string) string {
	return pkg(t, build, name+"_*_"+runtime.GOARCH+".deb")
}

func rpm(t *testing.T, build int, name string) string {
	return pkg(t, build, name+"-[0-9]*."+map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]+".rpm")
}

// readme is what the README has a server's administrator do after the installation,
// up to his users.
func readme(t *testing.T) string {
	t.Helper()
	_, block, _ := strings.Cut(read(t, "../README.md"), "    apt install ./noipchat_*_amd64.deb\n")
	block, _, ok := strings.Cut(block, "    noipctl user add")
	if !ok {
		t.Fatal("the README doesn't say how to install")
	}
	return strings.ReplaceAll("\n"+block, "\n    ", "\n")
}

// push copies a package there under a short name.
func (h *host) push(file, name string) {
	h.t.Helper()
	h.tool("push", h.name, file, "/root/")
	h.sh("mv /root/" + filepath.Base(file) + " /root/" + name)
}

func (h *host) count(script string) (n int) {
	h.t.Helper()
	if out := h.sh(script); out != "" {
		if _, err := fmt.Sscan(out, &n); err != nil {
			h.t.Fatalf("%s\nprints %q", script, out)
		}
	}
	return n
}

// follow has a user's texts written to /root/USER.log as they come.
func (h *host) follow(user string) {
	h.t.Helper()
	h.sh(fmt.Sprintf("systemd-run -q --unit=%[1]s -p StandardOutput=append:/root/%[1]s.log noipchat --home /root/.local/state/noipchat --profile %[1]s receive --follow --json", user))
}

const install = "DEBIAN_FRONTEND=noninteractive apt-get install -y --allow-downgrades "

// connects knocks at an address without a pause until /tmp/stop is there, and then
// says how often, and how often nobody was there.
const connects = `rm -f /tmp/stop; n=0; refused=0
while [ ! -e /tmp/stop ]; do n=$((n+1)); (exec 3<>/dev/tcp/%s/10001) 2>/dev/null || refused=$((refused+1)); done
echo $n $refused`

// knocking runs connects until the function that it returns is called, which fails if
// anybody was turned away.
func (h *host) knocking(address string) (end func() int) {
	type result struct {
		out string
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := h.try(fmt.Sprintf(connects, address))
		done <- result{out, err}
	}()
	return func() (n int) {
		h.t.Helper()
		h.sh("touch /tmp/stop")
		r := <-done
		refused := -1
		if fmt.Sscan(r.out, &n, &refused); refused != 0 || n == 0 || r.err != nil {
			h.t.Errorf("of %d connections %d were refused: %s, %v", n, refused, r.out, r.err)
		}
		return n
	}
}

// changes takes 100 changes of the configuration, good and bad ones, by all the ways
// that editors and tools have, and says how many were taken and how many refused.
const changes = `cd /etc/noipchat; house=$(cat noipchat.toml); taken=0; refused=0
put() { printf '%s\n' "$1" >.new && mv .new noipchat.toml; }
take() { if "$@" >/dev/null 2>&1; then taken=$((taken+1)); else refused=$((refused+1)); fi; }
for i in $(seq 20); do
  put "$house
[[interface]]
bind = \"127.0.0.1:$((11000+i))\""; take systemctl reload noipchat
  printf '[limits]\npending = %d\n' $((1000+i)) >conf.d/limits.toml; take noipctl reload
  printf 'max_hopp = 3\n%s\n' "$house" >noipchat.toml; take noipctl reload
  put "name = [[["; take systemctl reload noipchat
  put "$house"; rm conf.d/limits.toml; take noipctl reload
done; echo $taken $refused`

// TestPackages is the life of a server and its users, from the first installation to
// the last message after a purge.
func TestPackages(t *testing.T) {
	t.Parallel()
	packages := deb(t, 1, "noipchat")
	server := up(t, "s", "bookworm", "--with", "logrotate,rpm,needrestart")
	left := up(t, "l", "bookworm")
	right := up(t, "r", "trixie")
	for _, h := range []*host{left, right} {
		h.push(deb(t, 1, "noipchat-client"), "client.deb")
		h.sh(install + "/root/client.deb && noipchat --version && test -e /usr/share/man/man1/noipchat.1.gz")
	}
	server.push(packages, "1.deb")
	server.push(deb(t, 2, "noipchat"), "2.deb")

	start := time.Now()
	server.want(install+"/root/1.deb", "noipchat waits for its configuration")
	server.want("systemctl is-enabled noipchat.socket noipchat.service; systemctl is-active noipchat.socket noipchat.service; systemctl --failed --no-legend | wc -l",
		"enabled\nenabled\ninactive\ninactive\n0")
	server.want("stat -c '%U:%G %a' /etc/noipchat /etc/noipchat/conf.d /run/noipchat", "root:noipchat 750\nroot:noipchat 750\nnoipchat:noipchat-admin 2755")
	address := strings.Fields(server.sh("hostname -I"))[0]
	server.sh(strings.ReplaceAll(readme(t), "203.0.113.5", address))
	server.sh("for u in alice bob carol dave; do echo correct horse | noipctl user add $u --password-stdin; done")
	server.sh("systemctl stop noipchat.service")
	server.want("! systemctl is-active noipchat.service", "inactive")
	login := func(h *host, user string) {
		h.sh(fmt.Sprintf("echo correct horse | noipchat --profile %[1]s login %[1]s@server1 --server %[2]s:10001 --trust-first --password-stdin", user, address))
	}
	login(left, "alice")
	server.want("systemctl is-active noipchat.service", "active")
	login(right, "bob")
	left.sh("noipchat --profile alice send bob@server1 -m 'the first one' --wait held")
	right.want("noipchat --profile bob receive --timeout 60s", "the first one")
	t.Logf("from the beginning of the installation to the first message: %.1f s", time.Since(start).Seconds())

	server.configure(house)
	server.sh("noipctl reload")
	login(left, "carol")
	login(right, "dave")
	right.follow("bob")
	left.follow("carol")
	sessions := `noipctl session list --json | grep -E '"(bob|carol)@' | grep -oE '"id":"[0-9]+"' | sort | tr '\n' ' '`
	server.sh("until [ $(" + sessions + " | wc -w) = 2 ]; do sleep 0.1; done")

	// 100 changes, while they talk.
	before := server.sh(sessions)
	talking := make(chan string, 1)
	go func() {
		out, err := left.try("ok=0; for i in $(seq 40); do noipchat --profile alice send bob@server1 carol@server1 -m \"during changes $i.\" --wait delivered >/dev/null && ok=$((ok+1)); done; echo $ok")
		talking <- fmt.Sprint(out, err)
	}()
	server.want(changes, "60 40")
	if out := <-talking; out != "40<nil>" {
		t.Errorf("of 40 messages during changes arrived: %s", out)
	}
	if after := server.sh(sessions); after != before || before == "" {
		t.Errorf("sessions before the changes %q, and after %q", before, after)
	}

	// An upgrade, while they talk.
	knocking := left.knocking(address)
	go func() {
		out, err := right.try("ok=0; for i in $(seq 20); do noipchat --profile dave send bob@server1 carol@server1 -m \"during the upgrade $i.\" --wait delivered --timeout 60s >/dev/null && ok=$((ok+1)); done; echo $ok")
		talking <- fmt.Sprint(out, err)
	}()
	old := server.sh("noipctl status --json | grep -o '\"version\":\"[^\"]*\"'")
	pid := server.sh("systemctl show -p MainPID --value noipchat")
	if out := server.sh(install + "/root/2.deb"); !regexp.MustCompile(`handed over from .*, [23] sessions`).MatchString(out) { // the third is dave's, if he is writing just then
		t.Errorf("the upgrade says\n%s", out)
	}
	if now := server.sh("noipctl status --json | grep -o '\"version\":\"[^\"]*\"'"); now == old {
		t.Errorf("the version is %s before and after the upgrade", now)
	}
	if now := server.sh("systemctl show -p MainPID --value noipchat"); now != pid {
		t.Error("the upgrade has restarted the service")
	}
	if after := server.sh(sessions); after != before {
		t.Errorf("sessions before the upgrade %q, and after %q", before, after)
	}
	if out := <-talking; out != "20<nil>" {
		t.Errorf("of 20 messages during the upgrade arrived: %s", out)
	}
	t.Logf("an upgrade under %d connections, none refused", knocking())
	// What asks which services run old programs finds nothing to do.
	server.want("needrestart -b -r l; needrestart -b -r l | grep -c noipchat; true", "NEEDRESTART-VER", "\n0")
	for h, user := range map[*host]string{left: "carol", right: "bob"} {
		for what, n := range map[string]int{"during changes": 40, "during the upgrade": 20} {
			if have := h.count(fmt.Sprintf("grep -o '%s [0-9]*' /root/%s.log | sort | uniq -c | grep -c ' 1 %s'", what, user, what)); have != n {
				t.Errorf("%s has %d of %d messages %s exactly once", user, have, n, what)
			}
		}
	}

	// Where it can't hand over it is restarted, which is said.
	server.configure(house + added)
	server.want("noipctl reload --confirm 10m && "+install+"/root/1.deb 2>&1; systemctl is-active noipchat",
		"a configuration waits to be confirmed", "it could not hand over, so it is restarted", "\nactive")
	if now := server.sh("systemctl show -p MainPID --value noipchat"); now == pid {
		t.Error("the upgrade has left the old program running")
	}
	server.configure(house)
	server.sh(install + "/root/2.deb")

	// With a mistake in the configuration an upgrade leaves alone what runs.
	pid = server.sh("systemctl show -p MainPID --value noipchat")
	server.configure("max_hopp = 3\n" + house)
	server.want(install+"/root/1.deb 2>&1", "noipchat.toml:1: unknown key max_hopp", "the version before goes on running")
	server.want("systemctl show -p MainPID --value noipchat; noipctl status", pid, "REFUSED")
	server.want("test -e /usr/share/doc/noipchat/spool.md; umask 077; echo >/etc/noipchat/conf.d/new.toml; noipctl reload 2>&1; systemd-tmpfiles --create noipchat.conf; stat -c '%G %a' /etc/noipchat/conf.d/new.toml; rm /etc/noipchat/conf.d/new.toml",
		"new.toml: reading configuration: permission denied", "noipchat 640")

	// A log in a file, rotated.
	server.configure("log = \"/var/log/noipchat/noipchat.log\"\n" + house)
	server.want(`systemctl restart noipchat && noipctl user disable carol && logrotate -f /etc/logrotate.d/noipchat
noipctl reload && noipctl user enable carol
cd /var/log/noipchat && stat -c '%U %a' noipchat.log && grep -c user/disable noipchat.log.1; grep -c user/enable noipchat.log`, "noipchat 640\n1\n1")
	server.configure(house)
	server.sh("systemctl restart noipchat")

	// What the admin has disabled or masked stays so, through upgrades and all.
	server.sh("systemctl -q disable --now noipchat.socket noipchat.service")
	server.want(install+"/root/1.deb >/dev/null; systemctl is-enabled noipchat.socket noipchat.service; systemctl is-active noipchat.socket noipchat.service; true", "disabled\ndisabled\ninactive\ninactive")
	server.sh("systemctl -q mask noipchat.service")
	server.want(install+"/root/2.deb >/dev/null; systemctl is-enabled noipchat.service; true", "masked")
	server.sh("systemctl -q unmask noipchat.service && systemctl -q enable --now noipchat.socket noipchat.service")

	// Removed, and installed again.
	right.sh("systemctl stop bob")
	left.sh("noipchat --profile alice send bob@server1 -m 'while he is away' --wait held")
	server.want(connect+"apt-get remove -y noipchat >/dev/null; connect 127.0.0.1 10001; systemctl list-units --all --no-legend 'noipchat*' | grep -vc not-found; ls /var/lib/noipchat/key",
		"10001 down\n0\n/var/lib/noipchat/key")
	server.want(install+"/root/2.deb >/dev/null; noipctl user list; systemctl is-active noipchat.service", "alice", "dave", "\nactive")
	right.want("noipchat --profile bob receive --timeout 60s", "while he is away")

	// Purged: the configuration goes, and what can't be had again stays.
	left.sh("noipchat --profile alice send bob@server1 -m 'before the purge' --wait held")
	server.want("apt-get purge -y noipchat; ls /etc/noipchat /var/log/noipchat 2>&1; systemctl is-enabled noipchat.service 2>&1; true",
		"messages stay in /var/lib/noipchat", "'/etc/noipchat': No such file", "'/var/log/noipchat': No such file")
	server.sh(install + "/root/2.deb")
	server.configure(house)
	server.sh("systemctl daemon-reload && systemctl start noipchat.socket")
	right.want("noipchat --profile bob receive --timeout 60s", "before the purge")

	if out := server.sh("systemd-analyze verify --man=no noipchat.service noipchat.socket 2>&1"); out != "" {
		t.Errorf("systemd-analyze verify: %s", out)
	}
	t.Log(server.sh("systemd-analyze security noipchat.service | tail -1"))
	server.sh("systemctl restart noipchat && noipctl status")
	kib := server.count("sed -n 's/^VmRSS: *//p' /proc/$(systemctl show -p MainPID --value noipchat)/status")
	t.Logf("idle: %.1f MiB", float64(kib)/1024)
	if kib > 20<<10 {
		t.Errorf("the idle server has %d KiB", kib)
	}
	for _, program := range []string{"noipchatd", "noipctl"} {
		size := server.count("stat -L -c %s /usr/bin/" + program)
		t.Logf("%s: %.1f MB", program, float64(size)/1e6)
		if size > 25_000_000 {
			t.Errorf("%s has %d bytes", program, size)
		}
	}
}

// TestRPM has rpm itself run the scripts, on a system that is Debian otherwise.
func TestRPM(t *testing.T) {
	t.Parallel()
	one := rpm(t, 1, "noipchat")
	h := up(t, "p", "bookworm", "--with", "logrotate,rpm")
	h.push(one, "1.rpm")
	h.push(rpm(t, 2, "noipchat"), "2.rpm")
	h.push(rpm(t, 2, "noipchat-client"), "client.rpm")

	h.sh("rpm -i --nodeps /root/1.rpm /root/client.rpm && rpm -V --nodeps noipchat noipchat-client")
	h.want("stat -c '%U:%G %a' /etc/noipchat /run/noipchat; systemctl is-enabled noipchat.socket noipchat.service; systemctl --failed --no-legend | wc -l",
		"root:noipchat 750\nnoipchat:noipchat-admin 2755\nenabled\nenabled\n0")
	h.want("rpm -qd noipchat", "/usr/share/man/man8/noipchatd.8.gz", "examples/noipchat.toml")
	h.configure(house)
	h.want(connect+"systemctl daemon-reload && systemctl enable --now noipchat.socket noipchat.service && connect ::1 10001", "10001 up")
	h.sh("echo correct horse | noipctl user add alice --password-stdin")
	h.sh("echo correct horse | noipchat login alice@server1 --server 127.0.0.1:10001 --trust-first --password-stdin && noipchat send alice@server1 -m 'to myself' --wait held")

	before := h.sh("noipctl status --json | grep -o '\"version\":\"[^\"]*\"'")
	pid := h.sh("systemctl show -p MainPID --value noipchat")
	knocking := h.knocking("127.0.0.1")
	h.want("rpm -U --nodeps /root/2.rpm", "handed over from ")
	h.want("systemctl show -p MainPID --value noipchat", pid)
	if now := h.sh("noipctl status --json | grep -o '\"version\":\"[^\"]*\"'"); now == before {
		t.Errorf("the version is %s before and after the upgrade", now)
	}
	t.Logf("an upgrade under %d connections, none refused", knocking())
	h.want("systemctl -q disable noipchat.service; rpm -U --nodeps --oldpackage /root/1.rpm; systemctl is-enabled noipchat.service; systemctl is-active noipchat.service; true", "disabled\nactive")

	h.want(connect+"rpm -e noipchat; connect 127.0.0.1 10001; systemctl list-units --all --no-legend 'noipchat*' | wc -l; ls /var/lib/noipchat/key", "10001 down\n0\n/var/lib/noipchat/key")
	h.want("rpm -i --nodeps /root/2.rpm; ls /etc/noipchat; systemctl daemon-reload; systemctl start noipchat.service; noipctl user list", "alice")
	h.want("noipchat receive --timeout 60s", "to myself")
}
