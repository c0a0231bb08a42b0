package daemon_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/noipchat/noipchat/"

// imports is the plan of the house: what each package may import besides the
// standard library. It points downwards only. Tests may import more.
var imports = map[string][]string{
	"daemon/message":   {},
	"daemon/durable":   {"github.com/google/renameio/v2", "golang.org/x/sys/unix"},
	"daemon/transport": {"golang.org/x/sys/unix"},
	"daemon/systemd":   {"github.com/coreos/go-systemd/v22/daemon", "github.com/coreos/go-systemd/v22/activation", "golang.org/x/sys/unix"},
	"daemon/config":    {"daemon/message", "daemon/identity", "daemon/transport", "github.com/BurntSushi/toml", "github.com/fsnotify/fsnotify"},
	"daemon/identity":  {"daemon/message", "daemon/durable", "golang.org/x/crypto/argon2"},
	"daemon/spool":     {"daemon/message", "daemon/durable", "golang.org/x/sync/errgroup"},
	"daemon/handoff":   {"golang.org/x/sys/unix"},
	"daemon/backup":    {"daemon/durable", "daemon/spool"},
	"daemon/control":   {"daemon/message", "golang.org/x/sys/unix"},
	"daemon/wire":      {"daemon/message", "daemon/identity", "daemon/transport", "github.com/flynn/noise"},
	"daemon/route":     {},
	"daemon/relay":     {"daemon/message", "daemon/spool"},
	"daemon/pump":      {"daemon/message", "daemon/spool", "daemon/wire", "daemon/relay"},
	"daemon/session":   {"daemon/pump", "daemon/message", "daemon/identity", "daemon/transport", "daemon/spool", "daemon/wire", "daemon/relay"},
	"daemon/peer":      {"daemon/message", "daemon/durable", "daemon/identity", "daemon/transport", "daemon/spool", "daemon/wire", "daemon/route", "daemon/relay", "daemon/pump"},
	"daemon/client": {"daemon/message", "daemon/durable", "daemon/identity", "daemon/transport", "daemon/wire",
		"golang.org/x/sync/errgroup", "golang.org/x/sys/unix", "modernc.org/sqlite"},
	"daemon": {"daemon/peer", "daemon/message", "daemon/durable", "daemon/transport", "daemon/systemd", "daemon/config", "daemon/identity",
		"daemon/backup", "daemon/spool", "daemon/control", "daemon/wire", "daemon/relay", "daemon/session", "daemon/handoff", "golang.org/x/sync/errgroup",
		"github.com/prometheus/client_golang/prometheus", "github.com/prometheus/client_golang/prometheus/collectors",
		"github.com/prometheus/client_golang/prometheus/promhttp"},

	"cmd/cli": {"daemon/message", "github.com/spf13/cobra", "github.com/spf13/pflag", "golang.org/x/term"},
	"cmd/noipctl": {"cmd/cli", "daemon/message", "daemon/durable", "daemon/config", "daemon/identity", "daemon/control",
		"daemon/backup", "daemon/transport", "daemon/wire", "filippo.io/age", "golang.org/x/sys/unix",
		"github.com/spf13/cobra", "github.com/boombuler/barcode/qr", "charm.land/bubbletea/v2", "charm.land/huh/v2",
		"github.com/charmbracelet/x/ansi", "golang.org/x/term"},
	"cmd/noipchat":  {"cmd/cli", "daemon/message", "daemon/durable", "daemon/identity", "daemon/transport", "daemon/client", "daemon/wire", "github.com/spf13/cobra", "golang.org/x/sys/unix"},
	"cmd/noipchatd": {"cmd/cli", "daemon/message", "daemon", "daemon/config", "daemon/durable", "daemon/transport", "daemon/systemd", "daemon/identity", "daemon/control", "daemon/client"},

	"contrib/arq":      {"golang.org/x/sys/unix"},
	"packaging/attack": {"github.com/coreos/go-systemd/v22/daemon", "golang.org/x/sys/unix"},
	"packaging/bill":   {},
}

// noPackage are names that say nothing of what is inside.
var noPackage = []string{"internal", "pkg", "util", "utils", "common", "helpers", "types", "models", "manager"}

// TestHouse holds the plan, and that each package has one package comment. It
// reads the sources itself, so that the test cache knows what it depends on.
func TestHouse(t *testing.T) {
	comments := map[string]int{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains(noPackage, d.Name()) {
				t.Errorf("%s: the name of a folder says what is in it", path)
			}
			if d.Name() == "testdata" || path != ".." && strings.HasPrefix(d.Name(), ".") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		rel, _ := filepath.Rel("..", path)
		room := filepath.ToSlash(filepath.Dir(rel))
		test := strings.HasSuffix(path, "_test.go")
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		if !test {
			comments[room] += packageComments(file)
			checkImports(t, rel, room, file)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for room, n := range comments {
		if n != 1 {
			t.Errorf("%s has %d package comments, not one", room, n)
		}
		if _, known := imports[room]; !known {
			t.Errorf("%s is a new room: write into this test what it may import, and into docs/architecture.md what it is for", room)
		}
	}
	for room := range imports {
		if _, found := comments[room]; !found {
			t.Errorf("%s is in the plan and not in the house", room)
		}
	}
}

func packageComments(file *ast.File) int {
	if file.Doc == nil {
		return 0
	}
	return 1
}

func checkImports(t *testing.T, path, room string, file *ast.File) {
	for _, spec := range file.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		short, ours := strings.CutPrefix(name, module)
		if !ours && !strings.Contains(strings.SplitN(name, "/", 2)[0], ".") {
			continue // the standard library
		}
		if !slices.Contains(imports[room], short) {
			t.Errorf("%s imports %s: the plan of the house doesn't have that", path, name)
		}
	}
}

// TestFuzzKept: each fuzz test has kept inputs, which every run of the tests goes through.
func TestFuzzKept(t *testing.T) {
	targets := 0
	err := filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || !strings.HasPrefix(f.Name.Name, "Fuzz") {
				continue
			}
			targets++
			if kept, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "testdata", "fuzz", f.Name.Name, "*")); len(kept) == 0 {
				t.Errorf("%s: %s has nothing in testdata/fuzz", path, f.Name.Name)
			}
		}
		return nil
	})
	if err != nil || targets == 0 {
		t.Errorf("%d fuzz tests: %v", targets, err)
	}
}
