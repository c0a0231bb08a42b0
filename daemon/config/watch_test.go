package config

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const small = "name = \"server1\"\n[[interface]]\nbind = \"192.0.2.1:10001\"\n"

// observed runs Watch on a file, and returns how to wait for it to see a change,
// and how to make sure that it has seen none.
func observed(t *testing.T, path string) (sees func(what string), quiet func(what string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	changes := make(chan struct{}, 100)
	done := make(chan error, 1)
	go func() { done <- Watch(ctx, path, func() { changes <- struct{}{} }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	sees = func(what string) {
		t.Helper()
		select {
		case <-changes:
		case <-time.After(time.Minute):
			t.Fatalf("%s: not seen", what)
		}
	}
	// A marker in conf.d is a change for certain: what comes before it was seen before it.
	marks := 0
	quiet = func(what string) {
		t.Helper()
		marks++
		if len(changes) > 0 {
			t.Errorf("%s: taken for a change", what)
		}
		drop(t, filepath.Join(filepath.Dir(path), "conf.d", "marker.toml"), "# "+string(rune('a'+marks)))
		sees("the marker after " + what)
	}
	sees("that it watches")
	return sees, quiet
}

func drop(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "etc")
	must(t, os.MkdirAll(filepath.Join(dir, "conf.d"), 0o700))
	path := filepath.Join(dir, "noipchat.toml")
	drop(t, path, small)
	sees, quiet := observed(t, path)

	drop(t, path, small+"# in place\n")
	sees("a write in place")
	drop(t, path+"~", small+"# renamed\n")
	must(t, os.Rename(path+"~", path))
	sees("a rename over it")
	drop(t, path, small+"# renamed\n")
	drop(t, filepath.Join(dir, ".noipchat.toml.swp"), "an editor's")
	quiet("the same again, and an editor's file")
	must(t, os.Remove(path))
	sees("its removal")
	drop(t, path, small)
	sees("its return")
	drop(t, filepath.Join(dir, "conf.d", "a.toml"), "max_hops = 5\n")
	sees("a drop-in")
	must(t, os.Rename(filepath.Join(dir, "conf.d", "a.toml"), filepath.Join(dir, "conf.d", "b.toml")))
	sees("another name of a drop-in")
	must(t, os.Rename(dir, dir+".old"))
	sees("the folder's removal")
	must(t, os.Rename(dir+".old", dir))
	sees("the folder's return")
	drop(t, path, small+"# in the folder that returned\n")
	sees("a write in the folder that returned")
}

// TestWatchLinks: the file is a link to one in a folder that is a link, and the
// latter is swapped, as orchestrators do; and a link to a file that is edited
// where it is.
func TestWatchLinks(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := filepath.Join(root, "etc")
	for _, d := range []string{"conf.d", "..1", "..2"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o700))
	}
	drop(t, filepath.Join(dir, "..1", "noipchat.toml"), small)
	drop(t, filepath.Join(dir, "..2", "noipchat.toml"), small+"# two\n")
	must(t, os.Symlink("..1", filepath.Join(dir, "..data")))
	path := filepath.Join(dir, "noipchat.toml")
	must(t, os.Symlink("..data/noipchat.toml", path))
	sees, _ := observed(t, path)
	must(t, os.Symlink("..2", filepath.Join(dir, "..new")))
	must(t, os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")))
	sees("a link to a folder that is swapped")
	drop(t, filepath.Join(dir, "..2", "noipchat.toml"), small+"# two, edited\n")
	sees("an edit behind the link")
	elsewhere := filepath.Join(root, "elsewhere")
	must(t, os.Mkdir(elsewhere, 0o700))
	drop(t, filepath.Join(elsewhere, "x"), small)
	must(t, os.Remove(path))
	must(t, os.Symlink(filepath.Join(elsewhere, "x"), path))
	sees("another link")
	drop(t, filepath.Join(elsewhere, "x"), small+"# x\n")
	sees("an edit where it leads")
}

func TestDiff(t *testing.T) {
	load := func(text string) *Config {
		c, err := Load(write(t, t.TempDir(), "c.toml", text))
		must(t, err)
		return c
	}
	before := load("name = \"server1\"\n[[interface]]\nbind = \"192.0.2.1:1\"\n[[interface]]\nbind = \"192.0.2.2:2\"\npublic = [\"203.0.113.5:2\"]\n[spool]\nmax_age = \"1d\"\n")
	after := load("name = \"server2\"\n[[interface]]\nbind = \"192.0.2.2:2\"\npublic = [\"203.0.113.6:2\"]\n[[interface]]\nkind = \"unix\"\nbind = \"/run/x\"\n[spool]\nmax_age = \"24h\"\nquota = \"1GiB\"\n")
	var got []string
	for _, c := range Diff(before, after) {
		line := c.String()
		if !c.Hot {
			line += " COLD"
		}
		got = append(got, line)
	}
	want := []string{
		`~ name = "server2" (was "server1") COLD`,
		`~ interface[tcp 192.0.2.2:2].public = ["203.0.113.6:2"] (was ["203.0.113.5:2"])`,
		`+ interface[unix /run/x].kind = "unix"`,
		`+ interface[unix /run/x].bind = "/run/x"`,
		`+ interface[unix /run/x].public = []`,
		`~ spool.quota = "1GiB" (was "256MiB")`,
		`- interface[tcp 192.0.2.1:1].kind = "tcp"`,
		`- interface[tcp 192.0.2.1:1].bind = "192.0.2.1:1"`,
		`- interface[tcp 192.0.2.1:1].public = ["192.0.2.1:1"]`,
	}
	if len(got) != len(want) {
		t.Fatalf("have %q", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("have %s, want %s", got[i], want[i])
		}
	}
	if again := Diff(after, after); again != nil {
		t.Errorf("with itself: %v", again)
	}
	for _, v := range after.Values() {
		if v.Key == "interface[unix /run/x].bind" && filepath.Base(v.Origin) != "c.toml:7" || v.Key == "max_hops" && v.Origin != "default" {
			t.Errorf("%s comes from %s", v.Key, v.Origin)
		}
	}
}
