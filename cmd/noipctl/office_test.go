package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
)

// office is a Daemon that keeps its users, sessions, queues and invitations in
// memory. It has alice, whose device has an evil label, and bob, for whom three
// messages wait; server2, which is up, server3, which has shown another key, and two
// servers that call themselves server4 and wait.
type office struct {
	mu        sync.Mutex
	users     []control.User
	passwords map[string]string
	invites   []control.Invite
	invited   int // so far
	sessions  []control.Session
	waiting   []control.QueueItem // bob's
	peers     []control.Peer
	handoffs  []control.Handoff
	config    string // path of the configuration; where that is a file, Reload takes it
}

var _ control.Daemon = (*office)(nil)

const (
	bobsQueue = "bob@server1/0123456789abcdef"
	evil      = "phone\x1b]0;gone\x07\u202egpj\nhint: rm -rf /\x9b\u009b2J"
)

func serverKey(n byte) identity.PublicKey { return identity.KeyFromSeed([32]byte{n}).Public() }

func newOffice(config string) *office {
	long := time.Now().Add(-80 * time.Hour)
	device := control.Device{ID: 0x0123456789abcdef, Label: evil, Fingerprint: "1a2b 3c4d", Created: long, Seen: time.Now(), Online: true}
	o := &office{
		config: config,
		peers: []control.Peer{
			{Name: "server2", Standing: "pinned", Origin: config + ":5", Reaches: control.List[string]{"server9"},
				Links: control.List[control.Link]{
					{Kind: "tcp", Local: "192.168.1.10", Remote: "198.51.100.7:10001", TimeoutSeconds: 15, Cost: 10},
					{Kind: "exec", Command: control.List[string]{"ssh", "server2", evil}, Cost: 50},
				},
				State: control.Up, Kind: "tcp", Remote: "198.51.100.7:10001", Cost: 10, Since: long, RTTSeconds: 0.0125,
				BytesIn: 2048, BytesOut: 3 << 20, Sent: 12, Received: 34, Messages: 3, Bytes: 900, OldestSeconds: 7200},
			{Name: "server3", Standing: "first seen", Trusted: long, RefusedFingerprint: serverKey(9).Fingerprint(), RefusedAt: long,
				State: control.Down, Error: "connection refused" + evil, Next: time.Now().Add(time.Hour)},
			{Name: "server4", Standing: "waiting", Trusted: long, State: control.Down},
			{Name: "server4", Standing: "waiting", Trusted: long, State: control.Down},
		},
		users: []control.User{
			{Name: "alice", Address: "alice@server1", Created: long, Devices: control.List[control.Device]{device}},
			{Name: "bob", Address: "bob@server1", Created: long, Disabled: true},
		},
		passwords: make(map[string]string),
		sessions: []control.Session{{ID: "17", User: "alice@server1", Device: device.ID, Remote: "198.51.100.7:4242", Kind: "tcp",
			Since: long, BytesIn: 2048, BytesOut: 3 << 20, Sent: 12, Received: 34, Waiting: 5}},
	}
	for i := range o.peers {
		key := serverKey(byte(i + 2))
		o.peers[i].Key, o.peers[i].Fingerprint = key.String(), key.Fingerprint()
	}
	for i := range 3 {
		o.waiting = append(o.waiting, control.QueueItem{ID: message.ID{15: byte(i + 1)}, From: "alice@server1", Kind: "text", Priority: "normal",
			Bytes: 300, AgeSeconds: 7200, ExpiresSeconds: 86400 * 30, State: "on disk"})
	}
	return o
}

func (o *office) find(name string) (*control.User, error) {
	i := slices.IndexFunc(o.users, func(u control.User) bool { return u.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("user %s: %w", name, control.ErrNotFound)
	}
	return &o.users[i], nil
}

func (o *office) Status(context.Context) (control.Status, error) {
	at := time.Now().Add(-3 * time.Hour)
	o.mu.Lock()
	defer o.mu.Unlock()
	return control.Status{
		Version: "0.1.0", Server: "server1", Key: serverKey(1).String(), Fingerprint: serverKey(1).Fingerprint(), PID: 4711, Started: at, State: "/var/lib/noipchat",
		Config: control.Config{Path: o.config, Loaded: at,
			LastError: "noipchat.toml:3: unknown key \x1b[31mnmae\nnoipchat.toml:9: no such address", LastErrorAt: time.Now()},
		Interfaces: control.List[control.Interface]{
			{Kind: "tcp", Bind: "192.168.1.10:10001", Public: control.List[string]{"203.0.113.5:10001"}, State: control.Listening},
			{Kind: "tcp", Bind: "[::1]:80", State: control.Failed, Error: "permission denied"},
		},
		Users: len(o.users), Sessions: len(o.sessions),
		Queues:   control.QueueSum{Count: 1, Messages: 3, Bytes: 900, OldestSeconds: 7200},
		Disk:     control.Disk{Free: 12 << 30, Reserve: 64 << 20},
		Notices:  control.List[string]{"set aside: spool/refused/7"},
		Counters: map[string]float64{"accepted": 12},
		Handoffs: slices.Clone(o.handoffs),
	}, nil
}

func (o *office) Users(context.Context) ([]control.User, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.users), nil
}

func (o *office) User(_ context.Context, name string) (control.User, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	u, err := o.find(name)
	if err != nil {
		return control.User{}, err
	}
	return *u, nil
}

// AddUser fails in all the ways that there are, by name.
func (o *office) AddUser(_ context.Context, name, password string) (control.User, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch name {
	case "disk":
		return control.User{}, fmt.Errorf("writing user disk: %w", syscall.ENOSPC)
	case "bug":
		return control.User{}, errors.New("index out of range")
	case "full":
		return control.User{}, message.Defer(message.CodeFull, 30*time.Second, "the disk is full")
	case "odd":
		return control.User{}, message.Refuse(message.CodeProtocol, "what?")
	}
	if _, err := o.find(name); err == nil {
		return control.User{}, message.Refuse(message.CodeExists, "there is a user %s", name)
	}
	u := control.User{Name: name, Address: message.Join(name, "server1"), Created: time.Now()}
	o.users = append(o.users, u)
	o.passwords[name] = password
	return u, nil
}

// SetPassword refuses the one that the user has, which shows that it has arrived.
func (o *office) SetPassword(_ context.Context, name, password string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, err := o.find(name); err != nil {
		return err
	}
	if o.passwords[name] == password {
		return message.Refuse(message.CodeInvalid, "that is the password %s has", name)
	}
	o.passwords[name] = password
	return nil
}

func (o *office) DisableUser(_ context.Context, name string, disabled bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	u, err := o.find(name)
	if err == nil {
		u.Disabled = disabled
	}
	return err
}

func (o *office) RemoveUser(_ context.Context, name string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, err := o.find(name)
	o.users = slices.DeleteFunc(o.users, func(u control.User) bool { return u.Name == name })
	return err
}

func (o *office) RemoveDevice(_ context.Context, name string, device message.DeviceID) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	u, err := o.find(name)
	if err == nil {
		u.Devices = slices.DeleteFunc(u.Devices, func(d control.Device) bool { return d.ID == device })
	}
	return err
}

func (o *office) Invites(context.Context) ([]control.Invite, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.invites), nil
}

func (o *office) Invite(_ context.Context, r control.InviteRequest) (control.Invite, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	token := fmt.Sprintf("t%d", o.invited+1)
	o.invited++
	i := control.Invite{
		Line: "noipchat://server1@203.0.113.5:10001/?key=noip1abc&invite=" + token,
		ID:   fmt.Sprintf("0000abc%d", o.invited), Uses: r.Uses, User: r.User,
		Expires: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(r.ValidSeconds) * time.Second),
	}
	kept := i // the line is told once
	kept.Line = ""
	o.invites = append(o.invites, kept)
	return i, nil
}

func (o *office) RevokeInvite(_ context.Context, id string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	before := len(o.invites)
	o.invites = slices.DeleteFunc(o.invites, func(i control.Invite) bool { return i.ID == id })
	if len(o.invites) == before {
		return fmt.Errorf("invitation: %w", control.ErrNotFound)
	}
	return nil
}

func (o *office) Sessions(context.Context) ([]control.Session, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.sessions), nil
}

func (o *office) CloseSession(_ context.Context, id string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	before := len(o.sessions)
	o.sessions = slices.DeleteFunc(o.sessions, func(s control.Session) bool { return s.ID == id })
	if len(o.sessions) == before {
		return fmt.Errorf("session %s: %w", id, control.ErrNotFound)
	}
	return nil
}

func (o *office) Queues(context.Context) ([]control.Queue, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.waiting) == 0 {
		return nil, nil
	}
	return []control.Queue{{Name: bobsQueue, Messages: len(o.waiting), Bytes: 900, OldestSeconds: 7200, InHand: 1, Suspended: true}}, nil
}

func (o *office) Queue(_ context.Context, p control.QueuePage) ([]control.QueueItem, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if p.Name != bobsQueue {
		return nil, fmt.Errorf("queue %s: %w", p.Name, control.ErrNotFound)
	}
	items := o.waiting
	if p.After != (message.ID{}) {
		items = items[1+slices.IndexFunc(items, func(i control.QueueItem) bool { return i.ID == p.After }):]
	}
	return slices.Clone(items[:min(len(items), p.Limit)]), nil
}

func (o *office) RemoveFromQueue(_ context.Context, name string, ids []message.ID) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if name != bobsQueue {
		return 0, fmt.Errorf("queue %s: %w", name, control.ErrNotFound)
	}
	before := len(o.waiting)
	o.waiting = slices.DeleteFunc(o.waiting, func(i control.QueueItem) bool { return slices.Contains(ids, i.ID) })
	return before - len(o.waiting), nil
}

func (o *office) RetryQueue(_ context.Context, name string) error {
	if name != bobsQueue {
		return fmt.Errorf("queue %s: %w", name, control.ErrNotFound)
	}
	return nil
}

func (o *office) Trace(_ context.Context, id message.ID) (control.Trace, error) {
	if id != (message.ID{15: 1}) {
		return control.Trace{ID: id}, nil
	}
	at := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	return control.Trace{ID: id, Events: control.List[control.TraceEvent]{
		{At: at, Server: "server1", Event: "accepted", Detail: "from device 0123456789abcdef"},
		{At: at.Add(time.Second), Server: "server1", Event: "held", Receiver: "bob@server1", Detail: evil},
	}}, nil
}

func (o *office) Peers(context.Context) ([]control.Peer, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.peers), nil
}

func (o *office) TrustPeer(_ context.Context, who string) (control.Peer, error) {
	return o.setStanding(who, "confirmed")
}

func (o *office) DistrustPeer(_ context.Context, name string) (control.Peer, error) {
	return o.setStanding(name, "distrusted")
}

func (o *office) setStanding(who, standing string) (control.Peer, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var found []*control.Peer
	for i, p := range o.peers {
		if p.Name == who || p.Fingerprint == who {
			found = append(found, &o.peers[i])
		}
	}
	switch len(found) {
	case 0:
		return control.Peer{}, fmt.Errorf("server %s: %w", who, control.ErrNotFound)
	case 1:
		found[0].Standing = standing
		return *found[0], nil
	}
	return control.Peer{}, message.Refuse(message.CodeInvalid, "%s has shown 2 keys: say which by its fingerprint", who)
}

func (o *office) Reach(context.Context) ([]control.Reach, error) { return nil, nil }

func (o *office) Routes(context.Context) ([]control.Route, error) {
	if _, err := os.Stat(o.config); err == nil {
		return nil, nil
	}
	return []control.Route{
		{Server: "server5", Fingerprint: serverKey(5).Fingerprint(), Verified: true, Via: "server2", Metric: 20, AgeSeconds: 90},
		{Server: "server9", Via: "server2", Metric: 10, Static: true},
	}, nil
}

// take is Reload of a configuration that is there.
func (o *office) take() (r control.Reloaded, err error) {
	c, err := config.Load(o.config)
	if err != nil {
		return r, fmt.Errorf("%w:\n%w", control.ErrConfig, err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.peers = nil
	for i, p := range c.Peers {
		if p.Key == serverKey(1).String() {
			return r, fmt.Errorf("%w:\nthat is this server's own key", control.ErrConfig)
		}
		o.peers = append(o.peers, control.Peer{Name: p.Name, Key: p.Key, Origin: c.Origin(fmt.Sprintf("peer[%d]", i))})
	}
	return r, nil
}

func (o *office) Reload(_ context.Context, confirm time.Duration) (control.Reloaded, error) {
	if _, err := os.Stat(o.config); err == nil {
		return o.take()
	}
	switch {
	case confirm == time.Hour:
		return control.Reloaded{Changes: control.List[string]{"~ max_hops = 5 (was 10)", evil}, ReturnsAt: time.Now().Add(confirm)}, nil
	case confirm == 2*time.Hour:
		return control.Reloaded{}, nil
	case confirm > 0:
		return control.Reloaded{}, message.Refuse(message.CodeInvalid, "there is nothing to return to")
	}
	return control.Reloaded{}, fmt.Errorf("%w:\n%s", control.ErrConfig, strings.Join([]string{"noipchat.toml:3: unknown key nmae", "noipchat.toml:9: no such address"}, "\n"))
}

func (o *office) ConfirmReload(context.Context) error { return nil }

// Handoff leaves its caller without an answer, as one that succeeds, unless there is no
// good reason.
func (o *office) Handoff(_ context.Context, reason string) error {
	if reason == "none" {
		return fmt.Errorf("%w: the new program with --check: exit status 70", control.ErrHandoff)
	}
	if reason == "mistake" {
		const why = "exit status 78: noipchatd: noipchat.toml:3: unknown key max_hopp; did you mean max_hops?\nhint: correct it, and check all of it with: noipchatd --check"
		o.mu.Lock()
		o.handoffs = append(o.handoffs, control.Handoff{At: time.Now(), From: "0.1.0", Reason: reason, Error: why})
		o.mu.Unlock()
		return fmt.Errorf("%w: %s", control.ErrHandoffConfig, why)
	}
	o.mu.Lock()
	o.handoffs = append(o.handoffs, control.Handoff{At: time.Now(), From: "0.1.0", To: "0.2.0", Sessions: 17, Links: 3, PauseSeconds: 0.0213, Reason: reason + evil})
	o.mu.Unlock()
	panic(http.ErrAbortHandler)
}

func (o *office) Configuration(context.Context) (control.Configuration, error) {
	return control.Configuration{
		Path: "/etc/noipchat/noipchat.toml", Text: "name = \"server1\"\nmax_hops = 7\n[[interface]]\nbind = \"192.0.2.1:10001\"\n",
		Values: control.List[control.ConfigValue]{
			{Key: "name", Value: `"server1"`, Origin: "/etc/noipchat/noipchat.toml:1"},
			{Key: "max_hops", Value: "7", Origin: "default", Hot: true},
		},
	}, nil
}

func (o *office) Metrics() http.Handler { return http.NotFoundHandler() }

// Export is of a server that runs elsewhere.
func (o *office) Export(context.Context, io.Writer) error {
	return message.Defer(message.CodeLater, time.Minute, "another export is under way")
}
