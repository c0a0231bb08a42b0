package wire

import (
	"crypto/ed25519"
	"net/netip"
	"time"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/transport"
)

// Window is how much a side takes before it has acked: its promise to the other,
// which must not have more under way.
type Window struct {
	Count int // envelopes, 1 to 65,535
	Bytes int // of envelopes, MaxEnvelope to 1 GiB
}

func (w Window) min(o Window) Window { return Window{min(w.Count, o.Count), min(w.Bytes, o.Bytes)} }

// Features that a hello may name; the unknown are ignored.
const maxFeatures = 64

// Keys of the hellos' maps.
const (
	keyHave = 1  // the client's: what it has parts of; only to a server that has lanes
	keyLine = 64 // the server's: its line, if it knows more of it than the client has told
	keyCost = 65 // the client's, ByLink: what the link costs
)

const maxPublic = 32 // addresses in a server's hello

// ServerHello is what a server says of itself, to anybody who asks.
type ServerHello struct {
	Name     string             // the server's
	Ed25519  [32]byte           // the half of its key that the handshake doesn't show
	Features []uint64           // rising
	Public   []string           // "ip:port" at which it is reached
	Window   Window             // what it takes
	Idle     uint64             // seconds of silence after which it lets a session go; it wants a ping before
	Key      identity.PublicKey // both halves; filled in by Open

	line transport.Properties
}

func (h *ServerHello) append(b []byte) []byte {
	b = message.AppendArray(b, 8)
	b = message.AppendString(b, h.Name)
	b = message.AppendBytes(b, h.Ed25519[:])
	b = appendFeatures(b, h.Features)
	b = appendStrings(b, h.Public)
	b = appendWindow(b, h.Window)
	b = message.AppendUint(b, h.Idle)
	if h.line == (transport.Properties{}) {
		return message.AppendMap(b, 0)
	}
	b = append(message.AppendMap(b, 1), keyLine)
	return message.AppendBytes(b, appendLine(nil, h.line))
}

// readPublic reads addresses at which a server is reached.
func readPublic(r *message.Reader, most int) []string {
	public := make([]string, r.Array(most))
	for i := range public {
		public[i] = r.String(64)
		if _, err := netip.ParseAddrPort(public[i]); r.Err() == nil && err != nil {
			r.Fail("%q is not ip:port", public[i])
		}
	}
	return public
}

func (h *ServerHello) parse(b []byte) error {
	r := message.NewReader(b)
	r.Tuple(8)
	h.Name = r.Name()
	copy(h.Ed25519[:], readKey(&r))
	h.Features = readFeatures(&r)
	h.Public = readPublic(&r, maxPublic)
	h.Window = readWindow(&r)
	h.Idle = r.Uint(1<<32 - 1)
	r.Fields(func(key uint64) bool {
		if key != keyLine {
			return false
		}
		var err error
		if h.line, err = parseLine(r.Bytes(maxLine)); err != nil {
			r.Fail("%v", err)
		}
		return true
	})
	return r.End()
}

// Method is a way to log in.
type Method uint8

// The methods.
const (
	ByDevice   Method = 1 // the handshake has proved the device's key
	ByPassword Method = 2 // makes the key that the handshake has proved a device of the user's
	ByJoining  Method = 3 // makes the user too
	ByLink     Method = 4 // a server: User is its name, and Key its own
)

// ClientHello is what a client says of itself, and its login.
type ClientHello struct {
	Key      identity.PublicKey // its device's; proved by the handshake when Answer returns it
	Agent    string             // the program and its version, for logs
	Features []uint64
	Window   Window
	Method   Method
	User     string // without the server
	Password string // ByPassword, ByJoining
	Label    string // at most MaxLabel; the device's name for people: ByPassword, ByJoining
	Invite   string // ByJoining
	Parts    []Part // of envelopes, from an earlier connection; for Open
	Have     []Have // the same as Answer returns it
	Cost     int    // ByLink: what the link costs who dials, 1 to 65,535; 0: he doesn't say

	proof []byte // that the Ed25519 half of Key is the client's too; unless ByDevice
	half  bool   // ByDevice, on a slow line: the server knows the Ed25519 half, and it is not said
}

// proofOf is what a new device signs, or a server, followed by the X25519 half of its key: the
// handshake proves that half, and this that the two belong together. It is not
// needed again when the server knows the whole key.
const proofOf = "noipchat device key"

// MaxLabel bounds what a user calls a device, in bytes of UTF-8.
const MaxLabel = 64

// Bounds of what a login says, in bytes.
const (
	maxAgent  = 64 // and of invitations
	maxSecret = 1024
)

func (h *ClientHello) append(b []byte) []byte {
	b = message.AppendArray(b, 13)
	b = append(b, h.role())
	if h.half {
		b = message.AppendBytes(b, nil)
	} else {
		b = message.AppendBytes(b, h.Key[32:])
	}
	b = message.AppendBytes(b, h.proof)
	b = message.AppendString(b, h.Agent)
	b = appendFeatures(b, h.Features)
	b = appendWindow(b, h.Window)
	b = message.AppendUint(b, uint64(h.Method))
	b = message.AppendString(b, h.User)
	b = message.AppendString(b, h.Password)
	b = message.AppendString(b, h.Label)
	b = message.AppendString(b, h.Invite)
	fields := 0
	if len(h.Have) > 0 {
		fields++
	}
	if h.Cost > 0 {
		fields++
	}
	b = message.AppendMap(b, fields)
	if len(h.Have) > 0 {
		b = appendHave(append(b, keyHave), h.Have)
	}
	if h.Cost > 0 {
		b = message.AppendUint(append(b, keyCost), uint64(h.Cost))
	}
	return b
}

func (h *ClientHello) parse(b []byte) error {
	r := message.NewReader(b)
	r.Tuple(13)
	role := r.Uint(127)
	if role != 1 && role != 2 {
		r.Fail("role %d is not known", role)
	}
	key := r.Bytes(32)
	if h.half = len(key) == 0; !h.half && len(key) != 32 {
		r.Fail("a key of %d bytes", len(key))
	}
	copy(h.Key[32:], key)
	h.proof = r.Bytes(ed25519.SignatureSize)
	h.Agent = r.Text(maxAgent)
	h.Features = readFeatures(&r)
	h.Window = readWindow(&r)
	h.Method = Method(r.Uint(127))
	if r.Err() == nil && (h.Method < ByDevice || h.Method > ByLink || byte(role) != h.role()) {
		r.Fail("the way to log in %d is not known, or not for role %d", h.Method, role)
	}
	if want := h.proofSize(); len(h.proof) != want {
		r.Fail("a proof of %d bytes, want %d", len(h.proof), want)
	}
	if h.half && h.Method != ByDevice {
		r.Fail("a new device with half a key")
	}
	h.User = r.Name()
	h.Password = r.String(maxSecret)
	h.Label = r.Text(MaxLabel)
	h.Invite = r.Text(maxAgent)
	r.Fields(func(key uint64) bool {
		switch key {
		case keyHave:
			h.Have = readHave(&r)
		case keyCost:
			h.Cost = int(r.Uint(1<<16 - 1))
			if r.Err() == nil && (h.Cost == 0 || h.Method != ByLink) {
				r.Fail("a cost of %d, by method %d", h.Cost, h.Method)
			}
		default:
			return false
		}
		return true
	})
	return r.End()
}

// role is what the client is: 1 a device, 2 a server.
func (h *ClientHello) role() byte {
	if h.Method == ByLink {
		return 2
	}
	return 1
}

func (h *ClientHello) proofSize() int {
	if h.Method == ByDevice {
		return 0
	}
	return ed25519.SignatureSize
}

// maxLine is the length of what appendLine appends, at most.
const maxLine = 9 + 5 + 1

// appendLine appends what is known of a line: bits per second, milliseconds one way,
// and 1 for metered, 2 for exclusive.
func appendLine(b []byte, line transport.Properties) []byte {
	b = message.AppendUint(b, uint64(line.Rate))
	b = message.AppendUint(b, uint64(line.Latency/time.Millisecond))
	flags := byte(0)
	if line.Metered {
		flags |= 1
	}
	if line.Exclusive {
		flags |= 2
	}
	return append(b, flags)
}

func parseLine(b []byte) (transport.Properties, error) {
	r := message.NewReader(b)
	line := transport.Properties{
		Rate:    int(r.Uint(transport.MaxRate)),
		Latency: time.Duration(r.Uint(uint64(transport.MaxLatency/time.Millisecond))) * time.Millisecond,
	}
	flags := r.Uint(3)
	line.Metered, line.Exclusive = flags&1 != 0, flags&2 != 0
	if r.Err() == nil && line.Rate > 0 && line.Rate < transport.MinRate {
		r.Fail("a rate of %d", line.Rate)
	}
	return line, r.End()
}

// Half tells that only the X25519 half of Key was said, which is proved.
func (h *ClientHello) Half() bool { return h.half }

func readKey(r *message.Reader) []byte {
	k := r.Bytes(32)
	if r.Err() == nil && len(k) != 32 {
		r.Fail("a key of %d bytes", len(k))
	}
	return k
}

func appendFeatures(b []byte, features []uint64) []byte {
	b = message.AppendArray(b, len(features))
	for _, f := range features {
		b = message.AppendUint(b, f)
	}
	return b
}

func readFeatures(r *message.Reader) []uint64 {
	n := r.Array(maxFeatures)
	if n == 0 {
		return nil
	}
	features := make([]uint64, n)
	for i := range features {
		features[i] = r.Uint(1<<32 - 1)
		if i > 0 && features[i] <= features[i-1] {
			r.Fail("the features do not rise")
		}
	}
	return features
}

func appendWindow(b []byte, w Window) []byte {
	b = message.AppendUint(b, uint64(w.Count))
	return message.AppendUint(b, uint64(w.Bytes))
}

func readWindow(r *message.Reader) Window {
	w := Window{int(r.Uint(65535)), int(r.Uint(1 << 30))}
	if r.Err() == nil && (w.Count == 0 || w.Bytes < message.MaxEnvelope) {
		r.Fail("a window of %d envelopes and %d bytes", w.Count, w.Bytes)
	}
	return w
}
