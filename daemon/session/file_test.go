package session_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

// made is a file of so many bytes.
func made(t testing.TB, name string, size int) (path string, data []byte) {
	t.Helper()
	data = make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8)})
	r.Read(data)
	path = filepath.Join(t.TempDir(), name)
	check(t, os.WriteFile(path, data, 0o600))
	return path, data
}

func (p *person) sendFile(path string, to ...*person) client.Message {
	p.t.Helper()
	o := client.OutgoingFile{Path: path}
	for _, r := range to {
		o.To = append(o.To, r.address())
	}
	m, err := p.c.SendFile(context.Background(), o)
	check(p.t, err)
	return m
}

// files are the names and bytes of what has come.
func (p *person) files(d client.Direction) (names []string, data [][]byte) {
	p.t.Helper()
	history, err := p.store.History(client.Query{Only: d})
	check(p.t, err)
	for _, m := range history {
		if m.File == nil {
			continue
		}
		b, err := os.ReadFile(m.File.Path)
		check(p.t, err)
		if m.File.Damage != "" {
			p.t.Errorf("%s is damaged: %s", m.File.Name, m.File.Damage)
		}
		names, data = append(names, m.File.Name), append(data, b)
	}
	return names, data
}

func (p *person) hasFile(d client.Direction, want []byte) {
	p.t.Helper()
	p.until("a file", func() bool { names, _ := p.files(d); return len(names) > 0 })
	if names, data := p.files(d); len(names) != 1 || !slices.Equal(data[0], want) {
		p.t.Fatalf("%s has the files %q, and they are not what was sent", p.name, names)
	}
}

// TestFiles: files of all sizes arrive at each device, and their sender knows.
func TestFiles(t *testing.T) {
	for _, size := range []int{0, 1, message.PartSize, message.PartSize + 1, 1_000_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			scene(t, options{}, twice, func(t *testing.T, s *server, p []*person) {
				alice, bob := p[0].come(), p[1].come()
				alice2, bob2 := s.second(alice).come(), s.second(bob)
				path, data := made(t, "a photo.jpg", size)
				m := alice.sendFile(path, bob)
				bob.hasFile(client.In, data)
				alice.learns(m, bob.address(), message.Delivered)
				alice2.hasFile(client.Out, data)
				alice2.told(m, bob.address(), message.Delivered)
				bob2.come().hasFile(client.In, data)
				bob.reads()
				alice.learns(m, bob.address(), message.Read)
				synctest.Wait()
				for _, d := range []*person{alice, alice2, bob, bob2} {
					coming, err := d.store.Coming()
					check(t, err)
					pending, err := d.store.Outbox(message.Bulk, 0, 10)
					check(t, err)
					if len(coming)+len(pending) > 0 {
						t.Errorf("%s has %v coming, and %d envelopes to send", d.name, coming, len(pending))
					}
				}
				time.Sleep(time.Minute)
				if n, b := s.spool.Waiting(); n != 0 || b != 0 {
					t.Errorf("%d messages of %d bytes are left", n, b)
				}
			})
		})
	}
}

// TestFileAway: a file that is larger than what waits for a device waits in part at its
// sender, and texts have room beside it.
func TestFileAway(t *testing.T) {
	scene(t, options{spool: spool.Options{Quota: 400 << 10}}, twice, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0].come(), p[1]
		path, data := made(t, "large", 2_000_000)
		m := alice.sendFile(path, bob)
		time.Sleep(time.Minute)
		alice.learns(alice.send("a text beside it", bob), bob.address(), message.Held)
		if settled, delivered, err := alice.store.OutProgress(alice.message(m)); err != nil || settled < 200<<10 || settled > 400<<10 || delivered != 0 {
			t.Errorf("%d bytes are held, %d delivered, %v", settled, delivered, err)
		}
		bob.come()
		bob.until("the text", func() bool { return slices.Contains(bob.texts(), "a text beside it") })
		bob.hasFile(client.In, data)
		alice.learns(m, bob.address(), message.Delivered)
	})
}

// TestFileInVain: what there is no room for is offered in growing intervals, and soon after
// others have arrived.
func TestFileInVain(t *testing.T) {
	scene(t, options{spool: spool.Options{Quota: 400 << 10}}, twice, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0].come(), p[1]
		path, data := made(t, "large", 3_000_000)
		m := alice.sendFile(path, bob)
		time.Sleep(time.Hour)
		before := s.host.Sessions()[0].Traffic.Submitted
		time.Sleep(time.Hour)
		if n := s.host.Sessions()[0].Traffic.Submitted - before; n > 100 {
			t.Errorf("in an hour %d parts of %d are offered in vain", n, len(data)/message.PartSize)
		}
		bob.come()
		for n := 0; n < 6 && alice.fate(m, bob.address()).State < message.Delivered; n++ {
			time.Sleep(30 * time.Second)
		}
		bob.hasFile(client.In, data)
	})
}

func (p *person) message(m client.Message) client.Message {
	p.t.Helper()
	m, _, err := p.store.Status(m.ID)
	check(p.t, err)
	return m
}

// TestFileResumes: cuts of the connections, restarts of server and clients at any time
// don't harm a file.
func TestFileResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var net memory
		dir := t.TempDir()
		s := open(t, &net, dir, options{})
		s.add("alice", "bob")
		alice, bob := s.enter("alice").come(), s.enter("bob").come()
		path, data := made(t, "resumed", 3_000_000)
		m := alice.sendFile(path, bob)
		r := rand.New(rand.NewPCG(1, 2))
		progress := func(p *person) {
			coming, err := bob.store.Coming()
			check(t, err)
			have := int64(0)
			if len(coming) > 0 {
				have = coming[0].Bytes
			}
			p.until("progress", func() bool {
				coming, err := bob.store.Coming()
				check(t, err)
				return len(coming) == 0 || coming[0].Bytes > have || r.IntN(3) == 0
			})
		}
		for range 8 {
			progress(bob)
			switch r.IntN(4) {
			case 0:
				for _, i := range s.host.Sessions() {
					s.host.End(i.ID, message.Defer(message.CodeStopping, time.Millisecond, "a cut"))
				}
			case 1:
				s.stop()
				s = open(t, &net, dir, options{})
			default:
				p := []*person{alice, bob}[r.IntN(2)]
				p.leave()
				check(t, p.store.Close())
				p.open()
				var err error
				p.c, err = client.New(p.store, p.o)
				check(t, err)
				p.come()
			}
		}
		bob.hasFile(client.In, data)
		alice.learns(m, bob.address(), message.Delivered)
	})
}

// TestFileChanged: a file that is changed while it is sent is given up, and who has a
// part of it drops that.
func TestFileChanged(t *testing.T) {
	scene(t, options{spool: spool.Options{Quota: 400 << 10}}, twice, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0].come(), p[1]
		path, _ := made(t, "changed", 20_000_000)
		m := alice.sendFile(path, bob)
		time.Sleep(time.Second)
		check(t, os.WriteFile(path, []byte("something else"), 0o600))
		r := alice.learns(m, bob.address(), message.Refused)
		if !strings.Contains(r.Reason, "changed") {
			t.Errorf("the reason is %q", r.Reason)
		}
		bob.come()
		bob.until("the withdrawal", func() bool {
			coming, err := bob.store.Coming()
			check(t, err)
			_, lastErr := bob.c.Connected()
			return len(coming) == 0 && lastErr == nil
		})
		time.Sleep(time.Minute)
		if names, _ := bob.files(client.In); len(names) > 0 {
			t.Errorf("bob has %q", names)
		}
		left, err := filepath.Glob(filepath.Join(bob.dir, "files", "*"))
		if check(t, err); len(left) > 0 {
			t.Errorf("bytes are left: %q", left)
		}
		if _, err := alice.c.SendFile(t.Context(), client.OutgoingFile{Path: filepath.Dir(path), To: []message.Address{bob.address()}}); err == nil {
			t.Error("a folder was sent")
		}
		if _, err := alice.c.SendFile(t.Context(), client.OutgoingFile{Path: path + "x", To: []message.Address{bob.address()}}); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a file that isn't there: %v", err)
		}
	})
}
