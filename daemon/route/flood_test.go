package route

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func names(peers []Server) (all []string) {
	for _, p := range peers {
		all = append(all, p.Name)
	}
	return all
}

func copyID(n int) (id ID) {
	binary.BigEndian.PutUint64(id[:], uint64(n)+1)
	return id
}

type flooding struct {
	*Flood
	t *testing.T
}

func newFlooding(t *testing.T, hops int, quota int64, tombstones int, peers ...string) flooding {
	f := flooding{NewFlood(hops, quota, tombstones), t}
	for _, p := range peers {
		if ids := f.AddPeer(srv(p)); ids != nil {
			t.Fatal(ids)
		}
	}
	return f
}

func (f flooding) offer(n int, from string, hops int, want Verdict, pass ...string) {
	f.t.Helper()
	c := Copy{ID: copyID(n), To: "z", Origin: "home", Hops: hops, Size: 2000}
	if from != "" {
		c.From = srv(from)
	}
	if v, peers := f.Offer(c); v != want || !slices.Equal(names(peers), pass) {
		f.t.Errorf("copy %d from %q with %d hops: %d, %q; want %d, %q", n, from, hops, v, names(peers), want, pass)
	}
}

func (f flooding) ack(n int, peer string, hops int, again, last bool) {
	f.t.Helper()
	if a, l := f.Acked(copyID(n), srv(peer), hops); a != again || l != last {
		f.t.Errorf("%s has taken copy %d: again %t, last %t", peer, n, a, l)
	}
}

func (f flooding) wantUsed(bytes int64, copies, tombstones int) {
	f.t.Helper()
	if b, c, d := f.Used(); b != bytes || c != copies || d != tombstones {
		f.t.Errorf("%d bytes, %d copies, %d tombstones; want %d, %d, %d", b, c, d, bytes, copies, tombstones)
	}
}

// TestCopy follows one copy through a server.
func TestCopy(t *testing.T) {
	f := newFlooding(t, 10, 1<<20, 0, "a", "b", "c")
	f.offer(1, "a", 5, Take, "b", "c")
	f.wantUsed(2000, 1, 0)
	if n := f.Hops(copyID(1)); n != 4 {
		t.Errorf("it goes on with %d", n)
	}
	f.offer(1, "b", 4, Known) // b had it already, by another way
	f.ack(1, "b", 4, false, false)
	f.offer(1, "c", 7, Again, "b") // a has it with 6 already; c is queued still
	f.ack(1, "c", 6, false, false)
	f.offer(1, "c", 7, Known)
	f.ack(1, "b", 6, false, true)
	f.wantUsed(0, 0, 1)
	f.offer(1, "b", 6, Known)
	f.offer(1, "c", 99, Again, "a", "b") // clamped to 10
	f.wantUsed(2000, 1, 0)
	if n := f.Hops(copyID(1)); n != 9 {
		t.Errorf("it goes on with %d", n)
	}
	f.Drop(copyID(1)) // a receipt
	f.offer(1, "a", 10, Known)
	f.ack(1, "b", 9, false, false)
	f.wantUsed(0, 0, 1)
	if n := f.Hops(copyID(2)); n != 0 {
		t.Errorf("one that isn't here has %d", n)
	}
}

// TestCopyOnItsWay gets better while it is under way: it goes again.
func TestCopyOnItsWay(t *testing.T) {
	f := newFlooding(t, 10, 1<<20, 0, "a", "b", "c")
	f.offer(1, "a", 3, Take, "b", "c")
	f.offer(1, "a", 6, Known) // both are queued still, and get it as it is then
	f.ack(1, "b", 2, true, false)
	f.ack(1, "b", 5, false, false)
	f.ack(1, "c", 5, false, true)
}

// TestNoHopsLeft: it waits for its server, and goes to it only.
func TestNoHopsLeft(t *testing.T) {
	f := newFlooding(t, 10, 1<<20, 0, "a", "b")
	f.offer(1, "a", 0, Take)
	f.wantUsed(2000, 1, 0)
	if ids := f.AddPeer(srv("c")); ids != nil {
		t.Error("it goes to c with no hops left")
	}
	if ids := f.AddPeer(srv("z")); !slices.Equal(ids, []ID{copyID(1)}) || f.AddPeer(srv("z")) != nil {
		t.Errorf("its server gets %v", ids)
	}
	f.RemovePeer(srv("z"))
	f.RemovePeer(srv("z"))
	f.wantUsed(2000, 1, 0) // it waits again
	if ids := f.AddPeer(srv("z")); len(ids) != 1 {
		t.Error("its server doesn't get it")
	}
	f.ack(1, "z", 0, false, true)
	f.offer(2, "a", -3, Take, "z")
	f.offer(3, "z", 4, Take, "a", "b", "c")
	f.Drop(copyID(2))
	f.Drop(copyID(2))
	f.Drop(copyID(3))
	f.offer(4, "", 10, Take, "a", "b", "c", "z") // our own
	f.wantUsed(0, 1, 3)

	// At the end of a line there is nobody to pass it to, whatever hops are left.
	end := newFlooding(t, 10, 1<<20, 0, "a")
	end.offer(1, "a", 4, Take)
	if ids := end.AddPeer(srv("b")); len(ids) != 1 {
		t.Error("a new peer doesn't get it")
	}
}

// TestFloodQuota: nobody uses more than a tenth, and all not more than all.
func TestFloodQuota(t *testing.T) {
	f := newFlooding(t, 10, 100_000, 3, "a", "b")
	taken := 0
	for i := range 1000 {
		c := Copy{ID: copyID(i), To: "z", Origin: fmt.Sprint("origin", i%20), From: srv("a"), Hops: 3, Size: 1}
		if v, _ := f.Offer(c); v == Take {
			taken++
		} else if v != NoRoom {
			t.Fatal(v)
		}
	}
	f.wantUsed(97*leastSize, 97, 0)
	f = newFlooding(t, 10, 100_000, 3, "a", "b")
	for i := range 10 {
		want, pass := Take, []string{"b"}
		if i >= 5 {
			want, pass = NoRoom, nil
		}
		f.offer(i, "a", 3, want, pass...)
	}
	f.SetQuota(200_000)
	f.offer(6, "a", 3, Take, "b")
	for i := range 7 {
		f.Acked(copyID(i), srv("b"), 2)
	}
	f.wantUsed(0, 0, 3) // the newest tombstones
	f.offer(1, "a", 3, Take, "b")
	f.offer(6, "a", 3, Known)
	if len(f.origins) != 1 {
		t.Errorf("origins %v", f.origins)
	}
}

// TestRestore: after a restart what is queued goes on, and is passed to nobody twice.
func TestRestore(t *testing.T) {
	f := newFlooding(t, 10, 1, 0, "a", "b", "c")
	c := Copy{ID: copyID(1), To: "z", Origin: "home", From: srv("a"), Hops: 5, Size: 2000}
	f.Restore(c, []Server{srv("b")})
	f.Restore(c, nil)
	f.wantUsed(2000, 1, 0)
	f.offer(1, "c", 5, Known)
	f.ack(1, "b", 4, false, true)
	c.ID = copyID(2)
	f.Restore(c, nil)
	f.wantUsed(2000, 1, 1)
}

// TestFlooded floods random networks with links up and down: a copy reaches every server
// within its hops when links have been up, crosses a link at most once for each number of hops, and
// nothing but tombstones is left.
func TestFlooded(t *testing.T) {
	seeds(t, 300, func(t *testing.T, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		n, hops := 3+rnd.IntN(12), 1+rnd.IntN(6)
		floods := make([]*Flood, n)
		peers := make([][]int, n)
		for i := range floods {
			floods[i] = NewFlood(hops, 1<<20, 0)
		}
		link := func(a, b int) {
			if a != b && !slices.Contains(peers[a], b) {
				peers[a], peers[b] = append(peers[a], b), append(peers[b], a)
				floods[a].AddPeer(srv(fmt.Sprint("s", b)))
				floods[b].AddPeer(srv(fmt.Sprint("s", a)))
			}
		}
		for i := 1; i < n; i++ {
			link(i, rnd.IntN(i))
		}
		for range rnd.IntN(2 * n) {
			link(rnd.IntN(n), rnd.IntN(n))
		}

		type crossing struct{ from, to int }
		var queues []crossing
		crossed := map[[3]int]int{}
		reached := make([]bool, n)
		index := func(s Server) (i int) { fmt.Sscanf(s.Name, "s%d", &i); return i }
		offer := func(at int, c Copy) {
			reached[at] = true
			_, pass := floods[at].Offer(c)
			for _, p := range pass {
				queues = append(queues, crossing{at, index(p)})
			}
		}
		c := Copy{ID: copyID(0), To: "elsewhere", Origin: "s0", Hops: hops, Size: 100}
		offer(0, c)
		for len(queues) > 0 { // one link at a time is up
			i := rnd.IntN(len(queues))
			q := queues[i]
			queues = slices.Delete(queues, i, i+1)
			sent := floods[q.from].Hops(c.ID)
			key := [3]int{q.from, q.to, sent}
			if crossed[key]++; crossed[key] > 1 {
				t.Fatalf("seed %d: it crosses from %d to %d with %d hops left twice", seed, q.from, q.to, sent)
			}
			arrived := c
			arrived.From, arrived.Hops = srv(fmt.Sprint("s", q.from)), sent
			offer(q.to, arrived)
			if again, _ := floods[q.from].Acked(c.ID, srv(fmt.Sprint("s", q.to)), sent); again {
				queues = append(queues, q)
			}
		}
		near := []int{0}
		dist := map[int]int{0: 0}
		for ; len(near) > 0; near = near[1:] {
			for _, p := range peers[near[0]] {
				if _, ok := dist[p]; !ok {
					dist[p] = dist[near[0]] + 1
					near = append(near, p)
				}
			}
		}
		for i := range n {
			if reached[i] != (dist[i] <= hops) {
				t.Fatalf("seed %d: server %d, %d hops away of %d: reached %t", seed, i, dist[i], hops, reached[i])
			}
			if _, copies, _ := floods[i].Used(); copies > 0 && dist[i] < hops && len(peers[i]) > 1 {
				t.Fatalf("seed %d: server %d keeps it", seed, i)
			}
		}
	})
}

func BenchmarkFloodOffer(b *testing.B) {
	f := NewFlood(10, 1<<40, 1000)
	for i := range 10 {
		f.AddPeer(srv(fmt.Sprint("p", i)))
	}
	from := srv("p0")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		f.Offer(Copy{ID: copyID(i), To: "z", Origin: "home", From: from, Hops: 5, Size: 500})
		f.Drop(copyID(i))
	}
}
