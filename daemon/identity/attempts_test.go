package identity

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// TestAttemptsResume: another process lets nobody try sooner.
func TestAttemptsResume(t *testing.T) {
	a := NewAttempts(3, time.Minute, 100)
	for n, key := range []string{"x", "y", "x", "x", "z"} {
		a.Fail(epoch.Add(time.Duration(n)*time.Second), key)
	}
	all := a.Export(epoch.Add(10 * time.Second))
	b := NewAttempts(3, time.Minute, 100)
	later := epoch.Add(time.Hour) // by its clock
	b.Resume(later, all)
	if wait := b.Allow(later, "x", "y", "z"); wait != 50*time.Second {
		t.Errorf("x waits %v", wait)
	}
	b.Fail(later, "y")
	if wait := b.Allow(later, "y"); wait != 0 {
		t.Errorf("after two failures y waits %v", wait)
	}
	b.Fail(later, "y")
	if wait := b.Allow(later, "y"); wait != 51*time.Second {
		t.Errorf("after three failures y waits %v", wait)
	}
}

func TestAttemptsSlide(t *testing.T) {
	a := NewAttempts(3, time.Minute, 100)
	at := func(seconds int) time.Time { return epoch.Add(time.Duration(seconds) * time.Second) }
	wait := func(seconds int, want time.Duration, keys ...string) {
		t.Helper()
		if got := a.Allow(at(seconds), keys...); got != want {
			t.Errorf("at %d s: wait %v, want %v", seconds, got, want)
		}
	}
	wait(0, 0, "x")
	a.Fail(at(0), "x")
	a.Fail(at(20), "x")
	wait(20, 0, "x")
	a.Fail(at(40), "x", "y")
	wait(40, 20*time.Second, "x")
	wait(40, 0, "y")
	wait(40, 20*time.Second, "y", "x")
	wait(59, time.Second, "x")
	wait(60, 0, "x") // the first is forgotten, not the others
	a.Fail(at(60), "x")
	wait(60, 20*time.Second, "x")
	wait(80, 0, "x")
	a.Success("x")
	a.Fail(at(80), "x")
	a.Fail(at(80), "x")
	wait(80, 0, "x")
	a.Fail(at(80), "x")
	wait(80, time.Minute, "x")
	a.Success("nobody")
	wait(80, 0, "y")
}

func TestAttemptsForget(t *testing.T) {
	a := NewAttempts(3, time.Minute, 1000)
	for i := range 500 {
		a.Fail(epoch, fmt.Sprint(i))
	}
	a.Fail(epoch.Add(time.Minute), "x")
	if len(a.entries) != 1 {
		t.Errorf("%d keys are kept", len(a.entries))
	}
	for n, l := range a.byCount {
		if n != 1 && l.Len() != 0 {
			t.Errorf("%d keys with %d failures", l.Len(), n)
		}
	}
}

// A flood of new keys frees nobody who is blocked, nor whoever is near it, and
// memory stays bounded.
func TestAttemptsFlood(t *testing.T) {
	const capacity = 100
	a := NewAttempts(3, time.Hour, capacity)
	now := epoch
	for range 3 {
		a.Fail(now, "blocked")
	}
	a.Fail(now, "near")
	a.Fail(now, "near")
	for i := range 20 * capacity {
		now = now.Add(time.Millisecond)
		a.Fail(now, fmt.Sprint("new", i))
		if len(a.entries) > capacity {
			t.Fatalf("%d keys", len(a.entries))
		}
	}
	if a.Allow(now, "blocked") == 0 {
		t.Error("the flood freed who was blocked")
	}
	a.Fail(now, "near")
	if a.Allow(now, "near") == 0 {
		t.Error("the flood made us forget failures")
	}
	if a.Allow(now, fmt.Sprint("new", 20*capacity-1)) != 0 {
		t.Error("one failure blocks")
	}

	// All are blocked: the blocked stay, the new one is let through.
	for i := range capacity {
		for range 3 {
			a.Fail(now, fmt.Sprint("attacker", i))
		}
	}
	for i := range capacity - 2 {
		if a.Allow(now, fmt.Sprint("attacker", i)) == 0 {
			t.Fatalf("attacker %d is free", i)
		}
	}
	a.Fail(now, "another", "another", "another")
	if len(a.entries) != capacity || a.Allow(now, "blocked") == 0 {
		t.Errorf("%d keys, blocked waits %v", len(a.entries), a.Allow(now, "blocked"))
	}
	a.Success("another")
	if len(a.entries) != capacity {
		t.Error("a success made room")
	}
	// And they end.
	a.Fail(now.Add(time.Hour), "another")
	if len(a.entries) != 1 {
		t.Errorf("%d keys an hour later", len(a.entries))
	}
}

func TestAttemptsLimitOne(t *testing.T) {
	a := NewAttempts(1, time.Minute, 2)
	a.Fail(epoch, "x", "y", "z")
	if a.Allow(epoch, "x") != time.Minute || a.Allow(epoch, "y") != time.Minute || a.Allow(epoch, "z") != 0 {
		t.Error("limit 1")
	}
}

func TestAttemptsConcurrent(t *testing.T) {
	a := NewAttempts(5, time.Hour, 50)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				key := fmt.Sprint((g*7 + i) % 70)
				a.Fail(epoch.Add(time.Duration(i)*time.Second), key)
				a.Allow(epoch, key)
				if i%10 == 0 {
					a.Success(key)
				}
			}
		})
	}
	wg.Wait()
	n := 0
	for _, l := range a.byCount {
		n += l.Len()
	}
	if n != len(a.entries) || n > 50 {
		t.Errorf("%d in lists, %d in the map", n, len(a.entries))
	}
}

func TestAddressKey(t *testing.T) {
	for source, want := range map[string]string{
		"192.0.2.1":               "192.0.2.1",
		"192.0.2.1:5000":          "192.0.2.1",
		"[::ffff:192.0.2.1]:5000": "192.0.2.1",
		"2001:db8:1:2:3:4:5:6":    "2001:db8:1:2::/64",
		"[2001:db8:1:2::9]:5000":  "2001:db8:1:2::/64",
		"[fe80::1%eth0]:5000":     "fe80::/64",
		"@":                       "@",
		"stdio":                   "stdio",
	} {
		if got := AddressKey(source); got != want {
			t.Errorf("%s: %s, want %s", source, got, want)
		}
	}
}
