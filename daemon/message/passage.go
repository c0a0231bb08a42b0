package message

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"math/bits"
	"strings"
	"time"
)

// Passage is what goes with an envelope from server to server, and what each of them
// may change; with what its home says for those who don't get it from the home itself.
type Passage struct {
	Hops       uint8      // servers that it may still cross after the next one
	Path       PackedPath // servers that it has crossed, its home first
	Proof      Proof      // that its home has sent it; zero: none
	Key        []byte     // its home's public key, where no announcement of it goes the same way; empty: not said
	Unverified bool       // its home's key isn't known: for the receiver's device
}

// Path is the servers that have held an envelope, in their order. Each wrote itself;
// nobody can verify another one.
type Path []Crossing

// Crossing is a server and how old the envelope was when it came there, in seconds:
// ages can be compared where clocks can't.
type Crossing struct {
	Server string `json:"server"`
	Age    uint32 `json:"age,omitempty"`
}

// String returns the servers with what time it took from each to the next, as in
// "server1, server2 after 2s, server3".
func (p Path) String() string {
	var b strings.Builder
	for i, c := range p {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(c.Server)
		if i > 0 && c.Age > p[i-1].Age {
			fmt.Fprintf(&b, " after %v", time.Duration(c.Age-p[i-1].Age)*time.Second)
		}
	}
	return b.String()
}

// Pack returns the path as it is on the wire.
func (p Path) Pack() (packed PackedPath) {
	for _, c := range p {
		packed = packed.And(c.Server, c.Age)
	}
	return packed
}

// PackedPath is a Path as it is on the wire, an array of names and ages in turn, so that
// what only passes by is not taken apart. Empty: no server.
type PackedPath []byte

// crossings begins to read a path, and returns how many there are.
func (p PackedPath) crossings() (r Reader, n int) {
	if len(p) == 0 {
		return r, 0
	}
	r = NewReader(p)
	return r, r.Array(2*MaxPath) / 2
}

func (r *Reader) crossing() Crossing { return Crossing{r.Name(), uint32(r.Uint(1<<32 - 1))} }

// Len is how many servers it has.
func (p PackedPath) Len() int {
	_, n := p.crossings()
	return n
}

// Unpack returns the path. Strings share its bytes.
func (p PackedPath) Unpack() Path {
	r, n := p.crossings()
	if n == 0 {
		return nil
	}
	path := make(Path, n)
	for i := range path {
		path[i] = r.crossing()
	}
	return path
}

// And is the path with one more server, if there is room; p stays as it is.
func (p PackedPath) And(server string, age uint32) PackedPath {
	r, n := p.crossings()
	if n >= MaxPath {
		return p
	}
	b := make([]byte, 0, len(p)+len(server)+8) // of which the heads have at most 3 more, 1 and 5
	b = append(AppendArray(b, 2*(n+1)), r.Rest()...)
	return AppendUint(AppendString(b, server), uint64(age))
}

// Same tells whether two paths have the same servers.
func (p PackedPath) Same(o PackedPath) bool {
	if bytes.Equal(p, o) {
		return true
	}
	r, n := p.crossings()
	other, m := o.crossings()
	if n != m {
		return false
	}
	for range n {
		if r.crossing().Server != other.crossing().Server {
			return false
		}
	}
	return true
}

// Path reads a path that is not empty. The bytes are shared.
func (r *Reader) Path() PackedPath {
	start := r.off
	n := r.Array(2 * MaxPath)
	if (n == 0 || n%2 != 0) && r.err == nil {
		r.Fail("a path of %d names and ages", n)
	}
	for range n / 2 {
		r.crossing()
	}
	if r.err != nil {
		return nil
	}
	return PackedPath(r.all[start:r.off:r.off])
}

// Bounds of a Passage.
const (
	MaxPath    = 16
	MaxPassage = 2 << 10 // bytes
)

// The keys of a passage's map.
const (
	keyHops = 1 + iota
	keyPath
	keySignature
	keySiblings
	keyUnverified
	keyHomeKey
)

const homeKeySize = 64 // identity.PublicKey

// IsZero tells that there is nothing to be said.
func (p *Passage) IsZero() bool {
	return p.Hops == 0 && len(p.Path) == 0 && p.Proof.Signature == nil && len(p.Key) == 0 && !p.Unverified
}

// AppendMap appends the map that is the end of an envelope's frame.
func (p *Passage) AppendMap(b []byte) []byte {
	n := 0
	for _, there := range []bool{p.Hops > 0, len(p.Path) > 0, p.Proof.Signature != nil, len(p.Proof.Siblings) > 0, p.Unverified, len(p.Key) > 0} {
		if there {
			n++
		}
	}
	b = AppendMap(b, n)
	if p.Hops > 0 {
		b = AppendUint(append(b, keyHops), uint64(p.Hops))
	}
	if len(p.Path) > 0 {
		b = append(append(b, keyPath), p.Path...)
	}
	if p.Proof.Signature != nil {
		b = AppendBytes(append(b, keySignature), p.Proof.Signature)
	}
	if len(p.Proof.Siblings) > 0 {
		b = AppendBytes(append(b, keySiblings), p.Proof.Siblings)
	}
	if p.Unverified {
		b = append(b, keyUnverified, 1)
	}
	if len(p.Key) > 0 {
		b = AppendBytes(append(b, keyHomeKey), p.Key)
	}
	return b
}

// Field reads a value of the map, for Reader.Fields. Bytes are shared.
func (p *Passage) Field(r *Reader, key uint64) bool {
	switch key {
	case keyHops:
		if p.Hops = uint8(r.Uint(255)); p.Hops == 0 && r.err == nil {
			r.Fail("0 hops are not said")
		}
	case keyPath:
		p.Path = r.Path()
	case keySignature:
		if p.Proof.Signature = r.Bytes(ed25519.SignatureSize); len(p.Proof.Signature) != ed25519.SignatureSize && r.err == nil {
			r.Fail("a signature of %d bytes", len(p.Proof.Signature))
		}
	case keySiblings:
		p.Proof.Siblings = r.Bytes(maxSiblings * siblingSize)
		if n := len(p.Proof.Siblings); r.err == nil && (n == 0 || n%siblingSize != 0 || p.Proof.Signature == nil) {
			r.Fail("siblings of %d bytes", n)
		}
	case keyUnverified:
		if p.Unverified = true; r.Uint(1) == 0 && r.err == nil {
			r.Fail("it is not said that it is verified")
		}
	case keyHomeKey:
		if p.Key = r.Bytes(homeKeySize); len(p.Key) != homeKeySize && r.err == nil {
			r.Fail("a key of %d bytes", len(p.Key))
		}
	default:
		return false
	}
	return true
}

// Pack makes what waits for a server: an envelope with its passage and the receivers
// that this copy is for (bit i is To[i]; 0: all).
func Pack(p *Passage, open uint64, envelope []byte) []byte {
	b := make([]byte, 0, len(envelope)+32+len(p.Path)+len(p.Proof.Signature)+len(p.Proof.Siblings)+len(p.Key))
	b = p.AppendMap(AppendUint(b, open))
	return append(b, envelope...)
}

// Unpack splits what Pack made. Bytes are shared.
func Unpack(packed []byte) (p Passage, open uint64, envelope []byte, err error) {
	r := NewReader(packed)
	open = r.Uint(1<<64 - 1)
	r.Fields(func(key uint64) bool { return p.Field(&r, key) })
	if err := r.Err(); err != nil {
		return p, 0, nil, fmt.Errorf("what waits for a server: %w", err)
	}
	return p, open, r.Rest(), nil
}

// Split returns the envelope in what waits somewhere, and its passage: that may be one
// alone, or what Pack has made. An envelope begins with an array, a pack with a number.
func Split(raw []byte) (p Passage, envelope []byte) {
	if len(raw) == 0 || raw[0]&0xf0 == 0x90 {
		return p, raw
	}
	p, _, envelope, err := Unpack(raw)
	if err != nil {
		return Passage{}, nil
	}
	return p, envelope
}

// EnvelopeOf is Split for who wants the envelope only.
func EnvelopeOf(raw []byte) []byte {
	_, envelope := Split(raw)
	return envelope
}

// Proof shows that an envelope's home has sent it: the home's signature over the root
// of a tree of hashes of what left together (as in RFC 6962, section 2.1), and the way
// from the envelope's leaf to the root.
type Proof struct {
	Signature []byte // Ed25519; nil: there is none
	Siblings  []byte // for each step up one byte, 0 if the sibling is on the left, and 32 of its hash
}

const (
	siblingSize = 1 + sha256.Size
	maxSiblings = 8 // a tree of 256
)

// MaxTogether is how many envelopes one signature covers.
const MaxTogether = 1 << maxSiblings

// proofOf is what a home signs, followed by the root.
const proofOf = "noipchat origin"

type hash = [sha256.Size]byte

func leaf(envelope []byte) (sum hash) {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(envelope)
	h.Sum(sum[:0])
	return sum
}

func node(left, right hash) hash {
	b := [1 + 2*sha256.Size]byte{1}
	copy(b[copy(b[1:], left[:])+1:], right[:])
	return sha256.Sum256(b[:])
}

// Prove signs up to MaxTogether envelopes at once, by Ed25519, and returns a proof for each.
func Prove(sign func(msg []byte) []byte, envelopes [][]byte) []Proof {
	proofs := make([]Proof, len(envelopes))
	level := make([]hash, len(envelopes))
	where := make([]int, len(envelopes))
	for i, e := range envelopes {
		level[i], where[i] = leaf(e), i
	}
	steps := bits.Len(uint(len(envelopes) - 1))
	all := make([]byte, 0, len(envelopes)*steps*siblingSize)
	for i := range proofs {
		n := i * steps * siblingSize
		proofs[i].Siblings = all[n : n : n+steps*siblingSize]
	}
	for len(level) > 1 {
		for i := range proofs {
			at := where[i]
			if sibling := at ^ 1; sibling < len(level) {
				side := byte(1)
				if sibling < at {
					side = 0
				}
				proofs[i].Siblings = append(append(proofs[i].Siblings, side), level[sibling][:]...)
			}
			where[i] = at / 2
		}
		next := level[:0] // what is written was read
		for i := 0; i < len(level); i += 2 {
			if i+1 == len(level) {
				next = append(next, level[i])
			} else {
				next = append(next, node(level[i], level[i+1]))
			}
		}
		level = next
	}
	signature := sign(append([]byte(proofOf), level[0][:]...))
	for i := range proofs {
		proofs[i].Signature = signature
	}
	return proofs
}

// Root is what the signature of a proof must be over, for this envelope: the bytes to
// verify. Of envelopes that left together it is the same.
func (p *Proof) Root(envelope []byte) []byte {
	h := leaf(envelope)
	for s := p.Siblings; len(s) >= siblingSize; s = s[siblingSize:] {
		if sibling := hash(s[1:siblingSize]); s[0] == 0 {
			h = node(sibling, h)
		} else {
			h = node(h, sibling)
		}
	}
	return append([]byte(proofOf), h[:]...)
}
