// Command attack is put in the place of noipchatd on a test host, and tries from there
// what the unit forbids. It writes a line for each attempt to standard output:
// "DIRECTIVE: held", with the error, or "DIRECTIVE: broken". An attempt harms nothing
// if it succeeds.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// attempt is nil if the attack has succeeded.
type attempt struct {
	directive string // of the unit, that should make it fail
	try       func() error
}

const state = "/var/lib/noipchat"

// The test prepares for it, so that nothing but the sandbox is in the way: files
// called "open" that everybody may write, and the names of the host's namespaces.
var attempts = []attempt{
	{"CapabilityBoundingSet", statusIs("CapBnd", "0000000000000000")},
	{"AmbientCapabilities", statusIs("CapAmb", "0000000000000000")},
	{"NoNewPrivileges", statusIs("NoNewPrivs", "1")},
	{"ProtectSystem", write("/etc/open")},
	{"ProtectSystem", write("/usr/open")},
	{"ProtectSystem", write("/var/lib/open")},
	{"ProtectSystem", write("/opt/open")},
	{"ReadWritePaths", write("/etc/noipchat/open")},
	{"ReadOnlyPaths", write("/run/open")},
	{"ProtectHome", read("/home/open")},
	{"ProtectHome", read("/root/open")},
	{"NoExecPaths", execute("/bin/sh", "-c", "true")},
	{"NoExecPaths", executeOwn(state)},
	{"NoExecPaths", executeOwn("/var/log/noipchat")},
	{"NoExecPaths", executeOwn("/run/noipchat")},
	{"NoExecPaths", executeOwn("/tmp")},
	{"NoExecPaths", executeOwn("/var/tmp")},
	{"NoExecPaths", executeOwn("/dev/shm")},
	{"ExecPaths", execute("/usr/bin/env")},
	{"ProtectProc", read("/proc/1/comm")},
	{"ProcSubset", read("/proc/cpuinfo")},
	{"PrivateTmp", read("/tmp/open")},
	{"PrivateDevices", strangeDevice},
	{"PrivateUsers", sameNamespace("user")},
	{"PrivateIPC", sameNamespace("ipc")},
	{"PrivateMounts", sameNamespace("mnt")},
	{"ProtectHostname", sameNamespace("uts")},
	{"ProtectHostname", func() error { return unix.Sethostname([]byte("broken")) }},
	{"ProtectClock", func() error {
		_, _, errno := unix.Syscall(unix.SYS_CLOCK_SETTIME, unix.CLOCK_REALTIME, 0, 0)
		if errno == unix.EFAULT {
			return nil // it was let in, and found that we gave no time
		}
		return errno
	}},
	{"ProtectControlGroups", writable("/sys/fs/cgroup")},
	{"ProtectKernelTunables", writable("/sys")},
	{"ProtectKernelTunables", read("/proc/sys/kernel/hostname")},
	{"ProtectKernelLogs", func() error { _, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil); return err }},
	{"ProtectKernelModules", func() error { _, err := os.ReadDir("/usr/lib/modules"); return err }},
	{"RestrictAddressFamilies", socket(unix.AF_NETLINK, unix.SOCK_RAW)},
	{"RestrictAddressFamilies", socket(unix.AF_PACKET, unix.SOCK_RAW)},
	{"RestrictAddressFamilies", socket(unix.AF_ALG, unix.SOCK_SEQPACKET)},
	{"CapabilityBoundingSet", socket(unix.AF_INET, unix.SOCK_RAW)},
	{"RestrictNamespaces", func() error { return unix.Unshare(unix.CLONE_NEWUSER) }},
	{"RestrictNamespaces", func() error { return unix.Unshare(unix.CLONE_NEWNET) }},
	{"RestrictRealtime", func() error {
		return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
	}},
	{"RestrictSUIDSGID", func() error {
		path := filepath.Join(state, "setuid")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return err
		}
		defer os.Remove(path)
		return unix.Chmod(path, 0o4755)
	}},
	{"LockPersonality", func() error {
		const linux32 = 8
		_, _, errno := unix.Syscall(unix.SYS_PERSONALITY, linux32, 0, 0)
		if errno != 0 {
			return errno
		}
		return nil
	}},
	{"MemoryDenyWriteExecute", func() error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
		return err
	}},
	{"MemoryDenyWriteExecute", func() error {
		b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			return nil
		}
		return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
	}},
	{"SystemCallFilter", func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, 19) }},
	{"SystemCallFilter", func() error { return unix.Chroot("/") }},
	{"SystemCallFilter", func() error { return unix.Mount("none", state, "tmpfs", 0, "") }},
	{"UMask", func() error {
		path := filepath.Join(state, "mask")
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o666)
		if err != nil {
			return err
		}
		defer os.Remove(path)
		defer f.Close()
		info, err := f.Stat()
		if err == nil && info.Mode().Perm() == 0o600 {
			err = errors.New("it is for nobody else")
		}
		return err
	}},
}

// needs are what the service must be able to do in the same sandbox.
var needs = []attempt{
	{"state", rewrite(filepath.Join(state, "needed"))},
	{"log", rewrite("/var/log/noipchat/needed")},
	{"runtime", rewrite("/run/noipchat/needed")},
	{"listen", func() error {
		l, err := net.Listen("tcp", "127.0.0.1:20001")
		if err == nil {
			err = l.Close()
		}
		return err
	}},
	{"configuration", read("/etc/noipchat/noipchat.toml")},
}

func main() {
	for _, a := range attempts {
		if err := a.try(); err != nil {
			fmt.Printf("%s: held: %v\n", a.directive, err)
		} else {
			fmt.Printf("%s: broken\n", a.directive)
		}
	}
	for _, n := range needs {
		if err := n.try(); err != nil {
			fmt.Printf("needs %s: %v\n", n.directive, err)
		} else {
			fmt.Printf("needs %s: has it\n", n.directive)
		}
	}
	fmt.Println("end of attacks")
	if told, _ := daemon.SdNotify(false, daemon.SdNotifyReady); told {
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, unix.SIGTERM)
		<-stop // who ends at once may be gone before systemd asks who it was
	}
}

func statusIs(key, want string) func() error {
	return func() error {
		b, err := os.ReadFile("/proc/self/status")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			if k, v, _ := strings.Cut(line, ":"); k == key {
				if v = strings.TrimSpace(v); v == want {
					return errors.New(key + " is " + v)
				}
				return nil
			}
		}
		return errors.New(key + " is nowhere")
	}
}

func write(path string) func() error {
	return func() error {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			f.Close()
		}
		return err
	}
}

func rewrite(path string) func() error {
	return func() error {
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			return err
		}
		return os.Remove(path)
	}
}

func read(path string) func() error {
	return func() error { _, err := os.ReadFile(path); return err }
}

func execute(name string, args ...string) func() error {
	return func() error { return exec.Command(name, args...).Run() }
}

// executeOwn executes a program that it has written into a folder.
func executeOwn(dir string) func() error {
	return func() error {
		program, err := os.ReadFile("/usr/bin/true")
		if err != nil {
			return err
		}
		path := filepath.Join(dir, "own")
		defer os.Remove(path)
		if err := os.WriteFile(path, program, 0o700); err != nil {
			return err
		}
		return exec.Command(path).Run()
	}
}

// strangeDevice looks for one that a service has no use for.
func strangeDevice() error {
	_, err := os.Stat("/dev/open")
	return err
}

// sameNamespace succeeds if we share one with the host, whose is in a file.
func sameNamespace(kind string) func() error {
	return func() error {
		own, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			return err
		}
		host, err := os.ReadFile("/etc/open-" + kind)
		if err != nil {
			return err
		}
		if own != strings.TrimSpace(string(host)) {
			return fmt.Errorf("it is in %s, and the host in %s", own, host)
		}
		return nil
	}
}

func writable(path string) func() error {
	return func() error {
		var fs unix.Statfs_t
		if err := unix.Statfs(path, &fs); err != nil {
			return err
		}
		if fs.Flags&unix.ST_RDONLY != 0 {
			return errors.New("it is mounted read-only")
		}
		return nil
	}
}

func socket(family, kind int) func() error {
	return func() error {
		fd, err := unix.Socket(family, kind, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
}
