package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/control"
)

// completer finds what the next argument may be. Nothing, if no daemon answers: who presses
// a key has asked no question that could be answered with an error.
type completer = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective)

// complete makes a completer of lists, the first for the first argument; the last is for
// all that follow, if it is to be.
func complete(more bool, lists ...func(cmd *cobra.Command, args []string) []string) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		n := len(args)
		if n >= len(lists) && more {
			n = len(lists) - 1
		}
		if n >= len(lists) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return lists[n](cmd, args), cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) userNames(cmd *cobra.Command, _ []string) (words []string) {
	users, _ := a.daemon().Users(cmd.Context())
	for _, u := range users {
		words = append(words, u.Name)
	}
	return words
}

// deviceIDs are those of the user before.
func (a *app) deviceIDs(cmd *cobra.Command, args []string) (words []string) {
	name, _, _ := strings.Cut(args[0], "@")
	u, _ := a.daemon().User(cmd.Context(), name)
	for _, d := range u.Devices {
		words = append(words, d.ID.String()+"\t"+cli.Sanitise(d.Label))
	}
	return words
}

func (a *app) sessionIDs(cmd *cobra.Command, _ []string) (words []string) {
	sessions, _ := a.daemon().Sessions(cmd.Context())
	for _, s := range sessions {
		words = append(words, s.ID+"\t"+string(s.User))
	}
	return words
}

func (a *app) peerNames(cmd *cobra.Command, _ []string) (words []string) {
	peers, _ := a.daemon().Peers(cmd.Context())
	for _, p := range peers { // several may wait with one name
		if !slices.Contains(words, p.Name) {
			words = append(words, p.Name)
		}
	}
	return words
}

func (a *app) queueNames(cmd *cobra.Command, _ []string) (words []string) {
	queues, _ := a.daemon().Queues(cmd.Context())
	for _, q := range queues {
		words = append(words, q.Name)
	}
	return words
}

// messageIDs are the messages that wait in the queue before.
func (a *app) messageIDs(cmd *cobra.Command, args []string) (words []string) {
	items, _ := a.daemon().Queue(cmd.Context(), control.QueuePage{Name: args[0], Limit: control.PageDefault})
	for _, i := range items {
		words = append(words, i.ID.String()+"\tof "+string(i.From))
	}
	return words
}

// waitingIDs are messages that wait in any queue: as many as somebody may read through.
func (a *app) waitingIDs(cmd *cobra.Command, _ []string) (words []string) {
	for _, queue := range a.queueNames(cmd, nil) {
		if words = append(words, a.messageIDs(cmd, []string{queue})...); len(words) >= control.PageDefault {
			break
		}
	}
	return words
}
