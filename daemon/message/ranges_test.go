package message

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestRanges compares with a set of numbers.
func TestRanges(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	for range 200 {
		var s Ranges
		model := map[uint64]bool{}
		for range 100 {
			n := 1 + r.Uint64N(60)
			if s.Add(n) == model[n] {
				t.Fatalf("adding %d to %v", n, s)
			}
			model[n] = true
			for i, g := range s {
				if g.Last < g.First || i > 0 && g.First <= s[i-1].Last+1 {
					t.Fatalf("%v overlap or touch", s)
				}
			}
			if s.Count() != uint64(len(model)) {
				t.Fatalf("%v has %d numbers, not %d", s, len(model), s.Count())
			}
		}
		for n := range uint64(62) {
			if s.Has(n) != model[n] {
				t.Fatalf("%v has %d: %v", s, n, s.Has(n))
			}
		}
		b := AppendRanges(nil, s)
		rd := NewReader(b)
		again := rd.Ranges(nil, 1, len(s))
		if rd.End() != nil || len(again) != len(s) {
			t.Fatalf("%v became %v, %v", s, again, rd.Err())
		}
	}
}

func TestRangesAtTheEnd(t *testing.T) {
	s := Ranges{}
	for _, n := range []uint64{1<<63 - 1, 1<<63 - 3, 1<<63 - 2} {
		s.Add(n)
	}
	if len(s) != 1 || s[0] != (Range{1<<63 - 3, 1<<63 - 1}) {
		t.Errorf("%v", s)
	}
}

// TestRangesAll: all numbers rise, and end with the limit.
func TestRangesAll(t *testing.T) {
	s := Ranges{{1, 3}, {7, 7}, {9, 1<<63 - 1}}
	for limit, want := range map[int]string{0: "[]", 2: "[1 2]", 6: "[1 2 3 7 9 10]"} {
		if have := fmt.Sprint(slices.Collect(s.All(limit))); have != want {
			t.Errorf("the first %d are %s", limit, have)
		}
	}
}
