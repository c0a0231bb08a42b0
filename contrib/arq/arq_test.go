package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// radio is a line: bytes take their time, one side at a time, some are altered.
type radio struct {
	word  chan struct{} // whoever has it speaks: a mutex is nothing that a bubble can wait for
	rate  int           // bytes a second
	delay time.Duration
	loss  float64
	dead  bool
	sent  [2]int
	r     *rand.Rand
}

// end is one end of it.
type end struct {
	*radio
	side int
	in   *io.PipeReader
	far  *io.PipeWriter
	way  chan []byte
}

func (e *end) Read(b []byte) (int, error) { return e.in.Read(b) }

// Write returns at once, as that of a terminal does.
func (e *end) Write(b []byte) (int, error) {
	e.way <- bytes.Clone(b)
	return len(b), nil
}

func (e *end) carry() {
	for b := range e.way {
		e.word <- struct{}{}
		time.Sleep(time.Duration(len(b)) * time.Second / time.Duration(e.rate))
		e.sent[e.side] += len(b)
		dead := e.dead
		for i := range b {
			if e.r.Float64() < e.loss {
				b[i] ^= byte(1 + e.r.IntN(255))
			}
		}
		<-e.word
		time.Sleep(e.delay) // longer than it takes in truth, where both pass at once
		if !dead {
			e.far.Write(b)
		}
	}
	e.far.Close()
}

func (r *radio) bytes() int {
	r.word <- struct{}{}
	defer func() { <-r.word }()
	return r.sent[0] + r.sent[1]
}

func line(loss float64) (*radio, *end, *end) {
	r := &radio{word: make(chan struct{}, 1), rate: 120, delay: 2 * time.Second, loss: loss, r: rand.New(rand.NewPCG(1, 2))}
	ra, wa := io.Pipe()
	rb, wb := io.Pipe()
	a := &end{r, 0, ra, wb, make(chan []byte, 1000)}
	b := &end{r, 1, rb, wa, make(chan []byte, 1000)}
	go a.carry()
	go b.carry()
	return r, a, b
}

// client connects over a line, and returns a stream and what run returns.
func client(l *end, id uint16) (net.Conn, <-chan error) {
	near, far := net.Pipe()
	heard := make(chan frame)
	go listen(l, heard)
	done := make(chan error, 1)
	go func() {
		done <- (&link{id: id, began: true, first: true, line: l, heard: heard, burst: 4, wait: 8 * time.Second, in: far, out: far}).run()
		far.Close()
	}()
	return near, done
}

// serving serves connections at b; over ends that, without an error, and the line.
func serving(t *testing.T, a, b *end, wait time.Duration, start func(context.Context) (io.ReadWriteCloser, error)) (over func()) {
	heard := make(chan frame)
	go listen(b, heard)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, b, heard, 4, wait, start) }()
	return func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		close(a.way)
		close(b.way)
		synctest.Wait()
	}
}

// pipes starts a pipe for each connection, whose other end comes by the channel.
func pipes() (start func(context.Context) (io.ReadWriteCloser, error), streams <-chan net.Conn) {
	c := make(chan net.Conn, 1)
	return func(context.Context) (io.ReadWriteCloser, error) {
		one, other := net.Pipe()
		c <- other
		return one, nil
	}, c
}

// TestOverRadio talks both ways over a line with byte errors: all arrives, once and in
// order; and then the line is silent.
func TestOverRadio(t *testing.T) {
	for _, loss := range []float64{0, 0.0005, 0.003} {
		synctest.Test(t, func(t *testing.T) {
			r, a, b := line(loss)
			near, done := client(a, 77)
			pipe, streams := pipes()
			over := serving(t, a, b, 8*time.Second, pipe)
			up, down := make([]byte, 5000), make([]byte, 3000)
			for i := range up {
				up[i] = byte(i * 7) // with marks and escapes
			}
			for i := range down {
				down[i] = mark
			}
			start := time.Now()
			go near.Write(up)
			far := <-streams
			go far.Write(down)
			var wg sync.WaitGroup
			for c, want := range map[net.Conn][]byte{far: up, near: down} {
				wg.Go(func() {
					got := make([]byte, len(want))
					if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
						t.Errorf("other bytes came out, %v", err)
					}
				})
			}
			wg.Wait()
			t.Logf("with an error in a byte of %v: 8,000 bytes both ways in %v, with %d on the line", loss, time.Since(start).Round(time.Second), r.bytes())
			time.Sleep(time.Hour)
			before := r.bytes()
			time.Sleep(24 * time.Hour)
			if n := r.bytes() - before; n != 0 {
				t.Errorf("a day of silence has %d bytes", n)
			}
			near.Close() // is the end for both
			if _, err := far.Read(make([]byte, 1)); err == nil {
				t.Error("the other side goes on")
			}
			if err := <-done; err != nil {
				t.Errorf("the client's end: %v", err)
			}
			over()
		})
	}
}

// TestFirstLost: a first frame that is lost is said again before whoever connects over
// a line of 1,200 bit/s has lost patience, which is after 21 seconds.
func TestFirstLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a, b := line(0)
		r.dead = true
		near, done := client(a, 1)
		pipe, streams := pipes()
		over := serving(t, a, b, 8*time.Second, pipe)
		start := time.Now()
		go near.Write([]byte("hello?"))
		time.Sleep(3 * time.Second) // of the bubble: the frame is through, and lost
		r.word <- struct{}{}
		r.dead = false
		<-r.word
		far := <-streams
		if _, err := io.ReadFull(far, make([]byte, 6)); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d > 15*time.Second {
			t.Errorf("it is heard after %v", d)
		}
		near.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		over()
	})
}

// TestDeadLine: who hears nothing gives up.
func TestDeadLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a, b := line(0)
		r.dead = true
		near, done := client(a, 1)
		near.Write([]byte("hello?"))
		if err := <-done; !errors.Is(err, errSilence) {
			t.Error(err)
		}
		close(a.way)
		close(b.way)
		synctest.Wait()
	})
}

// TestForgotten: who goes on with a connection that the server has forgotten is told,
// and whoever begins is served.
func TestForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := line(0)
		over := serving(t, a, b, time.Second, func(context.Context) (io.ReadWriteCloser, error) {
			return nil, errors.New("no server")
		})
		_, done := client(a, 2)
		a.Write((&frame{id: 2, bits: counts | begins | yours, data: []byte("x")}).append(nil)) // for which there is no server
		a.Write((&frame{id: 2, bits: counts | yours, number: 7, data: []byte("x")}).append(nil))
		if err := <-done; !errors.Is(err, errUnknown) {
			t.Error(err)
		}
		over()
	})
}

// FuzzListen takes any bytes for what comes by a line.
func FuzzListen(f *testing.F) {
	f.Fuzz(func(t *testing.T, noise []byte) {
		heard := make(chan frame)
		go listen(bytes.NewReader(noise), heard)
		for f := range heard {
			again := f.append(nil)
			more := make(chan frame)
			go listen(bytes.NewReader(again), more)
			if g, ok := <-more; !ok || g.id != f.id || g.bits != f.bits || !bytes.Equal(g.data, f.data) {
				t.Fatalf("%+v is heard as %+v", f, g)
			}
			<-more
			if len(f.data) > maxData {
				t.Fatalf("%d bytes in a frame", len(f.data))
			}
		}
	})
}
