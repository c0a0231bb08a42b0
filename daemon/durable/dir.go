package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// MkdirAll makes the directory path and those above it that are missing, each
// with exactly the permissions perm (and the set-group-id bit that it
// inherits), and syncs each into its parent before it makes the next. A
// directory that it can't sync it removes again.
//
// A directory that exists already is taken to be durable. Who made it may have
// died before the sync; ext4, XFS and btrfs then make it durable with the first
// file that is synced below it, other file systems may not.
func MkdirAll(path string, perm fs.FileMode) error {
	err := makeDirs(path, perm, func(made string) error {
		err := SyncDir(filepath.Dir(made))
		if err != nil {
			Remove(made)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("making directory %s: %w", path, err)
	}
	return nil
}

// makeDirs makes what is missing of path, from the top, and calls made after
// each directory that it made.
func makeDirs(path string, perm fs.FileMode, made func(string) error) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := makeDirs(filepath.Dir(path), perm, made); err != nil {
		return err
	}
	if err := inject(stepMkdir, path); err != nil {
		return err
	}
	if err := os.Mkdir(path, perm); err != nil {
		if info, e := os.Stat(path); e == nil && info.IsDir() {
			return nil // somebody was faster
		}
		return err
	}
	info, err = os.Stat(path)
	if err == nil && info.Mode().Perm() != perm.Perm() { // the umask
		err = os.Chmod(path, info.Mode()&^fs.ModePerm|perm.Perm())
	}
	if err != nil {
		os.Remove(path)
		return err
	}
	return made(path)
}

// Remove unlinks the file, or the empty directory, at path. It is not durable
// before SyncDir of the directory that held it: the caller may remove many
// first, or not care whether a file comes back after a power cut.
func Remove(path string) error {
	if err := inject(stepUnlink, path); err != nil {
		return err
	}
	return os.Remove(path)
}

// Rename renames a file atomically, replacing what is at new, and syncs both
// directories. After an error in a sync the file may be found under either name
// after a power cut.
func Rename(old, new string) error {
	if err := rename(old, new); err != nil {
		return err
	}
	return syncRenamed(old, new)
}

func rename(old, new string) error {
	if err := inject(stepRename, new); err != nil {
		return err
	}
	return os.Rename(old, new)
}

// syncRenamed syncs the new directory first: a file with two names is better
// than one with none.
func syncRenamed(old, new string) error {
	to, from := filepath.Dir(new), filepath.Dir(old)
	if err := SyncDir(to); err != nil || to == from {
		return err
	}
	return SyncDir(from)
}

// SyncDir makes the names in dir durable: what was made, renamed or removed
// there.
func SyncDir(dir string) error {
	if err := inject(stepSyncDir, dir); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
