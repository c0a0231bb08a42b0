package route

import (
	"math/rand/v2"
	"testing"
	"time"
)

// script reads small numbers from a fuzzer's bytes; zeros when they are used up.
type script []byte

func (s *script) next(n int) int {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return int(b) % n
}

// message is what a hostile peer might say, with names and keys that matter.
func (s *script) message(w *world) (m Message) {
	for range s.next(4) {
		u := Update{Server: s.server(w), Seq: s.seq(), Metric: []uint16{0, 1, 50, Infinite - 1, Infinite}[s.next(5)]}
		if s.next(4) > 0 {
			u.Announcement = make([]byte, []int{1, 200, MaxAnnouncement, MaxAnnouncement + 1}[s.next(4)])
		}
		m.Updates = append(m.Updates, u)
	}
	for range s.next(4) {
		m.Requests = append(m.Requests, Request{Server: s.server(w), After: s.seq(), Hops: uint8(s.next(256)), Proof: make([]byte, s.next(3)*600)})
	}
	return m
}

func (s *script) server(w *world) Server {
	id := w.nodes[s.next(len(w.nodes))].id()
	switch s.next(8) {
	case 0:
		id.Key[7] = byte(s.next(20))
	case 1:
		id.Name = ""
	case 2:
		id.Name += string(rune('a' + s.next(26)))
	case 3:
		id.Key = Key{}
	}
	return id
}

func (s *script) seq() Seq {
	return Seq{[]uint32{0, 1, 2, 1<<32 - 1}[s.next(4)], []uint32{0, 1, 7, 1<<32 - 1}[s.next(4)]}
}

// FuzzTable has three honest servers and a hostile one do what the bytes say. There is
// never a loop among the honest ones, nothing grows beyond its bounds, and nothing panics.
// What the hostile one says of the honest ones may have any number: as if their keys were stolen.
func FuzzTable(f *testing.F) {
	f.Add([]byte("0123456789abcdefghijklmnopqrstuvwxyz"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 2000 {
			return
		}
		s := script(b)
		w := newWorld(t, uint64(s.next(256)), 4, 6)
		w.rnd = rand.New(rand.NewPCG(1, 1))
		for _, n := range w.nodes {
			n.t.limit = 12
		}
		w.nodes[3].liar = true
		for len(s) > 0 {
			c := w.links[s.next(len(w.links))]
			n := c.ends[s.next(2)]
			switch s.next(12) {
			case 0, 1:
				c.join()
			case 2:
				c.cut()
			case 3:
				c.cost = s.next(256) * 20
				n.t.Cost(w.now, c.far(n).id(), c.cost)
			case 4:
				n.t.Overdue(w.now, s.server(w), c.far(n).id())
			case 5:
				n.t.Pin(w.now, s.server(w), s.next(2) == 0)
			case 6:
				n.crash()
				n.t.limit = 12
			case 7:
				n.t.Reaches(w.now, c.far(n).id(), []string{s.server(w).Name})
				n.t.Want(w.now, s.server(w).Name)
			case 8:
				if far := c.far(n); far.liar && c.cur[c.end(n)] != nil {
					m := s.message(w)
					n.t.Receive(w.now, far.id(), &m)
				}
			case 9:
				w.run(w.now + time.Duration(s.next(256))*time.Hour/4)
			default:
				w.run(w.now + time.Duration(s.next(256))*50*time.Millisecond)
			}
			n.turn()
			bounds(t, n.t)
		}
	})
}

// bounds checks that a table's parts agree, and that none has grown beyond its bounds.
func bounds(t *testing.T, x *Table) {
	t.Helper()
	chained, known := 0, 0
	for name, s := range x.names {
		for ; s != nil; s = s.next {
			chained++
			if s.Name != name || x.slots[s.slot] != s {
				t.Fatalf("%v hangs on %q", s.Server, name)
			}
		}
	}
	for _, s := range x.slots {
		if s == nil {
			continue
		}
		known++
		if s.at >= 0 && x.timers[s.at].server != s {
			t.Fatalf("the timer of %v is another's", s.Server)
		}
		if (s.via == nil) != (s.metric == Infinite) && s != x.own {
			t.Fatalf("%v: via %v, metric %d", s.Server, s.via, s.metric)
		}
		if len(s.ways) > len(x.order) || s.trouble != nil && len(s.trouble.doubts) > maxDoubts {
			t.Fatalf("%v has %d ways", s.Server, len(s.ways))
		}
	}
	if known != x.known || chained != x.known || len(x.slots) > x.limit+20 {
		t.Fatalf("%d known, %d there, %d in chains, %d slots", x.known, known, chained, len(x.slots))
	}
	for _, p := range x.order {
		if len(p.out) > len(x.slots) || len(p.queue) > 2*len(x.slots) || len(p.requests) > maxAsked {
			t.Fatalf("%v: %d queued, %d requests", p, len(p.queue), len(p.requests))
		}
	}
	x.Routes()
	x.Links()
}

// FuzzFlood has a flood do what the bytes say: its sums are right, and its quota holds.
func FuzzFlood(f *testing.F) {
	f.Add([]byte("0123456789abcdefghijklmnopqrstuvwxyz"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := script(b)
		fl := NewFlood(6, 50_000, 4)
		peer := func() Server { return srv(string(rune('a' + s.next(6)))) }
		for len(s) > 0 {
			c := Copy{ID: copyID(s.next(12)), To: peer().Name, Origin: peer().Name, Hops: s.next(10) - 1, Size: s.next(256) * 20}
			switch s.next(8) {
			case 0:
				fl.AddPeer(peer())
			case 1:
				fl.RemovePeer(peer())
			case 2:
				fl.Acked(c.ID, peer(), s.next(8))
			case 3:
				fl.Drop(c.ID)
			case 4:
				c.From = peer()
				fl.Restore(c, []Server{peer()})
				fl.Drop(c.ID)
			default:
				c.From = peer()
				v, pass := fl.Offer(c)
				if v < Take || v > NoRoom || (v == Known || v == NoRoom) && pass != nil {
					t.Fatal(v, pass)
				}
				for _, p := range pass {
					if p == c.From || p == (Server{}) {
						t.Fatalf("it is passed to %q", p)
					}
				}
			}
			sum, origins := int64(0), map[string]int64{}
			for i, k := range fl.kept {
				sum += k.size
				origins[k.origin] += k.size
				if int(k.at) != i || fl.copies[k.id] != k || !k.waits && !k.owed() {
					t.Fatalf("%v is kept for nothing, or in the wrong place", k)
				}
			}
			bytes, copies, tombs := fl.Used()
			if bytes != sum || bytes > 50_000 || copies != len(fl.kept) || tombs > 4 || len(fl.origins) > len(fl.kept) {
				t.Fatalf("%d bytes used, not %d; %d copies, %d tombstones", bytes, sum, copies, tombs)
			}
			for o, n := range fl.origins {
				if n != origins[o] || n > 5_000 {
					t.Fatalf("%s uses %d, not %d", o, n, origins[o])
				}
			}
		}
	})
}
