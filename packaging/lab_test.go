// Package packaging_test installs what this folder has on hosts with a real systemd.
// It needs a tool that boots them, whose path is in $NOIPCHAT_LAB: "lab up NAME
// --suite S", "lab push NAME FILE… DIR", "lab run NAME -- COMMAND", "lab down NAME".
package packaging_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// host is a machine with systemd.
type host struct {
	t         *testing.T
	lab, name string
}

func (h *host) tool(args ...string) string {
	h.t.Helper()
	out, err := exec.Command(h.lab, args...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("lab %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// sh runs a script there that must succeed, and returns what it prints.
func (h *host) sh(script string) string {
	h.t.Helper()
	out, err := h.try(script)
	if err != nil {
		h.t.Fatalf("%s\n%v\n%s\njournal:\n%s", script, err, out, h.journal())
	}
	return out
}

func (h *host) try(script string) (string, error) {
	out, err := exec.Command(h.lab, "run", h.name, "--", "bash", "-c", script).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (h *host) journal() string {
	out, _ := h.try("journalctl -u 'noipchat*' --no-pager -o cat | tail -30")
	return out
}

// want compares a part of what a script prints.
func (h *host) want(script string, parts ...string) {
	h.t.Helper()
	out := h.sh(script)
	for _, part := range parts {
		if !strings.Contains(out, part) {
			h.t.Errorf("%s\nprints\n%s\nwithout %q\njournal:\n%s", script, out, part, h.journal())
		}
	}
}

// configure writes the configuration.
func (h *host) configure(text string) {
	h.t.Helper()
	h.sh("cat >/etc/noipchat/noipchat.toml <<'END'\n" + text + "END\nsystemd-tmpfiles --create noipchat.conf")
}

var reserved atomic.Int32 // hosts: tests run side by side

// reserve names a host, which is there until the end of t.
func reserve(t *testing.T, name string) *host {
	t.Helper()
	lab := os.Getenv("NOIPCHAT_LAB")
	if lab == "" || os.Geteuid() != 0 {
		t.Skip("it needs root, and hosts with a systemd: $NOIPCHAT_LAB")
	}
	unique := strconv.FormatInt(int64(os.Getpid()%(36*36))*36*36+int64(reserved.Add(1)), 36) // names are short
	h := &host{t, lab, strings.TrimSuffix(name, "-") + unique}
	t.Cleanup(func() { exec.Command(lab, "down", "--cut", h.name).Run() })
	return h
}

// up boots a host of a suite, with Debian packages besides the least.
func up(t *testing.T, name, suite string, with ...string) *host {
	t.Helper()
	h := reserve(t, name)
	h.tool(append([]string{"up", h.name, "--suite", suite}, with...)...)
	return h
}

// boot makes a host of a suite with the programs and units of this tree, and Debian
// packages besides the least.
func boot(t *testing.T, suite string, with ...string) *host {
	t.Helper()
	if len(with) > 0 {
		with = []string{"--with", strings.Join(with, ",")}
	}
	h := up(t, "n"+suite[:2], suite, with...)
	h.equip()
	return h
}

// equip installs the programs and units of this tree there.
func (h *host) equip() {
	h.t.Helper()
	files, err := filepath.Glob(filepath.Join(programs(h.t), "*"))
	if err != nil {
		h.t.Fatal(err)
	}
	h.sh("mkdir -p /usr/lib/noipchat && ln -s ../lib/noipchat/noipchatd ../lib/noipchat/noipctl ../lib/noipchat/noipchat /usr/bin/")
	h.tool(append(append([]string{"push", h.name}, files...), "/usr/lib/noipchat/")...)
	h.tool("push", h.name, "systemd/noipchat.service", "systemd/noipchat.socket", "/usr/lib/systemd/system/")
	h.tool("push", h.name, "sysusers.d/noipchat.conf", "/usr/lib/sysusers.d/")
	h.tool("push", h.name, "tmpfiles.d/noipchat.conf", "/usr/lib/tmpfiles.d/")
	h.sh(`mkdir -p /usr/lib/systemd/system-generators
ln -s ../../../bin/noipchatd /usr/lib/systemd/system-generators/noipchat-generator
systemd-sysusers noipchat.conf && systemd-tmpfiles --create noipchat.conf
systemctl daemon-reload && systemctl -q enable noipchat.service noipchat.socket`)
}

const (
	connect = "connect() { (exec 3<>/dev/tcp/$1/$2) 2>/dev/null && echo $2 up || echo $2 down; }\n"
	house   = "name = \"server1\"\n[[interface]]\nbind = \"0.0.0.0:10001\"\n[[interface]]\nbind = \"[::]:10001\"\n"
	added   = "[[interface]]\nbind = \"127.0.0.1:10005\"\n"
)

// TestService is the life of a service on both systemds that are supported.
func TestService(t *testing.T) {
	t.Parallel()
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite, func(t *testing.T) {
			h := boot(t, suite)
			// A fresh install is quiet.
			h.want(`systemctl start noipchat.socket noipchat.service; systemctl is-active noipchat.service noipchat.socket; systemctl --failed --no-legend | wc -l`,
				"inactive\ninactive\n0")
			// Its first connection starts it.
			h.configure(house)
			h.want("systemctl daemon-reload && systemctl start noipchat.socket && ! systemctl is-active noipchat.service", "inactive")
			h.want(connect+"connect 127.0.0.1 10001; connect ::1 10001; noipctl status; systemctl is-active noipchat.service",
				"10001 up\n10001 up", "listening tcp 0.0.0.0:10001", "listening tcp [::]:10001", "\nactive")
			h.want("systemctl show -p StatusText noipchat", "server1: 0 sessions, 0 messages wait")
			// An interface is added, and a mistake refused, with its line everywhere.
			h.configure(house + added)
			h.want(connect+"systemctl reload noipchat && connect 127.0.0.1 10005", "10005 up")
			h.configure("max_hopp = 3\n" + house)
			h.want(connect+"! systemctl reload noipchat 2>/dev/null && systemctl show -p StatusText -p ActiveState noipchat; noipctl status; connect 127.0.0.1 10005",
				"noipchat.toml:1: unknown key max_hopp", "ActiveState=active", "REFUSED", "10005 up")
			h.want("journalctl --sync; journalctl -u noipchat --no-pager -o cat", "noipchat.toml:1: unknown key max_hopp; did you mean max_hops?")
			// What it bound itself survives its death and a restart.
			h.configure(house + added)
			h.want(connect+"systemctl reload noipchat; kill -9 $(systemctl show -p MainPID --value noipchat); connect 127.0.0.1 10005; connect 127.0.0.1 10001; noipctl status",
				"10005 up\n10001 up", "listening tcp 127.0.0.1:10005")
			h.want(connect+"systemctl restart noipchat; connect 127.0.0.1 10005; noipctl status", "10005 up", "listening tcp 127.0.0.1:10005", "listening tcp [::]:10001")
			// What goes is gone, whoever has a copy; and comes back.
			h.configure(strings.Split(house, "[[interface]]\nbind = \"[::]")[0])
			h.want(connect+"systemctl reload noipchat; connect 127.0.0.1 10005; connect ::1 10001; connect 127.0.0.1 10001", "10005 down\n10001 down\n10001 up")
			h.configure(house)
			h.want(connect+"systemctl reload noipchat; connect ::1 10001; systemctl restart noipchat; connect ::1 10001; connect 127.0.0.1 10001; systemctl list-units --failed --no-legend 'noipchat*' | wc -l",
				"10001 up\n10001 up\n10001 up\n0")
			// One unit stops and starts it all.
			h.want(connect+"systemctl stop noipchat.socket noipchat.service; connect 127.0.0.1 10001; systemctl start noipchat.socket; connect 127.0.0.1 10001; noipctl status >/dev/null && systemctl is-active noipchat",
				"10001 down\n10001 up\nactive")
			// With a mistake it does not start, however many connect; the sockets stay, and serve when it is mended.
			h.configure("max_hopp = 3\n" + house)
			h.want(connect+"! systemctl restart noipchat 2>&1; for i in $(seq 40); do connect 127.0.0.1 10001; done | sort | uniq -c; noipctl --timeout 20s status 2>&1; systemctl is-active noipchat.socket noipchat-tcp-0.0.0.0:10001.socket",
				"40 10001 up", "went away", "active\nactive")
			h.configure(house)
			h.want(connect+"until systemctl start noipchat; do sleep 0.2; done; connect 127.0.0.1 10001; noipctl status; systemctl list-units --failed --no-legend 'noipchat*' | wc -l; journalctl -u 'noipchat*.socket' | grep -c 'rigger limit' || true",
				"10001 up", "listening tcp [::]:10001", "\n0\n0")
			// Only systemd can open a port below 1024.
			h.configure(house + "[[interface]]\nbind = \"127.0.0.1:443\"\n")
			h.want(connect+`! noipctl reload 2>&1
systemctl daemon-reload && systemctl stop noipchat.socket noipchat.service && systemctl start noipchat.socket noipchat.service
connect 127.0.0.1 443; connect 127.0.0.1 10001; systemctl list-units --failed --no-legend 'noipchat*' | wc -l`,
				"permission denied: systemd must open a port below 1024: systemctl daemon-reload && systemctl stop noipchat.socket noipchat.service && systemctl start", "443 up\n10001 up\n0")
			// As the manual says, nothing is left of one that goes.
			h.configure(house)
			h.want("noipctl reload && systemctl daemon-reload && systemctl stop noipchat-tcp-127.0.0.1:443.socket; systemctl reset-failed 'noipchat-*'; systemctl restart noipchat; systemctl list-units --all --no-legend 'noipchat*' | wc -l; systemctl list-units --failed --no-legend 'noipchat*' | wc -l",
				"4\n0")
			// Its group may administer.
			h.want("useradd -G noipchat-admin carol && setpriv --reuid=carol --regid=carol --init-groups noipctl status", "listening")
			// The control socket is noipchat-admin's also if the server makes it.
			h.want("systemctl stop noipchat.socket noipchat.service && systemctl mask -q noipchat.socket && systemctl start noipchat.service && stat -c '%U:%G %a' /run/noipchat/control.sock && systemctl unmask -q noipchat.socket && systemctl stop noipchat.service && systemctl start noipchat.socket noipchat.service",
				"noipchat:noipchat-admin 660")
			score := h.sh("systemd-analyze security noipchat.service | tail -1")
			var exposure float64
			if _, err := fmt.Sscanf(score[strings.LastIndex(score, ":")+1:], "%f", &exposure); err != nil || exposure > 1.1 {
				t.Errorf("exposure: %s, %v", score, err)
			}
			t.Log(score)
		})
	}
}

// holding is what a service has.
type holding struct {
	fds, goroutines, threads, kib, files int
}

// holds counts what the server has, which serves its metrics at port 10009.
func (h *host) holds() (n holding) {
	h.t.Helper()
	out := h.sh(`pid=$(systemctl show -p MainPID --value noipchat)
exec 3<>/dev/tcp/127.0.0.1/10009
printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3
goroutines=$(sed -n 's/^go_goroutines //p' <&3)
exec 3>&-
echo $(ls /proc/$pid/fd | wc -l) $goroutines $(awk '/^Threads/ { threads = $2 } /^VmRSS/ { kib = $2 } END { print threads, kib }' /proc/$pid/status) $(find /var/lib/noipchat /run/noipchat /var/log/noipchat | wc -l)`)
	if _, err := fmt.Sscan(out, &n.fds, &n.goroutines, &n.threads, &n.kib, &n.files); err != nil {
		h.t.Fatal(out, err)
	}
	return n
}

// TestHandoff: in the sandbox, under both systemds, a server hands over to the program
// that has replaced it on disk, a hundred times, holds what it held before that, and
// systemd sees the same service.
func TestHandoff(t *testing.T) {
	t.Parallel()
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite, func(t *testing.T) {
			h := boot(t, suite)
			const house = house + "[metrics]\nlisten = \"127.0.0.1:10009\"\n"
			h.configure(house)
			h.sh("systemctl daemon-reload && systemctl start noipchat.socket noipchat.service")
			h.sh(`for u in alice bob; do
	echo correct horse | noipctl user add $u --password-stdin
	echo correct horse | noipchat --profile $u login $u@server1 --server 127.0.0.1:10001 --trust-first --password-stdin
done
systemd-run -q --unit=bob -p StandardOutput=append:/root/bob.log noipchat --home /root/.local/state/noipchat --profile bob receive --follow --json
until noipctl session list --json | grep -q bob@; do sleep 0.1; done`)
			h.configure(house + added)
			h.want(connect+"systemctl reload noipchat && connect 127.0.0.1 10005", "10005 up")
			const state = "systemctl show -p MainPID -p ActiveState -p SubState -p NRestarts -p NFileDescriptorStore noipchat.service; noipctl session list --json | grep -o '\"id\":\"[0-9]*\"' | head -1"
			before := h.sh(state)
			// As a package manager does, which the mounts of the sandbox must stand.
			const handOver = `handover() {
	cp /usr/lib/noipchat/noipchatd /usr/lib/noipchat/noipchatd.new && mv /usr/lib/noipchat/noipchatd.new /usr/lib/noipchat/noipchatd
	noipctl handoff --reason "number $1" && case $1 in *0) noipchat --profile alice send bob@server1 -m "after handoff $1." --wait delivered >/dev/null;; esac || echo LOST
}
`
			const handoffs = 100
			h.want(handOver+"handover 0", "1 sessions", "(number 0)") // what is there only after one is no leak
			first := h.holds()
			began := time.Now()
			if out := h.sh(fmt.Sprintf("%sfor i in $(seq %d); do handover $i; done", handOver, handoffs)); strings.Count(out, "handed over") != handoffs || strings.Contains(out, "LOST") {
				t.Error(out)
			}
			if after := h.sh(state); after != before {
				t.Errorf("before the handoffs:\n%s\nand after:\n%s", before, after)
			}
			last := h.holds()
			t.Logf("after one handoff %+v, after %d more, in %v, %+v", first, handoffs, time.Since(began).Round(time.Second), last)
			const some = 8 // the spool's files and goroutines come and go
			if last.fds > first.fds+some || last.goroutines > first.goroutines+some || last.threads > first.threads+some || last.kib > first.kib*3/2 || last.files > first.files+some {
				t.Error("something is left by each")
			}
			h.until(fmt.Sprintf("tried() { [ $(grep -c \"after handoff\" /root/bob.log) -ge %d ]; }", handoffs/10+1)) // what is on bob's disk is printed a moment later
			h.want("grep -o 'after handoff [0-9]*' /root/bob.log | sort | uniq -c | grep -c ' 1 after'; journalctl --sync; journalctl -u noipchat --no-pager -o cat | grep -c 'all was handed over'; noipctl status | grep -c ^handoff",
				fmt.Sprintf("%d\n%d\n3", handoffs/10+1, handoffs+1))
			h.want(connect+"connect 127.0.0.1 10001; connect ::1 10001; connect 127.0.0.1 10005", "10001 up\n10001 up\n10005 up")
			h.want("systemctl show -p StatusText noipchat; readlink /proc/$(systemctl show -p MainPID --value noipchat)/exe; echo end", "sessions", "/usr/lib/noipchat/noipchatd\nend")
			// The last image feeds the watchdog, not only once, and a signal and a new log hand over too.
			h.sh(`fed() { systemctl show -p WatchdogTimestampMonotonic --value noipchat; }
last=$(fed)
[ $last -gt 0 ] && timeout 60 bash -c "$(declare -f fed); until [ \$(fed) -gt $last ]; do sleep 0.2; done"`)
			h.sh(`kill -USR2 $(systemctl show -p MainPID --value noipchat); until noipctl status | grep -q "(SIGUSR2)"; do sleep 0.1; done`)
			h.configure("log = \"/var/log/noipchat/noipchat.log\"\n" + house + added)
			h.want("systemctl reload noipchat; noipctl status; grep -c 'all was handed over' /var/log/noipchat/noipchat.log", "(the configuration)", "\n1")
			// What is wrong with the new program changes nothing.
			h.want("mv /usr/lib/noipchat/noipchatd /usr/lib/noipchat/kept; ! noipctl handoff 2>&1; mv /usr/lib/noipchat/kept /usr/lib/noipchat/noipchatd; noipctl status", "no such file", "FAILED")
			if after := h.sh(state); after != before {
				t.Errorf("before all handoffs:\n%s\nand after:\n%s", before, after)
			}
			// A crash costs a reconnect, and an orderly stop is one.
			h.want(connect+"kill -9 $(systemctl show -p MainPID --value noipchat); connect 127.0.0.1 10005; connect 127.0.0.1 10001; until noipctl session list --json | grep -q bob@; do sleep 0.1; done; systemctl show -p NRestarts noipchat",
				"10005 up\n10001 up", "NRestarts=1")
			h.want("systemctl stop noipchat.socket noipchat.service; systemctl is-failed noipchat.service; true", "inactive")
		})
	}
}
