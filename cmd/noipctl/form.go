package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"charm.land/huh/v2"

	"github.com/noipchat/noipchat/cmd/cli"
)

// form asks on a terminal. What was answered stays above the next question.
type form struct{}

func (form) ask(q question) (words []string, err error) {
	var text string
	words = slices.Clone(q.answer)
	check := func(words []string) error {
		if q.check == nil {
			return nil
		}
		return q.check(words)
	}
	typed := func(text string) error { return check(strings.Fields(text)) }
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
	err = huh.NewForm(huh.NewGroup(field)).WithInput(os.Stdin).WithOutput(os.Stderr).Run()
	switch {
	case errors.Is(err, huh.ErrUserAborted):
		return nil, &cli.Error{Code: cli.ExitRefused, Err: errors.New("given up; nothing was done")}
	case err != nil:
		return nil, fmt.Errorf("asking on the terminal: %w", err)
	case q.secret:
		return []string{text}, nil
	case len(q.options) == 0 || !q.many:
		return strings.Fields(text), nil
	}
	return words, nil
}

func choices(q question) (all []huh.Option[string]) {
	for _, o := range q.options {
		all = append(all, huh.NewOption(cli.Sanitise(o.text), o.word))
	}
	return all
}
