//go:build fault

package durable

import (
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// This file is in builds with the tag "fault" only, which are for tests and are
// never shipped. Every step that touches the disk asks here first.

// Plan says which step fails. Steps are counted from SetFault on; a write
// is two steps, one before it and one when half of it is written.
type Plan struct {
	Step string        // count only this kind: "write", "sync", … as in durable.go; "" counts all
	Path string        // count only paths that contain this; "" counts all
	N    int           // the step that fails, from 1; 0 only counts
	Err  syscall.Errno // how it fails
	On   bool          // all steps that are counted after it fail too
	Kill bool          // instead of failing, the process dies by SIGKILL
}

// seam is the plan in force. It is process-wide and changes while the program
// runs, against the house rule, because the faults must reach every user of the
// package without a parameter that a shipped build would carry.
var seam = struct {
	sync.Mutex
	Plan
	steps int
}{Plan: planFromEnv(os.Getenv("NOIPCHAT_FAULT"))}

// planFromEnv reads "kill:N" or "fail:N:ENOSPC" (any error name; a + after N
// fails all steps from there on), for processes that tests start. It panics on
// anything else: a test with a misspelt plan would prove nothing.
func planFromEnv(s string) Plan {
	if s == "" {
		return Plan{}
	}
	part := strings.Split(s, ":")
	if len(part) > 1 {
		digits, on := strings.CutSuffix(part[1], "+")
		n, err := strconv.Atoi(digits)
		switch {
		case err != nil || n < 1:
		case part[0] == "kill" && len(part) == 2 && !on:
			return Plan{N: n, Kill: true}
		case part[0] == "fail" && len(part) == 3:
			for e := syscall.Errno(1); e < 200; e++ {
				if unix.ErrnoName(e) == part[2] {
					return Plan{N: n, Err: e, On: on}
				}
			}
		}
	}
	panic(fmt.Sprintf("NOIPCHAT_FAULT=%q: want kill:N, fail:N:ERRNO or fail:N+:ERRNO", s))
}

// SetFault replaces the plan and begins to count anew. Plan{} fails nothing.
func SetFault(p Plan) {
	seam.Lock()
	defer seam.Unlock()
	seam.Plan, seam.steps = p, 0
}

// Steps is how many steps the plan has counted, the failed ones included.
func Steps() int {
	seam.Lock()
	defer seam.Unlock()
	return seam.steps
}

func inject(step, path string) error {
	seam.Lock()
	defer seam.Unlock()
	if seam.Step != "" && seam.Step != step || !strings.Contains(path, seam.Path) {
		return nil
	}
	seam.steps++
	if seam.N == 0 || seam.steps != seam.N && !(seam.On && seam.steps > seam.N) {
		return nil
	}
	if seam.Kill {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // not a step further while the signal is on its way
	}
	return &fs.PathError{Op: step, Path: path, Err: seam.Err}
}

func tear(path string, p []byte, write func([]byte) (int, error)) (int, error) {
	if err := inject(stepWrite, path); err != nil {
		return 0, err
	}
	half := len(p) / 2
	n, err := write(p[:half])
	if err == nil {
		err = inject(stepWrite, path)
	}
	if err != nil {
		return n, err
	}
	m, err := write(p[half:])
	return n + m, err
}
