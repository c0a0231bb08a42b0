package config

import (
	"math"
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	for _, test := range []struct {
		in   string
		want time.Duration
		out  string
	}{
		{"0s", 0, "0s"}, {"0", 0, "0s"}, {"15m", 15 * time.Minute, "15m"}, {"90m", 90 * time.Minute, "90m"}, {"1h30m0s", 90 * time.Minute, "90m"},
		{"30d", 720 * time.Hour, "30d"}, {"14d", 336 * time.Hour, "2w"}, {"2w1d", 360 * time.Hour, "15d"}, {"36h", 36 * time.Hour, "36h"},
		{"1w2d3h", 219 * time.Hour, "9d3h"}, {"3601s", 3601 * time.Second, "1h1s"}, {"1.5s", 1500 * time.Millisecond, "1500ms"},
		{"1d1ns", 24*time.Hour + 1, "1d1ns"}, {"15us", 15 * time.Microsecond, "15us"}, {"15µs", 15 * time.Microsecond, "15us"},
		{"9223372036854775807ns", math.MaxInt64, "9223372036854775807ns"},
	} {
		got, err := ParseDuration(test.in)
		if err != nil || time.Duration(got) != test.want || got.String() != test.out {
			t.Errorf("%s: %d, %v, prints %v", test.in, got, err, got)
		}
	}
	for _, in := range []string{"", " ", "15", "-5m", "+5m", "1d-5m", "d", "w", "1 d", "1d ", "1.5d", "1d1w", "1d2d", "1x", "15251w", "15250w2d", "15250w48h", "99999999999999999999d", "1D", "_1d"} {
		if got, err := ParseDuration(in); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
	if got := Duration(-1).String(); got != "-1ns" {
		t.Error(got)
	}
}

func FuzzDuration(f *testing.F) {
	for _, s := range []string{"30d", "1w2d3h4m5s6ms7us8ns", "1.5h", "15250w2d", "-1s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		d, err := ParseDuration(in)
		if err != nil {
			return
		}
		if again, err := ParseDuration(d.String()); d < 0 || err != nil || again != d {
			t.Errorf("%q is %d, prints %v, which is %d, %v", in, d, d, again, err)
		}
	})
}
