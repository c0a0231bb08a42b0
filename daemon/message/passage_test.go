package message

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"slices"
	"testing"
)

func TestPassage(t *testing.T) {
	for _, want := range []Passage{
		{},
		{Hops: 9, Path: Path{{"server1", 0}}.Pack()},
		{Hops: 255, Path: Path{{"a", 0}, {"b", 1}, {"c", 1<<32 - 1}}.Pack(), Unverified: true},
		{Path: Path{{"a", 7}}.Pack(), Proof: Proof{Signature: make([]byte, 64)}},
		{Proof: Proof{Signature: make([]byte, 64), Siblings: make([]byte, 3*siblingSize)}},
	} {
		packed := Pack(&want, 5, []byte("envelope"))
		have, open, envelope, err := Unpack(packed)
		if err != nil || open != 5 || string(envelope) != "envelope" || fmt.Sprint(have) != fmt.Sprint(want) {
			t.Errorf("%+v came as %+v, %d, %q, %v", want, have, open, envelope, err)
		}
	}
}

// TestProof: each of what left together can be verified by itself, and nothing else can.
func TestProof(t *testing.T) {
	public, key, _ := ed25519.GenerateKey(nil)
	for n := 1; n <= 70; n++ {
		var all [][]byte
		for i := range n {
			all = append(all, fmt.Append(nil, "envelope ", i))
		}
		for i, p := range Prove(signer(key), all) {
			root := p.Root(all[i])
			if !ed25519.Verify(public, root, p.Signature) {
				t.Fatalf("%d of %d is not proven", i, n)
			}
			other := p.Root([]byte("another one"))
			if bytes.Equal(root, other) || ed25519.Verify(public, other, p.Signature) {
				t.Fatalf("%d of %d proves another one", i, n)
			}
			if len(p.Siblings) > 0 {
				p.Siblings[5] ^= 1
				if ed25519.Verify(public, p.Root(all[i]), p.Signature) {
					t.Fatalf("%d of %d is proven by another way", i, n)
				}
				p.Siblings[5] ^= 1
			}
		}
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(Pack(&Passage{Hops: 3, Path: Path{{"a", 0}, {"b", 300}}.Pack(), Proof: Proof{Signature: make([]byte, 64), Siblings: make([]byte, siblingSize)}}, 3, []byte("e")))
	f.Add(Pack(&Passage{Unverified: true}, 0, nil))
	f.Add(Pack(&Passage{Hops: 255, Proof: Proof{Signature: make([]byte, 63)}}, 1, []byte("e"))) // a short signature
	f.Add([]byte{3, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, open, envelope, err := Unpack(b)
		if err == nil && !bytes.Equal(Pack(&p, open, envelope), b) {
			// Keys that we don't know are skipped, from 64 on.
			if q, _, _, err := Unpack(Pack(&p, open, envelope)); err != nil || fmt.Sprint(q) != fmt.Sprint(p) {
				t.Errorf("%x became %+v, %v", b, q, err)
			}
		}
	})
}

func BenchmarkProof(b *testing.B) {
	public, key, _ := ed25519.GenerateKey(nil)
	all := make([][]byte, 64)
	for i := range all {
		all[i] = bytes.Repeat([]byte{byte(i)}, 1024)
	}
	b.Run("sign/64", func(b *testing.B) {
		for b.Loop() {
			Prove(signer(key), all)
		}
	})
	proofs := Prove(signer(key), all)
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			if !ed25519.Verify(public, proofs[3].Root(all[3]), proofs[3].Signature) {
				b.Fatal("not proven")
			}
		}
	})
}

func signer(key ed25519.PrivateKey) func([]byte) []byte {
	return func(msg []byte) []byte { return ed25519.Sign(key, msg) }
}

// TestPackedPath: a path grows in its packed form as it does in the other, up to MaxPath.
func TestPackedPath(t *testing.T) {
	var path Path
	var packed PackedPath
	for i := range MaxPath + 2 {
		if packed.Len() != len(path) || !slices.Equal(packed.Unpack(), path) || !bytes.Equal(path.Pack(), packed) {
			t.Fatalf("%v is packed as %x, which is %v", path, packed, packed.Unpack())
		}
		if len(packed) > 0 {
			r := NewReader(append(slices.Clone(packed), "behind"...))
			if read := r.Path(); !bytes.Equal(read, packed) || string(r.Rest()) != "behind" || cap(read) != len(read) {
				t.Fatalf("%x was read from %x, with %q behind it", read, packed, r.Rest())
			}
		}
		name, age := fmt.Sprint("server", i), uint32(1)<<(i%32)
		older, other := packed.And(name, age+1), packed.And("another", age)
		packed = packed.And(name, age)
		if i < MaxPath {
			path = append(path, Crossing{name, age})
			if !packed.Same(older) || packed.Same(other) || packed.Same(nil) {
				t.Fatalf("%v: the same as %v %t, as %v %t", path, older.Unpack(), packed.Same(older), other.Unpack(), packed.Same(other))
			}
		}
	}
}
