package client

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/noipchat/noipchat/daemon/durable"
)

// maxSavedName is bytes of a file's name without what is put behind it.
const maxSavedName = 200

// SafeName makes of a file's name, which is its sender's choice, one that is a name in
// a folder of ours and shows what it is: without folders, controls, characters that
// change the direction of writing or that are special to shells and other systems, and
// without a dot or a dash at the beginning.
func SafeName(name string) string {
	if i := strings.LastIndexAny(name, `/\`); i >= 0 {
		name = name[i+1:]
	}
	name = strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError, strings.ContainsRune("<>:\"|?*\x60$&;'", r):
			return '_'
		case r == ' ':
			return r
		case !unicode.IsPrint(r), unicode.Is(unicode.Cf, r):
			return '_'
		}
		return r
	}, name)
	name = strings.Trim(name, " ")
	name = strings.TrimRight(name, ". ")
	if name == "" {
		return "file"
	}
	if name[0] == '.' || name[0] == '-' || name[0] == '~' {
		name = "_" + name[1:]
	}
	if len(name) <= maxSavedName {
		return name
	}
	extension := filepath.Ext(name)
	if len(extension) > 20 {
		extension = ""
	}
	cut := maxSavedName - len(extension)
	for !utf8.RuneStart(name[cut]) {
		cut--
	}
	return strings.TrimRight(name[:cut], ". ") + strings.TrimRight(extension, ". ")
}

// SaveFile moves the file of a message that came in into the folder dir, and returns
// where it is now. It never overwrites anything: a name that is taken gets a number. A
// file that was saved before is left where it is.
func (s *Store) SaveFile(m Message, dir string) (path string, err error) {
	from := s.FilePath(m.File)
	if filepath.Dir(from) != filepath.Join(filepath.Dir(s.path), filesFolder) {
		return from, nil
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", err
	}
	if err := durable.MkdirAll(dir, 0o777); err != nil {
		return "", err
	}
	source, err := os.Stat(from)
	if err != nil {
		return "", err
	}
	if path, err = place(from, source, dir, SafeName(m.File.Name)); err != nil {
		return "", noSpace(err)
	}
	if err := s.MovedFile(m, path); err != nil {
		return "", err
	}
	return path, os.Remove(from)
}

// place gives a file a name in dir that no other one has: by a link if that goes, else
// by a copy.
func place(from string, source fs.FileInfo, dir, name string) (path string, err error) {
	path, err = linkInto(from, source, dir, name)
	if err == nil || errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && !isDir(dir) {
		return path, err
	}
	f, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer f.Close()
	copied, err := os.CreateTemp(dir, ".noipchat-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(copied.Name())
	_, err = io.Copy(copied, f)
	if err == nil {
		err = copied.Sync()
	}
	if err = errors.Join(err, copied.Close()); err != nil {
		return "", err
	}
	if source, err = os.Stat(copied.Name()); err != nil {
		return "", err
	}
	return linkInto(copied.Name(), source, dir, name)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// linkInto tries the name, and then others with a number. One that is the file already is
// from a time that a crash has cut short.
func linkInto(from string, source fs.FileInfo, dir, name string) (path string, err error) {
	extension := filepath.Ext(name)
	stem := strings.TrimSuffix(name, extension)
	for n := range 10_000 {
		path = filepath.Join(dir, name)
		if n > 0 {
			path = filepath.Join(dir, fmt.Sprintf("%s (%d)%s", stem, n, extension))
		}
		err = os.Link(from, path)
		if errors.Is(err, fs.ErrExist) {
			if there, statErr := os.Lstat(path); statErr == nil && os.SameFile(there, source) {
				err = nil
			} else {
				continue
			}
		}
		if err == nil {
			err = durable.SyncDir(dir)
		}
		return path, err
	}
	return "", err
}
