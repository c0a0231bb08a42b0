package wire

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/transport"
)

var radio = transport.Properties{Rate: 1200, Latency: 2500 * time.Millisecond}

// outbox is a LaneSource: envelopes by priority, and frames of other types before them.
type outbox struct {
	mu      sync.Mutex
	counter uint64
	control []byte
	lanes   [message.Priorities][][]byte
	given   [][]byte // envelopes, in the order of their numbers
}

func (o *outbox) put(p message.Priority, size int, to ...message.Address) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.counter++
	if to == nil {
		to = []message.Address{"bob@server1"}
	}
	kind := map[message.Priority]message.Kind{message.Urgent: message.Receipt, message.Normal: message.Text, message.Bulk: message.File}[p]
	e := message.Envelope{
		Kind: kind, Priority: p, From: "alice@server1", Device: 77, Counter: o.counter, Created: 1_700_000_000_000 + 1000*o.counter,
		To: to, Body: bytes.Repeat([]byte{'a' + byte(o.counter%26)}, size),
	}
	raw, err := e.Append(nil)
	if err != nil {
		panic(err)
	}
	o.lanes[p] = append(o.lanes[p], raw)
}

func (o *outbox) say(frame []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.control = append(o.control, frame...)
}

func (o *outbox) Fill(b []byte, room int) ([]byte, bool) {
	return o.FillBelow(b, room, message.Priorities)
}

func (o *outbox) FillBelow(b []byte, room int, below message.Priority) ([]byte, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	start := len(b)
	b = append(b, o.control...)
	o.control = nil
	for p := range o.lanes[:below] {
		for len(o.lanes[p]) > 0 {
			raw := o.lanes[p][0]
			if len(b)-start+EnvelopeSize(Transit{}, raw) > room {
				return b, true
			}
			b = AppendEnvelope(b, Transit{}, raw)
			o.lanes[p] = o.lanes[p][1:]
			o.given = append(o.given, raw)
		}
	}
	return b, false
}

// inbox takes frames, and acks envelopes as they come.
type inbox struct {
	mu   sync.Mutex
	got  [][]byte // envelopes
	acks []Ack
	rest []Type
}

func (i *inbox) len() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.got)
}

func (i *inbox) each(plain []byte) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	for len(plain) > 0 {
		t, body, rest, err := Next(plain)
		if err != nil {
			return err
		}
		plain = rest
		switch t {
		case EnvelopeFrame:
			_, raw, err := ParseEnvelope(body)
			if err != nil {
				return err
			}
			i.got = append(i.got, raw)
		case AckFrame:
			var a Ack
			if err := ParseAck(body, &a); err != nil {
				return err
			}
			i.acks = append(i.acks, a)
		default:
			i.rest = append(i.rest, t)
		}
	}
	return nil
}

// slowStates are the two ends of a channel with lanes.
func slowStates() (a, b State) {
	a, b = states()
	a.Lanes, b.Lanes = newLanes(), newLanes()
	a.Lanes.Met, b.Lanes.Met = true, true
	return a, b
}

func slowChannel(t testing.TB, line transport.Properties) (*Conn, *Conn) {
	ta, tb := transport.MemoryLine("test", line)
	sa, sb := slowStates()
	return resume(t, ta, sa), resume(t, tb, sb)
}

// receive reads on until the connection ends.
func receive(c *Conn, each func([]byte) error) <-chan error {
	done := make(chan error, 1)
	go func() {
		for {
			if err := c.Receive(each); err != nil {
				done <- err
				return
			}
		}
	}()
	return done
}

// TestOvertake: behind a large envelope a short one waits for two seconds of the
// line's time at most, and nothing that is urgent waits for what isn't.
func TestOvertake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := slowChannel(t, radio)
		var out outbox
		var in inbox
		done := receive(b, in.each)
		for range 3 {
			out.put(message.Bulk, 20_000)
		}
		a.Flush(&out)
		for range 20 {
			time.Sleep(time.Duration(9_137+rand.IntN(2000)) * time.Millisecond)
			n, start := in.len(), time.Now()
			out.put(message.Normal, 200)
			if err := a.Flush(&out); err != nil {
				t.Fatal(err)
			}
			for in.len() == n && time.Since(start) < time.Minute {
				time.Sleep(time.Millisecond)
			}
			own := radio.Latency + radio.Time(290)
			if d := time.Since(start); d > own+2*time.Second {
				t.Errorf("a text behind a file takes %v, and %v on a free line", d, own)
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if in.len() != 23 {
			t.Fatalf("%d envelopes have arrived", in.len())
		}
		_, wrote := a.Bytes()
		if most := 3*20_100*130/100 + 20*320; int(wrote) > most {
			t.Errorf("%d bytes for 64,000 of text: pieces cost too much", wrote)
		}
		a.Close()
		<-done
		b.Close()
	})
}

// TestPace: what is written is what the line carries, so that nothing waits below.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := slowChannel(t, radio)
		var out outbox
		out.put(message.Bulk, 50_000)
		start := time.Now()
		a.Flush(&out)
		for range 100 {
			time.Sleep(time.Second)
			_, wrote := a.Bytes()
			if d := radio.Time(int(wrote)) - time.Since(start); d > 1100*time.Millisecond {
				t.Fatalf("what was written keeps the line busy for %v", d)
			}
		}
		if _, wrote := a.Bytes(); wrote < 10_000 {
			t.Errorf("%d bytes in 100 s: the line is not used", wrote)
		}
		a.Close()
		synctest.Wait()
		if a.draining || a.Flush(&out) == nil {
			t.Error("it goes on after its end")
		}
		b.Close()
	})
}

// TestLanes sends envelopes of all priorities and sizes both ways over lines of all
// kinds; they are acked in any order, and handed on at any time.
func TestLanes(t *testing.T) {
	for name, line := range map[string]transport.Properties{
		"radio": radio, "modem": {Rate: 56_000, Latency: 100 * time.Millisecond}, "metered": {Metered: true}, "slowest": {Rate: 50},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(1, 2))
				ta, tb := transport.MemoryLine("test", line)
				var at [2]State
				at[0], at[1] = slowStates()
				ends := [2]transport.Conn{ta, tb}
				var out [2]outbox
				var in [2]inbox
				var told [2]int // of in, acked
				var said [2][]Ack
				put := func(n int) {
					for range 1 + r.IntN(8) {
						size := r.IntN(1 << (4 + r.IntN(9)))
						to := []message.Address{message.Address(fmt.Sprintf("u%d@server1", r.IntN(2)))}
						out[n].put(message.Priority(r.IntN(3)), size, to...)
					}
				}
				for round := 0; round < 60 || in[0].len() < len(out[1].given) || in[1].len() < len(out[0].given) || out[0].left()+out[1].left() > 0; round++ {
					if round > 5000 {
						t.Fatalf("no end: %d of %d and %d of %d", in[1].len(), out[0].counter, in[0].len(), out[1].counter)
					}
					var conns [2]*Conn
					var done [2]<-chan error
					for n := range conns {
						conns[n] = resume(t, ends[n], at[n])
						done[n] = receive(conns[n], in[n].each)
					}
					for n, c := range conns {
						if round < 60 {
							put(n)
						}
						if k := in[n].len(); k > told[n] && r.IntN(2) == 0 {
							a := Ack{Upto: uint64(told[n] + r.IntN(k-told[n]+1))}
							for i := a.Upto + 2; i <= uint64(k); i += 2 {
								a.Beyond = append(a.Beyond, message.Range{First: i, Last: i})
							}
							told[n] = int(a.Upto)
							said[n] = append(said[n], a)
							out[n].say(AppendAck(nil, &a))
						}
						if r.IntN(4) == 0 {
							out[n].say(AppendPing(nil))
						}
						if err := c.Flush(&out[n]); err != nil {
							t.Fatal(err)
						}
					}
					time.Sleep(time.Duration(r.IntN(20_000)) * time.Millisecond)
					for n, c := range conns {
						if err := stop(ends[n], done[n]); !errors.Is(err, os.ErrDeadlineExceeded) {
							t.Fatalf("round %d: a reader ended with %v", round, err)
						}
						at[n] = c.Export()
						ends[n].SetWriteDeadline(time.Time{})
					}
				}
				for n := range in {
					same(t, out[1-n].given, in[n].got)
					if len(in[n].acks) < 10 {
						t.Errorf("%d acks have arrived", len(in[n].acks))
					}
					for i, a := range in[n].acks { // in the numbers of who sent the envelopes
						var want, have message.Ranges
						for _, number := range numbers(said[1-n][i]) {
							raw := in[1-n].got[number-1]
							want.Add(uint64(1 + slices.IndexFunc(out[n].given, func(b []byte) bool { return bytes.Equal(b, raw) })))
						}
						for _, number := range numbers(a) {
							have.Add(number)
						}
						if !slices.Equal(want, have) {
							t.Fatalf("ack %d is %v, and should be %v", i, have, want)
						}
					}
				}
				ta.Close()
				tb.Close()
			})
		})
	}
}

// numbers are the frames that an ack covers.
func numbers(a Ack) (all []uint64) {
	for _, g := range append(message.Ranges{{First: 1, Last: a.Upto}}, a.Beyond...) {
		for n := g.First; n <= g.Last; n++ {
			all = append(all, n)
		}
	}
	return all
}

func (o *outbox) left() (n int) {
	for p := range o.lanes {
		n += len(o.lanes[p])
	}
	return n
}

// same checks that all have arrived, those of each priority in their order.
func same(t *testing.T, sent, got [][]byte) {
	t.Helper()
	lanes := func(all [][]byte) (l [message.Priorities][][]byte) {
		for _, raw := range all {
			var e message.Envelope
			if err := e.Parse(raw); err != nil {
				t.Fatal(err)
			}
			l[e.Priority] = append(l[e.Priority], raw)
		}
		return l
	}
	a, b := lanes(sent), lanes(got)
	for p := range a {
		if !equal(a[p], b[p]) {
			t.Errorf("of priority %d were sent %d, and %d arrived, or others", p, len(a[p]), len(b[p]))
		}
	}
}

// TestResumeParts: what was cut off goes on where it ended, if both sides are the same
// still, and else from its beginning.
func TestResumeParts(t *testing.T) {
	for name, c := range map[string]struct {
		change func(have []Have) []Have
		most   int // bytes for what is left of 20,000 after 60 seconds
	}{
		"goes on":            {func(h []Have) []Have { return h }, 15_500},
		"is forgotten":       {func([]Have) []Have { return nil }, 26_000},
		"is of another":      {func(h []Have) []Have { h[0].Sum[0]++; return h }, 26_000},
		"is longer than all": {func(h []Have) []Have { h[0].Size = message.MaxEnvelope; return h }, 26_000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := slowChannel(t, radio)
				var out outbox
				var in inbox
				out.put(message.Normal, 20) // what is left out later
				out.put(message.Bulk, 300)
				out.put(message.Bulk, 20_000)
				done := receive(b, in.each)
				a.Flush(&out)
				time.Sleep(70 * time.Second)
				for round := range 3 { // it is cut again and again
					a.Close()
					b.Close()
					<-done
					if in.len() != 2 {
						t.Fatalf("round %d: %d have arrived", round, in.len())
					}
					parts := b.Parts()
					if len(parts) == 0 || len(parts) > round+1 || len(parts[0]) < 4000*(min(round, 1)+1) && name == "goes on" {
						t.Fatalf("round %d: %d parts", round, len(parts))
					}
					out.lanes[message.Bulk] = [][]byte{out.given[len(out.given)-1]}
					a, b = slowChannel(t, radio)
					a.lanes.Met = false
					have := c.change(b.Keep(parts))
					done = receive(b, in.each)
					a.Flush(&out)
					time.Sleep(time.Minute)
					if _, wrote := a.Bytes(); wrote != 0 {
						t.Fatalf("before it knows what is there it sends %d bytes", wrote)
					}
					a.Meet(have)
					a.Flush(&out)
					if round < 2 {
						time.Sleep(time.Minute)
					}
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				same(t, [][]byte{out.given[0], out.given[1], out.given[2]}, in.got)
				if _, wrote := a.Bytes(); int(wrote) > c.most {
					t.Errorf("%d bytes are sent again", wrote)
				}
				if parts := b.Parts(); name == "goes on" && len(parts) != 0 {
					t.Errorf("%d parts are kept", len(parts))
				}
				a.Close()
				b.Close()
				<-done
			})
		})
	}
}

// TestNotMet: before the welcome goes what fits into a record, and nothing is lost.
func TestNotMet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := slowChannel(t, radio)
		a.lanes.Met = false
		var out outbox
		var in inbox
		done := receive(b, in.each)
		out.put(message.Bulk, 10)
		out.put(message.Normal, 100)
		out.put(message.Normal, 1000)
		out.put(message.Normal, 100)
		a.Flush(&out)
		time.Sleep(time.Minute)
		synctest.Wait()
		if in.len() != 1 {
			t.Errorf("%d go before the welcome", in.len())
		}
		a.Meet(nil)
		a.Flush(&out)
		time.Sleep(time.Minute)
		synctest.Wait()
		same(t, out.given, in.got)
		if in.len() != 4 {
			t.Errorf("%d have arrived", in.len())
		}
		a.Close()
		b.Close()
		<-done
	})
}

// piece makes a record's plaintext of one piece.
func piece(lane byte, frames ...[]byte) []byte {
	return append([]byte{lane}, slices.Concat(frames...)...)
}

// TestHostileLanes: every way to break the layer is an error with a reason, before
// much of it is in memory.
func TestHostileLanes(t *testing.T) {
	envelope := func(p message.Priority, size int) []byte {
		var o outbox
		o.put(p, size)
		return o.lanes[p][0]
	}
	frame := func(raw []byte) []byte { return AppendEnvelope(nil, Transit{}, raw) }
	short := func(raw []byte, ref *header) []byte {
		var e message.Envelope
		if err := e.Parse(raw); err != nil {
			t.Fatal(err)
		}
		return appendShort(nil, Transit{}, &e, ref)
	}
	text, file, receipt := envelope(message.Normal, 300), envelope(message.Bulk, 300), envelope(message.Urgent, 30)
	part := envelope(message.Bulk, 5000)[:1000]
	for name, c := range map[string]struct {
		records [][]byte
		want    string
	}{
		"no piece":                          {[][]byte{{}}, "without a piece"},
		"an empty piece":                    {[][]byte{{0}}, "a piece of 0 bytes"},
		"lane 3":                            {[][]byte{{3, 5, 0}}, "lane 0x3"},
		"an unknown flag":                   {[][]byte{{8, 5, 0}}, "lane 0x8"},
		"a piece longer than its record":    {[][]byte{{4, 100, 5, 0}}, "a piece of 100 bytes"},
		"a piece that is the last":          {[][]byte{{4, 2, 5, 0}}, "without a piece"},
		"an empty piece before another":     {[][]byte{{4, 0, 0, 5, 0}}, "a piece of 0 bytes"},
		"a length in a longer form":         {[][]byte{{4, 0xcc, 2, 5, 0, 0, 5, 0}}, "a piece of"},
		"another priority":                  {[][]byte{piece(1, frame(file))}, "priority 2 in lane 1"},
		"another priority, in short":        {[][]byte{piece(0, short(text, new(header)))}, "priority 1 in lane 0"},
		"a receipt in the files' lane":      {[][]byte{piece(2, frame(receipt))}, "priority 0 in lane 2"},
		"a ping in the texts' lane":         {[][]byte{piece(1, AppendPing(nil))}, "a ping in lane 1"},
		"a ping in the files' lane, later":  {[][]byte{piece(2, frame(file)), piece(2, AppendPing(nil))}, "a ping in lane 2"},
		"more than an envelope":             {[][]byte{{2, 1, 0xcd, 0xfa, 0}}, "length in lane 2"},
		"four gigabytes":                    {[][]byte{{0, 9, 0xce, 0xff, 0xff, 0xff, 0xff}}, "length in lane 0"},
		"a frame's length in a longer form": {[][]byte{{0, 1, 0xcc, 1, 0}}, "shortest form"},
		"the rest of nothing":               {[][]byte{piece(2, appendRest(nil, Transit{}, 0, file))}, "of which nothing is here"},
		"the rest of what isn't there":      {[][]byte{{255}, piece(2, appendRest(nil, Transit{}, 1, file))}, "of which nothing is here"},
		"the rest of another":               {[][]byte{{255}, piece(2, appendRest(nil, Transit{}, 0, []byte("rest")))}, "envelope in lane 2"},
		"the rest in another lane":          {[][]byte{{255}, piece(1, appendRest(nil, Transit{}, 0, envelope(message.Bulk, 5000)[1000:]))}, "priority 2 in lane 1"},
		"the rest twice": {[][]byte{{255}, piece(2, appendRest(nil, Transit{}, 0, envelope(message.Bulk, 5000)[1000:])),
			piece(2, appendRest(nil, Transit{}, 0, envelope(message.Bulk, 5000)[1000:]))}, "of which nothing is here"},
		"a rest that makes too much":     {[][]byte{{255}, piece(2, appendRest(nil, Transit{}, 0, make([]byte, message.MaxEnvelope)))}, "in parts"},
		"part 3":                         {[][]byte{piece(2, appendRest(nil, Transit{}, 3, file))}, "the rest of an envelope"},
		"a short form that says nothing": {[][]byte{piece(1, []byte{9, 0})}, "a short form"},
		"a short form before any other":  {[][]byte{piece(1, short(text, &header{Kind: message.Text, Priority: 1, From: "alice@server1", Device: 77, To: []message.Address{"bob@server1"}}))}, "a short form"},
		"a short form with a step of 0":  {[][]byte{piece(1, frame(text)), piece(1, []byte{9, 3, 0, 0, 0})}, "shorter"},
		"a short form that is too long":  {[][]byte{piece(1, frame(text)), piece(1, []byte{9, 5, hasAge, 0, 1, 0, 'x'})}, "shorter"},
		"no envelope":                    {[][]byte{piece(1, AppendEnvelope(nil, Transit{}, []byte("no")))}, "an envelope in lane 1"},
		"an ack of nothing":              {[][]byte{piece(0, AppendAck(nil, &Ack{Upto: 1}))}, "it acks 1, and 0 were sent"},
		"an ack beyond":                  {[][]byte{piece(0, AppendAck(nil, &Ack{Beyond: message.Ranges{{First: 2, Last: 1 << 62}}}))}, "and 0 were sent"},
		"an exception of nothing":        {[][]byte{piece(0, AppendAck(nil, &Ack{Exceptions: []Exception{{Number: 1, State: message.Held}}}))}, "it speaks of frame 1"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLanes()
			var err error
			for i, record := range c.records {
				if bytes.Equal(record, []byte{255}) { // for "there is a part"
					l.Parts = []Part{part}
					continue
				}
				if err != nil {
					t.Fatalf("record %d: %v", i, err)
				}
				_, err = l.open(record, new(sync.Mutex))
			}
			if !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, not %q", err, c.want)
			}
		})
	}
}

// TestLanesMemory: frames that never end cost one envelope for each lane.
func TestLanesMemory(t *testing.T) {
	l := newLanes()
	for lane := range message.Priorities {
		if _, err := l.open([]byte{byte(lane), 1, 0xcd, 0xf0, 0xff}, new(sync.Mutex)); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	most := 0
	for err == nil {
		for lane := range message.Priorities {
			_, e := l.open(append([]byte{byte(lane)}, make([]byte, 1000)...), new(sync.Mutex))
			err = errors.Join(err, e)
		}
		n := 0
		for p := range l.In {
			n += cap(l.In[p].Partial)
		}
		most = max(most, n)
	}
	if !errors.Is(err, ErrProtocol) || most > 3*message.MaxEnvelope*3/2 {
		t.Errorf("%v, with %d bytes in memory", err, most)
	}
}

// FuzzLanes takes any records for what comes by a slow line. What comes out is whole
// frames, and what stays is bounded.
func FuzzLanes(f *testing.F) {
	f.Fuzz(func(t *testing.T, records []byte) {
		l := newLanes()
		l.Parts = []Part{bytes.Repeat([]byte{0x9c}, 300)}
		l.Order, l.Number = []uint64{2, 1, 3, 7}, 7
		for len(records) > 0 {
			n := min(int(records[0]), len(records)-1)
			frames, err := l.open(records[1:1+n], new(sync.Mutex))
			records = records[1+n:]
			for len(frames) > 0 {
				kind, body, rest, err := Next(frames)
				if err != nil {
					t.Fatalf("%x: %v", frames, err)
				}
				if kind == shortFrame || kind == restFrame {
					t.Fatalf("a %v comes out", kind)
				}
				if kind == EnvelopeFrame {
					_, raw, err := ParseEnvelope(body)
					if err == nil {
						err = new(message.Envelope).Parse(raw)
					}
					if err != nil {
						t.Fatalf("%x: %v", body, err)
					}
				}
				frames = rest
			}
			for p := range l.In {
				if len(l.In[p].Partial) > MaxPlain {
					t.Fatalf("%d bytes in lane %d", len(l.In[p].Partial), p)
				}
			}
			for _, part := range l.left() {
				if len(part) > message.MaxEnvelope {
					t.Fatalf("a part of %d bytes", len(part))
				}
			}
			if err != nil {
				if !errors.Is(err, ErrProtocol) {
					t.Fatal(err)
				}
				return
			}
		}
	})
}

// FuzzShort takes any bytes for a short form: what it is taken for has this short form
// only, and its beginnings are the envelope's.
func FuzzShort(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte, cut uint16) {
		ref := &header{Kind: message.Text, Priority: message.Normal, From: "alice@server1", Device: 77, Counter: 5, Created: 1000, To: []message.Address{"bob@server1"}}
		transit, raw, err := parseShort(body, ref)
		part := beginning(body[:min(int(cut), len(body))], len(body), ref)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatal(err)
			}
			return
		}
		var e message.Envelope
		if err := e.Parse(raw); err != nil {
			t.Fatalf("%x is taken for %x: %v", body, raw, err)
		}
		if !hasShort(&e, raw) {
			t.Fatalf("%x has no short form", raw)
		}
		_, again, _, err := Next(appendShort(nil, transit, &e, ref))
		added := body[0]&hasPassage != 0 && len(again) < len(body) // by a later version
		if err != nil || !bytes.Equal(again, body) && !added {
			t.Fatalf("%x is written again as %x, %v", body, again, err)
		}
		if part != nil && !bytes.HasPrefix(raw, part) {
			t.Fatalf("%x is no beginning of %x", part, raw)
		}
	})
}

// handOn is what another process gets of a state.
func handOn(t *testing.T, s State) (again State) {
	t.Helper()
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(s); err != nil {
		t.Fatal(err)
	}
	if err := gob.NewDecoder(&b).Decode(&again); err != nil {
		t.Fatal(err)
	}
	return again
}

// TestHandOnLanes: both ends of a slow line go to other processes again and again, in
// the middle of pieces, parts and acks, and everything arrives once.
func TestHandOnLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ta, tb := transport.MemoryLine("test", radio)
		a, b := slowStates()
		b.Lanes.Parts = []Part{nil, bytes.Repeat([]byte{1}, leastPart)} // the first is used
		var out outbox
		var in, acks inbox
		for round := range 40 {
			ca, cb := resume(t, ta, a), resume(t, tb, b)
			if b := cb.lanes; b.Parts[0] != nil || len(b.Parts[1]) != leastPart {
				t.Fatalf("parts are %v", b.Parts)
			}
			readA, readB := receive(ca, acks.each), receive(cb, in.each)
			if round < 10 {
				out.put(message.Priority(round%message.Priorities), 100+round*300)
				out.put(message.Normal, 30)
			}
			ca.Flush(&out)
			n := uint64(in.len())
			if n > 0 {
				var ack outbox
				ack.say(AppendAck(nil, &Ack{Upto: n}))
				cb.Flush(&ack)
			}
			time.Sleep(time.Duration(1+round) * 777 * time.Millisecond)
			for end, read := range map[transport.Conn]<-chan error{ta: readA, tb: readB} {
				if err := stop(end, read); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("round %d: a reader ended with %v", round, err)
				}
			}
			a, b = handOn(t, ca.Export()), handOn(t, cb.Export())
		}
		ca, cb := resume(t, ta, a), resume(t, tb, b)
		done := receive(cb, in.each)
		ca.Flush(&out)
		time.Sleep(time.Hour)
		synctest.Wait()
		same(t, out.given, in.got)
		if len(out.given) != 20 {
			t.Errorf("%d of 20 were given", len(out.given))
		}
		last := acks.acks[len(acks.acks)-1]
		if have := numbers(last); len(have) < 10 {
			t.Errorf("the last ack covers %v", have)
		}
		ca.Close()
		cb.Close()
		<-done
	})
}
