package spool

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/message"
)

// journal is the first level of the disk: append-only files of a fixed size that
// are written in whole batches, each with one sync. It is recycled file by file,
// oldest first, when what a file says is in queue files or done.
type journal struct {
	sp *Spool

	mu    sync.Mutex
	ops   []op // to be committed
	later bool // a timer will wake the loop for the Dones
	wake  chan struct{}

	lastPut atomic.Int64 // when the last Put was committed, nanoseconds since the start

	// of the commit loop
	buf    []byte
	batch  uint64
	shared map[*byte]int32 // of a commit: the first op with an envelope, by where its bytes are
	to     []place

	filesMu sync.Mutex
	freed   sync.Cond
	files   []*store        // with records, oldest first; the last one may be cur
	cur     *store          // nil: the next commit begins one
	spares  []*durable.File // recycled, under names of their own
	gen     uint64
	filing  bool  // the commit loop waits for the filer
	fileErr error // of the last filing
}

// store is a file with entries: a journal file or a queue file.
type store struct {
	segment bool
	path    string // of a queue file
	bytes   int    // of a queue file
	salt    uint64
	gen     uint64       // of a journal file
	live    atomic.Int64 // entries that are here and not forgotten

	mu sync.Mutex
	f  *durable.File // a queue file is opened when it is read

	// of a journal file, guarded by the journal's filesMu
	off       int       // where the next batch goes
	dones     []doneRef // Dones here of entries in queue files
	abandoned bool      // it has no end: a write or sync failed, or a process did
	kept      bool      // somebody copies it: it is not written over
}

// doneRef is a Done that must be said again when its journal file is recycled,
// unless the queue file is gone by then.
type doneRef struct {
	q   *Queue
	e   *Entry
	seg *store
}

// release ends one claim, and tells whether it was the last.
func (s *store) release() bool { return s.live.Add(-1) == 0 }

// doneDelay is how long a Done waits for company: losing one costs a repeat that
// the device drops.
const doneDelay = 100 * time.Millisecond

func newJournal(sp *Spool) *journal {
	j := &journal{sp: sp, wake: make(chan struct{}, 1), shared: map[*byte]int32{}}
	j.freed.L = &j.filesMu
	return j
}

func (j *journal) add(ops ...op) {
	if len(ops) == 0 {
		return
	}
	j.mu.Lock()
	j.ops = append(j.ops, ops...)
	put := len(j.ops) > 4096
	for i := range ops {
		put = put || ops[i].kind != opDone
	}
	timer := !put && !j.later
	if timer {
		j.later = true
	}
	j.mu.Unlock()
	switch {
	case put:
		nudge(j.wake)
	case timer:
		time.AfterFunc(doneDelay, func() { nudge(j.wake) })
	}
}

// abandon leaves a file in which a write or sync failed: what it says up to the
// last good sync stays true, and nothing more is acked from it.
func (j *journal) abandon(err error) {
	j.filesMu.Lock()
	defer j.filesMu.Unlock()
	j.sp.notice("%v: the file is left, and the journal goes on in another", err)
	j.cur.abandoned = true
	j.cur = nil
}

// begin makes a file the current one: a spare, or a new one, or one that the
// filer frees.
func (j *journal) begin() error {
	j.filesMu.Lock()
	defer j.filesMu.Unlock()
	for {
		if n := len(j.spares); n > 0 {
			f := j.spares[n-1]
			j.spares = j.spares[:n-1]
			return j.startLocked(f)
		}
		if len(j.files) < j.sp.o.JournalFiles {
			f, err := durable.CreateFile(j.sparePath(j.gen+1), int64(j.sp.o.JournalFile))
			if err == nil {
				j.sp.setFull(false, nil)
				return j.startLocked(f)
			}
			known := j.sp.full.Load() // then waiting for the filer has been tried
			j.sp.setFull(true, err)
			if known {
				return fmt.Errorf("%w: %w", errNoFile, err)
			}
		}
		if !j.waitFilerLocked() {
			return errNoFile
		}
	}
}

// filerTries bounds the waiting for a file, in milliseconds.
const filerTries = 200

func (j *journal) sparePath(gen uint64) string {
	return filepath.Join(j.sp.dir, "journal", fmt.Sprintf("spare-%020d", gen))
}

// waitFilerLocked has everything filed, and tells whether that has freed a file.
func (j *journal) waitFilerLocked() bool {
	before := len(j.files)
	for range filerTries {
		j.filing = true
		nudge(j.sp.fileSoon)
		for j.filing {
			j.freed.Wait()
		}
		if len(j.spares) > 0 || len(j.files) < before {
			return true
		}
		if j.fileErr != nil || before == 0 {
			return false
		}
		// The oldest file has entries that the teller, a few batches behind, has not
		// come to.
		j.filesMu.Unlock()
		time.Sleep(time.Millisecond)
		j.filesMu.Lock()
	}
	return false
}

// startLocked gives a spare its name and header.
func (j *journal) startLocked(f *durable.File) error {
	j.gen++
	abandoned := uint64(0)
	if n := len(j.files); n > 0 && j.files[n-1].abandoned {
		abandoned = 1
	}
	s := &store{gen: j.gen, salt: newSalt(), f: f, off: headerSize}
	h := header{magic: journalMagic, salt: s.salt, gen: s.gen, seq: j.sp.seq.Load(), abandoned: abandoned}
	path := filepath.Join(j.sp.dir, "journal", fmt.Sprintf("%020d", s.gen))
	if _, err := f.WriteAt(h.append(nil), 0); err != nil {
		f.Close()
		return fmt.Errorf("beginning a journal file: %w", err)
	}
	if err := f.Datasync(); err != nil {
		f.Close()
		return fmt.Errorf("beginning a journal file: %w", err)
	}
	if err := f.Rename(path); err != nil {
		f.Close()
		durable.Remove(path) // it may have the name, and only the folder couldn't be synced; with another file behind it, it would look cut off
		return fmt.Errorf("beginning a journal file: %w", err)
	}
	j.files = append(j.files, s)
	j.cur = s
	return nil
}

// retire recycles files, and tells who waits for one.
func (j *journal) retire(stopping bool) {
	j.filesMu.Lock()
	again := j.recycleLocked(stopping)
	j.filing = false
	j.freed.Broadcast()
	j.filesMu.Unlock()
	if !stopping {
		j.add(again...)
	}
}

// older recycles files, and returns the generation up to which what they have must
// be filed: the older half if there are still many, all if the disk has no room for
// another, else none.
func (j *journal) older() uint64 {
	j.filesMu.Lock()
	again := j.recycleLocked(false)
	upto := uint64(0)
	switch n := len(j.files); {
	case j.filing && n < j.sp.o.JournalFiles:
		upto = ^uint64(0)
	case n > j.sp.o.JournalFiles/2:
		upto = j.files[n/2].gen
	}
	j.filesMu.Unlock()
	j.add(again...)
	return upto
}

// recycleLocked recycles the files, oldest first, that have no entry any more.
// Dones of entries in queue files that are still there are to be said again; where
// nobody is left to commit that, they keep their file.
func (j *journal) recycleLocked(stopping bool) (again []op) {
	for len(j.files) > 0 {
		s := j.files[0]
		if s == j.cur || s.live.Load() > 0 {
			break
		}
		before := len(again)
		for _, d := range s.dones {
			if d.seg.live.Load() > 0 {
				again = append(again, op{kind: opDone, q: d.q, e: d.e})
			}
		}
		if stopping && len(again) > before {
			break
		}
		j.files = j.files[1:]
		if s.abandoned || s.kept || len(j.spares) >= 2 && !j.filing {
			durable.Remove(s.f.Name())
			s.f.Close()
			continue
		}
		if err := s.f.Rename(j.sparePath(s.gen)); err != nil {
			j.sp.notice("recycling a journal file: %v", err)
			s.f.Close()
			continue
		}
		j.spares = append(j.spares, s.f)
	}
	return again
}

func (j *journal) close() {
	j.filesMu.Lock()
	defer j.filesMu.Unlock()
	for _, s := range j.files {
		s.f.Close()
	}
	for _, f := range j.spares {
		f.Close()
	}
}

// tellLoop tells the owners what the journal did, while it does the next.
func (sp *Spool) tellLoop(tell <-chan []op) {
	var turn Turn
	var dones []op
	for ops := range tell {
		dones = dones[:0]
		var kept copied
		var marks []chan<- struct{}
		for i := range ops {
			o := &ops[i]
			if o.kind == opMark {
				marks = append(marks, o.told)
			}
			if o.kind != opPut {
				continue
			}
			if d, ok := sp.tell(&turn, o, &kept); ok {
				dones = append(dones, d)
			}
		}
		turn.Run()
		sp.journal.add(dones...)
		sp.journal.lastPut.Store(sp.now())
		nudge(sp.active) // not before they are told: only what is durable is filed
		for _, told := range marks {
			close(told)
		}
	}
}

// copied is the last envelope that was copied: ops that share one come together.
type copied struct{ from, to []byte }

// of returns a copy of raw, which is a piece of a record that can go then.
func (c *copied) of(raw []byte) []byte {
	if c.from == nil || &c.from[0] != &raw[0] {
		c.from, c.to = raw, bytes.Clone(raw)
	}
	return c.to
}

// tell brings an entry into the state that the commit gave it. If it was done
// meanwhile, its Done must be written.
func (sp *Spool) tell(t *Turn, o *op, kept *copied) (again op, ok bool) {
	q, e := o.q, o.e
	q.mu.Lock()
	e.flags &^= committing
	gone := e.flags&done != 0
	state, refusal := message.Held, (*message.Refusal)(nil)
	switch {
	case o.store != nil: // written
		e.store, e.off, e.rec = o.store, o.off, o.rec
		e.flags |= isDurable
		if gone {
			e.flags |= forgotten
			delete(q.ids, e.id)
			q.releaseLocked(e)
			q.mu.Unlock()
			return op{kind: opDone, q: q, e: e}, true
		}
		if e.flags&given == 0 {
			e.raw = nil
		} else {
			e.raw = kept.of(o.raw)
		}
		q.unfiledLocked()
		sp.expireAt(e)
	case gone:
		if o.ready {
			delete(q.ids, e.id)
		}
		q.mu.Unlock()
		return op{}, false
	case o.dup:
		sp.stats.Dups.Add(1)
		if e.flags&given != 0 {
			e.flags |= shadow
		} else {
			e.flags |= shadow
			q.endLocked(e)
			q.lanes[e.lane].trim()
		}
	default: // the disk takes nothing
		if o.ready {
			delete(q.ids, e.id)
		}
		e.flags |= refusing
		if e.flags&given != 0 {
			q.mu.Unlock()
			return op{}, false // its outcome is unknown: Done or Detach tell
		}
		q.endLocked(e)
		q.lanes[e.lane].trim()
		state, refusal = message.Refused, diskFull()
	}
	q.mu.Unlock()
	sp.dropHand(int(e.size))
	e.owner.Settled(t, e.token, state, refusal)
	return op{}, false
}

// read returns the record at off of a file.
func (s *store) read(off, rec uint32) ([]byte, error) {
	b := make([]byte, rec)
	return b, s.readInto(b, off)
}

func (s *store) readInto(b []byte, off uint32) error {
	s.mu.Lock()
	if s.f == nil {
		f, err := durable.OpenFile(s.path)
		if err != nil {
			s.mu.Unlock()
			return err
		}
		s.f = f
	}
	f := s.f
	s.mu.Unlock()
	_, err := f.ReadAt(b, int64(off))
	return err
}

// closeFile lets go of a queue file's descriptor until somebody reads it again.
func (s *store) closeFile() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.segment && s.f != nil {
		s.f.Close()
		s.f = nil
	}
}

// remove deletes a queue file. Should a crash undo that, its Dones or the device
// see to it that nothing is shown twice.
func (s *store) remove() {
	s.closeFile()
	durable.Remove(s.path)
}

// readAhead is how much of a file is read for entries that come next.
const readAhead = 256 << 10

// loadLocked reads the envelope of the lane's next entry, and of those behind it
// that are near in the file. An entry that can't be read is set aside.
func (q *Queue) loadLocked(l *lane) error {
	first := l.ents[l.next]
	end, last := first.off+first.rec, l.next
	for i := l.next + 1; i < len(l.ents); i++ {
		e := l.ents[i]
		if e.store != first.store || e.raw != nil || e.flags&(done|isDurable) != isDurable ||
			e.off < end || e.off > end+readAhead/64 || e.off+e.rec-first.off > readAhead {
			break
		}
		end, last = e.off+e.rec, i
	}
	b := make([]byte, end-first.off)
	err := first.store.readInto(b, first.off)
	if err != nil { // one by one, so that only what is damaged is lost
		b, last = make([]byte, first.rec), l.next
		err = first.store.readInto(b, first.off)
	}
	if err != nil {
		q.setAsideLocked(first, err)
		return err
	}
	for i := l.next; i <= last; i++ {
		e := l.ents[i]
		at := e.off - first.off
		raw, err := envelopeOf(b[at:at+e.rec], e)
		if err != nil {
			q.setAsideLocked(e, err)
			if i == l.next {
				return err
			}
			continue
		}
		e.raw = raw
	}
	return nil
}

// readLocked returns an entry's envelope from disk.
func (q *Queue) readLocked(e *Entry) ([]byte, error) {
	if e.store == nil {
		return nil, fmt.Errorf("%w: an entry is nowhere", ErrDamaged)
	}
	b, err := e.store.read(e.off, e.rec)
	if err != nil {
		return nil, err
	}
	return envelopeOf(b, e)
}

func envelopeOf(record []byte, e *Entry) ([]byte, error) {
	payload, err := openRecord(record, e.store.salt, uint64(e.off))
	if err != nil {
		return nil, err
	}
	var raw []byte
	var own bool
	switch payload[0] {
	case recPut:
		var p putRecord
		err = p.parse(payload)
		raw, own = p.raw, p.seq == e.seq
	case recShare:
		var s shareRecord
		err = s.parse(payload)
		raw, own = s.raw, slices.ContainsFunc(s.to, func(p place) bool { return p.seq == e.seq })
	default:
		return nil, fmt.Errorf("%w: another kind of record", ErrDamaged)
	}
	if err != nil {
		return nil, err
	}
	if !own || len(raw) != int(e.size) {
		return nil, fmt.Errorf("%w: another entry's record", ErrDamaged)
	}
	return raw, nil
}

// setAsideLocked ends an entry that can't be read, and keeps what there is of it
// in refused/.
func (q *Queue) setAsideLocked(e *Entry, err error) {
	b, _ := e.store.read(e.off, e.rec)
	q.endLocked(e)
	e.flags |= forgotten
	delete(q.ids, e.id)
	if gone := q.releaseLocked(e); gone != nil {
		gone.remove()
	}
	name := fmt.Sprintf("%s-%d", e.id, e.seq)
	q.sp.setAside(name, b, "message %s for %s could not be read (%v)", e.id, q.name, err)
}

// setAside keeps bytes that are not what was written, for who wants to look.
func (sp *Spool) setAside(name string, b []byte, format string, args ...any) {
	sp.stats.Damaged.Add(1)
	path := filepath.Join(sp.dir, "refused", name)
	if err := durable.WriteFile(path, b, 0o600); err != nil {
		sp.notice("%s; keeping it failed too: %v", fmt.Sprintf(format, args...), err)
		return
	}
	sp.notice("%s; what there is of it is in %s", fmt.Sprintf(format, args...), path)
}

// findRecord returns the offset of the next record in b from off on.
func findRecord(b []byte, salt uint64, off int) (int, bool) {
	var mark [4]byte
	binary.LittleEndian.PutUint32(mark[:], uint32(salt))
	for off < len(b) {
		i := bytes.Index(b[off:], mark[:])
		if i < 0 {
			return 0, false
		}
		off += i
		if _, err := openRecord(b[off:], salt, uint64(off)); err == nil {
			return off, true
		}
		off++
	}
	return 0, false
}
