package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/noipchat/noipchat/daemon/transport"
)

// queue is a Source of frames, each an element.
type queue struct {
	mu     sync.Mutex
	frames [][]byte
	fills  int
}

func (q *queue) put(frames ...[]byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.frames = append(q.frames, frames...)
}

func (q *queue) left() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.frames)
}

// Fill implements Source.
func (q *queue) Fill(b []byte, room int) ([]byte, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.fills++
	start := len(b)
	for len(q.frames) > 0 {
		if len(b)-start+len(q.frames[0]) > room {
			return b, true
		}
		b = append(b, q.frames[0]...)
		q.frames = q.frames[1:]
	}
	return b, false
}

// states are the two ends of a channel.
func states() (a, b State) {
	one, other := Direction{Key: [32]byte{1}}, Direction{Key: [32]byte{2}}
	return State{In: one, Out: other}, State{In: other, Out: one}
}

func resume(t testing.TB, conn transport.Conn, s State) *Conn {
	t.Helper()
	c, err := Resume(conn, s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func channel(t testing.TB, a, b transport.Conn) (*Conn, *Conn) {
	sa, sb := states()
	return resume(t, a, sa), resume(t, b, sb)
}

func memoryChannel(t testing.TB) (*Conn, *Conn) {
	a, b := transport.MemoryPipe("test")
	return channel(t, a, b)
}

// sockets connects two ends by tcp or unix.
func sockets(t testing.TB, kind string) (a, b transport.Conn) {
	t.Helper()
	address := map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "s")}[kind]
	l, err := transport.Listen(context.Background(), kind, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = transport.Dial(context.Background(), kind, "", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// frame makes a frame that can be told from others.
func frame(n, size int) []byte {
	return append(appendHead(nil, skippable+Type(n%64), size), bytes.Repeat([]byte{byte(n)}, size)...)
}

// collect appends all frames of each record to a list.
func collect(to *[][]byte) func(plain []byte) error {
	return func(plain []byte) error {
		for len(plain) > 0 {
			_, _, rest, err := Next(plain)
			if err != nil {
				return err
			}
			*to = append(*to, plain[:len(plain)-len(rest)])
			plain = rest
		}
		return nil
	}
}

func equal(a, b [][]byte) bool { return slices.EqualFunc(a, b, bytes.Equal) }

// TestBothWays sends frames of all sizes in both directions at once.
func TestBothWays(t *testing.T) {
	pairs := map[string]func() (transport.Conn, transport.Conn){
		"memory": func() (transport.Conn, transport.Conn) { return transport.MemoryPipe("test") },
		"tcp":    func() (transport.Conn, transport.Conn) { return sockets(t, "tcp") },
		"unix":   func() (transport.Conn, transport.Conn) { return sockets(t, "unix") },
	}
	for name, pair := range pairs {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			ta, tb := pair()
			a, b := channel(t, ta, tb)
			r := rand.New(rand.NewPCG(1, 1))
			var frames [][]byte
			for i := range 600 {
				frames = append(frames, frame(i, []int{0, 1, 100, 1000, 5000, MaxPlain - 4}[min(r.IntN(60)/9, 5)]))
			}
			ends := make(chan error)
			for _, c := range []*Conn{a, b} {
				go func() {
					var q queue
					for i, f := range frames {
						q.put(f)
						if i%7 == 0 {
							if err := c.Flush(&q); err != nil {
								ends <- err
								return
							}
						}
					}
					ends <- c.Flush(&q)
				}()
				go func() {
					var got [][]byte
					for len(got) < len(frames) {
						if err := c.Receive(collect(&got)); err != nil {
							ends <- err
							return
						}
					}
					if !equal(got, frames) {
						ends <- errors.New("other frames came out")
						return
					}
					ends <- nil
				}()
			}
			for range 4 {
				if err := <-ends; err != nil {
					t.Error(err)
				}
			}
			ra, wa := a.Bytes()
			rb, wb := b.Bytes()
			if ra != wb || rb != wa {
				t.Errorf("bytes: %d and %d read, %d and %d written", ra, rb, wb, wa)
			}
			a.Close()
			b.Close()
			if err := a.Close(); err != nil {
				t.Errorf("closing twice: %v", err)
			}
		})
	}
}

// records seals each plaintext as a record of the direction that b reads.
func records(t testing.TB, plains ...[]byte) (wire [][]byte) {
	s, _ := states()
	for _, p := range plains {
		wire = append(wire, seal(t, &s.Out, p))
	}
	return wire
}

// reader returns what reads the bytes that are written to the other end.
func reader(t testing.TB) (io.WriteCloser, *Conn) {
	a, b := transport.MemoryPipe("test")
	_, sb := states()
	return a, resume(t, b, sb)
}

// TestSplits cuts what arrives in every place, and into single bytes.
func TestSplits(t *testing.T) {
	frames := [][]byte{frame(1, 0), frame(2, 1), frame(3, 300), frame(4, 40)}
	stream := slices.Concat(records(t, frames[0], frames[1], slices.Concat(frames[2], frames[3]))...)
	for cut := 1; cut < len(stream); cut++ {
		w, c := reader(t)
		var got [][]byte
		for _, part := range [][]byte{stream[:cut], stream[cut:]} {
			w.Write(part)
			if err := c.Receive(collect(&got)); err != nil {
				t.Fatalf("cut after %d: %v", cut, err)
			}
		}
		if !equal(got, frames) || c.partial != nil {
			t.Fatalf("cut after %d: %d frames", cut, len(got))
		}
	}
	w, c := reader(t)
	var got [][]byte
	for i := range stream {
		w.Write(stream[i : i+1])
		if err := c.Receive(collect(&got)); err != nil {
			t.Fatal(err)
		}
	}
	if !equal(got, frames) {
		t.Fatalf("a byte at a time: %d frames", len(got))
	}
}

// TestLargestRecord has 65,535 bytes behind its length, and arrives in pieces.
func TestLargestRecord(t *testing.T) {
	plain := frame(9, MaxPlain-4)
	if len(plain) != MaxPlain {
		t.Fatal(len(plain))
	}
	w, c := reader(t)
	stream := slices.Concat(records(t, plain, plain)...)
	go w.Write(stream) // more than the pipe holds
	var got [][]byte
	for len(got) < 2 {
		if err := c.Receive(collect(&got)); err != nil {
			t.Fatal(err)
		}
		if len(c.partial) > 2+maxRecord {
			t.Fatalf("it keeps %d bytes", len(c.partial))
		}
	}
	if !equal(got, [][]byte{plain, plain}) {
		t.Error("another record came out")
	}
}

// TestRefusedRecords has everything that somebody between could do.
func TestRefusedRecords(t *testing.T) {
	plains := [][]byte{frame(1, 10), frame(2, 10), frame(3, 10)}
	good := records(t, plains...)
	_, other := states()
	reflected := seal(t, &other.Out, plains[0])
	altered := func(at int, by byte) []byte {
		b := slices.Concat(good...)
		b[at] ^= by
		return b
	}
	cases := map[string][]byte{
		"replayed":      slices.Concat(good[0], good[0]),
		"again later":   slices.Concat(good[0], good[1], good[0]),
		"reordered":     slices.Concat(good[1], good[0]),
		"one left out":  slices.Concat(good[0], good[2]),
		"reflected":     reflected,
		"length 0":      {0, 0},
		"length 16":     append([]byte{0, 16}, make([]byte, 16)...),
		"length 17":     append([]byte{0, 17}, make([]byte, 17)...),
		"largest":       append([]byte{255, 255}, make([]byte, 65535)...),
		"no frame":      seal(t, new(Direction), nil),
		"truncated":     slices.Concat(append([]byte{0, byte(len(good[0]) - 3)}, good[0][2:len(good[0])-1]...), good[1]),
		"tag cut off":   append([]byte{0, byte(len(good[0]) - 2 - tagSize)}, good[0][2:len(good[0])-tagSize]...),
		"random":        append([]byte{0, 40}, bytes.Repeat([]byte{0xa5}, 40)...),
		"plaintext":     append([]byte{0, byte(len(plains[1]) + tagSize)}, append(plains[1], make([]byte, tagSize)...)...),
		"another magic": []byte(Magic + "\x00\x20"),
	}
	for i := range good[0] {
		cases[fmt.Sprintf("byte %d altered", i)] = altered(i, 1)
		cases[fmt.Sprintf("byte %d inverted", i)] = altered(i, 0xff)
	}
	for name, stream := range cases {
		w, c := reader(t)
		go func() {
			w.Write(stream)
			w.Close()
		}()
		var got [][]byte
		var err error
		for err == nil {
			err = c.Receive(collect(&got))
		}
		// A length that was made larger waits for bytes that do not come.
		waits := err == io.EOF && len(stream) < 2+int(binary.BigEndian.Uint16(stream)) && len(got) == 0
		if !errors.Is(err, ErrProtocol) && !waits {
			t.Errorf("%s: %v after %d frames", name, err, len(got))
		}
		for i, f := range got {
			if !bytes.Equal(f, plains[i]) {
				t.Errorf("%s: frame %d came out otherwise", name, i)
			}
		}
	}
}

// TestShareRecord: what is ready together is one record and one system call.
func TestShareRecord(t *testing.T) {
	a, b := memoryChannel(t)
	var q queue
	for range 1000 {
		q.put(AppendPing(nil))
	}
	if err := a.Flush(&q); err != nil {
		t.Fatal(err)
	}
	n := 0
	b.Receive(func(plain []byte) error {
		n++
		if len(plain) != 2000 {
			t.Errorf("a record of %d bytes", len(plain))
		}
		return nil
	})
	if n != 1 || q.fills != 1 {
		t.Errorf("%d records, and the source was asked %d times", n, q.fills)
	}
	if _, w := a.Bytes(); w != 2+2000+tagSize {
		t.Errorf("%d bytes", w)
	}
	if a.Flush(&q); q.fills != 2 {
		t.Error("a Flush that has nothing to do")
	}
	if _, w := a.Bytes(); w != 2+2000+tagSize {
		t.Errorf("an empty record was sent")
	}
}

// TestBadSource: a source that breaks its promise is an error, no panic and no
// endless loop.
func TestBadSource(t *testing.T) {
	a, _ := memoryChannel(t)
	if err := a.Flush(fill(func(dst []byte, room int) ([]byte, bool) { return dst, true })); err != nil {
		t.Errorf("nothing, and more: %v", err)
	}
	for _, over := range []int{1, 100, 1 << 20} {
		a, b := memoryChannel(t)
		err := a.Flush(fill(func(dst []byte, room int) ([]byte, bool) { return append(dst, make([]byte, room+over)...), false }))
		if err == nil {
			t.Errorf("%d bytes too many are taken", over)
		}
		if err := b.Receive(nil); err != io.EOF {
			t.Errorf("the other side reads %v", err)
		}
	}
}

type fill func(dst []byte, room int) ([]byte, bool)

func (f fill) Fill(dst []byte, room int) ([]byte, bool) { return f(dst, room) }

// TestFlushErrorEndsReader: who cannot write does not go on reading.
func TestFlushErrorEndsReader(t *testing.T) {
	for _, kind := range []string{"tcp", "unix"} {
		ta, tb := sockets(t, kind)
		a, _ := channel(t, ta, tb)
		ends := make(chan error)
		go func() { ends <- a.Receive(func([]byte) error { return nil }) }()
		if s, ok := tb.(interface{ CloseRead() error }); ok {
			s.CloseRead()
		}
		tb.Close()
		var q queue
		var err error
		for err == nil {
			q.put(frame(1, 1000))
			err = a.Flush(&q)
		}
		if end := <-ends; end == nil {
			t.Errorf("%s: the reader goes on", kind)
		}
		if again := a.Flush(&q); again != err {
			t.Errorf("%s: %v, then %v", kind, err, again)
		}
		if _, err := ta.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: the stream is open: %v", kind, err)
		}
	}
}

// TestManyFlush has many callers of Flush, and a reader that is sometimes slow.
func TestManyFlush(t *testing.T) {
	defer goleak.VerifyNone(t)
	ta, tb := sockets(t, "unix")
	a, b := channel(t, ta, tb)
	defer a.Close()
	defer b.Close()
	const callers, each = 8, 300
	var q queue
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for range each {
				q.put(frame(i, 3000))
				if err := a.Flush(&q); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var got [][]byte
	for len(got) < callers*each {
		if err := b.Receive(collect(&got)); err != nil {
			t.Fatal(err)
		}
		runtime.Gosched()
	}
	wg.Wait()
	count := map[byte]int{}
	for _, f := range got {
		count[f[len(f)-1]]++
	}
	for i := range callers {
		if count[byte(i)] != each {
			t.Errorf("%d of caller %d's %d frames arrived", count[byte(i)], i, each)
		}
	}
}

// TestIdleMemory: a connection that waits holds no buffer, also when it has got
// a part of a record.
func TestIdleMemory(t *testing.T) {
	const n = 300
	memory := func() uint64 {
		runtime.GC()
		runtime.GC() // the second empties the pool of buffers
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	part := records(t, frame(1, 500))[0][:100]
	whole := records(t, frame(1, 500))[0]
	l, err := transport.Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type pair struct{ near, far transport.Conn }
	pairs := make([]pair, n)
	for i := range pairs {
		if pairs[i].far, err = transport.Dial(t.Context(), "unix", "", l.Addr().String()); err != nil {
			t.Fatal(err)
		}
		if pairs[i].near, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		defer pairs[i].far.Close()
	}
	before := memory()
	conns := make([]*Conn, n)
	var wg sync.WaitGroup
	got := make(chan bool)
	for i := range conns {
		_, sb := states()
		conns[i] = resume(t, pairs[i].near, sb)
		wg.Go(func() {
			for conns[i].Receive(func([]byte) error { got <- true; return nil }) == nil {
			}
		})
	}
	for i, p := range pairs {
		p.far.Write(whole)
		<-got
		if i%2 == 0 {
			p.far.Write(part)
		}
	}
	after := memory()
	each := (int64(after) - int64(before)) / n
	t.Logf("%d bytes for each of %d idle connections, stack included", each, n)
	if each > 8<<10 {
		t.Errorf("an idle connection holds %d bytes", each)
	}
	for _, c := range conns {
		c.Close()
	}
	wg.Wait()
}

// stop ends a reader as a handoff does, and waits for it.
func stop(c transport.Conn, reader <-chan error) error {
	c.SetReadDeadline(time.Unix(1, 0))
	err := <-reader
	c.SetReadDeadline(time.Time{})
	return err
}

// TestHandOn exports and resumes both ends again and again while they talk and
// while one is slow. If a byte were lost, sent twice, or sealed with a number
// that was used, the other side could not open the next record.
func TestHandOn(t *testing.T) {
	for _, kind := range []string{"memory", "unix", "tcp"} {
		t.Run(kind, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			var ends [2]transport.Conn
			if kind == "memory" {
				ends[0], ends[1] = transport.MemoryPipe("test")
			} else {
				ends[0], ends[1] = sockets(t, kind)
			}
			defer ends[0].Close()
			defer ends[1].Close()
			var at [2]State
			at[0], at[1] = states()
			r := rand.New(rand.NewPCG(2, 3))
			var sent, got [2][][]byte
			var queues [2]queue
			partial, unsent := 0, 0
			// What is handed on is a matter of moments: until there was some of each.
			little := func() bool { return partial == 0 || unsent == 0 && kind != "tcp" } // whose buffers are large
			round := 0
			for ; round < 60 || little() && round < 3000; round++ {
				var conns [2]*Conn
				var readers [2]chan error
				for i := range conns {
					conns[i] = resume(t, ends[i], at[i])
					readers[i] = make(chan error, 1)
					if i == 1 && round%3 == 1 { // this time it doesn't read
						readers[i] <- os.ErrDeadlineExceeded
						continue
					}
					go func() {
						for {
							if err := conns[i].Receive(collect(&got[i])); err != nil {
								readers[i] <- err
								return
							}
						}
					}()
				}
				for i, c := range conns {
					for range 1 + r.IntN(30) {
						f := frame(r.IntN(256), r.IntN(1<<r.IntN(17))%60000)
						sent[i] = append(sent[i], f)
						queues[i].put(f)
						if r.IntN(3) > 0 {
							if err := c.Flush(&queues[i]); err != nil {
								t.Fatal(err)
							}
						}
					}
					if err := c.Flush(&queues[i]); err != nil {
						t.Fatal(err)
					}
				}
				for i, c := range conns {
					if err := stop(ends[i], readers[i]); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Fatalf("a reader ended with %v", err)
					}
					at[i] = c.Export()
					if len(at[i].Partial) > 0 {
						partial++
					}
					if len(at[i].Unsent) > 0 {
						unsent++
					}
					if err := c.Flush(&queues[i]); err == nil {
						t.Fatal("Flush after Export")
					}
					if round%4 == 3 { // nobody wants it: the old one goes on, and is exported again
						c.Reclaim()
						if err := c.Flush(&queues[i]); err != nil {
							t.Fatal(err)
						}
						at[i] = c.Export()
					}
				}
			}
			t.Logf("in %d rounds %d partly read records and %d backlogs were handed on", round, partial, unsent)
			if little() {
				t.Error("the test tests little")
			}
			// Now the rest.
			var wg sync.WaitGroup
			for i := range at {
				c := resume(t, ends[i], at[i])
				if err := c.Flush(&queues[i]); err != nil {
					t.Fatal(err)
				}
				wg.Go(func() {
					for len(got[i]) < len(sent[1-i]) {
						if err := c.Receive(collect(&got[i])); err != nil {
							t.Error(err)
							return
						}
					}
					if !equal(got[i], sent[1-i]) {
						t.Error("other frames came out")
					}
				})
			}
			wg.Wait()
		})
	}
}
