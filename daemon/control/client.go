package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// Client calls the daemon at a socket. Its methods may be called from many
// goroutines; each is one connection. They fail as those of Daemon do, and with
// ErrUnreachable, ErrPermission and ErrProtocol. After ErrUnreachable, or an error
// of ctx, it isn't known whether a change was made.
type Client struct {
	Timeout time.Duration // of each call, beside that of its ctx; 0: none

	path string
	http http.Client
}

// New makes a client of the daemon whose socket is at path.
func New(path string) *Client {
	return &Client{path: path, http: http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", path)
			},
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Status asks what runs.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, "status", nil)
}

// Users lists all users.
func (c *Client) Users(ctx context.Context) ([]User, error) {
	return call[[]User](ctx, c, "users", nil)
}

// User asks for one user.
func (c *Client) User(ctx context.Context, name string) (User, error) {
	return call[User](ctx, c, "user", userName{name})
}

// AddUser makes a user.
func (c *Client) AddUser(ctx context.Context, name, password string) (User, error) {
	return call[User](ctx, c, "user/add", credentials{userName{name}, password})
}

// SetPassword replaces a user's password; his devices stay.
func (c *Client) SetPassword(ctx context.Context, name, password string) error {
	_, err := call[nothing](ctx, c, "user/password", credentials{userName{name}, password})
	return err
}

// DisableUser keeps a user out, or lets him in again.
func (c *Client) DisableUser(ctx context.Context, name string, disabled bool) error {
	what := "user/enable" // a call of its own, for who reads the log
	if disabled {
		what = "user/disable"
	}
	_, err := call[nothing](ctx, c, what, userName{name})
	return err
}

// RemoveUser removes a user with his devices and queues.
func (c *Client) RemoveUser(ctx context.Context, name string) error {
	_, err := call[nothing](ctx, c, "user/remove", userName{name})
	return err
}

// RemoveDevice makes a user's device unknown. What waits for it goes to another one.
func (c *Client) RemoveDevice(ctx context.Context, name string, device message.DeviceID) error {
	_, err := call[nothing](ctx, c, "device/remove", userDevice{userName{name}, device})
	return err
}

// Invites lists the invitations that can still be used.
func (c *Client) Invites(ctx context.Context) ([]Invite, error) {
	return call[[]Invite](ctx, c, "invites", nil)
}

// Invite makes an invitation.
func (c *Client) Invite(ctx context.Context, r InviteRequest) (Invite, error) {
	return call[Invite](ctx, c, "invite/add", r)
}

// RevokeInvite makes an invitation worthless; id is an Invite's ID.
func (c *Client) RevokeInvite(ctx context.Context, id string) error {
	_, err := call[nothing](ctx, c, "invite/revoke", inviteID{id})
	return err
}

// Sessions lists who is connected.
func (c *Client) Sessions(ctx context.Context) ([]Session, error) {
	return call[[]Session](ctx, c, "sessions", nil)
}

// CloseSession ends a session; its client may come back.
func (c *Client) CloseSession(ctx context.Context, id string) error {
	_, err := call[nothing](ctx, c, "session/close", sessionID{id})
	return err
}

// Queues lists the queues that have something in them.
func (c *Client) Queues(ctx context.Context) ([]Queue, error) {
	return call[[]Queue](ctx, c, "queues", nil)
}

// Queue lists a part of what waits in one queue.
func (c *Client) Queue(ctx context.Context, p QueuePage) ([]QueueItem, error) {
	return call[[]QueueItem](ctx, c, "queue", p)
}

// RetryQueue has what waits in a queue offered again at once.
func (c *Client) RetryQueue(ctx context.Context, name string) error {
	_, err := call[nothing](ctx, c, "queue/retry", queueName{name})
	return err
}

// RemoveFromQueue takes messages out of a queue and tells how many were there.
// About 1,700 ids fit into one call.
func (c *Client) RemoveFromQueue(ctx context.Context, name string, ids []message.ID) (int, error) {
	r, err := call[removed](ctx, c, "queue/remove", removal{name, ids})
	return r.Removed, err
}

// Peers lists other servers; those that wait to be trusted are last.
func (c *Client) Peers(ctx context.Context) ([]Peer, error) {
	return call[[]Peer](ctx, c, "peers", nil)
}

// TrustPeer confirms the key of a server that its name, or the key's fingerprint,
// tells.
func (c *Client) TrustPeer(ctx context.Context, who string) (Peer, error) {
	return call[Peer](ctx, c, "peer/trust", userName{who})
}

// DistrustPeer refuses a server from now on.
func (c *Client) DistrustPeer(ctx context.Context, name string) (Peer, error) {
	return call[Peer](ctx, c, "peer/distrust", userName{name})
}

// Routes lists the ways to other servers.
func (c *Client) Routes(ctx context.Context) ([]Route, error) {
	return call[[]Route](ctx, c, "routes", nil)
}

// Reach asks peers whether they reach the server at its public addresses.
func (c *Client) Reach(ctx context.Context) ([]Reach, error) {
	return call[[]Reach](ctx, c, "reach", nil)
}

// Trace asks what the server knows of a message.
func (c *Client) Trace(ctx context.Context, id message.ID) (Trace, error) {
	return call[Trace](ctx, c, "trace", messageID{id})
}

// Reload makes the daemon take its configuration from disk; see Daemon. Confirm
// counts in whole seconds.
func (c *Client) Reload(ctx context.Context, confirm time.Duration) (Reloaded, error) {
	began := time.Now()
	r, err := call[Reloaded](ctx, c, "reload", reloading{int64(confirm / time.Second)})
	if h, ok := c.handoffSince(ctx, began, err); ok {
		return Reloaded{Changes: h.Changes, Handoff: &h}, nil
	}
	return r, err
}

// Handoff has the daemon hand all over to the program that is installed now, and
// returns how that went.
func (c *Client) Handoff(ctx context.Context, reason string) (Handoff, error) {
	began := time.Now()
	_, err := call[nothing](ctx, c, "handoff", handingOver{reason})
	if h, ok := c.handoffSince(ctx, began, err); ok {
		return h, nil
	}
	return Handoff{}, err
}

// handoffSince asks a daemon that went away before it had answered whether it is another
// one now, to which all was handed over.
func (c *Client) handoffSince(ctx context.Context, began time.Time, err error) (last Handoff, ok bool) {
	if !errors.Is(err, errLeft) {
		return last, false
	}
	now, err := c.Status(ctx)
	if n := len(now.Handoffs); err == nil && n > 0 {
		last = now.Handoffs[n-1]
	}
	return last, last.Error == "" && last.At.After(began)
}

// ConfirmReload keeps the configuration that would be taken back otherwise.
func (c *Client) ConfirmReload(ctx context.Context) error {
	_, err := call[nothing](ctx, c, "reload/confirm", nothing{})
	return err
}

// Configuration asks for the configuration that is live.
func (c *Client) Configuration(ctx context.Context) (Configuration, error) {
	return call[Configuration](ctx, c, "configuration", nil)
}

// call makes one call: GET without a request, POST with one. A GET is made again if the
// daemon goes away in the middle: it may have handed over.
func call[Res any](ctx context.Context, c *Client, name string, req any) (res Res, err error) {
	if res, err = callOnce[Res](ctx, c, name, req); req == nil && errors.Is(err, errLeft) {
		res, err = callOnce[Res](ctx, c, name, req)
	}
	return res, err
}

func callOnce[Res any](ctx context.Context, c *Client, name string, req any) (res Res, err error) {
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	method, body := http.MethodGet, []byte(nil)
	if req != nil {
		method = http.MethodPost
		if body, err = json.Marshal(req); err != nil {
			return res, fmt.Errorf("writing the request: %w", err)
		}
	}
	// The host is never looked up; HTTP wants one.
	r, err := http.NewRequestWithContext(ctx, method, "http://noipchatd/v1/"+name, bytes.NewReader(body))
	if err != nil {
		return res, fmt.Errorf("making the request: %w", err)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return res, c.explain(ctx, err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxResponse+1))
	switch {
	case err != nil:
		return res, c.explain(ctx, err)
	case len(data) > maxResponse:
		return res, fmt.Errorf("%w: the answer is longer than %d bytes", ErrProtocol, maxResponse)
	case answer.StatusCode != http.StatusOK:
		return res, restore(answer.Status, data)
	}
	// Fields that we don't know are those of a newer daemon, and no error.
	if err := json.Unmarshal(data, &res); err != nil {
		return res, fmt.Errorf("%w: reading the answer: %v", ErrProtocol, err)
	}
	return res, nil
}

var errLeft = errors.New("went away before it had answered")

// explain tells apart the ways in which no answer came.
func (c *Client) explain(ctx context.Context, err error) error {
	var op *net.OpError
	dialing := errors.As(err, &op) && op.Op == "dial"
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("waiting for the daemon at %s: %w", c.path, ctx.Err())
	case dialing && errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w %s", ErrPermission, c.path)
	case dialing:
		return fmt.Errorf("%w at %s: %w", ErrUnreachable, c.path, op.Err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("%w: the daemon at %s %w", ErrUnreachable, c.path, errLeft)
	}
	return fmt.Errorf("%w: %w", ErrProtocol, err)
}
