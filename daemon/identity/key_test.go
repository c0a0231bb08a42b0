package identity

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// vector is one entry of testdata/keys.json, which another implementation (not
// Go, not this code) has computed.
type vector struct {
	Seed          string `json:"seed"`
	File          string `json:"file"`
	X25519Private string `json:"x25519_private"`
	X25519        string `json:"x25519"`
	Ed25519       string `json:"ed25519"`
	Public        string `json:"public"`
	Fingerprint   string `json:"fingerprint"`
	Words         string `json:"words"`
	Device        string `json:"device"`
	Message       string `json:"message"`
	Signature     string `json:"signature"`
}

func TestKeyVectors(t *testing.T) {
	b, err := os.ReadFile("testdata/keys.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(b, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) == 0 {
		t.Fatal("no vectors")
	}
	for _, want := range vectors {
		seed, _ := hex.DecodeString(want.Seed)
		k := KeyFromSeed([32]byte(seed))
		private := k.X25519()
		p := k.Public()
		have := vector{
			Seed:          want.Seed,
			File:          strings.TrimSuffix(string(formatSeed(k.Seed())), "\n"),
			X25519Private: hex.EncodeToString(private.Bytes()),
			X25519:        hex.EncodeToString(private.PublicKey().Bytes()),
			Ed25519:       hex.EncodeToString(p[32:]),
			Public:        p.String(),
			Fingerprint:   p.Fingerprint(),
			Words:         p.Words(),
			Device:        p.DeviceID().String(),
			Message:       want.Message,
			Signature:     hex.EncodeToString(k.Sign([]byte(want.Message))),
		}
		if have != want {
			t.Errorf("seed %s:\nhave %+v\nwant %+v", want.Seed, have, want)
		}
		if parsed, err := ParsePublicKey(want.Public); err != nil || parsed != p {
			t.Errorf("parse %s: %v", want.Public, err)
		}
		if !p.Verify([]byte(want.Message), k.Sign([]byte(want.Message))) {
			t.Error("own signature does not verify")
		}
		if p.Verify([]byte("another"), k.Sign([]byte(want.Message))) {
			t.Error("signature verifies another message")
		}
	}
}

// The examples of the proquint paper.
func TestProquints(t *testing.T) {
	for words, b := range map[string][]byte{
		"lusab-babad": {127, 0, 0, 1},
		"gutih-tugad": {63, 84, 220, 193},
		"tibup-zujah": {212, 58, 253, 68},
		"natag-lisaf": {147, 67, 119, 2},
	} {
		if got := proquints(b); got != words {
			t.Errorf("%v: %s, want %s", b, got, words)
		}
	}
}

func TestKeyNeverPrintsItself(t *testing.T) {
	k := NewKey()
	seed := k.Seed()
	private := k.X25519().Bytes()
	type holder struct{ key Key }
	type shown struct{ Key Key }
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b", "%o", "%t"} {
		for _, v := range []any{k, &k, holder{k}, &holder{k}, shown{k}, []Key{k}, map[string]Key{"k": k}} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	j, err := json.Marshal(shown{k})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(j)
	slog.New(slog.NewTextHandler(&out, nil)).Info("text", "key", k, "holder", holder{k}, "shown", shown{k})
	slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "key", k, "holder", holder{k}, "shown", shown{k})
	fmt.Fprint(&out, Key{})

	text := out.String()
	for _, secret := range [][]byte{seed[:], private, k.open().sign.Seed()} {
		decimal := strings.Trim(fmt.Sprint(secret[:8]), "[]")
		for _, form := range []string{hex.EncodeToString(secret)[:12], decimal, base32Lower.EncodeToString(secret)[:12], string(secret[:8])} {
			if strings.Contains(strings.ToLower(text), strings.ToLower(form)) {
				t.Errorf("the output shows the secret:\n%s", text)
			}
		}
	}
	if !strings.Contains(text, k.Public().Fingerprint()) {
		t.Error("the output does not tell which key it is")
	}
}

func TestParsePublicKeyErrors(t *testing.T) {
	good := KeyFromSeed([32]byte{1}).Public().String()
	swap := func(at int) string {
		b := []byte(good)
		if b[at] == 'q' {
			b[at] = 'r'
		} else {
			b[at] = 'q'
		}
		return string(b)
	}
	for name, tc := range map[string]struct{ in, want string }{
		"empty":       {"", "does not begin"},
		"prefix":      {"noip2" + good[5:], "does not begin"},
		"capitals":    {strings.ToUpper(good), "does not begin"},
		"a capital":   {good[:20] + "A" + good[21:], `character 21 is 'A'`},
		"digit":       {good[:20] + "1" + good[21:], `character 21 is '1'`},
		"not ASCII":   {good[:20] + "é" + good[21:], `character 21 is 'é'`},
		"not UTF-8":   {good[:20] + "\xff" + good[21:], `character 21 is '�'`},
		"newline":     {good + "\n", `character 118 is '\n'`},
		"inner break": {good[:50] + "\n" + good[50:], `character 51 is '\n'`},
		"cut off":     {good[:100], "has 100 characters, not 117"},
		"too long":    {good + "a", "has 118 characters, not 117"},
		"typo":        {swap(30), "checksum"},
		"typo at end": {swap(116), "checksum"},
	} {
		_, err := ParsePublicKey(tc.in)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	for at := len(keyPrefix); at < len(good); at++ {
		if _, err := ParsePublicKey(swap(at)); err == nil {
			t.Errorf("a typo at %d was not found", at)
		}
	}
}

func littleEndian(x *big.Int) []byte {
	b := x.FillBytes(make([]byte, 32))
	slices.Reverse(b)
	return b
}

func TestCheckPublicKey(t *testing.T) {
	good := KeyFromSeed([32]byte{2}).Public()
	with := func(x, e []byte) (k PublicKey) {
		k = good
		if x != nil {
			copy(k[:32], x)
		}
		if e != nil {
			copy(k[32:], e)
		}
		return k
	}
	number := func(s string) *big.Int {
		x, ok := new(big.Int).SetString(s, 10)
		if !ok {
			t.Fatal(s)
		}
		return x
	}
	bad := map[string]PublicKey{
		"zero":                 {},
		"X25519 top bit":       with(littleEndian(new(big.Int).SetBit(number("9"), 255, 1)), nil),
		"X25519 prime+9":       with(littleEndian(new(big.Int).Add(prime, number("9"))), nil),
		"Ed25519 prime+3":      with(nil, littleEndian(new(big.Int).Add(prime, number("3")))),
		"Ed25519 off curve":    with(nil, littleEndian(number("2"))),
		"Ed25519 neutral":      with(nil, littleEndian(number("1"))),
		"Ed25519 neutral, x<0": with(nil, littleEndian(new(big.Int).SetBit(number("1"), 255, 1))),
	}
	// All points of low order: of the Montgomery curve and its twist, then of Edwards'.
	for _, s := range []string{"0", "1",
		"325606250916557431795983626356110631294008115727848805560023387167927233504",
		"39382357235489614581723060781553021112529911719440698176882885853963445705823",
		new(big.Int).Sub(prime, one).String()} {
		bad["X25519 "+s] = with(littleEndian(number(s)), nil)
	}
	lowOrderEdwards := [][]byte{littleEndian(new(big.Int).Sub(prime, one)), littleEndian(number("0"))}
	for _, s := range []string{"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"} {
		b, _ := hex.DecodeString(s)
		lowOrderEdwards = append(lowOrderEdwards, b)
	}
	for _, b := range lowOrderEdwards {
		negative := bytes.Clone(b)
		negative[31] |= 0x80
		bad["Ed25519 "+hex.EncodeToString(b)] = with(nil, b)
		bad["Ed25519 "+hex.EncodeToString(negative)] = with(nil, negative)
	}
	for name, k := range bad {
		if err := k.Check(); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := ParsePublicKey(k.String()); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
	for i := range 50 {
		if err := KeyFromSeed([32]byte{3, byte(i)}).Public().Check(); err != nil {
			t.Error(err)
		}
	}
}

// The standard library makes no key off the curve, and half of all numbers are off it.
func TestOnCurve(t *testing.T) {
	var off int
	for i := range 400 {
		if !onCurve(big.NewInt(int64(i + 2))) {
			off++
		}
	}
	if off < 140 || off > 260 {
		t.Errorf("%d of 400 numbers are not on the curve", off)
	}
	for i := range 50 {
		public, _, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		y, reduced := fieldElement(public, 0x80)
		if !reduced || !onCurve(y) {
			t.Errorf("key %d of the standard library is not on the curve", i)
		}
	}
}

func TestX25519OfKey(t *testing.T) {
	a, b := NewKey(), NewKey()
	if x := a.Public().X25519(); !bytes.Equal(x[:], a.X25519().PublicKey().Bytes()) {
		t.Error("two public keys")
	}
	bx := b.Public().X25519()
	there, err := ecdh.X25519().NewPublicKey(bx[:])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.X25519().ECDH(there); err != nil {
		t.Error(err)
	}
}

func TestPublicKeyText(t *testing.T) {
	k := NewKey().Public()
	b, err := json.Marshal(map[string]PublicKey{"key": k})
	if err != nil {
		t.Fatal(err)
	}
	var back map[string]PublicKey
	if err := json.Unmarshal(b, &back); err != nil || back["key"] != k {
		t.Errorf("%s: %v", b, err)
	}
	if err := json.Unmarshal([]byte(`{"key":"noip1"}`), &back); err == nil {
		t.Error("a short key was read")
	}
}

func TestLoadOrCreateKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	key, created, err := LoadOrCreateKey(path)
	if err != nil || !created {
		t.Fatal(created, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatal(st.Mode(), err)
	}
	again, created, err := LoadOrCreateKey(path)
	if err != nil || created || again.Seed() != key.Seed() {
		t.Fatal(created, err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := formatSeed(key.Seed()); !bytes.Equal(b, want) {
		t.Errorf("the file is %q", b)
	}
}

func TestKeyFileRefused(t *testing.T) {
	good := formatSeed([32]byte{5})
	changed := bytes.Clone(good)
	changed[30] ^= 3 // among letters it stays one
	for name, tc := range map[string]struct {
		content []byte
		mode    os.FileMode
		want    string
	}{
		"empty":     {nil, 0o600, "empty"},
		"zeros":     {make([]byte, 81), 0o600, "does not begin"},
		"changed":   {changed, 0o600, "checksum"},
		"cut":       {good[:40], 0o600, "wrong length"},
		"two lines": {append(bytes.Clone(good), good...), 0o600, "wrong length"},
		"character": {bytes.ToUpper(good), 0o600, "does not begin"},
		"group":     {good, 0o640, "chmod 600"},
		"others":    {good, 0o604, "chmod 600"},
	} {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, tc.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, tc.mode); err != nil {
			t.Fatal(err)
		}
		_, created, err := LoadOrCreateKey(path)
		if err == nil || created || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		} else if len(tc.content) > 40 && strings.Contains(err.Error(), string(tc.content[20:40])) {
			t.Errorf("%s: the error shows the secret: %v", name, err)
		}
		if b, _ := os.ReadFile(path); !bytes.Equal(b, tc.content) {
			t.Errorf("%s: the file was changed", name)
		}
	}
	if _, _, err := LoadOrCreateKey(t.TempDir()); err == nil {
		t.Error("a folder is a key file")
	}
	if _, _, err := LoadOrCreateKey(filepath.Join(t.TempDir(), "no", "key")); err == nil {
		t.Error("made a key in a folder that is not there")
	}
}

func TestKeyFileMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	var wg sync.WaitGroup
	seeds := make([][32]byte, 8)
	made := make([]bool, 8)
	for i := range seeds {
		wg.Go(func() {
			key, created, err := LoadOrCreateKey(path)
			if err != nil {
				t.Error(err)
				return
			}
			seeds[i], made[i] = key.Seed(), created
		})
	}
	wg.Wait()
	var n int
	for i := range seeds {
		if seeds[i] != seeds[0] {
			t.Error("two keys")
		}
		if made[i] {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d made the key", n)
	}
}

func FuzzParsePublicKey(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParsePublicKey(s)
		if err == nil && k.String() != s {
			t.Errorf("%q is a second spelling of %s", s, k)
		}
	})
}

func FuzzKeyFile(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		seed, err := parseSeed(b)
		if err == nil && !bytes.Equal(bytes.TrimSuffix(formatSeed(seed), []byte("\n")), bytes.TrimSuffix(b, []byte("\n"))) {
			t.Errorf("%q is a second spelling", b)
		}
	})
}
