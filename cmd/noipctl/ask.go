package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/term"

	"github.com/noipchat/noipchat/cmd/cli"
)

// question is something that the guide wants to know. An answer is words: one, if it
// isn't many; none, or the empty one, if nothing was said.
type question struct {
	flag    string // that answers it too
	title   string
	about   string   // some lines; may be ""
	options []option // none: whatever is typed
	many    bool
	more    bool     // by lines: asked for another one until nothing is said
	secret  bool     // a password: typed without echo, and not proposed
	answer  []string // what is proposed
	check   func(words []string) error
}

type option struct{ word, text string }

// asker puts a question to somebody, and again until the answer is good.
type asker interface {
	ask(question) ([]string, error)
}

// newAsker chooses how: a form on a terminal, lines for all others.
func newAsker(plain bool) asker {
	terminal := term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stderr.Fd()))
	if plain || !terminal || os.Getenv("TERM") == "dumb" || os.Getenv("TERM") == "" {
		return byLine{os.Stdin, os.Stderr}
	}
	return new(form)
}

// byLine asks line by line: for screen readers, terminals that can't do more, and
// scripts. It never reads beyond the line that it wants, and the end of the input
// is no answer.
type byLine struct {
	in  io.Reader
	out io.Writer
}

func (l byLine) ask(q question) ([]string, error) {
	fmt.Fprintf(l.out, "\n%s\n", cli.Sanitise(q.title))
	for line := range strings.Lines(q.about) {
		fmt.Fprintln(l.out, "  "+cli.Sanitise(strings.TrimRight(line, "\n")))
	}
	for i, o := range q.options {
		fmt.Fprintf(l.out, "  %d) %s\n", i+1, cli.Sanitise(o.text))
	}
	var all []string
	for prompt := l.prompt(q); ; {
		fmt.Fprint(l.out, prompt)
		text, err := l.read(q)
		if err != nil {
			return nil, err
		}
		words, err := q.words(text)
		now := slices.Concat(all, words)
		if err == nil && q.check != nil {
			err = q.check(now)
		}
		switch {
		case err != nil:
			fmt.Fprintln(l.out, "  "+cli.Sanitise(err.Error()))
		case !q.more || len(words) == 0:
			return now, nil
		default:
			all, prompt = now, "another one, or nothing: "
		}
	}
}

func (l byLine) prompt(q question) string {
	proposed := strings.Join(q.answer, " ")
	what := "answer"
	if len(q.options) > 0 {
		var numbers []string
		for i, o := range q.options {
			if slices.Contains(q.answer, o.word) {
				numbers = append(numbers, strconv.Itoa(i+1))
			}
		}
		what, proposed = "number", strings.Join(numbers, " ")
		if q.many {
			what = "numbers, between spaces"
		}
	}
	if proposed == "" {
		return what + ": "
	}
	return fmt.Sprintf("%s [%s]: ", what, cli.Sanitise(proposed))
}

func (l byLine) read(q question) (string, error) {
	f, ok := l.in.(*os.File)
	terminal := ok && term.IsTerminal(int(f.Fd()))
	if terminal && q.secret {
		return cli.Password{Prompt: "password", New: true}.Read()
	}
	if !terminal {
		defer fmt.Fprintln(l.out) // nobody has typed one
	}
	var line []byte
	for b := make([]byte, 1); ; {
		n, err := l.in.Read(b)
		switch {
		case n == 1 && b[0] == '\n':
			return strings.TrimSuffix(string(line), "\r"), nil
		case n == 1 && len(line) < 64<<10:
			line = append(line, b[0])
		case errors.Is(err, io.EOF), n == 1:
			return "", cli.Misuse("give it with "+q.flag+"; with --yes what is proposed is taken", "nobody answers: %s (nothing was done)", q.title)
		case err != nil:
			return "", fmt.Errorf("reading the answer: %w", err)
		}
	}
}

// fields are the words of a text; "-" is none.
func fields(text string) []string {
	if words := strings.Fields(text); len(words) != 1 || words[0] != "-" {
		return words
	}
	return nil
}

// words are what a line says: what is proposed, if it is empty.
func (q question) words(text string) ([]string, error) {
	words := fields(text)
	switch {
	case q.secret:
		return []string{text}, nil
	case strings.TrimSpace(text) == "":
		return q.answer, nil
	case len(words) > 1 && !q.many:
		return nil, errors.New("one word, please")
	}
	if len(q.options) == 0 {
		return words, nil
	}
	for i, word := range words {
		n, err := strconv.Atoi(word)
		if err == nil && n >= 1 && n <= len(q.options) {
			words[i] = q.options[n-1].word
		} else if !slices.ContainsFunc(q.options, func(o option) bool { return o.word == word }) {
			return nil, fmt.Errorf("%.40q is none of the %d", word, len(q.options))
		}
	}
	return words, nil
}
