package identity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

func join(u *Users, token, name, source string) error {
	_, err := u.Join(context.Background(), Joining{Invite: token, User: name, Password: rightHorse, Key: KeyFromSeed([32]byte{1}).Public(), Source: source})
	return err
}

func invite(t testing.TB, u *Users, o InviteOptions) string {
	t.Helper()
	token, err := u.Invite(o)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestMode(t *testing.T) {
	for m := Closed; m <= Open; m++ {
		if got, err := ParseMode(m.String()); got != m || err != nil {
			t.Error(m, got, err)
		}
	}
	for _, s := range []string{"", "Open", "public"} {
		if _, err := ParseMode(s); err == nil {
			t.Error(s)
		}
	}
}

func TestJoinClosed(t *testing.T) {
	h := newHasher(t, cheap, 0)
	u := open(t, t.TempDir(), Options{Hasher: h, Mode: InviteOnly})
	token := invite(t, u, InviteOptions{})
	u.SetMode(Closed)
	refused(t, join(u, "", "alice", ""), message.CodeClosed)
	refused(t, join(u, token, "alice", ""), message.CodeClosed)
	_, err := u.Invite(InviteOptions{})
	refused(t, err, message.CodeClosed)
	if h.Evaluations() != 0 {
		t.Error("a stranger made us compute")
	}
}

func TestJoinInvited(t *testing.T) {
	dir := t.TempDir()
	c := &clock{now: epoch}
	h := newHasher(t, cheap, 0)
	o := Options{Hasher: h, Mode: InviteOnly, Now: c.Now, Failures: 100, AddressFails: 100}
	u := open(t, dir, o)
	add(t, u, "alice")
	token := invite(t, u, InviteOptions{})

	before := h.Evaluations()
	for _, bad := range []string{"", "x", strings.ToUpper(token), token[:25], token + "a", strings.Repeat("a", 26)} {
		refused(t, join(u, bad, "bob", ""), message.CodeClosed)
		refused(t, join(u, bad, "alice", ""), message.CodeClosed) // not told that the name is taken
	}
	refused(t, join(u, token, "alice", ""), message.CodeExists)
	refused(t, join(u, token, "No Name", ""), message.CodeInvalid)
	if h.Evaluations() != before {
		t.Error("what is refused was computed")
	}
	_, err := u.Join(t.Context(), Joining{Invite: token, User: "bob", Password: "short", Key: NewKey().Public()})
	refused(t, err, message.CodeInvalid)
	_, err = u.Join(t.Context(), Joining{Invite: token, User: "bob", Password: rightHorse})
	refused(t, err, message.CodeInvalid)

	d, err := u.Join(t.Context(), Joining{Invite: token, User: "bob", Password: rightHorse, Key: NewKey().Public(), Label: "phone"})
	if err != nil {
		t.Fatal(err)
	}
	if err := login1(u, "bob", d.Key); err != nil {
		t.Error(err)
	}
	refused(t, join(u, token, "carol", ""), message.CodeClosed)

	// All of that is on disk, and the token is not.
	token = invite(t, u, InviteOptions{Uses: 2})
	u = open(t, dir, o)
	if err := login1(u, "bob", d.Key); err != nil {
		t.Error(err)
	}
	if err := join(u, token, "carol", ""); err != nil {
		t.Error(err)
	}
	u = open(t, dir, o)
	if list := u.Invites(); len(list) != 1 || list[0].Uses != 1 {
		t.Errorf("%+v", list)
	}
	b, err := os.ReadFile(filepath.Join(dir, "invites.json"))
	if err != nil || strings.Contains(string(b), token) {
		t.Errorf("%s %v", b, err)
	}
	if st, err := os.Stat(filepath.Join(dir, "invites.json")); err != nil || st.Mode().Perm() != 0o600 {
		t.Error(st, err)
	}
	if err := join(u, token, "dave", ""); err != nil {
		t.Error(err)
	}
	refused(t, join(open(t, dir, o), token, "eve", ""), message.CodeClosed)
}

func TestInviteForUser(t *testing.T) {
	c := &clock{now: epoch}
	u := open(t, t.TempDir(), Options{Mode: InviteOnly, Now: c.Now})
	add(t, u, "alice")
	for _, bad := range []InviteOptions{{ValidFor: -1}, {ValidFor: 10000 * time.Hour}, {Uses: -1}, {Uses: 1001}, {User: "bob", Uses: 2}, {User: "No Name"}} {
		_, err := u.Invite(bad)
		refused(t, err, message.CodeInvalid)
	}
	_, err := u.Invite(InviteOptions{User: "alice"})
	refused(t, err, message.CodeExists)

	token := invite(t, u, InviteOptions{User: "bob"})
	refused(t, join(u, token, "carol", ""), message.CodeNotAllowed)
	if err := join(u, token, "bob", ""); err != nil {
		t.Error(err)
	}

	token = invite(t, u, InviteOptions{ValidFor: time.Hour})
	c.pass(time.Hour - 1)
	if len(u.Invites()) != 1 {
		t.Error("too old already")
	}
	c.pass(1)
	refused(t, join(u, token, "dave", ""), message.CodeClosed)
	if len(u.Invites()) != 0 {
		t.Error("an old invitation is open")
	}
	invite(t, u, InviteOptions{})
	if len(u.invites) != 1 {
		t.Error("an old invitation is kept")
	}
	c.pass(7*24*time.Hour - 1)
	if list := u.Invites(); len(list) != 1 || list[0].Uses != 1 {
		t.Errorf("default: %+v", list)
	}
}

func TestRevokeInvite(t *testing.T) {
	dir := t.TempDir()
	u := open(t, dir, Options{Mode: InviteOnly})
	one, two := invite(t, u, InviteOptions{User: "bob"}), invite(t, u, InviteOptions{})
	list := u.Invites()
	if len(list) != 2 || list[0].User != "bob" || list[0].ID == list[1].ID {
		t.Fatalf("%+v", list)
	}
	if err := u.RevokeInvite(list[0].ID); err != nil {
		t.Fatal(err)
	}
	refused(t, u.RevokeInvite(list[0].ID), message.CodeInvalid)
	refused(t, u.RevokeInvite(""), message.CodeInvalid)
	u = open(t, dir, Options{Mode: InviteOnly})
	refused(t, join(u, one, "bob", ""), message.CodeClosed)
	if err := join(u, two, "bob", ""); err != nil {
		t.Error(err)
	}
}

func TestInvitesBounded(t *testing.T) {
	u := open(t, t.TempDir(), Options{Mode: InviteOnly})
	for i := range maxInvites {
		u.invites = append(u.invites, Invite{Uses: 1, Expires: time.Now().Add(time.Hour), hash: [32]byte{byte(i), byte(i >> 8)}})
	}
	_, err := u.Invite(InviteOptions{})
	refused(t, err, message.CodeQuota)
}

// An invitation is worth what it says, however many come at once.
func TestInviteUsedOnce(t *testing.T) {
	u := open(t, t.TempDir(), Options{Mode: InviteOnly, Failures: 1000, AddressFails: 1000})
	token := invite(t, u, InviteOptions{Uses: 3})
	var joined atomic.Int32
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			err := join(u, token, fmt.Sprint("user", i%6), "")
			var r *message.Refusal
			if err == nil {
				joined.Add(1)
			} else if !errors.As(err, &r) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(u.List()); joined.Load() != 3 || n != 3 || len(u.Invites()) != 0 {
		t.Errorf("%d joined, %d users, %v", joined.Load(), n, u.Invites())
	}
}

// The invitation is used up on disk before the user is there: a crash in between
// leaves neither half a user nor an invitation that is good a second time.
func TestJoinOrder(t *testing.T) {
	dir := t.TempDir()
	u := open(t, dir, Options{Mode: InviteOnly})
	token := invite(t, u, InviteOptions{})
	path := filepath.Join(dir, "invites.json")

	// The first write fails: a folder is in its way.
	if err := os.Rename(path, path+".gone"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	var r *message.Refusal
	if err := join(u, token, "alice", ""); err == nil || errors.As(err, &r) {
		t.Error(err)
	}
	if files, _ := os.ReadDir(filepath.Join(dir, "users")); len(files) != 0 || len(u.List()) != 0 {
		t.Error("a user without an invitation", files)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".gone", path); err != nil {
		t.Fatal(err)
	}

	// A crash after it.
	if err := u.storeInvites(redeem(u.invites, token)); err != nil {
		t.Fatal(err)
	}
	u = open(t, dir, Options{Mode: InviteOnly})
	refused(t, join(u, token, "alice", ""), message.CodeClosed)
	if len(u.List()) != 0 {
		t.Error("half a user")
	}
}

func TestJoinOpen(t *testing.T) {
	h := newHasher(t, cheap, 0)
	c := &clock{now: epoch}
	u := open(t, t.TempDir(), Options{Hasher: h, Mode: Open, Now: c.Now, JoinsPerHour: 2, MaxUsers: 4, Failures: 3, AddressFails: 3, Window: time.Minute})
	for _, name := range []string{"alice", "bob"} {
		if err := join(u, "", name, "192.0.2.1:99"); err != nil {
			t.Fatal(err)
		}
	}
	before := h.Evaluations()
	r := refused(t, join(u, "", "carol", "192.0.2.1:100"), message.CodeLater)
	if r.After != time.Hour || r.Permanent || h.Evaluations() != before {
		t.Errorf("%+v", r)
	}
	if err := join(u, "", "carol", "192.0.2.2"); err != nil {
		t.Error(err)
	}
	// An invitation goes beyond that, if it is good.
	refused(t, join(u, strings.Repeat("a", 26), "dave", "192.0.2.3"), message.CodeClosed)
	token := invite(t, u, InviteOptions{Uses: 2})
	if err := join(u, token, "dave", "192.0.2.1"); err != nil {
		t.Error(err)
	}
	c.pass(time.Hour)
	refused(t, join(u, "", "eve", "192.0.2.1"), message.CodeQuota)
	refused(t, join(u, token, "eve", "192.0.2.1"), message.CodeQuota)
	add(t, u, "eve") // by the admin
	if err := u.Remove("eve"); err != nil {
		t.Fatal(err)
	}
	if err := u.Remove("dave"); err != nil {
		t.Fatal(err)
	}
	// Names that are taken can be asked for, but not many.
	for range 3 {
		refused(t, join(u, "", "alice", "192.0.2.4"), message.CodeExists)
	}
	refused(t, join(u, "", "eve", "192.0.2.4"), message.CodeLater)
	// Tokens can't be tried for long either.
	for range 3 {
		refused(t, join(u, strings.Repeat("a", 26), "eve", "192.0.2.5"), message.CodeClosed)
	}
	refused(t, join(u, token, "eve", "192.0.2.5"), message.CodeLater)
}

func TestInvitesDamaged(t *testing.T) {
	dir := t.TempDir()
	u := open(t, dir, Options{Mode: InviteOnly})
	token := invite(t, u, InviteOptions{})
	path := filepath.Join(dir, "invites.json")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, replace := range [][2]string{{`"schema": 1`, `"schema": 9`}, {`"uses": 1`, `"uses": 0`}, {`"uses": 1`, `"uses": 1, "x": 1`},
		{`"hash": "`, `"hash": "00`}, {`"hash": "`, `"hash": "x`}, {`"uses": 1`, `"uses": 1, "user": "A"`}, {"}", ""}} {
		bad := strings.Replace(string(good), replace[0], replace[1], 1)
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		u, problems, err := OpenUsers(dir, "server1", Options{Mode: InviteOnly, Hasher: newHasher(t, cheap, 0)})
		if err != nil || len(problems) != 1 || !strings.Contains(problems[0].Error(), path) {
			t.Errorf("%v: %v, %v", replace, problems, err)
			continue
		}
		refused(t, join(u, token, "alice", ""), message.CodeClosed)
		if _, err := u.Invite(InviteOptions{}); err == nil {
			t.Error("a new invitation took the place of a damaged file")
		}
		if b, _ := os.ReadFile(path); string(b) != bad {
			t.Error("the file was changed")
		}
	}
}

func FuzzParseInvites(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		invites, err := parseInvites(b)
		for _, i := range invites {
			if err == nil && (i.Uses < 1 || i.User != "" && message.CheckName(i.User) != nil) {
				t.Errorf("%+v", i)
			}
		}
	})
}
