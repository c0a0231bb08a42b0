package spool

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/noipchat/noipchat/daemon/durable"
)

const (
	// mergeSize is up to what size a queue file is written again together with
	// what comes, so that a queue that gets one message at a time has few files.
	mergeSize = 4 << 20

	fileBytes  = 8 << 20  // of one queue file, about
	batchBytes = 16 << 20 // written before they are committed together
)

// nudge fills a channel of size 1.
func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// fileWhenMany has the journal filed when half of its files are full.
func (sp *Spool) fileWhenMany() {
	j := sp.journal
	j.filesMu.Lock()
	many := len(j.files) > j.sp.o.JournalFiles/2
	j.filesMu.Unlock()
	if many {
		nudge(sp.fileSoon)
	}
}

// fileLoop moves what waits in the journal to queue files: on request, after
// quiet, and when all is told and nothing more will come.
func (sp *Spool) fileLoop(committed, told <-chan struct{}) error {
	quiet := time.NewTimer(time.Hour)
	quiet.Stop()
	defer quiet.Stop()
	armed := false
	for {
		select {
		case <-sp.fileSoon:
			sp.file(pressed)
		case s := <-sp.still:
			s.done <- s.do()
		case <-sp.active:
			if !armed {
				armed = true
				quiet.Reset(sp.o.Quiet)
			}
		case <-quiet.C:
			if rest := sp.o.Quiet - time.Duration(sp.now()-sp.journal.lastPut.Load()); rest > 0 {
				quiet.Reset(rest)
				continue
			}
			armed = false
			sp.file(idle)
		case <-committed:
			<-told
			sp.followClock()
			sp.journal.filesMu.Lock()
			sp.journal.cur = nil
			sp.journal.filesMu.Unlock()
			err := sp.file(stopping)
			sp.journal.close()
			if errors.Is(err, syscall.ENOSPC) {
				return nil // the journal has it
			}
			return err
		}
	}
}

// A reason is why something is filed, and so what.
type reason uint8

const (
	pressed  reason = iota // the journal has many files: what is in the older half of them
	idle                   // nothing comes: all that isn't on its way to a pump
	stopping               // all
)

// file files what is durable in the journal, and recycles the journal's files.
func (sp *Spool) file(why reason) error {
	j := sp.journal
	upto := ^uint64(0)
	if why == pressed {
		upto = j.older() // most of what a busy server has there was taken meanwhile
	}
	err := sp.fileQueues(sp.takeUnfiled(), why, upto)
	if errors.Is(err, syscall.ENOSPC) && sp.spendReserve() {
		err = sp.fileQueues(sp.takeUnfiled(), why, upto)
	}
	if err != nil {
		err = fmt.Errorf("filing: %w", err)
		sp.stats.FileErrors.Add(1)
		sp.setFull(true, err)
	}
	j.filesMu.Lock()
	j.fileErr = err
	j.filesMu.Unlock()
	j.retire(why == stopping)
	return err
}

// unfiledLocked notes that a queue has entries in the journal.
func (q *Queue) unfiledLocked() {
	if !q.unfiled {
		q.unfiled = true
		q.sp.unfiledMu.Lock()
		q.sp.unfiled = append(q.sp.unfiled, q)
		q.sp.unfiledMu.Unlock()
	}
}

func (sp *Spool) takeUnfiled() []*Queue {
	sp.unfiledMu.Lock()
	defer sp.unfiledMu.Unlock()
	all := sp.unfiled
	sp.unfiled = nil
	return all
}

// newFile is a queue file that is being written, and the entries that move there.
type newFile struct {
	q       *Queue
	store   *store
	data    []byte
	entries []*Entry
	places  [][2]uint32 // offset and length of each one's record
}

// fileQueues writes queue files for what the journal has of these queues, many
// in one commit, and moves the entries there. After an error what was not moved
// stays in the journal, and its queues on the list.
func (sp *Spool) fileQueues(queues []*Queue, why reason, upto uint64) error {
	for len(queues) > 0 {
		batch := durable.NewBatch(filepath.Join(sp.dir, "queues"))
		var files []newFile
		size, n := 0, 0
		for ; n < len(queues) && size < batchBytes; n++ {
			for _, f := range queues[n].collect(why, upto) {
				batch.Add(f.store.path, f.data, 0o600)
				size += len(f.data)
				f.data = nil
				files = append(files, f)
			}
		}
		if err := batch.Commit(); err != nil {
			for _, q := range queues {
				q.mu.Lock()
				q.unfiledLocked()
				q.mu.Unlock()
			}
			return err
		}
		for i := range files {
			files[i].adopt()
		}
		queues = queues[n:]
	}
	return nil
}

// collect makes the next queue file of each lane, of what is in journal files up to
// a generation. What a device is being given is likely to be acked before long: that
// is left in the journal as long as it may be.
func (q *Queue) collect(why reason, upto uint64) (files []newFile) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.unfiled = false
	if why == idle && q.pump != nil && !q.refile {
		q.unfiledLocked() // Detach has it filed
		return nil
	}
	for i := range q.lanes {
		if f := q.collectLocked(uint8(i), upto); len(f.entries) > 0 {
			files = append(files, f)
		}
	}
	q.refile = false
	if q.pump == nil {
		q.closeFilesLocked()
	}
	return files
}

// collectLocked makes a queue file of a lane's entries in the journal, and those
// of the last queue files if they are not much more than that: so an entry is
// written again a number of times that grows with the logarithm of the queue.
func (q *Queue) collectLocked(lane uint8, upto uint64) newFile {
	l := &q.lanes[lane]
	later := false
	due := func(e *Entry) bool {
		if e.store.segment {
			return false
		}
		later = later || e.store.gen > upto && !q.refile
		return e.store.gen <= upto || q.refile
	}
	for l.filed < len(l.ents) {
		if e := l.ents[l.filed]; e.flags&done == 0 && (e.store == nil || !e.store.segment) {
			break
		}
		l.filed++
	}
	// What is done and not forgotten is filed too: its receipt may need the place in the
	// journal that it takes.
	l.owed = slices.DeleteFunc(l.owed, func(e *Entry) bool { return e.flags&forgotten != 0 || e.store.segment })
	fresh := 0
	for _, e := range l.owed {
		if due(e) {
			fresh += int(e.rec)
		}
	}
	for _, e := range l.ents[l.filed:] {
		if e.flags&(done|isDurable) == isDurable && due(e) {
			fresh += int(e.rec)
		}
	}
	if later {
		q.unfiledLocked()
	}
	f := newFile{q: q}
	if fresh == 0 && !q.refile {
		return f
	}
	keep := len(l.segs)
	for keep > 0 {
		s := l.segs[keep-1]
		if !q.refile && (s.bytes > 2*fresh || s.bytes > mergeSize) {
			break
		}
		fresh += s.bytes
		keep--
	}
	merged := slices.Clone(l.segs[keep:])
	from := l.filed
	for from > l.head && len(merged) > 0 && (l.ents[from-1].flags&done != 0 || slices.Contains(merged, l.ents[from-1].store)) {
		from--
	}
	if q.refile {
		from = l.head
	}
	entries := slices.DeleteFunc(slices.Clone(l.ents[from:]), func(e *Entry) bool {
		return e.flags&(done|isDurable) != isDurable || !due(e) && !slices.Contains(merged, e.store)
	})
	if len(l.owed) > 0 {
		entries = append(entries, slices.DeleteFunc(slices.Clone(l.owed), func(e *Entry) bool { return !due(e) })...)
		slices.SortFunc(entries, func(a, b *Entry) int { return cmp.Compare(a.seq, b.seq) })
	}
	w := newSegmentWriter(lane)
	for _, e := range entries {
		if len(w.b) > fileBytes {
			q.unfiledLocked()
			break
		}
		raw := e.raw
		if raw == nil {
			var err error
			if raw, err = q.readLocked(e); err != nil {
				q.setAsideLocked(e, err)
				continue
			}
		}
		off, rec := w.add(&putRecord{q.name, lane, e.seq, q.sp.wall(e.born), e.life, e.id, raw})
		f.entries, f.places = append(f.entries, e), append(f.places, [2]uint32{off, rec})
	}
	if len(f.entries) > 0 {
		f.data = w.finish()
		f.store = &store{segment: true, salt: w.salt, bytes: len(f.data)}
		f.store.path = filepath.Join(q.sp.dir, "queues", q.name, segmentName(lane, w.first, f.entries[len(f.entries)-1].seq, w.salt))
	}
	return f
}

// adopt moves entries to the queue file that is durable now.
func (f *newFile) adopt() {
	q, s := f.q, f.store
	var again []op
	var gone []*store
	q.mu.Lock()
	l := &q.lanes[f.entries[0].lane]
	l.segs = append(l.segs, s)
	s.live.Add(1) // ours, until all have moved
	for i, e := range f.entries {
		if e.flags&forgotten != 0 { // meanwhile: the new file must be told
			again = append(again, op{kind: opDone, q: q, e: &Entry{seq: e.seq, lane: e.lane, store: s}})
			continue
		}
		old := e.store
		s.live.Add(1)
		e.store, e.off, e.rec = s, f.places[i][0], f.places[i][1]
		if old.release() && old.segment {
			l.segs = slices.DeleteFunc(l.segs, func(x *store) bool { return x == old })
			gone = append(gone, old)
		}
	}
	if s.release() {
		l.segs = slices.DeleteFunc(l.segs, func(x *store) bool { return x == s })
		gone = append(gone, s)
	}
	q.mu.Unlock()
	q.sp.stats.Filed.Add(uint64(len(f.entries)))
	q.sp.stats.Segments.Add(1)
	for _, s := range gone {
		s.remove()
	}
	q.sp.journal.add(again...)
}

// reserveSize is what a full disk keeps for filing.
const reserveSize = 8 << 20

// Reserve returns how many bytes of disk are kept for filing.
func (sp *Spool) Reserve() int64 {
	if sp.hasReserve() {
		return reserveSize
	}
	return 0
}

func (sp *Spool) reservePath() string { return filepath.Join(sp.dir, "reserve") }

// spendReserve gives the reserve to whoever needs space to file.
func (sp *Spool) spendReserve() bool {
	sp.reserveMu.Lock()
	defer sp.reserveMu.Unlock()
	if !sp.reserved {
		return false
	}
	sp.reserved = false
	nudge(sp.stirred) // watch makes another one when there is space
	return durable.Remove(sp.reservePath()) == nil
}

// keepReserve makes the reserve if it isn't there, and tells whether it is.
func (sp *Spool) keepReserve() bool {
	sp.reserveMu.Lock()
	defer sp.reserveMu.Unlock()
	if sp.reserved {
		return true
	}
	f, err := durable.OpenFile(sp.reservePath())
	if err != nil {
		if f, err = durable.CreateFile(sp.reservePath(), reserveSize); err != nil {
			return false
		}
	}
	f.Close()
	sp.reserved = true
	return true
}

// setFull notes whether the disk takes more, and says so when it changes.
func (sp *Spool) setFull(full bool, why error) {
	if sp.full.Swap(full) == full {
		return
	}
	if full {
		sp.notice("the disk takes nothing more (%v): messages for who is away are refused until it does", why)
		nudge(sp.stirred)
		sp.handMu.Lock()
		sp.fulls++
		sp.handFree.Broadcast()
		sp.handMu.Unlock()
	} else {
		sp.notice("the disk takes messages again")
	}
}
