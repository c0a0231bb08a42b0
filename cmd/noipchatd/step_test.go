//go:build fault

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The steps of a handoff, of the old image and of the new one: see handoff.At.
var (
	oldSteps = []string{"check", "still", "pause", "settle", "export", "write", "show", "deafen", "become"}
	newSteps = []string{"open", "resume", "start", "serve"}
)

// hindered is a server, linked with another one, and a flock of which some don't read, so
// that all buffers to them are full, and some have written half of a record. A quarter of
// it is at the other server, which goes on.
func hindered(t *testing.T, mortal bool) (*theatre, *flock) {
	h, other := newTheatre(t, 5*time.Minute), newTheatre(t, 5*time.Minute)
	other.name = "server2"
	h.must(h.add("[[peer]]\nname = \"server2\"\n"))
	h.must(other.configure())
	h.must(other.add("[[peer]]\nname = \"server1\"\n[[peer.link]]\nremote = %q\ntimeout = \"0s\"\n", h.address))
	f := newFlock(t, 20, h.stage, other.stage, h.stage, h.stage)
	other.start()
	t.Setenv("NOIPCHAT_STEP", filepath.Join(h.dir, "step")) // h's, as it starts later
	f.mortal, f.padding, f.pause = mortal, 30<<10, 50*time.Millisecond
	return h, f
}

// clog has birds not read, and buffers filled to the first of them, which are more than the
// kernel's, until the function that it returns is called.
func (h *theatre) clog(f *flock) (release func()) {
	h.t.Helper()
	writer := f.birds[len(f.birds)-1]
	ahead := func(n uint64) {
		writer.mu.Lock()
		defer writer.mu.Unlock()
		writer.ahead = n
	}
	read := f.hinder(lazy)
	ahead(filled)
	h.must(f.advance(h.ctx, []*bird{writer}, filled))
	return func() {
		ahead(0)
		read()
	}
}

const (
	lazy   = 4
	filled = 100 // messages of such a flock are more than the buffers of a connection
)

// TestStepsFail: whichever step fails, all is undone, and no session notices.
func TestStepsFail(t *testing.T) {
	h, f := hindered(t, false)
	h.start()
	h.linked(1)
	h.must(f.come(h.ctx))
	before, link := h.sessions(), h.links()
	for _, step := range oldSteps {
		release := h.clog(f)
		h.must(h.setStep("fail:" + step))
		_, err := h.admin.Handoff(h.ctx, step)
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
	o, err := h.admin.Handoff(h.ctx, "at last")
	if err != nil || o.Sessions != len(f.birds)*3/4 || o.Links != 1 || o.Closed != 0 {
		t.Errorf("%+v, %v", o, err)
	}
	h.end(f)
}

// TestStepsKilled: the server is killed at each step of a handoff, and started again: no
// message that was acked is lost, none comes twice to who has acked it or out of order,
// and no nonce is used twice, neither by an image nor by the next.
func TestStepsKilled(t *testing.T) {
	h, f := hindered(t, true)
	rounds := 1
	if os.Getenv("NOIPCHAT_LONG") != "" {
		rounds = 10
	}
	h.start()
	h.must(f.come(h.ctx))
	for range rounds {
		for _, step := range slices.Concat(oldSteps, newSteps) {
			h.must(f.advance(h.ctx, f.birds, 2)) // all are there again
			release := h.clog(f)
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
	h.end(f)
}

// setStep says what happens at which step.
func (h *theatre) setStep(plan string) error {
	return os.WriteFile(filepath.Join(h.dir, "step"), []byte(plan), 0o600)
}

// end has all arrive, and looks at every nonce that was ever used.
func (h *theatre) end(f *flock) {
	h.t.Helper()
	texts, err := f.settle(h.ctx)
	h.must(err)
	h.must(f.leave())
	seen, connections := nonces{}, 0
	for _, b := range f.birds {
		h.must(seen.hear(b.tapes...))
		connections += len(b.tapes)
	}
	h.t.Logf("%d texts over %d connections, %d nonces, none twice", texts, connections, len(seen))
}
