package client

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
)

// Account is who a profile is.
type Account struct {
	Address   message.Address  `json:"address"`
	Device    message.DeviceID `json:"device"`
	Seed      [32]byte         `json:"-"`          // the device's key; a secret
	ServerKey string           `json:"server_key"` // the home server's public key, as it is printed
	Servers   []string         `json:"servers"`    // addresses of the home server as of package transport, in the order of trying
	Created   time.Time        `json:"created"`
}

// HomeKey is the home server's public key.
func (a *Account) HomeKey() (identity.PublicKey, error) {
	key, err := identity.ParsePublicKey(a.ServerKey)
	if err != nil {
		err = fmt.Errorf("the key of %s in this profile: %w", a.Address.Server(), err)
	}
	return key, err
}

// Account returns the account, or false if there is none.
func (s *Store) Account() (Account, bool, error) {
	a, err := scanAccount(s.db.QueryRow(accountQuery))
	if errors.Is(err, ErrNoAccount) {
		return a, false, nil
	}
	if err != nil {
		return a, false, s.failed("reading the account", err)
	}
	return a, true, nil
}

const accountQuery = "SELECT address, device, seed, server_key, servers, created FROM account"

func scanAccount(row scanner) (a Account, err error) {
	var device, created int64
	var seed []byte
	var servers string
	err = row.Scan(&a.Address, &device, &seed, &a.ServerKey, &servers, &created)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return a, ErrNoAccount
	case err != nil:
		return a, err
	case len(seed) != len(a.Seed):
		return a, fmt.Errorf("the device's seed has %d bytes instead of %d", len(seed), len(a.Seed))
	}
	a.Device = message.DeviceID(device)
	copy(a.Seed[:], seed)
	a.Servers = strings.FieldsFunc(servers, func(c rune) bool { return c == '\n' })
	a.Created = storedTime(created)
	return a, nil
}

// SetAccount makes or changes the account. The address of a profile can't be
// changed: its history is that of one user. Counters go on where they were,
// with a new device too.
func (s *Store) SetAccount(a Account) error {
	return s.write("storing the account", func() error {
		old, err := scanAccount(s.row(accountQuery))
		if err == nil && old.Address != a.Address {
			return misusef("this profile is %s's", old.Address)
		}
		if err != nil && !errors.Is(err, ErrNoAccount) {
			return err
		}
		_, err = s.exec(`INSERT INTO account (one, address, device, seed, server_key, servers, created) VALUES (1, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET device = excluded.device, seed = excluded.seed, server_key = excluded.server_key,
				servers = excluded.servers, created = excluded.created`,
			a.Address, int64(a.Device), a.Seed[:], a.ServerKey, strings.Join(a.Servers, "\n"), a.Created.UnixMilli())
		return err
	})
}

// ServerKey is what we know of a server's key.
type ServerKey struct {
	Key   string `json:"key"`   // as it is printed
	Trust string `json:"trust"` // why it is trusted, or that it is not; a word of the caller's
}

// ServerKeys returns the known keys by the servers' names.
func (s *Store) ServerKeys() (map[string]ServerKey, error) {
	rows, err := s.db.Query("SELECT name, key, trust FROM server")
	if err != nil {
		return nil, s.failed("reading the servers' keys", err)
	}
	defer rows.Close()
	keys := map[string]ServerKey{}
	for rows.Next() {
		var name string
		var k ServerKey
		if err := rows.Scan(&name, &k.Key, &k.Trust); err != nil {
			return nil, s.failed("reading the servers' keys", err)
		}
		keys[name] = k
	}
	if err := rows.Err(); err != nil {
		return nil, s.failed("reading the servers' keys", err)
	}
	return keys, nil
}

// SetServerKey stores the key of a server, in place of the one that was known.
func (s *Store) SetServerKey(name, key, trust string) error {
	return s.write("storing a server's key", func() error {
		_, err := s.exec("INSERT OR REPLACE INTO server (name, key, trust) VALUES (?, ?, ?)", name, key, trust)
		return err
	})
}

// lastTime is the latest time of a message: JSON has no year 10000 in any time
// zone, and a sender may claim one.
const lastTime = 253370764800000 // 9999-01-01

// storedTime is the time of a number of milliseconds, in UTC.
func storedTime(ms int64) time.Time { return time.UnixMilli(min(ms, lastTime)).UTC() }
