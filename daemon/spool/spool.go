// Package spool is what we owe: one queue for each destination, in hand and on
// disk. Put takes responsibility, a pump takes with Next and ends it with Done.
//
//	Put ─▶ in hand ──(50 ms, or nobody pumps)──▶ journal ──(full, or quiet)──▶ queue file
//	          │ Next, Done                          │                              │
//	          ▼                                     ▼ Done ─▶ receipt ─▶ Forget    ▼
//	   the sender learns: delivered              held … delivered                the same
//
// The sender is told when an entry is safe: the far end of a pump has it, or it
// is on disk. It knows nothing of users, sessions and routes. Open starts
// nothing; Run has the goroutines: one that commits to the journal, one that
// tells, one that files, one that watches time. docs/spool.md explains the disk.
package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/message"
)

// Options are the measures of a spool; a zero means the default.
type Options struct {
	Quota  int64         // bytes of envelopes in one queue (256 MiB)
	Total  int64         // and in all (16 GiB)
	Hand   int64         // bytes in memory that are not on disk yet (64 MiB); who puts more waits
	MaxAge time.Duration // what waits longer expires (30 days)

	Moment time.Duration // what nobody has acked by then goes to disk (50 ms); more for who acks steadily, see lane.moment
	Quiet  time.Duration // the journal is filed after so long without a Put (1 s)
	Grace  time.Duration // nothing expires for so long after a start or a jump of the clock (10 min)

	JournalFile  int // bytes of a journal file (32 MiB)
	JournalFiles int // how many there may be (6)

	Log *slog.Logger
	Now func() time.Time // the wall clock, which may be wrong, and set at any time (time.Now)

	// Envelope returns the envelope that is in what a queue was given: all of it, unless
	// there is something before it, as in the queues for servers.
	Envelope func(raw []byte) []byte

	// Expired is told of an entry that has waited too long, with no lock held. It
	// sees to the bounce, and calls Forget when that is safe. Raw has the envelope.
	Expired func(t *Turn, q *Queue, e *Entry)
}

// Limits are those of the Options that can change while the spool is open.
type Limits struct {
	Quota, Total, Hand int64
	MaxAge             time.Duration
}

// SetLimits puts limits in force for what comes from now on.
func (sp *Spool) SetLimits(l Limits) {
	sp.limits.quota.Store(l.Quota)
	sp.limits.total.Store(l.Total)
	sp.limits.maxAge.Store(int64(l.MaxAge))
	sp.handMu.Lock()
	sp.limits.hand = l.Hand
	sp.handMu.Unlock()
	sp.handFree.Broadcast()
}

func (o *Options) setDefaults() {
	def := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	def(&o.Quota, 256<<20)
	def(&o.Total, 16<<30)
	def(&o.Hand, 64<<20)
	def((*int64)(&o.MaxAge), int64(30*24*time.Hour))
	def((*int64)(&o.Moment), int64(50*time.Millisecond))
	def((*int64)(&o.Quiet), int64(time.Second))
	def((*int64)(&o.Grace), int64(10*time.Minute))
	if o.JournalFile == 0 {
		o.JournalFile = 32 << 20
	}
	if o.JournalFiles == 0 {
		o.JournalFiles = 6
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Envelope == nil {
		o.Envelope = func(raw []byte) []byte { return raw }
	}
}

// Spool is all queues of a server.
type Spool struct {
	// fixed
	dir      string
	o        Options
	zero     time.Time // of the steady clock: monotonic time at the start,
	zeroUnix int64     // and what the wall clock said then

	journal *journal
	stats   Stats

	seq     atomic.Uint64 // of the last entry
	bytes   atomic.Int64  // of all entries
	waiting atomic.Int64  // entries
	full    atomic.Bool   // the disk takes nothing more

	handMu   sync.Mutex
	handFree sync.Cond
	hand     int64    // bytes of entries that are not durable; guarded by handMu
	fulls    int      // how often the disk was found full; guarded by handMu
	restless []*Queue // queues with entries in hand that nobody has acked, guarded by handMu
	stirred  chan struct{}

	queuesMu sync.RWMutex
	queues   map[string]*Queue

	shift  atomic.Int64  // seconds that the wall clock is ahead of the steady one
	rested atomic.Uint32 // when the first entry has rested enough, in steady seconds
	expiry atomic.Uint32 // when the first entry expires, in steady seconds
	calm   atomic.Int64  // when the wall clock was last set, nanoseconds since the start

	awaits awaits

	unfiledMu sync.Mutex
	unfiled   []*Queue      // queues with entries in the journal
	fileSoon  chan struct{} // file now
	active    chan struct{} // file after quiet
	still     chan still    // do something while nothing is filed

	reserveMu sync.Mutex
	reserved  bool

	notices notices

	limits struct {
		quota, total, maxAge atomic.Int64
		hand                 int64 // guarded by handMu
	}
}

// Stats are counters since the start.
type Stats struct {
	Puts, HandDone, DiskDone, Expired   atomic.Uint64
	Syncs, SyncErrors, SyncNanos, Bytes atomic.Uint64 // of the journal
	SyncMaxNanos                        atomic.Uint64
	Filed, FileErrors, Segments         atomic.Uint64 // entries, attempts, queue files written
	Damaged                             atomic.Uint64 // records set aside
	Dups                                atomic.Uint64 // dropped because the queue had them already
}

// ErrDamaged says that what was read is not what was written.
var ErrDamaged = errors.New("damaged")

// Open reads the spool in dir, which it makes if need be. What it can't read is
// set aside and reported by Notices, and never keeps a server from starting.
func Open(dir string, o Options) (*Spool, error) {
	o.setDefaults()
	zero := time.Now()
	sp := &Spool{
		dir: dir, o: o, zero: zero, zeroUnix: o.Now().Unix(),
		queues:   map[string]*Queue{},
		stirred:  make(chan struct{}, 1),
		fileSoon: make(chan struct{}, 1),
		active:   make(chan struct{}, 1),
		still:    make(chan still),
	}
	sp.handFree.L = &sp.handMu
	sp.SetLimits(Limits{o.Quota, o.Total, o.Hand, o.MaxAge})
	sp.expiry.Store(^uint32(0))
	sp.rested.Store(^uint32(0))
	for _, sub := range []string{"", "journal", "queues", "refused"} {
		if err := durable.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("opening the spool: %w", err)
		}
	}
	if sp.o.JournalFile < 1<<18 {
		return nil, fmt.Errorf("opening the spool: a journal file of %d bytes is too small", sp.o.JournalFile)
	}
	if err := sp.recover(); err != nil {
		return nil, fmt.Errorf("opening the spool: %w", err)
	}
	return sp, nil
}

// Run commits, files and expires until ctx is done; then it makes everything
// durable, files it and returns. The callers of Put have stopped by then.
func (sp *Spool) Run(ctx context.Context) error {
	var g errgroup.Group
	tell := make(chan []op, 4)
	committed := make(chan struct{}) // closed when no commit will come
	ended := make(chan struct{})     // closed when nothing is left to tell
	g.Go(func() error { defer close(committed); defer close(tell); return sp.commitLoop(ctx, tell) })
	g.Go(func() error { defer close(ended); sp.tellLoop(tell); return nil })
	g.Go(func() error { return sp.fileLoop(committed, ended) })
	g.Go(func() error { sp.watch(ctx); return nil })
	return g.Wait()
}

// Queue returns the queue of a destination, which it makes if need be. name is
// "alice@server1/DEVICE" or a server's name: path elements that are safe.
func (sp *Spool) Queue(name string) *Queue {
	sp.queuesMu.RLock()
	q := sp.queues[name]
	sp.queuesMu.RUnlock()
	if q != nil {
		return q
	}
	sp.queuesMu.Lock()
	defer sp.queuesMu.Unlock()
	if q = sp.queues[name]; q == nil {
		q = &Queue{sp: sp, name: name}
		sp.queues[name] = q
	}
	return q
}

// Find returns the queue of a destination, nil if there is none.
func (sp *Spool) Find(name string) *Queue {
	sp.queuesMu.RLock()
	defer sp.queuesMu.RUnlock()
	return sp.queues[name]
}

// Queues returns all queues, by name.
func (sp *Spool) Queues() []*Queue {
	sp.queuesMu.RLock()
	defer sp.queuesMu.RUnlock()
	all := slices.Collect(maps.Values(sp.queues))
	slices.SortFunc(all, func(a, b *Queue) int { return compare(a.name, b.name) })
	return all
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Stats returns the counters.
func (sp *Spool) Stats() *Stats { return &sp.stats }

// Waiting returns the number and bytes of all entries.
func (sp *Spool) Waiting() (entries, bytes int64) { return sp.waiting.Load(), sp.bytes.Load() }

// Full tells that the disk takes nothing more: Put refuses what can't go from
// hand to hand.
func (sp *Spool) Full() bool { return sp.full.Load() }

// HandBytes returns the bytes that are in memory only.
func (sp *Spool) HandBytes() int64 {
	sp.handMu.Lock()
	defer sp.handMu.Unlock()
	return sp.hand
}

// steady is seconds since 1970 by a clock that the wall clock set once, at the
// start, and that only grows. Ages are differences of it; on disk they are by the wall
// clock, so that they grow while the server is down.
func (sp *Spool) steady() uint32 { return sp.steadyAt(sp.now()) }

func (sp *Spool) steadyAt(now int64) uint32 {
	return uint32(sp.zeroUnix + now/int64(time.Second))
}

// wall is a steady second by the wall clock.
func (sp *Spool) wall(steady uint32) uint32 { return uint32(int64(steady) + sp.shift.Load()) }

// Age is the seconds from born to now, both of Spool.Steady: 0 if it is still to come, as
// after a start with a clock that was set back. Born may be before 1970, if the clock
// thinks so.
func Age(now, born uint32) uint32 { return uint32(max(int32(now-born), 0)) }

// Steady returns the time by the clock that ages are reckoned by: see Queue.Next.
func (sp *Spool) Steady() uint32 { return sp.steady() }

// now is nanoseconds since the start.
func (sp *Spool) now() int64 { return int64(time.Since(sp.zero)) }

// takeHand accounts for n bytes in hand. Who brings more than the hand can hold
// waits for others to be acked or to reach the disk, which is soon or never long;
// what he has brought in the same turn goes its way before. With a full disk it may take
// until some device is gone: then it tells that there is no room.
func (sp *Spool) takeHand(t *Turn, n int) (taken bool) {
	sp.handMu.Lock()
	if sp.hand > sp.limits.hand {
		sp.handMu.Unlock()
		t.Run()
		sp.handMu.Lock()
	}
	defer sp.handMu.Unlock()
	for fulls := sp.fulls; sp.hand > sp.limits.hand; sp.handFree.Wait() {
		if sp.full.Load() || sp.fulls != fulls {
			return false
		}
	}
	sp.hand += int64(n)
	return true
}

// fillHand is takeHand for receipts and bounces, which are small, and don't wait: who
// makes room in the hand, or on the disk, has such to write himself.
func (sp *Spool) fillHand(n int) {
	sp.handMu.Lock()
	defer sp.handMu.Unlock()
	sp.hand += int64(n)
}

func (sp *Spool) dropHand(n int) {
	sp.handMu.Lock()
	before := sp.hand
	sp.hand -= int64(n)
	if before > sp.limits.hand {
		sp.handFree.Broadcast()
	}
	sp.handMu.Unlock()
}

// stir puts a queue on the list of those that are looked at after a moment.
func (sp *Spool) stir(q *Queue) {
	sp.handMu.Lock()
	sp.restless = append(sp.restless, q)
	first := len(sp.restless) == 1
	sp.handMu.Unlock()
	if first {
		nudge(sp.stirred)
	}
}

// notices are the last things that an admin should know of.
type notices struct {
	mu   sync.Mutex
	list []Notice
}

// Notice is something that an admin should know: what was damaged, and where it
// was put.
type Notice struct {
	At   time.Time
	Text string
}

const maxNotices = 50

func (sp *Spool) notice(format string, args ...any) {
	n := Notice{time.Now(), fmt.Sprintf(format, args...)}
	sp.o.Log.Warn("spool: " + n.Text)
	sp.notices.mu.Lock()
	defer sp.notices.mu.Unlock()
	if len(sp.notices.list) == maxNotices {
		sp.notices.list = sp.notices.list[1:]
	}
	sp.notices.list = append(sp.notices.list, n)
}

// Notices returns the last 50 notices.
func (sp *Spool) Notices() []Notice {
	sp.notices.mu.Lock()
	defer sp.notices.mu.Unlock()
	return slices.Clone(sp.notices.list)
}

// lane orders a queue's entries of one priority.
func laneOf(p message.Priority) uint8 { return min(uint8(p), message.Priorities-1) }
