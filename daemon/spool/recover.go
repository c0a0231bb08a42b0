package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/message"
)

// recovery is what a start needs to put the two levels of the disk together.
type recovery struct {
	sp       *Spool
	filed    map[*Queue][message.Priorities]int // entries of queue files, sorted, at the head of each lane
	journals map[uint64]*Entry                  // entries of journal files by seq
	last     uint64                             // seq
}

// recover reads the queue files' indexes, then replays the journal.
func (sp *Spool) recover() error {
	r := &recovery{sp: sp, filed: map[*Queue][message.Priorities]int{}, journals: map[uint64]*Entry{}}
	for _, dir := range []string{sp.dir, filepath.Join(sp.dir, "journal"), filepath.Join(sp.dir, "refused")} {
		if err := durable.Sweep(dir); err != nil {
			return err
		}
	}
	if err := r.queueFiles(); err != nil {
		return err
	}
	for _, q := range sp.queues {
		r.sortFiled(q)
	}
	if err := r.journal(); err != nil {
		return err
	}
	for _, q := range sp.queues {
		r.finish(q)
	}
	sp.seq.Store(r.last)
	sp.keepReserve()
	return nil
}

// queueFiles reads queues/: server3/FILE, alice@server1/DEVICE/FILE.
func (r *recovery) queueFiles() error {
	root := filepath.Join(r.sp.dir, "queues")
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		name, file := filepath.Dir(rel), filepath.Base(rel)
		if durable.IsTemp(file) {
			return durable.Remove(path) // a crash left it
		}
		if !validQueueName(name) || !isSegmentName(file) {
			r.sp.notice("%s is no queue file: left alone", path)
			return nil
		}
		return r.queueFile(r.sp.Queue(name), path)
	})
}

func (r *recovery) queueFile(q *Queue, path string) error {
	s, entries, err := openSegment(path)
	if errors.Is(err, ErrDamaged) && s != nil {
		r.sp.stats.Damaged.Add(1)
		r.sp.notice("%s: %v: its records are read one by one", path, err)
		entries, err = scanSegment(s)
		q.refile = true
	}
	if errors.Is(err, ErrDamaged) {
		r.sp.stats.Damaged.Add(1)
		to := filepath.Join(r.sp.dir, "refused", strings.ReplaceAll(q.name, "/", "_")+"_"+filepath.Base(path))
		r.sp.notice("%s: %v: moved to %s", path, err, to)
		return durable.Rename(path, to)
	}
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	s.bytes = int(info.Size())
	n := r.filed[q]
	for i := range entries {
		e := &entries[i]
		q.lanes[e.lane].ents = append(q.lanes[e.lane].ents, e)
		n[e.lane]++
	}
	r.filed[q] = n
	return nil
}

// sortFiled orders the entries of queue files, and drops those that are in two:
// a crash in the middle of a merge leaves that behind.
func (r *recovery) sortFiled(q *Queue) {
	n := r.filed[q]
	for i := range q.lanes {
		l := &q.lanes[i]
		sort.SliceStable(l.ents, func(a, b int) bool { return l.ents[a].seq < l.ents[b].seq })
		l.ents = slices.CompactFunc(l.ents, func(a, b *Entry) bool { return a.seq == b.seq })
		n[i] = len(l.ents)
		for _, e := range l.ents {
			e.store.live.Add(1)
			r.last = max(r.last, e.seq)
		}
	}
	r.filed[q] = n
}

// find returns the entry that a record of the journal speaks of.
func (r *recovery) find(q *Queue, lane uint8, seq uint64) *Entry {
	ents := q.lanes[lane].ents[:r.filed[q][lane]]
	i := sort.Search(len(ents), func(i int) bool { return ents[i].seq >= seq })
	if i < len(ents) && ents[i].seq == seq {
		return ents[i]
	}
	if e := r.journals[seq]; e != nil && e.lane == lane {
		return e
	}
	return nil
}

func (r *recovery) journal() error {
	sp := r.sp
	dir := filepath.Join(sp.dir, "journal")
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	j := newJournal(sp)
	sp.journal = j
	type file struct {
		s *store
		b []byte
		h header
	}
	var files []file
	for _, d := range list {
		path := filepath.Join(dir, d.Name())
		if strings.HasPrefix(d.Name(), "spare-") {
			j.addSpare(path)
			continue
		}
		b, err := readJournal(path)
		if err != nil {
			return err
		}
		h, err := parseHeader(b, journalMagic)
		if err != nil {
			sp.stats.Damaged.Add(1)
			to := filepath.Join(sp.dir, "refused", "journal_"+d.Name())
			sp.notice("%s: %v: moved to %s", path, err, to)
			if err := durable.Rename(path, to); err != nil {
				return err
			}
			continue
		}
		f, err := durable.OpenFile(path)
		if err != nil {
			return err
		}
		files = append(files, file{&store{gen: h.gen, salt: h.salt, f: f}, b, h})
	}
	slices.SortFunc(files, func(a, b file) int { return int(int64(a.h.gen - b.h.gen)) })
	for i, f := range files {
		r.last = max(r.last, f.h.seq)
		j.gen = max(j.gen, f.h.gen)
		j.files = append(j.files, f.s)
		r.replay(f.s, f.b, i == len(files)-1, i+1 < len(files) && files[i+1].h.abandoned == 1)
		files[i].b = nil
	}
	if n := len(j.files); n > 0 {
		j.goOn(j.files[n-1])
	}
	return nil
}

// goOn makes the last file the current one again if it was ended when most of it was
// empty: its end is written over.
func (j *journal) goOn(s *store) {
	if size, err := s.f.Size(); err == nil && !s.abandoned && size == int64(j.sp.o.JournalFile) && s.off < j.sp.o.JournalFile/2 {
		j.cur = s
	}
}

// journalChunk is how much of a journal file is read at once; a record fits.
const journalChunk = 256 << 10

// readJournal reads a journal file, and if that has an end, no more than what is before
// it: most of a file may be empty.
func readJournal(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var b []byte
	salt, off := uint64(0), headerSize
	for {
		n := len(b)
		b = append(b, make([]byte, journalChunk)...)
		got, err := io.ReadFull(f, b[n:])
		b = b[:n+got]
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			h, err := parseHeader(b, journalMagic)
			if err != nil {
				return b, nil // it is of no use
			}
			salt = h.salt
		}
		for {
			payload, err := openRecord(b[off:], salt, uint64(off))
			if err != nil {
				break
			}
			off += recordHead + len(payload)
			if payload[0] == recEnd {
				return b[:off], nil
			}
		}
		if len(b)-off >= journalChunk { // no end comes: all of it is to be looked at
			rest, err := io.ReadAll(f)
			return append(b, rest...), err
		}
	}
}

// addSpare keeps a recycled file, if it has today's size.
func (j *journal) addSpare(path string) {
	f, err := durable.OpenFile(path)
	if err != nil {
		return
	}
	if size, err := f.Size(); err != nil || len(j.spares) == 2 || size != int64(j.sp.o.JournalFile) {
		f.Close()
		durable.Remove(path)
		return
	}
	j.spares = append(j.spares, f)
}

// replay reads a journal file's records. Where one is wrong, that is the end of
// what was written, or damage: a batch is begun only when the one before is on
// disk, so if another batch begins later, this is damage.
func (r *recovery) replay(s *store, b []byte, last, abandoned bool) {
	off, ended := headerSize, false
	for !ended {
		payload, err := openRecord(b[off:], s.salt, uint64(off))
		if err == nil {
			rec := recordHead + len(payload)
			if ended, err = r.record(s, payload, uint32(off), uint32(rec)); err == nil {
				s.off = off
				off += rec
				continue
			}
		}
		next, more := findRecord(b, s.salt, off+1)
		if more && (last || abandoned) {
			more = laterBatch(b, s.salt, next)
		}
		if !more {
			if !last && !abandoned {
				r.sp.setAside(fmt.Sprintf("journal-%020d-%d", s.gen, off), b[off:min(len(b), off+1<<16)],
					"journal file %d ends too early, at byte %d", s.gen, off)
			}
			s.abandoned = true // it has no end, which the next file's header must say
			return
		}
		r.sp.setAside(fmt.Sprintf("journal-%020d-%d", s.gen, off), b[off:next],
			"journal file %d is damaged from byte %d to %d", s.gen, off, next)
		off = next
	}
}

// laterBatch tells whether a batch begins at off or later.
func laterBatch(b []byte, salt uint64, off int) bool {
	for ok := true; ok; off, ok = findRecord(b, salt, off+1) {
		if payload, err := openRecord(b[off:], salt, uint64(off)); err == nil && payload[0] == recBatch {
			return true
		}
	}
	return false
}

// record replays one record.
func (r *recovery) record(s *store, payload []byte, off, rec uint32) (end bool, err error) {
	switch payload[0] {
	case recBatch:
	case recEnd:
		return true, nil
	case recPut:
		var p putRecord
		if err := p.parse(payload); err != nil {
			return false, err
		}
		r.put(place{p.queue, p.seq}, Entry{
			lane: p.lane, size: uint32(len(p.raw)), born: p.born, life: p.life, id: p.id, store: s, off: off, rec: rec,
		})
	case recShare:
		var p shareRecord
		if err := p.parse(payload); err != nil {
			return false, err
		}
		for _, to := range p.to {
			r.put(to, Entry{
				lane: p.lane, size: uint32(len(p.raw)), born: p.born, life: p.life, id: p.id, store: s, off: off, rec: rec,
			})
		}
	case recDone:
		var d doneRecord
		if err := d.parse(payload); err != nil {
			return false, err
		}
		q := r.sp.Queue(strings.Clone(d.queue))
		for _, seq := range d.seqs {
			r.last = max(r.last, seq)
			e := r.find(q, d.lane, seq)
			if e == nil || e.flags&forgotten != 0 {
				continue
			}
			e.flags |= done | forgotten
			e.store.release()
			if e.store.segment {
				s.dones = append(s.dones, doneRef{q, e, e.store})
			}
		}
	default:
		return false, fmt.Errorf("%w: a record of kind %d", ErrDamaged, payload[0])
	}
	return false, nil
}

// put replays one queue's part of a record that says what e is there.
func (r *recovery) put(to place, e Entry) {
	r.last = max(r.last, to.seq)
	q := r.sp.Queue(strings.Clone(to.queue))
	if r.find(q, e.lane, to.seq) != nil {
		return // filed since
	}
	e.seq, e.flags = to.seq, isDurable
	e.store.live.Add(1)
	r.journals[e.seq] = &e
	l := &q.lanes[e.lane]
	l.ents = append(l.ents, &e)
}

// finish puts a queue in order.
func (r *recovery) finish(q *Queue) {
	sp := r.sp
	q.ids = map[message.ID]uint64{}
	for i := range q.lanes {
		l := &q.lanes[i]
		segs := map[*store]bool{}
		for _, e := range l.ents {
			if e.store.segment {
				segs[e.store] = true
			}
		}
		l.ents = slices.DeleteFunc(l.ents, func(e *Entry) bool { return e.flags&done != 0 })
		slices.SortFunc(l.ents, func(a, b *Entry) int { return int(int64(a.seq - b.seq)) })
		for _, e := range l.ents {
			q.count++
			q.bytes += int64(e.size)
			q.ids[e.id] = 0
			sp.expireAt(e)
			if !e.store.segment {
				q.unfiledLocked()
			} else if n := len(l.segs); n == 0 || l.segs[n-1] != e.store {
				if !slices.Contains(l.segs, e.store) {
					l.segs = append(l.segs, e.store)
				}
			}
		}
		l.file = len(l.ents)
		for s := range segs {
			if s.live.Load() == 0 {
				s.remove()
			}
		}
	}
	if q.refile {
		q.unfiledLocked()
	}
	sp.bytes.Add(q.bytes)
	sp.waiting.Add(int64(q.count))
	if q.count == 0 {
		delete(sp.queues, q.name)
	}
}
