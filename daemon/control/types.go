package control

import (
	"encoding/json"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// List is a slice that is [] in JSON when it is nil, so that a script can always
// run over it.
type List[T any] []T

// MarshalJSON never writes null.
func (l List[T]) MarshalJSON() ([]byte, error) {
	if l == nil {
		return []byte("[]"), nil
	}
	return json.Marshal([]T(l))
}

// Status is what runs. Texts in it may come from strangers (an error that quotes
// a file, a notice); none of the views is fit for a terminal as it is.
type Status struct {
	Version     string             `json:"version"`
	Server      string             `json:"server"` // its name
	Key         string             `json:"key"`    // "noip1…", public
	Fingerprint string             `json:"fingerprint"`
	PID         int                `json:"pid"`
	Started     time.Time          `json:"started"`
	State       string             `json:"state"` // the state directory
	Config      Config             `json:"config"`
	Interfaces  List[Interface]    `json:"interfaces"`
	Users       int                `json:"users"`
	Sessions    int                `json:"sessions"`
	Queues      QueueSum           `json:"queues"`
	Disk        Disk               `json:"disk"`
	Handoffs    List[Handoff]      `json:"handoffs"` // the last ones, oldest first
	Notices     List[string]       `json:"notices"`  // what an admin should look at: damage that was set aside
	Counters    map[string]float64 `json:"counters"`
}

// Config is which configuration is live, and the error of the last reload, if it
// was refused.
type Config struct {
	Path        string    `json:"path"`
	Loaded      time.Time `json:"loaded"`
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	ReturnsAt   time.Time `json:"returns_at,omitzero"` // the one before returns, unless this one is confirmed
}

// Reloaded is what a reload has changed, a line each.
type Reloaded struct {
	Changes   List[string] `json:"changes"`
	ReturnsAt time.Time    `json:"returns_at,omitzero"` // as in Config
	Handoff   *Handoff     `json:"handoff,omitempty"`   // nil: it took none
}

// Handoff is one that was made, or tried.
type Handoff struct {
	At           time.Time    `json:"at"`
	From         string       `json:"from"`          // version
	To           string       `json:"to,omitempty"`  // version; "": Error says why there is none
	Sessions     int          `json:"sessions"`      // that were handed over
	Links        int          `json:"links"`         // to other servers, too
	Closed       int          `json:"closed"`        // of both, that could not be
	PauseSeconds float64      `json:"pause_seconds"` // in which no session was served
	Reason       string       `json:"reason"`
	Changes      List[string] `json:"changes"` // of the configuration, if they were the reason
	Error        string       `json:"error,omitempty"`
}

// Configuration is the one that is live.
type Configuration struct {
	Path   string            `json:"path"`
	Text   string            `json:"text"` // every key, as TOML
	Values List[ConfigValue] `json:"values"`
}

// ConfigValue is a key of the configuration.
type ConfigValue struct {
	Key    string `json:"key"`
	Value  string `json:"value"`  // as TOML
	Origin string `json:"origin"` // "file:line" or "default"
	Hot    bool   `json:"hot"`    // can be changed while the server runs

	Handoff bool `json:"handoff"` // can be changed by a handoff
}

// The states of an interface.
const (
	Listening = "listening"
	Failed    = "failed"
)

// Interface is an address that the daemon listens on, or could not.
type Interface struct {
	Kind   string       `json:"kind"`
	Bind   string       `json:"bind"`
	Public List[string] `json:"public"`
	State  string       `json:"state"`
	Error  string       `json:"error,omitempty"` // why it failed
}

// QueueSum is all queues together.
type QueueSum struct {
	Count         int     `json:"count"`
	Messages      int     `json:"messages"`
	Bytes         int64   `json:"bytes"`
	OldestSeconds float64 `json:"oldest_seconds"`
}

// Disk is the file system of the state directory, in bytes.
type Disk struct {
	Free    int64 `json:"free"`
	Reserve int64 `json:"reserve"` // kept free, so that queues can drain
	Full    bool  `json:"full"`    // nothing is accepted any more
}

// User is an account of this server.
type User struct {
	Name     string          `json:"name"`
	Address  message.Address `json:"address"`
	Disabled bool            `json:"disabled"`
	Created  time.Time       `json:"created"`
	Devices  List[Device]    `json:"devices"`
}

// Device is one of a user's devices. Its label is the user's own text.
type Device struct {
	ID          message.DeviceID `json:"id"`
	Label       string           `json:"label"`
	Fingerprint string           `json:"fingerprint"`
	Created     time.Time        `json:"created"`
	Seen        time.Time        `json:"seen,omitzero"` // zero: never
	Online      bool             `json:"online"`
	Suspended   string           `json:"suspended,omitempty"` // why nothing is kept for it any more
}

// InviteRequest asks for an invitation.
type InviteRequest struct {
	User         string `json:"user,omitempty"` // whose it is; "": for whatever name the guest takes
	ValidSeconds int64  `json:"valid_seconds"`  // above 0
	Uses         int    `json:"uses"`           // above 0
}

// Invite is an invitation that somebody may still use. The server keeps no more
// of its secret than a hash: the line is in the answer to Invite and never again.
type Invite struct {
	ID      string    `json:"id"`             // for RevokeInvite; no secret
	Line    string    `json:"line,omitempty"` // "noipchat://…", to be handed to the guest
	Expires time.Time `json:"expires"`
	Uses    int       `json:"uses"` // how many are left
	User    string    `json:"user,omitempty"`
}

// Session is a device, logged in and connected.
type Session struct {
	ID       string           `json:"id"`
	User     message.Address  `json:"user"`
	Device   message.DeviceID `json:"device"`
	Remote   string           `json:"remote"` // the other end's address
	Kind     string           `json:"kind"`   // of the transport
	Since    time.Time        `json:"since"`
	BytesIn  int64            `json:"bytes_in"` // as seen by the server
	BytesOut int64            `json:"bytes_out"`
	Sent     int64            `json:"sent"`     // envelopes that the device has sent
	Received int64            `json:"received"` // envelopes that it has acked
	Waiting  int              `json:"waiting"`  // envelopes in its queue
}

// Queue is what waits for one destination.
type Queue struct {
	Name          string  `json:"name"`
	Messages      int     `json:"messages"`
	Bytes         int64   `json:"bytes"`
	OldestSeconds float64 `json:"oldest_seconds"`
	InHand        int     `json:"in_hand"` // of the messages, those in memory
	Suspended     bool    `json:"suspended"`
	Online        bool    `json:"online"` // somebody is taking them
}

// Bounds of a page of a queue.
const (
	PageDefault = 100
	PageMax     = 1000
)

// QueuePage names a part of a queue: at most Limit items, from the one behind
// After on, in the queue's order.
type QueuePage struct {
	Name  string     `json:"name"`
	After message.ID `json:"after,omitzero"` // zero: from the beginning
	Limit int        `json:"limit"`          // 1 to PageMax; 0 stands for PageDefault, and is replaced before the Daemon sees it
}

// QueueItem is one message in a queue.
type QueueItem struct {
	ID             message.ID      `json:"id"`
	From           message.Address `json:"from"`
	Kind           string          `json:"kind"`     // "text", "file", "receipt", "bounce"
	Priority       string          `json:"priority"` // "urgent", "normal", "bulk"
	Bytes          int64           `json:"bytes"`
	AgeSeconds     float64         `json:"age_seconds"`
	ExpiresSeconds float64         `json:"expires_seconds"` // from now
	State          string          `json:"state"`           // where it is: "in hand", "on disk", "under way"
}

// Reach is what a peer says of a public address of this server, and of the time.
type Reach struct {
	Peer         string  `json:"peer"`
	Address      string  `json:"address"`
	Problem      string  `json:"problem,omitempty"` // why this server isn't reached there; "": it is
	ClockSeconds float64 `json:"clock_seconds"`     // how far the peer's clock is ahead of ours
	Silent       string  `json:"silent,omitempty"`  // why the peer has said nothing; then nothing above is known
}

// Trace is what this server knows of one message, oldest first.
type Trace struct {
	ID     message.ID       `json:"id"`
	Events List[TraceEvent] `json:"events"`
}

// TraceEvent is one step of a message.
type TraceEvent struct {
	At       time.Time       `json:"at"`
	Server   string          `json:"server"`
	Event    string          `json:"event"`
	Receiver message.Address `json:"receiver,omitempty"` // "": of all
	Detail   string          `json:"detail,omitempty"`
	Path     message.Path    `json:"path,omitempty"` // by which it came here, or to its receiver
}

// The states of a link to a peer.
const (
	Up         = "up"
	Down       = "down" // nothing is to be sent, or Error says why
	Connecting = "connecting"
)

// Peer is another server: one of the configuration, one whose key is kept, or one
// that waits to be trusted. Of the last there may be several with one name.
type Peer struct {
	Name        string       `json:"name"`
	Key         string       `json:"key"` // "noip1…"; "": none was seen yet
	Fingerprint string       `json:"fingerprint"`
	Standing    string       `json:"standing"`         // "pinned", "confirmed", "first seen", "new", "waiting", "distrusted"
	Trusted     time.Time    `json:"trusted,omitzero"` // since when it stands so; zero: the configuration says it
	Origin      string       `json:"origin,omitempty"` // "file:line" of its [[peer]]; "": the configuration has none
	Reaches     List[string] `json:"reaches"`
	Links       List[Link]   `json:"links"` // of the configuration, in the order in which they are tried

	// Another key that was shown under this name, and refused; "": none.
	RefusedFingerprint string    `json:"refused_fingerprint,omitempty"`
	RefusedAt          time.Time `json:"refused_at,omitzero"`

	State      string    `json:"state"`            // Up, Down, Connecting
	Error      string    `json:"error,omitempty"`  // the last one of the link
	Kind       string    `json:"kind,omitempty"`   // of the link that is up
	Remote     string    `json:"remote,omitempty"` // the other end's address
	Since      time.Time `json:"since,omitzero"`   // it has this state
	Next       time.Time `json:"next,omitzero"`    // it will be tried again
	Cost       int       `json:"cost,omitempty"`   // of the link that is up
	RTTSeconds float64   `json:"rtt_seconds,omitempty"`
	BytesIn    int64     `json:"bytes_in"` // as seen by this server, since its start
	BytesOut   int64     `json:"bytes_out"`
	Sent       int64     `json:"sent"`     // envelopes that the peer has acked
	Received   int64     `json:"received"` // envelopes that were accepted from it

	Messages      int     `json:"messages"` // that wait for it
	Bytes         int64   `json:"bytes"`
	OldestSeconds float64 `json:"oldest_seconds"`
}

// Link is a way to reach a peer, as the configuration has it.
type Link struct {
	Kind           string       `json:"kind"`
	Local          string       `json:"local,omitempty"`
	Remote         string       `json:"remote,omitempty"`
	Command        List[string] `json:"command"`
	Line           string       `json:"line,omitempty"`  // what is known of a slow one, as in the configuration
	TimeoutSeconds float64      `json:"timeout_seconds"` // 0: it is kept for ever
	Cost           int          `json:"cost"`
}

// Route is a way to a server. There may be several to one, by different peers.
type Route struct {
	Server      string  `json:"server"`
	Fingerprint string  `json:"fingerprint"` // "": its key is not known
	Verified    bool    `json:"verified"`    // that key is trusted here
	Via         string  `json:"via"`         // the peer that leads there
	Metric      int     `json:"metric"`
	Doubted     bool    `json:"doubted,omitempty"` // it took mail of which nothing was heard, so others count more
	Static      bool    `json:"static"`            // the configuration says so (reaches); else it was learnt
	AgeSeconds  float64 `json:"age_seconds"`       // since it was heard of last
}
