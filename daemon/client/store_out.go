package client

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/wire"
)

// Outgoing is what a person, or this program, wants to send.
type Outgoing struct {
	To       []message.Address // 1 to message.MaxTo users, in any order; who is there twice gets it once
	Kind     message.Kind      // 0: text
	Priority message.Priority  // lowered to the most urgent that the kind may have
	Lifetime time.Duration     // whole seconds, rounded up; 0: as long as the servers keep things
	Body     []byte
	Created  time.Time      // zero: now
	List     message.ListID // that To are members of; zero: none
}

// Enqueue writes the envelope and puts it into the history and the outbox. Its
// counter is one that no other envelope of this profile has or had. The error
// says what keeps o from being an envelope, or why it could not be stored. ctx
// matters only before the start.
func (s *Store) Enqueue(ctx context.Context, o Outgoing) (Message, error) {
	if err := ctx.Err(); err != nil {
		return Message{}, err
	}
	var m Message
	err := s.write("storing a message to be sent", func() (err error) {
		m, err = s.enqueue(o)
		return err
	})
	if err != nil {
		return Message{}, err
	}
	return m, nil
}

func (s *Store) enqueue(o Outgoing) (Message, error) {
	e, err := s.begin(o, 1)
	if err != nil {
		return Message{}, err
	}
	m, err := s.record(e)
	if err != nil {
		return Message{}, err
	}
	_, err = s.exec("INSERT INTO outbox (counter, message, priority, raw, unproven) VALUES (?, ?, ?, ?, ?)",
		m.Counter, m.Seq, e.Priority, e.Raw, !s.proven.Load())
	return m, err
}

// begin makes an envelope, and takes so many counters, of which it has the first.
func (s *Store) begin(o Outgoing, counters uint64) (*message.Envelope, error) {
	if o.Created.IsZero() {
		o.Created = time.Now()
	}
	e := &message.Envelope{Kind: o.Kind, Created: uint64(max(0, o.Created.UnixMilli())), Body: o.Body, List: o.List}
	if e.Kind == 0 {
		e.Kind = message.Text
	}
	e.Priority = max(o.Priority, e.Kind.Least())
	seconds := (o.Lifetime + time.Second - 1) / time.Second
	if seconds < 0 || seconds > message.MaxLifetime {
		return nil, misusef("a lifetime of %v: want 0 to %v", o.Lifetime, message.MaxLifetime*time.Second)
	}
	e.Lifetime = uint32(seconds)
	e.To = slices.Clone(o.To)
	slices.Sort(e.To)
	e.To = slices.Compact(e.To)

	// Without an account there is no row to count in.
	account, err := scanAccount(s.row(accountQuery))
	if err != nil {
		return nil, err
	}
	if e.Counter, err = s.count(counters); err != nil {
		return nil, err
	}
	e.From, e.Device = account.Address, account.Device
	return e, nil
}

// record puts an envelope into the history, and sets its Raw.
func (s *Store) record(e *message.Envelope) (m Message, err error) {
	if e.Raw, err = e.Append(nil); err != nil {
		return m, misuse{err}
	}
	now := time.Now()
	m = Message{ID: message.IDOf(e.Raw), Out: true, From: e.From, Device: e.Device, Counter: e.Counter, To: e.To,
		State: message.Queued.String(), Kind: e.Kind, Created: storedTime(int64(e.Created)), At: storedTime(now.UnixMilli()), listID: e.List}
	var shown, body any // of other kinds the outbox has what there is
	switch e.Kind {
	case message.Text:
		m.Body = string(e.Body)
		body = m.Body
	default:
		shown = ofMachines
	}
	if m.Seq, err = s.insertMessage(&m, int64(e.Created), shown, body); err != nil {
		return Message{}, err
	}
	for i, a := range m.To {
		if _, err := s.exec("INSERT INTO recipient (message, position, receiver, state, at) VALUES (?, ?, ?, ?, ?)",
			m.Seq, i, a, message.Queued, m.At.UnixMilli()); err != nil {
			return Message{}, err
		}
		m.Recipients = append(m.Recipients, Recipient{Address: a, State: message.Queued, At: m.At})
	}
	return m, nil
}

func (s *Store) insertMessage(m *Message, created int64, shown, body any) (seq int64, err error) {
	var list any
	if m.listID != (message.ListID{}) {
		list = m.listID[:]
	}
	r, err := s.exec(`INSERT INTO message (id, out, sender, device, counter, kind, created, at, server, receivers, shown, first, unverified, body, list)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		m.ID[:], m.Out, m.From, int64(m.Device), m.Counter, m.Kind, created, m.At.UnixMilli(), m.Server, joined(m.To), shown, m.First, m.Unverified, body, list)
	if err != nil {
		return 0, err
	}
	return r.LastInsertId()
}

// Pending is an envelope in the outbox.
type Pending struct {
	Counter  uint64
	ID       message.ID // of a part of a file zero
	Raw      []byte     // the envelope
	Priority message.Priority
	Created  time.Time
	Open     []int // the receivers that are not settled, as indices into its To, rising
	Unproven bool  // see Prove
}

// Outbox returns up to limit envelopes of one priority, in the order of their
// counters, from the first after the given one on; 0 for the beginning.
func (s *Store) Outbox(p message.Priority, after uint64, limit int) ([]Pending, error) {
	pending, err := s.outbox(p, after, limit)
	if err == nil && p == message.Bulk {
		var parts []Pending
		if parts, err = s.outParts(after, limit); len(parts) > 0 {
			pending = append(pending, parts...)
			slices.SortFunc(pending, func(a, b Pending) int { return cmp.Compare(a.Counter, b.Counter) })
			pending = pending[:min(len(pending), limit)]
		}
	}
	if err != nil {
		return nil, s.failed("reading the outbox", err)
	}
	return pending, nil
}

func (s *Store) outbox(p message.Priority, after uint64, limit int) (all []Pending, err error) {
	rows, err := s.db.Query(`SELECT o.counter, m.id, o.raw, o.unproven, m.created,
			(SELECT group_concat(position, ' ' ORDER BY position) FROM recipient r WHERE r.message = o.message AND r.state = ?)
		FROM outbox o JOIN message m ON m.seq = o.message
		WHERE o.priority = ? AND o.counter > ? ORDER BY o.counter LIMIT ?`, message.Queued, p, int64(after), limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		e := Pending{Priority: p}
		var id []byte
		var created int64
		var open string
		if err := rows.Scan(&e.Counter, &id, &e.Raw, &e.Unproven, &created, &open); err != nil {
			return nil, err
		}
		copy(e.ID[:], id)
		e.Created = storedTime(created)
		for position := range strings.FieldsSeq(open) {
			i, err := strconv.Atoi(position)
			if err != nil {
				return nil, err
			}
			e.Open = append(e.Open, i)
		}
		all = append(all, e)
	}
	return all, rows.Err()
}

// Settled is what a server answered for an envelope of the outbox.
type Settled struct {
	Counter  uint64
	Receiver int // an index into its To; AllOpen: every one that is not settled
	State    message.State
	Code     message.Code
	Reason   string
	At       time.Time // zero: now
}

// AllOpen stands for the receivers of an envelope that are not settled.
const AllOpen = -1

// Settle raises states, all in one transaction, and returns those that have
// risen. An envelope leaves the outbox when no receiver is left in the state
// queued. Answers for what is not in the outbox, for receivers that it does not
// have, and those that would lower a state are ignored: they were sent twice.
func (s *Store) Settle(answers []Settled) (changed []Change, err error) {
	err = s.write("storing answers of the server", func() error {
		var files settling
		for _, a := range answers {
			c, err := s.settle(a, &files)
			if err != nil {
				return err
			}
			changed = append(changed, c...)
		}
		c, err := files.store(s)
		changed = append(changed, c...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return changed, nil
}

// Defer notes why the home could not take an envelope of this device yet for some receivers, by
// their places in it, until it does. What it says of a part of a file it says of the file.
func (s *Store) Defer(counter uint64, declined []wire.Exception) error {
	return s.write("noting why a message waits", func() error {
		var seq int64
		err := s.row("SELECT message FROM outbox WHERE counter = ?", int64(counter)).Scan(&seq)
		if errors.Is(err, sql.ErrNoRows) {
			f, e := new(settling).file(s, counter)
			if f == nil {
				return e // it was settled meanwhile
			}
			seq, err = f.message, nil
		}
		for _, x := range declined {
			if err == nil {
				_, err = s.exec("UPDATE recipient SET code = ?1, reason = ?2 WHERE message = ?3 AND position = ?4 AND state = ?5 AND reason <> ?2",
					x.Refusal.Code, message.Clean(x.Refusal.Reason, message.MaxReason), seq, x.Receiver, message.Queued)
			}
		}
		return err
	})
}

func (s *Store) settle(a Settled, files *settling) (changed []Change, err error) {
	var seq int64
	var id []byte
	err = s.row("SELECT m.seq, m.id FROM outbox o JOIN message m ON m.seq = o.message WHERE o.counter = ?", int64(a.Counter)).Scan(&seq, &id)
	if errors.Is(err, sql.ErrNoRows) {
		return files.settle(s, a)
	}
	if err != nil {
		return nil, err
	}
	from, to, below := a.Receiver, a.Receiver, a.State
	if a.Receiver == AllOpen {
		from, to, below = 0, message.MaxTo, min(a.State, message.Queued+1)
	}
	if a.At.IsZero() {
		a.At = time.Now()
	}
	at := a.At.UnixMilli()
	rows, err := s.query(`UPDATE recipient SET state = ?, code = ?, reason = ?, at = ?
		WHERE message = ? AND position BETWEEN ? AND ? AND state < ? RETURNING receiver`,
		a.State, a.Code, a.Reason, at, seq, from, to, below)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		c := Change{Counter: a.Counter, State: a.State, Code: a.Code, Reason: strings.Clone(a.Reason), At: storedTime(at)}
		copy(c.ID[:], id)
		if err := rows.Scan(&c.Receiver); err != nil {
			return nil, err
		}
		changed = append(changed, c)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	return changed, s.leaveOutbox(seq)
}

// leaveOutbox takes a message out of the outbox if all its receivers are
// settled; a receipt or bounce was kept only for this.
func (s *Store) leaveOutbox(seq int64) error {
	r, err := s.exec(`DELETE FROM outbox WHERE message = ?1
		AND NOT EXISTS (SELECT 1 FROM recipient WHERE message = ?1 AND state = ?2)`, seq, message.Queued)
	if err != nil {
		return err
	}
	if n, err := r.RowsAffected(); n == 0 || err != nil {
		return err
	}
	_, err = s.exec("DELETE FROM message WHERE seq = ? AND out = 1 AND shown = ?", seq, ofMachines)
	return err
}
