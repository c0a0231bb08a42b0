package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/transport"
)

// The vectors in testdata/vectors are for other implementations; docs/protocol.md
// says how to read them. Here they hold ours to what it has promised: -update
// writes them anew, and a change of one that was released breaks the protocol.
var update = flag.Bool("update", false, "write testdata/vectors anew")

// hexed is bytes that are hex in JSON.
type hexed []byte

func (h hexed) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }
func (h *hexed) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

// golden compares got with a file of vectors, or writes it.
func golden[T any](t *testing.T, name string, got T) T {
	t.Helper()
	path := filepath.Join("testdata", "vectors", name+".json")
	b, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	if *update {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Errorf("%s is not what we do; we do\n%s", path, b)
	}
	return load[T](t, name)
}

func load[T any](t *testing.T, name string) (v T) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "vectors", name+".json"))
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Two keys, and what the sides would have drawn for their ephemeral ones.
var (
	serverKey = identity.KeyFromSeed([32]byte(bytes.Repeat([]byte{0x51}, 32)))
	clientKey = identity.KeyFromSeed([32]byte(bytes.Repeat([]byte{0xc1}, 32)))
)

// constant is a source of one byte, again and again, in the place of chance.
type constant byte

func (c constant) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(c)
	}
	return len(b), nil
}

func aServer() ServerHello {
	return ServerHello{
		Name: "server1", Features: []uint64{3, 200}, Public: []string{"192.0.2.1:6556", "[2001:db8::1]:6556"},
		Window: Window{Count: 1024, Bytes: 4 << 20}, Idle: 900,
	}
}

func aClient(m Method) ClientHello {
	h := ClientHello{Agent: "noipchat/1.0", Window: Window{Count: 256, Bytes: 1 << 20}, Method: m, User: "alice"}
	if m != ByDevice {
		h.Password, h.Label = "correct horse", "laptop"
	}
	if m == ByJoining {
		h.Invite = "k7m2-p9xw-4hqz"
	}
	return h
}

// tapped keeps what is written to a stream.
type tapped struct {
	transport.Conn
	wrote [][]byte
}

func (c *tapped) Write(b []byte) (int, error) {
	c.wrote = append(c.wrote, bytes.Clone(b))
	return c.Conn.Write(b)
}

func (c *tapped) TryWrite(b []byte) (int, error) {
	c.wrote = append(c.wrote, bytes.Clone(b))
	return c.Conn.TryWrite(b)
}

type handshakeVector struct {
	Name            string `json:"name"`
	ServerSeed      hexed  `json:"server_seed"`
	ClientSeed      hexed  `json:"client_seed"`
	ServerPublic    hexed  `json:"server_public"` // both halves
	ClientPublic    hexed  `json:"client_public"`
	ServerEphemeral hexed  `json:"server_ephemeral"` // private
	ClientEphemeral hexed  `json:"client_ephemeral"`
	ServerHello     hexed  `json:"server_hello"` // the payloads
	ClientHello     hexed  `json:"client_hello"`
	Message1        hexed  `json:"message_1"` // all bytes on the wire
	Message2        hexed  `json:"message_2"`
	Message3        hexed  `json:"message_3"`
	ToServerKey     hexed  `json:"to_server_key"`
	ToClientKey     hexed  `json:"to_client_key"`
	Welcome         hexed  `json:"welcome"` // plaintext of the first record
	Record          hexed  `json:"record"`  // all its bytes
}

func TestHandshakeVectors(t *testing.T) {
	var all []handshakeVector
	for _, c := range []struct {
		name   string
		method Method
		line   transport.Properties
	}{
		{"a login by device", ByDevice, transport.Properties{}},
		{"a login by password", ByPassword, transport.Properties{}},
		{"joining with an invitation", ByJoining, transport.Properties{}},
		{"a login by device, over a line of 1,200 bit/s and 2.5 s that is exclusive", ByDevice, transport.Properties{Rate: 1200, Latency: 2500 * time.Millisecond, Exclusive: true}},
	} {
		a, b := transport.MemoryPipe("test")
		a.Describe(c.line)
		near, far := &tapped{Conn: a}, &tapped{Conn: b}
		type answered struct {
			conn  *Conn
			hello ClientHello
			err   error
		}
		done := make(chan answered)
		go func() {
			conn, hello, err := answer(far, serverKey, aServer(), constant(0xe5))
			done <- answered{conn, hello, err}
		}()
		var met ServerHello
		ours, err := open(near, clientKey, func(h ServerHello) (ClientHello, error) {
			met = h
			return aClient(c.method), nil
		}, constant(0xec))
		theirs := <-done
		if err != nil || theirs.err != nil {
			t.Fatal(err, theirs.err)
		}
		if half := theirs.hello.Half(); half != c.line.Slow() || met.Key != serverKey.Public() || !half && theirs.hello.Key != clientKey.Public() {
			t.Error("the sides don't know each other")
		}
		sent := aClient(c.method)
		if h := theirs.hello; h.User != sent.User || h.Password != sent.Password || h.Invite != sent.Invite || h.Method != c.method {
			t.Errorf("%+v", h)
		}
		sent.Key, sent.proof = clientKey.Public(), theirs.hello.proof
		hello := aServer()
		hello.Ed25519 = [32]byte(met.Key[32:])
		if c.line.Slow() { // and says less
			hello, sent = met, theirs.hello
		}
		keys := ours.Export()
		w := AppendWelcome(nil, Welcome{Device: message.DeviceID(0x0123456789abcdef), Waiting: 3})
		if err := theirs.conn.Flush(&queue{frames: [][]byte{w}}); err != nil {
			t.Fatal(err)
		}
		if c.line.Slow() {
			w = append([]byte{0}, w...) // a piece of lane 0
		}
		serverSeed, clientSeed, serverPublic, clientPublic := bytes.Repeat([]byte{0x51}, 32), bytes.Repeat([]byte{0xc1}, 32), serverKey.Public(), clientKey.Public()
		all = append(all, handshakeVector{
			Name: c.name, ServerSeed: serverSeed, ClientSeed: clientSeed, ServerPublic: serverPublic[:], ClientPublic: clientPublic[:],
			ServerEphemeral: bytes.Repeat([]byte{0xe5}, 32), ClientEphemeral: bytes.Repeat([]byte{0xec}, 32),
			ServerHello: hello.append(nil), ClientHello: sent.append(nil),
			Message1: near.wrote[0], Message2: far.wrote[0], Message3: near.wrote[1],
			ToServerKey: keys.Out.Key[:], ToClientKey: keys.In.Key[:], Welcome: w, Record: far.wrote[1],
		})
	}
	golden(t, "handshake", all)
}

type laneVector struct {
	Says      string  `json:"says"`
	Plaintext hexed   `json:"plaintext"` // of a record
	Frames    []hexed `json:"frames"`    // that are whole with it, as they are on other lines
}

// TestLaneVectors has the records of one direction of a slow line, one after the other.
func TestLaneVectors(t *testing.T) {
	const size = 120
	out, in := newLanes(), newLanes()
	out.Met = true
	envelope := func(counter uint64, p message.Priority, body string, change func(*message.Envelope)) []byte {
		e := message.Envelope{
			Kind: message.Text, Priority: p, From: "alice@server1", Device: 0x0123456789abcdef, Counter: counter,
			Created: 1_700_000_000_000 + counter*1000, To: []message.Address{"bob@server1"}, Body: []byte(body),
		}
		if change != nil {
			change(&e)
		}
		raw, err := e.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	file := func(e *message.Envelope) { e.Kind = message.File }
	large := envelope(5, message.Bulk, string(bytes.Repeat([]byte("0123456789"), 50)), file)
	part := Part(large[:leastPart])
	in.Parts, out.Have = []Part{part}, haves([]Part{part})
	var all []laneVector
	for _, step := range []struct {
		says string
		put  []byte
		wait bool // for the next step with all but one record
	}{
		{"the first text: all is said", AppendEnvelope(nil, Transit{}, envelope(1, message.Normal, "hello", nil)), false},
		{"the next one: what is the same is not", AppendEnvelope(nil, Transit{}, envelope(2, message.Normal, "are you there?", nil)), false},
		{"to others, an hour old, for the second of them", AppendEnvelope(nil, Transit{Open: 2, Age: 3600}, envelope(3, message.Normal, "dinner?", func(e *message.Envelope) {
			e.To = []message.Address{"bob@server1", "carol@server2"}
		})), false},
		{"by another author, in two pieces with an ack before", slices.Concat(AppendAck(nil, &Ack{Upto: 100}), AppendEnvelope(nil, Transit{}, envelope(1, message.Normal, string(bytes.Repeat([]byte("so it is. "), 20)), func(e *message.Envelope) {
			e.From, e.Device = "carol@server2", 9
		}))), false},
		{"the rest of a file that the receiver has the beginning of", AppendEnvelope(nil, Transit{}, large), true},
		{"a text between its pieces", AppendEnvelope(nil, Transit{}, envelope(6, message.Normal, "in between", nil)), false},
		{"from server to server: what goes with it is said each time", AppendEnvelope(nil, Transit{Passage: message.Passage{Hops: 9, Path: message.Path{{Server: "server2"}}.Pack(), Unverified: true}}, envelope(7, message.Normal, "from afar", nil)), false},
		{"a part of a file with an added field has no short form", AppendEnvelope(nil, Transit{}, envelope(8, message.Bulk, "x", func(e *message.Envelope) { e.Kind, e.Formerly = message.File, 4 })), false},
	} {
		for rest := step.put; len(rest) > 0; { // as pull does it
			kind, body, more, err := Next(rest)
			if err == nil && kind == EnvelopeFrame {
				err = out.pack(body)
			} else if err == nil {
				out.Out[0].add(rest[:len(rest)-len(more)], 0)
			}
			if err != nil {
				t.Fatal(err)
			}
			rest = more
		}
		for says := step.says; !out.empty(); says = "and on" {
			v := laneVector{Says: says, Plaintext: out.fill(nil, size)}
			in.Base, in.Acked = 100, message.Ranges{{First: 1, Last: 100}} // of which the ack is
			frames, err := in.open(v.Plaintext, new(sync.Mutex))
			if err != nil {
				t.Fatalf("%s: %v", v.Says, err)
			}
			for len(frames) > 0 {
				_, _, rest, err := Next(frames)
				if err != nil {
					t.Fatal(err)
				}
				v.Frames = append(v.Frames, hexed(frames[:len(frames)-len(rest)]))
				frames = rest
			}
			if all = append(all, v); step.wait {
				break
			}
		}
	}
	if !out.empty() {
		t.Error("something is left")
	}
	golden(t, "lanes", struct {
		Part    hexed        `json:"part"` // that the receiver has of an earlier connection
		Sum     hexed        `json:"sum"`
		Records []laneVector `json:"records"`
	}{hexed(part), hexed(out.Have[0].Sum[:]), all})
}

type recordVector struct {
	Comment   string `json:"comment"`
	Key       hexed  `json:"key"`
	Number    uint64 `json:"number"` // of this record in its direction
	Bytes     uint64 `json:"bytes"`  // of plaintext with this key before it
	Plaintext hexed  `json:"plaintext"`
	Record    hexed  `json:"record"`
	NextKey   hexed  `json:"next_key"`
}

func TestRecordVectors(t *testing.T) {
	var all []recordVector
	for _, c := range []recordVector{
		{Comment: "the first record", Number: 0},
		{Comment: "a later one", Number: 41, Bytes: 1000},
		{Comment: "the key is renewed after 65,536 records", Number: rekeyRecords - 1, Bytes: 1000},
		{Comment: "the key is renewed after 2^30 bytes", Number: 500, Bytes: rekeyBytes - 3},
	} {
		d := Direction{Key: [32]byte(bytes.Repeat([]byte{0x4b}, 32)), Number: c.Number, Bytes: c.Bytes}
		c.Key, c.Plaintext = bytes.Clone(d.Key[:]), AppendPing(AppendPong(nil))
		in, err := newDirection(d)
		if err != nil {
			t.Fatal(err)
		}
		c.Record = seal(t, &d, c.Plaintext)
		c.NextKey = d.Key[:]
		if plain, err := in.open(c.Record[2:]); err != nil || !bytes.Equal(plain, c.Plaintext) || in.Direction != d {
			t.Errorf("%s: %x, %v", c.Comment, plain, err)
		}
		all = append(all, c)
	}
	golden(t, "records", all)
}

type frameVector struct {
	Frame hexed  `json:"frame"`
	Type  uint8  `json:"type"`
	Says  string `json:"says"`
}

func TestFrameVectors(t *testing.T) {
	e := message.Envelope{
		Kind: message.Text, Priority: message.Normal, From: "alice@server1", Device: 0x0123456789abcdef, Counter: 7,
		Created: 1_700_000_000_000, Lifetime: 86400, To: []message.Address{"bob@server1", "carol@server2"}, Body: []byte("dinner at eight? ☕"),
	}
	raw, err := e.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	full := message.Defer(message.CodeFull, 90*time.Second, "the disk is full")
	none := message.Refuse(message.CodeNoUser, "server1 has no user carol")
	devices := []string{identity.KeyFromSeed([32]byte{1}).Public().String(), identity.KeyFromSeed([32]byte{2}).Public().String()}
	frames := []frameVector{
		{AppendEnvelope(nil, Transit{}, raw), 1, "an envelope for all its receivers, just written"},
		{AppendEnvelope(nil, Transit{Open: 1 << 1, Age: 3600}, raw), 1, "an envelope for its second receiver only, an hour old"},
		{AppendAck(nil, &Ack{Upto: 300}), 2, "frames 1 to 300 are done"},
		{AppendAck(nil, &Ack{Upto: 5, Beyond: message.Ranges{{First: 7, Last: 9}, {First: 20, Last: 20}}}), 2, "1 to 5, 7 to 9, and 20"},
		{AppendAck(nil, &Ack{Upto: 9, Exceptions: []Exception{
			{Number: 8, Receiver: 0, State: message.Held},
			{Number: 8, Receiver: 1, State: message.Refused, Refusal: none},
			{Number: 9, Receiver: 0, State: message.Refused, Refusal: full},
		}}), 2, "1 to 9; of 8 the first receiver's is held, the second is refused for good; 9 is refused for 90 seconds"},
		{AppendWelcome(nil, Welcome{Device: 0x0123456789abcdef, Waiting: 12, Counter: 70000, Unsure: true}), 3, "come in, device 0123456789abcdef; about 12 wait; you have counted to 70000 at most"},
		{AppendWelcome(nil, Welcome{No: message.Refuse(message.CodeBadLogin, "wrong user or password")}), 3, "no"},
		{AppendGoodbye(nil, message.Defer(message.CodeStopping, time.Second, "the server is going down")), 4, "goodbye, come back in a second"},
		{AppendPing(nil), 5, "ping"},
		{AppendPong(nil), 6, "pong"},
		{AppendRequest(nil, Request{Number: 1, Op: OpPassword, Args: []string{"old one", "new one"}}), 7, "request 1: change the password"},
		{AppendReply(nil, Reply{Number: 1}), 8, "request 1 is done"},
		{AppendReply(nil, Reply{Number: 1, No: message.Refuse(message.CodeBadLogin, "that is not your password")}), 8, "request 1 is refused"},
		{AppendRequest(nil, Request{Number: 2, Op: OpKeys, Args: []string{"bob@server1"}}), 7, "request 2: which devices has bob?"},
		{AppendReply(nil, Reply{Number: 2, Results: devices}), 8, "the keys of his two devices"},
	}
	for _, v := range golden(t, "frames", frames) {
		kind, body, rest, err := Next(v.Frame)
		if err != nil || uint8(kind) != v.Type || len(rest) != 0 {
			t.Errorf("%s: type %d, %d bytes left, %v", v.Says, kind, len(rest), err)
			continue
		}
		if again, err := rewrite(kind, body); err != nil || !bytes.Equal(again, v.Frame) {
			t.Errorf("%s: read and written again it is %x, %v", v.Says, again, err)
		}
	}
}

type envelopeVector struct {
	Comment  string            `json:"comment"`
	Kind     uint8             `json:"kind"`
	Priority uint8             `json:"priority"`
	From     message.Address   `json:"from"`
	Device   message.DeviceID  `json:"device"`
	Counter  uint64            `json:"counter"`
	Created  uint64            `json:"created"`
	Lifetime uint32            `json:"lifetime"`
	To       []message.Address `json:"to"`
	Sealing  uint8             `json:"sealing"`
	Body     hexed             `json:"body"`
	Bytes    hexed             `json:"bytes"`
	ID       message.ID        `json:"id"`
}

func TestEnvelopeVectors(t *testing.T) {
	read := message.Report{State: message.Read, Receiver: "bob@server1", Device: 0x0123456789abcdef, Counters: message.Ranges{{First: 3, Last: 7}, {First: 9, Last: 9}}}
	gone := message.Report{State: message.Expired, Receiver: "bob@server1", Device: 0x0123456789abcdef, Counters: message.Ranges{{First: 8, Last: 8}}, Code: message.CodeExpired, Reason: "its lifetime was over"}
	var all []envelopeVector
	for _, v := range []envelopeVector{
		{Comment: "a text to one", Kind: 1, Priority: 1, From: "alice@server1", Device: 0x0123456789abcdef, Counter: 1, Created: 1_700_000_000_000, To: []message.Address{"bob@server1"}, Body: []byte("hello")},
		{Comment: "a text to two, that expires", Kind: 1, Priority: 1, From: "alice@server1", Device: 0x0123456789abcdef, Counter: 1 << 40, Created: 1_700_000_000_001, Lifetime: 86400, To: []message.Address{"bob@server1", "carol@server2"}, Body: []byte("zwölf Uhr ☕")},
		{Comment: "an empty text", Kind: 1, Priority: 2, From: "a@b", Device: 1, Counter: 2, To: []message.Address{"b@b"}},
		{Comment: "a receipt: bob has read 3 to 7, and 9", Kind: 3, From: "bob@server1", Device: 2, Counter: 3, To: []message.Address{"alice@server1"}, Body: read.Append(nil)},
		{Comment: "a bounce by a server: 8 expired", Kind: 4, From: "server1", Device: 3, Counter: 4, To: []message.Address{"alice@server1"}, Body: gone.Append(nil)},
		{Comment: "a kind of a later version, sealed", Kind: 100, Priority: 1, From: "alice@server1", Device: 4, Counter: 5, To: []message.Address{"bob@server1"}, Sealing: 1, Body: []byte{0, 255}},
	} {
		e := message.Envelope{
			Kind: message.Kind(v.Kind), Priority: message.Priority(v.Priority), From: v.From, Device: v.Device, Counter: v.Counter,
			Created: v.Created, Lifetime: v.Lifetime, To: v.To, Sealing: message.Sealing(v.Sealing), Body: v.Body,
		}
		raw, err := e.Append(nil)
		if err != nil {
			t.Fatalf("%s: %v", v.Comment, err)
		}
		v.Bytes, v.ID = raw, message.IDOf(raw)
		all = append(all, v)
	}
	for _, v := range golden(t, "envelopes", all) {
		var e message.Envelope
		if err := e.Parse(v.Bytes); err != nil || e.From != v.From || e.Counter != v.Counter || !bytes.Equal(e.Body, v.Body) {
			t.Errorf("%s: %+v, %v", v.Comment, e, err)
		}
	}
}

// TestMalformedVectors: what must be refused, for other implementations to refuse too.
func TestMalformedVectors(t *testing.T) {
	good, err := (&message.Envelope{Kind: 1, Priority: 1, From: "a@b", Device: 1, Counter: 2, To: []message.Address{"b@b", "c@b"}, Body: []byte("hi")}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(old, new string) hexed { return bytes.Replace(bytes.Clone(good), []byte(old), []byte(new), 1) }
	type vector struct {
		Why      string `json:"why"`
		Envelope hexed  `json:"envelope"`
	}
	all := []vector{
		{"cut off", good[:len(good)-1]},
		{"a byte after its end", append(bytes.Clone(good), 0)},
		{"version 2", edit("\x9c\x01\x01", "\x9c\x02\x01")},
		{"kind 0", edit("\x9c\x01\x01", "\x9c\x01\x00")},
		{"a text that would be urgent", edit("\x9c\x01\x01\x01", "\x9c\x01\x01\x00")},
		{"a number that is longer than it must be", edit("\x9c\x01\x01\x01", "\x9c\x01\x01\xcc\x01")},
		{"a string that is longer than it must be", edit("\xa3a@b", "\xd9\x03a@b")},
		{"counter 0", edit("\xa3a@b\x01\x02", "\xa3a@b\x01\x00")},
		{"an upper-case name", edit("a@b", "A@b")},
		{"receivers that do not rise", edit("\xa3b@b\xa3c@b", "\xa3c@b\xa3b@b")},
		{"a receiver twice", edit("\xa3b@b\xa3c@b", "\xa3b@b\xa3b@b")},
		{"no receivers", edit("\x92\xa3b@b\xa3c@b", "\x90")},
		{"a text that is not UTF-8", edit("hi", "\xc3\x28")},
		{"a negative number", edit("\x9c\x01\x01\x01", "\x9c\x01\x01\xff")},
		{"an added field below 64, which whoever does not know it must refuse", append(bytes.Clone(good[:len(good)-1]), 0x81, 0x02, 0x00)},
	}
	for _, v := range golden(t, "malformed", all) {
		if bytes.Equal(v.Envelope, good) {
			t.Errorf("%s: it is the good one", v.Why)
		}
		if err := new(message.Envelope).Parse(v.Envelope); err == nil {
			t.Errorf("%s: it is taken", v.Why)
		}
	}
}

// TestBytesOnTheWire holds the figures that docs/protocol.md tells.
func TestBytesOnTheWire(t *testing.T) {
	e := message.Envelope{
		Kind: message.Text, Priority: message.Normal, From: "alice@server1", Device: 1 << 63, Counter: 100,
		Created: 1_700_000_000_000, To: []message.Address{"bob@server1"}, Body: bytes.Repeat([]byte("a"), 200),
	}
	raw, err := e.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := 2 + len(AppendEnvelope(nil, Transit{}, raw)) + tagSize; n != 281 {
		t.Errorf("a text of 200 bytes has %d", n)
	}
	if n := 2 + len(AppendAck(nil, &Ack{Upto: 100})) + tagSize; n != 24 {
		t.Errorf("an ack has %d", n)
	}
	for i, v := range load[[]handshakeVector](t, "handshake") {
		want := 202
		if i == 3 {
			want += 7 // what it says of its line
		}
		if n := len(v.Message1) + len(v.Message2) + len(v.Message3) - len(v.ServerHello) - len(v.ClientHello); n != want {
			t.Errorf("%s: %d bytes besides the hellos", v.Name, n)
		}
	}
}
