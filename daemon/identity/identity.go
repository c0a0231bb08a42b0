// Package identity knows who is who: our own key, the keys of servers, the users
// of this server with their passwords and devices, and who may become a user.
//
// It opens no connection and ends none: whoever removes or disables a user or a
// device also closes its sessions. It starts no goroutine. Users, Hasher,
// Attempts and Servers are safe for concurrent use.
//
// On disk, below the state directory, each file mode 0600 and written whole:
//
//	key                the seed of this server's key, see LoadOrCreateKey
//	users/alice.json   one user: password hash, devices
//	invites.json       the invitations that are open
//	counters.json      how far each device has counted, see Counters
//	servers.json       keys of other servers, and what an admin said of them, see Servers
//	homes.json         keys of servers that were never met, see Servers.First
package identity

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// Options are what Users needs. A zero field means its default.
type Options struct {
	Hasher       *Hasher          // default: NewHasher(Cost{}, 0)
	Mode         Mode             // who may register, default: Closed
	MaxDevices   int              // of one user, default 16
	MaxUsers     int              // above which nobody can join, admins can still add; default 100,000
	Failures     int              // wrong logins of one account within Window, default 10
	AddressFails int              // and of one address, behind which there may be many people; default 50
	Window       time.Duration    // default 15 minutes
	JoinsPerHour int              // of one address, in open mode; default 10
	Now          func() time.Time // default time.Now
	Log          *slog.Logger     // default: none
	Carried      Carried          // of another image of the process, which had the lock: not read from the disk
}

// maxKeys bounds each of the counters of failures.
const maxKeys = 20_000

func (o *Options) defaults() (err error) {
	if o.Hasher == nil {
		o.Hasher, err = NewHasher(Cost{}, 0)
	}
	positive := func(n *int, otherwise int) {
		if *n <= 0 {
			*n = otherwise
		}
	}
	positive(&o.MaxDevices, 16)
	positive(&o.MaxUsers, 100_000)
	positive(&o.Failures, 10)
	positive(&o.AddressFails, 50)
	positive(&o.JoinsPerHour, 10)
	if o.Window <= 0 {
		o.Window = 15 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return err
}

// User is a copy of what is known of a user.
type User struct {
	Name     string
	Address  message.Address
	Disabled bool
	Created  time.Time
	Devices  []Device // in the order in which they were registered
}

// Device is a copy of what is known of a device.
type Device struct {
	ID      message.DeviceID
	Key     PublicKey
	Label   string // what its user calls it
	Created time.Time
	// Suspended says why nothing is kept for the device any more, until it logs in with
	// the password again; "": it is not suspended.
	Suspended string
	// Seen is its last login; zero: none yet. It is memory: on disk it is as old as
	// the last other change of the user, because a login must not write.
	Seen time.Time
}

// Users holds the users of this server. A change is durable before anybody sees
// it, and everybody sees it when the call returns. If writing fails, nothing is
// changed as far as this process goes; after a restart either may be true.
type Users struct {
	dir, home string
	o         Options
	hasher    *Hasher
	limits    atomic.Pointer[attempts]
	mode      atomic.Uint32

	change sync.Mutex // held by who makes a change, over the disk, before mu

	mu       sync.RWMutex // guards what follows, whose values are replaced, never altered
	accounts map[string]*account
	logins   map[login]*device // those of users that are not disabled
	damaged  map[string]bool   // names of the users whose files can't be read
	invites  []Invite
	lost     error // why invites.json can't be read
	epoch    uint64
}

// Limits are how often somebody may fail, and join; see Options.
type Limits struct {
	Failures, AddressFails, JoinsPerHour int
	Window                               time.Duration
}

// attempts counts by the limits in force.
type attempts struct {
	Limits
	byAddress      *Attempts // failures to prove who one is, and to show a good invitation
	byAccount      *Attempts
	joinsByAddress *Attempts // who joined in open mode
}

// SetLimits puts limits in force, each above 0. If they are others than before,
// counting begins anew.
func (u *Users) SetLimits(l Limits) {
	if now := u.limits.Load(); now != nil && now.Limits == l {
		return
	}
	u.limits.Store(&attempts{
		Limits:         l,
		byAddress:      NewAttempts(l.AddressFails, l.Window, maxKeys),
		byAccount:      NewAttempts(l.Failures, l.Window, maxKeys),
		joinsByAddress: NewAttempts(l.JoinsPerHour, time.Hour, maxKeys),
	})
}

// Tried is what was counted of failures, between two processes.
type Tried struct {
	Address, Account, Joins []Failures
}

// Tried returns what is counted.
func (u *Users) Tried() Tried {
	l, now := u.limits.Load(), u.o.Now()
	return Tried{l.byAddress.Export(now), l.byAccount.Export(now), l.joinsByAddress.Export(now)}
}

// Resume counts on from what another process has returned from Tried, after SetLimits.
func (u *Users) Resume(t Tried) {
	l, now := u.limits.Load(), u.o.Now()
	l.byAddress.Resume(now, t.Address)
	l.byAccount.Resume(now, t.Account)
	l.joinsByAddress.Resume(now, t.Joins)
}

// login is what a device shows. That a user, a device, or its right to log in is
// missing is one and the same thing: it is not in the map.
type login struct {
	user   string
	x25519 [32]byte
}

// account is a user. Except for its devices' seen it is never altered.
type account struct {
	name     string
	password hashed
	epoch    uint64 // another one whenever somebody chose a password
	disabled bool
	created  time.Time
	devices  []*device
}

type device struct {
	Device              // without Seen
	seen   atomic.Int64 // Unix milliseconds, 0: never; shared by all versions of the account
}

func (d *device) copy() Device {
	c := d.Device
	if ms := d.seen.Load(); ms != 0 {
		c.Seen = time.UnixMilli(ms).UTC()
	}
	return c
}

func (u *Users) copy(a *account) User {
	c := User{Name: a.name, Address: message.Join(a.name, u.home), Disabled: a.disabled, Created: a.created,
		Devices: make([]Device, len(a.devices))}
	for i, d := range a.devices {
		c.Devices[i] = d.copy()
	}
	return c
}

// List returns all users in the order of their names.
func (u *Users) List() []User {
	u.mu.RLock()
	defer u.mu.RUnlock()
	list := make([]User, 0, len(u.accounts))
	for _, name := range slices.Sorted(maps.Keys(u.accounts)) {
		list = append(list, u.copy(u.accounts[name]))
	}
	return list
}

// Show returns one user.
func (u *Users) Show(name string) (User, bool) {
	a := u.account(name)
	if a == nil {
		return User{}, false
	}
	return u.copy(a), true
}

// Name returns the user's name of "alice" and, where home is server1, of
// "alice@server1".
func (u *Users) Name(s string) (string, error) {
	name, server, found := strings.Cut(s, "@")
	if err := message.CheckName(name); err != nil {
		return "", fmt.Errorf("user: %w", err)
	}
	if found && server != u.home {
		return "", fmt.Errorf("user %s: the home of its users is this server, %s, not %.63q", name, u.home, server)
	}
	return name, nil
}

// Device returns the user's device that has this X25519 key, and notes that it
// was seen. The caller knows that the other side holds the key. An unknown user,
// an unknown device and a disabled user are the same *message.Refusal, at the
// same cost: one look into a map. A suspended device is told that it is.
func (u *Users) Device(name string, x25519 []byte) (Device, error) {
	if len(x25519) != 32 {
		return Device{}, badLogin()
	}
	u.mu.RLock()
	d := u.logins[login{name, [32]byte(x25519)}]
	u.mu.RUnlock()
	switch {
	case d == nil:
		return Device{}, badLogin()
	case d.Suspended != "":
		return Device{}, message.Refuse(message.CodeSuspended, "this device is suspended: %s", d.Suspended)
	}
	return u.saw(d), nil
}

// saw notes a login.
func (u *Users) saw(d *device) Device {
	d.seen.Store(u.o.Now().UnixMilli())
	return d.copy()
}

func badLogin() *message.Refusal {
	return message.Refuse(message.CodeBadLogin, "user, password or device is wrong")
}

func (u *Users) account(name string) *account {
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.accounts[name]
}

// publish makes an account visible in place of the one before; nil removes it.
func (u *Users) publish(name string, a *account) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.publishLocked(name, a)
}

func (u *Users) publishLocked(name string, a *account) {
	if old := u.accounts[name]; old != nil {
		for _, d := range old.devices {
			delete(u.logins, login{name, d.Key.X25519()})
		}
	}
	delete(u.damaged, name)
	if a == nil {
		delete(u.accounts, name)
		return
	}
	u.accounts[name] = a
	if a.disabled {
		return
	}
	for _, d := range a.devices {
		u.logins[login{name, d.Key.X25519()}] = d
	}
}

// nextEpoch numbers passwords, so that whoever verified one without the lock can
// see whether it is still the one.
func (u *Users) nextEpoch() uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.epoch++
	return u.epoch
}
