package peer_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/message"
)

// TestStorm plays random networks whose links come and go, and whose servers stop and
// start, while people write to each other. In the end all links are up, and everybody
// has once, and its author knows, what was written to him. A failure's seed plays the
// same again.
func TestStorm(t *testing.T) {
	for seed := range seeds(12, 1200) {
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
	return quick
}

func storm(t *testing.T, w *world, r *rand.Rand) {
	n := 3 + r.IntN(4)
	name := func(i int) string { return fmt.Sprint("s", i) }
	var people []*person
	for i := range n {
		w.add(name(i))
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
	for _, c := range cables {
		up(c, r.IntN(3) > 0)
		if r.IntN(2) == 0 {
			c[0], c[1] = c[1], c[0]
		}
		w.link(name(c[0]), name(c[1]), 0)
	}
	for i := range n {
		people = append(people, w.enter(fmt.Sprint("user", i), name(i)).come())
	}
	type sent struct {
		m  client.Message
		by int
		to []int
	}
	var all []sent
	expect := make([][]string, n)
	for step := range 40 {
		switch r.IntN(8) {
		case 0, 1, 2:
			up(cables[r.IntN(len(cables))], r.IntN(2) == 0)
		case 3:
			w.servers[name(r.IntN(n))].restart()
		case 4:
			time.Sleep(time.Duration(r.IntN(300)) * time.Second)
		default:
			s := sent{by: r.IntN(n)}
			var to []*person
			for i := range n {
				if i != s.by && (r.IntN(n) == 0 || len(to) == 0 && i >= n-2) {
					s.to, to = append(s.to, i), append(to, people[i])
				}
			}
			body := fmt.Sprint("step ", step)
			s.m = people[s.by].send(body, to...)
			for _, i := range s.to {
				expect[i] = append(expect[i], body)
			}
			all = append(all, s)
		}
		time.Sleep(time.Duration(r.IntN(5000)) * time.Millisecond)
	}
	for _, c := range cables {
		up(c, true)
	}
	for _, s := range all {
		for _, i := range s.to {
			people[s.by].learns(s.m, people[i], message.Delivered)
		}
	}
	time.Sleep(time.Hour)
	synctest.Wait()
	for i, want := range expect {
		got := people[i].texts()
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("user%d has %q, not %q", i, got, want)
		}
	}
	for name, s := range w.servers {
		if left, _ := s.spool.Waiting(); left != 0 {
			t.Errorf("at %s %d are left", name, left)
		}
	}
}
