package route

import "time"

// rate is how often something may happen: burst times at once, and then every so often.
type rate struct {
	every time.Duration
	burst int
}

// bucket limits one thing to a rate: it is when all that happened would have
// happened if it had kept to the interval.
type bucket time.Duration

// free tells when the next may happen.
func (b bucket) free(now time.Duration, r rate) time.Duration {
	return max(now, time.Duration(b)-time.Duration(r.burst-1)*r.every)
}

// take counts the next, and tells when it may happen.
func (b *bucket) take(now time.Duration, r rate) time.Duration {
	at := b.free(now, r)
	*b = bucket(max(now, time.Duration(*b)) + r.every)
	return at
}

// may tells whether one may happen now, and counts it if so.
func (b *bucket) may(now time.Duration, r rate) bool {
	return b.free(now, r) <= now && b.take(now, r) <= now
}
