package identity

import (
	"cmp"
	"container/list"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Attempts counts failures by key (an address, an account) and says who has to
// wait: at most limit failures of one key within any window of time. Successes
// are not counted. It is safe for concurrent use.
//
// Memory is bounded by capacity. When it is full, a new key takes the place of
// the one with the fewest failures, and among those of the one whose failures are
// forgotten first: so a flood of new keys pushes out its own kind, not a key that
// is blocked or near it. If all are blocked the new key is not recorded, and only
// what else limits it does. Therefore addresses, of which one attacker may have
// many, and accounts, whose failures each cost a password hash, are counted apart.
type Attempts struct {
	limit    int
	window   time.Duration
	capacity int

	mu      sync.Mutex
	base    time.Time // times are kept as distances from it, which are monotonic and short
	entries map[string]*list.Element
	// byCount[n] has the keys with n failures, the one that failed last at the end.
	// Failures that are out of the window stay in the number until the key fails again.
	byCount []*list.List
}

type entry struct {
	key      string
	failures []time.Duration // since base, oldest first, at most limit
}

func (e *entry) last() time.Duration { return e.failures[len(e.failures)-1] }

// NewAttempts makes a counter for at most capacity keys.
func NewAttempts(limit int, window time.Duration, capacity int) *Attempts {
	a := &Attempts{limit: max(limit, 1), window: window, capacity: max(capacity, 1), entries: make(map[string]*list.Element)}
	a.byCount = make([]*list.List, a.limit+1)
	for i := range a.byCount {
		a.byCount[i] = list.New()
	}
	return a
}

// Allow returns how long to wait until none of the keys is blocked; 0 is now.
func (a *Attempts) Allow(now time.Time, keys ...string) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	var wait time.Duration
	for _, key := range keys {
		if el := a.entries[key]; el != nil {
			if e := el.Value.(*entry); len(e.failures) == a.limit {
				wait = max(wait, e.failures[0]+a.window-now.Sub(a.base))
			}
		}
	}
	return wait
}

// Fail counts one failure of each key.
func (a *Attempts) Fail(now time.Time, keys ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.base.IsZero() {
		a.base = now
	}
	at := now.Sub(a.base)
	a.forgetLocked(at)
	for _, key := range keys {
		e := a.takeLocked(key)
		if e == nil {
			continue
		}
		for len(e.failures) > 0 && (e.failures[0]+a.window <= at || len(e.failures) == a.limit) {
			e.failures = e.failures[1:]
		}
		e.failures = append(e.failures, at)
		a.entries[key] = a.byCount[len(e.failures)].PushBack(e)
	}
}

// Success forgets the failures of an account whose password was right. Never call
// it for an address: an attacker has an account of his own.
func (a *Attempts) Success(account string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if el := a.entries[account]; el != nil {
		a.dropLocked(el)
	}
}

// Failures are those of a key, by how long ago they were, oldest first.
type Failures struct {
	Key string
	Ago []time.Duration
}

// maxCarried bounds the keys that Export returns: an attacker with many must not make
// others wait for it.
const maxCarried = 4096

// Export returns what another process is to count on from: the keys with the most failures.
func (a *Attempts) Export(now time.Time) (all []Failures) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := now.Sub(a.base)
	for _, l := range slices.Backward(a.byCount) {
		for el := l.Back(); el != nil && len(all) < maxCarried; el = el.Prev() {
			e := el.Value.(*entry)
			f := Failures{Key: e.key}
			for _, t := range e.failures {
				f.Ago = append(f.Ago, at-t)
			}
			all = append(all, f)
		}
	}
	return all
}

// Resume counts what another process has returned from Export, before anything else.
func (a *Attempts) Resume(now time.Time, all []Failures) {
	type failure struct {
		key string
		ago time.Duration
	}
	var each []failure
	for _, f := range all {
		for _, ago := range f.Ago {
			each = append(each, failure{f.Key, ago})
		}
	}
	slices.SortStableFunc(each, func(a, b failure) int { return cmp.Compare(b.ago, a.ago) })
	for _, f := range each {
		a.Fail(now.Add(-f.ago), f.key)
	}
}

// forgetLocked drops the keys all of whose failures are out of the window.
func (a *Attempts) forgetLocked(at time.Duration) {
	for _, l := range a.byCount {
		for el := l.Front(); el != nil && el.Value.(*entry).last()+a.window <= at; el = l.Front() {
			a.dropLocked(el)
		}
	}
}

// takeLocked takes the key's entry out of its list, or makes a new one, or
// returns nil if there is no room for it.
func (a *Attempts) takeLocked(key string) *entry {
	if el := a.entries[key]; el != nil {
		e := el.Value.(*entry)
		a.byCount[len(e.failures)].Remove(el)
		return e
	}
	if len(a.entries) >= a.capacity && !a.evictLocked() {
		return nil
	}
	return &entry{key: key}
}

func (a *Attempts) evictLocked() bool {
	for _, l := range a.byCount[:a.limit] {
		if el := l.Front(); el != nil {
			a.dropLocked(el)
			return true
		}
	}
	return false
}

func (a *Attempts) dropLocked(el *list.Element) {
	e := el.Value.(*entry)
	a.byCount[len(e.failures)].Remove(el)
	delete(a.entries, e.key)
}

// AddressKey returns the key under which a source is counted: an IPv4 address, or
// the /64 of an IPv6 address, with or without a port. Anything else (a Unix
// socket, a command) is itself.
func AddressKey(source string) string {
	addr, err := netip.ParseAddr(source)
	if err != nil {
		ap, err := netip.ParseAddrPort(source)
		if err != nil {
			return source
		}
		addr = ap.Addr()
	}
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return addr.String()
	}
	prefix, _ := addr.Prefix(64) // fails only for more bits than there are
	return prefix.String()
}
