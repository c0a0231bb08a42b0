// Package docs holds the documents to what is there: their links, the tests that
// they name as witnesses, and the list of modules.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// documents are README.md and all below docs.
func documents(t *testing.T) []string {
	t.Helper()
	all := []string{"../README.md"}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".md") {
			all = append(all, path)
		}
		return err
	})
	if err != nil || len(all) < 10 {
		t.Fatalf("%d documents, %v", len(all), err)
	}
	return all
}

// TestLinks: what a link leads to is there, and has the heading that it names.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:\s]*)(?:#([^)]*))?\)`)
	heading := regexp.MustCompile(`(?m)^#+ (.*)$`)
	odd := regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	for _, doc := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, doc), -1) {
			there := doc
			if m[1] != "" {
				there = filepath.Join(filepath.Dir(doc), m[1])
			}
			if _, err := os.Stat(there); err != nil {
				t.Errorf("%s: the link %s leads nowhere", doc, m[1])
				continue
			}
			found := m[2] == ""
			if !found {
				for _, h := range heading.FindAllStringSubmatch(read(t, there), -1) {
					found = found || strings.ReplaceAll(odd.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-") == m[2]
				}
			}
			if !found {
				t.Errorf("%s: %s has no heading #%s", doc, there, m[2])
			}
		}
	}
}

// TestWitnesses: a test that a document names is there.
func TestWitnesses(t *testing.T) {
	there := map[string]bool{}
	defined := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if strings.HasSuffix(path, "_test.go") {
			for _, m := range defined.FindAllStringSubmatch(read(t, path), -1) {
				there[m[1]] = true
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w+`)
	for _, doc := range documents(t) {
		if doc == "results.md" {
			continue // tells of the past
		}
		for _, name := range named.FindAllString(read(t, doc), -1) {
			if !there[name] {
				t.Errorf("%s names %s, which is nowhere", doc, name)
			}
		}
	}
}

// TestModules: go.mod and the list of what we depend on agree, to the version.
func TestModules(t *testing.T) {
	const list = "decisions/014-dependencies.md"
	modules := func(text string, line *regexp.Regexp) map[string]string {
		all := map[string]string{}
		for _, m := range line.FindAllStringSubmatch(text, -1) {
			all[m[1]] = m[2]
		}
		if len(all) < 5 {
			t.Fatalf("%v finds %d modules", line, len(all))
		}
		return all
	}
	used := modules(read(t, "../go.mod"), regexp.MustCompile(`(?m)^\t(\S+) (v\S+)`))
	told := modules(read(t, list), regexp.MustCompile(`(?m)^\| (\S+\.\S+/\S+) \| (v\S+)`))
	for module, version := range used {
		if told[module] != version {
			t.Errorf("go.mod has %s %s, and %s says %q", module, version, list, told[module])
		}
	}
	for module := range told {
		if used[module] == "" {
			t.Errorf("%s has %s, which go.mod has not", list, module)
		}
	}
}

// TestTable: the README's table leads to every document.
func TestTable(t *testing.T) {
	pages, err := filepath.Glob("*.md")
	if err != nil || len(pages) < 10 {
		t.Fatal(pages, err)
	}
	readme := read(t, "../README.md")
	for _, page := range pages {
		if !strings.Contains(readme, "\n| [docs/"+page+"](docs/"+page+") | ") {
			t.Errorf("%s is not there", page)
		}
	}
}
