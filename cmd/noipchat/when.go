package main

import (
	"fmt"
	"strconv"
	"time"
)

// ages are the units of an age; days and weeks have 24 hours each and seven days.
var ages = map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}

// parseWhen reads a time: an age (2d: two days ago), a day, a minute of one, or all
// of RFC 3339. A day, which is one here and not in Greenwich, stands for its
// beginning, or for its end.
func parseWhen(s string, now time.Time, end bool) (time.Time, error) {
	if n := len(s) - 1; n > 0 && ages[s[n]] > 0 {
		count, err := strconv.ParseUint(s[:n], 10, 31)
		if age := time.Duration(count) * ages[s[n]]; err == nil && age/ages[s[n]] == time.Duration(count) {
			return now.Add(-age), nil
		}
	}
	if t, err := time.ParseInLocation(time.DateOnly, s, now.Location()); err == nil {
		if end {
			t = t.AddDate(0, 0, 1)
		}
		return t, nil
	}
	if t, err := time.ParseInLocation("2006-01-02 15:04", s, now.Location()); err == nil {
		return t, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	return time.Time{}, fmt.Errorf("%q is no time", s)
}
