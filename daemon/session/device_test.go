package session_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/spool"
)

// twice is two people with two devices each.
var twice = []string{"alice", "bob"}

func (s *server) second(p *person) *person { return s.enter(p.name) }

// told waits until a device knows a state of a message that another one has sent.
func (p *person) told(m client.Message, receiver message.Address, want message.State) {
	p.t.Helper()
	p.until("a copy of "+m.Body, func() bool { _, ok, _ := p.store.Status(m.ID); return ok })
	p.learns(m, receiver, want)
}

// sent are the texts that went out, from any device.
func (p *person) sent() (texts []string) {
	p.t.Helper()
	history, err := p.store.History(client.Query{Only: client.Out})
	check(p.t, err)
	for _, m := range history {
		texts = append(texts, m.Body)
	}
	return texts
}

// TestDevices: everything reaches each device, what the user sent from another one
// too, and each knows what became of it.
func TestDevices(t *testing.T) {
	scene(t, options{}, twice, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0].come(), p[1].come()
		alice2, bob2 := s.second(alice).come(), s.second(bob).come()
		before := s.spool.Stats().Bytes.Load()
		m := alice.send("to both", bob)
		bob.has("to both")
		bob2.has("to both")
		alice.learns(m, bob.address(), message.Delivered)
		alice2.told(m, bob.address(), message.Delivered)
		bob2.reads()
		alice.learns(m, bob.address(), message.Read)
		alice2.learns(m, bob.address(), message.Read)
		bob.until("that it was read elsewhere", func() bool {
			m, _, err := bob.store.Status(m.ID)
			check(t, err)
			return m.State == "read"
		})
		answer := bob.send("from one", alice)
		alice2.has("from one")
		bob2.told(answer, alice.address(), message.Delivered)
		self := alice.send("a note", alice)
		alice2.has("from one", "a note")
		alice.learns(self, alice.address(), message.Delivered)
		synctest.Wait()
		if n := s.spool.Stats().Bytes.Load() - before; n != 0 {
			t.Errorf("%d bytes went to the journal while all were there", n)
		}
		if got := alice2.sent(); !slices.Equal(got, []string{"to both"}) {
			t.Errorf("the other device has sent %q", got)
		}
		none := alice.write(client.Outgoing{Body: []byte("to nobody"), To: []message.Address{"nobody@server1"}})
		alice.learns(none, "nobody@server1", message.Refused)
		alice2.told(none, "nobody@server1", message.Refused)
	})
}

// TestDeviceAway: delivered means the first device, and the other ones get it when
// they come back, the author's too.
func TestDeviceAway(t *testing.T) {
	scene(t, options{}, twice, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0].come(), p[1].come()
		alice2, bob2 := s.second(alice), s.second(bob)
		m := alice.send("while they are away", bob)
		alice.learns(m, bob.address(), message.Delivered)
		bob.reads()
		alice.learns(m, bob.address(), message.Read)
		time.Sleep(time.Hour)
		alice2.come().told(m, bob.address(), message.Read)
		bob2.come().has("while they are away")
		time.Sleep(time.Minute)
		if n, b := s.spool.Waiting(); n != 0 || b != 0 {
			t.Errorf("%d messages of %d bytes are left", n, b)
		}
	})
}

// TestLostDevice: one device removes another one, and takes over what waits for it.
func TestLostDevice(t *testing.T) {
	scene(t, options{}, twice, func(t *testing.T, s *server, p []*person) {
		alice, lost := p[0].come(), p[1]
		m := alice.send("before the second one", lost)
		alice.learns(m, lost.address(), message.Held)
		bob := s.second(lost).come()
		ask := func() []client.Device {
			devices, err := bob.c.Devices(t.Context())
			check(t, err)
			return devices
		}
		devices := ask()
		if len(devices) != 2 || devices[0].This || !devices[1].This || devices[0].Online || !devices[1].Online || devices[0].Label != "of a test" {
			t.Fatalf("the devices are %+v", devices)
		}
		var no *message.Refusal
		if err := bob.c.RemoveDevice(t.Context(), "not my password", devices[0].ID); !errors.As(err, &no) || no.Code != message.CodeBadLogin {
			t.Errorf("removed with a wrong password: %v", err)
		}
		check(t, bob.c.RemoveDevice(t.Context(), password, devices[0].ID))
		bob.has("before the second one")
		alice.learns(m, bob.address(), message.Delivered)
		if err := lost.c.Run(t.Context()); !errors.As(err, &no) || no.Code != message.CodeBadLogin {
			t.Errorf("the lost device is told %v", err)
		}
		if err := bob.c.RemoveDevice(t.Context(), password, ask()[0].ID); err != nil {
			t.Errorf("removing itself: %v", err)
		}
		bob.until("its end", func() bool { up, _ := bob.c.Connected(); return !up })
		if err := bob.leave(); !client.Final(err) {
			t.Errorf("it goes on after it has removed itself: %v", err)
		}
		m = alice.send("to nobody's device", bob)
		alice.learns(m, bob.address(), message.Held)
		s.second(bob).come().has("to nobody's device")
	})
}

// TestSuspended: a device that takes nothing for too long is suspended, and its user
// goes on receiving; what it had goes on waiting for it.
func TestSuspended(t *testing.T) {
	for name, c := range map[string]struct {
		o    options
		idle func(t *testing.T, alice, bob *person)
		why  string
	}{
		"overfull": {options{spool: spool.Options{Quota: 4096}}, func(t *testing.T, alice, bob *person) {
			for i := range 8 {
				alice.learns(alice.send(fmt.Sprint(i, strings.Repeat(" long", 200)), bob), bob.address(), message.Delivered)
			}
		}, "as much waits"},
		"forgotten": {options{spool: spool.Options{MaxAge: 24 * time.Hour}}, func(t *testing.T, alice, bob *person) {
			alice.learns(alice.send("0", bob), bob.address(), message.Delivered)
			time.Sleep(25 * time.Hour)
		}, "it was away longer"},
	} {
		t.Run(name, func(t *testing.T) {
			scene(t, c.o, twice, func(t *testing.T, s *server, p []*person) {
				alice, bob := p[0].come(), p[1].come()
				idle := s.second(bob)
				c.idle(t, alice, bob)
				synctest.Wait()
				account, _ := s.users.Show("bob")
				if account.Devices[0].Suspended != "" || !strings.Contains(account.Devices[1].Suspended, c.why) {
					t.Fatalf("the devices are %+v", account.Devices)
				}
				alice.learns(alice.send("later", bob), bob.address(), message.Delivered)
				err := idle.c.Run(t.Context())
				var no *message.Refusal
				if !errors.As(err, &no) || no.Code != message.CodeSuspended || !strings.Contains(no.Reason, c.why) {
					t.Fatalf("the idle device is told %v", err)
				}
				_, err = client.Login(t.Context(), idle.store, s.entry("bob"), idle.o)
				check(t, err)
				idle.come()
				alice.send("to both again", bob)
				idle.until("the last one", func() bool { return slices.Contains(idle.texts(), "to both again") })
				if slices.Contains(idle.texts(), "later") {
					t.Error("it has what came while it was suspended")
				}
				s.users.RemoveDevice("bob", account.Devices[0].ID)
				s.host.Refresh("bob")
				bob.until("its end", func() bool { up, _ := bob.c.Connected(); return !up })
				if done, err := s.users.Suspend("bob", account.Devices[1].ID, "a test"); done || err != nil {
					t.Errorf("the only device was suspended: %v, %v", done, err)
				}
			})
		})
	}
}

// TestSuspendedForFiles: devices of both that are away and for which many parts of files
// wait keep no file from those that are there, or from being sent.
func TestSuspendedForFiles(t *testing.T) {
	scene(t, options{spool: spool.Options{Quota: 400 << 10}}, twice, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0].come(), p[1].come()
		s.second(bob)
		path, data := made(t, "large", 1_000_000)
		m := alice.sendFile(path, bob)
		bob.hasFile(client.In, data)
		alice.learns(m, bob.address(), message.Delivered)
		s.second(alice)
		m = alice.sendFile(path, bob)
		alice.learns(m, bob.address(), message.Delivered)
		synctest.Wait()
		for _, name := range []string{"alice", "bob"} {
			account, _ := s.users.Show(name)
			if account.Devices[0].Suspended != "" || account.Devices[1].Suspended == "" {
				t.Errorf("the devices of %s are %+v", name, account.Devices)
			}
		}
	})
}

// restore makes the person's profile what it was when keep was called.
func (p *person) keep() (restore func()) {
	p.t.Helper()
	copied := filepath.Join(p.t.TempDir(), "copy.db")
	db, err := sql.Open("sqlite", filepath.Join(p.dir, "history.db"))
	check(p.t, err)
	_, err = db.Exec("VACUUM INTO ?", copied)
	check(p.t, errors.Join(err, db.Close()))
	return func() {
		p.t.Helper()
		p.leave()
		check(p.t, p.store.Close())
		for _, suffix := range []string{"", "-wal", "-shm"} {
			os.Remove(filepath.Join(p.dir, "history.db"+suffix))
		}
		b, err := os.ReadFile(copied)
		check(p.t, err)
		check(p.t, os.WriteFile(filepath.Join(p.dir, "history.db"), b, 0o600))
		p.open()
		p.c, err = client.New(p.store, p.o)
		check(p.t, err)
	}
}

// TestRestoredProfile: a profile that was restored from a backup uses no counter for
// the second time, also if its home was killed meanwhile, and nothing that it sends is
// dropped as known; what may have been sent before is shown once.
func TestRestoredProfile(t *testing.T) {
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprint("killed=", killed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var net memory
				dir := t.TempDir()
				s := open(t, &net, dir, options{})
				s.add("alice", "bob")
				alice, bob := s.enter("alice").come(), s.enter("bob").come()
				alice.send("1", bob)
				bob.has("1")
				alice.leave()
				_, err := alice.store.Enqueue(context.Background(), client.Outgoing{Body: []byte("2"), To: []message.Address{bob.address()}})
				check(t, err)
				restore := alice.keep()
				alice.come()
				alice.send("3", bob)
				bob.has("1", "2", "3")
				restore()
				if killed {
					b, err := os.ReadFile(filepath.Join(dir, "counters.json"))
					check(t, err)
					s.stop()
					check(t, os.WriteFile(filepath.Join(dir, "counters.json"), b, 0o600))
					open(t, &net, dir, options{})
				}
				offline, err := alice.store.Enqueue(context.Background(), client.Outgoing{Body: []byte("4"), To: []message.Address{bob.address()}})
				check(t, err)
				alice.come()
				alice.send("5", bob)
				bob.until("all", func() bool { return len(bob.texts()) >= 5 })
				time.Sleep(time.Minute)
				if got := bob.texts(); !slices.Equal(got, []string{"1", "2", "3", "4", "5"}) {
					t.Errorf("bob has %q", got)
				}
				alice.learns(offline, bob.address(), message.Delivered) // by the id that it had
				history, err := bob.store.History(client.Query{Only: client.In})
				check(t, err)
				counters := map[uint64]bool{}
				for _, m := range history {
					if counters[m.Counter] {
						t.Errorf("counter %d was used twice", m.Counter)
					}
					counters[m.Counter] = true
				}
			})
		})
	}
}
