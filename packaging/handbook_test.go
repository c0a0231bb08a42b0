package packaging_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
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
			for ; i < len(c.lines) && (c.lines[i] == "" || strings.HasPrefix(c.lines[i], "    ")); i++ {
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
	for _, name := range chapters {
		if n := strings.Count(read(t, "../goreleaser.yaml"), "{src: docs/"+name+", dst: /usr/share/doc/noipchat/"+name+","); n != 2 {
			t.Errorf("%s is in %d of the packages noipchat, the .deb and the .rpm", name, n)
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
	unique = regexp.MustCompile(`noip1[a-z2-7]+…?|\b[0-9a-f]{4}(?:-[0-9a-f]{4}){3}\b|\b[0-9a-f]{32}\b|\b[0-9a-f]{16}\b|\binvite=[A-Za-z0-9_-]+…?|\b[a-z]{5}(?:-[a-z]{5}){3}\b`)
	unsure = []struct {
		re   *regexp.Regexp
		with string
	}{
		{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`), "<time>"},
		{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z`), "<time>"},
		{regexp.MustCompile(`\b(tcp \S+):\d+ `), "$1:<port> "},              // whoever of two has dialled
		{regexp.MustCompile(`:(?:3[2-9]|[45]\d|6[0-5])\d{3}\b`), ":<port>"}, // that the system chose
		{regexp.MustCompile(`\bpid \d+`), "pid <n>"},
		{regexp.MustCompile(`\bversion \S+`), "version <v>"},
		{regexp.MustCompile(`\b(?:\d+(?:\.\d+)?(?:ms|µs|[dhms]))+\b`), "<age>"},
		{regexp.MustCompile(` after <age>`), ""}, // between two servers of a way
		{regexp.MustCompile(`\bpid=\d+`), "pid=<n>"},
		{regexp.MustCompile(`\bnoipchat/\d\S+`), "noipchat/<v>"},
		{regexp.MustCompile(`\b\d+(?:\.\d+)? (?:B|[KMGT]iB|[kMGT]B)\b`), "<size>"},
		{regexp.MustCompile(`[ \t]+`), " "},
	}
)

// plain is a line without what is not compared.
func plainLine(line string) string {
	line = strings.TrimRight(line, " \t\r")
	var b strings.Builder
	last := 0
	for _, at := range append(unique.FindAllStringIndex(line, -1), []int{len(line), len(line)}) {
		between := line[last:at[0]]
		for _, c := range unsure {
			between = c.re.ReplaceAllString(between, c.with)
		}
		b.WriteString(between + line[at[0]:at[1]]) // 383d-… is a fingerprint, and not an age
		last = at[1]
	}
	return b.String()
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
		for _, at := range unique.FindAllStringIndex(line, -1) {
			b.WriteString(wild(line[last:at[0]]))
			what := line[at[0]:at[1]]
			last = at[1]
			if is, ok := s.known[what]; ok {
				b.WriteString(regexp.QuoteMeta(is))
				continue
			}
			names = append(names, what)
			b.WriteString("(" + like(what) + ")")
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

// like is what may be printed in the place of something unique.
func like(what string) string {
	switch {
	case strings.HasPrefix(what, "noip1"):
		return `noip1[a-z2-7]+`
	case strings.HasPrefix(what, "invite="):
		return `invite=[A-Za-z0-9_-]+`
	case regexp.MustCompile(`^[a-z]{5}-`).MatchString(what) && !strings.ContainsAny(what, "0123456789"):
		return `[a-z]{5}(?:-[a-z]{5}){3}`
	case strings.Contains(what, "-"):
		return `[0-9a-f]{4}(?:-[0-9a-f]{4}){3}`
	}
	return fmt.Sprintf(`[0-9a-f]{%d}`, len(what))
}

// told is what was printed as a document has it.
func (s *session) told(shown []string, printed string) []string {
	before := unique.FindAllString(strings.Join(shown, "\n"), -1)
	now := unique.FindAllString(printed, -1)
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
	wait := patience
	if *update {
		wait = 6 * time.Second // most of it will not come
	}
	for _, what := range unique.FindAllString(do, -1) {
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
		case views.MatchString(do) && time.Since(began) < wait:
			continue
		case len(shown) > 0 && *update:
			s.edits[at+1+strings.Count(do, "\n")] = edit{at + 1 + strings.Count(do, "\n") + len(shown), s.told(shown, printed)}
			s.t.Logf("%s: %s\n%s", there, do, printed)
			return
		}
		s.t.Fatalf("%s: %s\n%v, prints\n%s\nand not\n%s", there, script, err, printed, strings.Join(shown, "\n"))
	}
}

// screen compares a screen with the one of that name in a chapter, as soon as it has come.
func (s *session) screen(c *chapter, name string, look func() string) {
	s.t.Helper()
	n := slices.IndexFunc(c.pieces, func(p piece) bool { return p.kind == "plain" && p.mark == "screen: "+name })
	if n < 0 {
		s.t.Fatalf("docs/%s has no screen %q", c.name, name)
	}
	p := c.pieces[n]
	wait := patience
	if *update {
		wait = 5 * time.Second
	}
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) { // between two looks
		now := look()
		switch {
		case s.match(p.text, now):
			return
		case time.Since(began) < wait:
			continue
		case *update:
			s.t.Logf("%s:\n%s", name, now)
			s.edits[p.at] = edit{p.at + len(p.text), s.told(p.text, now)}
			return
		}
		s.t.Fatalf("docs/%s:%d: the screen is\n%s\nand not\n%s", c.name, p.at+1, now, strings.Join(p.text, "\n"))
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

// coast is what the world has to know of the ten servers of networks.md, which are in network
// namespaces of one host: each has a folder in /srv, which it sees as its own /etc/noipchat,
// /var/lib/noipchat and /run/noipchat.
const coast = `set -e
all='clinic school harbour ridge farm mill hut ferry north light'
at() { local who=$1; shift; nsenter -t "$(cat /srv/$who/pid)" -m -n env HOME=/root "$@"; }
up() {
	systemd-run -q --unit=$1 -p Type=notify -p NetworkNamespacePath=/run/netns/$1 -p StandardError=append:/srv/$1/log \
		-p "BindPaths=/srv/$1/etc:/etc/noipchat /srv/$1/state:/var/lib/noipchat /srv/$1/run:/run/noipchat /srv/$1/bin:/usr/local/bin" noipchatd
	systemctl show -p MainPID --value $1 >/srv/$1/pid
}
down() { systemctl stop $1; }
cable() {
	ip link add to-$3 netns $1 type veth peer name to-$1 netns $3
	ip -n $1 addr add $2/24 dev to-$3; ip -n $3 addr add $4/24 dev to-$1
	ip -n $1 link set to-$3 up; ip -n $3 link set to-$1 up
}
build() {
	for s in $all; do
		ip netns add $s; ip -n $s link set lo up
		mkdir -p /srv/$s/etc/conf.d /srv/$s/state /srv/$s/run /srv/$s/bin
	done
	cable harbour 10.1.1.1 school 10.1.1.2; cable school 10.1.2.1 clinic 10.1.2.2; cable school 10.1.3.1 ridge 10.1.3.2
	cable ridge 10.1.4.1 farm 10.1.4.2; cable farm 10.1.5.1 mill 10.1.5.2
	cable harbour 10.1.6.1 ferry 10.1.6.2; cable ferry 10.1.7.1 north 10.1.7.2; cable north 10.1.8.1 light 10.1.8.2
	for n in ferry:to-harbour ferry:to-north; do ip -n ${n%:*} link set ${n#*:} down; done
	for s in $all; do
		local public=$(ip -n $s -4 -br addr | awk '$1 != "lo" { sub("/.*", "", $3); printf "%s\"%s:10001\"", sep, $3; sep = ", " }')
		printf 'name = "%s"\nlog = "stderr"\n[[interface]]\nbind = "0.0.0.0:10001"\npublic = [%s]\n' $s "${public:-\"192.0.2.1:10001\"}" >/srv/$s/etc/noipchat.toml
	done
	# The radio: what arq would do with a serial line, without one.
	printf '#!/bin/sh\nexec noipchatd --stdio --runtime /srv/ridge/run\n' >/srv/hut/bin/arq; chmod +x /srv/hut/bin/arq
	for s in $all; do up $s & done; wait
	for u in ada:clinic ben:mill dora:light otto:hut; do
		echo correct horse | at ${u#*:} noipctl user add ${u%:*} --password-stdin
		echo correct horse | at ${u#*:} env HOME=/srv/${u%:*} noipchat login ${u%:*}@${u#*:} --server 127.0.0.1:10001 --trust-first --password-stdin
	done
}
line() { at $1 noipctl peer line | sed "s/@[^/]*/@$2:10001/; s/&via=.*//"; }
join() { # A ADDRESS-OF-A B ADDRESS-OF-B FLAGS
	local a=$1 b=$3 la=$(line $1 $2) lb=$(line $3 $4); shift 4
	at $a noipctl peer add "$lb" "$@"; at $b noipctl peer add "$la" "$@"
}
join_all() {
	join school 10.1.2.1 clinic 10.1.2.2 --idle 0s
	join school 10.1.3.1 ridge 10.1.3.2 --idle 0s --cost 50
	join ridge 10.1.4.1 farm 10.1.4.2 --idle 0s --cost 50
	join farm 10.1.5.1 mill 10.1.5.2 --idle 0s --cost 50
	join harbour 10.1.6.1 ferry 10.1.6.2 --idle 0s --cost 50
	join ferry 10.1.7.1 north 10.1.7.2 --idle 0s --cost 50
	join north 10.1.8.1 light 10.1.8.2 --idle 0s
	printf '[[peer]]\nname = "hut"\nkey = "%s"\n' "$(at hut noipctl status --json | grep -o 'noip1[a-z2-7]*')" >/srv/ridge/etc/conf.d/hut.toml
	at ridge noipctl reload
	dock ferry harbour; until_ linked harbour ferry
	dock ferry north; until_ linked north ferry
}
dock() { # SHIP PLACE: it was somewhere else
	down $1
	for there in harbour north; do ip -n $1 link set to-$there down; done
	ip -n $1 link set to-$2 up; up $1
	at $2 noipctl queue retry $1
}
until_() { for try in $(seq 900); do if "$@"; then return; fi; sleep 0.1; done; echo "never: $*"; at ${2:-clinic} noipctl queue list; at ${2:-clinic} noipctl peer list; exit 1; }
linked() { at $1 noipctl peer list | grep -q "^$2 .* up "; }
waits() { at $1 noipctl queue list | grep -q "^$2 "; }
lacks() { ! waits "$@"; }
`

// told waits until a user has heard that what he sent was read: that is the last that he hears.
const told = `told() { for try in $(seq 60); do noipchat receive --timeout 1s >/dev/null 2>&1; noipchat status $1 | grep -qw read && return; done; noipchat status $1; return 1; }
`

// TestHandbook types the commands of the handbook on hosts, and compares what they print.
func TestHandbook(t *testing.T) {
	t.Parallel()
	packages := []string{deb(t, 1, "noipchat"), deb(t, 1, "noipchat-client")}
	hosts := map[string]*host{"server1": reserve(t, "h1-"), "server2": reserve(t, "h2-"), "server3": reserve(t, "h3-"), "coast": reserve(t, "hc-")}
	lan := hosts["server1"]
	networks := map[string]string{"server1": "lan", "coast": "lan", "server2": "home", "server3": "office"} // they outlive the test, as in TestTwoServers
	for _, net := range []string{"home", "office"} {
		exec.Command(lan.lab, "net", "add", net, "--nat", "lan").Run()
	}
	t.Run("boot", func(t *testing.T) {
		for name, h := range hosts {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				h := h.on(t)
				h.tool("up", h.name, "--suite", "bookworm", "--with", "logrotate,rpm", "--net", networks[name])
				h.tool("push", h.name, packages[0], packages[1], "/root/")
				switch name {
				case "server1":
					h.sh(install + "/root/noipchat-client_*.deb")
				case "coast":
					h.sh(install + "/root/*.deb && cat >/root/coast.sh <<'END'\n" + coast + "END")
				}
			})
		}
	})
	if t.Failed() {
		return
	}
	s := &session{t: t, known: map[string]string{}, who: map[string]func(string) (string, error){}}
	s.real = map[string]string{"203.0.113.5": lan.address(4, 0), "192.168.1.10": hosts["server2"].address(4, 0), "192.168.7.20": hosts["server3"].address(4, 0), "host1": lan.name}
	for net, address := range map[string]string{"home": "198.51.100.2", "office": "198.51.100.3"} {
		s.real[address] = strings.Fields(lan.sh("getent ahostsv4 " + net + "-gw"))[0]
	}
	bounded := func(script string) string { // no command waits for ever
		return "timeout 120 bash -c '" + strings.ReplaceAll(script, "'", `'\''`) + "'"
	}
	for name, h := range hosts {
		s.who[name] = func(script string) (string, error) { return h.try("cd /root; " + bounded(script)) }
	}
	for user, server := range map[string]string{"alice": "server1", "carol": "server2", "bob": "server3"} {
		s.who[user] = func(script string) (string, error) {
			return hosts[server].try("export HOME=/srv/" + user + "; " + bounded(told+script))
		}
	}
	ashore := func(script string) (string, error) { return hosts["coast"].try(". /root/coast.sh\n" + script) }
	s.who["coast"] = ashore
	for server := range strings.FieldsSeq("clinic school harbour ridge farm mill hut ferry north light") {
		s.who[server] = func(script string) (string, error) { return ashore("at " + server + " " + bounded(script)) }
	}
	for user, server := range map[string]string{"ada": "clinic", "ben": "mill", "dora": "light", "otto": "hut"} {
		s.who[user] = func(script string) (string, error) {
			return ashore("at " + server + " env HOME=/srv/" + user + " " + bounded(told+script))
		}
	}
	for _, name := range []string{"admin.md", "metrics.md", "networks.md", "troubleshooting.md"} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			s.chapter(name)
		})
		if t.Failed() {
			return
		}
	}
}
