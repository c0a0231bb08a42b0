// Package control is the admin socket, both ends, typed: JSON over HTTP/1.1 on a
// Unix socket. A call is GET or POST /v1/NAME with at most one JSON object each
// way; /metrics is there for Prometheus. It knows what can be asked and how that
// travels; what the answers are is the Daemon's affair. Who may ask is decided by
// the owner and the mode of the socket's file, by nothing else.
//
// NewHandler and New start nothing. Serve blocks, has one goroutine for each
// connection, and joins them all before it returns. A Client keeps no connection
// and no goroutine between calls. On disk is the socket alone.
package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// Daemon is what the socket's server asks for the answers. Its methods are called
// from many goroutines and end when ctx does. Names of users and
// servers are valid when they come here; those of users have no server part.
//
// Errors that callers can tell apart are a *message.Refusal, ErrNotFound,
// ErrConfig, any error with a syscall.Errno in it (the daemon's own I/O, ErrIO at
// the caller), and that of ctx; they may be wrapped. Any other is taken for a
// fault of the daemon's, and logged as one.
type Daemon interface {
	Status(ctx context.Context) (Status, error)

	Users(ctx context.Context) ([]User, error)
	User(ctx context.Context, name string) (User, error)
	AddUser(ctx context.Context, name, password string) (User, error)
	SetPassword(ctx context.Context, name, password string) error
	DisableUser(ctx context.Context, name string, disabled bool) error
	RemoveUser(ctx context.Context, name string) error

	RemoveDevice(ctx context.Context, name string, device message.DeviceID) error

	Invites(ctx context.Context) ([]Invite, error)
	Invite(ctx context.Context, r InviteRequest) (Invite, error)
	RevokeInvite(ctx context.Context, id string) error // an Invite's ID

	Sessions(ctx context.Context) ([]Session, error)
	CloseSession(ctx context.Context, id string) error

	Queues(ctx context.Context) ([]Queue, error)
	Queue(ctx context.Context, p QueuePage) ([]QueueItem, error)
	// RemoveFromQueue tells how many of ids it has removed: those that were there
	// and not under way. Their senders get a bounce.
	RemoveFromQueue(ctx context.Context, name string, ids []message.ID) (removed int, err error)

	// RetryQueue offers again at once what waits in a queue for its time, and has the
	// peer dialled that it goes by.
	RetryQueue(ctx context.Context, name string) error

	// Peers lists other servers; those that wait to be trusted are last.
	Peers(ctx context.Context) ([]Peer, error)
	// TrustPeer confirms a server's key; who is its name or the key's fingerprint.
	TrustPeer(ctx context.Context, who string) (Peer, error)
	DistrustPeer(ctx context.Context, name string) (Peer, error)
	Routes(ctx context.Context) ([]Route, error)
	// Reach asks peers that there are links to whether they reach this server at its
	// public addresses. It takes up to some seconds.
	Reach(ctx context.Context) ([]Reach, error)

	Trace(ctx context.Context, id message.ID) (Trace, error)

	// Reload takes the configuration on disk; ErrConfig, with every line that is
	// wrong, if it is bad. With confirm above zero the one before returns after
	// that time unless it is confirmed.
	Reload(ctx context.Context, confirm time.Duration) (Reloaded, error)
	ConfirmReload(ctx context.Context) error

	// Handoff hands all over to the program that is installed now; nil can't be seen,
	// because then the daemon is another one. ErrHandoff says that it isn't, and why.
	Handoff(ctx context.Context, reason string) error

	// Configuration is the one that is live.
	Configuration(ctx context.Context) (Configuration, error)

	// Export writes the whole server as a stream that backup.Read reads, its secrets too. It
	// fails before it writes anything, or the stream breaks off.
	Export(ctx context.Context, w io.Writer) error

	// Metrics answers a scrape by Prometheus.
	Metrics() http.Handler
}

// Errors of a call, beside *message.Refusal. Those from the daemon keep their
// text on the way to the caller.
var (
	ErrNotFound = errors.New("not found")         // what was asked for isn't there
	ErrConfig   = errors.New("bad configuration") // the daemon keeps the one it has
	ErrHandoff  = errors.New("no handoff, all goes on as before")
	// ErrHandoffConfig is both: the new program doesn't take the configuration.
	ErrHandoffConfig = fmt.Errorf("%w: %w", ErrHandoff, ErrConfig)
	ErrIO            = errors.New("i/o error of the daemon")     // a disk, usually
	ErrFault         = errors.New("fault of the daemon")         // a bug; its log says more
	ErrProtocol      = errors.New("not the protocol of control") // one side doesn't know what the other one says
	ErrUnreachable   = errors.New("no daemon answers")           // nobody there, or it went away in the middle
	ErrPermission    = errors.New("not allowed to open")         // the socket's file
)

const (
	maxRequest  = 64 << 10  // bytes of a request's body
	maxResponse = 128 << 20 // bytes of an answer; a list of all users may be long
	maxHeader   = 8 << 10   // bytes of a request's header
)
