package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/message"
)

// completer finds what the next argument may be. Nothing, if there is no profile or it can't be read:
// who presses a key has asked no question that could be answered with an error.
type completer = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective)

// complete makes a completer of what a store has, for the first arguments, as many as most.
func (a *app) complete(most int, words func(store *client.Store, args []string) []string) completer {
	return func(_ *cobra.Command, args []string, _ string) (all []string, _ cobra.ShellCompDirective) {
		if len(args) < most {
			if store := a.existing(); store != nil {
				defer store.Close()
				all = words(store, args)
			}
		}
		return all, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

// existing is the profile's store, nil if there is none: nobody makes one with the tab key.
func (a *app) existing() *client.Store {
	dir, err := a.folder()
	if err != nil {
		return nil
	}
	if _, err := os.Stat(filepath.Join(dir, client.StoreFile)); err != nil {
		return nil
	}
	store, err := client.OpenStore(dir)
	if err != nil {
		return nil
	}
	return store
}

// recent is how many of the last messages are looked at, however long the history is.
const recent = 200

// latest are these, the last one first.
func latest(store *client.Store) []client.Message {
	messages, _ := store.History(client.Query{Limit: recent})
	slices.Reverse(messages)
	return messages
}

// receiverWords are whom one may write to: contacts, lists where one can be meant, and who was written to
// or has written lately.
func receiverWords(store *client.Store, args []string) (words []string) {
	known := map[message.Address]bool{}
	contacts, _ := store.Contacts()
	for _, c := range contacts {
		known[c.Address] = true
		if strings.ContainsAny(c.Name, " '") { // a shell would need quotes
			words = append(words, string(c.Address)+"\t"+c.Name)
		} else {
			words = append(words, c.Name+"\t"+string(c.Address))
		}
	}
	if len(args) == 0 {
		lists, _ := store.Lists()
		for _, l := range lists {
			name := l.Name
			if meant, ok, err := store.List(name); err != nil || !ok || meant.ID != l.ID {
				name += "/" + string(l.Owner)
			}
			words = append(words, fmt.Sprintf("%s\ta list of %s, of %d", name, l.Owner, len(l.Members)))
		}
	}
	for _, m := range latest(store) {
		for _, who := range others(m) {
			if !known[who] {
				known[who] = true
				words = append(words, string(who))
			}
		}
	}
	return words
}

// others are who a message went to, or came from.
func others(m client.Message) []message.Address {
	if m.Out {
		return m.To
	}
	return []message.Address{m.From}
}

// idWords are the ids of the last messages, and what they are known by.
func idWords(store *client.Store, _ []string) (words []string) {
	known := map[message.ID]bool{}
	for _, m := range latest(store) {
		if known[m.ID] { // to oneself: it went out, and came in
			continue
		}
		known[m.ID] = true
		way := "from "
		if m.Out {
			way = "to "
		}
		begins := []rune(strings.Join(strings.Fields(m.Body), " "))
		if len(begins) > 40 {
			begins = append(begins[:39], '…')
		}
		words = append(words, m.ID.String()+"\t"+way+joinAddresses(others(m), " ")+": "+cli.Sanitise(string(begins)))
	}
	return words
}
