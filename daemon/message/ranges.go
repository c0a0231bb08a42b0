package message

import (
	"iter"
	"slices"
	"sort"
)

// A Range is the numbers from First to Last, both included.
type Range struct{ First, Last uint64 }

// Ranges is a set of numbers below 2^63 as ranges that rise and neither overlap
// nor touch. The zero value is empty.
type Ranges []Range

// at returns the index of the first range that does not end before n.
func (s Ranges) at(n uint64) int {
	return sort.Search(len(s), func(i int) bool { return s[i].Last >= n })
}

// Has tells whether n is in the set.
func (s Ranges) Has(n uint64) bool {
	i := s.at(n)
	return i < len(s) && s[i].First <= n
}

// Add puts n into the set and tells whether it was new.
func (s *Ranges) Add(n uint64) bool {
	i := s.at(n)
	t := *s
	if i < len(t) && t[i].First <= n {
		return false
	}
	before := i > 0 && t[i-1].Last+1 == n
	after := i < len(t) && t[i].First == n+1
	switch {
	case before && after:
		t[i-1].Last = t[i].Last
		*s = slices.Delete(t, i, i+1)
	case before:
		t[i-1].Last = n
	case after:
		t[i].First = n
	default:
		*s = slices.Insert(t, i, Range{n, n})
	}
	return true
}

// AddRange puts all numbers of a range into the set.
func (s *Ranges) AddRange(g Range) {
	if g.Last < g.First {
		return
	}
	t := *s
	from := sort.Search(len(t), func(i int) bool { return t[i].Last+1 >= g.First })
	to := from
	for ; to < len(t) && t[to].First <= g.Last+1; to++ {
		g.First, g.Last = min(g.First, t[to].First), max(g.Last, t[to].Last)
	}
	*s = slices.Replace(t, from, to, g)
}

// Missing returns the first number from n on that is not in the set.
func (s Ranges) Missing(n uint64) uint64 {
	if i := s.at(n); i < len(s) && s[i].First <= n {
		return s[i].Last + 1
	}
	return n
}

// All goes through the numbers of the set as they rise, but not through more than limit.
func (s Ranges) All(limit int) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for _, g := range s {
			for n := g.First; n <= g.Last; n++ {
				if limit--; limit < 0 || !yield(n) {
					return
				}
			}
		}
	}
}

// AppendRanges appends an array of each range's first number and its count.
func AppendRanges(b []byte, s Ranges) []byte {
	b = AppendArray(b, 2*len(s))
	for _, g := range s {
		b = AppendUint(b, g.First)
		b = AppendUint(b, g.Last-g.First+1)
	}
	return b
}

// Ranges appends to s what AppendRanges wrote: at most max ranges of numbers that
// are at least least and below 2^63.
func (r *Reader) Ranges(s Ranges, least uint64, max int) Ranges {
	n := r.Array(2 * max)
	if n%2 != 0 {
		r.Fail("%d numbers make no ranges", n)
	}
	for ; n > 0 && r.err == nil; n -= 2 {
		first, count := r.Uint(1<<63-1), r.Uint(1<<63-1)
		if r.err == nil && (first < least || count == 0 || first+count > 1<<63) {
			r.Fail("a range of %d from %d is empty, too large, or not apart from what is before it", count, first)
		}
		if r.err != nil {
			break
		}
		last := first + count - 1
		s, least = append(s, Range{first, last}), last+2
	}
	return s
}

// Count returns how many numbers are in the set.
func (s Ranges) Count() (n uint64) {
	for _, g := range s {
		n += g.Last - g.First + 1
	}
	return n
}
