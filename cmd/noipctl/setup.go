package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/config"
)

// setup is what the guide writes: a configuration, in answers.
type setup struct {
	path string // of the configuration
	text string // that is there; "": none
	have *config.Config
	kept string // where write has kept it; "": nowhere

	name, register, log string
	interfaces          []config.Interface // those of the file at path; Public as it is to be written, nil: not at all
	were                []config.Interface // as they are in the file
	peers               map[string]string  // files in conf.d, and what they are to say
	leftOut             []string           // of the older server's list, and why
}

// newSetup takes what is there for the answers. A configuration with mistakes is an
// error: who edits it could not tell what it means.
func newSetup(path string) (*setup, error) {
	s := &setup{path: path, register: config.Default().Register.Mode, log: config.Default().Log, peers: map[string]string{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if s.have, err = config.Load(path); err != nil {
		return nil, err
	}
	s.text, s.name, s.register, s.log = string(text), s.have.Name, s.have.Register.Mode, s.have.Log
	for n, i := range s.have.Interfaces {
		origin := s.have.Origin(fmt.Sprintf("interface[%d].bind", n))
		if !strings.HasPrefix(origin, path+":") {
			break // a drop-in's: they come last, and stay as they are
		}
		if s.have.Origin(fmt.Sprintf("interface[%d].public", n)) == "default" {
			i.Public = nil
		}
		s.interfaces = append(s.interfaces, i)
	}
	s.were = slices.Clone(s.interfaces)
	return s, nil
}

// fresh is the text of a configuration where there was none.
func (s *setup) fresh() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Made by noipctl guide, which changes it too when it is run again.\n# All keys: noipchat.toml(5).\n")
	fmt.Fprintf(&b, "name = %q   # of this server: its users are user@NAME\n", s.name)
	if s.log != config.Default().Log {
		fmt.Fprintf(&b, "log = %q\n", s.log)
	}
	for _, i := range s.interfaces {
		b.WriteString("\n" + interfaceText(i))
	}
	fmt.Fprintf(&b, "\n[register]\nmode = %q   # who may make an account: closed, invite, open\n", s.register)
	return b.String()
}

func interfaceText(i config.Interface) string {
	text := "[[interface]]\n"
	if i.Kind == "unix" {
		text += "kind = \"unix\"\n"
	}
	text += fmt.Sprintf("bind = %q\n", i.Bind)
	if i.Public != nil {
		text += "public = " + list(i.Public) + "\n"
	}
	return text
}

// list spells a list as TOML.
func list(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = fmt.Sprintf("%q", w)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// edited is the text that is there, with what the answers change.
func (s *setup) edited() (text string, err error) {
	text = s.text
	set := func(key, before, after string) {
		if err == nil && before != after {
			text, err = config.Set(text, key, after)
		}
	}
	set("name", fmt.Sprintf("%q", s.have.Name), fmt.Sprintf("%q", s.name))
	set("log", fmt.Sprintf("%q", s.have.Log), fmt.Sprintf("%q", s.log))
	set("register.mode", fmt.Sprintf("%q", s.have.Register.Mode), fmt.Sprintf("%q", s.register))
	var cut []string
	var added []config.Interface
	origins := s.origins()
	for n, i := range s.were {
		at := slices.Index(origins, n)
		if at < 0 {
			cut = append(cut, fmt.Sprintf("interface[%d]", n))
			continue
		}
		now := s.interfaces[at]
		set(fmt.Sprintf("interface[%d].bind", n), fmt.Sprintf("%q", i.Bind), fmt.Sprintf("%q", now.Bind))
		if now.Public != nil && !slices.Equal(now.Public, i.Public) {
			set(fmt.Sprintf("interface[%d].public", n), "", list(now.Public))
		}
	}
	for n, i := range s.interfaces {
		if origins[n] < 0 {
			added = append(added, i)
		}
	}
	for _, table := range slices.Backward(cut) {
		if err == nil {
			text, err = config.Cut(text, table)
		}
	}
	for _, i := range added {
		text = strings.TrimRight(text, "\n") + "\n\n" + interfaceText(i)
	}
	return text, err
}

// origins tells of each interface which one of the file it is, if with another port; -1: none.
func (s *setup) origins() []int {
	origins := slices.Repeat([]int{-1}, len(s.interfaces))
	same := func(was, now config.Interface) bool { return was.String() == now.String() }
	elsewhere := func(was, now config.Interface) bool {
		a, errA := netip.ParseAddrPort(was.Bind)
		b, errB := netip.ParseAddrPort(now.Bind)
		return errA == nil && errB == nil && a.Addr() == b.Addr() && (was.Public == nil || now.Public != nil)
	}
	for _, is := range []func(was, now config.Interface) bool{same, elsewhere} {
		for n, now := range s.interfaces {
			for o, was := range s.were {
				if origins[n] < 0 && !slices.Contains(origins, o) && is(was, now) {
					origins[n] = o
				}
			}
		}
	}
	return origins
}

// files are what is to be written, each with its text, and already good as a whole.
func (s *setup) files() (map[string]string, *config.Config, error) {
	text := s.fresh()
	if s.have != nil {
		var err error
		if text, err = s.edited(); err != nil {
			return nil, nil, &cli.Error{Code: cli.ExitConfig, Err: err, Hint: "write it into " + s.path + " yourself, then: noipctl reload"}
		}
	}
	all := map[string]string{s.path: text}
	for path, text := range s.peers {
		all[path] = text
	}
	c, err := config.LoadWith(s.path, all)
	if err != nil {
		return nil, nil, err
	}
	for path, text := range all {
		if old, err := os.ReadFile(path); err == nil && string(old) == text {
			delete(all, path)
		}
	}
	return all, c, nil
}

// sortedFiles are the paths of files, the configuration last: without it the units wait.
func (s *setup) sortedFiles(files map[string]string) (paths []string) {
	for path := range files {
		if path != s.path {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	if _, ok := files[s.path]; ok {
		paths = append(paths, s.path)
	}
	return paths
}

// show shows what is to be written: a file that is there by what changes.
func (s *setup) show(w io.Writer, files map[string]string) {
	for _, path := range s.sortedFiles(files) {
		if before, err := os.ReadFile(path); err == nil {
			showDiff(w, path, string(before), files[path])
			continue
		}
		fmt.Fprintln(w, path+":")
		for line := range strings.Lines(files[path]) {
			fmt.Fprintln(w, "  "+cli.Sanitise(strings.TrimRight(line, "\n")))
		}
	}
}

// write writes all files or, if one can't be written, none; undo takes them back. A
// configuration that is replaced is kept beside it.
func (s *setup) write(files map[string]string) (undo func() error, err error) {
	before := map[string]string{}
	undo = func() (err error) {
		for path, text := range before {
			err = errors.Join(err, put(path, text))
		}
		if err == nil && s.kept != "" {
			err = put(s.kept, "")
			s.kept = ""
		}
		return err
	}
	if err := writable(filepath.Dir(s.path)); err != nil {
		return nil, err
	}
	if _, changed := files[s.path]; changed && s.have != nil {
		s.kept = s.path + "." + time.Now().Format("20060102-150405")
		if err := put(s.kept, s.text); err != nil {
			return nil, errors.Join(err, undo())
		}
	}
	for _, path := range s.sortedFiles(files) {
		old, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(err, undo())
		}
		before[path] = string(old)
		if err := put(path, files[path]); err != nil {
			return nil, errors.Join(err, undo())
		}
	}
	return undo, nil
}

// propose is what others would reach an interface by, if no router is between; "": nothing.
func propose(bind string, own []ownAddress) string {
	a, err := netip.ParseAddrPort(bind)
	if err != nil {
		return ""
	}
	if !a.Addr().IsUnspecified() {
		return bind
	}
	for _, o := range own {
		if o.Is4() == a.Addr().Is4() {
			return netip.AddrPortFrom(o.Addr, a.Port()).String()
		}
	}
	return ""
}

// setPublic gives each public address to the interface that it leads to: the same
// address, or else the same port, or else the first of its family.
func (s *setup) setPublic(words []string) error {
	now := make([][]string, len(s.interfaces))
	for _, word := range words {
		p, err := netip.ParseAddrPort(word)
		if err != nil {
			return fmt.Errorf("%.60q: want ip:port, as in 203.0.113.5:10001 or [2001:db8::1]:10001", word)
		}
		if p.Addr().IsUnspecified() || p.Addr().IsMulticast() || p.Addr().Zone() != "" || p.Port() == 0 {
			return fmt.Errorf("%s is no address that others could connect to", word)
		}
		best, quality := -1, 0
		for n, i := range s.interfaces {
			a, err := netip.ParseAddrPort(i.Bind)
			if err != nil || a.Addr().Is4() != p.Addr().Unmap().Is4() {
				continue
			}
			q := 1
			if a.Port() == p.Port() {
				q = 2
			}
			if a == p {
				q = 3
			}
			if q > quality {
				best, quality = n, q
			}
		}
		if best < 0 {
			return fmt.Errorf("%s: this server listens on no address of that family", word)
		}
		now[best] = append(now[best], word)
	}
	for n := range s.interfaces {
		i := &s.interfaces[n]
		switch {
		case i.Kind == "unix":
		case i.Public == nil && (slices.Equal(now[n], []string{i.Bind}) || len(now[n]) == 0 && unspecified(i.Bind)):
			// the default
		case now[n] == nil:
			i.Public = []string{}
		default:
			i.Public = now[n]
		}
	}
	return nil
}

func unspecified(bind string) bool {
	a, err := netip.ParseAddrPort(bind)
	return err == nil && a.Addr().IsUnspecified()
}

// public are the addresses that others are told.
func public(c []config.Interface, own []ownAddress) (words []string) {
	for _, i := range c {
		told := i.Public
		if told == nil {
			if p := propose(i.Bind, own); p != "" {
				told = []string{p}
			}
		}
		for _, p := range told {
			if !slices.Contains(words, p) {
				words = append(words, p)
			}
		}
	}
	return words
}
