package client

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// Incoming is an envelope that a server gave us.
type Incoming struct {
	Envelope *message.Envelope // parsed; it may share the network's buffer
	At       time.Time         // zero: now
	Server   string            // who gave it
}

// Received is what became of an Incoming.
type Received struct {
	New     bool     // false: it was here before, and was dropped
	Message Message  // its entry in the history; of a receipt or bounce none, Seq is 0
	Changes []Change // the states of our own messages that it raised
	Err     error    // why a receipt or bounce that was new had no effect
}

// Receive stores a batch in one transaction: when it returns without an error,
// each envelope of it may be acked. An envelope is known by its sender, device
// and counter alone; what differs in its content is dropped too.
//
// Texts go into the history, and so does what this program can't read, whole.
// Receipts and bounces raise the states of our own messages if they come from
// someone who can know; what they say else is ignored.
func (s *Store) Receive(batch []Incoming) ([]Received, error) {
	results := make([]Received, len(batch))
	err := s.write("storing what came in", func() error {
		account, err := scanAccount(s.row(accountQuery))
		if err != nil {
			return err
		}
		for i := range batch {
			if err := s.receive(&account, &batch[i], &results[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// receive returns only errors of the disk.
func (s *Store) receive(account *Account, in *Incoming, result *Received) (err error) {
	e := in.Envelope
	if result.New, err = s.see(e.From, e.Device, e.Counter); err != nil || !result.New {
		return err
	}
	at := in.At
	if at.IsZero() {
		at = time.Now()
	}
	if e.Sealing == message.Plain && (e.Kind == message.Receipt || e.Kind == message.Bounce) {
		result.Changes, result.Err, err = s.report(account, e, at)
		return err
	}
	m := Message{ID: message.IDOf(e.Raw), From: message.Address(strings.Clone(string(e.From))), Device: e.Device, Counter: e.Counter,
		State: StateUnsupported, Kind: e.Kind, Created: storedTime(int64(e.Created)), At: storedTime(at.UnixMilli()),
		Server: strings.Clone(in.Server)}
	for _, a := range e.To {
		m.To = append(m.To, message.Address(strings.Clone(string(a))))
	}
	var reading, body any
	if e.Sealing == message.Plain && e.Kind == message.Text {
		m.State, m.Body = message.Delivered.String(), string(e.Body)
		reading, body = notShown, m.Body
	} else {
		body = e.Raw
	}
	m.Seq, err = s.insertMessage(&m, int64(e.Created), reading, body)
	result.Message = m
	return err
}

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
	mayKnow := e.From == p.Receiver || from == p.Receiver.Server() || failure && from == account.Address.Server()
	if !mayKnow {
		return nil, fmt.Errorf("report: %s can't know what became of a message to %s", from, p.Receiver), nil
	}
	if p.Device != account.Device {
		var one int
		err := s.row("SELECT 1 FROM message WHERE out = 1 AND device = ? LIMIT 1", int64(p.Device)).Scan(&one)
		if errors.Is(err, sql.ErrNoRows) {
			return nil, fmt.Errorf("report: device %v is not ours", p.Device), nil
		}
		if err != nil {
			return nil, nil, err
		}
	}
	for _, g := range p.Counters {
		c, err := s.raise(&p, g, at)
		if err != nil {
			return nil, nil, err
		}
		changed = append(changed, c...)
	}
	return changed, nil, nil
}

// raise does one range of a report. Between the first and the last of our
// messages in the range are all of it, because seq and counter rise together.
// So the work is bounded by what we sent to this receiver, not by the range, nor
// by what we sent in all.
func (s *Store) raise(p *message.Report, g message.Range, at time.Time) (changed []Change, err error) {
	device := int64(p.Device)
	rows, err := s.query(`SELECT r.message, r.position, m.id, m.counter
		FROM recipient r CROSS JOIN message m ON m.seq = r.message
		WHERE r.receiver = ?1 AND r.state < ?2 AND m.out = 1 AND m.device = ?3 AND m.counter BETWEEN ?4 AND ?5 AND r.message
			BETWEEN (SELECT seq FROM message WHERE out = 1 AND device = ?3 AND counter >= ?4 ORDER BY counter LIMIT 1)
			AND     (SELECT seq FROM message WHERE out = 1 AND device = ?3 AND counter <= ?5 ORDER BY counter DESC LIMIT 1)`,
		p.Receiver, p.State, device, int64(g.First), int64(g.Last))
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
