package wire

import (
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
)

// Bounds of what servers tell each other of routes.
const (
	maxUpdates      = 64
	maxRequests     = 32
	maxAnnouncement = 1 << 10
)

// ServerID is a server in a routes frame: its name, and its key's id; zero: any key.
type ServerID struct {
	Name string
	Key  [8]byte
}

// RouteUpdate says how a server is reached by who says it. With an infinite metric,
// 65,535, it isn't any more.
type RouteUpdate struct {
	ServerID
	Epoch, Number uint32
	Metric        uint16
	Announcement  []byte // empty: as the last time
}

// RouteRequest asks for an update that is newer than an epoch and number.
type RouteRequest struct {
	ServerID
	Epoch, Number uint32
	Hops          uint8
	Proof         []byte // an announcement of them, or none
}

// Routes is what one server tells another of routes.
type Routes struct {
	Updates  []RouteUpdate
	Requests []RouteRequest

	// A server that has forgotten what both sides have said on this connection begins
	// anew with a number of its own; from then on it passes over what comes, until that
	// number is answered. 0: it doesn't begin, it doesn't answer.
	Anew, Answer uint32
}

// keys of the map
const (
	keyAnew   = 1
	keyAnswer = 2
)

// AppendRoutes appends a routes frame: an array of 3, of which the first is an array of
// arrays of 6, the second one of arrays of 6, and the third a map.
func AppendRoutes(b []byte, m *Routes) []byte {
	b, at := begin(b, RoutesFrame)
	b = message.AppendArray(b, 3)
	b = message.AppendArray(b, len(m.Updates))
	for i := range m.Updates {
		u := &m.Updates[i]
		b = appendServerID(b, &u.ServerID)
		b = message.AppendUint(b, uint64(u.Epoch))
		b = message.AppendUint(b, uint64(u.Number))
		b = message.AppendUint(b, uint64(u.Metric))
		b = message.AppendBytes(b, u.Announcement)
	}
	b = message.AppendArray(b, len(m.Requests))
	for i := range m.Requests {
		q := &m.Requests[i]
		b = appendServerID(b, &q.ServerID)
		b = message.AppendUint(b, uint64(q.Epoch))
		b = message.AppendUint(b, uint64(q.Number))
		b = message.AppendUint(b, uint64(q.Hops))
		b = message.AppendBytes(b, q.Proof)
	}
	pairs := 0
	for _, n := range []uint32{m.Anew, m.Answer} {
		if n != 0 {
			pairs++
		}
	}
	b = message.AppendMap(b, pairs)
	if m.Anew != 0 {
		b = message.AppendUint(message.AppendUint(b, keyAnew), uint64(m.Anew))
	}
	if m.Answer != 0 {
		b = message.AppendUint(message.AppendUint(b, keyAnswer), uint64(m.Answer))
	}
	return finish(b, at)
}

func appendServerID(b []byte, id *ServerID) []byte {
	b = message.AppendArray(b, 6)
	b = message.AppendString(b, id.Name)
	if id.Key == ([8]byte{}) {
		return message.AppendBytes(b, nil)
	}
	return message.AppendBytes(b, id.Key[:])
}

// ParseRoutes reads a routes frame. Bytes are shared.
func ParseRoutes(body []byte) (m Routes, err error) {
	r := message.NewReader(body)
	r.Tuple(3)
	for range r.Array(maxUpdates) {
		u := RouteUpdate{ServerID: readServerID(&r, false)}
		u.Epoch, u.Number = uint32(r.Uint(1<<32-1)), uint32(r.Uint(1<<32-1))
		u.Metric = uint16(r.Uint(1<<16 - 1))
		u.Announcement = r.Bytes(maxAnnouncement)
		if r.Err() != nil {
			break
		}
		m.Updates = append(m.Updates, u)
	}
	for range r.Array(maxRequests) {
		q := RouteRequest{ServerID: readServerID(&r, true)}
		q.Epoch, q.Number = uint32(r.Uint(1<<32-1)), uint32(r.Uint(1<<32-1))
		q.Hops = uint8(r.Uint(255))
		q.Proof = r.Bytes(maxAnnouncement)
		if r.Err() != nil {
			break
		}
		m.Requests = append(m.Requests, q)
	}
	r.Fields(func(key uint64) bool {
		switch key {
		case keyAnew:
			m.Anew = uint32(r.Uint(1<<32 - 1))
		case keyAnswer:
			m.Answer = uint32(r.Uint(1<<32 - 1))
		default:
			return false
		}
		return true
	})
	if err := r.End(); err != nil {
		return m, broken("routes: %v", err)
	}
	return m, nil
}

// readServerID reads the first two of 6 fields; any: the name or the key may be left out.
func readServerID(r *message.Reader, any bool) (id ServerID) {
	r.Tuple(6)
	id.Name = r.String(message.MaxName)
	key := r.Bytes(len(id.Key))
	if r.Err() != nil {
		return id
	}
	if !any || id.Name != "" {
		if err := message.CheckName(id.Name); err != nil {
			r.Fail("%v", err)
		}
	}
	if copy(id.Key[:], key) < len(id.Key) && (len(key) > 0 || !any) {
		r.Fail("a key's id of %d bytes", len(key))
	}
	return id
}

// Announcement is what a server says of itself to all, signed by it.
type Announcement struct {
	Name          string
	Key           identity.PublicKey
	Epoch, Number uint32
	Public        []string // "ip:port" at which it is reached
}

// announcementOf is what is signed, followed by the first five fields.
const announcementOf = "noipchat announcement"

// maxAnnounced bounds the public addresses in an announcement.
const maxAnnounced = 8

// Sign returns the announcement's bytes: an array of 6, of which the last is the
// signature.
func (a *Announcement) Sign(key identity.Key) []byte {
	b := message.AppendArray(nil, 6)
	b = message.AppendString(b, a.Name)
	b = message.AppendBytes(b, a.Key[:])
	b = message.AppendUint(b, uint64(a.Epoch))
	b = message.AppendUint(b, uint64(a.Number))
	b = appendStrings(b, a.Public[:min(len(a.Public), maxAnnounced)])
	return message.AppendBytes(b, key.Sign(append([]byte(announcementOf), b...)))
}

// ParseAnnouncement reads an announcement. Whether the signature is right is for Verify:
// it costs much.
func ParseAnnouncement(b []byte) (a Announcement, err error) {
	r := message.NewReader(b)
	r.Tuple(6)
	a.Name = r.Name()
	if copy(a.Key[:], r.Bytes(len(a.Key))) < len(a.Key) && r.Err() == nil {
		r.Fail("a key that is too short")
	}
	a.Epoch, a.Number = uint32(r.Uint(1<<32-1)), uint32(r.Uint(1<<32-1))
	a.Public = readPublic(&r, maxAnnounced)
	if n := len(r.Bytes(64)); r.Err() == nil && n != 64 {
		r.Fail("a signature of %d bytes", n)
	}
	if err := r.End(); err != nil {
		return a, broken("an announcement: %v", err)
	}
	return a, nil
}

// Verify tells whether b, which was parsed as a, is signed by its key.
func (a *Announcement) Verify(b []byte) bool {
	at := len(b) - 66 // a byte string of 64
	return at > 0 && a.Key.Check() == nil && a.Key.Verify(append([]byte(announcementOf), b[:at]...), b[at+2:])
}
