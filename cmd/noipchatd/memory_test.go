package main

import (
	"fmt"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/noipchat/noipchat/cmd/cli"
)

// scarce are system calls for which a kernel without memory says so. What a program of
// Go needs for itself is not among them: without that it dies, as in a crash. An argument
// is compared where there is one, or has bits.
var scarce = []struct {
	name     string
	call     uint32
	argument uint32 // its number
	compare  uint16 // 0: any
	value    uint32
	want     string
}{
	{"state", unix.SYS_MEMFD_CREATE, 0, 0, 0, "making memory for the state"},
	{"program", unix.SYS_CLONE, 0, unix.BPF_JSET, unix.CLONE_VFORK, "running the new program with --check: fork/exec "}, // and not threads
	{"descriptor", unix.SYS_FCNTL, 1, unix.BPF_JEQ, unix.F_DUPFD_CLOEXEC, "keeping a connection or socket open"},
	{"seal", unix.SYS_FCNTL, 1, unix.BPF_JEQ, unix.F_ADD_SEALS, "sealing the state"},
}

// takeMemory has the kernel say from now on that there is no memory for what the
// environment names in NOIPCHAT_TEST_SCARCE.
func takeMemory() error {
	which, ok := os.LookupEnv("NOIPCHAT_TEST_SCARCE")
	if !ok {
		return nil
	}
	for _, s := range scarce {
		if s.name != which {
			continue
		}
		filter := []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the call's number
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 3, K: s.call},
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 16 + 8*s.argument}, // the lower half, where the processor begins with it
			{Code: unix.BPF_JMP | s.compare | unix.BPF_K, Jt: 0, Jf: 1, K: s.value},
			{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOMEM)},
			{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW},
		}
		if s.compare == 0 {
			filter[3] = unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA}
		}
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
		_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
		if errno != 0 {
			return fmt.Errorf("having memory refused: %w", errno)
		}
		return nil
	}
	return fmt.Errorf("nothing is called %s", which)
}

// TestHandoffMemory: where a step gets no memory, the old program goes on with all
// sessions, and says why.
func TestHandoffMemory(t *testing.T) {
	noipctl := build(t, "noipctl", "noipctl")
	for _, s := range scarce {
		t.Run(s.name, func(t *testing.T) {
			t.Setenv("NOIPCHAT_TEST_SCARCE", s.name)
			h := newTheatre(t, patience)
			f := newFlock(t, 5, h.stage)
			h.start()
			h.must(f.come(h.ctx))
			before, fds := h.sessions(), h.figures().fds
			for range 3 {
				h.refuses(noipctl, s.name, cli.ExitFault, s.want, ": cannot allocate memory")
				h.must(f.advance(h.ctx, f.birds, 2))
			}
			if after := h.sessions(); after != before {
				t.Errorf("sessions were %s, and are %s", before, after)
			}
			if n := h.figures().fds; n > fds+8 { // those of the spool come and go
				t.Errorf("%d descriptors are open, and %d were", n, fds)
			}
			_, err := f.settle(h.ctx)
			h.must(err)
			h.must(f.leave())
			seen := nonces{}
			for _, b := range f.birds {
				h.must(seen.hear(b.tapes...))
			}
		})
	}
}
