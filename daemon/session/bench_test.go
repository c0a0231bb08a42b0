package session_test

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/identity"
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
