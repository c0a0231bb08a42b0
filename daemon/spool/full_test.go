package spool

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// disk mounts a small file system of its own.
func disk(t *testing.T, megabytes int64) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a file system takes root")
	}
	image := filepath.Join(t.TempDir(), "image")
	dir := t.TempDir()
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(megabytes << 20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for _, command := range [][]string{
		{"mkfs.ext4", "-q", "-F", "-m", "0", image},
		{"mount", "-o", "loop", image, dir},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Skipf("no file system can be mounted here: %v: %s", err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return filepath.Join(dir, "spool")
}

// TestFullDisk fills a real one: messages for the absent are refused for a time,
// those who are there talk on, nothing held is lost, and when there is space again
// it takes messages without a restart.
func TestFullDisk(t *testing.T) {
	dir := disk(t, 24)
	o := Options{JournalFile: 1 << 20, JournalFiles: 3, Quiet: 10 * time.Millisecond, Moment: time.Minute}
	r := open(t, dir, o)
	carol, alice := r.sp.Queue(carolQueue), r.sp.Queue(aliceQueue)
	var held []uint64
	next := uint64(0)
	refused := 0
	for refused < 20 {
		var batch []uint64
		for range 8 {
			next++
			batch = append(batch, next)
			r.put(carol, next, 50_000)
		}
		for _, n := range batch {
			switch s := r.await(n); s {
			case message.Held:
				held = append(held, n)
			case message.Refused:
				refused++
			default:
				t.Fatalf("%d is %v", n, s)
			}
		}
		if next > 2000 {
			t.Fatal("a disk of 24 MiB is never full")
		}
	}
	if !r.sp.Full() || len(held) < 100 {
		t.Fatalf("full %v, with %d messages of 50 KB", r.sp.Full(), len(held))
	}

	// In hand nothing asks for the disk.
	p := &tap{}
	alice.Attach(p)
	for n := uint64(1_000_001); n <= 1_000_100; n++ {
		r.put(alice, n, 50_000)
		var turn Turn
		e, _, _ := alice.Next(p, message.MaxEnvelope, message.Priorities)
		if e == nil {
			t.Fatal("nothing comes for who is there")
		}
		alice.Done(&turn, e)
		if s := r.await(n); s != message.Delivered {
			t.Fatalf("on a full disk, a message for who is there is %v", s)
		}
	}
	var turn Turn
	alice.Detach(&turn, p)

	// Carol takes hers; there is space again, and for the reserve too.
	carol.Attach(p)
	for _, want := range held {
		e, raw, _ := carol.Next(p, message.MaxEnvelope, message.Priorities)
		if e == nil || counterOf(t, raw) != want {
			t.Fatalf("%d does not come", want)
		}
		if carol.Done(&turn, e) {
			carol.Forget(e)
		}
	}
	carol.Detach(&turn, p)
	var rest []uint64
	waitFor(t, func() bool {
		next++ // a token is told once
		r.put(carol, next, 1000)
		if r.await(next) != message.Held {
			return false
		}
		rest = append(rest, next)
		if next == 1_000_000 { // the numbers of alice's
			out, _ := exec.Command("sh", "-c", "df -k '"+dir+"'; find '"+dir+"' -type f -size +0 -exec ls -ls {} +").CombinedOutput()
			t.Fatalf("full %v, reserve %d, after %d messages:\n%s\n%+v", r.sp.Full(), r.sp.Reserve(), len(rest), out, carol.Info())
		}
		return !r.sp.Full() && r.sp.Reserve() > 0
	})
	r.end()

	r = open(t, dir, o)
	have := r.drain(r.sp.Queue(carolQueue), true)
	// What was taken may come again: its Done may not have found space.
	have = slices.DeleteFunc(have, func(n uint64) bool { return n < rest[0] })
	if fmt.Sprint(have) != fmt.Sprint(rest) {
		t.Errorf("after a restart there are %d of %d", len(have), len(rest))
	}
}
