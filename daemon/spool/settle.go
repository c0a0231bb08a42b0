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
	l := &q.lanes[laneOf(priority)]
	ents := l.ents[l.head:]
	i, found := slices.BinarySearchFunc(ents, seq, func(e *Entry, seq uint64) int { return int(int64(e.seq - seq)) })
	if !found || ents[i].flags&done != 0 {
		return nil
	}
	ents[i].flags = ents[i].flags&^resting | given
	return ents[i]
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
