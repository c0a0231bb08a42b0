package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	tea "charm.land/bubbletea/v2"
	"charm.land/huh/v2"

	"github.com/noipchat/noipchat/cmd/cli"
)

// form asks on a terminal, a question on the screen at a time, below the last answers, the
// first one below the intro, and all below why they are asked again; when it is answered the screen is as it was before, with a line more.
type form struct {
	intro string
	why   string // the answers before didn't do; "": nothing was answered yet, or the answers are changed
	said  []string
}

func (f *form) ask(q question) (words []string, err error) {
	var text string
	words = slices.Clone(q.answer)
	check := func(words []string) error {
		if q.check == nil {
			return nil
		}
		return q.check(words)
	}
	typed := func(text string) error { return check(fields(text)) }
	var field huh.Field
	switch {
	case len(q.options) > 0 && q.many:
		field = huh.NewMultiSelect[string]().Title(q.title).Description(q.about).Options(choices(q)...).Filterable(false).Validate(check).Value(&words)
	case len(q.options) > 0:
		if len(words) > 0 {
			text = words[0]
		}
		one := func(text string) error { return check([]string{text}) }
		field = huh.NewSelect[string]().Title(q.title).Description(q.about).Options(choices(q)...).Validate(one).Value(&text)
	case q.secret:
		field = huh.NewInput().Title(q.title).Description(q.about).EchoMode(huh.EchoModePassword).Validate(func(text string) error { return check([]string{text}) }).Value(&text)
	case q.many:
		text = strings.Join(words, "\n")
		field = huh.NewText().Title(q.title).Description(q.about).Lines(4).CharLimit(64 << 10).ExternalEditor(false).Validate(typed).Value(&text)
	default:
		text = strings.Join(words, " ")
		field = huh.NewInput().Title(q.title).Description(q.about).Validate(typed).Value(&text)
	}
	// What huh leaves on the screen when it ends is a part of its last picture, so it gets one of its own.
	own := func(v tea.View) tea.View {
		v.AltScreen = true
		return v
	}
	above := strings.Join(f.said[max(0, len(f.said)-8):], "\n")
	if len(f.said) == 0 {
		above = f.intro
	}
	if f.why != "" {
		above = strings.TrimRight(f.why+"\n"+above, "\n")
	}
	keys := huh.NewDefaultKeyMap()
	keys.Select.Filter.SetEnabled(false) // nothing here is long
	err = huh.NewForm(huh.NewGroup(field).Description(above)).WithKeyMap(keys).WithInput(os.Stdin).WithOutput(os.Stderr).WithViewHook(own).Run()
	switch {
	case errors.Is(err, huh.ErrUserAborted):
		return nil, &cli.Error{Code: cli.ExitRefused, Err: errors.New("given up; nothing was done")}
	case err != nil:
		return nil, fmt.Errorf("asking on the terminal: %w", err)
	case q.secret:
		words, text = []string{text}, "********"
	case len(q.options) == 0 || !q.many:
		words = fields(text)
	default:
		text = strings.Join(words, " ")
	}
	title := fmt.Sprintf("%-30s ", q.title)
	line := cli.Sanitise(title + cmp.Or(strings.Join(strings.Fields(text), " "), "-"))
	fmt.Fprintln(os.Stderr, line)
	again := func(line string) bool { return strings.HasPrefix(line, cli.Sanitise(title)) }
	f.said = append(slices.DeleteFunc(f.said, again), line)
	return words, nil
}

func choices(q question) (all []huh.Option[string]) {
	for _, o := range q.options {
		all = append(all, huh.NewOption(cli.Sanitise(o.text), o.word))
	}
	return all
}
