// Package backup is a server as one stream: its folder, its configuration, and a manifest
// that says what has to be there. Write makes it, of a server that doesn't run or of a
// snapshot of one that does; Read takes it apart and trusts nothing in it. Sealing it,
// and what becomes of the files, is the caller's affair. It starts no goroutine.
//
// The stream is a tar of plain files:
//
//	manifest.json │ config/main.toml │ config/conf.d/NAME.toml … │ state/… as in the server's folder
//
// On disk it leaves links to a server's files below Links in its folder, while there is a
// snapshot.
package backup

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/spool"
)

// Names in a server's folder that are not in a stream.
const (
	Links    = "export"     // a snapshot
	Imported = "imported"   // an empty file: this came by a stream, and did not run since
	Unpacked = "import.new" // what has come of a stream, until all of it is there
	Lock     = "lock"
)

// ErrHalf says that a folder has a part of a server only.
var ErrHalf = errors.New("an import was interrupted here, so a part of the server is missing")

// Whole returns ErrHalf if an import into the folder was killed while it put files into
// their places: Imported is there first, and Unpacked goes last.
func Whole(state string) error {
	for _, name := range []string{Imported, Unpacked} {
		if _, err := os.Lstat(filepath.Join(state, name)); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: %w", state, ErrHalf)
}

// Format is what Write writes, and the only one that Read reads.
const Format = 1

const (
	manifestName = "manifest.json"
	maxManifest  = 64 << 10 // bytes
	maxConfig    = 4 << 20  // bytes of one file of the configuration
	maxFiles     = 50_000_000
)

// Manifest says what is in a stream.
type Manifest struct {
	Format      int       `json:"format"`
	Server      string    `json:"server"`
	Fingerprint string    `json:"fingerprint"`
	Key         string    `json:"key"` // the public one
	Made        time.Time `json:"made"`
	Version     string    `json:"version"` // of the program that wrote it
	Files       int64     `json:"files"`   // beside the manifest
	Bytes       int64     `json:"bytes"`   // in them
}

// NewManifest says of a server who it is, now.
func NewManifest(server, key, fingerprint, version string) Manifest {
	return Manifest{Server: server, Key: key, Fingerprint: fingerprint, Version: version, Made: time.Now().UTC().Truncate(time.Second)}
}

// Source is what a stream is made of.
type Source struct {
	Manifest Manifest // Write fills in Format, Files and Bytes
	Config   []string // files, the main one first
	State    []File   // of a server that doesn't run, or what Link has made
	Journal  []spool.Piece
}

// File is one of a stream.
type File struct {
	name, path string
	size       int64
	open       *os.File // has it, instead of path
}

// wanted tells of a name below a server's folder whether it is in a stream.
func wanted(name string) bool {
	switch top, rest, below := strings.Cut(name, "/"); {
	case !fs.ValidPath(name), top == Links, top == Imported, top == Unpacked, top == Lock, durable.IsTemp(path.Base(name)):
		return false
	case top == "spool" && below:
		return !spool.Left(rest)
	}
	return true
}

// Files lists those of a server that doesn't run.
func Files(state string) (all []File, err error) {
	err = filepath.WalkDir(state, func(p string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(state, p)
		switch {
		case errors.Is(err, fs.ErrNotExist) && name != ".": // done meanwhile, if it runs
			return nil
		case err != nil:
			return err
		case !wanted(name) && d.IsDir():
			return filepath.SkipDir
		case !wanted(name) || !d.Type().IsRegular():
			return nil
		}
		all = append(all, File{name: "state/" + name, path: p})
		return nil
	})
	return all, err
}

// Link makes links to the files of a server that runs, in the folder Links of its own,
// and lists those. All files of a server but its journal, which is left out, are
// replaced, never changed; so these stay what they are.
func Link(state string) (all []File, err error) {
	to := filepath.Join(state, Links)
	if err := os.RemoveAll(to); err != nil { // of a server that died
		return nil, err
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return nil, err
	}
	files, err := Files(state)
	for _, f := range files {
		if path.Dir(f.name) == "state/spool/journal" {
			continue
		}
		link := filepath.Join(to, strconv.Itoa(len(all)))
		switch err := os.Link(f.path, link); {
		case errors.Is(err, fs.ErrNotExist): // done meanwhile
		case err != nil:
			return nil, err
		default:
			all = append(all, File{name: f.name, path: link})
		}
	}
	return all, err
}

// Write writes a stream.
func Write(w io.Writer, s Source) error {
	var all []File
	for i, p := range s.Config {
		name := "config/main.toml"
		if i > 0 {
			name = "config/conf.d/" + filepath.Base(p)
		}
		all = append(all, File{name: name, path: p})
	}
	all = append(all, s.State...)
	for i, f := range all {
		info, err := os.Stat(f.path)
		if err != nil {
			return err
		}
		all[i].size = info.Size()
	}
	for _, p := range s.Journal {
		all = append(all, File{name: "state/spool/" + p.Name, size: p.Size, open: p.File})
	}
	m := s.Manifest
	m.Format, m.Files = Format, int64(len(all))
	for _, f := range all {
		m.Bytes += f.size
	}
	head, err := json.Marshal(m)
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	if err := t.WriteHeader(header(manifestName, int64(len(head)))); err != nil {
		return err
	}
	if _, err := t.Write(head); err != nil {
		return err
	}
	for _, f := range all {
		if err := f.write(t); err != nil {
			return fmt.Errorf("exporting %s: %w", f.name, err)
		}
	}
	return t.Close()
}

func header(name string, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600}
}

func (f File) write(t *tar.Writer) error {
	from := f.open
	if from == nil {
		var err error
		if from, err = os.Open(f.path); err != nil {
			return err
		}
		defer from.Close()
	}
	if err := t.WriteHeader(header(f.name, f.size)); err != nil {
		return err
	}
	n, err := io.Copy(t, io.NewSectionReader(from, 0, f.size))
	if err == nil && n < f.size {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// ErrDamaged says that a stream is none that Write has written.
var ErrDamaged = errors.New("no export of a server, or damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrDamaged, fmt.Errorf(format, args...))
}

// Read reads a stream to its end: it calls begin with the manifest, then put for each
// file, whose name, a clean path, begins with "config/" or "state/". They may be hostile;
// only if Read returns nil, all of them were there. put's reader ends after size bytes, or fails.
func Read(r io.Reader, begin func(Manifest) error, put func(name string, size int64, r io.Reader) error) error {
	t := tar.NewReader(r)
	h, err := t.Next()
	if err != nil {
		return damaged("its manifest: %w", err)
	}
	if h.Name != manifestName || h.Size > maxManifest {
		return damaged("it begins with %q of %d bytes", h.Name, h.Size)
	}
	head, err := io.ReadAll(t)
	if err != nil {
		return damaged("its manifest: %w", err)
	}
	var m Manifest
	switch err := json.Unmarshal(head, &m); {
	case err != nil:
		return damaged("its manifest: %w", err)
	case m.Format != Format:
		return fmt.Errorf("its format is %d, and this program reads %d: take a program of version %s, or later", m.Format, Format, m.Version)
	case m.Files < 0 || m.Files > maxFiles || m.Bytes < 0:
		return damaged("its manifest has %d files of %d bytes", m.Files, m.Bytes)
	}
	if err := begin(m); err != nil {
		return err
	}
	files, bytes := m.Files, m.Bytes
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return damaged("%w", err)
		}
		files--
		bytes -= h.Size
		switch {
		case h.Typeflag != tar.TypeReg:
			return damaged("%q is no plain file", h.Name)
		case !good(h.Name, h.Size):
			return damaged("it has a file %q of %d bytes", h.Name, h.Size)
		case files < 0 || bytes < 0:
			return damaged("it has more than its manifest says")
		}
		if err := put(h.Name, h.Size, t); err != nil {
			return err
		}
	}
	if files != 0 || bytes != 0 {
		return damaged("it has %d files and %d bytes less than its manifest says", files, bytes)
	}
	// What seals it says only at its end that it is whole.
	switch n, err := io.ReadFull(r, make([]byte, 1)); {
	case n > 0:
		return damaged("it goes on behind its end")
	case !errors.Is(err, io.EOF):
		return err
	}
	return nil
}

// good tells whether a stream may have such a file.
func good(name string, size int64) bool {
	if !fs.ValidPath(name) {
		return false
	}
	below, ok := strings.CutPrefix(name, "state/")
	if ok {
		return wanted(below)
	}
	dir, base := path.Split(name)
	drop := dir == "config/conf.d/" && strings.HasSuffix(base, ".toml") && !strings.HasPrefix(base, ".")
	return (drop || name == "config/main.toml") && size <= maxConfig
}
