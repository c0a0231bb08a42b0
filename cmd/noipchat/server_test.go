package main

import (
	"slices"
	"testing"
)

func TestOlderAddresses(t *testing.T) {
	const list = `[{"Name": "Server1", "IP": "203.0.113.5", "Port": 10001}, {"Name": "Server2", "IP": "203.0.113.6", "Port": 1}, {"Name": "SERVER1", "IP": "2001:db8::1", "Port": 10001}]`
	have, err := olderAddresses([]byte(list), "server1")
	if want := []string{"203.0.113.5:10001", "[2001:db8::1]:10001"}; err != nil || !slices.Equal(have, want) {
		t.Errorf("%v, %v", have, err)
	}
	if marked, err := olderAddresses([]byte("\ufeff"+list), "server1"); err != nil || !slices.Equal(marked, have) {
		t.Errorf("with a byte order mark: %v, %v", marked, err)
	}
	for _, bad := range []string{list[1:], `[{"Name": "server1", "IP": "localhost", "Port": 1}]`, `[{"Name": "server1", "IP": "192.0.2.1"}]`, `[]`} {
		if have, err := olderAddresses([]byte(bad), "server1"); err == nil {
			t.Errorf("%s: %v", bad, have)
		}
	}
}

func FuzzOlderAddresses(f *testing.F) {
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := olderAddresses(text, "server1")
		if err != nil {
			return
		}
		if err := checkServers(all); err != nil || len(all) == 0 {
			t.Errorf("%q, %v", all, err)
		}
	})
}
