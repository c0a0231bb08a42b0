package peer_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/message"
)

// TestStorm plays random networks whose links come and go, some of which have two ways, whose servers stop, die and
// start, have room for little, and clocks that are wrong by years and are set, and whose users
// come and go, or don't read, while people write large and small things to each other, to users that there aren't, and to a server that nobody has a
// way to. In the end all links are up, but for that. Then who can be reached has once what
// was written to him, and its author knows; and of who can't be, the author knows why: that
// there is no such user; or that his home has kept it as long as it was to, and no shorter.
// Nothing waits anywhere, or moves. A failure's seed plays the same again.
func TestStorm(t *testing.T) {
	for seed := range seeds(5, 400) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) { storm(t, w, rand.New(rand.NewPCG(seed, 5))) })
		})
	}
}

// seeds are how many of them a test plays; more with NOIPCHAT_LONG. Some are had by -run,
// as in -run 'TestStorm/seed=4..$'.
func seeds(quick, long uint64) uint64 {
	if os.Getenv("NOIPCHAT_LONG") != "" {
		return long
	}
	if testing.Short() { // the race detector takes ten times as long
		return 1
	}
	return quick
}

// year is what clocks are wrong by.
const year = 365 * 24 * time.Hour

// wrong is a time by which a clock may be wrong: the bubble's begins in 2000.
func wrong(r *rand.Rand) int64 { return int64(r.IntN(50)-29)*int64(year) + r.Int64N(int64(year)) }

// fail has a server stop or die, and start again, with any clock.
func (s *server) fail(r *rand.Rand) {
	switch r.IntN(5) {
	case 0:
		s.restart()
	case 1: // the battery of its clock is empty
		s.stop()
		s.clock.Store(-int64(29 * year))
		s.start()
	case 2: // its clock is far ahead, and is corrected soon
		before := s.clock.Load()
		s.stop()
		s.clock.Store(before + int64(year))
		s.start()
		time.Sleep(time.Duration(r.IntN(300)) * time.Second)
		s.clock.Store(before)
		time.Sleep(noticed)
	default:
		s.restore(s.image())
	}
}

// noticed is how long after a clock was set a spool knows it. Who dies before that has ages
// on disk by one clock, and reads them by the other.
const noticed = 65 * time.Second

func storm(t *testing.T, w *world, r *rand.Rand) {
	n := 3 + r.IntN(4)
	name := func(i int) string { return fmt.Sprint("s", i) }
	var people []*person
	for i := range n {
		w.add(name(i))
		s := w.servers[name(i)]
		s.clock.Store(wrong(r))
		if r.IntN(3) == 0 { // for so much of what is large it has no room
			s.total = int64(500+r.IntN(500)) << 10
			s.restart()
		}
	}
	var cables [][2]int
	for i := 1; i < n; i++ { // a tree, and some more
		cables = append(cables, [2]int{r.IntN(i), i})
	}
	for range r.IntN(n) {
		if a, b := r.IntN(n), r.IntN(n); a != b {
			cables = append(cables, [2]int{a, b})
		}
	}
	up := func(c [2]int, is bool) { w.plug(name(c[0]), name(c[1]), is) }
	dear := func(c [2]int, is bool) { w.plugDear(name(c[0]), name(c[1]), is) }
	for _, c := range cables {
		up(c, r.IntN(3) > 0)
		if r.IntN(2) == 0 {
			c[0], c[1] = c[1], c[0]
		}
		idle := time.Duration(max(0, r.IntN(60)-30)) * time.Second
		two := r.IntN(3) == 0 // ways, of which one costs more
		both := idle > 0 || two && r.IntN(2) == 0
		dear(c, r.IntN(3) > 0)
		for _, c := range [][2]int{c, {c[1], c[0]}} {
			w.link(name(c[0]), name(c[1]), idle)
			if s := w.servers[name(c[0])]; two {
				p := &s.conf.Peers[len(s.conf.Peers)-1]
				p.Ways = append(p.Ways, w.way(name(c[1]), "dear", 500, idle, p.Ways[0].Line))
				s.peers.Configure(s.conf)
			}
			if !both { // else who has mail dials
				break
			}
		}
	}
	for i := range n {
		people = append(people, w.enter(fmt.Sprint("user", i), name(i)).come())
	}
	hermit := &person{name: "hermit", s: &server{name: "island"}}
	type sent struct {
		m                client.Message
		body             string
		by               *person
		to, ghosts, lost []*person
		life             time.Duration
	}
	var all []*sent
	expect := map[*person][]string{}
	const long = 30 * time.Hour // the storm is shorter
	longest := time.Duration(0)
	for step := range 40 {
		switch r.IntN(10) {
		case 0, 1, 2:
			if c := cables[r.IntN(len(cables))]; r.IntN(4) > 0 {
				up(c, r.IntN(2) == 0)
				if r.IntN(2) == 0 {
					dear(c, r.IntN(2) == 0)
				}
			} else { // what is said is lost, and the link is dead, which nobody is told
				w.hole(name(c[0]), name(c[1]), true)
				time.Sleep(time.Duration(r.IntN(60)) * time.Second)
				w.hole(name(c[0]), name(c[1]), false)
			}
		case 3:
			w.servers[name(r.IntN(n))].fail(r)
		case 4:
			d := time.Duration(r.IntN(300)) * time.Second
			if r.IntN(8) == 0 {
				d *= 36 // hours
			}
			time.Sleep(d)
		case 5:
			w.servers[name(r.IntN(n))].clock.Store(wrong(r))
			time.Sleep(noticed)
		case 6:
			p := people[r.IntN(n)]
			if r.IntN(4) == 0 {
				hear := p.plugs()
				time.AfterFunc(time.Duration(r.IntN(20_000))*time.Millisecond, hear)
				break
			}
			p.toggle()
		default:
			s := &sent{by: people[r.IntN(n)]}
			for i, p := range people {
				if p != s.by && (r.IntN(n) == 0 || len(s.to) == 0 && i >= n-2) {
					s.to = append(s.to, p)
				}
			}
			if r.IntN(4) == 0 {
				s.ghosts = append(s.ghosts, &person{name: "ghost", s: people[r.IntN(n)].s})
			}
			if r.IntN(6) == 0 {
				s.lost, s.life = []*person{hermit}, long
				if r.IntN(2) == 0 {
					s.to, s.ghosts, s.life = nil, nil, time.Duration(1+r.IntN(12*3600))*time.Second
				}
				longest = max(longest, s.life)
			}
			body, file := fmt.Sprint("step ", step), r.IntN(8) == 0
			if file {
				body += ", a file"
			}
			if !file && s.lost == nil && r.IntN(3) == 0 { // as large as may be, or less
				body += strings.Repeat(" and so on", r.IntN(6000))
			}
			s.body = body
			for _, p := range s.to {
				expect[p] = append(expect[p], body)
			}
			if everybody := slices.Concat(s.to, s.ghosts, s.lost); file {
				s.m = s.by.sendFile(body, 1+r.IntN(4*message.PartSize), s.life, everybody...)
			} else {
				s.m = s.by.write(body, s.life, everybody...)
			}
			all = append(all, s)
		}
		time.Sleep(time.Duration(r.IntN(5000)) * time.Millisecond)
	}
	for _, c := range cables {
		up(c, true)
		dear(c, r.IntN(4) > 0)
	}
	for _, p := range people {
		if p.leave == nil {
			p.come()
		}
	}
	end := time.Now()
	for _, s := range all {
		for _, p := range s.to {
			s.by.learns(s.m, p, message.Delivered)
		}
		for _, p := range s.ghosts {
			s.by.learns(s.m, p, message.Refused)
			if f := s.by.fate(s.m, p.address()); f.Code != message.CodeNoUser || f.Reason != p.s.name+" has no user ghost" {
				t.Errorf("%s is told %v (%s) of %s", s.by.name, f.Code, f.Reason, p.address())
			}
		}
	}
	if longest > 0 { // an empty battery may have made it a new beginning; and there is the time of grace
		time.Sleep(time.Until(end.Add(longest + 15*time.Minute)))
	}
	for _, s := range all {
		for _, p := range s.lost {
			f := s.by.fate(s.m, p.address())
			reasons := []string{s.by.s.name + " kept it until its lifetime was over", fmt.Sprintf("it was older than its lifetime of %.0f s", s.life.Seconds())} // if he was away
			if f.State != message.Expired || f.Code != message.CodeExpired || !slices.Contains(reasons, f.Reason) {
				t.Errorf("%s is told %v, %v (%s) of %q to %s", s.by.name, f.State, f.Code, f.Reason, s.body, p.address())
			}
			if d := f.At.Sub(s.m.Created); d < s.life-2*time.Second {
				t.Errorf("%q, to be kept for %v, was given up after %v", s.body, s.life, d)
			}
		}
	}
	w.empty()
	for _, p := range people {
		p.hasAll(expect[p])
	}
}
