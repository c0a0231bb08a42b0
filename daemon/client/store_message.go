package client

import (
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// Message is one entry of the history. Its fields are copies: nothing in it
// shares memory with what came from the network.
type Message struct {
	Seq        int64             `json:"seq"` // the order in which this profile got to know its messages
	ID         message.ID        `json:"id"`
	Out        bool              `json:"out"` // written here
	From       message.Address   `json:"from"`
	Device     message.DeviceID  `json:"device"`
	Counter    uint64            `json:"counter"`
	To         []message.Address `json:"to"`
	Recipients []Recipient       `json:"recipients,omitempty"` // of an outgoing message, in the order of To
	State      string            `json:"state"`                // see StateUnsupported
	Kind       message.Kind      `json:"kind"`
	Created    time.Time         `json:"created"` // by the sender's clock
	At         time.Time         `json:"at"`      // when it was written or came in, by our clock
	Server     string            `json:"server,omitempty"`
	Body       string            `json:"text"` // of a file, its name
	File       *File             `json:"file,omitempty"`
	First      bool              `json:"first,omitempty"`      // the first that came from somebody who was a stranger then
	List       string            `json:"list,omitempty"`       // the name of the list that it is to, if that is known
	Unverified bool              `json:"unverified,omitempty"` // our home doesn't know the key of the author's, and can't tell whether he wrote it

	listID message.ListID
}

// File is what a message of the kind file is about.
type File struct {
	Name   string `json:"name"` // as its sender calls it
	Size   int64  `json:"size"`
	Hash   Hash   `json:"sha256"`
	Path   string `json:"path"` // where it is
	Damage string `json:"damage,omitempty"`
}

// Hash is a SHA-256.
type Hash [32]byte

// MarshalText returns 64 hex digits.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText reads what MarshalText wrote.
func (h *Hash) UnmarshalText(text []byte) error {
	if n, err := hex.Decode(h[:], text[:min(len(text), 2*len(h))]); err != nil || len(text) != 2*len(h) || n != len(h) {
		return fmt.Errorf("%q is no SHA-256", text)
	}
	return nil
}

// StateUnsupported is the state of a message that came in and that this program
// can't read. Any other has the name of a message.State: one that came in is
// delivered, and read once it was shown; an outgoing one is as far as the
// receiver who is behind the others.
const StateUnsupported = "unsupported"

// Recipient is what became of an outgoing message for one of its receivers.
type Recipient struct {
	Address message.Address `json:"address"`
	State   message.State   `json:"state"`
	Code    message.Code    `json:"code,omitempty"`
	Reason  string          `json:"reason,omitempty"`
	At      time.Time       `json:"at"` // when we learned of the state

	Held      time.Time    `json:"held,omitzero"`      // when we learned that our home has it; zero: that was never the news
	Delivered time.Time    `json:"delivered,omitzero"` // that a device of the receiver's has it
	Path      message.Path `json:"path,omitempty"`     // by which it came to him, if that is known; ages of 0 too if they aren't
}

// Change is a state that has risen.
type Change struct {
	ID       message.ID      `json:"id"`
	Counter  uint64          `json:"counter"`
	Receiver message.Address `json:"receiver"`
	State    message.State   `json:"state"`
	Code     message.Code    `json:"code,omitempty"`
	Reason   string          `json:"reason,omitempty"`
	At       time.Time       `json:"at"`
}

// The values of the column shown, which is null in what is no text that came in.
const (
	notShown = iota
	shown
	receipted  // and the read receipt is on its way
	ofMachines // of what went out: nothing for people; it goes when it is sent
)

// messageColumns are what scanMessage reads, of a table that is called m.
const messageColumns = "m.seq, " + messageFields

const messageFields = "m.id, m.out, m.sender, m.device, m.counter, m.kind, m.created, m.at, m.server, m.receivers, m.shown, m.first, m.unverified, m.body, m.list"

// ofPeople leaves out what machines tell one another: what waits in the outbox, and
// receipts and bounces that came in sealed.
const ofPeople = "m.kind NOT IN (3, 4) AND ifnull(m.shown, 0) <> 3"

func scanMessage(row scanner) (m Message, err error) {
	var id, body, list []byte
	var device, created, at int64
	var to string
	var reading sql.NullInt64
	err = row.Scan(&m.Seq, &id, &m.Out, &m.From, &device, &m.Counter, &m.Kind, &created, &at, &m.Server, &to, &reading, &m.First, &m.Unverified, &body, &list)
	if err != nil {
		return m, err
	}
	copy(m.ID[:], id)
	copy(m.listID[:], list)
	m.Device = message.DeviceID(device)
	m.Created, m.At = storedTime(created), storedTime(at)
	m.To = split(to)
	switch {
	case m.Out:
		m.Body = string(body)
	case !reading.Valid:
		m.State = StateUnsupported
	case reading.Int64 == notShown:
		m.Body, m.State = string(body), message.Delivered.String()
	default:
		m.Body, m.State = string(body), message.Read.String()
	}
	return m, nil
}

// scanMessages reads all rows and closes them.
func scanMessages(rows *sql.Rows) (messages []Message, err error) {
	defer rows.Close()
	for rows.Next() {
		m, err := scanMessage(rows)
		if err != nil {
			return nil, err
		}
		messages = append(messages, m)
	}
	return messages, rows.Err()
}

// ListID is the id of the list that it is to; zero: none.
func (m *Message) ListID() message.ListID { return m.listID }

// complete fills in what became of messages that went out, and what files and lists are.
func (s *Store) complete(messages []Message) error {
	for i := range messages {
		m := &messages[i]
		if err := s.addRecipients(m); err != nil {
			return err
		}
		if m.listID != (message.ListID{}) {
			err := s.db.QueryRow("SELECT name FROM list WHERE id = ? LIMIT 1", m.listID[:]).Scan(&m.List)
			if err := ignoreNoRows(err); err != nil {
				return err
			}
		}
		if m.Kind != message.File || m.State == StateUnsupported {
			continue
		}
		f := &File{}
		var hash []byte
		err := s.db.QueryRow("SELECT name, size, hash, path, damage FROM file WHERE message = ?", m.Seq).Scan(&f.Name, &f.Size, &hash, &f.Path, &f.Damage)
		if err != nil {
			return err
		}
		copy(f.Hash[:], hash)
		f.Path = s.FilePath(f)
		m.File = f
	}
	return nil
}

func (s *Store) addRecipients(m *Message) error {
	if !m.Out {
		return nil
	}
	rows, err := s.db.Query("SELECT receiver, state, code, reason, at, held, delivered, path FROM recipient WHERE message = ? ORDER BY position", m.Seq)
	if err != nil {
		return err
	}
	defer rows.Close()
	behind := message.Read
	for rows.Next() {
		var r Recipient
		var at, held, delivered int64
		var path []byte
		if err := rows.Scan(&r.Address, &r.State, &r.Code, &r.Reason, &at, &held, &delivered, &path); err != nil {
			return err
		}
		if len(path) > 0 {
			if err := json.Unmarshal(path, &r.Path); err != nil {
				return fmt.Errorf("the path of message %v: %w", m.ID, err)
			}
		}
		r.At = storedTime(at)
		if held > 0 {
			r.Held = storedTime(held)
		}
		if delivered > 0 {
			r.Delivered = storedTime(delivered)
		}
		behind = min(behind, r.State)
		m.Recipients = append(m.Recipients, r)
	}
	m.State = behind.String()
	return rows.Err()
}

// split reads the column receivers.
func split(to string) (all []message.Address) {
	for a := range strings.FieldsSeq(to) {
		all = append(all, message.Address(a))
	}
	return all
}

// joined makes the column receivers.
func joined(to []message.Address) string {
	var b strings.Builder
	for i, a := range to {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(string(a))
	}
	return b.String()
}
