package route

import (
	"container/heap"
	"slices"
	"time"
)

// Tick does what is due. It is to be called when Wake says, and does no harm in between.
func (t *Table) Tick(now time.Duration) {
	t.clock(now)
	for len(t.timers) > 0 && t.timers[0].due <= t.now {
		t.expire(t.timers[0].server)
	}
	for _, p := range t.order {
		if p.remeasure() <= t.now {
			t.measure(p)
			t.reprice(p)
		}
		if t.room(p) && p.dumps.may(t.now, dumpRate) {
			p.missed = false
			t.ask(p, Request{Hops: 1})
		}
	}
	t.askAround()
}

// expire does what is due of one server. Doubts that are over are choose's matter.
func (t *Table) expire(s *server) {
	if s.mute && s.tellAt <= t.now {
		t.tell(s)
	}
	if b := s.trouble; b != nil && b.hunger > sated && b.askAt <= t.now {
		t.askNewer(s)
	}
	if t.forgetAt(s) <= t.now {
		t.forget(s)
		return
	}
	t.choose(s)
	t.plan(s)
}

// Wake returns when Tick, Send or Due has something to do that it hasn't now; an hour from now at
// the latest. A link that doesn't take what Send has is its owner's matter.
func (t *Table) Wake() time.Duration {
	at := t.now + time.Hour
	if len(t.timers) > 0 {
		at = min(at, t.timers[0].due)
	}
	if t.ownNext != (Seq{}) && t.ownAt > t.now {
		at = min(at, t.ownAt)
	}
	for _, p := range t.order {
		if p.waits() && p.gather > t.now {
			at = min(at, p.gather)
		}
		if t.room(p) {
			at = min(at, p.dumps.free(t.now, dumpRate))
		}
		at = min(at, p.remeasure())
	}
	for _, w := range t.wanted {
		at = min(at, w.at)
	}
	return at
}

// room tells whether p has more than we took, and there is room for some of it now.
func (t *Table) room(p *peer) bool {
	return p.up && p.missed && !p.Quiet && (p.Limit <= 0 || p.count < p.Limit) && t.known < t.limit
}

// plan puts s among the timers for the first thing that will be due.
func (t *Table) plan(s *server) {
	due := t.forgetAt(s)
	if s.mute {
		due = min(due, s.tellAt)
	}
	if b := s.trouble; b != nil {
		if b.hunger > sated {
			due = min(due, b.askAt)
		}
		for _, d := range b.doubts {
			if d.until > t.now {
				due = min(due, d.until)
			}
		}
	}
	switch {
	case due == never && s.at >= 0:
		heap.Remove(&t.timers, int(s.at))
	case due == never:
	case s.at < 0:
		heap.Push(&t.timers, timer{due, s})
	default:
		t.timers[s.at].due = due
		heap.Fix(&t.timers, int(s.at))
	}
}

// forgetAt is when s is forgotten: later than it might be, if somebody's link hasn't taken yet that it
// can't be reached.
func (t *Table) forgetAt(s *server) time.Duration {
	switch {
	case len(s.ways) > 0 || s == t.own || s.pinned:
		return never
	case s.since+keep > t.now:
		return s.since + keep
	case !t.forgettable(s):
		return t.now + time.Minute
	}
	return t.now
}

// timer says when something is due of a server.
type timer struct {
	due    time.Duration
	server *server
}

// timers is a heap by time.
type timers []timer

func (h timers) Len() int           { return len(h) }
func (h timers) Less(i, j int) bool { return h[i].due < h[j].due }
func (h timers) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].server.at, h[j].server.at = int32(i), int32(j)
}

func (h *timers) Push(x any) {
	x.(timer).server.at = int32(len(*h))
	*h = append(*h, x.(timer))
}

func (h *timers) Pop() any {
	last := (*h)[len(*h)-1]
	last.server.at = -1
	(*h)[len(*h)-1] = timer{}
	*h = (*h)[:len(*h)-1]
	return last
}

// static is a peer that leads to a name because the configuration says so.
type static struct {
	peer  Server
	doubt time.Duration // until then another is preferred
}

// Reaches says what names a peer leads to, whatever announcements say, instead of what
// was said of that peer before. Such ways are used when there is no other, in the
// order in which they were stated. Nobody is told of them, and nothing but
// the admin keeps them free of loops.
func (t *Table) Reaches(now time.Duration, id Server, names []string) {
	t.clock(now)
	t.noteStatic(id)
	for name, ways := range t.static {
		if ways = slices.DeleteFunc(ways, func(f *static) bool { return f.peer == id }); len(ways) == 0 {
			delete(t.static, name)
		} else {
			t.static[name] = ways
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(t.static[name], func(f *static) bool { return f.peer == id }) {
			t.static[name] = append(t.static[name], &static{peer: id})
		}
	}
	t.noteStatic(id)
}

func (t *Table) noteStatic(id Server) {
	for name, ways := range t.static {
		if slices.ContainsFunc(ways, func(f *static) bool { return f.peer == id }) {
			t.changed[name] = struct{}{}
		}
	}
}

// want is a name that somebody here has mail for, and no route.
type want struct {
	name  string
	at    time.Duration // ask then
	gap   time.Duration
	until time.Duration
}

// Want says that mail waits for a server that has no route. Peers over quiet links are
// asked for it: soon, and then in growing intervals, for as long as Want is repeated within an
// hour.
func (t *Table) Want(now time.Duration, name string) {
	t.clock(now)
	if _, found := t.Next(name); found {
		return
	}
	i := slices.IndexFunc(t.wanted, func(w *want) bool { return w.name == name })
	if i < 0 {
		if len(t.wanted) >= maxWanted {
			return
		}
		i = len(t.wanted)
		t.wanted = append(t.wanted, &want{name: name, at: t.now, gap: wantFirst})
	}
	t.wanted[i].until = t.now + wantKeep
}

// askAround asks over quiet links for what is wanted.
func (t *Table) askAround() {
	t.wanted = slices.DeleteFunc(t.wanted, func(w *want) bool {
		_, found := t.Next(w.name)
		return found || w.until <= t.now
	})
	for _, w := range t.wanted {
		if w.at > t.now {
			continue
		}
		for _, p := range t.order {
			if p.up && p.Quiet {
				t.ask(p, Request{Server: Server{Name: w.name}, Hops: 1})
			}
		}
		w.at, w.gap = t.now+w.gap, min(2*w.gap, wantLast)
	}
}
