package packaging_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// untried are the lines of the sandbox that no attack of ours can try, and why.
var untried = map[string]string{
	"RemoveIPC":               "what it leaves behind is in its private namespace, and goes with that",
	"SystemCallArchitectures": "it takes a program for another processor",
	"SystemCallErrorNumber":   "it says how the others fail",
}

// TestSandbox: a program that takes the place of noipchatd can do nothing that the
// unit forbids, and everything that the server needs. Outside of the sandbox, as the
// same user, most of the same attacks succeed: they are real.
func TestSandbox(t *testing.T) {
	t.Parallel()
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite, func(t *testing.T) {
			h := boot(t, suite)
			h.configure(house)
			attack := filepath.Join(t.TempDir(), "noipchatd")
			build := exec.Command("go", "build", "-o", attack, "./attack")
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			h.sh(`for f in /etc/open /usr/open /var/lib/open /opt/open /run/open /etc/noipchat/open /home/open /root/open /tmp/open; do echo >$f; chmod 666 $f; done
chmod 755 /root
mknod -m 666 /dev/open c 1 3 || echo >/dev/open
for ns in user ipc mnt uts; do readlink /proc/1/ns/$ns >/etc/open-$ns; done`)
			h.tool("push", h.name, attack, "/usr/lib/noipchat/")

			lines := func(script string) []string {
				out := h.sh(script)
				_, out, _ = strings.Cut(out, "BEGIN\n")
				if !strings.Contains(out, "end of attacks") {
					t.Fatalf("%s\n%s", script, out)
				}
				return strings.Split(out, "\n")
			}
			result := func(lines []string, directive string) (all []string) {
				for _, line := range lines {
					if rest, ok := strings.CutPrefix(line, directive+": "); ok {
						all = append(all, strings.SplitN(rest, ":", 2)[0])
					}
				}
				return all
			}
			const attacked = "systemctl start noipchat.service; systemctl stop noipchat.service; echo BEGIN; journalctl --sync; journalctl -u noipchat.service --no-pager -o cat; journalctl --rotate -q --vacuum-time=1s 2>/dev/null; true"

			inside := lines(attacked)
			for _, line := range inside {
				if strings.HasSuffix(line, ": broken") || strings.HasPrefix(line, "needs ") && !strings.HasSuffix(line, ": has it") {
					t.Error("in the sandbox: " + line)
				}
			}
			_, unit, _ := strings.Cut(read(t, "systemd/noipchat.service"), "UMask=")
			unit, _, _ = strings.Cut("UMask="+unit, "[Install]")
			directives := 0
			for _, m := range regexp.MustCompile(`(?m)^(\w+)=`).FindAllStringSubmatch(unit, -1) {
				directives++
				if len(result(inside, m[1])) == 0 && untried[m[1]] == "" {
					t.Errorf("nothing attacks %s=", m[1])
				}
			}
			if directives < 30 {
				t.Errorf("only %d lines of the sandbox were found", directives)
			}

			outside := lines("systemctl stop noipchat.socket noipchat.service; echo BEGIN; install -d -o noipchat /var/log/noipchat; umask 022; setpriv --reuid=noipchat --regid=noipchat --clear-groups /usr/bin/noipchatd")
			for _, directive := range []string{
				"CapabilityBoundingSet", "NoNewPrivileges", "ProtectSystem", "ReadOnlyPaths", "ProtectHome", "NoExecPaths", "ExecPaths", "ProtectProc", "ProcSubset",
				"PrivateTmp", "PrivateDevices", "PrivateUsers", "PrivateIPC", "PrivateMounts", "ProtectHostname", "ProtectKernelTunables",
				"RestrictAddressFamilies", "RestrictSUIDSGID", "LockPersonality", "MemoryDenyWriteExecute", "SystemCallFilter", "UMask",
			} {
				if !strings.Contains(strings.Join(result(outside, directive), " "), "broken") {
					t.Errorf("outside of the sandbox the attacks on %s= fail too, so they show nothing: %v", directive, result(outside, directive))
				}
			}

			// The drop-in lets it run what is installed, and nothing else.
			h.tool("push", h.name, "systemd/exec-links.conf", "/usr/share/")
			h.sh("mkdir -p /etc/systemd/system/noipchat.service.d; ln -s /usr/share/exec-links.conf /etc/systemd/system/noipchat.service.d/; systemctl daemon-reload")
			linked := lines(attacked)
			for _, line := range linked {
				if strings.HasSuffix(line, ": broken") && !strings.HasPrefix(line, "NoExecPaths") && !strings.HasPrefix(line, "ExecPaths") {
					t.Error("with exec-links.conf: " + line)
				}
			}
			if have := strings.Join(result(linked, "NoExecPaths"), " "); have != "broken held held held held held held" {
				t.Errorf("with exec-links.conf, to execute what is installed and what it wrote: %s", have)
			}
		})
	}
}
