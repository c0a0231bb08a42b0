package config

import (
	"math"
	"testing"
)

func TestSize(t *testing.T) {
	for _, test := range []struct {
		in   string
		want Size
		out  string
	}{
		{"0", 0, "0"}, {"0TiB", 0, "0"}, {"1", 1, "1"}, {"1000", 1000, "1kB"}, {"1024", 1024, "1KiB"}, {"1025", 1025, "1025"},
		{"64MiB", 64 << 20, "64MiB"}, {"65536KiB", 64 << 20, "64MiB"}, {"10MB", 10_000_000, "10MB"}, {"1GiB", 1 << 30, "1GiB"},
		{"1000GB", 1e12, "1TB"}, {"1024000", 1024000, "1024kB"}, {"8388607TiB", 8388607 << 40, "8388607TiB"},
		{"9223372036854775807", math.MaxInt64, "9223372036854775807"},
	} {
		got, err := ParseSize(test.in)
		if err != nil || got != test.want || got.String() != test.out {
			t.Errorf("%s: %d, %v, prints %v", test.in, got, err, got)
		}
	}
	for _, in := range []string{"", " ", "MiB", "-1", "+1", "1 MiB", "1MiB ", "1mib", "1M", "1KB", "1B", "01", "00", "1.5GiB", "0x10", "1_000", "1e3", "8388608TiB", "9223372036854775808", "١"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("%q: %d", in, got)
		}
	}
}

func FuzzSize(f *testing.F) {
	for _, s := range []string{"64MiB", "10MB", "1025", "8388608TiB", "1.5GiB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		size, err := ParseSize(in)
		if err != nil {
			return
		}
		if again, err := ParseSize(size.String()); size < 0 || err != nil || again != size || len(size.String()) > len(in) {
			t.Errorf("%q is %d, prints %v, which is %d, %v", in, size, size, again, err)
		}
	})
}
