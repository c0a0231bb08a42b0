package client

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

const (
	alice = message.Address("alice@server1") // who the profile is in all tests
	bob   = message.Address("bob@server2")
	carol = message.Address("carol@server1")

	aliceDevice = message.DeviceID(0xa11ce00000000001) // the highest bit is set: SQLite's numbers are signed
	bobDevice   = message.DeviceID(0xb0b)
)

var testTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func openStore(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// aliceStore is a new store with an account.
func aliceStore(t testing.TB) *Store {
	t.Helper()
	s := openStore(t, t.TempDir())
	if err := s.SetAccount(aliceAccount()); err != nil {
		t.Fatal(err)
	}
	return s
}

func aliceAccount() Account {
	return Account{Address: alice, Device: aliceDevice, Seed: [32]byte{1, 2, 3}, ServerKey: "noip1key",
		Servers: []string{"203.0.113.5:10001", "[2001:db8::1]:10001"}, Created: testTime}
}

// count is the number of rows of a table, with a condition or without.
func count(t testing.TB, s *Store, what string) (n int) {
	t.Helper()
	if err := s.db.QueryRow("SELECT count(*) FROM " + what).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAccount(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a profile? 100% #1", "new")
	s := openStore(t, dir)
	if _, ok, err := s.Account(); ok || err != nil {
		t.Fatalf("a new store has an account: %v, %v", ok, err)
	}
	if _, err := s.Enqueue(t.Context(), Outgoing{To: []message.Address{bob}}); !errors.Is(err, ErrNoAccount) {
		t.Errorf("Enqueue without an account: %v", err)
	}
	if _, err := s.Receive([]Incoming{textFrom(t, 1, "")}); !errors.Is(err, ErrNoAccount) {
		t.Errorf("Receive without an account: %v", err)
	}
	want := aliceAccount()
	check(t, s.SetAccount(want))
	check(t, s.SetServerKey("server1", "noip1old", "first"))
	check(t, s.SetServerKey("server1", "noip1key", "pinned"))
	check(t, s.Close())

	for name, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "history.db"): 0o600} {
		if st, err := os.Stat(name); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	s = openStore(t, dir)
	if have, ok, err := s.Account(); !ok || err != nil || !reflect.DeepEqual(have, want) {
		t.Errorf("Account() = %+v, %v, %v; want %+v", have, ok, err, want)
	}
	if keys, err := s.ServerKeys(); err != nil || !reflect.DeepEqual(keys, map[string]ServerKey{"server1": {"noip1key", "pinned"}}) {
		t.Errorf("ServerKeys() = %v, %v", keys, err)
	}
	check(t, s.SetServerKey("server2", "noip1x", "first"))
	for _, name := range []string{"history.db-wal", "history.db-shm"} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}

	want.Device, want.Servers = 7, []string{}
	check(t, s.SetAccount(want))
	if have, _, err := s.Account(); err != nil || !reflect.DeepEqual(have, want) {
		t.Errorf("after a change Account() = %+v, %v; want %+v", have, err, want)
	}
	want.Address = bob
	if err := s.SetAccount(want); err == nil || !strings.Contains(err.Error(), string(alice)) {
		t.Errorf("the profile was given to somebody else: %v", err)
	}
}

func TestPragmas(t *testing.T) {
	s := aliceStore(t)
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1",
		"busy_timeout": "10000", "cache_size": "-2048", "user_version": fmt.Sprint(len(storeSchemas))} {
		for _, from := range []interface {
			QueryRow(string, ...any) *sql.Row
		}{s.db, writerRow{t, s}} {
			var have string
			if err := from.QueryRow("PRAGMA " + pragma).Scan(&have); err != nil || have != want {
				t.Errorf("%T: %s is %s, %v; want %s", from, pragma, have, err, want)
			}
		}
	}
}

type writerRow struct {
	t *testing.T
	s *Store
}

func (w writerRow) QueryRow(q string, args ...any) *sql.Row {
	return w.s.writer.QueryRowContext(w.t.Context(), q, args...)
}

// A file that is not ours to change is refused with the reason, and has the
// same bytes afterwards.
func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil   func(t *testing.T, path string)
		want    string
		damaged bool
	}{
		"newer": {func(t *testing.T, path string) { change(t, path, "PRAGMA user_version = 99") },
			fmt.Sprint("history.db has schema 99, of a newer version of this program, which knows schemas up to ", len(storeSchemas)), false},
		"another program": {func(t *testing.T, path string) {
			check(t, os.Remove(path))
			change(t, path, "CREATE TABLE recipe (name TEXT); PRAGMA user_version = 1")
		}, "history.db is a database of another program", false},
		"no database": {func(t *testing.T, path string) {
			check(t, os.WriteFile(path, []byte(strings.Repeat("Dear diary, ", 1000)), 0o600))
		}, "is damaged (it is left as it is)", true},
		"schema overwritten": {func(t *testing.T, path string) { overwrite(t, path, 100, 300) }, "is damaged (it is left as it is)", true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			check(t, openStore(t, dir).Close())
			path := filepath.Join(dir, "history.db")
			c.spoil(t, path)
			before, err := os.ReadFile(path)
			check(t, err)
			s, err := OpenStore(dir)
			if err == nil {
				s.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) || errors.Is(err, ErrDamaged) != c.damaged || errors.Is(err, ErrMisuse) == c.damaged {
				t.Errorf("OpenStore: %v; want %q", err, c.want)
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
				t.Errorf("the file was changed: %v", err)
			}
		})
	}
}

// Damage where the messages are is found when they are read.
func TestDamageInside(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	check(t, s.SetAccount(aliceAccount()))
	for c := range uint64(200) {
		if _, err := s.Receive([]Incoming{textFrom(t, c+1, strings.Repeat("long ", 500))}); err != nil {
			t.Fatal(err)
		}
	}
	var roots int
	check(t, s.db.QueryRow("SELECT max(rootpage) FROM sqlite_schema").Scan(&roots))
	head := (roots + 2) * 4096 // the schema, the account and the roots are before that
	check(t, s.Close())
	path := filepath.Join(dir, "history.db")
	st, err := os.Stat(path)
	check(t, err)
	overwrite(t, path, head, int(st.Size())-head)
	s = openStore(t, dir)
	if _, err := s.History(Query{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("History: %v", err)
	}
	if _, err := s.Receive([]Incoming{textFrom(t, 201, "")}); !errors.Is(err, ErrDamaged) {
		t.Errorf("Receive: %v", err)
	}
	if _, _, err := s.Account(); err != nil {
		t.Errorf("what is not damaged can't be read: %v", err)
	}
}

func change(t *testing.T, path, script string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	check(t, err)
	defer db.Close()
	_, err = db.Exec(script)
	check(t, err)
}

func overwrite(t *testing.T, path string, offset, n int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	check(t, err)
	_, err = f.WriteAt([]byte(strings.Repeat("\xaa", n)), int64(offset))
	check(t, errors.Join(err, f.Close()))
}

// Many open a new store at once, as processes would; each gets counters of its own.
func TestOpenTogether(t *testing.T) {
	const openers, each = 8, 5
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range openers {
		wg.Go(func() {
			s, err := OpenStore(dir)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if err := s.SetAccount(aliceAccount()); err != nil {
				t.Error(err)
			}
			for range each {
				if _, err := s.Enqueue(t.Context(), Outgoing{To: []message.Address{bob}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	s := openStore(t, dir)
	all, err := s.Outbox(message.Normal, 0, 1000)
	check(t, err)
	if len(all) != openers*each {
		t.Fatalf("the outbox has %d envelopes, want %d", len(all), openers*each)
	}
	for i, p := range all {
		if p.Counter != uint64(i+1) {
			t.Errorf("envelope %d has the counter %d", i, p.Counter)
		}
	}
}

func TestClosed(t *testing.T) {
	s := aliceStore(t)
	check(t, s.Close())
	if _, err := s.Enqueue(t.Context(), Outgoing{To: []message.Address{bob}}); err == nil {
		t.Error("Enqueue after Close")
	}
	if _, err := s.History(Query{}); err == nil {
		t.Error("History after Close")
	}
	if err := s.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}

// One store serves several goroutines, which write and read at the same time.
func TestTogether(t *testing.T) {
	s := aliceStore(t)
	const rounds = 20
	var wg sync.WaitGroup
	each := func(f func(i int) error) {
		wg.Go(func() {
			for i := range rounds {
				if err := f(i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	each(func(i int) error {
		_, err := s.Enqueue(t.Context(), Outgoing{To: to(bob)})
		return err
	})
	each(func(i int) error {
		_, err := s.Receive([]Incoming{textFrom(t, uint64(i+1), "")})
		return err
	})
	each(func(i int) error {
		all, err := s.Next("", 1)
		if err == nil && len(all) > 0 {
			err = s.Advance("", all[0])
		}
		return err
	})
	each(func(i int) error {
		all, err := s.Outbox(message.Normal, 0, 1)
		if err == nil && len(all) > 0 {
			_, err = s.Settle([]Settled{{Counter: all[0].Counter, Receiver: AllOpen, State: message.Held}})
		}
		return err
	})
	each(func(i int) error {
		_, err := s.History(Query{})
		return err
	})
	wg.Wait()
	if n := count(t, s, "message"); n != 2*rounds {
		t.Errorf("%d messages, want %d", n, 2*rounds)
	}
}
