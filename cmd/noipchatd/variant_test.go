package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/control"

	"github.com/noipchat/noipchat/cmd/cli"
)

// An edit makes another program of this tree.
type edit struct {
	file     string // from the root of the tree
	old, new string // is replaced by, everywhere
}

// build builds a program of this tree, or of one that some edits make of it, whose version
// is its name.
func build(t testing.TB, name, command string, edits ...edit) (path string) {
	t.Helper()
	path, err := tryBuild(t.TempDir(), name, command, edits...)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func tryBuild(dir, name, command string, edits ...edit) (path string, err error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return "", err
	}
	return tryBuildIn(root, dir, name, command, edits...)
}

// tryBuildIn does it in a tree.
func tryBuildIn(root, dir, name, command string, edits ...edit) (path string, err error) {
	var overlay struct{ Replace map[string]string }
	overlay.Replace = map[string]string{}
	for i, e := range edits {
		original := filepath.Join(root, e.file)
		replaced := overlay.Replace[original]
		if replaced == "" {
			replaced = filepath.Join(dir, fmt.Sprintf("%s%d.go", name, i))
			overlay.Replace[original] = replaced
		} else {
			original = replaced
		}
		text, err := os.ReadFile(original)
		if err != nil {
			return "", err
		}
		if !strings.Contains(string(text), e.old) {
			return "", fmt.Errorf("%s has no %q", e.file, e.old)
		}
		if err := os.WriteFile(replaced, []byte(strings.ReplaceAll(string(text), e.old, e.new)), 0o600); err != nil {
			return "", err
		}
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	list := filepath.Join(dir, name+".json")
	if err := os.WriteFile(list, text, 0o600); err != nil {
		return "", err
	}
	path = filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-overlay", list, "-ldflags", "-X main.version="+name, "-o", path, "./cmd/"+command)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
	}
	return path, nil
}

// Programs of which this one is the successor, or will be the predecessor. As there was one
// version of the state only so far, what a next one does is as docs/handoff.md has it.
var (
	// older knows nothing of two fields that came later, and has two that are not known here.
	older = []edit{
		{"daemon/handoff.go", "Users    identity.Carried", "Folk     identity.Carried"},
		{"daemon/handoff.go", "c.Users", "c.Folk"},
		{"daemon/transport/carry.go", "Local, Remote Name", "Near, Far     Name"},
		{"daemon/transport/carry.go", "k.Local", "k.Near"},
		{"daemon/transport/carry.go", "k.Remote", "k.Far"},
	}
	// ahead reads another version of the state, and writes none that this one doesn't read.
	ahead = []edit{{"daemon/handoff/handoff.go", "newest = 1", "newest = 2"}}
	// after writes that one, and so comes after ahead.
	after = append(ahead[:1:1], edit{"daemon/handoff/handoff.go", "writes = 1", "writes = 2"})
	// ancient reads a version only that there was before this one.
	ancient = []edit{{"daemon/handoff/handoff.go", "newest = 1", "newest = 0"}, {"daemon/handoff/handoff.go", "oldest = 1", "oldest = 0"}}
)

// TestHandoffVersions: programs with other states hand over to each other, to and fro, and
// no session or link notices; one that can't read the state is refused.
func TestHandoffVersions(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds programs")
	}
	const this = "this"
	variants := map[string][]edit{this: nil, "older": older, "ahead": ahead, "after": after}
	programs := map[string]string{}
	dir := t.TempDir()
	for name, edits := range variants {
		path, err := tryBuild(dir, name, "noipchatd", edits...)
		if err != nil {
			t.Fatal(err)
		}
		programs[name] = path
	}
	v := newVersions(t, programs, "older")
	for _, next := range []string{this, "older", this, "ahead", this, "ahead", "after", "ahead", "after"} {
		v.handOver(next)
	}
	v.put(v.programs[this])
	v.refuses(build(t, "noipctl", "noipctl"), "back", cli.ExitFault, "the state has version 2, and this program reads 1 to 1")
	v.handOver("after") // and so "this" has changed nothing
	v.end()
}

// TestHandoffHistory: the same with programs as they were when they began to hand on another
// state, of this tree's history.
func TestHandoffHistory(t *testing.T) {
	if os.Getenv("NOIPCHAT_LONG") == "" {
		t.Skip("it builds all of two earlier programs: NOIPCHAT_LONG=1")
	}
	const this = "this"
	for name, commit := range map[string]string{
		"1-links": "f78205ec623a4188f7fb2067c0e191336f541b21", // as in daemon/testdata/state
		"2-users": "fd7a2e7f8d7c254623476b8c1a8901a711a3d1cb",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			tree := filepath.Join(dir, "tree")
			if err := os.Mkdir(tree, 0o700); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("sh", "-c", "git -C ../.. archive "+commit+" >\"$0/tar\" && tar -xf \"$0/tar\" -C \"$1\"", dir, tree).CombinedOutput(); err != nil {
				t.Skipf("this tree has no history: %v\n%s", err, out)
			}
			old, err := tryBuildIn(tree, dir, name, "noipchatd")
			if err != nil {
				t.Skip("what it needs is not here any more:", err)
			}
			v := newVersions(t, map[string]string{name: old, this: build(t, this, "noipchatd")}, name)
			for _, next := range []string{this, name, this, name, this} {
				v.handOver(next)
			}
			v.end()
		})
	}
}

// versions is a server whose program is changed for others again and again, with a link to
// another one, while a flock talks.
type versions struct {
	*pair
	programs     map[string]string
	now          string // what runs
	before, link string // its sessions, and the link
}

func newVersions(t *testing.T, programs map[string]string, first string) *versions {
	h := newPair(t, 4*time.Minute)
	v := &versions{pair: h, programs: programs, now: first}
	h.put(programs[first])
	h.other.start()
	h.start()
	h.linked(1)
	h.must(v.f.come(h.ctx))
	v.before, v.link = h.sessions(), h.links()
	return v
}

// handOver has another program take over, and all go on with it.
func (v *versions) handOver(next string) {
	v.t.Helper()
	v.put(v.programs[next])
	o, err := v.admin.Handoff(v.ctx, "a test")
	v.must(err)
	where := v.now + " to " + next
	v.now = next
	if o.From+" to "+o.To != where || o.Sessions != len(v.f.birds)*3/4 || o.Links != 1 || o.Closed != 0 {
		v.t.Errorf("%s: %+v", where, o)
	}
	if after := v.sessions(); after != v.before {
		v.t.Errorf("%s: sessions were %s, and are %s", where, v.before, after)
	}
	if after := v.links(); v.link == "" || after != v.link {
		v.t.Errorf("%s: the link was %s, and is %s", where, v.link, after)
	}
	if all, err := v.admin.Sessions(v.ctx); err != nil || slices.ContainsFunc(all, func(s control.Session) bool { return s.Kind != "tcp" || !strings.HasPrefix(s.Remote, "127.") }) {
		v.t.Errorf("%s: sessions are %+v, %v", where, all, err)
	}
	v.must(v.f.advance(v.ctx, v.f.birds, 2))
}
