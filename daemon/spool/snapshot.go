package spool

import (
	"context"
	"os"
	"path/filepath"

	"github.com/noipchat/noipchat/daemon/durable"
)

// Piece is the beginning of a file of the journal, for who makes a copy.
type Piece struct {
	Name string // below the spool's folder
	Size int64
	File *os.File
}

// still is a request to the filer to do something while it does nothing else.
type still struct {
	do   func() error
	done chan error
}

// Snapshot calls link while no queue file is written or merged, and returns the journal
// as it was just before. Queue files that go meanwhile have only what is done; so with
// those that link finds, the journal has all that was safe. What it returns stays as
// it is, whatever the spool does; the caller closes the files.
func (sp *Spool) Snapshot(ctx context.Context, link func() error) (pieces []Piece, err error) {
	s := still{func() (err error) {
		if pieces, err = sp.journal.pieces(); err == nil {
			err = link()
		}
		return err
	}, make(chan error, 1)}
	select {
	case sp.still <- s:
		err = <-s.done
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		for _, p := range pieces {
			p.File.Close()
		}
		return nil, err
	}
	return pieces, nil
}

// pieces opens the journal's files. They are not recycled any more.
func (j *journal) pieces() (all []Piece, err error) {
	j.filesMu.Lock()
	defer j.filesMu.Unlock()
	for _, s := range j.files {
		p := Piece{Name: filepath.Join("journal", filepath.Base(s.f.Name())), Size: int64(s.off)}
		if p.File, err = os.Open(s.f.Name()); err != nil {
			return all, err
		}
		all = append(all, p)
		s.kept = true
		if s != j.cur { // after a start, off is not its end
			if p.Size, err = s.f.Size(); err != nil {
				return all, err
			}
			all[len(all)-1] = p
		}
	}
	return all, nil
}

// Left tells of a name below a spool's folder whether a copy does without it: the reserve,
// recycled files, and what a crash has left.
func Left(name string) bool {
	base := filepath.Base(name)
	return name == "reserve" || filepath.Dir(name) == "journal" && len(base) > 6 && base[:6] == "spare-" || durable.IsTemp(base)
}
