package session_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/spool"
	"github.com/noipchat/noipchat/daemon/wire"
)

// BenchmarkRelay sends texts of 64 bytes from a device to another that acks each,
// over real sockets, with 64 under way. One operation is a message from its
// sender's record to its sender's ack; the devices' own work is in it. Of the
// allocations, the server's are counted: what the devices take is measured
// before, by themselves.
func BenchmarkRelay(b *testing.B) {
	s := open(b, loopback{}, b.TempDir(), options{})
	s.add("alice", "bob")
	alice, bob := s.enter("alice").raw(b), s.enter("bob").raw(b)
	go func() {
		var ack wire.Ack
		var out []byte
		for {
			envelopes := bob.receive()
			if envelopes < 0 {
				return
			}
			if envelopes > 0 {
				ack.Upto += uint64(envelopes)
				out = wire.AppendAck(out[:0], &ack)
				bob.say(out)
			}
		}
	}()
	const window = 64
	frames := make([][]byte, b.N)
	for i := range frames {
		frames[i] = alice.envelope("this is a text of sixty-four bytes, as people write in a chat....", nil, "bob@server1")
	}
	b.ReportAllocs()
	b.ResetTimer()
	acked := uint64(0)
	for sent := 0; acked < uint64(b.N); {
		n := min(b.N-sent, window-(sent-int(acked)))
		if n > 0 {
			var together []byte
			for _, f := range frames[sent : sent+n] {
				together = append(together, f...)
			}
			check(b, alice.say(together))
			sent += n
		}
		alice.receive()
		acked = max(acked, alice.upto)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	if n := s.relay.Stats().Held.Load(); n > uint64(b.N/100) {
		b.Errorf("%d of %d went by the disk", n, b.N)
	}
}

// BenchmarkFanout sends texts of 1 KiB from a device to many that ack each after a
// while, over real sockets, with 16 under way. One operation is a message for all;
// the processor time is for one receiver, the devices' own work included.
func BenchmarkFanout(b *testing.B) {
	for _, c := range []struct {
		receivers int
		late      time.Duration
	}{{100, 0}, {1000, 0}, {100, 100 * time.Millisecond}, {100, 2 * time.Second}} {
		b.Run(fmt.Sprintf("receivers=%d/late=%v", c.receivers, c.late), func(b *testing.B) {
			fanOut(b, c.receivers, c.late)
		})
	}
}

func fanOut(b *testing.B, receivers int, late time.Duration) {
	s := open(b, loopback{}, b.TempDir(), options{spool: spool.Options{JournalFile: 32 << 20, JournalFiles: 6}})
	s.add("sender")
	sender := s.enter("sender").raw(b)
	var groups [][]message.Address
	for i := range receivers {
		name := fmt.Sprintf("user%04d", i)
		s.add(name)
		key := identity.NewKey()
		s.knock(b, key, byPassword(name, password))
		c, _ := s.shake(b, key, func(h *wire.ClientHello) { h.Method, h.User = wire.ByDevice, name })
		r := &raw{t: b, conn: c}
		b.Cleanup(func() { c.Close() })
		go func() {
			for {
				n := r.receive()
				if n < 0 {
					return
				}
				if n > 0 {
					time.Sleep(late) // the network's
					r.received += uint64(n)
					r.say(wire.AppendAck(nil, &wire.Ack{Upto: r.received}))
				}
			}
		}()
		if i%message.MaxTo == 0 {
			groups = append(groups, nil)
		}
		last := &groups[len(groups)-1]
		*last = append(*last, message.Join(name, home))
	}
	const window = 16
	body := strings.Repeat("a", 1024)
	b.ResetTimer()
	cpu, parts := processorTime(), uint64(len(groups))
	for sent := 0; sender.upto < uint64(b.N)*parts; {
		for ; sent < b.N && sent-int(sender.upto/parts) < window; sent++ {
			for _, to := range groups {
				check(b, sender.say(sender.envelope(body, nil, to...)))
			}
		}
		if n := sender.receive(); n > 0 { // receipts
			sender.received += uint64(n)
			sender.say(wire.AppendAck(nil, &wire.Ack{Upto: sender.received}))
		}
	}
	b.StopTimer()
	used := processorTime() - cpu
	b.ReportMetric(float64(used.Microseconds())/float64(b.N*receivers), "µs-cpu/delivery")
	b.ReportMetric(float64(s.relay.Stats().Held.Load())/float64(b.N*receivers), "held/delivery")
}

// receive reads once and counts the envelopes, or returns -1 at the end. It notes
// what was acked.
func (r *raw) receive() (envelopes int) {
	var ack wire.Ack
	err := r.conn.Receive(func(plain []byte) error {
		for len(plain) > 0 {
			t, body, rest, err := wire.Next(plain)
			if err != nil {
				return err
			}
			plain = rest
			switch t {
			case wire.EnvelopeFrame:
				envelopes++
			case wire.AckFrame:
				if err := wire.ParseAck(body, &ack); err != nil {
					return err
				}
				r.upto = ack.Upto
			}
		}
		return nil
	})
	if err != nil {
		return -1
	}
	return envelopes
}

// BenchmarkIdle has devices logged in over real sockets that say nothing: 2,000, or
// 10,000 with NOIPCHAT_LONG, if this process may have two files for each. The
// memory and the time are those of the server and of the devices together, which
// have no goroutines.
func BenchmarkIdle(b *testing.B) {
	devices := 2000
	if os.Getenv("NOIPCHAT_LONG") != "" {
		devices = 10_000
	}
	devices = min(devices, int(files(b)-1000)/2)
	for range b.N {
		s := open(b, loopback{}, b.TempDir(), options{})
		s.add("alice")
		keys := make([]identity.Key, devices)
		for i := range keys {
			keys[i] = identity.NewKey()
			name := fmt.Sprint("user", i)
			s.add(name)
			s.knock(b, keys[i], byPassword(name, password))
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		start, cpu := time.Now(), processorTime()
		var conns []*wire.Conn
		for i, key := range keys {
			c, _ := s.shake(b, key, func(h *wire.ClientHello) { h.Method, h.User = wire.ByDevice, fmt.Sprint("user", i) })
			conns = append(conns, c)
		}
		took, used := time.Since(start), processorTime()-cpu
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc+after.StackInuse-before.HeapAlloc-before.StackInuse)/float64(devices), "B/session")
		b.ReportMetric(float64(took.Microseconds())/float64(devices), "µs/login")
		b.ReportMetric(float64(used.Microseconds())/float64(devices), "µs-cpu/login")
		for _, c := range conns {
			c.Close()
		}
		s.stop()
	}
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFile sends a file of 256 MiB between two devices with their real stores,
// over real sockets, and a text every 20 ms beside it. The memory is that of both
// devices and the server together, above what they had before.
func BenchmarkFile(b *testing.B) {
	s := open(b, loopback{}, b.TempDir(), options{})
	s.add("alice", "bob")
	alice, bob := s.enter("alice").come(), s.enter("bob").come()
	path := filepath.Join(b.TempDir(), "large")
	f, err := os.Create(path)
	check(b, err)
	const size = 256 << 20
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{1}), size)
	check(b, errors.Join(err, f.Close()))
	for b.Loop() {
		m := alice.sendFile(path, bob)
		var heap runtime.MemStats
		var most uint64
		var delays []time.Duration
		for !final(alice.fate(m, bob.address()).State) {
			start := time.Now()
			text := alice.send("beside it", bob)
			alice.until("a text", func() bool { return final(alice.fate(text, bob.address()).State) })
			delays = append(delays, time.Since(start))
			runtime.ReadMemStats(&heap)
			most = max(most, heap.HeapInuse)
			time.Sleep(20 * time.Millisecond)
		}
		bob.until("the file", func() bool { names, _ := bob.named(); return len(names) > 0 })
		slices.Sort(delays)
		b.ReportMetric(float64(delays[len(delays)/2].Microseconds())/1000, "ms-text-p50")
		b.ReportMetric(float64(delays[len(delays)*99/100].Microseconds())/1000, "ms-text-p99")
		b.ReportMetric(float64(most)/(1<<20), "MiB-heap")
	}
	b.SetBytes(size)
}

func final(s message.State) bool { return s >= message.Delivered }

// named are the names of files that have come.
func (p *person) named() (names []string, err error) {
	history, err := p.store.History(client.Query{Only: client.In})
	for _, m := range history {
		if m.File != nil {
			names = append(names, m.File.Name)
		}
	}
	return names, err
}
