package client

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// What a store has said that it has, it has exactly once after a SIGKILL, and
// no counter is used for two envelopes. The test runs itself as a child, which
// tells on its standard output what was stored, and is killed while it works.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("NOIPCHAT_TEST_STORE"); dir != "" {
		storeUntilKilled(t, dir)
		return
	}
	kills := 30
	if testing.Short() {
		kills = 5
	}
	dir := t.TempDir()
	s := openStore(t, dir)
	check(t, s.SetAccount(aliceAccount()))
	check(t, s.Close())

	told := promises{out: map[uint64]string{}, in: map[uint64]string{}, held: map[uint64]string{}}
	for n := range kills {
		from := "ready"
		if n == 0 {
			from = "held" // however slow it is, one has done everything once
		}
		told.add(t, runAndKill(t, dir, from, time.Duration(rand.IntN(30_000))*time.Microsecond))
		told.hold(t, dir)
		if t.Failed() {
			break
		}
	}
	if len(told.out) == 0 || len(told.in) == 0 || len(told.held) == 0 {
		t.Errorf("the children stored %d out, %d in, %d settled", len(told.out), len(told.in), len(told.held))
	}
	t.Logf("%d out, %d in, %d settled, %d kills", len(told.out), len(told.in), len(told.held), kills)
}

// storeUntilKilled is the child. It ends by itself when nobody listens.
func storeUntilKilled(t *testing.T, dir string) {
	s := openStore(t, dir)
	var last uint64
	check(t, s.db.QueryRow("SELECT ifnull(max(last), 0) FROM seen").Scan(&last))
	fmt.Println("ready")
	for n := uint64(0); ; n++ {
		m, err := s.Enqueue(context.Background(), Outgoing{To: to(bob, carol), Body: []byte("out")})
		check(t, err)
		fmt.Println("out", m.Counter, m.ID)

		// A server gives what was not acked again, so some come twice.
		var batch []Incoming
		for c := max(last, 3) - 2; c <= last+5; c++ {
			batch = append(batch, textFrom(t, c, fmt.Sprint("text ", c)))
		}
		results, err := s.Receive(batch)
		check(t, err)
		for i, r := range results {
			if c := batch[i].Envelope.Counter; r.New != (c > last) {
				t.Fatalf("counter %d after %d: new %v", c, last, r.New)
			}
		}
		last += 5
		fmt.Println("in", last, "-")

		if n%2 == 0 {
			_, err = s.Settle([]Settled{{Counter: m.Counter, Receiver: AllOpen, State: message.Held}})
			check(t, err)
			fmt.Println("held", m.Counter, "-")
		}
	}
}

// runAndKill starts a child, kills it some time after its first line that begins with from,
// and returns the whole lines that it wrote.
func runAndKill(t *testing.T, dir, from string, after time.Duration) (lines []string) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestKilled$", "-test.timeout=60s")
	child.Env = append(os.Environ(), "NOIPCHAT_TEST_STORE="+dir)
	out, err := child.StdoutPipe()
	check(t, err)
	check(t, child.Start())
	r := bufio.NewReader(out)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			break
		}
		if from != "" && strings.HasPrefix(line, from) {
			time.AfterFunc(after, func() { child.Process.Kill() })
			from = ""
		}
		if line == "ready\n" {
			continue
		}
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
	if err := child.Wait(); err == nil || child.ProcessState.ExitCode() >= 0 {
		t.Fatalf("the child was not killed: %v\n%s", err, strings.Join(lines, "\n"))
	}
	return lines
}

// promises is what the children said: by counter, and of what they sent the id.
type promises struct{ out, in, held map[uint64]string }

func (p *promises) add(t *testing.T, lines []string) {
	t.Helper()
	for _, line := range lines {
		var what, id string
		var counter uint64
		if _, err := fmt.Sscan(line, &what, &counter, &id); err != nil {
			t.Fatalf("the child said %q", line)
		}
		said := map[string]map[uint64]string{"out": p.out, "in": p.in, "held": p.held}[what]
		if _, twice := said[counter]; twice {
			t.Errorf("%s %d for the second time", what, counter)
		}
		said[counter] = id
	}
}

// hold checks that the store has what was promised.
func (p *promises) hold(t *testing.T, dir string) {
	t.Helper()
	s := openStore(t, dir)
	defer s.Close()
	var sound string
	check(t, s.db.QueryRow("PRAGMA integrity_check").Scan(&sound))
	if sound != "ok" {
		t.Fatalf("integrity_check: %s", sound)
	}
	all, err := s.History(Query{})
	check(t, err)
	out, in := map[uint64]Message{}, map[uint64]Message{}
	for _, m := range all {
		side := in
		if m.Out {
			side = out
		}
		if _, twice := side[m.Counter]; twice {
			t.Errorf("counter %d is twice in the history (out: %v)", m.Counter, m.Out)
		}
		side[m.Counter] = m
	}
	waiting := map[uint64]bool{}
	for _, e := range outbox(t, s, message.Normal) {
		waiting[e.Counter] = true
	}
	for counter, id := range p.out {
		if m := out[counter]; m.ID.String() != id {
			t.Errorf("message %d was stored as %s, and is %v", counter, id, m.ID)
		}
	}
	for counter, m := range out {
		if _, held := p.held[counter]; held && m.State != "held" || (m.State == "queued") != waiting[counter] {
			t.Errorf("message %d is %s; said to be held: %v, in the outbox: %v", counter, m.State, held, waiting[counter])
		}
	}
	var seen message.Ranges
	for _, counter := range slices.Sorted(maps.Keys(in)) {
		seen.Add(counter)
	}
	if have := seenRanges(t, s, bob, bobDevice); !slices.Equal(have, seen) || len(seen) > 1 {
		t.Errorf("seen is %v, and in the history are %v", have, seen)
	}
	for counter := range p.in {
		if !seen.Has(counter) {
			t.Errorf("text %d is lost", counter)
		}
	}
}
