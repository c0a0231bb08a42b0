package client

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/noipchat/noipchat/daemon/message"
)

// oldStore is the folder of a store that a program with an older schema has left.
func oldStore(t *testing.T, name string) string {
	t.Helper()
	dump, err := os.ReadFile(filepath.Join("testdata", name))
	check(t, err)
	dir := t.TempDir()
	change(t, filepath.Join(dir, StoreFile), string(dump))
	return dir
}

// A store of the first schema has all that it had, and what came later works on it.
func TestMigrate(t *testing.T) {
	dir := oldStore(t, "schema1.sql")
	s := openStore(t, dir)
	check(t, s.Close())
	s = openStore(t, dir) // as it is from now on
	if a, known, err := s.Account(); err != nil || !known || a.Address != alice || a.Device != aliceDevice || count(t, s, "pragma_user_version WHERE user_version = 7") != 1 {
		t.Errorf("the account: %+v, %v, %v", a, known, err)
	}
	all, err := s.History(Query{})
	check(t, err)
	if have, want := bodies(all), []string{"dinner at eight?", "in the café, 'quoted'", "dinner: yes", "tea?", ""}; !slices.Equal(have, want) {
		t.Errorf("the history: %q", have)
	}
	for search, want := range map[Search]string{`"dinner"`: "dinner at eight?,dinner: yes", `"cafe"`: "in the café, 'quoted'", `"tea"`: "tea?", `"lunch"`: ""} {
		if found, err := s.History(Query{Search: search}); err != nil || strings.Join(bodies(found), ",") != want {
			t.Errorf("%s: %q, %v", search, bodies(found), err)
		}
	}
	if found, err := s.History(Query{Search: `"dinner"`, With: carol}); err != nil || len(found) != 1 {
		t.Errorf("with carol: %q, %v", bodies(found), err)
	}
	if next, err := s.Next("receive", 9); err != nil || len(next) != 1 || next[0].Counter != 2 {
		t.Errorf("the cursor: %+v, %v", next, err)
	}
	for p, want := range []int{message.Urgent: 1, message.Normal: 1} {
		if left, err := s.Outbox(message.Priority(p), 0, 9); err != nil || len(left) != want {
			t.Errorf("the outbox: %+v, %v", left, err)
		}
	}
	if r := receive(t, s, textFrom(t, 1, "again"), textFrom(t, 4, "dinner, again")); r[0].New || !r[1].New || r[1].Message.First {
		t.Errorf("what comes now: %+v", r)
	}
	if m := enqueue(t, s, Outgoing{To: to(bob)}); m.Counter != 4 || m.Seq != 8 {
		t.Errorf("what goes now: %+v", m)
	}
	if found, err := s.History(Query{Search: `"dinner"`}); err != nil || len(found) != 3 {
		t.Errorf("a search now: %q, %v", bodies(found), err)
	}
}

// A step that fails leaves the old store.
func TestMigrateFails(t *testing.T) {
	dir := oldStore(t, "schema1.sql")
	path := filepath.Join(dir, StoreFile)
	change(t, path, "CREATE TABLE contact (x)")
	if _, err := OpenStore(dir); err == nil || !strings.Contains(err.Error(), "contact already exists") {
		t.Fatalf("OpenStore: %v", err)
	}
	change(t, path, "DROP TABLE contact")
	s := openStore(t, dir)
	if all, err := s.History(Query{}); err != nil || len(all) != 5 {
		t.Errorf("the history: %q, %v", bodies(all), err)
	}
}
