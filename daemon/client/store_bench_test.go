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

// fill puts n texts into the history that were exchanged with 100 people. Each has
// 24 words of which some are common, some rare, and "number" and its own number.
func fill(t testing.TB, s *Store, n int) {
	t.Helper()
	_, err := s.writer.ExecContext(t.Context(), `
		WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1),
			v (i, v, w) AS (SELECT i, i * 2654435761 % 4294967296, (i + 7) * 40503 % 65536 FROM n)
		INSERT INTO message (id, out, sender, device, counter, kind, created, at, server, receivers, shown, body)
		SELECT randomblob(16), i % 2, iif(i % 2, 'alice@server1', format('u%d@server2', i / 2 % 100)), 1, i, 1, i, i, 'server1',
			iif(i % 2, format('u%d@server2', i / 2 % 100), 'alice@server1'), 0,
			format('%s r%x r%x c%d c%d number %d', ?2, v % 20000, w % 5000, v % 300, w % 30, i) FROM v;
		INSERT INTO recipient (message, position, receiver, state, at) SELECT seq, 0, receivers, 2, at FROM message WHERE out`, n, benchBody)
	check(t, err)
}

// BenchmarkHistory reads from 100,000 messages of 100 people.
func BenchmarkHistory(b *testing.B) {
	s := aliceStore(b)
	fill(b, s, 100_000)
	for _, c := range []struct {
		name string
		q    Query
		want int
	}{
		{"last100", Query{Limit: 100}, 100},
		{"with/last100", Query{With: "u7@server2", Limit: 100}, 100},
		{"with/all", Query{With: "u7@server2"}, 1000},
		{"with/grep", Query{With: "u7@server2", Grep: regexp.MustCompile(`\b50014$`)}, 1},
		{"grep/all", Query{Grep: regexp.MustCompile(`\b50007$`)}, 1},
		{"before", Query{Before: time.UnixMilli(5000), Limit: 100}, 100},
		{"time", Query{Since: time.UnixMilli(50_000), Before: time.UnixMilli(50_100)}, 100},
		{"search/one", Query{Search: `"50007"`}, 1},
		{"search/common/last100", Query{Search: `"number" "twenty"`, Limit: 100}, 100},
		{"search/common/with", Query{Search: `"number"`, With: "u7@server2", Limit: 100}, 100},
		{"search/common/with/rare", Query{Search: `"number" "50014"`, With: "u7@server2"}, 1},
		{"search/common/nobody", Query{Search: `"number"`, With: "nobody@server2"}, 0},
		{"search/common/time", Query{Search: `"number"`, Since: time.UnixMilli(50_000), Before: time.UnixMilli(50_100)}, 100},
		{"search/phrase", Query{Search: `"number 50007"`}, 1},
		{"search/prefix", Query{Search: `"5000"*`, Limit: 100}, 11},
		{"search/short prefix", Query{Search: `"c1"*`, Limit: 100}, 100},
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
