package identity

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/noipchat/noipchat/daemon/message"
)

func openCounters(t *testing.T, dir string) *Counters {
	t.Helper()
	c, err := OpenCounters(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func take(t *testing.T, c *Counters, id message.DeviceID, counter uint64) {
	t.Helper()
	if err := c.Device(id).Take(counter); err != nil {
		t.Fatal(err)
	}
}

// TestCounters: after an orderly stop it is known how far a device has come; after a
// crash, that it has not come further than a number; and soon again exactly.
func TestCounters(t *testing.T) {
	dir := t.TempDir()
	c := openCounters(t, dir)
	mark := func(id message.DeviceID, counter uint64, sure bool) {
		t.Helper()
		if n, s := c.Device(id).Mark(); n != counter || s != sure {
			t.Errorf("device %v has counted to %d, %v; want %d, %v", id, n, s, counter, sure)
		}
	}
	mark(1, 0, true)
	take(t, c, 1, 5)
	take(t, c, 1, 3)
	take(t, c, 2, 1)
	mark(1, 5, true)
	before, err := os.Stat(filepath.Join(dir, "counters.json"))
	if err != nil {
		t.Fatal(err)
	}
	for n := range uint64(1000) {
		take(t, c, 2, n)
	}
	if after, err := os.Stat(filepath.Join(dir, "counters.json")); err != nil || !os.SameFile(before, after) {
		t.Errorf("it writes while there is no need: %v", err)
	}

	c = openCounters(t, dir) // after a crash
	mark(1, 5+counterBlock, false)
	take(t, c, 1, 4) // sent again
	mark(1, 5+counterBlock, false)
	take(t, c, 1, 6+counterBlock)
	mark(1, 6+counterBlock, true)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}

	c = openCounters(t, dir) // after an orderly stop
	mark(1, 6+counterBlock, true)
	mark(2, 1+counterBlock, false)
	take(t, c, 1, 7+counterBlock)
	c = openCounters(t, dir) // after a crash again
	mark(1, 7+2*counterBlock, false)
	c.Keep(func(id message.DeviceID) bool { return id == 2 })
	mark(1, 0, true)
	mark(2, 1+counterBlock, false)
	take(t, c, 3, message.MaxCounter)
	mark(3, message.MaxCounter, true)
	take(t, c, 3, message.MaxCounter)
}

// TestCountersTogether: whatever was taken is below what is on disk, at any time.
func TestCountersTogether(t *testing.T) {
	dir := t.TempDir()
	c := openCounters(t, dir)
	var wg sync.WaitGroup
	for id := range message.DeviceID(20) {
		wg.Go(func() {
			for n := range uint64(5) {
				counter := (n + 1) * counterBlock
				if err := c.Device(id).Take(counter); err != nil {
					t.Error(err)
				}
				disk, err := OpenCounters(dir)
				if err != nil {
					t.Error(err)
					return
				}
				if m, _ := disk.Device(id).Mark(); m < counter {
					t.Errorf("device %v took %d, and the disk says %d", id, counter, m)
				}
			}
		})
	}
	wg.Wait()
}

func TestCountersDamaged(t *testing.T) {
	for text, want := range map[string]string{
		"{": "damaged", `{"schema":9}`: "schema 9", `{"schema":1,"devices":{"xyz":{"counter":1}}}`: "device id", `{"schema":1,"more":1}`: "unknown field",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "counters.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := OpenCounters(dir)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
		take(t, c, 1, 1) // it goes on
	}
	c := openCounters(t, filepath.Join(t.TempDir(), "gone"))
	if err := c.Device(1).Take(1); err == nil {
		t.Error("a counter was taken without a word on the disk")
	}
}

// TestCountersHandedOn: what another process knew holds, without a write, and also if
// that process wrote nothing at its end.
func TestCountersHandedOn(t *testing.T) {
	dir := t.TempDir()
	one, err := OpenCounters(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := one.Device(7).Take(5); err != nil {
		t.Fatal(err)
	}
	two, err := OpenCounters(dir)
	if err != nil {
		t.Fatal(err)
	}
	if n, sure := two.Device(7).Mark(); sure || n < 5 {
		t.Errorf("the disk says %d, %v", n, sure)
	}
	before, err := os.Stat(filepath.Join(dir, "counters.json"))
	if err != nil {
		t.Fatal(err)
	}
	two.Resume(one.Export())
	if n, sure := two.Device(7).Mark(); !sure || n != 5 {
		t.Errorf("after the handoff it is %d, %v", n, sure)
	}
	if err := two.Device(7).Take(6); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(filepath.Join(dir, "counters.json")); err != nil || !os.SameFile(before, after) {
		t.Errorf("it was written again: %v", err)
	}
}
