package wire

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/flynn/noise"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/transport"
)

// The handshake is Noise_XX_25519_AESGCM_SHA256 with Magic as its prologue:
//
//	client                        server
//	Magic, e            ───────▶
//	                    ◀───────  e, ee, s, es, its hello
//	s, se, hello, login ───────▶
//	                    ◀───────  the first record: welcome, or no
//
// each message behind two bytes of length. The client's static key is its
// device's key, so the handshake itself proves the login by device, and no
// signature is needed.
//
// A client whose line is slow says what it knows of it beside its e: in the clear,
// because there is no key yet, but nobody can change it unnoticed. The server then
// leaves out what can wait, and both use lanes (lanes.go).

// ErrLeft says that a client went away in good order between the server's hello and
// its own: it wanted to know who is there, or does not accept it.
var ErrLeft = errors.New("it learned who this server is, and left")

// Answer is the server's side. It returns the channel with what the client said
// of itself; whether to let it in is the caller's to decide, and to say in the
// first record. The caller has set a deadline on conn, which is put off if the line
// turns out to be slow.
func Answer(conn transport.Conn, key identity.Key, hello ServerHello) (*Conn, ClientHello, error) {
	return answer(conn, key, hello, rand.Reader)
}

func answer(conn transport.Conn, key identity.Key, hello ServerHello, random io.Reader) (*Conn, ClientHello, error) {
	var ch ClientHello
	public := key.Public()
	hello.Ed25519 = [32]byte(public[32:])
	var magic [len(Magic)]byte
	if _, err := io.ReadFull(conn, magic[:]); err != nil {
		return nil, ch, err
	}
	if string(magic[:]) != Magic {
		if string(magic[:3]) == Magic[:3] {
			return nil, ch, broken("it speaks version %d, this server version %d", magic[3], Magic[3])
		}
		return nil, ch, broken("%q is no beginning of a NoIPChat connection", magic[:])
	}
	h, err := newHandshake(conn, key.X25519(), false, Magic, random)
	if err != nil {
		return nil, ch, err
	}
	payload, err := h.read(keySize + maxLine)
	if err != nil {
		return nil, ch, err
	}
	slow, err := hello.adapt(conn, payload)
	if err != nil {
		return nil, ch, broken("what it says of its line: %v", err)
	}
	payload = hello.append(nil)
	if err := new(ServerHello).parse(payload); err != nil {
		return nil, ch, fmt.Errorf("our own hello: %w", err)
	}
	sent := time.Now()
	if err := h.write(nil, payload); err != nil {
		return nil, ch, err
	}
	if payload, err = h.read(maxMsg); err == io.EOF {
		return nil, ch, ErrLeft
	} else if err != nil {
		return nil, ch, err
	}
	if err := ch.parse(payload); err != nil {
		return nil, ch, broken("the client's hello: %v", err)
	}
	copy(ch.Key[:32], h.PeerStatic())
	if ch.Method != ByDevice && !ch.Key.Verify(append([]byte(proofOf), ch.Key[:32]...), ch.proof) {
		return nil, ch, broken("the client's hello: the two halves of its key don't belong together")
	}
	state := h.state(false)
	if slow && slices.Contains(ch.Features, featureLanes) {
		measure(conn, sent)
		state.Lanes = newLanes()
		state.Lanes.Have, state.Lanes.Met = ch.Have, true
	} else if ch.half || ch.Have != nil {
		return nil, ch, broken("the client's hello: it has what is for slow lines only")
	}
	c, err := Resume(conn, state)
	return c, ch, err
}

// mostPatience bounds what a stranger can make us wait for him by saying how slow he is.
const mostPatience = 10 * time.Minute

// adapt makes the hello one for the line, of which told is what the client says, if
// it says something; it tells whether the line is slow.
func (h *ServerHello) adapt(conn transport.Conn, told []byte) (slow bool, err error) {
	own := conn.Properties()
	line := own
	var theirs transport.Properties
	if len(told) > 0 {
		if theirs, err = parseLine(told); err != nil {
			return false, err
		}
		line = own.With(theirs)
	}
	if !line.Slow() {
		return false, nil
	}
	if line != theirs {
		h.line = line
	}
	conn.Describe(line)
	conn.SetDeadline(time.Now().Add(min(line.Patience(leastPatience, handshakeBytes), mostPatience)))
	h.Features = []uint64{featureLanes}
	h.Public = nil
	h.Window = h.Window.min(slowWindow)
	if line.Quiet() {
		h.Idle = 0
	}
	return true, nil
}

// How long a handshake and login may take: see transport.Properties.Patience.
const (
	leastPatience  = 10 * time.Second
	handshakeBytes = 400
)

// measure notes how long an answer took that began at sent, if that is longer than
// was known.
func measure(conn transport.Conn, sent time.Time) {
	line := conn.Properties()
	line.Latency = max(line.Latency, (time.Since(sent)-line.Time(handshakeBytes))/2)
	conn.Describe(line)
}

// Open is the client's side. meet is called with the server's hello and key
// before anything of the client's own is sent: it returns the client's hello, or
// an error, which ends the handshake and is returned as it is. The server waits
// only for seconds: who has to ask a person returns an error and comes again.
// The Ed25519 half of the server's key is what the server says; only the other
// half is proved. The caller has set a deadline on conn.
func Open(conn transport.Conn, key identity.Key, meet func(ServerHello) (ClientHello, error)) (*Conn, error) {
	return open(conn, key, meet, rand.Reader)
}

func open(conn transport.Conn, key identity.Key, meet func(ServerHello) (ClientHello, error), random io.Reader) (*Conn, error) {
	public := key.Public()
	h, err := newHandshake(conn, key.X25519(), true, Magic, random)
	if err != nil {
		return nil, err
	}
	var line []byte
	if p := conn.Properties(); p.Slow() {
		line = appendLine(nil, p)
	}
	sent := time.Now()
	if err := h.write([]byte(Magic), line); err != nil {
		return nil, err
	}
	payload, err := h.read(maxMsg)
	if err != nil {
		return nil, err
	}
	var sh ServerHello
	if err := sh.parse(payload); err != nil {
		return nil, broken("the server's hello: %v", err)
	}
	copy(sh.Key[:32], h.PeerStatic())
	copy(sh.Key[32:], sh.Ed25519[:])
	slow := slices.Contains(sh.Features, featureLanes)
	if slow {
		conn.Describe(conn.Properties().With(sh.line))
		measure(conn, sent)
	}
	ch, err := meet(sh)
	if err != nil {
		return nil, err
	}
	ch.Key, ch.Have = public, nil
	if slow {
		ch.Features, ch.Window, ch.Agent = []uint64{featureLanes}, ch.Window.min(slowWindow), ""
		ch.Have, ch.half = haves(ch.Parts), ch.Method == ByDevice
	}
	if ch.proof = nil; ch.Method != ByDevice {
		ch.proof = key.Sign(append([]byte(proofOf), public[:32]...))
	}
	payload = ch.append(nil)
	if err := new(ClientHello).parse(payload); err != nil {
		return nil, fmt.Errorf("our own hello: %w", err)
	}
	if err := h.write(nil, payload); err != nil {
		return nil, err
	}
	state := h.state(true)
	if slow {
		state.Lanes = newLanes()
		state.Lanes.Parts = ch.Parts
	}
	return Resume(conn, state)
}

// handshake is one side of a Noise handshake over a stream.
type handshake struct {
	*noise.HandshakeState
	conn               io.ReadWriter
	toServer, toClient *noise.CipherState // after the last message
}

func newHandshake(conn io.ReadWriter, static *ecdh.PrivateKey, initiator bool, prologue string, random io.Reader) (*handshake, error) {
	var dh diffieHellman
	hs, err := noise.NewHandshakeState(noise.Config{
		CipherSuite:   noise.NewCipherSuite(&dh, noise.CipherAESGCM, noise.HashSHA256),
		Random:        random,
		Pattern:       noise.HandshakeXX,
		Initiator:     initiator,
		Prologue:      []byte(prologue),
		StaticKeypair: dh.keep(static),
	})
	return &handshake{HandshakeState: hs, conn: conn}, err
}

// diffieHellman is X25519 for one handshake, in the place of the one that comes with
// Noise. That one is given private keys as bytes, and package ecdh computes the public
// key of any bytes that it makes a key of, which takes as long as a shared secret.
// This one keeps the two keys; what Noise takes for their bytes is their place.
type diffieHellman struct {
	keys [2]*ecdh.PrivateKey
	n    byte
}

func (d *diffieHellman) keep(k *ecdh.PrivateKey) noise.DHKey {
	d.keys[d.n] = k
	d.n++
	return noise.DHKey{Private: []byte{d.n - 1}, Public: k.PublicKey().Bytes()}
}

// GenerateKeypair implements noise.DHFunc, once in a handshake.
func (d *diffieHellman) GenerateKeypair(random io.Reader) (noise.DHKey, error) {
	var private [32]byte
	if _, err := io.ReadFull(random, private[:]); err != nil {
		return noise.DHKey{}, err
	}
	k, err := ecdh.X25519().NewPrivateKey(private[:])
	if err != nil {
		return noise.DHKey{}, err
	}
	return d.keep(k), nil
}

// DH implements noise.DHFunc.
func (d *diffieHellman) DH(private, public []byte) ([]byte, error) {
	theirs, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	return d.keys[private[0]].ECDH(theirs)
}

// DHLen implements noise.DHFunc.
func (*diffieHellman) DHLen() int { return 32 }

// DHName implements noise.DHFunc.
func (*diffieHellman) DHName() string { return "25519" }

// write sends what comes before and the next message with a payload, at once.
func (h *handshake) write(before, payload []byte) error {
	if len(payload) > maxHello {
		return fmt.Errorf("a hello of %d bytes is longer than %d", len(payload), maxHello)
	}
	at := len(before) + 2
	msg, first, second, err := h.WriteMessage(append(before, 0, 0), payload)
	if err != nil {
		return err
	}
	h.toServer, h.toClient = first, second
	binary.BigEndian.PutUint16(msg[at-2:], uint16(len(msg)-at))
	_, err = h.conn.Write(msg)
	return err
}

// read returns the payload of the next message, which has at most max bytes. The error
// is io.EOF itself only if nothing of it has come.
func (h *handshake) read(max int) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(h.conn, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > max {
		return nil, broken("a handshake message of %d bytes, where %d are allowed", n, max)
	}
	msg := make([]byte, n)
	if _, err := io.ReadFull(h.conn, msg); err == io.EOF {
		return nil, io.ErrUnexpectedEOF
	} else if err != nil {
		return nil, err
	}
	payload, first, second, err := h.ReadMessage(nil, msg)
	if err != nil {
		return nil, broken("the handshake: %v", err)
	}
	h.toServer, h.toClient = first, second
	return payload, nil
}

// state takes the keys out of Noise: from here on the counters are ours.
func (h *handshake) state(client bool) State {
	in, out := h.toServer, h.toClient
	if client {
		in, out = out, in
	}
	return State{
		In:  Direction{Key: in.UnsafeKey(), Number: in.Nonce()},
		Out: Direction{Key: out.UnsafeKey(), Number: out.Nonce()},
	}
}
