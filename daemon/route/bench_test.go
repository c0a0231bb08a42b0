package route

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

const many = 10_000

// full is a table that knows many servers by two peers, and has told a third.
func full(tb testing.TB) *Table {
	x := New(Options{Self: srv("home"), Limit: 2 * many})
	x.Announce(1, Seq{1, 0}, make([]byte, 250))
	for _, p := range []string{"a", "b", "c"} {
		x.PeerUp(1, Peer{Server: srv(p), Cost: 10})
	}
	for i := range many {
		for _, p := range []string{"a", "b"} {
			u := Update{Server: srv(fmt.Sprint("server", i)), Seq: Seq{1, 1}, Metric: 50, Announcement: make([]byte, 250)}
			x.Receive(1, srv(p), &Message{Updates: []Update{u}})
		}
	}
	if x.known < many {
		tb.Fatal(x.known)
	}
	return x
}

func tell(x *Table, now time.Duration, peer string) (updates int) {
	for {
		m, ok := x.Send(now, srv(peer))
		if !ok {
			return updates
		}
		updates += len(m.Updates)
	}
}

// BenchmarkNext is one look-up among 10,000.
func BenchmarkNext(b *testing.B) {
	x := full(b)
	var names []string
	for i := range 1024 {
		names = append(names, fmt.Sprint("server", i*9))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, ok := x.Next(names[i&1023]); !ok {
			b.Fatal("no way")
		}
	}
}

// BenchmarkReceive is one update of a server's metric, of 10,000, that changes nothing
// for others; the message is at hand.
func BenchmarkReceive(b *testing.B) {
	x := full(b)
	var m [2][1024]Message
	for i := range 1024 {
		for j := range m {
			m[j][i].Updates = []Update{{Server: srv(fmt.Sprint("server", i*9)), Seq: Seq{1, 1}, Metric: uint16(70 + j)}}
		}
	}
	peer, now := srv("b"), time.Second
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		x.Receive(now, peer, &m[i>>10&1][i&1023])
	}
}

// BenchmarkNews is one update with a newer announcement of 250 bytes, which two peers are
// told of: received, and sent.
func BenchmarkNews(b *testing.B) {
	x := full(b)
	now := time.Second
	for _, p := range []string{"a", "b", "c"} {
		tell(x, now, p)
	}
	m := Message{Updates: []Update{{Metric: 40, Announcement: make([]byte, 250)}}}
	peer, told := srv("a"), 0
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m.Updates[0].Server = Server{x.slots[4+i%many].Name, x.slots[4+i%many].Key}
		m.Updates[0].Seq = Seq{2, uint32(i)}
		now += time.Millisecond
		x.Receive(now, peer, &m)
		if i%100 == 99 {
			told += tell(x, now, "b") + tell(x, now, "c")
		}
	}
	b.ReportMetric(float64(told)/float64(b.N), "told/op")
}

// BenchmarkFull is telling a new peer of 10,000 servers.
func BenchmarkFull(b *testing.B) {
	x := full(b)
	now := time.Second
	b.ReportAllocs()
	for b.Loop() {
		now += time.Second
		x.PeerUp(now, Peer{Server: srv("c"), Cost: 10})
		if n := tell(x, now, "c"); n < many {
			b.Fatal(n)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/many, "ns/update")
}

// BenchmarkPeerDown loses one of two peers that lead to 10,000 servers, and has it back.
func BenchmarkPeerDown(b *testing.B) {
	x := full(b)
	now := time.Second
	ms := make([]Message, many)
	for i := range ms {
		ms[i].Updates = []Update{{Server: srv(fmt.Sprint("server", i)), Seq: Seq{1, 1}, Metric: 50}}
	}
	for b.Loop() {
		now += time.Minute
		x.PeerDown(now, srv("a"))
		x.PeerUp(now, Peer{Server: srv("a"), Cost: 10})
		for i := range ms {
			x.Receive(now, srv("a"), &ms[i])
		}
	}
}

// BenchmarkMemory is what a table holds for each of 10,000 servers that two peers lead to and
// a third was told of, announcements of 250 bytes included.
func BenchmarkMemory(b *testing.B) {
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		x := full(b)
		tell(x, time.Second, "c")
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(x)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/many, "B/route")
}
