package packaging_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/noipchat/noipchat/daemon/config"
)

// bin is the folder of the three programs of this tree, when somebody has asked for them.
var bin string

var build = sync.OnceValue(func() error {
	build := exec.Command("go", "build", "-trimpath", "-o", bin, "../cmd/noipchatd", "../cmd/noipctl", "../cmd/noipchat")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
})

func TestMain(m *testing.M) {
	var err error
	if bin, err = os.MkdirTemp("", "noipchat-programs-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(bin)
	os.Exit(code)
}

// programs builds the three programs of this tree, once, and returns their folder.
func programs(t *testing.T) string {
	t.Helper()
	if err := build(); err != nil {
		t.Fatal(err)
	}
	return bin
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, &errs)
	}
	return string(out)
}

var (
	commandLine = regexp.MustCompile(`(?m)^  ([a-z]+) {2,}\S`)
	flagLine    = regexp.MustCompile(`(?m)^ +(?:-\w, )?--([a-z-]+)`)
)

// TestManuals: every command and every flag that --help shows has its place in the
// manual page, and every flag of the page is in --help.
func TestManuals(t *testing.T) {
	bin := programs(t)
	for _, program := range []string{"noipctl", "noipchat"} {
		path := filepath.Join(bin, program)
		page := output(t, path, "help", "--man")
		told := map[string]bool{}
		var walk func(words ...string)
		walk = func(words ...string) {
			text := output(t, path, append(slices.Clone(words), "--help")...)
			own, _, _ := strings.Cut(text, "\nFlags of every command:")
			title, _, _ := strings.Cut(regexp.MustCompile(`(?m)^Usage: \S+ (.*)$`).FindStringSubmatch(text)[1], " [")
			commands, _, _ := strings.Cut(own, "\nFlags:")
			below := commandLine.FindAllStringSubmatch(commands, -1)
			section := page
			if len(words) > 0 && len(below) == 0 {
				if _, section, _ = strings.Cut(page, ".Ss "+roff(title)); section == "" {
					t.Errorf("%s(1) lacks the command %q", program, title)
				}
				section, _, _ = strings.Cut(section, "\n.Ss ")
			}
			for _, flag := range flagLine.FindAllStringSubmatch(own, -1) {
				told[flag[1]] = true
				if flag[1] != "help" && flag[1] != "version" && !regexp.MustCompile(`(?m)^\.It .*Fl -`+regexp.QuoteMeta(roff(flag[1]))+`( |$)`).MatchString(section) {
					t.Errorf("%s(1) lacks --%s of %q", program, flag[1], title)
				}
			}
			for _, c := range below {
				if c[1] != "help" && c[1] != "completion" {
					walk(append(slices.Clone(words), c[1])...)
				}
			}
		}
		walk()
		for _, m := range regexp.MustCompile(`(?m)^\.It .*Fl -(\S+)`).FindAllStringSubmatch(page, -1) {
			if name := strings.ReplaceAll(m[1], `\-`, "-"); !told[name] {
				t.Errorf("%s(1) has --%s, which --help has not", program, name)
			}
		}
		if len(told) < 5 {
			t.Errorf("%s: only %d flags were found", program, len(told))
		}
	}

	help := output(t, filepath.Join(bin, "noipchatd"), "--help")
	page := read(t, "man/noipchatd.8")
	for _, flag := range regexp.MustCompile(`(?m)^  --([a-z-]+)`).FindAllStringSubmatch(help, -1) {
		if !strings.Contains(page, ".It Fl -"+flag[1]) {
			t.Errorf("noipchatd(8) lacks --%s", flag[1])
		}
	}
	for _, flag := range regexp.MustCompile(`(?m)^\.It Fl -(\S+)`).FindAllStringSubmatch(page, -1) {
		if flag[1] != "help" && !strings.Contains(help, "--"+flag[1]) {
			t.Errorf("noipchatd(8) has --%s, which --help has not", flag[1])
		}
	}
	if mandoc, err := exec.LookPath("mandoc"); err == nil {
		for _, program := range []string{"noipctl", "noipchat"} {
			page := filepath.Join(bin, program+".1")
			if err := os.WriteFile(page, []byte(output(t, filepath.Join(bin, program), "help", "--man")), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		pages, _ := filepath.Glob("man/*")
		pages = append(pages, filepath.Join(bin, "noipctl.1"), filepath.Join(bin, "noipchat.1"))
		out, _ := exec.Command(mandoc, append([]string{"-T", "lint", "-W", "warning"}, pages...)...).Output()
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "WARNING") || strings.Contains(line, "ERROR") {
				t.Error(strings.TrimSpace(line))
			}
		}
	}
}

func roff(s string) string {
	return strings.NewReplacer("-", `\-`, "…", `\&...`).Replace(s)
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestConfigurationManual: noipchat.toml(5) has every key with its default, its
// bounds, and whether it needs a restart.
func TestConfigurationManual(t *testing.T) {
	page := strings.ReplaceAll(read(t, "man/noipchat.toml.5"), `\(dq`, `"`)
	c := config.Default()
	defaults := map[string]string{ // of what Default has none of
		"interface.kind": ` = "tcp"`, "peer.link.kind": ` = "tcp"`, "peer.link.timeout": ` = "15s"`, "peer.link.cost": " = 10",
	}
	for _, v := range c.Values() {
		if v.Key != "name" {
			defaults[v.Key] = " = " + v.Text
		}
	}
	keys := map[string]bool{}
	var walk func(typ reflect.Type, prefix string)
	walk = func(typ reflect.Type, prefix string) {
		for field := range typ.Fields() {
			name := field.Tag.Get("toml")
			below := field.Type
			if below.Kind() == reflect.Slice {
				below = below.Elem()
			}
			switch {
			case name == "":
				continue
			case below.Kind() == reflect.Struct:
				walk(below, prefix+name+".")
				continue
			}
			key := prefix + name
			keys[key] = true
			_, entry, ok := strings.Cut(page, "\n.It Ic "+key+defaults[key]+"\n")
			if !ok {
				t.Errorf("it lacks .It Ic %s%s", key, defaults[key])
				continue
			}
			entry = regexp.MustCompile(`(?s)\n\.(It|El).*`).ReplaceAllString("\n"+entry, "")
			if by := field.Tag.Get("change") == "handoff"; by != strings.Contains(entry, "Needs a handoff.") {
				t.Errorf("%s: that it needs a handoff is %v, and it says\n%s", key, by, entry)
			}
			if cold := field.Tag.Get("change") == "cold"; cold != strings.Contains(entry, "Needs a restart.") {
				t.Errorf("%s: cold is %v, and it says\n%s", key, cold, entry)
			}
			want := strings.ReplaceAll(field.Tag.Get("range"), "..", " to ")
			if words := strings.Fields(field.Tag.Get("oneof")); len(words) > 0 {
				want = "ne of " + strings.Join(words, ", ")
			}
			if !strings.Contains(entry, want) {
				t.Errorf("%s: it doesn't say %q:\n%s", key, want, entry)
			}
		}
	}
	walk(reflect.TypeFor[config.Config](), "")
	for _, m := range regexp.MustCompile(`(?m)^\.It Ic (\S+)`).FindAllStringSubmatch(page, -1) {
		if !keys[m[1]] {
			t.Errorf("it has %s, which is no key", m[1])
		}
	}
	if len(keys) < 15 {
		t.Errorf("only %d keys", len(keys))
	}
}

// TestCompletions: in each shell that is here, the packaged completions offer what
// --help shows.
func TestCompletions(t *testing.T) {
	bin := programs(t)
	for _, program := range []string{"noipctl", "noipchat"} {
		path := filepath.Join(bin, program)
		help, _, _ := strings.Cut(output(t, path, "--help"), "\nFlags:")
		var want []string
		for _, c := range commandLine.FindAllStringSubmatch(help, -1) {
			want = append(want, c[1])
		}
		if len(want) < 5 {
			t.Fatalf("%s has the commands %v", program, want)
		}
		for shell, script := range map[string]string{
			"bash": `. /usr/share/bash-completion/bash_completion; . %[1]s
COMP_WORDS=(%[2]s ""); COMP_CWORD=1; COMP_LINE="%[2]s "; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9
__start_%[2]s; printf '%%s\n' "${COMPREPLY[@]}"`,
			"fish": `source %[1]s; complete -C "%[2]s "`,
			// Its completions need a terminal: it must at least know whose they are, and what they ask.
			"zsh": `autoload -U compinit && compinit -D && source %[1]s && [[ $_comps[%[2]s] = _%[2]s ]] && %[2]s __complete "" 2>/dev/null`,
		} {
			t.Run(program+"/"+shell, func(t *testing.T) {
				if _, err := exec.LookPath(shell); err != nil {
					t.Skip("it is not installed")
				}
				if _, err := os.Stat("/usr/share/bash-completion/bash_completion"); shell == "bash" && err != nil {
					t.Skip("bash-completion is not installed")
				}
				file := filepath.Join(t.TempDir(), "completion")
				if err := os.WriteFile(file, []byte(output(t, path, "completion", shell)), 0o644); err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command(shell, "-c", fmt.Sprintf(script, file, program))
				cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+t.TempDir())
				out, err := cmd.CombinedOutput()
				for _, c := range want {
					if !regexp.MustCompile(`(?m)^` + c + `\b`).Match(out) {
						t.Errorf("%v: %s is not offered:\n%s", err, c, out)
					}
				}
			})
		}
	}
}
