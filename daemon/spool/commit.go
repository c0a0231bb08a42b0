package spool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

type opKind uint8

const (
	opPut opKind = iota
	opDone
	opMark // nothing to be written: told when all before it is
)

// op is something for the journal.
type op struct {
	kind  opKind
	q     *Queue
	e     *Entry
	store *store // where a Put was written; nil: it was cancelled, or is there already
	off   uint32
	rec   uint32
	raw   []byte
	id    message.ID
	born  uint32
	ready bool // it is wanted, and its id is in q.ids
	dup   bool // the queue has it on disk
	err   error
	told  chan<- struct{} // of a mark: closed then
	final bool            // of a mark: the journal file ends there

	// of prepare: the next op with the same envelope, the last one so far, in order already
	next, last int32
	taken      bool
}

// commitLoop commits what was added, all that came during the last sync at once,
// until ctx is done and nothing is left.
func (sp *Spool) commitLoop(ctx context.Context, tell chan<- []op) error {
	j := sp.journal
	for {
		stopping := false
		select {
		case <-j.wake:
		case <-ctx.Done():
			stopping = true
		}
		j.mu.Lock()
		ops := j.ops
		j.ops, j.later = nil, false
		j.mu.Unlock()
		if len(ops) > 0 {
			j.commit(ops, tell)
		} else if stopping {
			return nil
		}
	}
}

// commit writes ops and syncs, and passes them on, each Put with its place or an
// error. What went into one file is told before the next is needed: only what is
// told can be filed, and only what is filed frees a file.
func (j *journal) commit(ops []op, tell chan<- []op) {
	ops = j.prepare(ops)
	for attempt := 0; len(ops) > 0; {
		if ops[0].kind == opMark {
			if ops[0].final {
				j.end()
			}
			tell <- ops[:1]
			ops = ops[1:]
			continue
		}
		n, err := j.write(ops)
		if err == nil {
			tell <- ops[:n]
			ops, attempt = ops[n:], 0
			continue
		}
		if j.cur != nil {
			j.abandon(err)
		}
		if attempt++; attempt == 2 || errors.Is(err, errNoFile) {
			for i := range ops {
				if ops[i].ready {
					ops[i].err, ops[i].store = err, nil
				}
			}
			tell <- ops
			break
		}
	}
}

// prepare decides which Puts are still wanted, and gives them their ids. Those of
// one envelope for several queues come out one behind the other: it is hashed and
// written once.
func (j *journal) prepare(ops []op) []op {
	defer clear(j.shared)
	sharing := false
	for i := range ops {
		o := &ops[i]
		o.next = -1
		if o.kind != opPut || !o.look() {
			continue
		}
		first, again := j.shared[&o.raw[0]]
		if !again {
			j.shared[&o.raw[0]], o.last = int32(i), int32(i)
			o.want(message.IDOf(j.sp.o.Envelope(o.raw))) // without the queue's lock: it takes a while
			continue
		}
		o.want(ops[first].id)
		sharing = true
		ops[ops[first].last].next = int32(i)
		ops[first].last = int32(i)
	}
	if !sharing {
		return ops
	}
	together := make([]op, 0, len(ops))
	for i := range ops {
		for k := int32(i); k >= 0 && !ops[k].taken; k = ops[k].next {
			ops[k].taken = true
			together = append(together, ops[k])
		}
	}
	return together
}

// look tells whether a Put is still wanted, and gets its envelope.
func (o *op) look() bool {
	o.q.mu.Lock()
	defer o.q.mu.Unlock()
	if o.e.flags&done == 0 {
		o.raw = o.e.raw
	}
	return len(o.raw) > 0
}

// want makes a Put ready that is still wanted and no repeat.
func (o *op) want(id message.ID) {
	o.id = id
	o.q.mu.Lock()
	defer o.q.mu.Unlock()
	if o.e.flags&done != 0 {
		return
	}
	o.e.id, o.born = id, o.q.sp.wall(o.e.born)
	have, there := o.q.ids[id]
	if o.dup = there && covers(have, o.e.open); o.dup {
		return
	}
	o.q.knowLocked(id, o.e.open)
	o.ready = true
}

// sharers counts the first ops, all of them Puts to be written, that one record
// can have.
func sharers(ops []op) int {
	a := &ops[0]
	n := 1
	for ; n < min(len(ops), maxShare); n++ {
		o := &ops[n]
		if o.kind != opPut || !o.ready || &o.raw[0] != &a.raw[0] ||
			o.born != a.born || o.e.life != a.e.life || o.e.lane != a.e.lane {
			break
		}
	}
	return n
}

// appendPuts appends the record of Puts that share an envelope.
func (j *journal) appendPuts(b []byte, ops []op) []byte {
	o := &ops[0]
	if len(ops) == 1 {
		return (&putRecord{o.q.name, o.e.lane, o.e.seq, o.born, o.e.life, o.id, o.raw}).append(b)
	}
	j.to = j.to[:0]
	for i := range ops {
		j.to = append(j.to, place{ops[i].q.name, ops[i].e.seq})
	}
	return (&shareRecord{o.e.lane, o.born, o.e.life, j.to, o.id, o.raw}).append(b)
}

// errNoFile says that there is no room for another Put.
var errNoFile = errors.New("no room for the journal")

// maxWrite is about what one write and sync covers, so that the buffer stays small
// and who came first is told first.
const maxWrite = 1 << 20

// write writes as many ops as the current file and maxWrite take, and syncs. It
// begins another file when the first doesn't fit.
func (j *journal) write(ops []op) (n int, err error) {
	if j.cur == nil {
		if err := j.begin(); err != nil {
			if j.skipDones(ops) {
				return len(ops), nil
			}
			return 0, err
		}
	}
	s := j.cur
	limit := j.sp.o.JournalFile - recordHead - 16 // room for the end
	base := s.off
	j.batch++
	b := j.buf[:0]
	seal := func(at int) { sealRecord(b, at, s.salt, uint64(base+at)) }
	begin := func() int {
		at := len(b)
		b = append(b, make([]byte, recordHead)...)
		return at
	}
	at := begin()
	b = message.AppendUint(append(b, recBatch), j.batch)
	seal(at)
	full := false
	for n < len(ops) && len(b) < maxWrite {
		o := &ops[n]
		if o.kind == opMark || o.kind == opPut && !o.ready {
			n++
			continue
		}
		if o.kind == opDone {
			at, k := begin(), 0
			b, k = j.appendDones(b, ops[n:])
			if full = base+len(b) > limit; full {
				b = b[:at]
				break
			}
			seal(at)
			n += k
			continue
		}
		at, k := begin(), sharers(ops[n:])
		b = j.appendPuts(b, ops[n:n+k])
		if full = base+len(b) > limit-j.sp.o.JournalFile/16; full { // the last sixteenth is for Dones
			b = b[:at]
			break
		}
		seal(at)
		for i := range ops[n : n+k] {
			o := &ops[n+i]
			o.store, o.off, o.rec = s, uint32(base+at), uint32(len(b)-at)
		}
		n += k
	}
	if full {
		at := begin()
		b = append(b, recEnd)
		seal(at)
	}
	j.buf = b
	if err := j.sync(s, b); err != nil {
		return 0, err
	}
	j.filesMu.Lock()
	s.off = base + len(b)
	for i := range ops[:n] {
		o := &ops[i]
		switch {
		case o.kind == opPut && o.ready:
			s.live.Add(1)
		case o.kind == opDone:
			o.q.mu.Lock()
			if seg := o.e.store; seg.segment {
				s.dones = append(s.dones, doneRef{o.q, o.e, seg})
			}
			o.q.mu.Unlock()
		}
	}
	if full {
		j.cur = nil
	}
	j.filesMu.Unlock()
	if full {
		j.sp.fileWhenMany()
	}
	return n, nil
}

// end ends the current file before it is full, so that the next start reads no further.
func (j *journal) end() {
	s := j.cur
	if s == nil {
		return
	}
	b := append(make([]byte, recordHead, recordHead+1), recEnd)
	sealRecord(b, 0, s.salt, uint64(s.off))
	if err := j.sync(s, b); err != nil {
		j.abandon(err)
		return
	}
	j.filesMu.Lock()
	defer j.filesMu.Unlock()
	s.off += len(b)
	j.cur = nil
}

// skipDones tells whether ops are all Dones or cancelled: on a full disk those
// are let go, which costs at most repeats that devices drop.
func (j *journal) skipDones(ops []op) bool {
	for i := range ops {
		if ops[i].ready {
			return false
		}
	}
	return true
}

// appendDones appends one record for the first Dones that are of one queue and
// lane and rise.
func (j *journal) appendDones(b []byte, ops []op) ([]byte, int) {
	d := doneRecord{queue: ops[0].q.name, lane: ops[0].e.lane}
	for i := range ops {
		o := &ops[i]
		if o.kind != opDone || o.q != ops[0].q || o.e.lane != d.lane || len(d.seqs) == maxDone ||
			i > 0 && o.e.seq <= d.seqs[i-1] {
			break
		}
		d.seqs = append(d.seqs, o.e.seq)
	}
	return d.append(b), len(d.seqs)
}

func (j *journal) sync(s *store, b []byte) error {
	st := &j.sp.stats
	start := time.Now()
	_, err := s.f.WriteAt(b, int64(s.off))
	if err == nil {
		err = s.f.Datasync()
	}
	took := uint64(time.Since(start))
	st.Syncs.Add(1)
	st.SyncNanos.Add(took)
	st.Bytes.Add(uint64(len(b)))
	for {
		max := st.SyncMaxNanos.Load()
		if took <= max || st.SyncMaxNanos.CompareAndSwap(max, took) {
			break
		}
	}
	if err != nil {
		st.SyncErrors.Add(1)
		return fmt.Errorf("writing the journal: %w", err)
	}
	return nil
}
