package identity

import (
	"bytes"
	"encoding/gob"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func BenchmarkHash(b *testing.B) {
	h := newHasher(b, Cost{}, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Hash(b.Context(), rightHorse); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheckPublicKey(b *testing.B) {
	k := NewKey().Public()
	for b.Loop() {
		if err := k.Check(); err != nil {
			b.Fatal(err)
		}
	}
}

// users writes n files of users with one device each, without making each durable.
func users(tb testing.TB, n int) string {
	tb.Helper()
	dir := tb.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "users"), 0o700); err != nil {
		tb.Fatal(err)
	}
	u := &Users{}
	for i := range n {
		a := &account{name: fmt.Sprint("user", i), password: (&Hasher{cost: DefaultCost()}).nobody(), created: epoch}
		// Half a key per user, because making 10,000 whole ones takes longer than what is measured.
		key := KeyFromSeed([32]byte{1}).Public()
		key[0], key[1] = byte(i), byte(i>>8)
		u.o.Now = (&clock{now: epoch}).Now
		a.devices = []*device{u.newDevice(key, "laptop")}
		text, err := formatJSON(a.record())
		if err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "users", a.name+".json"), text, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

func BenchmarkOpenUsers10000(b *testing.B) {
	dir := users(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		if u := open(b, dir, Options{}); len(u.logins) != 10_000 {
			b.Fatal(len(u.logins))
		}
	}
}

// BenchmarkCarried10000 is what a handoff has of it, in both images.
func BenchmarkCarried10000(b *testing.B) {
	dir := users(b, 10_000)
	u := open(b, dir, Options{})
	b.ReportAllocs()
	for b.Loop() {
		var state bytes.Buffer
		if err := gob.NewEncoder(&state).Encode(u.Export()); err != nil {
			b.Fatal(err)
		}
		var all Carried
		if err := gob.NewDecoder(&state).Decode(&all); err != nil {
			b.Fatal(err)
		}
		if next := open(b, dir, Options{Carried: all}); len(next.logins) != 10_000 {
			b.Fatal(len(next.logins))
		}
	}
}

func BenchmarkDevice(b *testing.B) {
	u := open(b, users(b, 10_000), Options{})
	known := u.account("user77").devices[0].Key.X25519()
	unknown := [32]byte{1}
	for _, bc := range []struct {
		name, user string
		x25519     [32]byte
		found      bool
	}{{"known", "user77", known, true}, {"unknown device", "user77", unknown, false}, {"unknown user", "nobody", known, false}} {
		b.Run(bc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := u.Device(bc.user, bc.x25519[:]); (err == nil) != bc.found {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAttempts(b *testing.B) {
	a := NewAttempts(10, 1<<40, maxKeys)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		key := fmt.Sprint(i) // a flood
		if a.Allow(epoch, key) == 0 {
			a.Fail(epoch, key)
		}
	}
}
