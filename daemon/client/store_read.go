package client

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/noipchat/noipchat/daemon/message"
)

// Next returns up to limit texts and files that came in after the cursor, in the order of
// arrival. A cursor that was never advanced is before the first one.
func (s *Store) Next(cursor string, limit int) ([]Message, error) {
	rows, err := s.db.Query("SELECT "+messageColumns+` FROM message m
		WHERE m.seq > ifnull((SELECT seq FROM cursor WHERE name = ?), 0) AND m.shown IS NOT NULL AND m.out = 0
		ORDER BY m.seq LIMIT ?`, cursor, limit)
	if err != nil {
		return nil, s.failed("reading new messages", err)
	}
	messages, err := scanMessages(rows)
	if err == nil {
		err = s.complete(messages)
	}
	if err != nil {
		return nil, s.failed("reading new messages", err)
	}
	return messages, nil
}

// Advance moves a cursor onto m, and marks what it passes as shown. A cursor
// never moves back.
func (s *Store) Advance(cursor string, m Message) error {
	return s.write("moving a cursor", func() error {
		var old int64
		err := s.row("SELECT seq FROM cursor WHERE name = ?", cursor).Scan(&old)
		if err := ignoreNoRows(err); err != nil || m.Seq <= old {
			return err
		}
		if _, err := s.exec("INSERT OR REPLACE INTO cursor (name, seq) VALUES (?, ?)", cursor, m.Seq); err != nil {
			return err
		}
		_, err = s.exec("UPDATE message SET shown = ? WHERE seq > ? AND seq <= ? AND shown = ?", shown, old, m.Seq, notShown)
		return err
	})
}

// MarkRead marks texts that came in as shown. Unknown ids are ignored.
func (s *Store) MarkRead(ids ...message.ID) error {
	return s.write("marking messages as read", func() error {
		for _, id := range ids {
			if _, err := s.exec("UPDATE message SET shown = ? WHERE id = ? AND shown = ?", shown, id[:], notShown); err != nil {
				return err
			}
		}
		return nil
	})
}

// receiptBatch bounds how many texts one transaction writes receipts for.
const receiptBatch = 4096

// EnqueueReadReceipts writes the read receipts for the texts that were shown
// and have none yet, one for all texts of a sender's device as far as they fit,
// and returns them; none if there is nothing to do. Texts of a server get none:
// an envelope goes to users.
func (s *Store) EnqueueReadReceipts(ctx context.Context) (receipts []Message, err error) {
	for {
		var due bool // most often not, and then nothing is written
		if err := s.db.QueryRow("SELECT EXISTS (SELECT 1 FROM message WHERE shown = 1)").Scan(&due); err != nil {
			return receipts, s.failed("looking for messages without a read receipt", err)
		}
		if !due {
			return receipts, nil
		}
		if err := ctx.Err(); err != nil {
			return receipts, err
		}
		var batch []Message
		err := s.write("storing read receipts", func() (err error) {
			batch, err = s.enqueueReadReceipts()
			return err
		})
		if err != nil {
			return receipts, err
		}
		receipts = append(receipts, batch...)
	}
}

func (s *Store) enqueueReadReceipts() (receipts []Message, err error) {
	account, err := scanAccount(s.row(accountQuery))
	if err != nil {
		return nil, err
	}
	reports, last, err := s.readReports(account.Address)
	if err != nil {
		return nil, err
	}
	for _, p := range reports {
		for rest := p.Counters; len(rest) > 0 && p.to.User() != ""; {
			n := min(len(rest), message.MaxRanges)
			p.Counters, rest = rest[:n], rest[n:]
			m, err := s.enqueue(Outgoing{To: []message.Address{p.to}, Kind: message.Receipt, Body: p.Append(nil)})
			if err != nil {
				return nil, err
			}
			receipts = append(receipts, m)
		}
	}
	_, err = s.exec("UPDATE message SET shown = ? WHERE shown = 1 AND seq <= ?", receipted, last)
	return receipts, err
}

// readReport is a report to the author of the texts in it.
type readReport struct {
	message.Report
	to message.Address
}

// readReports returns what is to be said of the first receiptBatch texts that
// are due, and the seq of the last of them.
func (s *Store) readReports(me message.Address) (reports []*readReport, last int64, err error) {
	rows, err := s.query("SELECT seq, sender, device, counter FROM message WHERE shown = 1 ORDER BY seq LIMIT ?", receiptBatch)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var sender message.Address
		var device int64
		var counter uint64
		if err := rows.Scan(&last, &sender, &device, &counter); err != nil {
			return nil, 0, err
		}
		i := slices.IndexFunc(reports, func(p *readReport) bool { return p.to == sender && p.Device == message.DeviceID(device) })
		if i < 0 {
			i = len(reports)
			reports = append(reports, &readReport{to: sender,
				Report: message.Report{State: message.Read, Receiver: me, Device: message.DeviceID(device)}})
		}
		reports[i].Counters.Add(counter)
	}
	return reports, last, errors.Join(rows.Err(), rows.Close())
}

func ignoreNoRows(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	return err
}
