package wire

import (
	"bytes"
	"crypto/ecdh"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/flynn/noise"
)

// noiseVectors reads testdata/noise-xx.txt: a map of names to values for each vector.
func noiseVectors(t *testing.T) (all []map[string]string) {
	b, err := os.ReadFile("testdata/noise-xx.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		name, value, found := strings.Cut(line, "=")
		switch {
		case !found || strings.HasPrefix(line, "#"):
		case name == "handshake":
			all = append(all, map[string]string{})
		default:
			all[len(all)-1][name] = value
		}
	}
	if len(all) != 4 {
		t.Fatalf("%d vectors", len(all))
	}
	return all
}

func fromHex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func x25519(t testing.TB, private []byte) *ecdh.PrivateKey {
	k, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestNoiseVectors runs the published vectors through the handshake, and the
// transport messages through the cipher of our records.
func TestNoiseVectors(t *testing.T) {
	for i, v := range noiseVectors(t) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			value := func(name string) []byte { return fromHex(t, v[name]) }
			var stream bytes.Buffer // one message at a time
			client, err := newHandshake(&stream, x25519(t, value("init_static")), true, string(value("prologue")), bytes.NewReader(value("gen_init_ephemeral")))
			if err != nil {
				t.Fatal(err)
			}
			server, err := newHandshake(&stream, x25519(t, value("resp_static")), false, string(value("prologue")), bytes.NewReader(value("gen_resp_ephemeral")))
			if err != nil {
				t.Fatal(err)
			}
			from, to := client, server
			for i := range 3 {
				payload, want := value(fmt.Sprintf("msg_%d_payload", i)), value(fmt.Sprintf("msg_%d_ciphertext", i))
				if err := from.write(nil, payload); err != nil {
					t.Fatal(err)
				}
				if got := stream.Bytes(); int(binary.BigEndian.Uint16(got)) != len(want) || !bytes.Equal(got[2:], want) {
					t.Fatalf("message %d is %x, want %x", i, got, want)
				}
				if got, err := to.read(maxMsg); err != nil || !bytes.Equal(got, payload) {
					t.Fatalf("message %d: payload %x, %v", i, got, err)
				}
				from, to = to, from
			}
			if !bytes.Equal(server.PeerStatic(), x25519(t, value("init_static")).PublicKey().Bytes()) || !bytes.Equal(client.PeerStatic(), x25519(t, value("resp_static")).PublicKey().Bytes()) {
				t.Error("the sides don't know each other's key")
			}
			ours, theirs := client.state(true), server.state(false)
			if ours.In != theirs.Out || ours.Out != theirs.In || ours.In == ours.Out || ours.In.Number != 0 {
				t.Fatal("the keys of the sides don't fit")
			}
			for i, pair := range [][2]Direction{{ours.Out, theirs.In}, {theirs.Out, ours.In}} {
				payload, want := value(fmt.Sprintf("msg_%d_payload", 3+i)), value(fmt.Sprintf("msg_%d_ciphertext", 3+i))
				got := seal(t, &pair[0], payload)
				if !bytes.Equal(got[2:], want) {
					t.Errorf("transport message %d is %x, want %x", i, got[2:], want)
				}
				in, err := newDirection(pair[1])
				if err != nil {
					t.Fatal(err)
				}
				if plain, err := in.open(got[2:]); err != nil || !bytes.Equal(plain, payload) {
					t.Errorf("transport message %d is opened as %x, %v", i, plain, err)
				}
			}
		})
	}
}

// seal makes a record and moves d on.
func seal(t testing.TB, d *Direction, plain []byte) []byte {
	out, err := newDirection(*d)
	if err != nil {
		t.Fatal(err)
	}
	record, err := out.seal(append(make([]byte, 2, 2+len(plain)+tagSize), plain...))
	if err != nil {
		t.Fatal(err)
	}
	*d = out.Direction
	return record
}

// TestRecordsAreNoise compares our counters and keys with Noise's own over two
// changes of the key.
func TestRecordsAreNoise(t *testing.T) {
	start := Direction{Key: [32]byte{1, 2, 3}, Number: rekeyRecords - 2}
	out, err := newDirection(start)
	if err != nil {
		t.Fatal(err)
	}
	suite := noise.NewCipherSuite(noise.DH25519, noise.CipherAESGCM, noise.HashSHA256)
	theirs := noise.UnsafeNewCipherState(suite, start.Key, start.Number)
	for i := range 5 {
		if i == 3 {
			out.Bytes = rekeyBytes - 1 // this one's bytes make it due
		}
		plain := []byte{byte(i), 7}
		record, err := out.seal(append(make([]byte, 2, 100), plain...))
		if err != nil {
			t.Fatal(err)
		}
		want, err := theirs.Encrypt(nil, nil, plain)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(record[2:], want) {
			t.Errorf("record %d is %x; Noise makes it %x", i, record[2:], want)
		}
		if i == 1 || i == 3 {
			theirs.Rekey()
		}
		if out.Key != theirs.UnsafeKey() || out.Number != theirs.Nonce() {
			t.Fatalf("after record %d: number %d, and the key is not Noise's", i, out.Number)
		}
	}
	if out.Bytes != 2 {
		t.Errorf("%d bytes with the last key", out.Bytes)
	}
}

func TestNumbersEnd(t *testing.T) {
	d, err := newDirection(Direction{Number: 1<<64 - 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.seal(make([]byte, 3, 100)); err != errExhausted {
		t.Error(err)
	}
	if _, err := d.open(make([]byte, 17)); err != errExhausted {
		t.Error(err)
	}
}
