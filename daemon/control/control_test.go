package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/noipchat/noipchat/daemon/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// desk is a Daemon that answers with what it holds, notes what it was asked, and
// fails with err if that is set.
type desk struct {
	status   Status
	users    []User
	invites  []Invite
	sessions []Session
	queues   []Queue
	items    []QueueItem
	trace    Trace
	peers    []Peer
	routes   []Route
	reaches  []Reach

	reloaded      Reloaded
	configuration Configuration
	exported      string // before err

	err   error
	block chan struct{} // if set, Status closes it and waits for its context

	mu    sync.Mutex
	asked []string
}

func (d *desk) note(format string, args ...any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, fmt.Sprintf(format, args...))
	return d.err
}

func (d *desk) Status(ctx context.Context) (Status, error) {
	if d.block != nil {
		close(d.block)
		<-ctx.Done()
		return Status{}, ctx.Err()
	}
	return d.status, d.note("status")
}
func (d *desk) Users(context.Context) ([]User, error) { return d.users, d.note("users") }
func (d *desk) User(_ context.Context, name string) (User, error) {
	return d.users[0], d.note("user %s", name)
}
func (d *desk) AddUser(_ context.Context, name, password string) (User, error) {
	return d.users[0], d.note("add %s %s", name, password)
}
func (d *desk) SetPassword(_ context.Context, name, password string) error {
	return d.note("password %s %s", name, password)
}
func (d *desk) DisableUser(_ context.Context, name string, disabled bool) error {
	return d.note("disable %s %v", name, disabled)
}
func (d *desk) RemoveUser(_ context.Context, name string) error { return d.note("remove %s", name) }
func (d *desk) RemoveDevice(_ context.Context, name string, device message.DeviceID) error {
	return d.note("remove %s %v", name, device)
}
func (d *desk) Invites(context.Context) ([]Invite, error) { return d.invites, d.note("invites") }
func (d *desk) Invite(_ context.Context, r InviteRequest) (Invite, error) {
	return d.invites[0], d.note("invite %+v", r)
}
func (d *desk) RevokeInvite(_ context.Context, token string) error { return d.note("revoke %s", token) }
func (d *desk) Sessions(context.Context) ([]Session, error)        { return d.sessions, d.note("sessions") }
func (d *desk) CloseSession(_ context.Context, id string) error    { return d.note("close %s", id) }
func (d *desk) Queues(context.Context) ([]Queue, error)            { return d.queues, d.note("queues") }
func (d *desk) Queue(_ context.Context, p QueuePage) ([]QueueItem, error) {
	return d.items, d.note("queue %s after %s limit %d", p.Name, p.After, p.Limit)
}
func (d *desk) RemoveFromQueue(_ context.Context, name string, ids []message.ID) (int, error) {
	return len(ids), d.note("unqueue %s %s", name, ids)
}
func (d *desk) RetryQueue(_ context.Context, name string) error { return d.note("retry %s", name) }

func (d *desk) Trace(_ context.Context, id message.ID) (Trace, error) {
	return d.trace, d.note("trace %s", id)
}
func (d *desk) Reload(_ context.Context, confirm time.Duration) (Reloaded, error) {
	return d.reloaded, d.note("reload %s", confirm)
}
func (d *desk) ConfirmReload(context.Context) error { return d.note("confirm") }

// Handoff leaves its caller without an answer, as one that succeeds.
func (d *desk) Handoff(_ context.Context, reason string) error {
	if err := d.note("handoff %s", reason); err != nil {
		return err
	}
	d.mu.Lock()
	d.status.Handoffs[0].At = time.Now().UTC()
	d.mu.Unlock()
	panic(http.ErrAbortHandler)
}
func (d *desk) Configuration(context.Context) (Configuration, error) {
	return d.configuration, d.note("configuration")
}
func (d *desk) Peers(context.Context) ([]Peer, error) { return d.peers, d.note("peers") }
func (d *desk) TrustPeer(_ context.Context, who string) (Peer, error) {
	return d.peers[0], d.note("trust %s", who)
}
func (d *desk) DistrustPeer(_ context.Context, name string) (Peer, error) {
	return d.peers[0], d.note("distrust %s", name)
}
func (d *desk) Reach(context.Context) ([]Reach, error) { return d.reaches, d.note("reach") }

func (d *desk) Routes(context.Context) ([]Route, error) { return d.routes, d.note("routes") }

// Export writes what it was told to, and breaks off if there is an error to come.
func (d *desk) Export(_ context.Context, w io.Writer) error {
	if d.exported != "" {
		io.WriteString(w, d.exported)
	}
	return d.note("export")
}
func (d *desk) Metrics() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "up 1\n") })
}

// logBuffer takes a log from many goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// running is a server on a real socket.
type running struct {
	path string
	log  *logBuffer
	stop func() error // ends Serve and returns its error
}

func start(t *testing.T, d Daemon, lim limits) running {
	t.Helper()
	r := running{path: filepath.Join(t.TempDir(), "control.sock"), log: new(logBuffer)}
	l, err := Listen(r.path, Mode)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(r.log, nil))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, l, NewHandler(d, log), log, lim) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return r
}

var sampleID = message.IDOf([]byte("sample"))

// sample has a value in every field of every view.
func sample() *desk {
	at := time.Date(2026, 11, 23, 10, 0, 0, 5000, time.UTC)
	return &desk{
		status: Status{
			Version: "0.1.0", Server: "server1", Key: "noip1abc", Fingerprint: "ab cd", PID: 7, Started: at, State: "/var/lib/noipchat",
			Config:     Config{"/etc/noipchat/noipchat.toml", at, "line 3: what", at, at},
			Interfaces: List[Interface]{{"tcp", "[::1]:10001", List[string]{"203.0.113.5:10001"}, Failed, "in use"}},
			Users:      1, Sessions: 2, Queues: QueueSum{3, 4, 5, 6.5}, Disk: Disk{7, 8, true},
			Handoffs: List[Handoff]{{at, "0.1.0", "0.2.0", 5, 3, 1, 0.25, "a test", List[string]{"~ log"}, ""}},
			Notices:  List[string]{"set aside: a file"}, Counters: map[string]float64{`refused{code="quota"}`: 1.5},
		},
		users:         []User{{"alice", "alice@server1", true, at, List[Device]{{0xfedcba9876543210, "phone", "12 34", at, at, true, ""}}}},
		invites:       []Invite{{"noipchat://server1@203.0.113.5:10001/?key=x", "tok", at, 3, "bob"}},
		sessions:      []Session{{"s1", "alice@server1", 1<<64 - 1, "198.51.100.7:9", "tcp", at, 1, 2, 3, 4, 5}},
		queues:        []Queue{{"alice@server1", 1, 2, 3.5, 1, true, true}},
		items:         []QueueItem{{sampleID, "bob@server1", "text", "normal", 300, 1.5, 2.5, "on disk"}},
		reloaded:      Reloaded{List[string]{"~ max_hops = 5 (was 10)"}, at, &Handoff{At: at, Changes: List[string]{"~ log"}}},
		configuration: Configuration{"/etc/noipchat/noipchat.toml", "name = \"server1\"\n", List[ConfigValue]{{"max_hops", "10", "default", true, false}}},
		peers: []Peer{{
			"server2", "noip1def", "cd ef", "confirmed", at, "noipchat.toml:7", List[string]{"server9"},
			List[Link]{{"tcp", "192.0.2.1", "198.51.100.7:10001", List[string]{"a"}, "metered", 15, 10}}, "12 34", at,
			Up, "what", "tcp", "198.51.100.7:10001", at, at, 10, 0.5, 1, 2, 3, 4, 5, 6, 7.5,
		}},
		routes:  []Route{{"server9", "ab cd", true, "server2", 20, true, true, 1.5}},
		reaches: []Reach{{"server2", "203.0.113.5:10001", "connection refused", 3.5, "no answer"}},
		trace:   Trace{sampleID, List[TraceEvent]{{at, "server1", "held", "bob@server1", "all of it", message.Path{{Server: "server2", Age: 3}}}}},
	}
}

// TestCalls makes every call once: what the daemon was asked is what the caller
// said, and what the caller gets is what the daemon said.
func TestCalls(t *testing.T) {
	d := sample()
	c := New(start(t, d, defaultLimits).path)
	ctx := t.Context()
	for _, x := range []struct {
		call  func() (any, error)
		want  any
		asked string
	}{
		{func() (any, error) { return c.Status(ctx) }, d.status, "status"},
		{func() (any, error) { return c.Users(ctx) }, d.users, "users"},
		{func() (any, error) { return c.User(ctx, "alice") }, d.users[0], "user alice"},
		{func() (any, error) { return c.AddUser(ctx, "alice", "pass\x01wört") }, d.users[0], "add alice pass\x01wört"},
		{func() (any, error) { return nil, c.SetPassword(ctx, "alice", "<&>") }, nil, "password alice <&>"},
		{func() (any, error) { return nil, c.DisableUser(ctx, "alice", true) }, nil, "disable alice true"},
		{func() (any, error) { return nil, c.DisableUser(ctx, "alice", false) }, nil, "disable alice false"},
		{func() (any, error) { return nil, c.RemoveUser(ctx, "alice") }, nil, "remove alice"},
		{func() (any, error) { return nil, c.RemoveDevice(ctx, "alice", 0xabc) }, nil, "remove alice 0000000000000abc"},
		{func() (any, error) { return c.Invites(ctx) }, d.invites, "invites"},
		{func() (any, error) { return c.Invite(ctx, InviteRequest{"bob", 60, 2}) }, d.invites[0], "invite {User:bob ValidSeconds:60 Uses:2}"},
		{func() (any, error) { return nil, c.RevokeInvite(ctx, "tok") }, nil, "revoke tok"},
		{func() (any, error) { return c.Sessions(ctx) }, d.sessions, "sessions"},
		{func() (any, error) { return nil, c.CloseSession(ctx, "../s1") }, nil, "close ../s1"},
		{func() (any, error) { return c.Queues(ctx) }, d.queues, "queues"},
		{func() (any, error) { return c.Queue(ctx, QueuePage{Name: "a/b", After: sampleID}) }, d.items, "queue a/b after " + sampleID.String() + " limit 100"},
		{func() (any, error) { return c.Queue(ctx, QueuePage{Name: "q", Limit: PageMax}) }, d.items, "queue q after " + message.ID{}.String() + " limit 1000"},
		{func() (any, error) { return c.RemoveFromQueue(ctx, "q", []message.ID{sampleID, {}}) }, 2, fmt.Sprintf("unqueue q %s", []message.ID{sampleID, {}})},
		{func() (any, error) { return nil, c.RetryQueue(ctx, "server2") }, nil, "retry server2"},
		{func() (any, error) { return c.Peers(ctx) }, d.peers, "peers"},
		{func() (any, error) { return c.TrustPeer(ctx, "3f2a-91c0-77de-0b1c") }, d.peers[0], "trust 3f2a-91c0-77de-0b1c"},
		{func() (any, error) { return c.DistrustPeer(ctx, "server2") }, d.peers[0], "distrust server2"},
		{func() (any, error) { return c.Routes(ctx) }, d.routes, "routes"},
		{func() (any, error) { return c.Reach(ctx) }, d.reaches, "reach"},
		{func() (any, error) { return c.Trace(ctx, sampleID) }, d.trace, "trace " + sampleID.String()},
		{func() (any, error) { return c.Reload(ctx, time.Minute) }, d.reloaded, "reload 1m0s"},
		{func() (any, error) { return nil, c.ConfirmReload(ctx) }, nil, "confirm"},
		{func() (any, error) { return c.Configuration(ctx) }, d.configuration, "configuration"},
	} {
		d.asked = nil
		got, err := x.call()
		if err != nil {
			t.Errorf("%s: %v", x.asked, err)
		}
		if !reflect.DeepEqual(got, x.want) {
			t.Errorf("%s: have %+v, want %+v", x.asked, got, x.want)
		}
		if len(d.asked) != 1 || d.asked[0] != x.asked {
			t.Errorf("%s: the daemon was asked %q", x.asked, d.asked)
		}
	}
}

// TestErrors sends errors through the socket.
func TestErrors(t *testing.T) {
	d := sample()
	r := start(t, d, defaultLimits)
	c := New(r.path)
	_, noFile := net.Dial("unix", filepath.Join(t.TempDir(), "nowhere"))
	for _, x := range []struct {
		err  error
		is   error
		text string
	}{
		{fmt.Errorf("session s1: %w", ErrNotFound), ErrNotFound, "session s1: not found"},
		{fmt.Errorf("%w:\na.toml:3: what\na.toml:5: how", ErrConfig), ErrConfig, "bad configuration:\na.toml:3: what\na.toml:5: how"},
		{fmt.Errorf("%w: %w", ErrConfig, noFile), ErrConfig, "bad configuration: " + noFile.Error()},
		{fmt.Errorf("%w: why", ErrHandoffConfig), ErrHandoff, "no handoff, all goes on as before: bad configuration: why"},
		{fmt.Errorf("%w: why", ErrHandoffConfig), ErrConfig, "no handoff, all goes on as before: bad configuration: why"},
		{fmt.Errorf("writing users: %w", noFile), ErrIO, "writing users: " + noFile.Error()},
		{fmt.Errorf("waiting: %w", context.DeadlineExceeded), context.DeadlineExceeded, "waiting: context deadline exceeded"},
		{errors.New("a bug"), ErrFault, "a bug"},
	} {
		d.err = x.err
		err := c.RemoveUser(t.Context(), "alice")
		if err == nil || err.Error() != x.text || !errors.Is(err, x.is) {
			t.Errorf("%v came as %v", x.err, err)
		}
	}
	refusals := []*message.Refusal{
		message.Refuse(message.CodeExists, "there is an alice"),
		message.Defer(message.CodeFull, 1500*time.Millisecond, "disk full"),
		message.Refuse(message.CodeNotAllowed, ""),
	}
	for _, want := range refusals {
		d.err = fmt.Errorf("adding: %w", want)
		_, err := c.AddUser(t.Context(), "alice", "x")
		if got, ok := errors.AsType[*message.Refusal](err); !ok || *got != *want {
			t.Errorf("%#v came as %#v", want, err)
		}
	}
	if log := r.log.String(); strings.Count(log, "level=ERROR") != 2 || !strings.Contains(log, "a bug") {
		t.Errorf("want the I/O error and the bug logged as errors, and nothing else; have\n%s", log)
	}
}

func TestUnknownCode(t *testing.T) {
	err := restore("403 Forbidden", []byte(`{"error":"refused","code":"too-blue","text":"no"}`))
	if r, ok := errors.AsType[*message.Refusal](err); !ok || r.Code != 0 || r.Reason != "too-blue: no" {
		t.Errorf("have %#v", err)
	}
}

// TestNames: a daemon never sees a name that isn't one.
func TestNames(t *testing.T) {
	d := sample()
	c := New(start(t, d, defaultLimits).path)
	for _, name := range []string{"", "Alice", "alice@server1", "../alice", "a\x1b[2J"} {
		if err := c.RemoveUser(t.Context(), name); !refusedAs(err, message.CodeInvalid) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	for _, r := range []InviteRequest{{"A", 1, 1}, {"", 0, 1}, {"", 1, 0}, {"", -1, 1}, {"", 1 << 62, 1}} {
		if _, err := c.Invite(t.Context(), r); !refusedAs(err, message.CodeInvalid) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	for _, limit := range []int{-1, PageMax + 1} {
		if _, err := c.Queue(t.Context(), QueuePage{Name: "q", Limit: limit}); !refusedAs(err, message.CodeInvalid) {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
	if len(d.asked) != 0 {
		t.Errorf("the daemon was asked %q", d.asked)
	}
}

func refusedAs(err error, code message.Code) bool {
	r, ok := errors.AsType[*message.Refusal](err)
	return ok && r.Code == code
}

// TestLog: changes are logged with who and what, without secrets; views are not.
func TestLog(t *testing.T) {
	r := start(t, sample(), defaultLimits)
	c := New(r.path)
	for _, err := range []error{
		func() error { _, err := c.Users(t.Context()); return err }(),
		c.SetPassword(t.Context(), "alice", "topsecret"),
		c.RevokeInvite(t.Context(), "topsecret"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	log := r.log.String()
	want := fmt.Sprintf("msg=admin call=user/password about=alice uid=%d\n", uid())
	if !strings.Contains(log, want) || strings.Count(log, "\n") != 2 || strings.Contains(log, "topsecret") {
		t.Errorf("want a line with %q, one more, and no secret; have\n%s", want, log)
	}
}

// TestHandoff: who asks for a handoff learns from the next image how it went, or from
// this one why there is none.
func TestHandoff(t *testing.T) {
	d := sample()
	c := New(start(t, d, defaultLimits).path)
	h, err := c.Handoff(t.Context(), "a test")
	if err != nil || h.To != "0.2.0" || h.Sessions != 5 {
		t.Errorf("have %+v, %v", h, err)
	}
	d.err = fmt.Errorf("%w: too many files", ErrHandoff)
	if _, err = c.Handoff(t.Context(), "a test"); !errors.Is(err, ErrHandoff) || !strings.Contains(err.Error(), "too many files") {
		t.Errorf("have %v", err)
	}
	if _, err := c.Handoff(t.Context(), strings.Repeat("x", 201)); err == nil {
		t.Error("a long reason passes")
	}
	if want := []string{"handoff a test", "status", "handoff a test"}; !slices.Equal(d.asked, want) {
		t.Errorf("the daemon was asked %q", d.asked)
	}
}
