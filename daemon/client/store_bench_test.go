package client

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

var benchBody = strings.Repeat("twenty characters a ", 10) // 200 bytes

func BenchmarkStoreOpen(b *testing.B) {
	dir := b.TempDir()
	check(b, openStore(b, dir).Close())
	for b.Loop() {
		s, err := OpenStore(dir)
		check(b, err)
		check(b, s.Close())
	}
}

func BenchmarkEnqueue(b *testing.B) {
	s := aliceStore(b)
	o := Outgoing{To: to(bob), Body: []byte(benchBody)}
	for b.Loop() {
		enqueue(b, s, o)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// BenchmarkSend is what a text costs that is held and then delivered.
func BenchmarkSend(b *testing.B) {
	s := aliceStore(b)
	o := Outgoing{To: to(bob), Body: []byte(benchBody)}
	for b.Loop() {
		m := enqueue(b, s, o)
		settle(b, s, Settled{Counter: m.Counter, Receiver: AllOpen, State: message.Held})
		receive(b, s, reportFrom(b, m.Counter, "server2", message.Report{State: message.Delivered, Receiver: bob, Counters: counters(m.Counter)}))
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

func BenchmarkReceive(b *testing.B) {
	for _, size := range []int{1, 64} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s := aliceStore(b)
			counter := uint64(0)
			batch := make([]Incoming, size)
			for b.Loop() {
				b.StopTimer()
				for i := range batch {
					counter++
					batch[i] = textFrom(b, counter, benchBody)
				}
				b.StartTimer()
				receive(b, s, batch...)
			}
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// BenchmarkHistory reads from 100,000 messages of 100 people.
func BenchmarkHistory(b *testing.B) {
	s := aliceStore(b)
	_, err := s.writer.ExecContext(b.Context(), `
		WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
		INSERT INTO message (id, out, sender, device, counter, kind, created, at, server, receivers, shown, body)
		SELECT randomblob(16), i % 2, iif(i % 2, 'alice@server1', format('u%d@server2', i % 100)), 1, i, 1, i, i, 'server1',
			iif(i % 2, format('u%d@server2', i % 100), 'alice@server1'), 0, format('%s %d', ?, i) FROM n;
		INSERT INTO recipient (message, position, receiver, state, at) SELECT seq, 0, receivers, 2, at FROM message WHERE out`, benchBody)
	check(b, err)
	for _, c := range []struct {
		name string
		q    Query
		want int
	}{
		{"last100", Query{Limit: 100}, 100},
		{"with/last100", Query{With: "u7@server2", Limit: 100}, 100},
		{"with/all", Query{With: "u7@server2"}, 1000},
		{"with/grep", Query{With: "u7@server2", Grep: regexp.MustCompile(`\b50007$`)}, 1},
		{"grep/all", Query{Grep: regexp.MustCompile(`\b50007$`)}, 1},
		{"before", Query{Before: time.UnixMilli(5000), Limit: 100}, 100},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if all, err := s.History(c.q); err != nil || len(all) != c.want {
					b.Fatal(len(all), err)
				}
			}
		})
	}
}
