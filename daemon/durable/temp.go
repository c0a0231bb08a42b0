package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// IsTemp reports whether name, without its directory, is that of a temporary
// file: a dot, the name of the target, and a random number of up to 19 digits,
// as renameio makes them. Fifteen digits must be there, one more than a date
// and time have; one temporary file in 90,000 has fewer and is not known as one.
//
// No file of ours may begin with a dot.
func IsTemp(name string) bool {
	const digits = 15
	if len(name) < 1+digits || name[0] != '.' {
		return false
	}
	for _, c := range []byte(name[len(name)-digits:]) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// Sweep removes the temporary files that a crash has left in dir, not those in
// the directories below. Nobody may be writing there: hold the lock.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("sweeping: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.Type().IsRegular() && IsTemp(e.Name()) {
			errs = append(errs, Remove(filepath.Join(dir, e.Name())))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("sweeping %s: %w", dir, err)
	}
	return nil
}
