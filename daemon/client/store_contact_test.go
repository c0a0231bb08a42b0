package client

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
)

func testKey(n byte) identity.PublicKey { return identity.KeyFromSeed([32]byte{n}).Public() }

func keys(n ...byte) (all []identity.PublicKey) {
	for _, n := range n {
		all = append(all, testKey(n))
	}
	return identity.SortKeys(all)
}

func TestContacts(t *testing.T) {
	s := aliceStore(t)
	check(t, s.AddContact("Zoë", carol))
	check(t, s.AddContact("bob", bob))
	for name, f := range map[string]func() error{
		"an address twice": func() error { return s.AddContact("Bob2", bob) },
		"a name twice":     func() error { return s.AddContact("BOB", "dave@server1") },
		"another's name":   func() error { return s.RenameContact(carol, "Bob") },
	} {
		var no *message.Refusal
		if err := f(); !errors.As(err, &no) || no.Code != message.CodeExists || !strings.Contains(err.Error(), string(bob)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	check(t, s.RenameContact(bob, "Bob")) // his own
	for _, who := range []string{"Bob", "bob", "BOB", string(bob)} {
		if c, err := s.Contact(who); err != nil || c.Name != "Bob" || c.Address != bob || c.Trust != Unverified {
			t.Errorf("%s: %+v, %v", who, c, err)
		}
	}
	all, err := s.Contacts()
	check(t, err)
	if len(all) != 2 || all[0].Name != "Bob" || all[1].Name != "Zoë" {
		t.Errorf("all: %+v", all)
	}
	if b, err := json.Marshal(all[0]); err != nil || !strings.HasPrefix(string(b), `{"name":"Bob","address":"bob@server2","trust":"unverified","devices":[],"verified":false,"added":"`) {
		t.Errorf("JSON is %s, %v", b, err)
	}
	check(t, s.RemoveContact(bob))
	for name, err := range map[string]error{
		"remove": s.RemoveContact(bob), "rename": s.RenameContact(bob, "x"), "verify": s.VerifyContact(bob, keys(1)),
		"find": func() error { _, err := s.Contact("Bob"); return err }(),
		"see":  func() error { _, err := s.SeeDevices(bob, keys(1)); return err }(),
	} {
		if !errors.Is(err, ErrNoContact) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestContactTrust(t *testing.T) {
	s := aliceStore(t)
	check(t, s.AddContact("bob", bob))
	see := func(devices []identity.PublicKey, trust Trust, known, now []identity.PublicKey) {
		t.Helper()
		c, err := s.SeeDevices(bob, devices)
		check(t, err)
		stored, err := s.Contact("bob")
		check(t, err)
		if c.Trust != trust || len(c.Devices) != len(known) || len(known) > 0 && !reflect.DeepEqual(c.Devices, known) || !reflect.DeepEqual(c.Now, now) || !reflect.DeepEqual(c, stored) {
			t.Errorf("%d devices: %+v, stored is %+v", len(devices), c, stored)
		}
		if err := c.Doubt(testKey(9)); (err != nil) != (c.Verified && trust == Changed) {
			t.Errorf("%v: doubt %v", trust, err)
		}
	}
	see(nil, Unverified, nil, nil)
	see(keys(1, 2), Unverified, keys(1, 2), nil) // the first are believed
	see(keys(2), Unverified, keys(1, 2), nil)
	see(keys(1, 3), Changed, keys(1, 2), keys(1, 3))
	see(keys(1, 2), Unverified, keys(1, 2), nil)
	check(t, s.VerifyContact(bob, keys(2, 1, 2)))
	see(keys(1, 2), Verified, keys(1, 2), nil)
	see(keys(1), Verified, keys(1, 2), nil)
	see(keys(1, 2, 3), Changed, keys(1, 2), keys(1, 2, 3))
	see(keys(3), Changed, keys(1, 2), keys(3))
	see(nil, Changed, keys(1, 2), []identity.PublicKey{})
	see(keys(2), Verified, keys(1, 2), nil)
	see(keys(4), Changed, keys(1, 2), keys(4))
	c, err := s.Contact("bob")
	check(t, err)
	var changed *ChangedDevicesError
	if err := c.Doubt(testKey(9)); !errors.As(err, &changed) || changed.Want == changed.Got || changed.Got != identity.UserWords(bob, testKey(9), keys(4)) {
		t.Errorf("doubt: %v", err)
	}
	check(t, s.VerifyContact(bob, keys(4)))
	see(keys(4), Verified, keys(4), nil)
}

// Whoever is to be sent something and is a contact is found, by the indexes.
func TestAddressees(t *testing.T) {
	s := aliceStore(t)
	check(t, s.AddContact("bob", bob))
	check(t, s.AddContact("carol", carol))
	check(t, s.VerifyContact(bob, keys(1)))
	enqueue(t, s, Outgoing{To: to(carol, bob, "dave@server1")})
	enqueue(t, s, Outgoing{To: to("dave@server1")})
	enqueue(t, s, Outgoing{To: to(bob)})
	enqueue(t, s, Outgoing{To: to(bob), Kind: message.Receipt})
	file := filepath.Join(t.TempDir(), "file")
	check(t, os.WriteFile(file, make([]byte, 3*message.PartSize), 0o600))
	_, err := s.EnqueueFile(t.Context(), OutgoingFile{To: to(bob), Path: file})
	check(t, err)
	settle(t, s, Settled{Counter: 1, Receiver: 1, State: message.Held})
	expect := func(p message.Priority, first, last uint64, want ...addressee) {
		t.Helper()
		if all, err := s.addressees(p, first, last); err != nil || !slices.Equal(all, want) {
			t.Errorf("from %d to %d: %+v, %v; want %+v", first, last, all, err, want)
		}
	}
	key := testKey(1).String()
	expect(message.Normal, 1, 3, addressee{1, 1, 0, bob, true, key}, addressee{3, 3, 0, bob, true, key})
	expect(message.Normal, 2, 2)
	expect(message.Normal, 4, 9)
	expect(message.Bulk, 1, 4)
	expect(message.Bulk, 8, 8, addressee{5, 8, 0, bob, true, key})
	expect(message.Bulk, 9, 9)
}

// FuzzContactName: a name that is taken can't hide anything, nor look like an address
// or a flag.
func FuzzContactName(f *testing.F) {
	f.Fuzz(func(t *testing.T, name string) {
		if CheckContactName(name) != nil {
			return
		}
		for _, r := range name {
			if !unicode.IsPrint(r) || strings.ContainsRune("@<>,()\"\\", r) {
				t.Errorf("%q has %q", name, r)
			}
		}
		if name == "" || len(name) > maxContactName || name[0] == '-' || strings.TrimSpace(name) != name || strings.Contains(name, "  ") {
			t.Errorf("%q was taken", name)
		}
	})
}
