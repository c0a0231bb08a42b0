package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/relay"
	"github.com/noipchat/noipchat/daemon/spool"
)

// Daemon answers the control socket.
var _ control.Daemon = (*Daemon)(nil)

// Status implements control.Daemon.
func (d *Daemon) Status(context.Context) (control.Status, error) {
	counters, err := d.gather()
	if err != nil {
		return control.Status{}, err
	}
	sessions, _ := d.host.Count()
	s := control.Status{
		Version: d.o.Version, Server: d.conf().Name, Key: d.key.Public().String(), Fingerprint: d.key.Public().Fingerprint(),
		PID: os.Getpid(), Started: d.started, State: d.o.State,
		Config: d.configState(),
		Users:  len(d.users.List()), Sessions: sessions, Counters: counters, Handoffs: d.past.list(), Notices: d.notices,
	}
	for _, i := range d.interfaces.list() {
		v := control.Interface{Kind: i.Kind, Bind: i.Bind, Public: i.Public, State: control.Listening}
		if i.err != nil {
			v.State, v.Error = control.Failed, i.err.Error()
		}
		s.Interfaces = append(s.Interfaces, v)
	}
	for _, n := range d.spool.Notices() {
		s.Notices = append(s.Notices, n.At.UTC().Format(time.RFC3339)+" "+n.Text)
	}
	s.Notices = append(s.Notices, d.peerNotices()...)
	for _, q := range d.spool.Queues() {
		info := q.Info()
		if info.Messages == 0 {
			continue
		}
		s.Queues.Count++
		s.Queues.Messages += info.Messages
		s.Queues.Bytes += info.Bytes
		s.Queues.OldestSeconds = max(s.Queues.OldestSeconds, info.Oldest.Seconds())
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(d.o.State, &fs); err == nil {
		s.Disk.Free = int64(fs.Bavail) * int64(fs.Bsize)
	}
	s.Disk.Reserve, s.Disk.Full = d.spool.Reserve(), d.spool.Full()
	return s, nil
}

// Users implements control.Daemon.
func (d *Daemon) Users(context.Context) ([]control.User, error) {
	var all []control.User
	for _, u := range d.users.List() {
		all = append(all, d.user(u))
	}
	return all, nil
}

// User implements control.Daemon.
func (d *Daemon) User(_ context.Context, name string) (control.User, error) {
	u, ok := d.users.Show(name)
	if !ok {
		return control.User{}, noUser(name)
	}
	return d.user(u), nil
}

func noUser(name string) error { return fmt.Errorf("user %s: %w", name, control.ErrNotFound) }

func (d *Daemon) user(u identity.User) control.User {
	v := control.User{Name: u.Name, Address: u.Address, Disabled: u.Disabled, Created: u.Created}
	for _, dev := range u.Devices {
		v.Devices = append(v.Devices, control.Device{
			ID: dev.ID, Label: dev.Label, Fingerprint: dev.Key.Fingerprint(), Created: dev.Created, Seen: dev.Seen,
			Online: d.host.Online(u.Address, dev.ID), Suspended: dev.Suspended,
		})
	}
	return v
}

// AddUser implements control.Daemon.
func (d *Daemon) AddUser(ctx context.Context, name, password string) (control.User, error) {
	if err := d.users.Add(ctx, name, password); err != nil {
		return control.User{}, err
	}
	d.host.Refresh(name)
	return d.User(ctx, name)
}

// SetPassword implements control.Daemon.
func (d *Daemon) SetPassword(ctx context.Context, name, password string) error {
	return d.known(name, d.users.SetPassword(ctx, name, password))
}

// DisableUser implements control.Daemon.
func (d *Daemon) DisableUser(_ context.Context, name string, disabled bool) error {
	defer d.host.Refresh(name)
	return d.known(name, d.users.Disable(name, disabled))
}

// RemoveUser implements control.Daemon. What waits for the user bounces: nobody
// who takes the name later may read it.
func (d *Daemon) RemoveUser(ctx context.Context, name string) error {
	err := d.users.Remove(name)
	d.host.Refresh(name)
	if err != nil {
		return d.known(name, err)
	}
	return d.bounceAll(ctx, message.Join(name, d.conf().Name))
}

// RemoveDevice implements control.Daemon.
func (d *Daemon) RemoveDevice(_ context.Context, name string, device message.DeviceID) error {
	defer d.host.Refresh(name)
	return d.known(name, d.users.RemoveDevice(name, device))
}

// bounceAll empties the queues of a user whom the relay doesn't know any more. What
// his sessions had in hand is on its way to disk, and is waited for.
func (d *Daemon) bounceAll(ctx context.Context, user message.Address) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	no := message.Refuse(message.CodeNoUser, "%s has no user %s any more", d.conf().Name, user.User())
	for {
		var turn spool.Turn
		var l relay.Ledger
		left := 0
		for _, q := range d.spool.Queues() {
			if relay.Destination(q.Name()) != string(user) {
				continue
			}
			q.Clear(func(e *spool.Entry) { d.relay.Bounce(&turn, &l, q, e, message.Refused, no) })
			left += q.Info().Messages
		}
		d.relay.Close(&turn, &l)
		turn.Run()
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is removed, but %d messages for him are still here, and expire in time", user, left)
		case <-time.After(5 * time.Millisecond): // a sync of the journal
		}
	}
}

// known makes what identity says of a user that isn't there an ErrNotFound.
func (d *Daemon) known(name string, err error) error {
	var no *message.Refusal
	if errors.As(err, &no) && no.Code == message.CodeNoUser {
		return noUser(name)
	}
	return err
}

// Invites implements control.Daemon.
func (d *Daemon) Invites(context.Context) ([]control.Invite, error) {
	var all []control.Invite
	for _, i := range d.users.Invites() {
		all = append(all, control.Invite{ID: i.ID, Expires: i.Expires, Uses: i.Uses, User: i.User})
	}
	return all, nil
}

// Invite implements control.Daemon.
func (d *Daemon) Invite(_ context.Context, r control.InviteRequest) (control.Invite, error) {
	public := d.interfaces.public()
	if len(public) == 0 {
		return control.Invite{}, message.Refuse(message.CodeInvalid, "no interface has an address to tell: set public in %s", d.o.Config)
	}
	valid := time.Duration(r.ValidSeconds) * time.Second
	token, err := d.users.Invite(identity.InviteOptions{User: r.User, ValidFor: valid, Uses: r.Uses})
	if err != nil {
		return control.Invite{}, err
	}
	id, err := identity.InviteID(token)
	if err != nil {
		return control.Invite{}, err
	}
	line := identity.Line{Server: d.conf().Name, Addresses: public[:min(len(public), identity.MaxAddresses)], Key: d.key.Public(), User: r.User, Invite: token}
	return control.Invite{ID: id, Line: line.String(), Expires: time.Now().Add(valid), Uses: r.Uses, User: r.User}, nil
}

// RevokeInvite implements control.Daemon.
func (d *Daemon) RevokeInvite(_ context.Context, id string) error { return d.users.RevokeInvite(id) }

// Sessions implements control.Daemon.
func (d *Daemon) Sessions(context.Context) ([]control.Session, error) {
	var all []control.Session
	for _, i := range d.host.Sessions() {
		all = append(all, control.Session{
			ID: strconv.FormatUint(i.ID, 10), User: i.User, Device: i.Device, Remote: i.Remote, Kind: i.Kind, Since: i.Since,
			BytesIn: int64(i.Read), BytesOut: int64(i.Written),
			Sent: int64(i.Traffic.Submitted), Received: int64(i.Traffic.Acked), Waiting: i.Waits,
		})
	}
	return all, nil
}

// CloseSession implements control.Daemon.
func (d *Daemon) CloseSession(_ context.Context, id string) error {
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil || !d.host.End(n, message.Defer(message.CodeNotAllowed, 0, "an admin closed the session")) {
		return fmt.Errorf("session %s: %w", id, control.ErrNotFound)
	}
	return nil
}

// Queues implements control.Daemon.
func (d *Daemon) Queues(context.Context) ([]control.Queue, error) {
	var all []control.Queue
	for _, q := range d.spool.Queues() {
		i := q.Info()
		if i.Messages == 0 {
			continue
		}
		all = append(all, control.Queue{
			Name: i.Name, Messages: i.Messages, Bytes: i.Bytes, OldestSeconds: i.Oldest.Seconds(), InHand: i.InHand, Online: i.Pumped,
			Suspended: d.suspended(i.Name),
		})
	}
	return all, nil
}

// suspended tells whether a queue is a suspended device's.
func (d *Daemon) suspended(queue string) bool {
	user, device, _ := strings.Cut(queue, "/")
	u, _ := d.users.Show(message.Address(user).User())
	return slices.ContainsFunc(u.Devices, func(d identity.Device) bool { return d.Suspended != "" && d.ID.String() == device })
}

// Queue implements control.Daemon. The queues of a user's devices are one list, and
// an After that is in none of them begins it anew.
func (d *Daemon) Queue(_ context.Context, p control.QueuePage) ([]control.QueueItem, error) {
	queues := d.queuesOf(p.Name)
	if len(queues) == 0 {
		return nil, fmt.Errorf("queue %s: %w", p.Name, control.ErrNotFound)
	}
	if i := slices.IndexFunc(queues, func(q *spool.Queue) bool { _, _, ok := q.Since(p.After); return ok }); i > 0 {
		queues = queues[i:]
	}
	var page []control.QueueItem
	for _, q := range queues {
		for _, i := range q.Items(p.After, p.Limit-len(page)) {
			page = append(page, item(i))
		}
		if len(page) == p.Limit {
			break
		}
	}
	return page, nil
}

// queuesOf returns the queue of this name, or those of the user's devices.
func (d *Daemon) queuesOf(name string) []*spool.Queue {
	return slices.DeleteFunc(d.spool.Queues(), func(q *spool.Queue) bool {
		return q.Name() != name && relay.Destination(q.Name()) != name
	})
}

func item(i spool.Item) control.QueueItem {
	v := control.QueueItem{
		ID: i.ID, Bytes: int64(i.Bytes), AgeSeconds: i.Age.Seconds(), ExpiresSeconds: (i.Life - i.Age).Seconds(),
		Priority: [...]string{"urgent", "normal", "bulk"}[i.Priority],
		State:    map[spool.Where]string{spool.InHand: "in hand", spool.OnDisk: "on disk", spool.UnderWay: "under way"}[i.Where],
	}
	var e message.Envelope
	if envelope := message.EnvelopeOf(i.Envelope); e.Parse(envelope) == nil {
		v.From, v.Kind = e.From, e.Kind.String()
		if v.ID == (message.ID{}) {
			v.ID = message.IDOf(envelope)
		}
	}
	return v
}

// RemoveFromQueue implements control.Daemon.
func (d *Daemon) RemoveFromQueue(_ context.Context, name string, ids []message.ID) (removed int, err error) {
	queues := d.queuesOf(name)
	if len(queues) == 0 {
		return 0, fmt.Errorf("queue %s: %w", name, control.ErrNotFound)
	}
	var turn spool.Turn
	var l relay.Ledger
	no := message.Refuse(message.CodeRemoved, "an admin of %s removed it", d.conf().Name)
	for _, q := range queues {
		removed += q.Remove(ids, func(e *spool.Entry) { d.relay.Bounce(&turn, &l, q, e, message.Refused, no) })
	}
	d.relay.Close(&turn, &l)
	turn.Run()
	return removed, nil
}

// RetryQueue implements control.Daemon. A peer for which nothing waits is dialled too.
func (d *Daemon) RetryQueue(_ context.Context, name string) error {
	queues := d.queuesOf(name)
	if len(queues) == 0 && !slices.ContainsFunc(d.conf().Peers, func(p config.Peer) bool { return p.Name == name }) {
		return fmt.Errorf("queue %s: %w", name, control.ErrNotFound)
	}
	d.federation.Retry(name)
	var turn spool.Turn
	for _, q := range queues {
		q.WakeAll(&turn)
		d.federation.Retry(relay.Destination(q.Name()))
	}
	turn.Run()
	return nil
}

// Trace implements control.Daemon: what happened here to a message that was on
// this server's disk, came from another server or was passed on, and where it waits. What
// went from hand to hand between two devices here has left no trace: its sender knows.
func (d *Daemon) Trace(_ context.Context, id message.ID) (control.Trace, error) {
	t := control.Trace{ID: id}
	for _, q := range d.spool.Queues() {
		if at, raw, ok := q.Since(id); ok {
			passage, _ := message.Split(raw)
			e := control.TraceEvent{At: at, Server: d.conf().Name, Event: "held", Receiver: message.Address(relay.Destination(q.Name())), Detail: "waits in queue " + q.Name(), Path: passage.Path.Unpack()}
			if len(e.Path) > 1 {
				e.Detail += ", came by " + e.Path.String()
			}
			t.Events = append(t.Events, e)
		}
	}
	for _, e := range d.relay.Trail(id) {
		event := control.TraceEvent{At: e.At, Server: d.conf().Name, Event: e.State.String(), Receiver: e.Receiver, Detail: e.Reason, Path: e.Path.Unpack()}
		switch {
		case e.Via != "":
			event.Event, event.Detail = "passed on", "to "+e.Via
		case len(event.Path) > 0:
			event.Detail = "by " + event.Path.String()
		}
		t.Events = append(t.Events, event)
	}
	if len(t.Events) == 0 {
		return t, fmt.Errorf("message %s: %w here, now or lately; what went from hand to hand between two users of this server leaves no trace", id, control.ErrNotFound)
	}
	slices.SortStableFunc(t.Events, func(a, b control.TraceEvent) int { return a.At.Compare(b.At) })
	return t, nil
}

func (d *Daemon) configState() control.Config {
	l := &d.live
	l.mu.Lock()
	defer l.mu.Unlock()
	c := control.Config{Path: d.o.Config, Loaded: l.loaded}
	if l.err != nil {
		c.LastError, c.LastErrorAt = l.err.Error(), l.errAt
	}
	if l.timer != nil {
		c.ReturnsAt = l.backAt
	}
	return c
}

// Metrics implements control.Daemon.
func (d *Daemon) Metrics() http.Handler { return d.metrics }
