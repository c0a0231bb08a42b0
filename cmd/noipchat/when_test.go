package main

import (
	"testing"
	"time"
)

func TestParseWhen(t *testing.T) {
	zone := time.FixedZone("there", 2*3600)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, zone)
	for s, want := range map[string]string{
		"2d": "2026-02-27T12:00:00+02:00", "90s": "2026-03-01T11:58:30+02:00", "5m": "2026-03-01T11:55:00+02:00",
		"3h": "2026-03-01T09:00:00+02:00", "1w": "2026-02-22T12:00:00+02:00", "0s": "2026-03-01T12:00:00+02:00",
		"2026-02-28": "2026-02-28T00:00:00+02:00", "2026-02-28 07:30": "2026-02-28T07:30:00+02:00",
		"2026-02-28T07:30:00Z": "2026-02-28T07:30:00Z", "2026-02-28T07:30:00.5-05:00": "2026-02-28T07:30:00-05:00",
	} {
		have, err := parseWhen(s, now, false)
		if err != nil || have.Format(time.RFC3339) != want {
			t.Errorf("%s: %v, %v; want %s", s, have, err, want)
		}
	}
	for s, want := range map[string]string{"2026-02-28": "2026-03-01T00:00:00+02:00", "2026-02-28 07:30": "2026-02-28T07:30:00+02:00", "2d": "2026-02-27T12:00:00+02:00"} {
		if have, err := parseWhen(s, now, true); err != nil || have.Format(time.RFC3339) != want {
			t.Errorf("until %s: %v, %v; want %s", s, have, err, want)
		}
	}
	for _, bad := range []string{"", "d", "2", "-2d", "2x", "2.5d", "99999999999d", "2147483647w", "2026-02-30", "2026-2-1", "yesterday", "12:00"} {
		if have, err := parseWhen(bad, now, false); err == nil {
			t.Errorf("%q is %v", bad, have)
		}
	}
}
