//go:build fault

package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// A scenario changes the files in a directory from what setup made to what it
// must be when run returns nil. At any time each file is in before, or in
// after, or (neither has it) is not there.
type scenario struct {
	before, after map[string]string
	run           func(dir string) error
}

var scenarios = map[string]scenario{
	"new file": {
		after: map[string]string{"f": "new"},
		run:   func(dir string) error { return WriteFile(filepath.Join(dir, "f"), []byte("new"), 0o600) },
	},
	"replaced file": {
		before: map[string]string{"f": "old"},
		after:  map[string]string{"f": "new"},
		run:    func(dir string) error { return WriteFile(filepath.Join(dir, "f"), []byte("new"), 0o600) },
	},
	"created file": {
		after: map[string]string{"f": "new"},
		run:   func(dir string) error { return Create(filepath.Join(dir, "f"), []byte("new"), 0o600) },
	},
	"directories": {
		after: map[string]string{"a": "/", "a/b": "/", "a/b/c": "/"},
		run:   func(dir string) error { return MkdirAll(filepath.Join(dir, "a/b/c"), 0o700) },
	},
	"journal": {
		after: map[string]string{"j": string(make([]byte, 1<<20+1))},
		run: func(dir string) error {
			f, err := CreateFile(filepath.Join(dir, "j"), 1<<20+1)
			if err == nil {
				err = f.Close()
			}
			return err
		},
	},
	"renamed journal": {
		before: map[string]string{"j1": "journal", "d": "/"},
		after:  map[string]string{"d/j2": "journal", "d": "/"},
		run: func(dir string) error {
			f, err := OpenFile(filepath.Join(dir, "j1"))
			if err != nil {
				return err
			}
			defer f.Close()
			return f.Rename(filepath.Join(dir, "d/j2"))
		},
	},
	"small batch": batchOf(7),
	"large batch": batchOf(shareFrom + 1),
}

// batchOf replaces one file and makes n-1, six in a directory, of which the
// first exists.
func batchOf(n int) scenario {
	s := scenario{before: map[string]string{"d0": "/", "d0/f0": "old"}, after: map[string]string{}}
	for i := range n {
		name := fmt.Sprintf("d%d/f%d", i/6, i)
		s.after[filepath.Dir(name)], s.after[name] = "/", "new "+name
	}
	s.run = func(dir string) error {
		b := NewBatch(dir)
		for i := range n {
			name := fmt.Sprintf("d%d/f%d", i/6, i)
			b.Add(filepath.Join(dir, name), []byte("new "+name), 0o600)
		}
		return b.Commit()
	}
	return s
}

func (s scenario) setup(t *testing.T) string {
	dir := t.TempDir()
	for name, content := range s.before {
		path := filepath.Join(dir, name)
		if content == "/" {
			if err := os.MkdirAll(path, 0o700); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		put(t, path, content)
	}
	return dir
}

// temps returns how many temporary files are below dir, and sweeps them.
func temps(t *testing.T, dir string) int {
	n := 0
	dirs := []string{dir}
	for name, content := range tree(t, dir) {
		if IsTemp(filepath.Base(name)) {
			n++
		}
		if content == "/" {
			dirs = append(dirs, filepath.Join(dir, name))
		}
	}
	for _, d := range dirs {
		if err := Sweep(d); err != nil {
			t.Error(err)
		}
	}
	return n
}

// check says whether all in dir is old or new, and nothing old is missing
// without its successor.
func (s scenario) check(t *testing.T, dir string) {
	t.Helper()
	got := tree(t, dir)
	for name, content := range got {
		old, inOld := s.before[name]
		new, inNew := s.after[name]
		if !(inOld && content == old) && !(inNew && content == new) {
			t.Errorf("%s holds %.40q", name, content)
		}
	}
	for name, content := range s.before {
		moved := false
		for newName, new := range s.after {
			_, there := got[newName]
			moved = moved || there && new == content
		}
		if _, ok := got[name]; !ok && !moved {
			t.Errorf("%s is lost", name)
		}
	}
}

func TestFailAtEachStep(t *testing.T) {
	t.Cleanup(func() { SetFault(Plan{}) })
	for name, s := range scenarios {
		for _, plan := range []Plan{{Err: syscall.EIO}, {Err: syscall.ENOSPC, On: true}} {
			for plan.N = 1; ; plan.N++ {
				at := fmt.Sprintf("%s, step %d: %v, from then on: %v", name, plan.N, plan.Err, plan.On)
				dir := s.setup(t)
				SetFault(plan)
				err := s.run(dir)
				steps := Steps()
				SetFault(Plan{})

				left := temps(t, dir)
				s.check(t, dir)
				if steps < plan.N {
					if err != nil {
						t.Errorf("%s: not reached, yet: %v", at, err)
					}
					wantOnly(t, dir, s.after)
					break
				}
				// Only the removal of the temporary name may fail unnoticed.
				if err == nil {
					if left != 1 {
						t.Errorf("%s: no error", at)
					}
					wantOnly(t, dir, s.after)
				} else if !errors.Is(err, plan.Err) || !strings.Contains(err.Error(), dir) {
					t.Errorf("%s: error %v", at, err)
				} else if left > 0 && !plan.On {
					t.Errorf("%s: %d temporary files left", at, left)
				}
				// The same once more, without a fault, must work, save that a file
				// that was to be new may be there.
				err = s.run(dir)
				if err == nil {
					wantOnly(t, dir, s.after)
				} else if !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: second time: %v", at, err)
				} else {
					wantOnly(t, dir, s.after)
				}
				if t.Failed() {
					t.Fatalf("%s", at)
				}
			}
		}
	}
}

// TestChild is what child starts.
func TestChild(t *testing.T) {
	s, ok := scenarios[os.Getenv("DURABLE_TEST_SCENARIO")]
	if !ok {
		t.Skip("for other tests")
	}
	if err := s.run(os.Getenv("DURABLE_TEST_PATH")); err != nil {
		t.Error(err)
	}
}

// child runs a scenario in another process under a plan.
func child(name, dir, plan string) (out string, err error) {
	c := exec.Command(os.Args[0], "-test.run=^TestChild$")
	c.Env = append(os.Environ(), "DURABLE_TEST_SCENARIO="+name, "DURABLE_TEST_PATH="+dir, "NOIPCHAT_FAULT="+plan)
	b, err := c.CombinedOutput()
	return string(b), err
}

func TestKilledAtEachStep(t *testing.T) {
	for name, s := range scenarios {
		for n := 1; ; n++ {
			dir := s.setup(t)
			out, err := child(name, dir, fmt.Sprintf("kill:%d", n))
			if err == nil {
				if n < 4 {
					t.Errorf("%s: has %d steps only", name, n-1)
				}
				wantOnly(t, dir, s.after)
				break
			}
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("%s, step %d: child: %v %s", name, n, err, out)
			}
			temps(t, dir)
			s.check(t, dir)
			if err := s.run(dir); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s, step %d: after it: %v", name, n, err)
			}
			wantOnly(t, dir, s.after)
			if t.Failed() {
				t.Fatalf("%s, killed at step %d", name, n)
			}
		}
	}
}

// The order of steps is what survives a power cut; only the test of a power cut
// itself could replace this one.
func TestSteps(t *testing.T) {
	t.Cleanup(func() { SetFault(Plan{}) })
	repeat := func(n int, steps ...string) []string { return slices.Repeat(steps, n) }
	one := []string{"open", "write", "write", "sync", "rename", "syncdir"}
	for name, want := range map[string][]string{
		"replaced file":   one,
		"created file":    {"open", "write", "write", "sync", "link", "unlink", "syncdir"},
		"directories":     repeat(3, "mkdir", "syncdir"),
		"journal":         {"open", "write", "write", "write", "write", "sync", "link", "unlink", "syncdir", "open"},
		"renamed journal": {"open", "rename", "syncdir", "syncdir"},
		"small batch":     slices.Concat(repeat(6, one...), []string{"mkdir", "syncdir"}, one),
		"large batch": slices.Concat(
			repeat(6, "open", "write", "write"), []string{"mkdir"},
			repeat(shareFrom+1-6, "open", "write", "write"),
			[]string{"syncfs"}, repeat(shareFrom+1, "rename"), []string{"syncfs"}),
	} {
		var got []string
		for n := 1; ; n++ {
			dir := scenarios[name].setup(t)
			SetFault(Plan{N: n, Err: syscall.EIO})
			err := scenarios[name].run(dir)
			if Steps() < n {
				break
			}
			step := stepUnlink // the one whose failure is not reported
			if failed := (*fs.PathError)(nil); errors.As(err, &failed) {
				step = failed.Op
			}
			got = append(got, step)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %v\nwant %v", name, got, want)
		}
	}
}

// A torn write is half a write.
func TestTornWrite(t *testing.T) {
	t.Cleanup(func() { SetFault(Plan{}) })
	path := filepath.Join(t.TempDir(), "f")
	f, err := CreateFile(path, 20)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zeros := func(n int) string { return string(make([]byte, n)) }
	SetFault(Plan{Step: "write", Path: "/f", N: 2, Err: syscall.ENOSPC})
	if n, err := f.WriteAt([]byte("0123456789"), 5); n != 5 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("WriteAt: %d, %v", n, err)
	}
	if got, _ := os.ReadFile(path); string(got) != zeros(5)+"01234"+zeros(10) {
		t.Errorf("file holds %q", got)
	}
	if n, err := f.WriteAt([]byte("0123456789"), 5); n != 10 || err != nil {
		t.Errorf("WriteAt: %d, %v", n, err)
	}
	if got, _ := os.ReadFile(path); string(got) != zeros(5)+"0123456789"+zeros(5) {
		t.Errorf("file holds %q", got)
	}
	SetFault(Plan{Step: "datasync", N: 1, Err: syscall.EIO})
	if err := f.Datasync(); !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), path) {
		t.Errorf("Datasync: %v", err)
	}
	if err := f.Datasync(); err != nil {
		t.Errorf("Datasync: %v", err)
	}
}

func TestPlanFromEnv(t *testing.T) {
	for s, want := range map[string]Plan{
		"":               {},
		"kill:7":         {N: 7, Kill: true},
		"fail:1:EIO":     {N: 1, Err: syscall.EIO},
		"fail:2+:EDQUOT": {N: 2, Err: syscall.EDQUOT, On: true},
	} {
		if got := planFromEnv(s); got != want {
			t.Errorf("%q gives %+v", s, got)
		}
	}
	for _, s := range []string{"kill", "kill:0", "kill:1+", "kill:1:EIO", "fail:1", "fail:1:EVERYTHING", "fail:x:EIO", "stop:1"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%q is a plan", s)
				}
			}()
			planFromEnv(s)
		}()
	}
	if out, err := child("new file", t.TempDir(), "fail:4+:ENOSPC"); err == nil || !strings.Contains(out, "no space left") {
		t.Errorf("child: %v %s", err, out)
	}
}

// A directory that can't be synced is not left for the next to rely on.
func TestMkdirAllUnsynced(t *testing.T) {
	t.Cleanup(func() { SetFault(Plan{}) })
	dir := t.TempDir()
	SetFault(Plan{Step: "syncdir", N: 2, Err: syscall.EIO})
	if err := MkdirAll(filepath.Join(dir, "a/b/c"), 0o700); !errors.Is(err, syscall.EIO) {
		t.Errorf("error %v", err)
	}
	wantOnly(t, dir, map[string]string{"a": "/"})
}
