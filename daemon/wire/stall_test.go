package wire

import (
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/noipchat/noipchat/daemon/transport"
)

// much is more than a Conn and a pipe hold.
func much(q *queue) (frames [][]byte) {
	for i := range 100 {
		frames = append(frames, frame(i, 10_000))
	}
	q.put(frames...)
	return frames
}

// TestBacklog: a reader that comes late gets everything, by a goroutine that is
// there only meanwhile; a Flush never waits.
func TestBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memoryChannel(t)
		var q queue
		frames := much(&q)
		start := time.Now()
		for range 10 {
			if err := a.Flush(&q); err != nil {
				t.Fatal(err)
			}
		}
		if time.Since(start) != 0 {
			t.Error("Flush waits")
		}
		synctest.Wait()
		if !a.draining || len(a.unsent) == 0 || len(a.unsent) > bufferSize || q.left() == 0 {
			t.Fatalf("backlog %v of %d bytes, %d frames wait", a.draining, len(a.unsent), q.left())
		}
		time.Sleep(stallTime / 2)
		var got [][]byte
		for len(got) < len(frames) {
			if err := b.Receive(collect(&got)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if a.draining || a.unsent != nil || !equal(got, frames) {
			t.Error("the backlog has not ended")
		}
		time.Sleep(time.Hour) // no deadline is left
		q.put(frame(1, 1))
		if err := a.Flush(&q); err != nil || a.draining {
			t.Errorf("after a backlog: %v", err)
		}
	})
}

// TestStall: who takes nothing, or next to nothing, is not there; who is slow is.
func TestStall(t *testing.T) {
	for _, c := range []struct {
		name  string
		takes int // bytes in a minute
		gone  bool
	}{{"nothing", 0, true}, {"a trickle", stallBytes / 2, true}, {"slowly", stallBytes * 2, false}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ta, tb := transport.MemoryPipe("test")
				sa, _ := states()
				a := resume(t, ta, sa)
				var q queue
				much(&q)
				ends := make(chan error, 1)
				go func() { ends <- a.Receive(nil) }()
				if err := a.Flush(&q); err != nil {
					t.Fatal(err)
				}
				for range 20 {
					time.Sleep(stallTime/2 - time.Millisecond)
					io.CopyN(io.Discard, tb, int64(c.takes/2))
				}
				synctest.Wait()
				err := a.Flush(&q)
				if !c.gone {
					if err != nil {
						t.Errorf("it was given up: %v", err)
					}
					a.Close()
					<-ends
					return
				}
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("Flush: %v", err)
				}
				if err := <-ends; err == nil {
					t.Error("the reader goes on")
				}
			})
		})
	}
}

// TestCloseEndsBacklog: nothing is left of a connection that is closed meanwhile.
func TestCloseEndsBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which fails if a goroutine is left
		a, _ := memoryChannel(t)
		var q queue
		much(&q)
		a.Flush(&q)
		synctest.Wait()
		a.Close()
		synctest.Wait()
		if err := a.Flush(&q); err == nil || a.draining {
			t.Errorf("%v, backlog %v", err, a.draining)
		}
	})
}

// TestExportOfDead: what was handed on after an error is an end too.
func TestExportOfDead(t *testing.T) {
	a, b := memoryChannel(t)
	b.Close()
	var q queue
	q.put(frame(1, 1))
	first := a.Flush(&q)
	if first == nil {
		t.Fatal("writing to nobody")
	}
	a.Export()
	if err := a.Flush(&q); err != first {
		t.Errorf("%v, then %v", first, err)
	}
}
