package session

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/pump"
	"github.com/noipchat/noipchat/daemon/relay"
	"github.com/noipchat/noipchat/daemon/spool"
	"github.com/noipchat/noipchat/daemon/transport"
	"github.com/noipchat/noipchat/daemon/wire"
)

// Options are a host's measures; a zero means the default.
type Options struct {
	Window    wire.Window   // what a device may have under way (1,024 envelopes, 4 MiB)
	Idle      time.Duration // a session that is silent so long is ended (15 min); the device pings before
	Handshake time.Duration // how long a handshake and login may take, at least (10 s)
	Pending   int           // connections that have not logged in (1,024); one more, and the oldest goes
	Sessions  int           // that are logged in (20,000)
	Start     time.Time     // what silences are counted from (now); earlier if sessions are older: see Resume
	// Links takes in servers; nil: there are none.
	Links func(c *wire.Conn, hello wire.ClientHello, source string)
	Log   *slog.Logger
}

func (o *Options) setDefaults() {
	if o.Window.Count == 0 {
		o.Window = wire.Window{Count: 1024, Bytes: 4 << 20}
	}
	if o.Idle == 0 {
		o.Idle = 15 * time.Minute
	}
	if o.Handshake == 0 {
		o.Handshake = 10 * time.Second
	}
	if o.Pending == 0 {
		o.Pending = 1024
	}
	if o.Sessions == 0 {
		o.Sessions = 20000
	}
	if o.Start.IsZero() {
		o.Start = time.Now()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Host takes in devices and keeps their sessions.
type Host struct {
	// fixed
	home     string
	key      identity.Key
	users    *identity.Users
	counters *identity.Counters
	relay    *relay.Relay
	sp       *spool.Spool
	o        Options
	start    time.Time

	public atomic.Pointer[[]string]
	stats  Stats
	lastID atomic.Uint64
	parts  partsKept
	wg     sync.WaitGroup

	mu       sync.Mutex // guards what follows
	closed   *message.Refusal
	paused   chan struct{} // closed by Reclaim: nobody begins a session before; nil: there is no pause
	empty    chan struct{} // closed when nobody is pending any more; nil: nobody waits for that
	pending  map[transport.Conn]arrival
	arrivals uint64
	bySource map[string]int
	sessions map[deviceKey]*session
	idle     map[deviceKey]bool // being suspended

	pendingMax, sessionsMax int
}

type arrival struct {
	source string
	number uint64
}

type deviceKey struct {
	user   message.Address
	device message.DeviceID
}

// Stats are counters since the start.
type Stats struct {
	Connections   atomic.Uint64
	Handshakes    atomic.Uint64 // that went well
	HandshakeFail atomic.Uint64 // but for those that only asked for the key
	Evicted       atomic.Uint64 // had not logged in when others came
	Logins        atomic.Uint64
	LoginFail     [64]atomic.Uint64 // by code
	Protocol      atomic.Uint64     // sessions that broke the protocol
}

// New makes a host. Nothing runs until Serve.
func New(home string, key identity.Key, users *identity.Users, counters *identity.Counters, r *relay.Relay, sp *spool.Spool, o Options) *Host {
	o.setDefaults()
	h := &Host{
		home: home, key: key, users: users, counters: counters, relay: r, sp: sp, o: o, start: o.Start,
		pending: map[transport.Conn]arrival{}, bySource: map[string]int{}, sessions: map[deviceKey]*session{}, idle: map[deviceKey]bool{},
		pendingMax: o.Pending, sessionsMax: o.Sessions,
	}
	h.public.Store(new([]string))
	r.OnOverfull(h.suspend)
	return h
}

// SetPublic sets the addresses that devices are told.
func (h *Host) SetPublic(addresses []string) { h.public.Store(&addresses) }

// SetLimits changes two of the Options: how many connections may not have logged in,
// and how many sessions there may be. Those that there are stay.
func (h *Host) SetLimits(pending, sessions int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pendingMax, h.sessionsMax = pending, sessions
}

// Stats returns the counters.
func (h *Host) Stats() *Stats { return &h.stats }

func (h *Host) now() int64 { return int64(time.Since(h.start)) }

// Serve accepts from l until it is closed, or has a deadline in the past. Connections
// go on after that.
func (h *Host) Serve(l transport.Listener) error {
	backoff := 5 * time.Millisecond
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil { // too many open files, say: others may end
			h.o.Log.Warn("accepting a connection", "address", l.Addr().String(), "error", err)
			time.Sleep(backoff)
			backoff = min(2*backoff, time.Second)
			continue
		}
		backoff = 5 * time.Millisecond
		h.stats.Connections.Add(1)
		// Here and not in its goroutine: those run in any order, and the newest would pass for the oldest.
		source := sourceOf(conn)
		if !h.arrive(conn, source) {
			conn.Close()
			continue
		}
		h.wg.Add(1)
		go func() {
			defer h.wg.Done()
			h.admit(conn, source)
		}()
	}
}

// admit shakes hands with a connection that has arrived, and logs in. A session's reader is a goroutine of its own,
// because the handshake has made this one's stack large.
func (h *Host) admit(conn transport.Conn, source string) {
	defer h.depart(conn)
	conn.SetDeadline(time.Now().Add(conn.Properties().Patience(h.o.Handshake, 400)))
	c, hello, err := wire.Answer(conn, h.key, wire.ServerHello{
		Name: h.home, Public: *h.public.Load(), Window: h.o.Window, Idle: uint64(h.o.Idle / time.Second),
	})
	if errors.Is(err, wire.ErrLeft) { // before its first login, mostly, to have the key confirmed
		h.o.Log.Info("a connection asked for this server's key", "source", source)
		conn.Close()
		return
	}
	if err != nil {
		h.stats.HandshakeFail.Add(1)
		h.o.Log.Info("a connection without a handshake", "source", source, "reason", reason(err))
		conn.Close()
		return
	}
	h.stats.Handshakes.Add(1)
	if hello.Method == wire.ByLink {
		conn.SetDeadline(time.Time{})
		if h.o.Links == nil {
			h.refuse(c, hello, source, message.Refuse(message.CodeClosed, "this server has no links to others"))
			return
		}
		h.o.Links(c, hello, source)
		return
	}
	device, err := h.login(hello, source)
	if err != nil {
		h.refuse(c, hello, source, err)
		return
	}
	conn.SetDeadline(time.Time{})
	h.begin(c, hello, device, source)
}

// arrive notes a connection that has not logged in. If there are too many, the
// oldest goes: of the same source if that has more than its share. Who logs in
// is done within milliseconds and is never the oldest for long.
func (h *Host) arrive(conn transport.Conn, source string) bool {
	h.mu.Lock()
	if h.closed != nil {
		h.mu.Unlock()
		return false
	}
	var victim transport.Conn
	if share := max(h.pendingMax/4, 1); h.bySource[source] >= share {
		victim = h.oldestLocked(source)
	} else if len(h.pending) >= h.pendingMax {
		victim = h.oldestLocked("")
	}
	if victim != nil {
		h.departLocked(victim)
	}
	h.arrivals++
	h.pending[conn] = arrival{source, h.arrivals}
	h.bySource[source]++
	h.mu.Unlock()
	if victim != nil {
		h.stats.Evicted.Add(1)
		victim.Close()
	}
	return true
}

func (h *Host) oldestLocked(source string) (oldest transport.Conn) {
	first := h.arrivals + 1
	for c, a := range h.pending {
		if (source == "" || a.source == source) && a.number < first {
			oldest, first = c, a.number
		}
	}
	return oldest
}

func (h *Host) depart(conn transport.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.departLocked(conn)
}

func (h *Host) departLocked(conn transport.Conn) {
	a, ok := h.pending[conn]
	if !ok {
		return
	}
	delete(h.pending, conn)
	if len(h.pending) == 0 && h.empty != nil {
		close(h.empty)
		h.empty = nil
	}
	if h.bySource[a.source]--; h.bySource[a.source] == 0 {
		delete(h.bySource, a.source)
	}
}

func (h *Host) login(hello wire.ClientHello, source string) (identity.Device, error) {
	ctx, cancel := context.WithTimeout(context.Background(), h.o.Handshake)
	defer cancel()
	switch hello.Method {
	case wire.ByDevice:
		d, err := h.users.Device(hello.User, hello.Key[:32])
		if err == nil && d.Key != hello.Key && !hello.Half() { // the half that the handshake doesn't prove
			err = message.Refuse(message.CodeBadLogin, "the key is not the device's")
		}
		return d, err
	case wire.ByPassword:
		return h.users.Enrol(ctx, identity.Enrolment{
			User: hello.User, Password: hello.Password, Key: hello.Key, Label: hello.Label, Source: source,
		})
	}
	return h.users.Join(ctx, identity.Joining{
		Invite: hello.Invite, User: hello.User, Password: hello.Password, Key: hello.Key, Label: hello.Label, Source: source,
	})
}

// refuse answers a login with no, and goes.
func (h *Host) refuse(c *wire.Conn, hello wire.ClientHello, source string, err error) {
	var no *message.Refusal
	if !errors.As(err, &no) {
		h.o.Log.Error("a login failed here", "user", hello.User, "source", source, "error", err)
		no = message.Defer(message.CodeLater, time.Minute, "the server could not do it; its log says why")
	}
	h.stats.LoginFail[no.Code&63].Add(1)
	h.o.Log.Info("a login was refused", "user", hello.User, "source", source, "agent", hello.Agent, "reason", no.Error())
	c.Flush(&once{wire.AppendWelcome(nil, wire.Welcome{No: no})})
	c.Close()
}

// once is a Source of some bytes.
type once struct{ b []byte }

// Fill implements wire.Source.
func (o *once) Fill(b []byte, _ int) ([]byte, bool) {
	b = append(b, o.b...)
	o.b = nil
	return b, false
}

// begin makes the session and starts its reader.
func (h *Host) begin(c *wire.Conn, hello wire.ClientHello, device identity.Device, source string) {
	user := message.Join(hello.User, h.home)
	h.refresh(hello.User)
	key := deviceKey{user, device.ID}
	have := h.resume(c, key)
	s := &session{
		host: h, id: h.lastID.Add(1), user: user, device: device.ID, agent: hello.Agent, since: time.Now(),
		count: h.counters.Device(device.ID), reading: make(chan struct{}),
	}
	queues := []*spool.Queue{h.sp.Queue(relay.QueueName(user, device.ID))}
	if heir, strays := h.relay.Heir(user); heir == device.ID {
		queues = append(strays, queues...)
	}
	waiting := uint64(0)
	for _, q := range queues {
		waiting += uint64(q.Info().Messages)
	}
	counter, sure := s.count.Mark()
	s.Flow = pump.New(c, s, pump.Options{
		Relay: h.relay, Spool: h.sp, Ours: h.o.Window, Theirs: hello.Window, Start: h.start, Queues: queues,
		Greeting: wire.AppendWelcome(nil, wire.Welcome{Device: device.ID, Waiting: waiting, Counter: counter, Unsure: !sure, Have: have}),
	})
	if c.Slow() {
		s.over = make(chan struct{})
	}

	h.mu.Lock()
	for h.paused != nil {
		paused := h.paused
		h.mu.Unlock()
		<-paused
		h.mu.Lock()
	}
	if h.closed != nil || len(h.sessions) >= h.sessionsMax && h.sessions[key] == nil {
		why := h.closed
		h.mu.Unlock()
		if why == nil {
			why = message.Defer(message.CodeLater, time.Minute, "the server has as many sessions as it takes")
		}
		h.refuse(c, hello, source, why)
		return
	}
	before := h.sessions[key]
	h.sessions[key] = s
	h.mu.Unlock()
	if before != nil {
		before.End(replaced())
	}
	h.attach(s, key)
	h.endUnknown(hello.User, s) // what has happened since the login was checked
	h.stats.Logins.Add(1)
	h.o.Log.Debug("a session begins", "session", s.id, "user", string(user), "device", device.ID.String(), "source", source, "agent", hello.Agent)
	h.read(s)
}

// resume gives a connection over a slow line what an earlier one has left. That may
// still be up as far as this side knows; it is ended, to see what has come by it.
func (h *Host) resume(c *wire.Conn, key deviceKey) []wire.Have {
	if !c.Slow() {
		return nil
	}
	h.mu.Lock()
	before := h.sessions[key]
	h.mu.Unlock()
	if before != nil && before.over != nil {
		before.End(replaced())
		<-before.over
	}
	return c.Keep(h.parts.take(key))
}

func replaced() *message.Refusal {
	return message.Refuse(message.CodeReplaced, "the same device has logged in again")
}

// attach makes s the pump of its queues, unless the same device has logged in
// again meanwhile.
func (h *Host) attach(s *session, key deviceKey, more ...*spool.Queue) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sessions[key] == s {
		s.Attach(more...)
	}
}

// inherit has the session of a user's heir, if there is one, take over what waits
// for no device any more.
func (h *Host) inherit(user message.Address) {
	heir, strays := h.relay.Heir(user)
	key := deviceKey{user, heir}
	h.mu.Lock()
	s := h.sessions[key]
	h.mu.Unlock()
	if s == nil || len(strays) == 0 {
		return
	}
	h.attach(s, key, strays...)
	var turn spool.Turn
	turn.Wake(s)
	turn.Run()
}

// read starts a session's reader.
func (h *Host) read(s *session) {
	h.wg.Add(1)
	go h.converse(s, s.reading)
}

// converse is a session's goroutine.
func (h *Host) converse(s *session, reading chan<- struct{}) {
	defer h.wg.Done()
	defer close(reading)
	err := s.Run()
	if errors.Is(err, pump.ErrPaused) {
		return
	}
	key, source := deviceKey{s.user, s.device}, sourceOf(s.Conn().Transport())
	if s.over != nil {
		h.parts.put(key, s.Conn().Parts())
		close(s.over)
	}
	why := message.Defer(message.CodeIdle, 0, "the connection has ended")
	if errors.Is(err, errRemovedItself) {
		why = message.Refuse(message.CodeRemoved, "this device is no more")
	} else if errors.Is(err, wire.ErrProtocol) || errors.Is(err, message.ErrMalformed) {
		h.stats.Protocol.Add(1)
		why = message.Refuse(message.CodeProtocol, "%s", wire.Clean(err.Error(), message.MaxReason))
		h.o.Log.Warn("a device broke the protocol", "session", s.id, "user", string(s.user), "device", s.device.String(), "source", source, "reason", err)
	}
	s.End(why)
	h.mu.Lock()
	if h.sessions[key] == s {
		delete(h.sessions, key)
	}
	h.mu.Unlock()
	h.inherit(s.user) // its queue, if the device was removed
	h.o.Log.Debug("a session ends", "session", s.id, "user", string(s.user), "reason", reason(err), "because", s.Ended().Error())
}

// refresh tells the relay of a user's devices as they are now.
func (h *Host) refresh(name string) {
	account, ok := h.users.Show(name)
	if !ok {
		h.relay.RemoveUser(message.Join(name, h.home))
		return
	}
	var active, suspended []message.DeviceID
	for _, d := range account.Devices {
		if d.Suspended == "" {
			active = append(active, d.ID)
		} else {
			suspended = append(suspended, d.ID)
		}
	}
	h.relay.SetUser(message.Join(name, h.home), active, suspended)
}

// Refresh is to be called after a user was made, changed or removed: sessions of
// devices that are no more are ended.
func (h *Host) Refresh(name string) {
	h.refresh(name)
	user := message.Join(name, h.home)
	all := h.snapshot()
	h.endUnknown(name, slices.DeleteFunc(all, func(s *session) bool { return s.user != user })...)
	h.inherit(user)
}

// endUnknown ends those sessions of a user whose device is no more.
func (h *Host) endUnknown(name string, sessions ...*session) {
	account, ok := h.users.Show(name)
	for _, s := range sessions {
		i := slices.IndexFunc(account.Devices, func(d identity.Device) bool { return d.ID == s.device })
		switch {
		case !ok || account.Disabled || i < 0:
			s.End(message.Refuse(message.CodeRemoved, "the account or this device is no more"))
		case account.Devices[i].Suspended != "":
			s.End(message.Refuse(message.CodeSuspended, "this device is suspended: %s", account.Devices[i].Suspended))
		}
	}
}

func (h *Host) snapshot() []*session {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*session, 0, len(h.sessions))
	for _, s := range h.sessions {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *session) int { return int(int64(a.id - b.id)) })
	return all
}

// Watch ends sessions that have been silent too long, until ctx is done. Quiet lines
// may be silent for ever.
func (h *Host) Watch(ctx context.Context) error {
	period := max(h.o.Idle/8, time.Second)
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		limit := h.now() - int64(h.o.Idle)
		for _, s := range h.snapshot() {
			_, wrote := s.Conn().Bytes()
			if wrote != s.wrote { // data is under way, and may take long
				s.wrote = wrote
				continue
			}
			if s.Heard() < limit && !s.Conn().Transport().Properties().Quiet() {
				s.End(message.Defer(message.CodeIdle, 0, "nothing was heard for %v", h.o.Idle))
			}
		}
	}
}

// Close ends all sessions and handshakes, tells devices why, and returns when
// their goroutines have ended. Listeners must have been closed.
func (h *Host) Close(why *message.Refusal) {
	h.mu.Lock()
	h.closed = why
	pending := make([]transport.Conn, 0, len(h.pending))
	for c := range h.pending {
		pending = append(pending, c)
	}
	h.mu.Unlock()
	for _, c := range pending {
		c.Close()
	}
	for _, s := range h.snapshot() {
		s.End(why)
	}
	h.wg.Wait()
}

// Info describes a session.
type Info struct {
	ID             uint64
	User           message.Address
	Device         message.DeviceID
	Agent          string
	Kind, Remote   string // of its transport
	Since          time.Time
	Silent         time.Duration
	Read, Written  uint64 // bytes
	Traffic        pump.Traffic
	Unacked, Waits int // envelopes given and not acked; waiting in its queues
}

// Sessions describes all sessions, oldest first.
func (h *Host) Sessions() []Info {
	var all []Info
	for _, s := range h.snapshot() {
		remote := s.Conn().Transport().RemoteAddr()
		i := Info{
			ID: s.id, User: s.user, Device: s.device, Agent: s.agent, Kind: remote.Network(), Remote: remote.String(),
			Since: s.since, Silent: time.Duration(h.now() - s.Heard()),
		}
		i.Read, i.Written = s.Conn().Bytes()
		i.Traffic, i.Unacked = s.Totals()
		for _, q := range s.Queues() {
			i.Waits += q.Info().Messages
		}
		all = append(all, i)
	}
	return all
}

// Count returns the number of sessions, and of connections that have not logged in.
func (h *Host) Count() (sessions, pending int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.sessions), len(h.pending)
}

// Online tells whether a device has a session.
func (h *Host) Online(user message.Address, device message.DeviceID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions[deviceKey{user, device}] != nil
}

// End ends the session with a number, and tells whether there was one.
func (h *Host) End(id uint64, why *message.Refusal) bool {
	for _, s := range h.snapshot() {
		if s.id == id {
			s.End(why)
			return true
		}
	}
	return false
}

// sourceOf is where a connection comes from, without the port.
func sourceOf(conn net.Conn) string {
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return a.IP.String()
	}
	return "local"
}

// reason is an error for a log, without the addresses that net puts in.
func reason(err error) string {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the other side closed it"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "it took too long"
	case errors.Is(err, net.ErrClosed):
		return "it was closed here"
	}
	return err.Error()
}
