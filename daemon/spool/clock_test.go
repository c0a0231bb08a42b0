package spool

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// years by which a clock is wrong.
const years = 5 * 365 * 24 * time.Hour

// TestClock: a lifetime is what passes, whatever the wall clock is set to, and when.
func TestClock(t *testing.T) {
	const life = 24 * time.Hour
	for name, play := range map[string]struct {
		running    []time.Duration // it is set by so much, an hour after the other
		stopped    time.Duration
		after      time.Duration // a minute after the second start
		early, due time.Duration // of its age: it is there, and it is not
	}{
		"right":                          {nil, 0, 0, 23 * time.Hour, 25 * time.Hour},
		"forward":                        {[]time.Duration{years}, 0, 0, 23 * time.Hour, 25 * time.Hour},
		"back":                           {[]time.Duration{-years}, 0, 0, 23 * time.Hour, 25 * time.Hour},
		"to and fro":                     {[]time.Duration{years, -2 * years, years}, 0, 0, 23 * time.Hour, 25 * time.Hour},
		"empty battery":                  {nil, -years, 0, 23 * time.Hour, 31 * time.Hour}, // its age before the start isn't known
		"empty battery, corrected":       {nil, -years, years, 23 * time.Hour, 25 * time.Hour},
		"ahead, corrected":               {nil, years, -years, 23 * time.Hour, 25 * time.Hour},
		"since 1970":                     {[]time.Duration{-10957 * 24 * time.Hour}, 0, 0, 23 * time.Hour, 25 * time.Hour},
		"wrong at first, then set right": {[]time.Duration{-years}, 0, years, 23 * time.Hour, 25 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var off, expired atomic.Int64
				set := func(d time.Duration) { off.Add(int64(d)) }
				start := time.Now()
				o := Options{
					Now: func() time.Time { return time.Now().Add(time.Duration(off.Load())) },
					Expired: func(_ *Turn, q *Queue, e *Entry) {
						expired.Store(int64(time.Since(start)))
						q.Forget(e)
					},
				}
				dir := t.TempDir()
				r := open(t, dir, o)
				var turn Turn
				r.sp.Queue(aliceQueue).Put(&turn, Put{Raw: envelope(t, 1, 10), Age: 3600, Life: uint32((life + time.Hour).Seconds()), Owner: r, Token: 1})
				for _, d := range play.running {
					time.Sleep(time.Hour)
					set(d)
				}
				time.Sleep(5*time.Hour - time.Since(start))
				r.end()
				set(play.stopped)
				r = open(t, dir, o)
				time.Sleep(time.Minute)
				set(play.after)
				time.Sleep(play.early - time.Since(start))
				if at := expired.Load(); at != 0 {
					t.Fatalf("it expires after %v", time.Duration(at))
				}
				time.Sleep(play.due - time.Since(start))
				if expired.Load() == 0 {
					items := r.sp.Queue(aliceQueue).Items(message.ID{}, 1)
					t.Fatalf("it has not expired; it has an age of %v", items[0].Age)
				}
			})
		})
	}
}

// TestClockRest: what rests is not kept from going by a clock that is set back.
func TestClockRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var off atomic.Int64
		r := open(t, t.TempDir(), Options{Grace: time.Second, Now: func() time.Time { return time.Now().Add(time.Duration(off.Load())) }})
		q, p := r.sp.Queue(aliceQueue), &tap{}
		var turn Turn
		q.Put(&turn, Put{Raw: envelope(t, 1, 10), Owner: r, Token: 1, Life: 3600})
		r.sp.Queue(carolQueue).Put(&turn, Put{Raw: envelope(t, 2, 10), Owner: r, Token: 2, Life: 60})
		time.Sleep(time.Second)
		q.Attach(p)
		e, _, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
		q.Rest(new(Turn), e, 30*time.Minute)
		off.Store(-int64(years))
		time.Sleep(31 * time.Minute)
		synctest.Wait()
		if p.due != 1 || !q.Waits(message.Priorities) {
			t.Errorf("it rests on, and its pump was woken %d times", p.due)
		}
	})
}
