package identity

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// Who can't log in learns nothing about why, neither from the answer nor from
// what it cost.
func TestEnrolTellsNothing(t *testing.T) {
	h := newHasher(t, cheap, 0)
	c := &clock{now: epoch}
	u := open(t, t.TempDir(), Options{Hasher: h, Now: c.Now})
	add(t, u, "alice", "bob")
	if err := u.Disable("bob", true); err != nil {
		t.Fatal(err)
	}
	key := NewKey().Public()
	try := func(name, password string) (string, uint64) {
		t.Helper()
		before := h.Evaluations()
		_, err := u.Enrol(t.Context(), Enrolment{User: name, Password: password, Key: key, Source: "192.0.2.1"})
		refused(t, err, message.CodeBadLogin)
		return err.Error(), h.Evaluations() - before
	}
	want, cost := try("alice", "wrong horse")
	if cost != 1 {
		t.Errorf("%d evaluations", cost)
	}
	for _, tc := range [][2]string{{"nobody", rightHorse}, {"bob", rightHorse}, {"bob", "wrong horse"}} {
		if got, n := try(tc[0], tc[1]); got != want || n != cost {
			t.Errorf("%s: %q at %d, want %q at %d", tc[0], got, n, want, cost)
		}
	}
	// What is no name and no password costs nothing for anybody.
	for _, tc := range [][2]string{{"alice", "short"}, {"nobody", "short"}, {"No Name", rightHorse}, {"", ""}} {
		if got, n := try(tc[0], tc[1]); got != want || n != 0 {
			t.Errorf("%s: %q at %d", tc[0], got, n)
		}
	}

	// With a device key.
	enrol(t, u, "alice", key)
	other := NewKey().Public()
	want = login1(u, "alice", other).Error()
	for name, k := range map[string]PublicKey{"nobody": key, "bob": key, "": key} {
		if err := login1(u, name, k); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if _, err := u.Device("alice", nil); err == nil || err.Error() != want {
		t.Error(err)
	}
}

func TestEnrolAgain(t *testing.T) {
	h := newHasher(t, cheap, 0)
	u := open(t, t.TempDir(), Options{Hasher: h, MaxDevices: 2})
	add(t, u, "alice", "bob")
	one, two := NewKey().Public(), NewKey().Public()
	first := enrol(t, u, "alice", one)
	before := h.Evaluations()
	if again := enrol(t, u, "alice", one); again.ID != first.ID || !again.Created.Equal(first.Created) {
		t.Errorf("%+v, want %+v", again, first)
	}
	if n := h.Evaluations() - before; n != 1 {
		t.Errorf("%d evaluations for one login", n)
	}
	if a, _ := u.Show("alice"); len(a.Devices) != 1 {
		t.Errorf("%+v", a)
	}
	enrol(t, u, "bob", one) // another user of the same client

	half := two
	copy(half[:32], one[:32])
	e := Enrolment{User: "alice", Password: rightHorse, Key: half}
	_, err := u.Enrol(t.Context(), e)
	refused(t, err, message.CodeInvalid)

	enrol(t, u, "alice", two)
	e.Key = NewKey().Public()
	_, err = u.Enrol(t.Context(), e)
	refused(t, err, message.CodeNotAllowed)
	enrol(t, u, "alice", one) // is there already

	for _, bad := range []Enrolment{
		{User: "alice", Password: rightHorse},
		{User: "alice", Password: rightHorse, Key: NewKey().Public(), Label: strings.Repeat("x", 65)},
		{User: "alice", Password: rightHorse, Key: NewKey().Public(), Label: "a\x1b[2J"},
		{User: "alice", Password: rightHorse, Key: NewKey().Public(), Label: "a\u202eb"},
		{User: "alice", Password: rightHorse, Key: NewKey().Public(), Label: "\xff"},
	} {
		_, err := u.Enrol(t.Context(), bad)
		refused(t, err, message.CodeInvalid)
	}
}

func TestRehash(t *testing.T) {
	dir := t.TempDir()
	u := open(t, dir, Options{})
	add(t, u, "alice", "bob")
	if err := u.Disable("bob", true); err != nil {
		t.Fatal(err)
	}
	key := NewKey().Public()
	enrol(t, u, "alice", key)

	dearer := newHasher(t, Cost{Memory: 16, Passes: 2, Lanes: 2}, 0)
	u = open(t, dir, Options{Hasher: dearer})
	ctx := t.Context()
	for _, name := range []string{"alice", "bob", "nobody"} {
		before := dearer.Evaluations()
		_, err := u.Enrol(ctx, Enrolment{User: name, Password: "wrong horse", Key: key})
		refused(t, err, message.CodeBadLogin)
		if n := dearer.Evaluations() - before; n != 1 {
			t.Errorf("%s: %d evaluations", name, n)
		}
	}
	before := dearer.Evaluations()
	_, err := u.Enrol(ctx, Enrolment{User: "bob", Password: rightHorse, Key: key}) // right, but disabled
	refused(t, err, message.CodeBadLogin)
	if n := dearer.Evaluations() - before; n != 1 {
		t.Errorf("%d evaluations", n)
	}
	hash := func() string {
		b, err := os.ReadFile(filepath.Join(dir, "users/alice.json"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if !strings.Contains(hash(), "$m=8,t=1,p=1$") {
		t.Error(hash())
	}
	enrol(t, u, "alice", key) // known, but the hash is renewed
	if !strings.Contains(hash(), "$m=16,t=2,p=2$") {
		t.Error(hash())
	}
	before = dearer.Evaluations()
	enrol(t, u, "alice", key)
	if n := dearer.Evaluations() - before; n != 1 {
		t.Errorf("%d evaluations after the rehash", n)
	}
}

func TestEnrolLimited(t *testing.T) {
	h := newHasher(t, cheap, 1)
	c := &clock{now: epoch}
	u := open(t, t.TempDir(), Options{Hasher: h, Now: c.Now, Failures: 3, AddressFails: 3, Window: time.Minute})
	add(t, u, "alice", "bob")
	key := NewKey().Public()
	try := func(name, password, source string) error {
		_, err := u.Enrol(t.Context(), Enrolment{User: name, Password: password, Key: key, Source: source})
		return err
	}
	// The account, known or not, from many addresses.
	for _, name := range []string{"alice", "nobody"} {
		for _, source := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"} {
			refused(t, try(name, "wrong horse", source), message.CodeBadLogin)
		}
		before := h.Evaluations()
		r := refused(t, try(name, rightHorse, "192.0.2.4"), message.CodeLater)
		if r.After != time.Minute || r.Permanent || r.Reason != "too many failures" {
			t.Errorf("%s: %+v", name, r)
		}
		if n := h.Evaluations() - before; n != 0 {
			t.Errorf("%s: who must wait costs %d evaluations", name, n)
		}
	}
	if err := try("bob", rightHorse, "192.0.2.4"); err != nil {
		t.Error("another account must wait:", err)
	}
	c.pass(time.Minute)
	if err := try("alice", rightHorse, "192.0.2.1"); err != nil {
		t.Error(err)
	}

	// The address, with many accounts; the neighbours in a /64 are one.
	for _, tc := range [][2]string{{"a", "2001:db8::1"}, {"b", "[2001:db8::2]:77"}, {"c", "2001:db8::3"}} {
		refused(t, try(tc[0], rightHorse, tc[1]), message.CodeBadLogin)
	}
	refused(t, try("alice", rightHorse, "[2001:db8::4]:1"), message.CodeLater)
	if err := try("alice", rightHorse, "2001:db8:0:1::1"); err != nil {
		t.Error(err)
	}
	// One's own account does not free the address.
	c.pass(time.Minute)
	for range 2 {
		refused(t, try("bob", "wrong horse", "192.0.2.9"), message.CodeBadLogin)
		if err := try("alice", rightHorse, "192.0.2.9"); err != nil {
			t.Error(err)
		}
	}
	refused(t, try("x", "wrong horse", "192.0.2.9"), message.CodeBadLogin)
	refused(t, try("alice", rightHorse, "192.0.2.9"), message.CodeLater)
	// But the account's failures are forgotten with a success.
	if err := try("bob", rightHorse, "192.0.2.10"); err != nil {
		t.Error(err)
	}
	for _, source := range []string{"192.0.2.11", "192.0.2.12"} {
		refused(t, try("bob", "wrong horse", source), message.CodeBadLogin)
	}
	if err := try("bob", rightHorse, "192.0.2.10"); err != nil {
		t.Error(err)
	}

	// Strangers can't keep a user who is logged in from changing his password.
	for _, source := range []string{"192.0.2.13", "192.0.2.14", "192.0.2.15"} {
		refused(t, try("bob", "wrong horse", source), message.CodeBadLogin)
	}
	refused(t, try("bob", rightHorse, "192.0.2.16"), message.CodeLater)
	for range 2 {
		refused(t, u.ChangePassword(t.Context(), "bob", "wrong horse", "another horse"), message.CodeBadLogin)
	}
	if err := u.ChangePassword(t.Context(), "bob", rightHorse, "another horse"); err != nil {
		t.Error(err)
	}
	for range 3 {
		refused(t, u.ChangePassword(t.Context(), "bob", rightHorse, "wrong horse"), message.CodeBadLogin)
	}
	refused(t, u.ChangePassword(t.Context(), "bob", "another horse", rightHorse), message.CodeLater)
}

// Who guesses many times at once has no more guesses than who waits for answers.
func TestEnrolLimitedAtOnce(t *testing.T) {
	h := newHasher(t, cheap, 1)
	u := open(t, t.TempDir(), Options{Hasher: h, Failures: 5, AddressFails: 5})
	add(t, u, "alice")
	before := h.Evaluations()
	if err := h.acquire(t.Context()); err != nil { // all of them wait for their turn
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			_, err := u.Enrol(context.Background(), Enrolment{User: "alice", Password: "wrong horse", Key: NewKey().Public(), Source: "192.0.2.1"})
			var r *message.Refusal
			if !errors.As(err, &r) {
				t.Error(err)
			}
		})
	}
	h.release()
	wg.Wait()
	if n := h.Evaluations() - before; n != 5 {
		t.Errorf("%d guesses", n)
	}
}

// Somebody whose password was right when it was verified, and whose user is
// another one when the device is to be stored.
func TestEnrolOvertaken(t *testing.T) {
	for name, overtake := range map[string]func(*Users, account){
		"password": func(u *Users, a account) { a.epoch = u.nextEpoch(); u.publish(a.name, &a) },
		"disabled": func(u *Users, a account) { a.disabled = true; u.publish(a.name, &a) },
		"removed":  func(u *Users, a account) { u.publish(a.name, nil) },
	} {
		h := newHasher(t, cheap, 1)
		u := open(t, t.TempDir(), Options{Hasher: h})
		add(t, u, "alice")
		before := h.Evaluations()
		u.change.Lock() // Enrol gets as far as this
		done := make(chan error)
		go func() {
			_, err := u.Enrol(context.Background(), Enrolment{User: "alice", Password: rightHorse, Key: NewKey().Public()})
			done <- err
		}()
		for h.Evaluations() == before {
			runtime.Gosched()
		}
		if err := h.acquire(t.Context()); err != nil { // it has verified
			t.Fatal(err)
		}
		h.release()
		overtake(u, *u.account("alice"))
		u.change.Unlock()
		if err := <-done; refused(t, err, message.CodeBadLogin) == nil {
			t.Error(name)
		}
		if a, _ := u.Show("alice"); len(a.Devices) != 0 {
			t.Errorf("%s: the device is there", name)
		}
	}
}

// Setting the same password again, or a new user of the same name, is a new epoch;
// a rehash is not, or one of two logins at once would be refused.
func TestEpoch(t *testing.T) {
	dir := t.TempDir()
	u := open(t, dir, Options{})
	add(t, u, "alice")
	one := u.account("alice").epoch
	if err := u.SetPassword(t.Context(), "alice", rightHorse); err != nil {
		t.Fatal(err)
	}
	two := u.account("alice").epoch
	if err := u.Remove("alice"); err != nil {
		t.Fatal(err)
	}
	add(t, u, "alice")
	if three := u.account("alice").epoch; one == two || two == three || one == three {
		t.Error(one, two, three)
	}
	u = open(t, dir, Options{Hasher: newHasher(t, Cost{Memory: 16, Passes: 1, Lanes: 1}, 4)})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := u.Enrol(context.Background(), Enrolment{User: "alice", Password: rightHorse, Key: NewKey().Public()}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestEnrolCancelled(t *testing.T) {
	h := newHasher(t, cheap, 1)
	u := open(t, t.TempDir(), Options{Hasher: h})
	add(t, u, "alice")
	if err := h.acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := u.Enrol(ctx, Enrolment{User: "alice", Password: rightHorse, Key: NewKey().Public()})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	h.release()
	enrol(t, u, "alice", NewKey().Public())
}
