package packaging_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The handbook's commands are run as they are written. In a chapter there are
//
//	```sh                     run by TestManuals in cmd/noipchat, in one shell, without root
//	```console                a session: "server1# COMMAND" is run there, and what stands below is what it prints
//	<!-- on WHO -->           the block below it is run there
//	<!-- on WHO: SCRIPT -->   what happens meanwhile, out of the reader's sight
//	<!-- not run: REASON -->  the block below it can't be
//
// Of what is printed, these are not compared: how much space is between words, times, ages,
// sizes, process ids and versions. Keys, fingerprints, ids and invitations are taken to stand
// for those that are printed in their place; "…" stands for anything, alone for any lines.
// What the tests print goes into the documents with: go test ./packaging -run TestHandbook -update
var update = flag.Bool("update", false, "write what commands and screens show into docs")

// chapters are the handbook; of TestHandbook, in this order.
var chapters = []string{"admin.md", "guide.md", "networks.md", "troubleshooting.md", "metrics.md", "user.md"}

// piece is a block of code, or a comment.
type piece struct {
	at   int    // index of its first line in the chapter, of a block without the fence
	kind string // "comment", "indented", or what is behind the fence, "plain" if nothing is
	text []string
	mark string // the comment above a block
}

type chapter struct {
	name   string
	lines  []string
	pieces []piece
}

func openChapter(t *testing.T, name string) *chapter {
	t.Helper()
	c := &chapter{name: name, lines: strings.Split(read(t, filepath.Join("../docs", name)), "\n")}
	mark := ""
	for i := 0; i < len(c.lines); i++ {
		line := c.lines[i]
		p := piece{at: i, mark: mark}
		switch {
		case line == "":
			continue
		case strings.HasPrefix(line, "<!--"):
			for !strings.HasSuffix(c.lines[i], "-->") {
				i++
			}
			p.kind, p.mark = "comment", ""
			text := strings.Join(c.lines[p.at:i+1], "\n")
			mark = strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(text, "<!--"), "-->"))
			p.text = []string{mark}
		case strings.HasPrefix(line, "```"):
			p.kind = strings.TrimPrefix(line, "```")
			if p.kind == "" {
				p.kind = "plain"
			}
			p.at++
			for i++; c.lines[i] != "```"; i++ {
				p.text = append(p.text, c.lines[i])
			}
			mark = ""
		case strings.HasPrefix(line, "    ") && c.lines[i-1] == "":
			p.kind = "indented"
			for ; i < len(c.lines) && strings.HasPrefix(c.lines[i], "    "); i++ {
				p.text = append(p.text, strings.TrimPrefix(c.lines[i], "    "))
			}
			i--
			mark = ""
		default:
			mark = ""
			continue
		}
		c.pieces = append(c.pieces, p)
	}
	return c
}

var (
	onMark   = regexp.MustCompile(`(?s)^on ([a-z0-9]+)(?:: *(.+))?$`)
	notRun   = regexp.MustCompile(`^not run: \S+ \S+`)
	screenOf = regexp.MustCompile(`^screen: [a-z ]+$`)
	prompt   = regexp.MustCompile(`^([a-z][a-z0-9]*)([#$]) (.*)$`)
	command  = regexp.MustCompile(`(?m)^\s*(sudo )?(noip(chat|ctl|chatd)|systemctl|apt)\s+[a-z-]`)
)

// TestEveryCommand: each block of the handbook that has commands is run by a test, or says why
// it is not.
func TestEveryCommand(t *testing.T) {
	run, marked := 0, 0
	for _, name := range chapters {
		for _, p := range openChapter(t, name).pieces {
			at := fmt.Sprintf("docs/%s:%d", name, p.at+1)
			switch {
			case p.kind == "comment":
				if m := p.text[0]; !onMark.MatchString(m) && !notRun.MatchString(m) && !screenOf.MatchString(m) && !strings.HasPrefix(m, "metrics") {
					t.Errorf("%s: what does %q mean?", at, m)
				}
			case p.kind == "sh", p.kind == "indented" && onMark.MatchString(p.mark):
				run++
			case p.kind == "console":
				if run++; !prompt.MatchString(p.text[0]) {
					t.Errorf("%s: it begins with no prompt: %s", at, p.text[0])
				}
			case notRun.MatchString(p.mark):
				marked++
			case p.kind == "indented":
				t.Errorf("%s is neither run nor marked: %s", at, p.text[0])
			case p.kind == "plain", p.kind == "toml":
				if text := strings.Join(p.text, "\n"); !screenOf.MatchString(p.mark) && command.MatchString(text) {
					t.Errorf("%s has commands that nobody runs:\n%s", at, text)
				}
			default:
				t.Errorf("%s: a block of the kind %q", at, p.kind)
			}
		}
	}
	t.Logf("%d blocks are run, %d are marked", run, marked)
	if run < 40 {
		t.Errorf("only %d blocks of commands were found", run)
	}
}

// TestInlineCommands: commands in the text have the words and flags that --help knows.
func TestInlineCommands(t *testing.T) {
	bin := programs(t)
	helps := map[string]string{}
	help := func(words ...string) string {
		key := strings.Join(words, " ")
		if _, ok := helps[key]; !ok {
			helps[key] = output(t, filepath.Join(bin, words[0]), append(slices.Clone(words[1:]), "--help")...)
		}
		return helps[key]
	}
	inline := regexp.MustCompile("`((?:noipctl|noipchat|noipchatd) [^`]+)`")
	flagWord := regexp.MustCompile(`^--?[a-z][a-z-]*`)
	n := 0
	for _, name := range chapters {
		for i, line := range openChapter(t, name).lines {
			for _, m := range inline.FindAllStringSubmatch(line, -1) {
				n++
				words := strings.Fields(m[1])
				path := words[:1]
				for k, word := range words[1:] {
					text := help(path...)
					at := regexp.MustCompile(`(?m)^  ` + regexp.QuoteMeta(word) + `  `)
					commands := strings.Contains(text, "\nCommands:")
					switch {
					case word == ";" || strings.HasSuffix(words[k], ";"):
						t.Errorf("docs/%s:%d: `%s` is more than one command", name, i+1, m[1])
					case flagWord.MatchString(word):
						if !regexp.MustCompile(`(?m)^ .*` + regexp.QuoteMeta(flagWord.FindString(word)) + `\b`).MatchString(text) {
							t.Errorf("docs/%s:%d: `%s`: there is no %s", name, i+1, m[1], word)
						}
					case len(path) == k+1 && commands && at.MatchString(text):
						path = append(slices.Clone(path), word)
					case len(path) == k+1 && commands && regexp.MustCompile(`^[a-z]+$`).MatchString(word):
						t.Errorf("docs/%s:%d: `%s`: there is no command %s", name, i+1, m[1], word)
					}
				}
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d commands were found", n)
	}
}

// session runs the commands of chapters.
type session struct {
	t     *testing.T
	who   map[string]func(script string) (string, error)
	real  map[string]string // addresses of the documents, and those of the hosts
	known map[string]string // keys, ids and the like of the documents, and what stands for them here
	edits map[int]edit
}

// edit replaces lines of a chapter.
type edit struct {
	until int
	text  []string
}

var (
	token  = regexp.MustCompile(`noip1[a-z2-7]+…?|\b[0-9a-f]{4}(?:-[0-9a-f]{4}){3}\b|\b[0-9a-f]{32}\b|\binvite=[A-Za-z0-9_-]+…?`)
	unsure = []struct {
		re   *regexp.Regexp
		with string
	}{
		{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`), "<time>"},
		{regexp.MustCompile(`\bpid \d+`), "pid <n>"},
		{regexp.MustCompile(`\bversion \S+`), "version <v>"},
		{regexp.MustCompile(`\b(?:\d+(?:\.\d+)?(?:ms|µs|[dhms]))+\b`), "<age>"},
		{regexp.MustCompile(`\b\d+(?:\.\d+)? (?:B|[KMGT]iB|[kMGT]B)\b`), "<size>"},
		{regexp.MustCompile(`[ \t]+`), " "},
	}
)

// plain is a line without what is not compared.
func plainLine(line string) string {
	line = strings.TrimRight(line, " \t\r")
	for _, c := range unsure {
		line = c.re.ReplaceAllString(line, c.with)
	}
	return line
}

func (s *session) replace(text string, with map[string]string) string {
	var pairs []string
	for _, from := range slices.Backward(slices.Sorted(maps.Keys(with))) { // the longer of two first
		pairs = append(pairs, from, with[from])
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

func swapped(m map[string]string) map[string]string {
	other := map[string]string{}
	for k, v := range m {
		other[v] = k
	}
	return other
}

// match compares what is shown with what was printed, and learns what stands for what.
func (s *session) match(shown []string, printed string) bool {
	var b strings.Builder
	var names []string
	b.WriteString(`^`)
	for _, line := range shown {
		if line == "…" {
			b.WriteString(`(?:.*\n)*?`)
			continue
		}
		line = plainLine(s.replace(line, s.real))
		last := 0
		for _, at := range token.FindAllStringIndex(line, -1) {
			b.WriteString(wild(line[last:at[0]]))
			what := line[at[0]:at[1]]
			last = at[1]
			if is, ok := s.known[what]; ok {
				b.WriteString(regexp.QuoteMeta(is))
				continue
			}
			names = append(names, what)
			b.WriteString("(" + tokenLike(what) + ")")
		}
		b.WriteString(wild(line[last:]) + `\n`)
	}
	b.WriteString(`$`)
	var lines strings.Builder
	for line := range strings.Lines(printed) {
		lines.WriteString(plainLine(strings.TrimSuffix(line, "\n")) + "\n")
	}
	m := regexp.MustCompile(b.String()).FindStringSubmatch(lines.String())
	if m == nil {
		return false
	}
	for i, name := range names {
		if is, ok := s.known[name]; ok && is != m[i+1] {
			return false
		}
		s.known[name] = m[i+1]
	}
	return true
}

func wild(text string) string { return strings.ReplaceAll(regexp.QuoteMeta(text), "…", ".*") }

// tokenLike is what may be printed in the place of a token.
func tokenLike(what string) string {
	switch {
	case strings.HasPrefix(what, "noip1"):
		return `noip1[a-z2-7]+`
	case strings.HasPrefix(what, "invite="):
		return `invite=[A-Za-z0-9_-]+`
	case strings.Contains(what, "-"):
		return `[0-9a-f]{4}(?:-[0-9a-f]{4}){3}`
	}
	return `[0-9a-f]{32}`
}

// told is what was printed as a document has it.
func (s *session) told(shown []string, printed string) []string {
	before := token.FindAllString(strings.Join(shown, "\n"), -1)
	now := token.FindAllString(printed, -1)
	for i, is := range now {
		if _, ok := swapped(s.known)[is]; ok {
			continue
		}
		as := is
		if strings.HasPrefix(is, "noip1") || strings.HasPrefix(is, "invite=") {
			as = is[:13] + "…"
		}
		if len(before) == len(now) {
			as = before[i]
		}
		s.known[as] = is
	}
	text := s.replace(s.replace(strings.TrimRight(printed, "\n"), swapped(s.known)), swapped(s.real))
	return strings.Split(regexp.MustCompile(`(?m) +$`).ReplaceAllString(text, ""), "\n")
}

// views are commands that show what is: they may have to be repeated until it is.
var views = regexp.MustCompile(`^(noipctl (--\S+ \S+ )?(status|check|trace|config|peer (list|show|line)|route list|queue (list|show)|user (list|show)|session list|log)|noipchat (--\S+ \S+ )?(status|history)|systemctl (status|is-active)|curl|ss|journalctl|cat|ls|ip)\b`)

// run runs a command and compares what it prints, if something is shown.
func (s *session) run(c *chapter, at int, who, do string, shown []string) {
	s.t.Helper()
	there := fmt.Sprintf("docs/%s:%d", c.name, at+1)
	on := s.who[who]
	if on == nil {
		s.t.Fatalf("%s: who is %s?", there, who)
	}
	script := s.replace(do, s.real)
	for _, what := range token.FindAllString(do, -1) {
		is, ok := s.known[what]
		if !ok {
			s.t.Fatalf("%s: nothing has printed %s yet", there, what)
		}
		script = strings.ReplaceAll(script, what, is)
	}
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) { // between two looks
		printed, err := on(script)
		switch {
		case len(shown) == 0 && err == nil, len(shown) > 0 && s.match(shown, printed):
			return
		case views.MatchString(do) && time.Since(began) < 25*time.Second:
			continue
		case len(shown) > 0 && *update:
			s.edits[at+1+strings.Count(do, "\n")] = edit{at + 1 + strings.Count(do, "\n") + len(shown), s.told(shown, printed)}
			s.t.Logf("%s: %s\n%s", there, do, printed)
			return
		}
		s.t.Fatalf("%s: %s\n%v, prints\n%s\nand not\n%s", there, script, err, printed, strings.Join(shown, "\n"))
	}
}

// chapter runs all that is to be run on hosts.
func (s *session) chapter(name string) {
	s.t.Helper()
	c := openChapter(s.t, name)
	s.edits = map[int]edit{}
	if *update {
		defer s.write(c)
	}
	for _, p := range c.pieces {
		if p.kind == "comment" {
			if m := onMark.FindStringSubmatch(p.text[0]); m != nil && m[2] != "" {
				s.run(c, p.at, m[1], m[2], nil)
			}
			continue
		}
		if m := onMark.FindStringSubmatch(p.mark); m != nil && m[2] == "" {
			s.run(c, p.at, m[1], strings.Join(p.text, "\n"), nil)
			continue
		}
		if p.kind != "console" {
			continue
		}
		for i := 0; i < len(p.text); {
			m := prompt.FindStringSubmatch(p.text[i])
			if m == nil {
				s.t.Fatalf("docs/%s:%d: no prompt: %s", name, p.at+i+1, p.text[i])
			}
			begin, do := i, m[3]
			end := ""
			if here := regexp.MustCompile(`<<'?([A-Z]+)'?$`).FindStringSubmatch(do); here != nil {
				end = here[1]
			}
			for i++; i < len(p.text) && (end != "" || strings.HasSuffix(p.text[i-1], `\`)); i++ {
				if do += "\n" + p.text[i]; p.text[i] == end {
					end = ""
				}
			}
			from := i
			for i < len(p.text) && !prompt.MatchString(p.text[i]) {
				i++
			}
			s.run(c, p.at+begin, m[1], do, p.text[from:i])
		}
	}
}

// write puts what was printed into a chapter.
func (s *session) write(c *chapter) {
	var text []string
	for i := 0; i < len(c.lines); i++ {
		if e, ok := s.edits[i]; ok {
			text = append(text, e.text...)
			i = e.until
		}
		if i < len(c.lines) {
			text = append(text, c.lines[i])
		}
	}
	if err := os.WriteFile(filepath.Join("../docs", c.name), []byte(strings.Join(text, "\n")), 0o644); err != nil {
		s.t.Error(err)
	}
}
