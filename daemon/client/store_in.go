package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// Incoming is an envelope that a server gave us.
type Incoming struct {
	Envelope *message.Envelope // parsed; it may share the network's buffer
	At       time.Time         // zero: now
	Server   string            // who gave it

	Unverified bool // by that server, which doesn't know the key of the author's
}

// Received is what became of an Incoming.
type Received struct {
	New     bool     // false: it was here before, and was dropped
	Message Message  // its entry in the history; of a receipt or bounce none, Seq is 0
	Changes []Change // the states of our own messages that it raised
	Whole   bool     // a file is here now, and is to be finished: see FinishFiles
	Err     error    // why a receipt, a bounce or a part of a file that was new had no effect
}

// Receive stores a batch in one transaction: when it returns without an error,
// each envelope of it may be acked. An envelope is known by its sender, device
// and counter alone; what differs in its content is dropped too.
//
// Texts go into the history, and so does what this program can't read, whole. Parts
// of files go into files of their own; ErrNoSpace is in the error if they don't.
// Receipts and bounces raise the states of our own messages if they come from
// someone who can know; what they say else is ignored.
func (s *Store) Receive(batch []Incoming) ([]Received, error) {
	results := make([]Received, len(batch))
	var files arrivals
	err := s.write("storing what came in", func() error {
		account, err := scanAccount(s.row(accountQuery))
		if err != nil {
			return err
		}
		for i := range batch {
			if err := s.receive(&account, &batch[i], &results[i], &files); err != nil {
				return err
			}
		}
		return files.store(s)
	})
	files.close(err == nil)
	if err != nil {
		return nil, err
	}
	return results, nil
}

// receive returns only errors of the disk.
func (s *Store) receive(account *Account, in *Incoming, result *Received, files *arrivals) (err error) {
	e := in.Envelope
	if result.New, err = s.see(e.From, e.Device, e.Counter); err != nil || !result.New {
		return err
	}
	at := in.At
	if at.IsZero() {
		at = time.Now()
	}
	if e.Sealing == message.Plain && e.Kind.Reports() {
		result.Changes, result.Err, err = s.report(account, e, at)
		return err
	}
	if e.Sealing == message.Plain && e.Kind == message.File {
		result.Whole, result.Err, err = s.receiveFile(in, at, files)
		return err
	}
	if e.Sealing == message.Plain && e.Kind == message.Members {
		result.Err, err = s.receiveList(account, e, at)
		return err
	}
	if repeat, err := s.repeats(e); repeat || err != nil {
		result.New = !repeat
		return err
	}
	m := Message{ID: message.IDOf(e.Raw), From: message.Address(strings.Clone(string(e.From))), Device: e.Device, Counter: e.Counter,
		State: StateUnsupported, Kind: e.Kind, Created: storedTime(int64(e.Created)), At: storedTime(at.UnixMilli()),
		Server: strings.Clone(in.Server), listID: e.List, Unverified: in.Unverified}
	for _, a := range e.To {
		m.To = append(m.To, message.Address(strings.Clone(string(a))))
	}
	m.Out = ofOurs(account, e)
	var reading, body any = nil, e.Raw
	if e.Sealing == message.Plain && e.Kind == message.Text {
		m.Body = string(e.Body)
		body = m.Body
		if !m.Out {
			m.State, reading = message.Delivered.String(), notShown
		}
	}
	if m.First, err = s.stranger(m.From, account.Address); err != nil {
		return err
	}
	if m.Seq, err = s.insertMessage(&m, int64(e.Created), reading, body); err == nil && m.Out {
		err = s.addOurs(&m)
	}
	result.Message = m
	return err
}

// ofOurs tells that an envelope was written by another device of this user's, to
// others than himself.
func ofOurs(account *Account, e *message.Envelope) bool {
	return e.From == account.Address && e.Device != account.Device && !slices.Contains(e.To, account.Address)
}

// repeats tells whether a message came before under the counter that it had formerly.
func (s *Store) repeats(e *message.Envelope) (is bool, err error) {
	if e.Formerly == 0 || e.Kind != message.Text || e.Sealing != message.Plain {
		return false, nil
	}
	err = s.row(`SELECT EXISTS (SELECT 1 FROM message WHERE sender = ? AND device = ? AND counter = ? AND kind = ? AND created = ? AND body = ?)`,
		e.From, int64(e.Device), int64(e.Formerly), e.Kind, int64(e.Created), string(e.Body)).Scan(&is)
	return is, err
}

// addOurs adds what is known of the receivers of a message that another device of ours
// has sent: its home had it, or it wouldn't be here; and what was told of it before.
func (s *Store) addOurs(m *Message) error {
	m.State = message.Held.String()
	for i, a := range m.To {
		r := Recipient{Address: a, State: message.Held, At: m.At}
		var at int64
		err := s.row(`SELECT state, code, reason, at FROM early WHERE device = ? AND receiver = ? AND ? BETWEEN first AND last
			ORDER BY state DESC LIMIT 1`, int64(m.Device), a, int64(m.Counter)).Scan(&r.State, &r.Code, &r.Reason, &at)
		if err == nil {
			r.At = storedTime(at)
		} else if err = ignoreNoRows(err); err != nil {
			return err
		}
		if _, err := s.exec("INSERT INTO recipient (message, position, receiver, state, code, reason, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
			m.Seq, i, a, r.State, r.Code, r.Reason, r.At.UnixMilli()); err != nil {
			return err
		}
		m.Recipients = append(m.Recipients, r)
	}
	return nil
}

// maxEarly bounds what is kept of messages that may never come.
const maxEarly = 4096

// keepEarly keeps a report on messages of another device of ours that have not come.
func (s *Store) keepEarly(p *message.Report, g message.Range, at time.Time) error {
	if _, err := s.exec("INSERT OR REPLACE INTO early (device, receiver, first, last, state, code, reason, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
		int64(p.Device), p.Receiver, int64(g.First), int64(g.Last), p.State, p.Code, p.Reason, at.UnixMilli()); err != nil {
		return err
	}
	_, err := s.exec("DELETE FROM early WHERE seq <= (SELECT seq FROM early ORDER BY seq DESC LIMIT 1 OFFSET ?)", maxEarly)
	return err
}

// stranger tells whether nothing came from somebody, nothing was written to him,
// and he is no contact.
func (s *Store) stranger(who, me message.Address) (yes bool, err error) {
	if who == me {
		return false, nil
	}
	err = s.row(strangerQuery, who).Scan(&yes)
	return yes, err
}

const strangerQuery = `SELECT NOT EXISTS (SELECT 1 FROM message WHERE out = 0 AND sender = ?1)
	AND NOT EXISTS (SELECT 1 FROM recipient WHERE receiver = ?1)
	AND NOT EXISTS (SELECT 1 FROM contact WHERE address = ?1)`

// see puts a counter into what was seen of a device, and tells whether it is new.
func (s *Store) see(from message.Address, device message.DeviceID, counter uint64) (bool, error) {
	// Of all ranges only two matter: one that begins right after the counter, and the last one before that.
	rows, err := s.query("SELECT first, last FROM seen WHERE sender = ? AND device = ? AND first <= ? ORDER BY first DESC LIMIT 2",
		from, int64(device), int64(min(counter, 1<<63-2))+1)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	first, last := counter, counter
	for rows.Next() {
		var g message.Range
		if err := rows.Scan(&g.First, &g.Last); err != nil {
			return false, err
		}
		if g.First == counter+1 {
			last = g.Last
			continue
		}
		if g.Last >= counter {
			return false, nil
		}
		if g.Last == counter-1 {
			first = g.First
		}
		break
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return false, err
	}
	if last > counter {
		if _, err := s.exec("DELETE FROM seen WHERE sender = ? AND device = ? AND first = ?", from, int64(device), int64(counter+1)); err != nil {
			return false, err
		}
	}
	_, err = s.exec("INSERT INTO seen (sender, device, first, last) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET last = excluded.last",
		from, int64(device), int64(first), int64(last))
	return err == nil, err
}

// report raises the states of our messages by what a receipt or bounce says.
// What is wrong with it is wrong; err is an error of the disk.
func (s *Store) report(account *Account, e *message.Envelope, at time.Time) (changed []Change, wrong, err error) {
	var p message.Report
	if wrong := p.Parse(e.Body); wrong != nil {
		return nil, wrong, nil
	}
	failure := p.State == message.Refused || p.State == message.Expired
	if failure != (e.Kind == message.Bounce) {
		return nil, fmt.Errorf("report: %v does not go with kind %d", p.State, e.Kind), nil
	}
	from := string(e.From)
	if e.From == account.Address && p.State == message.Read && p.Receiver == account.Address {
		return nil, nil, s.readElsewhere(e.To, &p)
	}
	home := from == account.Address.Server() && p.State != message.Read // it was told by the receiver's home
	mayKnow := e.From == p.Receiver || from == p.Receiver.Server() || home
	if !mayKnow {
		return nil, fmt.Errorf("report: %s can't know what became of a message to %s", from, p.Receiver), nil
	}
	for _, g := range p.Counters {
		c, err := s.raise(account, &p, g, at)
		if err == nil && p.Device != account.Device {
			err = s.keepEarly(&p, g, at)
		}
		if err != nil {
			return nil, nil, err
		}
		changed = append(changed, c...)
	}
	if len(p.Path) > 0 {
		err = s.way(&p)
	}
	return changed, nil, err
}

// readElsewhere marks what another device of ours has shown: it has written the
// receipt to the authors.
func (s *Store) readElsewhere(authors []message.Address, p *message.Report) error {
	for _, author := range authors {
		for _, g := range p.Counters {
			if _, err := s.exec(`UPDATE message SET shown = ? WHERE sender = ? AND device = ? AND counter BETWEEN ? AND ? AND shown IN (0, 1)`,
				receipted, author, int64(p.Device), int64(g.First), int64(g.Last)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Of this device: between the first and the last of our messages in the range are all
// of it, because seq and counter rise together. So the work is bounded by what we sent
// to this receiver, not by the range, nor by what we sent in all.
const raiseOwn = `SELECT r.message, r.position, m.id, m.counter
		FROM recipient r CROSS JOIN message m ON m.seq = r.message
		WHERE r.receiver = ?1 AND r.state < ?2 AND (m.kind <> 2 OR ?2 = 6) AND m.out = 1 AND m.device = ?3 AND m.counter BETWEEN ?4 AND ?5 AND r.message
			BETWEEN (SELECT seq FROM message WHERE out = 1 AND device = ?3 AND counter >= ?4 ORDER BY counter LIMIT 1)
			AND     (SELECT seq FROM message WHERE out = 1 AND device = ?3 AND counter <= ?5 ORDER BY counter DESC LIMIT 1)`

// Of another device: its messages came in any order.
const raiseOther = `SELECT r.message, r.position, m.id, m.counter
		FROM message m CROSS JOIN recipient r ON r.message = m.seq
		WHERE m.device = ?3 AND m.counter BETWEEN ?4 AND ?5 AND m.out = 1 AND r.receiver = ?1 AND r.state < ?2 AND (m.kind <> 2 OR ?2 = 6)`

// way notes which way the messages of a report have come: the ages are those of the last.
func (s *Store) way(p *message.Report) error {
	note := func(path message.Path, g message.Range) error {
		b, err := json.Marshal(path)
		if err == nil {
			_, err = s.exec(`UPDATE recipient SET path = ? WHERE path = '' AND receiver = ? AND message IN
				(SELECT seq FROM message WHERE out = 1 AND device = ? AND counter BETWEEN ? AND ?)`,
				string(b), p.Receiver, int64(p.Device), int64(g.First), int64(g.Last))
		}
		return err
	}
	last := p.Counters[len(p.Counters)-1].Last
	path := p.Path.Unpack()
	if err := note(path, message.Range{First: last, Last: last}); err != nil {
		return err
	}
	for i := range path {
		path[i].Age = 0
	}
	for _, g := range p.Counters {
		if err := note(path, g); err != nil {
			return err
		}
	}
	return nil
}

// raise does one range of a report. What it says of files, but that they were read,
// is for raiseFile.
func (s *Store) raise(account *Account, p *message.Report, g message.Range, at time.Time) (changed []Change, err error) {
	which := raiseOwn
	if p.Device != account.Device {
		which = raiseOther
	}
	if changed, err = s.raiseFile(p, g, at); err != nil {
		return nil, err
	}
	rows, err := s.query(which, p.Receiver, p.State, int64(p.Device), int64(g.First), int64(g.Last))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	type place struct{ seq, position int64 }
	var places []place
	for rows.Next() {
		c := Change{Receiver: message.Address(strings.Clone(string(p.Receiver))), State: p.State, Code: p.Code,
			Reason: strings.Clone(p.Reason), At: storedTime(at.UnixMilli())}
		var w place
		var id []byte
		if err := rows.Scan(&w.seq, &w.position, &id, &c.Counter); err != nil {
			return nil, err
		}
		copy(c.ID[:], id)
		places = append(places, w)
		changed = append(changed, c)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	for _, w := range places {
		if _, err := s.exec("UPDATE recipient SET state = ?, code = ?, reason = ?, at = ? WHERE message = ? AND position = ?",
			p.State, p.Code, p.Reason, at.UnixMilli(), w.seq, w.position); err != nil {
			return nil, err
		}
		if err := s.leaveOutbox(w.seq); err != nil {
			return nil, err
		}
	}
	return changed, nil
}
