package spool

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/noipchat/noipchat/daemon/message"
)

// sender waits for what became of its one message.
type sender chan message.State

func (s sender) Settled(_ *Turn, _ uint64, state message.State, _ *message.Refusal) { s <- state }

// work runs a spool with the measures of a server for a benchmark.
func work(b *testing.B, dir string) (*Spool, func()) {
	b.Helper()
	sp, err := Open(dir, Options{Quota: 1 << 40, Total: 1 << 40})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sp.Run(ctx) }()
	return sp, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
}

func absent(n int) string { return fmt.Sprintf("user%d@server1/%016x", n, n+1) }

// BenchmarkStore has senders put a message of 1 KiB each for a device that is away,
// and wait until it is held before the next. One operation is a message.
func BenchmarkStore(b *testing.B) {
	for _, senders := range []int{1, 16, 256} {
		b.Run(fmt.Sprint("senders=", senders), func(b *testing.B) { hold(b, senders, senders) })
	}
}

// BenchmarkStoreAbsent: the same by 256 senders to 10,000 devices in turn, so that
// each queue gets its own files.
func BenchmarkStoreAbsent(b *testing.B) { hold(b, 256, 10_000) }

func hold(b *testing.B, senders, queues int) {
	sp, end := work(b, b.TempDir())
	defer end()
	raws := make([][]byte, b.N)
	for i := range raws {
		raws[i] = envelope(b, uint64(i+1), 1024)
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range senders {
		wg.Go(func() {
			var turn Turn
			told := make(sender, 1)
			for {
				n := int(next.Add(1)) - 1
				if n >= b.N {
					return
				}
				sp.Queue(absent(n%queues)).Put(&turn, Put{Raw: raws[n], Priority: message.Normal, Owner: told})
				turn.Run()
				if s := <-told; s != message.Held {
					b.Errorf("%v", s)
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	b.ReportMetric(float64(sp.Stats().Syncs.Load())/float64(b.N), "syncs/msg")
}

// fill puts n messages of size bytes into queues, and files them.
func fill(b *testing.B, dir string, n, queues, size int) {
	b.Helper()
	sp, end := work(b, dir)
	var turn Turn
	told := make(sender, n)
	for i := range n {
		sp.Queue(absent(i%queues)).Put(&turn, Put{Raw: envelope(b, uint64(i+1), size), Priority: message.Normal, Owner: told})
		turn.Run()
	}
	for range n {
		if s := <-told; s != message.Held {
			b.Fatal(s)
		}
	}
	end()
}

// BenchmarkDrain takes messages of 1 KiB from queue files. One operation is a message.
func BenchmarkDrain(b *testing.B) {
	dir := b.TempDir()
	fill(b, dir, b.N, 1, 1024)
	sp, end := work(b, dir)
	defer end()
	q := sp.Queue(absent(0))
	p := &tap{}
	q.Attach(p)
	var turn Turn
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		e, _, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
		if e == nil {
			b.Fatal("there is less than was put")
		}
		if q.Done(&turn, e) {
			q.Forget(e)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	q.Detach(&turn, p)
}

// BenchmarkOpen starts on what waits: 50,000 messages of 200 bytes in 1,000 queues;
// a million in 10,000 with NOIPCHAT_LONG. One operation is a start.
func BenchmarkOpen(b *testing.B) {
	n, queues := 50_000, 1000
	if os.Getenv("NOIPCHAT_LONG") != "" {
		n, queues = 1_000_000, 10_000
	}
	dir := b.TempDir()
	fill(b, dir, n, queues, 200)
	var before, after runtime.MemStats
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&before)
		b.StartTimer()
		sp, err := Open(dir, Options{})
		b.StopTimer()
		if err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if have, _ := sp.Waiting(); have != int64(n) {
			b.Fatalf("%d wait of %d", have, n)
		}
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "B/msg")
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		sp.Run(ctx)
		b.StartTimer()
	}
}

// BenchmarkHand is the way between two who are there: put, next, done.
func BenchmarkHand(b *testing.B) {
	sp, end := work(b, b.TempDir())
	defer end()
	q := sp.Queue(absent(0))
	p := &tap{}
	q.Attach(p)
	var turn Turn
	told := make(sender, 1)
	raw := envelope(b, 1, 64)
	b.ReportAllocs()
	for b.Loop() {
		q.Put(&turn, Put{Raw: raw, Priority: message.Normal, Owner: told})
		e, _, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
		q.Done(&turn, e)
		if s := <-told; s != message.Delivered {
			b.Fatal(s)
		}
		turn.Run()
	}
	q.Detach(&turn, p)
}
