package identity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// clock is the time that the tests set.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

const rightHorse = "correct horse"

func open(t testing.TB, dir string, o Options) *Users {
	t.Helper()
	if o.Hasher == nil {
		o.Hasher = newHasher(t, cheap, 0)
	}
	u, problems, err := OpenUsers(dir, "server1", o)
	if err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
	return u
}

func add(t testing.TB, u *Users, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := u.Add(context.Background(), name, rightHorse); err != nil {
			t.Fatal(err)
		}
	}
}

// refused tells whether err is a refusal of this code, and fails the test if not.
func refused(t testing.TB, err error, want message.Code) *message.Refusal {
	t.Helper()
	var r *message.Refusal
	if !errors.As(err, &r) || r.Code != want {
		t.Fatalf("%v, want %v", err, want)
	}
	if len(r.Reason) > message.MaxReason || r.Reason == "" {
		t.Errorf("reason %q", r.Reason)
	}
	return r
}

func enrol(t testing.TB, u *Users, name string, key PublicKey) Device {
	t.Helper()
	d, err := u.Enrol(context.Background(), Enrolment{User: name, Password: rightHorse, Key: key, Label: "lap top", Source: "192.0.2.7:1000"})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func login1(u *Users, name string, key PublicKey) error {
	x := key.X25519()
	_, err := u.Device(name, x[:])
	return err
}

func TestUsersSurvive(t *testing.T) {
	dir := t.TempDir()
	c := &clock{now: epoch}
	u := open(t, dir, Options{Now: c.Now})
	add(t, u, "bob", "alice", "a.b-c")
	key := NewKey().Public()
	d := enrol(t, u, "alice", key)
	if want := (Device{ID: key.DeviceID(), Key: key, Label: "lap top", Created: epoch, Seen: epoch}); d != want {
		t.Errorf("%+v, want %+v", d, want)
	}
	if err := u.Disable("bob", true); err != nil {
		t.Fatal(err)
	}
	want := u.List()
	if len(want) != 3 || want[0].Name != "a.b-c" || want[1].Address != "alice@server1" || !want[2].Disabled {
		t.Fatalf("%+v", want)
	}

	again := open(t, dir, Options{Now: c.Now})
	got := again.List()
	got[1].Devices[0].Seen = epoch // memory only
	if !reflect.DeepEqual(got, want) {
		t.Errorf("have %+v\nwant %+v", got, want)
	}
	if err := login1(again, "alice", key); err != nil {
		t.Error(err)
	}
	enrol(t, again, "alice", NewKey().Public())
	for _, path := range []string{"users/alice.json", "users/bob.json"} {
		if st, err := os.Stat(filepath.Join(dir, path)); err != nil || st.Mode().Perm() != 0o600 {
			t.Error(st, err)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "users/alice.json"))
	if err != nil || strings.Contains(string(b), rightHorse) {
		t.Errorf("%s, %v", b, err)
	}
}

func TestUserChanges(t *testing.T) {
	dir := t.TempDir()
	u := open(t, dir, Options{})
	ctx := t.Context()
	add(t, u, "alice")
	refused(t, u.Add(ctx, "alice", rightHorse), message.CodeExists)
	refused(t, u.Add(ctx, "Alice", rightHorse), message.CodeInvalid)
	refused(t, u.Add(ctx, "../x", rightHorse), message.CodeInvalid)
	refused(t, u.Add(ctx, "bob", "short"), message.CodeInvalid)
	refused(t, u.SetPassword(ctx, "bob", rightHorse), message.CodeNoUser)
	refused(t, u.SetPassword(ctx, "alice", "short"), message.CodeInvalid)
	refused(t, u.Disable("bob", true), message.CodeNoUser)
	refused(t, u.Remove("bob"), message.CodeNoUser)
	refused(t, u.RemoveDevice("alice", 7), message.CodeInvalid)

	one, two := NewKey().Public(), NewKey().Public()
	d1 := enrol(t, u, "alice", one)
	enrol(t, u, "alice", two)
	if err := u.RemoveDevice("alice", d1.ID); err != nil {
		t.Fatal(err)
	}
	refused(t, login1(u, "alice", one), message.CodeBadLogin)
	if err := login1(u, "alice", two); err != nil {
		t.Error(err)
	}

	if err := u.Disable("alice", true); err != nil {
		t.Fatal(err)
	}
	refused(t, login1(u, "alice", two), message.CodeBadLogin)
	if err := u.Disable("alice", false); err != nil {
		t.Fatal(err)
	}
	if err := login1(u, "alice", two); err != nil {
		t.Error(err)
	}

	refused(t, u.ChangePassword(ctx, "alice", "wrong horse", "another horse"), message.CodeBadLogin)
	refused(t, u.ChangePassword(ctx, "nobody", rightHorse, "another horse"), message.CodeBadLogin)
	if err := u.ChangePassword(ctx, "alice", rightHorse, "another horse"); err != nil {
		t.Fatal(err)
	}
	_, err := u.Enrol(ctx, Enrolment{User: "alice", Password: rightHorse, Key: one})
	refused(t, err, message.CodeBadLogin)
	if err := u.SetPassword(ctx, "alice", rightHorse); err != nil {
		t.Fatal(err)
	}
	enrol(t, u, "alice", one)
	if err := login1(u, "alice", two); err != nil {
		t.Error("a new password removed a device", err)
	}

	shown, found := u.Show("alice")
	if !found || len(shown.Devices) != 2 {
		t.Fatal(shown, found)
	}
	shown.Devices[0].Label = "x" // a copy
	if again, _ := u.Show("alice"); again.Devices[0].Label == "x" {
		t.Error("the caller changed a user")
	}

	if err := u.Remove("alice"); err != nil {
		t.Fatal(err)
	}
	refused(t, login1(u, "alice", two), message.CodeBadLogin)
	if _, found := u.Show("alice"); found || len(u.List()) != 0 {
		t.Error("alice is still there")
	}
	if files, _ := os.ReadDir(filepath.Join(dir, "users")); len(files) != 0 {
		t.Error(files)
	}
	add(t, u, "alice")
	refused(t, login1(u, "alice", two), message.CodeBadLogin)
}

func TestUserName(t *testing.T) {
	u := open(t, t.TempDir(), Options{})
	for s, want := range map[string]string{"alice": "alice", "alice@server1": "alice", "alice@server2": "", "Alice": "",
		"@server1": "", "alice@": "", "a@server1@server1": ""} {
		if got, err := u.Name(s); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %s, %v", s, got, err)
		}
	}
}

func TestDamagedFiles(t *testing.T) {
	dir := t.TempDir()
	u := open(t, dir, Options{})
	add(t, u, "alice", "bob")
	enrol(t, u, "bob", NewKey().Public())
	good, err := os.ReadFile(filepath.Join(dir, "users/bob.json"))
	if err != nil {
		t.Fatal(err)
	}
	as := func(name string, replace ...string) []byte {
		s := strings.NewReplacer(append([]string{`"bob"`, `"` + name + `"`}, replace...)...).Replace(string(good))
		return []byte(s)
	}
	bad := map[string][]byte{
		"cut":      as("cut")[:100],
		"empty":    nil,
		"zeros":    make([]byte, 512),
		"other":    as("another"),
		"unknown":  as("unknown", `"disabled"`, `"admin": true, "disabled"`),
		"after":    append(as("after"), "{}"...),
		"schema":   as("schema", `"schema": 1`, `"schema": 2`),
		"hash":     as("hash", "argon2id", "argon2i"),
		"memory":   as("memory", "m=8,", "m=4000000000,"),
		"key":      as("key", "noip1", "noip2"),
		"label":    as("label", "lap top", `lap\u001b[2Jtop`),
		"twice":    as("twice", `"devices": [`, `"devices": [`+string(good[strings.Index(string(good), "[")+1:strings.LastIndex(string(good), "]")])+","),
		"big":      append(as("big"), make([]byte, maxFile)...),
		"time":     as("time", `"created": "2`, `"created": "x`),
		"type":     as("type", `"disabled": false`, `"disabled": "no"`),
		"no-hash":  []byte(`{"schema":1,"name":"no-hash"}`),
		"nul-name": as("nul-name\\u0000"),
	}
	for name, b := range bad {
		if err := os.WriteFile(filepath.Join(dir, "users", name+".json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"README", "Carol.json"} {
		if err := os.WriteFile(filepath.Join(dir, "users", name), as("carol"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "users", "folder.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	// What a crash leaves behind is no problem, and goes.
	left := []string{filepath.Join(dir, "users", ".alice.json123456789012345678"), filepath.Join(dir, ".key123456789012345678")}
	for _, path := range left {
		if err := os.WriteFile(path, good[:10], 0o600); err != nil {
			t.Fatal(err)
		}
	}

	if problems := CheckUsers(dir); len(problems) != len(bad)+3 {
		t.Errorf("%d problems: %v", len(problems), problems)
	}
	u, problems, err := OpenUsers(dir, "server1", Options{Hasher: newHasher(t, cheap, 0)})
	if err != nil {
		t.Fatal(err)
	}
	if len(problems) != len(bad)+3 {
		t.Errorf("%d problems, want %d: %v", len(problems), len(bad)+3, problems)
	}
	for _, path := range left {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	for name := range bad {
		path := filepath.Join(dir, "users", name+".json")
		if !slices.ContainsFunc(problems, func(err error) bool { return strings.HasPrefix(err.Error(), path+" is damaged") }) {
			t.Errorf("%s is not reported", path)
		}
		refused(t, u.Add(t.Context(), name, rightHorse), message.CodeExists) // it would write over the file
		if b, err := os.ReadFile(path); err != nil || string(b) != string(bad[name]) {
			t.Errorf("%s was changed: %v", path, err)
		}
	}
	if list := u.List(); len(list) != 2 {
		t.Errorf("%+v", list)
	}
	enrol(t, u, "alice", NewKey().Public())
	if err := u.Remove("cut"); err != nil {
		t.Fatal(err)
	}
	add(t, u, "cut")
}

// TestUnread: of a file that can't be read nobody is told that it is damaged, and to be
// moved away: it may be as good as ever. Here each is a folder, which root can't read either.
func TestUnread(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"users", "servers.json", "counters.json", "invites.json"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	_, counters := OpenCounters(dir)
	all := append(CheckUsers(dir), CheckServers(dir), counters)
	if len(all) != 3 {
		t.Errorf("%d errors: %v", len(all), all)
	}
	for _, err := range all {
		if err == nil || !errors.Is(err, syscall.EISDIR) || !strings.Contains(err.Error(), ".json can't be read, so ") || strings.Contains(err.Error(), "damaged") || strings.Contains(err.Error(), "move it away") {
			t.Error(err)
		}
	}
}

// TestCarried: users come over from another image, with what only memory knows; files that
// are gone, damaged, new, or not understood are found as without it.
func TestCarried(t *testing.T) {
	dir := t.TempDir()
	u := open(t, dir, Options{})
	for _, name := range []string{"alice", "bob", "carol", "dave"} {
		add(t, u, name)
	}
	key := NewKey().Public()
	x25519 := key.X25519()
	enrol(t, u, "alice", key)
	if _, err := u.Device("alice", x25519[:]); err != nil {
		t.Fatal(err)
	}
	damage := filepath.Join(dir, "users", "erin.json")
	if err := os.WriteFile(damage, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	u.Freeze()
	state := u.Export()
	i := slices.IndexFunc(state, func(r record) bool { return r.Name == "carol" })
	state[i].Schema = schema + 1
	u.Thaw()
	before, _ := u.Show("alice")
	if before.Devices[0].Seen.IsZero() {
		t.Fatal("alice was not seen")
	}
	add(t, u, "frank") // after the export
	if err := os.Remove(filepath.Join(dir, "users", "bob.json")); err != nil {
		t.Fatal(err)
	}
	next, problems, err := OpenUsers(dir, "server1", Options{Hasher: newHasher(t, cheap, 0), Carried: state})
	if err != nil || len(problems) != 1 || !strings.HasPrefix(problems[0].Error(), damage) {
		t.Fatalf("problems %v, error %v", problems, err)
	}
	var names []string
	for _, u := range next.List() {
		names = append(names, u.Name)
	}
	if !slices.Equal(names, []string{"alice", "carol", "dave", "frank"}) {
		t.Errorf("there are %q", names)
	}
	if after, _ := next.Show("alice"); !reflect.DeepEqual(after, before) {
		t.Errorf("alice is %+v, and was %+v", after, before)
	}
	if _, err := next.Device("alice", x25519[:]); err != nil {
		t.Error(err)
	}
}

func TestOpenUsersRefuses(t *testing.T) {
	if problems := CheckUsers(t.TempDir()); len(problems) > 0 {
		t.Error("nothing is wrong with a new server:", problems)
	}
	if _, _, err := OpenUsers(t.TempDir(), "Server", Options{}); err == nil {
		t.Error("a bad home")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenUsers(file, "server1", Options{}); err == nil {
		t.Error("a file is a folder")
	}
}

// What can't be written is not done.
func TestChangeNotDurable(t *testing.T) {
	dir := t.TempDir()
	u := open(t, dir, Options{Mode: InviteOnly})
	add(t, u, "alice")
	token, err := u.Invite(InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// A folder that is gone is a disk that fails, to root too.
	if err := os.Rename(filepath.Join(dir, "users"), filepath.Join(dir, "gone")); err != nil {
		t.Fatal(err)
	}
	var r *message.Refusal
	if err := u.Add(t.Context(), "bob", rightHorse); err == nil || errors.As(err, &r) {
		t.Error(err)
	}
	if err := u.Disable("alice", true); err == nil {
		t.Error("disabled without a disk")
	}
	if err := u.Remove("alice"); err == nil {
		t.Error("removed without a disk")
	}
	key := NewKey().Public()
	if _, err := u.Enrol(t.Context(), Enrolment{User: "alice", Password: rightHorse, Key: key}); err == nil || errors.As(err, &r) {
		t.Error(err)
	}
	refused(t, login1(u, "alice", key), message.CodeBadLogin)
	if _, err := u.Join(t.Context(), Joining{Invite: token, User: "carol", Password: rightHorse, Key: key}); err == nil || errors.As(err, &r) {
		t.Error(err)
	}
	if list := u.List(); len(list) != 1 || list[0].Disabled || len(list[0].Devices) != 0 {
		t.Errorf("%+v", list)
	}
}

func TestUsersConcurrent(t *testing.T) {
	dir := t.TempDir()
	u := open(t, dir, Options{Mode: Open, JoinsPerHour: 1000, Failures: 1000, MaxDevices: 100})
	add(t, u, "alice", "bob")
	known := NewKey().Public()
	enrol(t, u, "alice", known)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			ctx := t.Context()
			key := KeyFromSeed([32]byte{9, byte(i)}).Public()
			d, err := u.Enrol(ctx, Enrolment{User: "alice", Password: rightHorse, Key: key})
			if err != nil {
				t.Error(err)
			}
			if err := login1(u, "alice", key); err != nil {
				t.Error("not visible at once:", err)
			}
			name := fmt.Sprint("user", i)
			if _, err := u.Join(ctx, Joining{User: name, Password: rightHorse, Key: key, Source: "192.0.2.1"}); err != nil {
				t.Error(err)
			}
			if err := u.Disable("bob", i%2 == 0); err != nil {
				t.Error(err)
			}
			if i%2 == 0 {
				if err := u.RemoveDevice("alice", d.ID); err != nil {
					t.Error(err)
				}
				if err := u.Remove(name); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range 300 {
				if err := login1(u, "alice", known); err != nil {
					t.Error(err)
				}
				u.List()
			}
		})
	}
	wg.Wait()
	again := open(t, dir, Options{}).List()
	now := u.List()
	for _, list := range [][]User{again, now} {
		for i := range list {
			for n := range list[i].Devices {
				list[i].Devices[n].Seen = time.Time{}
			}
		}
	}
	if !reflect.DeepEqual(again, now) {
		t.Errorf("disk   %+v\nmemory %+v", again, now)
	}
	if len(now) != 6 || len(now[0].Devices) != 5 {
		t.Errorf("%d users, alice has %d devices", len(now), len(now[0].Devices))
	}
}

// A login writes nothing.
func TestSeenIsMemory(t *testing.T) {
	dir := t.TempDir()
	c := &clock{now: epoch}
	u := open(t, dir, Options{Now: c.Now})
	add(t, u, "alice")
	key := NewKey().Public()
	enrol(t, u, "alice", key)
	before, _ := os.ReadFile(filepath.Join(dir, "users/alice.json"))
	c.pass(time.Hour)
	if err := login1(u, "alice", key); err != nil {
		t.Fatal(err)
	}
	if a, _ := u.Show("alice"); !a.Devices[0].Seen.Equal(epoch.Add(time.Hour)) {
		t.Error(a.Devices[0].Seen)
	}
	if after, _ := os.ReadFile(filepath.Join(dir, "users/alice.json")); string(after) != string(before) {
		t.Error("a login wrote")
	}
	if err := u.Disable("alice", false); err != nil { // another change takes it along
		t.Fatal(err)
	}
	if a, _ := open(t, dir, Options{}).Show("alice"); !a.Devices[0].Seen.Equal(epoch.Add(time.Hour)) {
		t.Error(a.Devices[0].Seen)
	}
}

func FuzzParseAccount(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAccount("alice", b)
		if err != nil {
			return
		}
		text, err := formatJSON(a.record())
		if err != nil {
			return
		}
		again, err := parseAccount("alice", text)
		if err != nil {
			t.Fatalf("%s\n%v", text, err)
		}
		if twice, err := formatJSON(again.record()); err != nil || string(twice) != string(text) {
			t.Errorf("%s\n%s\n%v", text, twice, err)
		}
	})
}
