//go:build fault

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// The steps of a handoff, of the old image and of the new one: see handoff.At.
var (
	oldSteps = []string{"apply", "check", "still", "pause", "settle", "export", "write", "show", "deafen", "become"}
	newSteps = []string{"open", "resume", "start", "serve"}
)

// TestStepsFail: whichever step fails, all is undone, and no session notices.
func TestStepsFail(t *testing.T) {
	h := hindered(t, false)
	f := h.f
	h.start()
	h.linked(1)
	h.must(f.come(h.ctx))
	before, link := h.sessions(), h.links()
	for _, step := range oldSteps {
		release := h.clog()
		h.must(h.setStep("fail:" + step))
		_, err := h.handOver(step)
		if err == nil || !strings.Contains(err.Error(), "a fault at the step "+step) {
			t.Errorf("%s: %v", step, err)
		}
		release()
		h.must(f.advance(h.ctx, f.birds, 2))
		if after := h.sessions(); after != before {
			t.Errorf("%s: sessions were %s, and are %s", step, before, after)
		}
		if after := h.links(); link == "" || after != link {
			t.Errorf("%s: the link was %s, and is %s", step, link, after)
		}
	}
	h.must(h.setStep(""))
	o, err := h.handOver("at last")
	if err != nil || o.Sessions != len(f.birds)*3/4 || o.Links != 1 || o.Closed != 0 {
		t.Errorf("%+v, %v", o, err)
	}
	h.end()
}

// TestStepsKilled: the server is killed at each step of a handoff, and started again: no
// message that was acked is lost, none comes twice to who has acked it or out of order,
// and no nonce is used twice, neither by an image nor by the next.
func TestStepsKilled(t *testing.T) {
	h := hindered(t, true)
	rounds := 1
	if os.Getenv("NOIPCHAT_LONG") != "" {
		rounds = 10
	}
	h.start()
	h.must(h.f.come(h.ctx))
	for range rounds {
		for _, step := range slices.Concat(oldSteps, newSteps) {
			h.must(h.f.advance(h.ctx, h.f.birds, 2)) // all are there again
			release := h.clog()
			h.must(h.setStep("kill:" + step))
			h.must(h.server.Process.Signal(syscall.SIGUSR2))
			err := h.server.Wait()
			if said := h.log.String(); err == nil || err.Error() != "signal: killed" || !strings.HasSuffix(said, "killed at the step "+step+"\n") {
				t.Fatalf("%s: %v", step, err)
			}
			release()
			h.must(h.setStep(""))
			h.start()
		}
	}
	h.end()
}

// setStep says what happens at which step.
func (h *theatre) setStep(plan string) error {
	return os.WriteFile(filepath.Join(h.dir, "step"), []byte(plan), 0o600)
}
