// Package packaging_test installs what this folder has on hosts with a real systemd.
// It needs a tool that boots them, whose path is in $NOIPCHAT_LAB: "lab up NAME
// --suite S", "lab push NAME FILE… DIR", "lab run NAME -- COMMAND", "lab down NAME".
package packaging_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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

// up boots a host of a suite, with Debian packages besides the least.
func up(t *testing.T, name, suite string, with ...string) *host {
	t.Helper()
	lab := os.Getenv("NOIPCHAT_LAB")
	if lab == "" || os.Geteuid() != 0 {
		t.Skip("it needs root, and hosts with a systemd: $NOIPCHAT_LAB")
	}
	h := &host{t, lab, fmt.Sprintf("%s%d", name, os.Getpid()%100_000)}
	t.Cleanup(func() { exec.Command(lab, "down", h.name).Run() })
	h.tool(append([]string{"up", h.name, "--suite", suite}, with...)...)
	return h
}

// boot makes a host of a suite with the programs and units of this tree.
func boot(t *testing.T, suite string) *host {
	t.Helper()
	h := up(t, "n"+suite[:2], suite)
	files, err := filepath.Glob(filepath.Join(programs(t), "*"))
	if err != nil {
		t.Fatal(err)
	}
	h.tool(append(append([]string{"push", h.name}, files...), "/usr/bin/")...)
	h.tool("push", h.name, "systemd/noipchat.service", "systemd/noipchat.socket", "/usr/lib/systemd/system/")
	h.tool("push", h.name, "sysusers.d/noipchat.conf", "/usr/lib/sysusers.d/")
	h.tool("push", h.name, "tmpfiles.d/noipchat.conf", "/usr/lib/tmpfiles.d/")
	h.sh(`mkdir -p /usr/lib/systemd/system-generators
ln -s ../../../bin/noipchatd /usr/lib/systemd/system-generators/noipchat-generator
systemd-sysusers noipchat.conf && systemd-tmpfiles --create noipchat.conf
systemctl daemon-reload && systemctl -q enable noipchat.service noipchat.socket`)
	return h
}

const (
	connect = "connect() { (exec 3<>/dev/tcp/$1/$2) 2>/dev/null && echo $2 up || echo $2 down; }\n"
	house   = "name = \"server1\"\n[[interface]]\nbind = \"0.0.0.0:10001\"\n[[interface]]\nbind = \"[::]:10001\"\n"
	added   = "[[interface]]\nbind = \"127.0.0.1:10005\"\n"
)

// TestService is the life of a service on both systemds that are supported.
func TestService(t *testing.T) {
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
			h.want("journalctl -u noipchat --no-pager -o cat", "noipchat.toml:1: unknown key max_hopp; did you mean max_hops?")
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
