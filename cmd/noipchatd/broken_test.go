package main

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/noipchat/noipchat/daemon"
	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/handoff"
	"github.com/noipchat/noipchat/daemon/message"
)

// The ways in which break can break a session, the first of which nobody but the new
// image can see.
const (
	twin     = "twin"      // it is of the same device as another one
	noSocket = "no socket" // its descriptor is one of something else
)

// breakState comes before a new image's main: if the file "break" in its program's folder
// names a session, that one is broken in the state that the image finds.
func breakState() error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	plan, err := os.ReadFile(filepath.Join(filepath.Dir(program), "break"))
	if os.Getenv("NOIPCHAT_HANDOFF") == "" || slices.Contains(os.Args, "--check") || os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	id, how, _ := strings.Cut(string(plan), " ")
	c := new(daemon.Carried)
	if _, err := handoff.Receive(c); err != nil {
		return err
	}
	all := c.Sessions.Sessions
	i, last := 0, len(all)-1
	for strconv.FormatUint(all[i].ID, 10) != id {
		i++
	}
	switch how {
	case twin:
		all[i], all[last] = all[last], all[i] // of two the second one is too many
		all[last].User, all[last].Device = all[0].User, all[0].Device
	case noSocket:
		null, err := os.Open(os.DevNull)
		if err != nil {
			return err
		}
		defer null.Close()
		if err := unix.Dup3(int(null.Fd()), all[i].Stream.FD, unix.O_CLOEXEC); err != nil {
			return err
		}
	}
	fd, err := unix.MemfdCreate("noipchat-handoff", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return err
	}
	dup, err := unix.Dup(fd) // the file closes its own
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(dup), "broken state")
	defer f.Close()
	os.Setenv("NOIPCHAT_HANDOFF", strconv.Itoa(fd))
	return handoff.Encode(f, c)
}

// TestHandoffBroken: a session that can't be restored is closed, its device is there again
// within a second, and nobody else notices.
func TestHandoffBroken(t *testing.T) {
	h := newTheatre(t, patience)
	f := newFlock(t, 10, h.stage)
	h.start()
	h.must(f.come(h.ctx))
	key := h.status().Key
	var people []*person
	for _, name := range []string{"alice", "bob"} {
		p, err := h.cast(h.ctx, name, key)
		h.must(err)
		p.come(h.ctx)
		defer p.leave()
		people = append(people, p)
	}
	alice, bob := people[0], people[1]
	h.session(bob.address(), "")
	said := 0
	for _, how := range []string{twin, noSocket} {
		old := h.session(alice.address(), "")
		before := h.sessions()
		plan := filepath.Join(h.dir, "break")
		h.must(os.WriteFile(plan, []byte(old.ID+" "+how), 0o600))
		o, err := h.admin.Handoff(h.ctx, how)
		h.must(err)
		h.must(os.Remove(plan))
		if o.Closed != 1 || o.Sessions != len(f.birds)+1 {
			t.Errorf("%s: %d sessions were handed over, and %d closed", how, o.Sessions, o.Closed)
		}
		again := h.session(alice.address(), old.ID)
		late := again.Since.Sub(o.At)
		if late > time.Second {
			t.Errorf("%s: alice is there again %v later", how, late)
		}
		t.Logf("%s: alice is there again %v later", how, late)
		if after := h.sessions(); strings.Replace(" "+before, " "+old.ID, "", 1)+" "+again.ID != " "+after {
			t.Errorf("%s: sessions were %s, of which %s was broken, and are %s", how, before, old.ID, after)
		}
		if now := strings.Count(h.log.String(), "a session could not be handed over, and is closed"); now != said+1 {
			t.Errorf("%s: the log says so %d times", how, now-said)
		}
		said++
		for _, x := range [][2]*person{{alice, bob}, {bob, alice}} {
			m, err := x[0].c.Send(h.ctx, client.Outgoing{To: []message.Address{x[1].address()}, Body: []byte(how)})
			h.must(err)
			h.must(x[0].learns(h.ctx, h.stage, m, x[1], message.Delivered))
		}
	}
	_, err := f.settle(h.ctx)
	h.must(err)
	h.must(f.leave())
}

// session waits for a session of a user that isn't the one with the id but.
func (h *theatre) session(user message.Address, but string) control.Session {
	h.t.Helper()
	for {
		all, err := h.admin.Sessions(h.ctx)
		h.must(err)
		for _, s := range all {
			if s.User == user && s.ID != but {
				return s
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}
