package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// List is a named set of people, as it was at one time.
type List struct {
	ID      message.ListID    `json:"-"`
	Name    string            `json:"name"`
	Owner   message.Address   `json:"owner"` // who has made it
	Members []message.Address `json:"members"`
	At      time.Time         `json:"at"` // when we got to know it
}

// maxListsOf bounds how many versions of lists of one owner are kept.
const maxListsOf = 500

const listColumns = "id, name, owner, members, at"

func scanList(row scanner) (l List, err error) {
	var id []byte
	var members string
	var at int64
	err = row.Scan(&id, &l.Name, &l.Owner, &members, &at)
	copy(l.ID[:], id)
	l.Members, l.At = split(members), storedTime(at)
	return l, err
}

// Lists returns the lists as they are now, ours and those that others have made with
// us in them, by name and owner.
func (s *Store) Lists() ([]List, error) {
	return s.lists("current = 1 ORDER BY name, owner")
}

func (s *Store) lists(where string, args ...any) (all []List, err error) {
	rows, err := s.db.Query("SELECT "+listColumns+" FROM list WHERE "+where, args...)
	if err != nil {
		return nil, s.failed("reading the lists", err)
	}
	defer rows.Close()
	for rows.Next() {
		l, err := scanList(rows)
		if err != nil {
			return nil, s.failed("reading the lists", err)
		}
		all = append(all, l)
	}
	if err := rows.Err(); err != nil {
		return nil, s.failed("reading the lists", err)
	}
	return all, nil
}

// List returns the list of this name, or false if there is none. Of several it is
// ours; if it is one of others', the name must be theirs alone, or have the owner behind
// it: "friends/bob@server1".
func (s *Store) List(name string) (l List, found bool, err error) {
	name, owner, _ := strings.Cut(name, "/")
	all, err := s.lists("current = 1 AND name = ? AND (?2 = '' OR owner = ?2) ORDER BY owner = (SELECT address FROM account) DESC", name, owner)
	if err != nil || len(all) == 0 {
		return l, false, err
	}
	account, ok, err := s.Account()
	if err != nil || !ok {
		return l, false, errors.Join(err, ErrNoAccount)
	}
	if len(all) > 1 && all[0].Owner != account.Address {
		return l, false, misusef("there are %d lists %s, of %s, %s …: write %s/%s", len(all), name, all[0].Owner, all[1].Owner, name, all[0].Owner)
	}
	return all[0], true, nil
}

// ListByID returns the list as it was when something was written to it.
func (s *Store) ListByID(id message.ListID) (l List, found bool, err error) {
	all, err := s.lists("id = ? LIMIT 1", id[:])
	if err != nil || len(all) == 0 {
		return l, false, err
	}
	return all[0], true, nil
}

// SetList makes a list of ours, or changes it, and has it sent to its members once. We
// are a member always, so that who answers all answers us.
func (s *Store) SetList(ctx context.Context, name string, members []message.Address) (l List, err error) {
	if err := ctx.Err(); err != nil {
		return l, err
	}
	if err := message.CheckName(name); err != nil {
		return l, err
	}
	err = s.write("storing a list", func() error {
		account, err := scanAccount(s.row(accountQuery))
		if err != nil {
			return err
		}
		roster := message.Roster{Name: name, Members: append(slices.Clone(members), account.Address)}
		body := roster.Append(nil)
		if n := len(roster.Members); n > message.MaxMembers || len(body) > message.PartSize {
			return misusef("a list of %d members, whose names have %d bytes: at most %d and %d", n, len(body), message.MaxMembers, message.PartSize)
		}
		l = List{ID: roster.ID(), Name: name, Owner: account.Address, Members: roster.Members, At: storedTime(time.Now().UnixMilli())}
		isNew, err := s.putList(&l)
		if err != nil || !isNew {
			return err
		}
		return s.toMembers(&l, Outgoing{Kind: message.Members, Body: body}, nil)
	})
	return l, err
}

// putList makes l the newest list of its name and owner, and tells whether it wasn't.
func (s *Store) putList(l *List) (isNew bool, err error) {
	var current bool
	err = s.row("SELECT current FROM list WHERE id = ? AND owner = ?", l.ID[:], l.Owner).Scan(&current)
	if err := ignoreNoRows(err); err != nil || current {
		return false, err
	}
	for _, change := range []struct {
		query string
		args  []any
	}{
		{"UPDATE list SET current = 0 WHERE name = ? AND owner = ?", []any{l.Name, l.Owner}},
		{"INSERT INTO list (id, name, owner, members, at, current) VALUES (?, ?, ?, ?, ?, 1) ON CONFLICT DO UPDATE SET current = 1, at = excluded.at",
			[]any{l.ID[:], l.Name, l.Owner, joined(l.Members), l.At.UnixMilli()}},
		{"DELETE FROM list WHERE owner = ?1 AND rowid <= (SELECT rowid FROM list WHERE owner = ?1 ORDER BY rowid DESC LIMIT 1 OFFSET ?2)",
			[]any{l.Owner, maxListsOf}},
	} {
		if _, err := s.exec(change.query, change.args...); err != nil {
			return false, err
		}
	}
	return true, nil
}

// toMembers writes to all members of a list but us, with at most MaxTo in each
// envelope, and those of one server together.
func (s *Store) toMembers(l *List, o Outgoing, each func(Message)) error {
	o.Created = time.Now()
	return s.eachPart(l, func(to []message.Address, list message.ListID) error {
		o.To, o.List = to, list
		m, err := s.enqueue(o)
		if err == nil && each != nil {
			each(m)
		}
		return err
	})
}

// eachPart calls send for the members of a list, without us, in the parts that envelopes
// have room for.
func (s *Store) eachPart(l *List, send func(to []message.Address, list message.ListID) error) error {
	account, err := scanAccount(s.row(accountQuery))
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(slices.Clone(l.Members), func(a message.Address) bool { return a == account.Address })
	for _, to := range parts(others) {
		if err := send(to, l.ID); err != nil {
			return err
		}
	}
	return nil
}

// parts divides receivers among envelopes, so that each server gets as few of these as
// MaxTo allows: one, if no more than MaxTo of them live there. What is divided in the order
// of names would reach every server with every envelope. The largest groups are placed
// first, each into the first envelope that has room for it: so there are few envelopes as well.
func parts(receivers []message.Address) (all [][]message.Address) {
	at := map[string][]message.Address{}
	for _, a := range receivers {
		at[a.Server()] = append(at[a.Server()], a)
	}
	var groups [][]message.Address
	for _, server := range slices.Sorted(maps.Keys(at)) {
		groups = slices.AppendSeq(groups, slices.Chunk(at[server], message.MaxTo))
	}
	slices.SortStableFunc(groups, func(a, b []message.Address) int { return len(b) - len(a) })
	for _, g := range groups {
		i := slices.IndexFunc(all, func(to []message.Address) bool { return len(to)+len(g) <= message.MaxTo })
		if i < 0 {
			all = append(all, g)
			continue
		}
		all[i] = append(all[i], g...) // Chunk leaves no capacity: it is copied
	}
	return all
}

// EnqueueToList is Enqueue for all members of a list but us. There is a message for
// each envelope that they are divided among: see parts.
func (s *Store) EnqueueToList(ctx context.Context, l List, o Outgoing) (messages []Message, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	err = s.write("storing a message to be sent", func() error {
		return s.toMembers(&l, o, func(m Message) { messages = append(messages, m) })
	})
	if err == nil && len(messages) == 0 {
		err = misusef("nobody else is in the list %s", l.Name)
	}
	return messages, err
}

// DropList forgets a list. Its messages stay.
func (s *Store) DropList(l List) error {
	return s.write("forgetting a list", func() error {
		_, err := s.exec("UPDATE list SET current = 0 WHERE name = ? AND owner = ?", l.Name, l.Owner)
		return err
	})
}

// receiveList takes a list that somebody has made. wrong is why it has no effect.
func (s *Store) receiveList(account *Account, e *message.Envelope, at time.Time) (wrong, err error) {
	var roster message.Roster
	if wrong := roster.Parse(e.Body); wrong != nil {
		return wrong, nil
	}
	for _, a := range []message.Address{account.Address, e.From} {
		if !slices.Contains(roster.Members, a) {
			return fmt.Errorf("a list of %s without %s", e.From, a), nil
		}
	}
	l := List{ID: message.ListID(roster.ID()), Name: strings.Clone(roster.Name), Owner: message.Address(strings.Clone(string(e.From))), At: at}
	for _, a := range roster.Members {
		l.Members = append(l.Members, message.Address(strings.Clone(string(a))))
	}
	_, err = s.putList(&l)
	return nil, err
}
