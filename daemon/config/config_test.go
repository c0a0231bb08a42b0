package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The example must show every key with the value it has anyway, and what is
// commented out in it must be right too.
func TestExample(t *testing.T) {
	const path = "../../etc/noipchat.toml"
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "server1" || len(c.Interfaces) != 1 || c.Interfaces[0].Kind != "tcp" {
		t.Errorf("name %q, interfaces %v", c.Name, c.Interfaces)
	}
	c.Name, c.Interfaces, c.origin = "", nil, nil
	if want := Default(); !reflect.DeepEqual(*c, want) {
		t.Errorf("the example isn't the default:\n%s\nwant\n%s", c.Render(), want.Render())
	}

	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile(`(?m)^#([a-z[])`).ReplaceAllString(string(text), "$1")
	c, err = Load(write(t, t.TempDir(), "all.toml", all))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Interfaces) != 3 || len(c.Peers) != 1 || len(c.Peers[0].Links) != 2 {
		t.Errorf("%d interfaces with the commented ones, peers %v", len(c.Interfaces), c.Peers)
	}
	for _, key := range keys(reflect.TypeFor[Config](), "") {
		_, name := cutLast(key)
		if !regexp.MustCompile(`(?m)^(` + name + ` = |\[+(\w+\.)*` + name + `\]+$)`).MatchString(all) {
			t.Errorf("the example lacks %s", key)
		}
	}
}

// Tags are read while loading, where there is nobody to tell that one is bad.
func TestTags(t *testing.T) {
	var check func(reflect.Type, string)
	check = func(typ reflect.Type, prefix string) {
		for field := range typ.Fields() {
			if !field.IsExported() {
				continue
			}
			name := prefix + field.Tag.Get("toml")
			below := field.Type
			if below.Kind() == reflect.Slice {
				below = below.Elem()
			}
			if below.Kind() == reflect.Struct {
				check(below, name+".")
			}
			change := field.Tag.Get("change")
			if field.Type.Kind() != reflect.Struct && change != "hot" && change != "handoff" && change != "cold" {
				t.Errorf("%s: change %q", name, change)
			}
			low, high, isNumber := strings.Cut(field.Tag.Get("range"), "..")
			if number := field.Type.Kind() == reflect.Int || field.Type.Kind() == reflect.Int64; number != isNumber {
				t.Errorf("%s: range %q", name, field.Tag.Get("range"))
			} else if number && (bound(field.Type, low) <= 0 && low != "0s" || bound(field.Type, high) <= bound(field.Type, low)) {
				t.Errorf("%s: range %s..%s", name, low, high)
			}
		}
	}
	check(reflect.TypeFor[Config](), "")
}

func TestDefaultIsInRange(t *testing.T) {
	c := Default()
	c.Name, c.Interfaces = "server1", []Interface{{Kind: "tcp", Bind: "192.0.2.1:1"}}
	if _, err := Load(write(t, t.TempDir(), "c.toml", string(c.Render()))); err != nil {
		t.Error(err)
	}
}

func TestInterfaces(t *testing.T) {
	c, err := Load("testdata/good/everything.toml")
	if err != nil {
		t.Fatal(err)
	}
	want := []Interface{
		{"tcp", "0.0.0.0:10001", []string{"203.0.113.5:10001", "[2001:db8::5]:10001"}},
		{"tcp", "[::]:10001", []string{}},
		{"tcp", "[fe80::1%eth0]:10002", []string{}},
		{"tcp", "192.0.2.1:10002", []string{}},
		{"unix", "/run/noipchat/chat.sock", []string{}},
	}
	if !reflect.DeepEqual(c.Interfaces, want) {
		t.Errorf("%q", c.Interfaces)
	}
	c, err = Load("testdata/good/minimal.toml")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Interfaces[0].Public; !slices.Equal(got, []string{"192.0.2.1:10001"}) {
		t.Errorf("public %q, want bind", got)
	}
}

func TestOrigin(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "noipchat.toml", "name = 'server1'\n[[interface]]\nbind = '192.0.2.1:1'\n")
	extra := write(t, dir, "conf.d/a.toml", "[[interface]]\nbind = '192.0.2.1:2'\npublic = ['192.0.2.9:2',\n'192.0.2.8:2']\n[spool]\nquota = 65536\n")
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"name":                   file + ":1",
		"interface[0].bind":      file + ":3",
		"interface[0].public":    "default",
		"interface[1]":           extra + ":1",
		"interface[1].public[1]": extra + ":4",
		"spool.quota":            extra + ":6",
		"spool.total":            "default",
	} {
		if got := c.Origin(key); got != want {
			t.Errorf("%s: %s, want %s", key, got, want)
		}
	}
	if d := Default(); d.Origin("log") != "default" {
		t.Error("a default has another origin")
	}
}

// write makes a file and returns its path.
func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPeers(t *testing.T) {
	c, err := Load("testdata/good/everything.toml")
	if err != nil {
		t.Fatal(err)
	}
	want := []Link{
		{"tcp", "192.0.2.1", "198.51.100.7:10001", nil, "", 0, 1},
		{"tcp", "", "198.51.100.7:10001", nil, "", Duration(15 * time.Second), 10},
		{"exec", "", "", []string{"ssh", "-T", "noipchat@server2", "noipchatd", "--stdio"}, "latency=250ms,metered", Duration(5 * time.Minute), 65000},
	}
	if !reflect.DeepEqual(c.Peers[0].Links, want) {
		t.Errorf("%+v", c.Peers[0].Links)
	}
	if len(c.Peers) != 3 || c.Peers[1].Links != nil || c.Peers[2].Links[1].Local != "fe80::2%eth0" {
		t.Errorf("%+v", c.Peers)
	}
}

// What is said about peers is compared by their names, whatever file they are in.
func TestPeerDiff(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "noipchat.toml", nameLine+interfaceLine+"peer = [{name = 'server2', link = [{remote = '192.0.2.2:1'}]}, {name = 'server3'}]\n")
	before, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "noipchat.toml", nameLine+interfaceLine)
	write(t, dir, "conf.d/a.toml", "peer = [{name = 'server4'}]\n")
	write(t, dir, "conf.d/b.toml", "peer = [{name = 'server2', reaches = ['server9'], link = [{remote = '192.0.2.2:1', cost = 5}]}]\n")
	after, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, c := range Diff(before, after) {
		if !c.Hot {
			t.Errorf("%v is not hot", c)
		}
		have = append(have, c.String())
	}
	want := []string{
		`+ peer[server4].name = "server4"`, `+ peer[server4].key = ""`, `+ peer[server4].reaches = []`,
		`~ peer[server2].reaches = ["server9"] (was [])`,
		`~ peer[server2].link[tcp 192.0.2.2:1].cost = 5 (was 10)`,
		`- peer[server3].name = "server3"`, `- peer[server3].key = ""`, `- peer[server3].reaches = []`,
	}
	if !slices.Equal(have, want) {
		t.Errorf("%s\nwant\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
	if at := after.Origin("peer[1].link[0].cost"); at != filepath.Join(dir, "conf.d/b.toml")+":1" {
		t.Error(at)
	}
}
