package backup

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/noipchat/noipchat/daemon/spool"
)

// tree makes files, and what is no file too.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// unpack reads a stream into a map.
func unpack(r io.Reader) (files map[string]string, m Manifest, err error) {
	files = map[string]string{}
	err = Read(r, func(now Manifest) error { m = now; return nil }, func(name string, size int64, r io.Reader) error {
		b, err := io.ReadAll(io.LimitReader(r, 1<<20))
		if err == nil && int64(len(b)) < min(size, 1<<20) {
			err = fmt.Errorf("%s has %d bytes, not %d", name, len(b), size)
		}
		files[name] = string(b)
		return err
	})
	return files, m, err
}

var ofServer = map[string]string{
	"key": "secret", "users/alice.json": "{}", "spool/queues/bob@server1/0/1-2": "mail", "spool/queues/server2/1-2": "mail", ".ssh/id": "secret",
	"spool/journal/00000000000000000007": "journal, and what comes after its last sync", "spool/refused/x": "damaged",
	// what is left out
	"lock": "", "imported": "", "export/0": "key", "spool/reserve": "zeros", "spool/journal/spare-00000000000000000001": "zeros",
	"users/.alice.json1234567890123456": "half",
}

var wanted1 = []string{"config/conf.d/peer-x.toml", "config/main.toml", "state/.ssh/id", "state/key", "state/spool/journal/00000000000000000007",
	"state/spool/queues/bob@server1/0/1-2", "state/spool/queues/server2/1-2", "state/spool/refused/x", "state/users/alice.json"}

// TestStream has all that a server is made of in a stream, once of one that is stopped and
// once of one that goes on changing, in which what changed since is as it was.
func TestStream(t *testing.T) {
	conf := tree(t, map[string]string{"noipchat.toml": "name", "conf.d/peer-x.toml": "peer"})
	config := []string{filepath.Join(conf, "noipchat.toml"), filepath.Join(conf, "conf.d", "peer-x.toml")}
	for _, runs := range []bool{false, true} {
		state := tree(t, ofServer)
		s := Source{Config: config, Manifest: NewManifest("server1", "noip1", "print", "v1")}
		var err error
		s.State, err = Files(state)
		journal := ofServer["spool/journal/00000000000000000007"]
		if runs {
			s.State, err = Link(state)
			f, err := os.Open(filepath.Join(state, "spool/journal/00000000000000000007"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			journal = journal[:7]
			s.Journal = []spool.Piece{{Name: "journal/00000000000000000007", Size: 7, File: f}}
			if err := errors.Join(os.Remove(filepath.Join(state, "spool/queues/bob@server1/0/1-2")), os.WriteFile(filepath.Join(state, "users/new"), []byte("{1}"), 0o600),
				os.Rename(filepath.Join(state, "users/new"), filepath.Join(state, "users/alice.json"))); err != nil {
				t.Fatal(err)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := Write(&b, s); err != nil {
			t.Fatal(err)
		}
		files, m, err := unpack(iotest.OneByteReader(&b))
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, wanted1) {
			t.Errorf("it has %q, not %q", got, wanted1)
		}
		for name, text := range files {
			below, ok := strings.CutPrefix(name, "state/")
			want := ofServer[below]
			if below == "spool/journal/00000000000000000007" {
				want = journal
			}
			if ok && text != want {
				t.Errorf("%s has %q, not %q", name, text, want)
			}
		}
		if m.Server != "server1" || m.Files != int64(len(wanted1)) {
			t.Errorf("its manifest is %+v", m)
		}
	}
}

// packed is a stream as a stranger would make it.
func packed(manifest string, entries ...tar.Header) []byte {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	for _, h := range append([]tar.Header{{Name: manifestName, Size: int64(len(manifest))}}, entries...) {
		h.Mode = 0o600
		err := t.WriteHeader(&h)
		if err == nil && h.Name == manifestName {
			_, err = io.WriteString(t, manifest)
		} else if err == nil {
			_, err = t.Write(make([]byte, h.Size))
		}
		if err != nil {
			panic(err)
		}
	}
	t.Close()
	return b.Bytes()
}

const manifest2 = `{"format":1,"server":"server1","files":2,"bytes":9}`

var hostile = map[string]struct {
	stream []byte
	want   string // "": it is good
}{
	"good":           {packed(manifest2, tar.Header{Name: "config/main.toml", Size: 4}, tar.Header{Name: "state/key", Size: 5}), ""},
	"empty":          {nil, "its manifest"},
	"no manifest":    {packed("")[512:], "its manifest"},
	"no JSON":        {packed("name"), "its manifest"},
	"newer":          {packed(`{"format":2,"version":"v9"}`), "its format is 2"},
	"less than none": {packed(`{"format":1,"files":-1}`), "-1 files"},
	"too few":        {packed(manifest2, tar.Header{Name: "state/key", Size: 9}), "1 files and 0 bytes less"},
	"too many":       {packed(`{"format":1}`, tar.Header{Name: "state/key"}), "more than its manifest says"},
	"too large":      {packed(`{"format":1,"files":1,"bytes":8}`, tar.Header{Name: "state/key", Size: 9}), "more than its manifest says"},
	"up":             {packed(manifest2, tar.Header{Name: "state/../../etc/passwd"}), `a file "state/../../etc/passwd"`},
	"absolute":       {packed(manifest2, tar.Header{Name: "/etc/passwd"}), `a file "/etc/passwd"`},
	"elsewhere":      {packed(manifest2, tar.Header{Name: "config/keys/x"}), `a file "config/keys/x"`},
	"deep":           {packed(manifest2, tar.Header{Name: "config/conf.d/x/y.toml"}), "a file"},
	"hidden":         {packed(manifest2, tar.Header{Name: "config/conf.d/.x.toml"}), "a file"},
	"lock":           {packed(manifest2, tar.Header{Name: "state/lock"}), "a file"},
	"itself":         {packed(manifest2, tar.Header{Name: "state"}), "a file"},
	"symbolic link":  {packed(manifest2, tar.Header{Name: "state/key", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}), "no plain file"},
	"link":           {packed(manifest2, tar.Header{Name: "state/key", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}), "no plain file"},
	"device":         {packed(manifest2, tar.Header{Name: "state/key", Typeflag: tar.TypeBlock}), "no plain file"},
	"folder":         {packed(manifest2, tar.Header{Name: "state/users/", Typeflag: tar.TypeDir}), "no plain file"},
	"goes on":        {append(packed(`{"format":1}`), 1), "goes on behind its end"},
}

func TestHostile(t *testing.T) {
	for name, test := range hostile {
		_, _, err := unpack(bytes.NewReader(test.stream))
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, not %q", name, err, test.want)
		}
	}
	whole := hostile["good"].stream
	for n := range len(whole) - 1024 - 512 + 5 { // behind its last byte a tar is taken for whole; what seals it knows better
		if _, _, err := unpack(bytes.NewReader(whole[:n])); err == nil {
			t.Fatalf("cut at byte %d of %d it is good", n, len(whole))
		}
	}
}

// FuzzRead: whatever comes, names stay below, and no more is taken than was promised.
func FuzzRead(f *testing.F) {
	for _, test := range hostile {
		f.Add(test.stream)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m Manifest
		files, size := int64(0), int64(0)
		err := Read(bytes.NewReader(b), func(now Manifest) error { m = now; return nil }, func(name string, n int64, r io.Reader) error {
			if !filepath.IsLocal(name) || !fs.ValidPath(name) || !strings.HasPrefix(name, "config/") && !strings.HasPrefix(name, "state/") {
				t.Errorf("the name %q", name)
			}
			got, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20))
			if files, size = files+1, size+n; files > m.Files || size > m.Bytes || got > n {
				t.Errorf("file %d of %d, %d bytes of %d", files, m.Files, size, m.Bytes)
			}
			return err
		})
		if err == nil && (files != m.Files || size != m.Bytes) {
			t.Errorf("it is good with %d files of %d bytes, and its manifest has %+v", files, size, m)
		}
	})
}
