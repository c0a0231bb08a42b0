package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestGenerator(t *testing.T) {
	dir, units := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "noipchat.toml")
	if err := generate(path, units); err != nil {
		t.Errorf("without a configuration: %v", err)
	}
	if made, _ := os.ReadDir(units); len(made) > 0 {
		t.Errorf("without a configuration: %v", made)
	}
	text := "name = \"server1\"\n"
	for _, bind := range []string{"0.0.0.0:10001", "[::]:10001", "[2001:db8::1]:10002", "[fe80::1%eth0]:10003"} {
		text += "[[interface]]\nbind = \"" + bind + "\"\n"
	}
	text += "[[interface]]\nkind = \"unix\"\nbind = \"/run/noipchat/a-b\"\n[[interface]]\nkind = \"unix\"\nbind = \"/run/noipchat/a+b\"\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again changes nothing
		if err := generate(path, units); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{
		"noipchat-tcp-0.0.0.0:10001.socket":       "ListenStream=0.0.0.0:10001\n",
		"noipchat-tcp-::_:10001.socket":           "ListenStream=[::]:10001\n",
		"noipchat-tcp-2001:db8::1_:10002.socket":  "ListenStream=[2001:db8::1]:10002\n",
		"noipchat-tcp-fe80::1_eth0_:10003.socket": "ListenStream=[fe80::1]:10003%%eth0\n",
		"noipchat-unix-run_noipchat_a_b.socket":   "ListenStream=/run/noipchat/a-b\n",
		"noipchat-unix-run_noipchat_a_b_.socket":  "ListenStream=/run/noipchat/a+b\n",
	}
	var files []string
	made, err := os.ReadDir(filepath.Join(units, "noipchat.socket.wants"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range made {
		unit, err := os.ReadFile(filepath.Join(units, "noipchat.socket.wants", d.Name())) // by its link
		if err != nil || want[d.Name()] == "" || !strings.Contains(string(unit), want[d.Name()]) {
			t.Errorf("%s: %v\n%s", d.Name(), err, unit)
		}
		files = append(files, filepath.Join(units, d.Name()))
	}
	if len(made) != len(want) {
		t.Errorf("%d units", len(made))
	}
	if verify, err := exec.LookPath("systemd-analyze"); err == nil {
		out, _ := exec.Command(verify, slices.Concat([]string{"verify", "--man=no", "--recursive-errors=no"}, files)...).CombinedOutput()
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, units) { // others speak of units that are not installed here
				t.Error(line)
			}
		}
	}
	if err := os.WriteFile(path, []byte("nmae = 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := generate(path, units); err == nil || !strings.Contains(err.Error(), "unknown key nmae") {
		t.Errorf("a bad one: %v", err)
	}
}
