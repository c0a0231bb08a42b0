package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/noipchat/noipchat/daemon/message"
)

// Settle sends to disk all that is in hand, and returns when it is there, its owners
// were told, and all that followed from that is on disk too. Nobody else puts
// meanwhile. It fails if the disk takes nothing more, or at the end of ctx.
func (sp *Spool) Settle(ctx context.Context) error {
	for last := false; ; {
		sp.sweepHand(true)
		told := make(chan struct{})
		sp.journal.add(op{kind: opMark, told: told, final: last})
		select {
		case <-told:
		case <-ctx.Done():
			return fmt.Errorf("sending to disk what is in hand: %w", ctx.Err())
		}
		quiet := sp.HandBytes() == 0 && sp.journal.idle()
		switch {
		case sp.Full():
			return errors.New("sending to disk what is in hand: the disk is full")
		case quiet && last:
			return nil
		}
		last = quiet
	}
}

func (j *journal) idle() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.ops) == 0
}

// Regain finds an entry that the pump p was given by another process, by its priority
// and number: it is under way again, as after Next. It returns nil if the entry is
// done, or p is not the queue's pump.
func (q *Queue) Regain(p Pump, priority message.Priority, seq uint64) *Entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.pump != p {
		return nil
	}
	e := q.findLocked(priority, seq)
	if e != nil {
		q.restedLocked(e)
		e.flags |= given
	}
	return e
}

// findLocked returns the entry with a number, nil if it is done.
func (q *Queue) findLocked(priority message.Priority, seq uint64) *Entry {
	l := &q.lanes[laneOf(priority)]
	ents := l.ents[l.head:]
	i, found := slices.BinarySearchFunc(ents, seq, func(e *Entry, seq uint64) int { return int(int64(e.seq - seq)) })
	if !found || ents[i].flags&done != 0 {
		return nil
	}
	return ents[i]
}

// Rested is what is known of an entry besides what is on disk, after it was offered.
type Rested struct {
	Queue    string
	Priority message.Priority
	Seq      uint64
	Open     uint64 // see Queue.Open
	Tries    uint8
	Wait     uint32 // seconds that it still rests; 0: it doesn't
}

// Rested returns that of all entries, for another process, after Settle.
func (sp *Spool) Rested() (all []Rested) {
	now := sp.steady()
	for _, q := range sp.Queues() {
		q.mu.Lock()
		for i := range q.lanes {
			l := &q.lanes[i]
			for _, e := range l.ents[l.head:] {
				if e.flags&done != 0 || e.tries == 0 && e.open == 0 {
					continue
				}
				r := Rested{Queue: q.name, Priority: e.Priority(), Seq: e.seq, Open: e.open, Tries: e.tries}
				if e.flags&resting != 0 {
					r.Wait = max(e.due, now+1) - now
				}
				all = append(all, r)
			}
		}
		q.mu.Unlock()
	}
	return all
}

// Resume takes what another process has returned from Rested. Nobody pumps before.
func (sp *Spool) Resume(all []Rested) {
	for _, r := range all {
		q := sp.Queue(r.Queue)
		q.mu.Lock()
		if e := q.findLocked(r.Priority, r.Seq); e != nil {
			q.triedLocked(e, r.Tries)
			if r.Open != 0 {
				e.open = r.Open
			}
			if r.Wait > 0 {
				q.restLocked(e, r.Wait)
			}
		}
		q.mu.Unlock()
	}
}

// Check looks whether all files of the spool in dir can be read, changes nothing, and
// may run while a server uses it. What is damaged is no error: see Open.
func Check(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			var f *os.File
			if f, err = os.Open(path); err == nil {
				f.Close()
			}
		}
		if errors.Is(err, fs.ErrNotExist) { // there is none yet, or it has just been filed
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("reading the spool: %w", err)
	}
	return nil
}
