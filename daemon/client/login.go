package client

import (
	"context"
	"errors"
	"time"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/wire"
)

// Entry is a first login: how a profile becomes a user's device.
type Entry struct {
	Address  message.Address
	Servers  []string           // addresses as of package transport, tried in order
	Key      identity.PublicKey // the home's, which must be proven: see Meet
	Standing identity.Standing  // how it is known
	Password string
	Label    string // what the user calls the device
	Join     bool   // make the user too
	Invite   string // with which invitation
}

// Meet asks a server who it is, without saying who we are. No password must be
// sent to the key that it shows before somebody has confirmed it, or decided to
// trust first sight.
func Meet(ctx context.Context, servers []string, o Options) (name string, key identity.PublicKey, err error) {
	o.setDefaults()
	met := errors.New("met")
	errs := []error{errors.New("no address to connect to")}
	for i, address := range servers {
		if i == 0 {
			errs = nil
		}
		m, err := open(ctx, address, o, identity.NewKey(), func(h wire.ServerHello) (wire.ClientHello, error) {
			return wire.ClientHello{}, met
		}, false)
		if errors.Is(err, met) {
			return m.hello.Name, m.hello.Key, nil
		}
		errs = append(errs, err)
	}
	return "", key, errors.Join(errs...)
}

// Login makes the profile in store a device of the user's. A profile that is one
// already keeps its key: it only proves the password again.
func Login(ctx context.Context, store *Store, e Entry, o Options) (Account, error) {
	o.setDefaults()
	account, known, err := store.Account()
	if err != nil {
		return account, err
	}
	if known && account.Address != e.Address {
		return account, misusef("this profile is a device of %s already; use another one for %s", account.Address, e.Address)
	}
	key := identity.NewKey()
	if known {
		key = identity.KeyFromSeed(account.Seed)
	}
	home := e.Address.Server()
	meet := func(h wire.ServerHello) (wire.ClientHello, error) {
		var ch wire.ClientHello
		switch {
		case h.Name != home:
			return ch, message.Refuse(message.CodeInvalid, "the server there is called %s, not %s", h.Name, home)
		case h.Key != e.Key:
			return ch, &identity.ChangedKeyError{Name: home, Want: e.Key, Got: h.Key}
		}
		ch = wire.ClientHello{Agent: o.Agent, Window: o.Window, Method: wire.ByPassword, User: e.Address.User(), Password: e.Password, Label: e.Label}
		if e.Join {
			ch.Method, ch.Invite = wire.ByJoining, e.Invite
		}
		return ch, nil
	}
	errs := []error{errors.New("no address to connect to")}
	for i, address := range e.Servers {
		if i == 0 {
			errs = nil
		}
		m, err := open(ctx, address, o, key, meet, false)
		if err != nil {
			errs = append(errs, err)
			if Final(err) {
				break
			}
			continue
		}
		m.conn.Close()
		account = Account{
			Address: e.Address, Device: m.welcome.Device, Seed: key.Seed(), ServerKey: e.Key.String(),
			Servers: addresses(e.Servers, address, m.hello.Public), Created: time.Now(),
		}
		if err := store.SetServerKey(home, account.ServerKey, e.Standing.String()); err != nil {
			return account, err
		}
		return account, store.SetAccount(account)
	}
	return account, errors.Join(errs...)
}

// addresses puts the one that worked first, then those that the user gave, then
// those that the server told.
func addresses(given []string, worked string, told []string) []string {
	all := []string{worked}
	seen := map[string]bool{worked: true}
	for _, list := range [][]string{given, told} {
		for _, a := range list {
			if !seen[a] {
				seen[a] = true
				all = append(all, a)
			}
		}
	}
	return all
}

// Password changes the user's password at the home, over the session that Run keeps.
func (c *Client) Password(ctx context.Context, old, fresh string) error {
	return password(ctx, c.Ask, old, fresh)
}

// Password is Client.Password, by whoever has the session.
func (p *Profile) Password(ctx context.Context, old, fresh string) error {
	return password(ctx, p.Ask, old, fresh)
}

// asker is the Ask of a Client or a Profile.
type asker func(ctx context.Context, op wire.Op, args ...string) ([]string, error)

func password(ctx context.Context, ask asker, old, fresh string) error {
	_, err := ask(ctx, wire.OpPassword, old, fresh)
	return err
}
