package spool

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/noipchat/noipchat/daemon/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a spool at work, and somebody who puts and is told.
type rig struct {
	t   testing.TB
	sp  *Spool
	end func()

	mu   sync.Mutex
	told map[uint64]message.State
	news chan struct{}
}

func (r *rig) Settled(_ *Turn, token uint64, s message.State, no *message.Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if before, twice := r.told[token]; twice {
		r.t.Errorf("%d was told %v after %v", token, s, before)
	}
	if (no != nil) != (s == message.Refused || s == message.Expired) {
		r.t.Errorf("%d was told %v with %v", token, s, no)
	}
	r.told[token] = s
	close(r.news)
	r.news = make(chan struct{})
}

// await waits until a token was told, and returns what.
func (r *rig) await(token uint64) message.State {
	r.t.Helper()
	late := time.After(time.Minute)
	for {
		r.mu.Lock()
		s, news := r.told[token], r.news
		r.mu.Unlock()
		if s != 0 {
			return s
		}
		select {
		case <-news:
		case <-late:
			r.t.Fatalf("%d was told nothing", token)
		}
	}
}

func open(t testing.TB, dir string, o Options) *rig {
	t.Helper()
	if o.JournalFile == 0 {
		o.JournalFile = 1 << 18
	}
	sp, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, sp: sp, told: map[uint64]message.State{}, news: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sp.Run(ctx) }()
	r.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.end)
	return r
}

const (
	aliceQueue = "alice@server1/0000000000000001"
	carolQueue = "carol@server1/0000000000000002"
)

// envelope makes the nth envelope, with a text of size bytes.
func envelope(t testing.TB, n uint64, size int) []byte {
	t.Helper()
	e := message.Envelope{
		Kind: message.Text, Priority: message.Normal, From: "bob@server1", Device: 7, Counter: n,
		To: []message.Address{"alice@server1"}, Body: bytes.Repeat([]byte{'x'}, size),
	}
	raw, err := e.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func counterOf(t testing.TB, raw []byte) uint64 {
	t.Helper()
	var e message.Envelope
	if err := e.Parse(raw); err != nil {
		t.Fatal(err)
	}
	return e.Counter
}

func (r *rig) put(q *Queue, n uint64, size int) {
	var turn Turn
	q.Put(&turn, Put{Raw: envelope(r.t, n, size), Priority: message.Normal, Owner: r, Token: n})
	turn.Run()
}

// tap is a pump that takes nothing by itself.
type tap struct{ due int }

func (p *tap) Due() bool { p.due++; return true }
func (p *tap) Pump()     {}

// drain takes everything that waits, and returns the counters.
func (r *rig) drain(q *Queue, forget bool) (counters []uint64) {
	r.t.Helper()
	var turn Turn
	p := &tap{}
	q.Attach(p)
	for {
		e, raw, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
		if e == nil {
			break
		}
		counters = append(counters, counterOf(r.t, raw))
		if q.Done(&turn, e) && forget {
			q.Forget(e)
		}
	}
	q.Detach(&turn, p)
	return counters
}

func numbers(first, last uint64) (all []uint64) {
	for n := first; n <= last; n++ {
		all = append(all, n)
	}
	return all
}

func TestHandTouchesNoDisk(t *testing.T) {
	r := open(t, t.TempDir(), Options{Moment: time.Minute})
	q := r.sp.Queue(aliceQueue)
	p := &tap{}
	q.Attach(p)
	var turn Turn
	for n := uint64(1); n <= 100; n++ {
		r.put(q, n, 100)
		e, raw, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
		if e == nil || counterOf(t, raw) != n {
			t.Fatalf("%d did not come", n)
		}
		if q.Done(&turn, e) {
			t.Fatal("a receipt is owed for what went from hand to hand")
		}
		if s := r.await(n); s != message.Delivered {
			t.Fatalf("%d: %v", n, s)
		}
	}
	if p.due != 100 || r.sp.stats.Syncs.Load() != 0 || r.sp.stats.Bytes.Load() != 0 || r.sp.HandBytes() != 0 {
		t.Errorf("%d wakes, %d syncs, %d bytes in hand", p.due, r.sp.stats.Syncs.Load(), r.sp.HandBytes())
	}
}

func TestHeldWhenNobodyPumps(t *testing.T) {
	r := open(t, t.TempDir(), Options{})
	q := r.sp.Queue(aliceQueue)
	r.put(q, 1, 100)
	if s := r.await(1); s != message.Held {
		t.Fatal(s)
	}
	if r.sp.stats.Syncs.Load() == 0 {
		t.Error("held, and nothing was synced")
	}
	if n := r.sp.HandBytes(); n != 0 {
		t.Errorf("%d bytes in hand", n)
	}
}

// TestMoment: what a pump was given and nobody acks is held after a moment, and
// owed a receipt when it is acked later.
func TestMoment(t *testing.T) {
	r := open(t, t.TempDir(), Options{})
	q := r.sp.Queue(aliceQueue)
	p := &tap{}
	q.Attach(p)
	start := time.Now()
	r.put(q, 1, 100)
	e, _, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
	if s := r.await(1); s != message.Held || time.Since(start) < 50*time.Millisecond {
		t.Fatalf("%v after %v", s, time.Since(start))
	}
	var turn Turn
	if !q.Done(&turn, e) {
		t.Error("no receipt is owed")
	}
	if q.Raw(e) == nil {
		t.Error("the envelope is gone before the receipt was made")
	}
	q.Forget(e)
	if n, b := r.sp.Waiting(); n != 0 || b != 0 {
		t.Errorf("%d entries, %d bytes wait", n, b)
	}
}

// TestPace: a far end that takes longer than a moment, but steadily, gets twice its
// time before anything goes to disk; one that takes for ever gets a moment.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, t.TempDir(), Options{})
		defer r.end()
		q := r.sp.Queue(aliceQueue)
		p := &tap{}
		q.Attach(p)
		n := uint64(0)
		for _, c := range []struct {
			acks time.Duration
			want message.State
		}{
			{80 * time.Millisecond, message.Held}, // nothing is known of it yet
			{120 * time.Millisecond, message.Delivered},
			{200 * time.Millisecond, message.Delivered},
			{600 * time.Millisecond, message.Held},
			{900 * time.Millisecond, message.Delivered},
			{1100 * time.Millisecond, message.Held},
			{80 * time.Millisecond, message.Held}, // it isn't waited for
		} {
			n++
			r.put(q, n, 100)
			e, _, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
			time.Sleep(c.acks)
			var turn Turn
			if q.Done(&turn, e) {
				q.Forget(e)
			}
			if s := r.await(n); s != c.want {
				t.Errorf("%d, acked after %v: %v", n, c.acks, s)
			}
		}
		q.Detach(&Turn{}, p)
		q.Attach(p)
		r.put(q, n+1, 100)
		time.Sleep(80 * time.Millisecond)
		if s := r.await(n + 1); s != message.Held {
			t.Errorf("a new pump: %v", s)
		}
		q.Detach(&Turn{}, p)
	})
}

func TestDetachOffersAgain(t *testing.T) {
	r := open(t, t.TempDir(), Options{Moment: time.Minute})
	q := r.sp.Queue(aliceQueue)
	p := &tap{}
	q.Attach(p)
	for n := uint64(1); n <= 5; n++ {
		r.put(q, n, 100)
	}
	var turn Turn
	var second *Entry
	for n := 1; n <= 3; n++ {
		e, _, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
		if n == 2 {
			second = e
		}
	}
	q.Done(&turn, second)
	q.Detach(&turn, p)
	if e, _, _ := q.Next(p, message.MaxEnvelope, message.Priorities); e != nil {
		t.Error("a pump that was detached gets something")
	}
	for _, n := range []uint64{1, 3, 4, 5} {
		if s := r.await(n); s != message.Held {
			t.Errorf("%d: %v", n, s)
		}
	}
	if have := fmt.Sprint(r.drain(q, true)); have != "[1 3 4 5]" {
		t.Error(have)
	}
}

func TestUrgentFirst(t *testing.T) {
	r := open(t, t.TempDir(), Options{})
	q := r.sp.Queue(aliceQueue)
	var turn Turn
	for n, p := range []message.Priority{message.Bulk, message.Normal, message.Urgent, message.Bulk, message.Urgent, message.Normal} {
		q.Put(&turn, Put{Raw: envelope(t, uint64(n)+1, 10), Priority: p, Owner: r, Token: uint64(n) + 1})
	}
	r.await(6)
	if have := fmt.Sprint(r.drain(q, true)); have != "[3 5 2 6 1 4]" {
		t.Error(have)
	}
}

func TestRefusals(t *testing.T) {
	r := open(t, t.TempDir(), Options{Quota: 1000, Total: 1500})
	a, b := r.sp.Queue(aliceQueue), r.sp.Queue("carol@server1/0000000000000002")
	r.put(a, 1, 600)
	r.put(a, 2, 600)
	r.put(b, 3, 600)
	r.put(b, 4, 600)
	for n, want := range map[uint64]message.State{1: message.Held, 2: message.Refused, 3: message.Held, 4: message.Refused} {
		if s := r.await(n); s != want {
			t.Errorf("%d: %v, want %v", n, s, want)
		}
	}
	var turn Turn
	a.Put(&turn, Put{Raw: envelope(t, 5, 1), Age: 10, Life: 10, Owner: r, Token: 5})
	if s := r.await(5); s != message.Expired {
		t.Error(s)
	}
}

func TestRepeatsAreDropped(t *testing.T) {
	r := open(t, t.TempDir(), Options{})
	q := r.sp.Queue(aliceQueue)
	r.put(q, 1, 100)
	r.await(1)
	var turn Turn
	q.Put(&turn, Put{Raw: envelope(t, 1, 100), Priority: message.Normal, Owner: r, Token: 2})
	if s := r.await(2); s != message.Held {
		t.Error(s)
	}
	if have := fmt.Sprint(r.drain(q, true)); have != "[1]" {
		t.Error(have)
	}
}

// TestByAuthor: an entry is found by who has written it also when it was put again, whatever
// became of the repeat, and repeats are found as long as they are there.
func TestByAuthor(t *testing.T) {
	counters := func(q *Queue) (seqs []uint64) {
		for e, raw := range q.ByAuthor(7, 1) {
			if counterOf(t, raw) != 1 {
				t.Errorf("entry %d is another one", e.Seq())
			}
			seqs = append(seqs, e.Seq())
		}
		return seqs
	}
	for _, c := range []struct {
		name         string
		asked        bool // before the first was put
		held         bool // the first is on disk when the repeat comes
		given, rests bool // the repeat goes to the pump, and comes back
	}{
		{"on disk", true, true, false, false},
		{"asked later", false, true, false, false},
		{"given", true, true, true, false},
		{"rests", true, true, true, true},
		{"both in hand", true, false, false, false},
		{"both given", true, false, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := open(t, t.TempDir(), Options{Moment: time.Hour})
			q, p := r.sp.Queue(aliceQueue), &tap{}
			if c.asked {
				counters(q)
			}
			q.Attach(p)
			r.put(q, 1, 100)
			next := func() *Entry {
				e, _, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
				return e
			}
			first := next()
			if c.held {
				if err := r.sp.Settle(t.Context()); err != nil {
					t.Fatal(err)
				}
				r.await(1)
			}
			var turn Turn
			q.Rest(&turn, first, time.Hour)
			q.Put(&turn, Put{Raw: envelope(t, 1, 100), Priority: message.Normal, Owner: r, Token: 2})
			var again *Entry
			if c.given {
				again = next()
			}
			if got := counters(q); len(got) != 2 || got[0] != first.Seq() {
				t.Errorf("with a repeat there are %d", got)
			}
			if c.rests {
				q.Rest(&turn, again, time.Hour)
			}
			if err := r.sp.Settle(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.await(1)
			r.await(2)
			if c.given && !c.rests {
				q.Done(&turn, again)
			}
			if got := counters(q); !slices.Equal(got, []uint64{first.Seq()}) {
				t.Errorf("when the repeat is over there are %d", got)
			}
			for e := range q.ByAuthor(7, 1) {
				q.End(&turn, e, message.Delivered)
			}
			if n, _ := r.sp.Waiting(); n != 0 || counters(q) != nil || len(q.authors)+len(q.repeats) != 0 {
				t.Errorf("%d are left", n)
			}
			q.Detach(&turn, p)
		})
	}
}

// TestRestart: what was held is there after a stop and after a crash, in order,
// once; what was forgotten is not; and after a stop all of it is filed.
func TestRestart(t *testing.T) {
	for _, crash := range []bool{false, true} {
		for _, filed := range []bool{false, true} {
			t.Run(fmt.Sprintf("crash=%v filed=%v", crash, filed), func(t *testing.T) {
				dir := t.TempDir()
				quiet := time.Hour
				if filed {
					quiet = time.Millisecond
				}
				r := open(t, dir, Options{Quiet: quiet})
				q := r.sp.Queue(aliceQueue)
				for n := uint64(1); n <= 300; n++ {
					r.put(q, n, 3000) // several journal files
				}
				for n := uint64(1); n <= 300; n++ {
					r.await(n)
				}
				if filed {
					waitFor(t, func() bool { return r.sp.stats.Filed.Load() >= 300 })
				}
				var turn Turn
				p := &tap{}
				q.Attach(p)
				for n := uint64(1); n <= 100; n++ {
					e, raw, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
					if have := counterOf(t, raw); have != n {
						t.Fatalf("%d, want %d", have, n)
					}
					q.Done(&turn, e)
					q.Forget(e)
				}
				q.Detach(&turn, p)
				r.put(q, 301, 10) // its sync covers the Dones
				r.await(301)
				if crash {
					dir = snapshot(t, dir)
				} else {
					r.end()
					live := 0
					filepath.WalkDir(filepath.Join(dir, "queues"), func(_ string, d fs.DirEntry, _ error) error {
						if !d.IsDir() {
							live++
						}
						return nil
					})
					if live == 0 {
						t.Error("after a stop nothing is filed")
					}
				}
				r = open(t, dir, Options{})
				if n, _ := r.sp.Waiting(); n != 201 {
					t.Errorf("%d wait, want 201", n)
				}
				if have, want := fmt.Sprint(r.drain(r.sp.Queue(aliceQueue), true)), fmt.Sprint(numbers(101, 301)); have != want {
					t.Errorf("have %s", have)
				}
				if n := r.sp.Notices(); len(n) != 0 {
					t.Errorf("notices: %v", n)
				}
				r.end()
				r = open(t, dir, Options{})
				if n, _ := r.sp.Waiting(); n != 0 {
					t.Errorf("%d wait after all was forgotten", n)
				}
			})
		}
	}
}

// TestShare: one envelope for many queues is in the journal once, or as often as a
// record has no place for more of them; and each queue has its own.
func TestShare(t *testing.T) {
	const queues, size = maxShare + 6, 20_000
	dir := t.TempDir()
	r := open(t, dir, Options{Quiet: time.Hour})
	raw := envelope(t, 1, size)
	p := &tap{}
	var turn Turn
	for i := range uint64(queues) {
		q := r.sp.Queue(absent(int(i)))
		q.Attach(p)
		q.Put(&turn, Put{Raw: raw, Priority: message.Normal, Owner: r, Token: i + 1})
	}
	turn.Run()
	for i := range uint64(queues) {
		if s := r.await(i + 1); s != message.Held {
			t.Fatalf("%d: %v", i, s)
		}
	}
	// Another second, or another moment, that begins between two of them makes another record.
	if n := r.sp.stats.Bytes.Load(); n > 4*size+queues*100 {
		t.Errorf("%d bytes were written for %d queues", n, queues)
	}
	for i := range queues {
		r.sp.Queue(absent(i)).Detach(&turn, p)
	}
	if have := r.drain(r.sp.Queue(absent(0)), true); !slices.Equal(have, numbers(1, 1)) {
		t.Errorf("the first has %v", have)
	}
	r.put(r.sp.Queue(aliceQueue), 1000, 10) // its sync covers the Done
	r.await(1000)
	for _, life := range []string{"after a crash", "after a stop"} {
		if life == "after a crash" {
			dir = snapshot(t, dir)
		}
		r.end()
		r = open(t, dir, Options{Quiet: time.Hour})
		for i := range queues {
			want := 1
			if i == 0 {
				want = 0
			}
			items := r.sp.Queue(absent(i)).Items(message.ID{}, 10)
			if len(items) != want || want > 0 && !bytes.Equal(items[0].Envelope, raw) {
				t.Errorf("%s queue %d has %d", life, i, len(items))
			}
		}
		if n := r.sp.Notices(); len(n) != 0 {
			t.Errorf("%s: notices %v", life, n)
		}
	}
}

// TestBusyJournal: what is taken soon is never filed, however many journal files it
// fills; and what a device is being given is filed when the device is gone.
func TestBusyJournal(t *testing.T) {
	r := open(t, t.TempDir(), Options{Moment: time.Millisecond, Quiet: 10 * time.Millisecond, JournalFiles: 4})
	q := r.sp.Queue(aliceQueue)
	p := &tap{}
	q.Attach(p)
	var turn Turn
	for n := uint64(1); n <= 60; n++ {
		r.put(q, n, 50_000)
		e, _, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
		if s := r.await(n); s == message.Held && q.Done(&turn, e) {
			q.Forget(e)
		}
	}
	r.put(q, 61, 100)
	q.Next(p, message.MaxEnvelope, message.Priorities)
	r.await(61)
	r.put(r.sp.Queue(carolQueue), 62, 100) // is filed, and so tells that all that would be was
	waitFor(t, func() bool { return r.sp.stats.Filed.Load() > 0 })
	if n := r.sp.stats.Filed.Load(); n != 1 {
		t.Errorf("%d were filed", n)
	}
	q.Detach(&turn, p)
	waitFor(t, func() bool { return r.sp.stats.Filed.Load() == 2 })
}

func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
		time.Sleep(time.Millisecond) // between two looks, not instead of one
	}
}

// snapshot copies a folder as a crash would leave it, while it is at work: what is
// filed meanwhile is in the copy of the journal, whose last file is copied first,
// and the queue files are copied until they stay the same for the time of a copy.
func snapshot(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	for _, sub := range []string{"queues", "journal", "refused"} {
		if err := os.MkdirAll(filepath.Join(to, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	journal, _ := filepath.Glob(filepath.Join(dir, "journal", "*"))
	slices.Reverse(journal)
	for _, path := range journal {
		if b, err := os.ReadFile(path); err == nil { // else it was recycled
			os.WriteFile(filepath.Join(to, "journal", filepath.Base(path)), b, 0o600)
		}
	}
	for before := "-"; ; {
		var list strings.Builder
		os.RemoveAll(filepath.Join(to, "queues"))
		filepath.WalkDir(filepath.Join(dir, "queues"), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			rel, _ := filepath.Rel(dir, path)
			if d.IsDir() {
				return os.MkdirAll(filepath.Join(to, rel), 0o700)
			}
			list.WriteString(rel + "\n")
			b, err := os.ReadFile(path)
			if err != nil {
				return nil
			}
			return os.WriteFile(filepath.Join(to, rel), b, 0o600)
		})
		if list.String() == before {
			return to
		}
		before = list.String()
	}
}

// TestDamage: a torn tail is cut silently; damage in the middle costs what it
// hits, and is reported.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, Options{Quiet: time.Hour})
	q := r.sp.Queue(aliceQueue)
	for n := uint64(1); n <= 20; n++ {
		r.put(q, n, 1000)
		r.await(n) // a batch for each
	}
	journal := filepath.Join("journal", fmt.Sprintf("%020d", 1))
	whole := snapshot(t, dir)
	b, err := os.ReadFile(filepath.Join(whole, journal))
	if err != nil {
		t.Fatal(err)
	}
	end := bytes.LastIndex(b, []byte("xxxx"))
	for name, c := range map[string]struct {
		at    int
		want  []uint64
		notes int
	}{
		"tail":   {end - 10, numbers(1, 19), 0},
		"middle": {headerSize + 5000, append(numbers(1, 4), numbers(6, 20)...), 1},
	} {
		broken := bytes.Clone(b)
		broken[c.at] ^= 1
		if err := os.WriteFile(filepath.Join(whole, journal), broken, 0o600); err != nil {
			t.Fatal(err)
		}
		again := open(t, snapshot(t, whole), Options{})
		if have, want := fmt.Sprint(again.drain(again.sp.Queue(aliceQueue), true)), fmt.Sprint(c.want); have != want {
			t.Errorf("%s: have %s, want %s", name, have, want)
		}
		if n := again.sp.Notices(); len(n) != c.notes || c.notes > 0 && !strings.Contains(n[0].Text, "refused/") {
			t.Errorf("%s: notices %v", name, n)
		}
		again.end()
	}
}

// TestDamagedQueueFile: an index that is damaged is made anew from the records; a
// record that is damaged is set aside when it is read; a file that is none at the start.
func TestDamagedQueueFile(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, Options{})
	for n := uint64(1); n <= 10; n++ {
		r.put(r.sp.Queue(aliceQueue), n, 1000)
	}
	r.await(10)
	r.end()
	files, _ := filepath.Glob(filepath.Join(dir, "queues", "*", "*", "*"))
	if len(files) != 1 {
		t.Fatal(files)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		at   int
		want []uint64
	}{
		"index":  {len(b) - footerSize - 3, numbers(1, 10)},
		"record": {headerSize + 2500, append(numbers(1, 2), numbers(4, 10)...)},
		"header": {3, nil},
	} {
		broken := bytes.Clone(b)
		broken[c.at] ^= 1
		if err := os.WriteFile(files[0], broken, 0o600); err != nil {
			t.Fatal(err)
		}
		again := open(t, snapshot(t, dir), Options{})
		if have, want := fmt.Sprint(again.drain(again.sp.Queue(aliceQueue), true)), fmt.Sprint(c.want); have != want {
			t.Errorf("%s: have %s, want %s", name, have, want)
		}
		if n := again.sp.Notices(); len(n) != 1 {
			t.Errorf("%s: notices %v", name, n)
		}
		again.end()
	}
}

// TestMergedFileHasItsOwnName: senders at once make entries durable out of order, so
// a queue file may get one that lies between those of the file that it replaces.
func TestMergedFileHasItsOwnName(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, Options{Quiet: time.Hour})
	q := r.sp.Queue(aliceQueue)
	for n := uint64(1); n <= 3; n++ {
		r.put(q, n, []int{100, 1000, 100}[n-1]) // what comes is large, so the file is merged
		r.await(n)
	}
	setDurable := func(e *Entry, yes bool) {
		q.mu.Lock()
		defer q.mu.Unlock()
		e.flags ^= isDurable | committing
		if (e.flags&isDurable != 0) != yes {
			t.Fatal("it was so already")
		}
		q.unfiledLocked()
	}
	second := q.lanes[message.Normal].ents[1]
	file := func() {
		if err := r.sp.fileQueues(r.sp.takeUnfiled(), stopping, ^uint64(0)); err != nil {
			t.Fatal(err)
		}
	}
	setDurable(second, false)
	file()
	setDurable(second, true)
	file()
	if n := len(q.lanes[message.Normal].segs); n != 1 {
		t.Errorf("%d queue files", n)
	}
	r.end()
	r = open(t, dir, Options{})
	if got := r.drain(r.sp.Queue(aliceQueue), true); !slices.Equal(got, numbers(1, 3)) {
		t.Errorf("after a restart: %v", got)
	}
}

// TestReceiptsGetAFile: journal files are kept by entries whose receipts are still
// to be written; so there is a file for the receipts, or both would wait for ever.
func TestReceiptsGetAFile(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, Options{Moment: time.Millisecond, Quiet: time.Hour, JournalFiles: 2})
	q, sender := r.sp.Queue(aliceQueue), r.sp.Queue(carolQueue)
	var turn Turn
	p := &tap{}
	q.Attach(p)
	var owed []*Entry
	for n := uint64(1); n <= 2; n++ {
		r.put(q, n, 60_000) // of four, a file takes three
		e, _, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
		if s := r.await(n); s != message.Held {
			t.Fatalf("%d: %v", n, s)
		}
		if !q.Done(&turn, e) {
			t.Fatal("nothing is owed")
		}
		owed = append(owed, e)
		for i := range uint64(3) {
			r.put(sender, 100*n+i, 60_000)
			r.await(100*n + i)
		}
	}
	for n := uint64(11); n <= 14; n++ {
		r.put(sender, n, 60_000)
		if s := r.await(n); s != message.Held {
			t.Errorf("receipt %d: %v", n, s)
		}
	}
	for _, e := range owed {
		q.Forget(e)
	}
	q.Detach(&turn, p)
	r.end()
	files, err := filepath.Glob(filepath.Join(dir, "journal", "0*"))
	if err != nil || len(files) > 2 {
		t.Errorf("journal files at the end: %q, %v", files, err)
	}
	r = open(t, dir, Options{})
	if got := r.drain(r.sp.Queue(carolQueue), true); len(got) != 10 {
		t.Errorf("after a restart: %v", got)
	}
}

// TestFilesAreClosed: a queue that somebody has read a part of keeps no file open
// when he is gone.
func TestFilesAreClosed(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, Options{})
	for n := uint64(1); n <= 10; n++ {
		r.put(r.sp.Queue(aliceQueue), n, 1000)
	}
	r.await(10)
	r.end()
	inUse := func() (n int) {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range all {
			if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(to, filepath.Join(dir, "queues")) {
				n++
			}
		}
		return n
	}
	r = open(t, dir, Options{})
	q := r.sp.Queue(aliceQueue)
	p := &tap{}
	q.Attach(p)
	if e, _, _ := q.Next(p, message.MaxEnvelope, message.Priorities); e == nil || inUse() != 1 {
		t.Fatalf("while it is read, %d files are open", inUse())
	}
	var turn Turn
	q.Detach(&turn, p)
	if n := inUse(); n != 0 {
		t.Errorf("%d files are open, and nobody reads", n)
	}
	if n := q.Clear(func(e *Entry) { q.Forget(e) }); n != 10 || inUse() != 0 {
		t.Errorf("%d were taken out, and %d files are open", n, inUse())
	}
}

func TestExpiry(t *testing.T) {
	var mu sync.Mutex
	var expired []uint64
	o := Options{Grace: time.Nanosecond, Expired: func(_ *Turn, q *Queue, e *Entry) {
		mu.Lock()
		defer mu.Unlock()
		expired = append(expired, counterOf(t, q.Raw(e)))
		q.Forget(e)
	}}
	r := open(t, t.TempDir(), o)
	q := r.sp.Queue(aliceQueue)
	var turn Turn
	q.Put(&turn, Put{Raw: envelope(t, 1, 10), Life: 1, Owner: r, Token: 1})
	q.Put(&turn, Put{Raw: envelope(t, 2, 10), Life: 1000, Owner: r, Token: 2})
	waitFor(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(expired) > 0 })
	if have := fmt.Sprint(r.drain(q, true)); have != "[2]" || fmt.Sprint(expired) != "[1]" {
		t.Errorf("left %s, expired %v", have, expired)
	}
}

// TestChaos puts, takes, crashes and restarts at random, and holds the spool to
// its promise: what was held is there once and in order until it is forgotten.
func TestChaos(t *testing.T) {
	seeds := 30
	if os.Getenv("NOIPCHAT_LONG") != "" {
		seeds = 1000
	}
	if testing.Short() {
		seeds = 5
	}
	for seed := range int64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { chaos(t, seed) })
	}
}

func chaos(t *testing.T, seed int64) {
	rnd := rand.New(rand.NewSource(seed))
	dir := t.TempDir()
	o := Options{Quiet: time.Duration(rnd.Intn(20)+1) * time.Millisecond, Moment: time.Duration(rnd.Intn(5)+1) * time.Millisecond, JournalFiles: 3}
	names := []string{aliceQueue, "carol@server1/0000000000000002", "dave@server1/no-device"}
	gone := map[string]map[uint64]bool{} // acked by the device, forgotten or about to be
	want := map[string][]uint64{}        // held and not acked
	for _, n := range names {
		gone[n] = map[uint64]bool{}
	}
	next := uint64(0)
	for life := 0; life < 4; life++ {
		r := open(t, dir, o)
		for _, name := range names {
			q := r.sp.Queue(name)
			p := &tap{}
			q.Attach(p)
			have := map[uint64]bool{}
			last := uint64(0)
			for {
				e, raw, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
				if e == nil {
					break
				}
				n := counterOf(t, raw)
				if n <= last {
					t.Errorf("life %d: %d after %d", life, n, last)
				}
				last, have[n] = n, true
			}
			for _, n := range want[name] {
				if !have[n] && !gone[name][n] {
					t.Errorf("life %d: %d was held for %s and is lost", life, n, name)
				}
			}
			var turn Turn
			q.Detach(&turn, p)
		}
		held := map[string][]uint64{}
		for step := 0; step < 60; step++ {
			name := names[rnd.Intn(len(names))]
			q := r.sp.Queue(name)
			switch rnd.Intn(5) {
			case 4:
				next++
				raw := envelope(t, next, rnd.Intn(5000))
				var turn Turn
				for i, name := range names {
					put := Put{Raw: raw, Priority: message.Normal, Owner: r, Token: next}
					if i > 0 { // each has a number of its own, and all have one envelope
						put.Token = next + uint64(i)<<32
					}
					r.sp.Queue(name).Put(&turn, put)
					held[name] = append(held[name], put.Token)
				}
				turn.Run()
			case 0, 1:
				for range rnd.Intn(8) + 1 {
					next++
					r.put(q, next, rnd.Intn(5000))
					held[name] = append(held[name], next)
				}
			case 2:
				p := &tap{}
				q.Attach(p)
				var turn Turn
				for range rnd.Intn(20) {
					e, raw, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
					if e == nil {
						break
					}
					if rnd.Intn(4) > 0 {
						gone[name][counterOf(t, raw)] = true
						if q.Done(&turn, e) {
							q.Forget(e)
						}
					}
				}
				q.Detach(&turn, p)
			case 3:
				if n := len(held[name]); n > 0 {
					r.await(held[name][n-1])
				}
			}
		}
		for _, name := range names {
			for _, n := range held[name] {
				if s := r.await(n); s == message.Held {
					want[name] = append(want[name], n&(1<<32-1))
				} else if s != message.Delivered {
					t.Errorf("%d: %v", n, s)
				}
			}
		}
		if rnd.Intn(2) == 0 {
			dir = snapshot(t, dir)
		}
		r.end()
		if n := r.sp.Notices(); len(n) != 0 {
			t.Errorf("life %d: notices %v", life, n)
		}
	}
}
