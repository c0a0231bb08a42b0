package client

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/noipchat/noipchat/daemon/message"
)

func crowd(n int) (all []message.Address) {
	for i := range n {
		all = append(all, message.Address(fmt.Sprintf("u%03d@server1", i)))
	}
	return all
}

// TestList: a list of more than an envelope has room for is sent once to each member,
// and so is what is written to it.
func TestList(t *testing.T) {
	s := aliceStore(t)
	l, err := s.SetList(t.Context(), "friends", crowd(150))
	check(t, err)
	if _, err := s.SetList(t.Context(), "friends", crowd(150)); err != nil {
		t.Fatal(err)
	}
	messages, err := s.EnqueueToList(t.Context(), l, Outgoing{Body: []byte("hello all")})
	check(t, err)
	if len(messages) != 3 {
		t.Fatalf("%d messages", len(messages))
	}
	pending, err := s.Outbox(message.Normal, 0, 100)
	check(t, err)
	to := map[message.Kind][]message.Address{}
	for _, p := range pending {
		var e message.Envelope
		check(t, e.Parse(p.Raw))
		to[e.Kind] = append(to[e.Kind], slices.Clone(e.To)...)
		if e.List != l.ID {
			t.Errorf("envelope %d is to list %v", e.Counter, e.List)
		}
	}
	for _, kind := range []message.Kind{message.Members, message.Text} {
		if !slices.Equal(to[kind], crowd(150)) {
			t.Errorf("%v goes to %d, and not to each member once", kind, len(to[kind]))
		}
	}
	history, err := s.History(Query{})
	if check(t, err); len(history) != 3 || history[0].List != "friends" {
		t.Errorf("the history has %+v", history)
	}
	enqueue(t, s, Outgoing{To: crowd(1), Body: []byte("hello one")})
	history, err = s.History(Query{List: &l})
	if check(t, err); len(history) != 3 {
		t.Errorf("with the list alone the history has %d", len(history))
	}
	history, err = s.History(Query{List: &l, Search: "all"})
	if check(t, err); len(history) != 3 {
		t.Errorf("with a word, too, it has %d", len(history))
	}
	smaller, err := s.SetList(t.Context(), "friends", crowd(2))
	check(t, err)
	if have, ok, err := s.List("friends"); !ok || err != nil || have.ID != smaller.ID || len(have.Members) != 3 {
		t.Errorf("after a change it is %+v, %v", have, err)
	}
	if have, ok, err := s.ListByID(l.ID); !ok || err != nil || len(have.Members) != 151 {
		t.Errorf("as it was it is %+v, %v", have, err)
	}
	check(t, s.DropList(smaller))
	if _, ok, err := s.List("friends"); ok || err != nil {
		t.Errorf("it is there still, %v", err)
	}
	for name, members := range map[string][]message.Address{"Not A Name": crowd(1), "many": crowd(message.MaxMembers + 1)} {
		if _, err := s.SetList(t.Context(), name, members); err == nil {
			t.Errorf("list %s was made", name)
		}
	}
	alone, err := s.SetList(t.Context(), "alone", nil)
	check(t, err)
	if _, err := s.EnqueueToList(t.Context(), alone, Outgoing{Body: []byte("hello me")}); err == nil {
		t.Error("a message to nobody")
	}
}

// TestFileOfList: a file that came to a list is in that list's history.
func TestFileOfList(t *testing.T) {
	s := aliceStore(t)
	roster := message.Roster{Name: "friends", Members: []message.Address{alice, bob, carol}}
	check(t, receive(t, s, incoming(t, message.Envelope{Kind: message.Members, From: bob, Device: bobDevice, Counter: 1, Body: roster.Append(nil)}))[0].Err)
	l, ok, err := s.List("friends")
	if check(t, err); !ok {
		t.Fatal("the list isn't here")
	}
	data := []byte("to all of you")
	for i, b := range []body{&message.Manifest{Name: "a.txt", Size: int64(len(data)), Hash: sha256.Sum256(data)}, &message.Part{Manifest: 2, Data: data}} {
		receive(t, s, incoming(t, message.Envelope{Kind: message.File, From: bob, Device: bobDevice, Counter: uint64(2 + i), List: l.ID, Body: b.Append(nil)}))
	}
	finished(t, s)
	have, err := s.History(Query{List: &l})
	if check(t, err); len(have) != 1 || have[0].Body != "a.txt" || have[0].List != "friends" {
		t.Errorf("the list's history has %+v", have)
	}
}

// TestForeignLists: a list that somebody else has made is his; its name can't stand for
// one of ours, and who isn't in it has no word in it.
func TestForeignLists(t *testing.T) {
	s := aliceStore(t)
	counter := uint64(0)
	roster := func(from message.Address, name string, members ...message.Address) error {
		counter++
		return receive(t, s, incoming(t, message.Envelope{Kind: message.Members, From: from, Device: bobDevice, Counter: counter,
			Body: (&message.Roster{Name: name, Members: members}).Append(nil)}))[0].Err
	}
	check(t, roster(bob, "friends", alice, bob, carol))
	check(t, roster(carol, "friends", alice, carol))
	if err := roster(bob, "others", bob, carol); err == nil || !strings.Contains(err.Error(), "without alice") {
		t.Errorf("a list without us: %v", err)
	}
	if err := roster(bob, "others", alice, carol); err == nil || !strings.Contains(err.Error(), "without bob") {
		t.Errorf("a list without its maker: %v", err)
	}
	if _, _, err := s.List("friends"); !errors.Is(err, ErrMisuse) || !strings.Contains(err.Error(), "friends/bob@server2") {
		t.Errorf("two of one name: %v", err)
	}
	if l, ok, err := s.List("friends/carol@server1"); !ok || err != nil || l.Owner != carol {
		t.Errorf("%+v, %v", l, err)
	}
	mine, err := s.SetList(t.Context(), "friends", to(bob))
	check(t, err)
	if l, _, err := s.List("friends"); err != nil || l.ID != mine.ID {
		t.Errorf("ours is %+v, %v", l, err)
	}
	for i := range maxListsOf + 50 {
		check(t, roster(bob, fmt.Sprint("l", i), alice, bob))
	}
	if n := count(t, s, "list WHERE owner = 'bob@server2'"); n > maxListsOf+1 {
		t.Errorf("%d lists of one owner are kept", n)
	}
	all, err := s.Lists()
	if check(t, err); len(all) < maxListsOf {
		t.Errorf("%d lists", len(all))
	}
}

// TestParts: each server gets as few of a list's envelopes as there is room in one, and
// each member is in one.
func TestParts(t *testing.T) {
	for _, c := range []struct {
		at   []int // how many members live at each server
		most int   // envelopes in all
	}{
		{[]int{34, 33, 33}, 3}, {[]int{100}, 2}, {[]int{64, 1}, 2}, {[]int{65, 63}, 2}, {[]int{30, 40, 20, 10}, 2}, {[]int{1, 1, 1}, 1}, {[]int{200, 100, 50}, 7}, {nil, 0},
	} {
		var all []message.Address
		for i := range slices.Max(append(c.at, 0)) { // as names go, not as servers do
			for server, n := range c.at {
				if i < n {
					all = append(all, message.Address(fmt.Sprintf("u%03d@server%d", i, server)))
				}
			}
		}
		got := parts(all)
		copies := make([]int, len(c.at))
		var sent []message.Address
		for _, to := range got {
			if len(to) > message.MaxTo {
				t.Errorf("%v: an envelope for %d", c.at, len(to))
			}
			for server := range c.at {
				if slices.ContainsFunc(to, func(a message.Address) bool { return a.Server() == fmt.Sprint("server", server) }) {
					copies[server]++
				}
			}
			sent = append(sent, to...)
		}
		for server, n := range c.at {
			if want := (n + message.MaxTo - 1) / message.MaxTo; copies[server] != want {
				t.Errorf("%v: server%d, with %d members, gets %d envelopes", c.at, server, n, copies[server])
			}
		}
		if slices.Sort(sent); len(got) > c.most || !slices.Equal(sent, slices.Sorted(slices.Values(all))) {
			t.Errorf("%v: %d envelopes, for %d members", c.at, len(got), len(sent))
		}
	}
}
