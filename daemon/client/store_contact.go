package client

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
)

// Contact is somebody whom the owner of this profile gave a name.
type Contact struct {
	Name     string               `json:"name"`
	Address  message.Address      `json:"address"`
	Trust    Trust                `json:"trust"`
	Devices  []identity.PublicKey `json:"devices"`       // that we know, rising
	Now      []identity.PublicKey `json:"now,omitempty"` // if it has changed: what his home named last
	Verified bool                 `json:"verified"`      // somebody has compared the words of Devices
	Added    time.Time            `json:"added"`
}

// Trust is how sure we are of a contact's devices.
type Trust string

// The trusts. Nothing is sent to somebody who was verified and has changed.
const (
	Unverified Trust = "unverified"
	Verified   Trust = "verified"
	Changed    Trust = "changed" // there is a device that we don't know, or none that we know
)

// ErrNoContact says that nobody has this name or address.
var ErrNoContact = errors.New("no contact")

// maxContactName bounds a contact's name, in bytes.
const maxContactName = 64

// CheckContactName says what keeps a name from being a contact's: it must not look
// like an address, and nothing in it may hide, or pass for something of ours.
func CheckContactName(name string) error {
	switch {
	case name == "":
		return errors.New("a name is empty")
	case len(name) > maxContactName:
		return fmt.Errorf("a name has at most %d bytes, not %d", maxContactName, len(name))
	case !utf8.ValidString(name):
		return fmt.Errorf("name %q: is not UTF-8", name)
	case name != strings.Join(strings.Fields(name), " "):
		return fmt.Errorf("name %q: has spaces at an end, or two together", name)
	case strings.HasPrefix(name, "-"):
		return fmt.Errorf("name %q: begins with '-'", name)
	}
	for _, r := range name {
		if !unicode.In(r, unicode.L, unicode.M, unicode.N) && !strings.ContainsRune(" -._'", r) {
			return fmt.Errorf("name %q: has %q; names are made of letters, digits, spaces and - . _ '", name, r)
		}
	}
	return nil
}

const contactColumns = "c.name, c.address, c.devices, c.verified, c.changed, c.added"

func scanContact(row scanner) (c Contact, err error) {
	var devices string
	var changed sql.NullString
	var added int64
	if err = row.Scan(&c.Name, &c.Address, &devices, &c.Verified, &changed, &added); err != nil {
		return c, err
	}
	c.Added, c.Trust = storedTime(added), Unverified
	if c.Devices, err = parseKeys(devices); err != nil {
		return c, err
	}
	if c.Verified {
		c.Trust = Verified
	}
	if changed.Valid {
		c.Trust = Changed
		c.Now, err = parseKeys(changed.String)
	}
	return c, err
}

func parseKeys(printed string) ([]identity.PublicKey, error) {
	keys := []identity.PublicKey{} // in JSON an empty list, and not null
	for s := range strings.FieldsSeq(printed) {
		k, err := identity.ParsePublicKey(s)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func printKeys(keys []identity.PublicKey) string {
	var printed []string
	for _, k := range identity.SortKeys(keys) {
		printed = append(printed, k.String())
	}
	return strings.Join(printed, " ")
}

// Contacts returns all contacts in the order of their names.
func (s *Store) Contacts() ([]Contact, error) {
	all, err := s.contacts("SELECT " + contactColumns + " FROM contact c ORDER BY c.name")
	if err != nil {
		return nil, s.failed("reading the contacts", err)
	}
	return all, nil
}

func (s *Store) contacts(query string) (all []Contact, err error) {
	rows, err := s.db.Query(query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		c, err := scanContact(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, rows.Err()
}

// Contact returns the contact with a name, or with an address, or an error that
// wraps ErrNoContact.
func (s *Store) Contact(who string) (Contact, error) {
	c, err := scanContact(s.db.QueryRow("SELECT "+contactColumns+" FROM contact c WHERE c.name = ?1 OR c.address = ?1", who))
	if errors.Is(err, sql.ErrNoRows) {
		return c, fmt.Errorf("%w is called %.80q", ErrNoContact, who)
	}
	if err != nil {
		return c, s.failed("looking for a contact", err)
	}
	return c, nil
}

// AddContact gives somebody a name. It is refused (exists) if he has one, or
// another one has it.
func (s *Store) AddContact(name string, address message.Address) error {
	if err := CheckContactName(name); err != nil {
		return err
	}
	return s.write("storing a contact", func() error {
		r, err := s.exec("INSERT INTO contact (address, name, added) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", address, name, time.Now().UnixMilli())
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil || n == 1 {
			return err
		}
		other, err := scanContact(s.row("SELECT "+contactColumns+" FROM contact c WHERE c.name = ? OR c.address = ?", name, address))
		if err != nil {
			return err
		}
		return message.Refuse(message.CodeExists, "%s is called %s already", other.Address, other.Name)
	})
}

// RenameContact gives a contact another name.
func (s *Store) RenameContact(address message.Address, name string) error {
	if err := CheckContactName(name); err != nil {
		return err
	}
	return s.write("renaming a contact", func() error {
		var other message.Address
		err := s.row("SELECT address FROM contact WHERE name = ? AND address <> ?", name, address).Scan(&other)
		if err == nil {
			return message.Refuse(message.CodeExists, "%s is called %s already", other, name)
		}
		if err = ignoreNoRows(err); err != nil {
			return err
		}
		return s.exactlyOne(s.exec("UPDATE contact SET name = ? WHERE address = ?", name, address))
	})
}

// RemoveContact forgets a contact, and what was known of his devices.
func (s *Store) RemoveContact(address message.Address) error {
	return s.write("removing a contact", func() error { return s.exactlyOne(s.exec("DELETE FROM contact WHERE address = ?", address)) })
}

// VerifyContact records that somebody has compared the words of these devices.
func (s *Store) VerifyContact(address message.Address, devices []identity.PublicKey) error {
	return s.write("storing a contact's devices", func() error {
		return s.exactlyOne(s.exec("UPDATE contact SET devices = ?, verified = 1, changed = NULL WHERE address = ?", printKeys(devices), address))
	})
}

func (s *Store) exactlyOne(r sql.Result, err error) error {
	if err != nil {
		return err
	}
	if n, err := r.RowsAffected(); err != nil || n == 1 {
		return err
	}
	return ErrNoContact
}

// SeeDevices records which devices a contact's home names now, and returns what the
// contact is by that. Of those that we know some may be gone; one that we don't
// know is a change, and so it is if none is left: whoever comes next gets what
// waits. The first that are named of somebody who isn't verified are believed.
func (s *Store) SeeDevices(address message.Address, devices []identity.PublicKey) (c Contact, err error) {
	err = s.write("storing a contact's devices", func() error {
		const this = " FROM contact c WHERE c.address = ?"
		c, err = scanContact(s.row("SELECT "+contactColumns+this, address))
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNoContact
		}
		if err != nil {
			return err
		}
		switch {
		case c.Trust == Unverified && len(c.Devices) == 0:
			_, err = s.exec("UPDATE contact SET devices = ? WHERE address = ?", printKeys(devices), address)
		case len(devices) > 0 && !slices.ContainsFunc(devices, func(k identity.PublicKey) bool { return !slices.Contains(c.Devices, k) }):
			_, err = s.exec("UPDATE contact SET changed = NULL WHERE address = ? AND changed IS NOT NULL", address)
		default:
			_, err = s.exec("UPDATE contact SET changed = ? WHERE address = ?", printKeys(devices), address)
		}
		if err == nil {
			c, err = scanContact(s.row("SELECT "+contactColumns+this, address))
		}
		return err
	})
	return c, err
}

// ChangedDevicesError says that a contact was verified, and that his home names
// other devices of his now.
type ChangedDevicesError struct {
	Address   message.Address
	Want, Got string // their words
}

func (e *ChangedDevicesError) Error() string {
	return fmt.Sprintf("%s has other devices than those that you verified: known is %s, his server says %s", e.Address, e.Want, e.Got)
}

// Doubt returns a *ChangedDevicesError if nothing must be sent to a contact, whose
// home has this key, and otherwise nil.
func (c *Contact) Doubt(home identity.PublicKey) error {
	if !c.Verified || c.Trust != Changed {
		return nil
	}
	return &ChangedDevicesError{c.Address, identity.UserWords(c.Address, home, c.Devices), identity.UserWords(c.Address, home, c.Now)}
}

// addressee is a contact to whom something is to be sent.
type addressee struct {
	first, last uint64 // counters of a text, or of a file with its parts
	receiver    int    // an index into the envelope's To
	address     message.Address
	verified    bool
	devices     string // as they are stored: each key would take 0.2 ms to parse
}

// addressees returns the open receivers who are contacts, of what is in the outbox
// with a priority and counters in a range.
func (s *Store) addressees(p message.Priority, first, last uint64) ([]addressee, error) {
	all, err := s.queryAddressees(p, first, last)
	if err != nil {
		return nil, s.failed("reading the outbox", err)
	}
	return all, nil
}

const addresseeQuery = `SELECT o.counter, o.counter, r.position, c.address, c.verified, c.devices
	FROM outbox o CROSS JOIN recipient r ON r.message = o.message CROSS JOIN contact c ON c.address = r.receiver
	WHERE o.priority = ?1 AND o.counter BETWEEN ?2 AND ?3 AND r.state = ?4
	UNION ALL SELECT f.counter, f.counter + f.parts, r.position, c.address, c.verified, c.devices
	FROM outfile f CROSS JOIN recipient r ON r.message = f.message CROSS JOIN contact c ON c.address = r.receiver
	WHERE f.open = 1 AND f.counter <= ?3 AND f.counter + f.parts >= ?2 AND r.state = ?4 AND ?1 = ?5`

func (s *Store) queryAddressees(p message.Priority, first, last uint64) (all []addressee, err error) {
	rows, err := s.db.Query(addresseeQuery, p, int64(first), int64(last), message.Queued, message.Bulk)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var a addressee
		if err := rows.Scan(&a.first, &a.last, &a.receiver, &a.address, &a.verified, &a.devices); err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, rows.Err()
}
