//go:build fault

package handoff

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// This file is in builds with the tag "fault" only, which are for tests and are never
// shipped.

// At is called before each step, of both images. The file that NOIPCHAT_STEP names
// says at which of them the process dies by SIGKILL, "kill:settle", or fails,
// "fail:settle".
func At(step string) error {
	plan, _ := os.ReadFile(os.Getenv("NOIPCHAT_STEP")) // without one, none
	how, which, _ := strings.Cut(string(plan), ":")
	switch {
	case which != step:
		return nil
	case how == "fail":
		return fmt.Errorf("a fault at the step %s", step)
	}
	fmt.Fprintln(os.Stderr, "killed at the step", step)
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // not a step further while the signal is on its way
}
