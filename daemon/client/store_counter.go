package client

import (
	"errors"
	"fmt"

	"github.com/noipchat/noipchat/daemon/message"
)

// Prove takes the home's word for how far this device has counted. If this store is
// an older copy of one that went on, the next counter is above all that the other one
// has used, and what was written here meanwhile, whose counters may be used already,
// gets new ones. Such a message has the old one with it, so that who has it by that
// drops it; its old id is remembered, see Status.
//
// With unsure the home knows only that the device has not gone beyond counter.
func (s *Store) Prove(counter uint64, unsure bool) error {
	var due bool
	err := s.db.QueryRow("SELECT counter < ? OR EXISTS (SELECT 1 FROM outbox WHERE unproven = 1) OR EXISTS (SELECT 1 FROM outfile WHERE unproven = 1) FROM account", int64(counter)).Scan(&due)
	if err != nil {
		return s.failed("comparing counters", err)
	}
	if due {
		err = s.write("comparing counters", func() error { return s.prove(counter) })
	}
	if err == nil {
		s.proven.Store(true)
	}
	return err
}

func (s *Store) prove(counter uint64) error {
	var mine uint64 // before anything was written that the home can't know of
	if err := s.row(`SELECT ifnull((SELECT min(counter) - 1 FROM
		(SELECT counter FROM outbox WHERE unproven = 1 UNION ALL SELECT counter FROM outfile WHERE unproven = 1)), counter) FROM account`).Scan(&mine); err != nil {
		return err
	}
	if mine < counter {
		if _, err := s.exec("UPDATE account SET counter = max(counter, ?)", int64(counter)); err != nil {
			return err
		}
		if err := errors.Join(s.renumber(), s.renumberFiles()); err != nil {
			return err
		}
	}
	return s.markProven()
}

func (s *Store) markProven() error {
	_, err := s.exec("UPDATE outbox SET unproven = 0 WHERE unproven = 1")
	if err == nil {
		_, err = s.exec("UPDATE outfile SET unproven = 0 WHERE unproven = 1")
	}
	return err
}

// renumber gives new counters to what is unproven.
func (s *Store) renumber() error {
	type row struct {
		counter uint64
		message int64
		raw     []byte
	}
	rows, err := s.query("SELECT counter, message, raw FROM outbox WHERE unproven = 1 ORDER BY counter")
	if err != nil {
		return err
	}
	defer rows.Close()
	var all []row
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.counter, &r.message, &r.raw); err != nil {
			return err
		}
		all = append(all, r)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, r := range all {
		var e message.Envelope
		if err := e.Parse(r.raw); err != nil {
			return fmt.Errorf("an envelope of the outbox: %w", err)
		}
		if e.Formerly == 0 {
			e.Formerly = e.Counter
		}
		if e.Counter, err = s.count(1); err != nil {
			return err
		}
		raw, err := e.Append(nil)
		if err != nil {
			return err
		}
		if err := s.renamed(r.message, message.IDOf(r.raw), message.IDOf(raw), e.Counter); err != nil {
			return err
		}
		if _, err := s.exec("UPDATE outbox SET counter = ?, raw = ? WHERE counter = ?", int64(e.Counter), raw, int64(r.counter)); err != nil {
			return err
		}
	}
	return nil
}

// renumberFiles is renumber for files, none of which this store has sent anything of. What
// another copy of it has sent by the old counters is another file to who gets it.
func (s *Store) renumberFiles() error {
	files, err := sendFiles(s.query, "o.unproven = 1 ORDER BY o.counter")
	if err != nil {
		return err
	}
	for i := range files {
		f := &files[i]
		e := f.envelope
		e.Body = f.manifest.Append(nil)
		if e.Counter, err = s.count(1 + f.outfile.parts); err != nil {
			return err
		}
		raw, err := e.Append(nil)
		if err != nil {
			return err
		}
		id := message.IDOf(raw)
		if err := s.renamed(f.message, f.id, id, e.Counter); err != nil {
			return err
		}
		if _, err := s.exec("UPDATE outfile SET counter = ? WHERE message = ?", int64(e.Counter), f.message); err != nil {
			return err
		}
	}
	return nil
}

// renamed gives a message another counter and id, and remembers the old one.
func (s *Store) renamed(seq int64, old, id message.ID, counter uint64) error {
	_, err := s.exec("INSERT OR REPLACE INTO former (id, message) VALUES (?, ?)", old[:], seq)
	if err == nil {
		_, err = s.exec("UPDATE message SET id = ?, counter = ? WHERE seq = ?", id[:], int64(counter), seq)
	}
	return err
}

// count takes so many counters, and returns the first.
func (s *Store) count(n uint64) (first uint64, err error) {
	err = s.row("UPDATE account SET counter = counter + ?1 RETURNING counter - ?1 + 1", int64(n)).Scan(&first)
	return first, err
}

// confirm notes that what other processes have written since Prove is proven too: they
// count where it has led the counter.
func (s *Store) confirm() error {
	return s.write("noting what is sent", s.markProven)
}
