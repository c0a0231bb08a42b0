//go:build fault

package identity

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/message"
)

// Whatever step of the disk fails, alone or for good: who joined is there after a
// restart, who is there has used an invitation up, and who got an error can't log
// in until then.
func TestJoinFault(t *testing.T) {
	defer durable.SetFault(durable.Plan{})
	for _, on := range []bool{false, true} {
		for n := 1; ; n++ {
			durable.SetFault(durable.Plan{})
			dir := t.TempDir()
			u := open(t, dir, Options{Mode: InviteOnly})
			token := invite(t, u, InviteOptions{})
			key := KeyFromSeed([32]byte{1}).Public()

			durable.SetFault(durable.Plan{N: n, Err: syscall.EIO, On: on})
			err := join(u, token, "alice", "")
			steps := durable.Steps()
			durable.SetFault(durable.Plan{})
			name := fmt.Sprintf("step %d, on %v: join: %v", n, on, err)
			if (login1(u, "alice", key) == nil) != (err == nil) {
				t.Errorf("%s: login: %v", name, login1(u, "alice", key))
			}
			if n > steps {
				if err != nil {
					t.Errorf("%s: without a fault", name)
				}
				break
			}
			again := open(t, dir, Options{Mode: InviteOnly})
			_, there := again.Show("alice")
			if err == nil && !there {
				t.Errorf("%s: alice is lost", name)
			}
			if there && len(again.Invites()) > 0 {
				t.Errorf("%s: alice is there and the invitation is open", name)
			}
		}
	}
}

// A full disk costs no invitation.
func TestJoinFullDisk(t *testing.T) {
	defer durable.SetFault(durable.Plan{})
	for _, step := range []string{"open", "write", "sync", "rename"} {
		dir := t.TempDir()
		u := open(t, dir, Options{Mode: InviteOnly})
		token := invite(t, u, InviteOptions{})
		durable.SetFault(durable.Plan{Step: step, Path: "alice.json", N: 1, Err: syscall.ENOSPC, On: true})
		if err := join(u, token, "alice", ""); err == nil {
			t.Errorf("%s: joined", step)
		}
		durable.SetFault(durable.Plan{})
		u = open(t, dir, Options{Mode: InviteOnly})
		if _, there := u.Show("alice"); there {
			t.Errorf("%s: half a user", step)
		}
		if err := join(u, token, "alice", ""); err != nil {
			t.Errorf("%s: %v", step, err)
		}
	}
}

// A process that is killed at every step: see TestJoinFault, and no file is damaged.
func TestJoinKilled(t *testing.T) {
	if dir := os.Getenv("NOIPCHAT_TEST_JOIN"); dir != "" {
		u := open(t, dir, Options{Mode: InviteOnly})
		if err := join(u, os.Getenv("NOIPCHAT_TEST_TOKEN"), "alice", ""); err != nil {
			t.Fatal(err)
		}
		return
	}
	for n := 1; ; n++ {
		dir := t.TempDir()
		token := invite(t, open(t, dir, Options{Mode: InviteOnly}), InviteOptions{})
		child := exec.Command(os.Args[0], "-test.run=^TestJoinKilled$")
		child.Env = append(os.Environ(), "NOIPCHAT_TEST_JOIN="+dir, "NOIPCHAT_TEST_TOKEN="+token, fmt.Sprint("NOIPCHAT_FAULT=kill:", n))
		out, err := child.CombinedOutput()
		u := open(t, dir, Options{Mode: InviteOnly}) // fails with a problem
		_, there := u.Show("alice")
		if there && len(u.Invites()) > 0 {
			t.Errorf("killed at %d: alice is there and the invitation is open", n)
		}
		if files, _ := os.ReadDir(filepath.Join(dir, "users")); len(files) > 1 {
			t.Errorf("killed at %d: %v", n, files)
		}
		if err == nil {
			if !there || n < 5 {
				t.Errorf("step %d was never reached; alice is there: %v", n, there)
			}
			return
		}
		if status := child.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || n > 100 {
			t.Fatalf("killed at %d: %v\n%s", n, err, out)
		}
	}
}

// A key that was made is the one that is found later, or none was made.
func TestKeyFault(t *testing.T) {
	defer durable.SetFault(durable.Plan{})
	for n := 1; ; n++ {
		path := filepath.Join(t.TempDir(), "key")
		durable.SetFault(durable.Plan{N: n, Err: syscall.EIO})
		key, created, err := LoadOrCreateKey(path)
		steps := durable.Steps()
		durable.SetFault(durable.Plan{})
		if created != (err == nil) {
			t.Errorf("step %d: created %v, %v", n, created, err)
		}
		again, _, err2 := LoadOrCreateKey(path)
		if err2 != nil || err == nil && again.Seed() != key.Seed() {
			t.Errorf("step %d: another key, %v", n, err2)
		}
		if n > steps {
			return
		}
	}
}

// Removing a user is durable, and can be tried again.
func TestRemoveFault(t *testing.T) {
	defer durable.SetFault(durable.Plan{})
	for n := 1; ; n++ {
		dir := t.TempDir()
		u := open(t, dir, Options{})
		add(t, u, "alice")
		durable.SetFault(durable.Plan{N: n, Err: syscall.EIO})
		err := u.Remove("alice")
		steps := durable.Steps()
		durable.SetFault(durable.Plan{})
		if n > steps {
			if err != nil || steps != 2 {
				t.Errorf("%d steps, %v", steps, err)
			}
			return
		}
		if err == nil {
			t.Errorf("step %d: no error", n)
		}
		if _, there := u.Show("alice"); !there {
			t.Errorf("step %d: removed in memory", n)
		}
		if err := u.Remove("alice"); err != nil {
			t.Errorf("step %d: again: %v", n, err)
		}
		refused(t, u.Remove("alice"), message.CodeNoUser)
	}
}

// What an admin said, and a first sight, are there after a restart or were an error,
// and the file is never damaged.
func TestServersFault(t *testing.T) {
	defer durable.SetFault(durable.Plan{})
	for n := 1; ; n++ {
		dir := t.TempDir()
		s := openServers(t, dir)
		s.Configure(map[string]PublicKey{"server2": {}}, RefuseUnknown)
		durable.SetFault(durable.Plan{N: n, Err: syscall.EIO})
		_, met := s.Meet("server2", neighbour(2))
		steps := durable.Steps()
		durable.SetFault(durable.Plan{N: n, Err: syscall.EIO})
		_, distrusted := s.Distrust("server2")
		durable.SetFault(durable.Plan{})
		again := openServers(t, dir)
		key, _ := again.Known("server2")
		if met == nil && distrusted != nil && key != neighbour(2) || distrusted == nil && again.List()[0].Standing != Distrusted {
			t.Errorf("step %d: %v, %v, then %+v", n, met, distrusted, again.List())
		}
		if n > steps {
			if met != nil || distrusted != nil {
				t.Error(met, distrusted)
			}
			return
		}
	}
}
