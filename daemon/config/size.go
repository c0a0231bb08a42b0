package config

import (
	"fmt"
	"math"
	"strconv"
)

// Size is a number of bytes. In TOML it is a string such as "64MiB", or an
// integer.
type Size int64

// The units in Go; the decimal ones (kB, MB, GB, TB) are for people.
const (
	KiB Size = 1 << (10 * (iota + 1))
	MiB
	GiB
	TiB
)

// sizeUnits has the larger first, so that of two equally short spellings String
// finds the one with the larger unit.
var sizeUnits = []struct {
	name  string
	bytes Size
}{
	{"TiB", TiB}, {"TB", 1e12}, {"GiB", GiB}, {"GB", 1e9}, {"MiB", MiB}, {"MB", 1e6}, {"KiB", KiB}, {"kB", 1e3}, {"", 1},
}

// ParseSize reads a whole number without sign, leading zero or space, and a unit
// directly after it; none means bytes. It refuses what doesn't fit 63 bits.
func ParseSize(s string) (Size, error) {
	digits := 0
	for digits < len(s) && '0' <= s[digits] && s[digits] <= '9' {
		digits++
	}
	for _, u := range sizeUnits {
		if s[digits:] != u.name || digits == 0 || s[0] == '0' && digits > 1 {
			continue
		}
		n, err := strconv.ParseInt(s[:digits], 10, 64)
		if err != nil || Size(n) > math.MaxInt64/u.bytes {
			return 0, fmt.Errorf("size %.40q is too big", s)
		}
		return Size(n) * u.bytes, nil
	}
	return 0, fmt.Errorf(`size %.40q must be a whole number with KiB, MiB, GiB, TiB, kB, MB, GB or TB, such as "64MiB"`, s)
}

// String returns the shortest exact spelling, which ParseSize reads.
func (s Size) String() string {
	best := strconv.FormatInt(int64(s), 10)
	if s == 0 {
		return best
	}
	for i := len(sizeUnits) - 1; i >= 0; i-- {
		u := sizeUnits[i]
		if t := strconv.FormatInt(int64(s/u.bytes), 10) + u.name; s%u.bytes == 0 && len(t) <= len(best) {
			best = t
		}
	}
	return best
}

// MarshalText is String.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is ParseSize.
func (s *Size) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSize(string(text))
	return err
}
