// Command bill tells what a program is made of, from what the linker has noted in
// it: as a bill of materials in CycloneDX 1.6, or as the licences of all modules.
//
//	bill sbom [-timestamp RFC3339] -o FILE PROGRAM
//	bill licences PROGRAM…
package main

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
)

func main() {
	err := errors.New("usage: bill sbom|licences …")
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "sbom":
			err = sbom(os.Args[2:])
		case "licences":
			err = licences(os.Stdout, os.Args[2:])
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bill:", err)
		os.Exit(1)
	}
}

// component is a part of a program as CycloneDX has it.
type component struct {
	Type    string `json:"type"`
	BOMRef  string `json:"bom-ref"`
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	PURL    string `json:"purl,omitempty"`
	Hashes  []hash `json:"hashes,omitempty"`
}

type hash struct {
	Alg     string `json:"alg"`
	Content string `json:"content"`
}

func sbom(args []string) error {
	flags := flag.NewFlagSet("sbom", flag.ContinueOnError)
	out := flags.String("o", "", "the `FILE` to write")
	timestamp := flags.String("timestamp", "", "when the program was made")
	if err := flags.Parse(args); err != nil {
		return err
	}
	program := flags.Arg(0)
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	var bill struct {
		Format   string `json:"bomFormat"`
		Spec     string `json:"specVersion"`
		Version  int    `json:"version"`
		Metadata struct {
			Timestamp string    `json:"timestamp,omitempty"`
			Component component `json:"component"`
		} `json:"metadata"`
		Components []component `json:"components"`
	}
	bill.Format, bill.Spec, bill.Version = "CycloneDX", "1.6", 1
	bill.Metadata.Timestamp = *timestamp
	bill.Metadata.Component = component{
		Type: "application", BOMRef: info.Path, Name: info.Path, Version: info.Main.Version,
		Hashes: []hash{{"SHA-256", hex.EncodeToString(sum[:])}},
	}
	for _, m := range modules(info) {
		purl := "pkg:golang/" + strings.ToLower(m.Path) + "@" + m.Version
		bill.Components = append(bill.Components, component{Type: "library", BOMRef: purl, Name: m.Path, Version: m.Version, PURL: purl})
	}
	b, err := json.MarshalIndent(bill, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(*out, append(b, '\n'), 0o644)
}

// modules are those that a program is linked of, the standard library first.
func modules(info *buildinfo.BuildInfo) []debug.Module {
	all := []debug.Module{{Path: "std", Version: strings.TrimPrefix(info.GoVersion, "go")}}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		all = append(all, *m)
	}
	return all
}

var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents|authors)([.-].*)?$`)

// licences writes the texts that must travel with the programs.
func licences(w io.Writer, programs []string) error {
	var all []debug.Module
	for _, program := range programs {
		info, err := buildinfo.ReadFile(program)
		if err != nil {
			return err
		}
		all = append(all, modules(info)...)
	}
	slices.SortFunc(all, func(a, b debug.Module) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Version, b.Version))
	})
	all = slices.CompactFunc(all, func(a, b debug.Module) bool { return a.Path == b.Path && a.Version == b.Version })
	for _, m := range all {
		dir, err := folder(m)
		if err != nil {
			return fmt.Errorf("finding %s %s: %w", m.Path, m.Version, err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		found := false
		for _, e := range entries {
			if e.IsDir() || !licenceFile.MatchString(e.Name()) {
				continue
			}
			text, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				return err
			}
			found = found || !strings.EqualFold(e.Name(), "authors")
			fmt.Fprintf(w, "==== %s %s: %s\n\n%s\n\n", m.Path, m.Version, e.Name(), strings.TrimSpace(string(text)))
		}
		if !found {
			return fmt.Errorf("%s %s has no licence in %s", m.Path, m.Version, dir)
		}
	}
	return nil
}

// folder is where a module's source is.
func folder(m debug.Module) (string, error) {
	args := []string{"list", "-m", "-f", "{{.Dir}}", m.Path}
	if m.Path == "std" {
		args = []string{"env", "GOROOT"}
	}
	out, err := exec.Command("go", args...).Output()
	dir := strings.TrimSpace(string(out))
	if err == nil && dir == "" {
		err = errors.New("it is not downloaded")
	}
	return dir, err
}
