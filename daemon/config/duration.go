package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration that in TOML is a string such as "15m" or "30d".
type Duration time.Duration

// The units that Go lacks. A day is 24 hours.
const (
	Day  = Duration(24 * time.Hour)
	Week = 7 * Day
)

var durationUnits = []struct {
	name string
	unit Duration
}{
	{"w", Week}, {"d", Day}, {"h", Duration(time.Hour)}, {"m", Duration(time.Minute)}, {"s", Duration(time.Second)},
	{"ms", Duration(time.Millisecond)}, {"us", Duration(time.Microsecond)}, {"ns", 1},
}

// ParseDuration reads what time.ParseDuration does, with whole weeks and days
// before it: "2w", "1d12h", "1.5h". It takes no sign, and refuses what doesn't
// fit 63 bits of nanoseconds (292 years).
func ParseDuration(s string) (Duration, error) {
	bad := fmt.Errorf(`duration %.40q must be a number and w, d, h, m, s or ms, such as "15m" or "30d"`, s)
	if s == "" || strings.ContainsAny(s, "+-") {
		return 0, bad
	}
	var sum Duration
	rest := s
	for _, u := range durationUnits[:2] {
		number, after, found := strings.Cut(rest, u.name)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 63)
		if err != nil {
			return 0, bad
		}
		if Duration(n) > (math.MaxInt64-sum)/u.unit {
			return 0, fmt.Errorf("duration %.40q is too long", s)
		}
		sum, rest = sum+Duration(n)*u.unit, after
	}
	if rest == "" {
		return sum, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil {
		return 0, bad
	}
	if Duration(d) > math.MaxInt64-sum {
		return 0, fmt.Errorf("duration %.40q is too long", s)
	}
	return sum + Duration(d), nil
}

// String returns the shortest exact spelling in whole numbers, which
// ParseDuration reads.
func (d Duration) String() string {
	if d <= 0 {
		return time.Duration(d).String()
	}
	return d.shortest(0)
}

// shortest spells d with the units from first on. It tries every set of them: 90m
// is shorter than 1h30m, but 1h1s than 3601s.
func (d Duration) shortest(first int) string {
	best := ""
	for i, u := range durationUnits[first:] {
		if d < u.unit {
			continue
		}
		s := strconv.FormatInt(int64(d/u.unit), 10) + u.name
		if rest := d % u.unit; rest > 0 {
			s += rest.shortest(first + i + 1)
		}
		if best == "" || len(s) < len(best) {
			best = s
		}
	}
	return best
}

// MarshalText is String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is ParseDuration.
func (d *Duration) UnmarshalText(text []byte) (err error) {
	*d, err = ParseDuration(string(text))
	return err
}
