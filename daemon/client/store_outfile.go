package client

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// OutgoingFile is a file that a person wants to send.
type OutgoingFile struct {
	To       []message.Address
	List     *List // instead of To: all its members but us
	Path     string
	Lifetime time.Duration
	Hashed   func(bytes, of int64) // told how far its hash is, now and then; nil: nobody asks
}

// EnqueueFile puts a file into the history and the outbox. It is read once now, for
// its hash, and again when it is sent: it must stay where and as it is until then. For
// a list there is a message for each MaxTo of its members.
func (s *Store) EnqueueFile(ctx context.Context, o OutgoingFile) (all []Message, err error) {
	path, err := filepath.Abs(o.Path)
	if err != nil {
		return nil, err
	}
	f, info, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info.Size() > message.MaxFileSize {
		return nil, misusef("%s: %d bytes are more than %d", path, info.Size(), int64(message.MaxFileSize))
	}
	hash := sha256.New()
	n, err := io.Copy(hash, &watched{ctx: ctx, r: io.LimitReader(f, info.Size()), tell: o.Hashed, of: info.Size()})
	if err == nil && n < info.Size() {
		err = misusef("%s: it has become shorter while it was read", path)
	}
	if err != nil {
		return nil, err
	}
	file := File{Name: message.Clean(filepath.Base(path), message.MaxFileName), Size: info.Size(), Path: path, Hash: [32]byte(hash.Sum(nil))}
	err = s.write("storing a file to be sent", func() error {
		send := func(to []message.Address, list message.ListID) error {
			m, err := s.enqueueFile(Outgoing{To: to, List: list, Kind: message.File, Lifetime: o.Lifetime}, file, info.ModTime())
			all = append(all, m)
			return err
		}
		if o.List != nil {
			return s.eachPart(o.List, send)
		}
		return send(o.To, message.ListID{})
	})
	return all, err
}

func openRegular(path string) (*os.File, os.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = misusef("%s is not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// watched is a reader that tells how far it is, and ends with ctx.
type watched struct {
	ctx  context.Context
	r    io.Reader
	n    int64
	of   int64
	tell func(n, of int64)
}

func (w *watched) Read(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := w.r.Read(p)
	w.n += int64(n)
	if w.tell != nil {
		w.tell(w.n, w.of)
	}
	return n, err
}

func (s *Store) enqueueFile(o Outgoing, file File, modified time.Time) (Message, error) {
	parts := message.Parts(file.Size)
	manifest := message.Manifest{Name: file.Name, Size: file.Size, Hash: file.Hash}
	o.Body = manifest.Append(nil)
	e, err := s.begin(o, 1+parts)
	if err != nil {
		return Message{}, err
	}
	m, err := s.record(e)
	if err != nil {
		return Message{}, err
	}
	m.Body, m.File = file.Name, &file
	if _, err := s.exec("UPDATE message SET body = ?, shown = NULL WHERE seq = ?", m.Body, m.Seq); err != nil {
		return Message{}, err
	}
	return m, s.addOutfile(&m, outfile{device: m.Device, counter: m.Counter, parts: parts}, e.Lifetime, modified, true)
}

// addOutfile adds what is known of a file that goes out, or went out from another
// device.
func (s *Store) addOutfile(m *Message, f outfile, lifetime uint32, modified time.Time, open bool) error {
	if err := s.addFile(m); err != nil {
		return err
	}
	if _, err := s.exec("INSERT INTO outfile (message, device, counter, parts, lifetime, modified, unproven, open) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
		m.Seq, int64(f.device), int64(f.counter), int64(f.parts), lifetime, modified.UnixNano(), open && !s.proven.Load(), open); err != nil {
		return err
	}
	for i := range m.To {
		if _, err := s.exec("INSERT INTO outpart (message, position, settled, delivered) VALUES (?, ?, ?, ?)",
			m.Seq, i, message.AppendRanges(nil, nil), message.AppendRanges(nil, nil)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) addFile(m *Message) error {
	_, err := s.exec("INSERT INTO file (message, name, size, hash, path, damage) VALUES (?, ?, ?, ?, ?, ?)",
		m.Seq, m.File.Name, m.File.Size, m.File.Hash[:], m.File.Path, m.File.Damage)
	return err
}

// outfile is the state of a file that goes out.
type outfile struct {
	message   int64
	device    message.DeviceID
	counter   uint64 // of the manifest
	parts     uint64
	receivers []outpart // by position
}

type outpart struct {
	settled, delivered message.Ranges // of numbers of envelopes
	changed            bool
}

const outfileColumns = "message, device, counter, parts"

func scanOutfile(row scanner) (f outfile, err error) {
	var device int64
	err = row.Scan(&f.message, &device, &f.counter, &f.parts)
	f.device = message.DeviceID(device)
	return f, err
}

// query asks as the writer within a transaction, or as a reader.
type query func(text string, args ...any) (*sql.Rows, error)

func (f *outfile) readReceivers(ask query) error {
	rows, err := ask("SELECT settled, delivered FROM outpart WHERE message = ? ORDER BY position", f.message)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var settled, delivered []byte
		if err := rows.Scan(&settled, &delivered); err != nil {
			return err
		}
		var p outpart
		if p.settled, err = readRanges(settled); err == nil {
			p.delivered, err = readRanges(delivered)
		}
		if err != nil {
			return err
		}
		f.receivers = append(f.receivers, p)
	}
	return errors.Join(rows.Err(), rows.Close())
}

// readRanges reads a column of ranges of numbers from 0.
func readRanges(b []byte) (message.Ranges, error) {
	r := message.NewReader(b)
	ranges := r.Ranges(nil, 0, maxScattered)
	return ranges, r.End()
}

// outfileOf returns the file that an envelope of ours is of, nil if it is of none.
func (s *Store) outfileOf(device message.DeviceID, counter uint64) (*outfile, error) {
	f, err := scanOutfile(s.row("SELECT "+outfileColumns+" FROM outfile WHERE device = ? AND counter <= ? ORDER BY counter DESC LIMIT 1", int64(device), int64(counter)))
	if err := ignoreNoRows(err); err != nil {
		return nil, err
	}
	if err != nil || counter > f.counter+f.parts {
		return nil, nil
	}
	return &f, f.readReceivers(s.query)
}

// settle notes what became of the envelopes from first to last for a receiver.
func (f *outfile) settle(position int, first, last uint64, state message.State) {
	if position >= len(f.receivers) {
		return
	}
	p := &f.receivers[position]
	from, to := max(first, f.counter)-f.counter, min(last-min(last, f.counter), f.parts)
	p.settled = bounded(p.settled, message.Range{First: from, Last: to})
	if state >= message.Delivered {
		p.delivered = bounded(p.delivered, message.Range{First: from, Last: to})
	}
	p.changed = true
}

// maxScattered bounds the ranges of a file's envelopes that are kept: what comes after
// so many gaps is taken as if it had not been heard of.
const maxScattered = 1 << 14

func bounded(s message.Ranges, g message.Range) message.Ranges {
	s.AddRange(g)
	return s[:min(len(s), maxScattered)]
}

// storeOutfile writes what has changed, and raises the receivers' states: held when
// every envelope is settled, delivered when every one is.
func (s *Store) storeOutfile(f *outfile, id message.ID, at time.Time) (changed []Change, err error) {
	open := false
	for i := range f.receivers {
		p := &f.receivers[i]
		open = open || p.settled.Count() <= f.parts
		if !p.changed {
			continue
		}
		if _, err := s.exec("UPDATE outpart SET settled = ?, delivered = ? WHERE message = ? AND position = ?",
			message.AppendRanges(nil, p.settled), message.AppendRanges(nil, p.delivered), f.message, i); err != nil {
			return nil, err
		}
		state := message.Queued
		if p.delivered.Count() > f.parts {
			state = message.Delivered
		} else if p.settled.Count() > f.parts {
			state = message.Held
		}
		c := Change{ID: id, Counter: f.counter, State: state, At: storedTime(at.UnixMilli())}
		err := s.row("UPDATE recipient SET state = ?1, at = ?2 WHERE message = ?3 AND position = ?4 AND state < ?1 RETURNING receiver",
			state, at.UnixMilli(), f.message, i).Scan(&c.Receiver)
		if err := ignoreNoRows(err); err != nil {
			return nil, err
		}
		if err == nil {
			changed = append(changed, c)
		}
	}
	if !open {
		_, err = s.exec("UPDATE outfile SET open = 0 WHERE message = ? AND open = 1", f.message)
	}
	return changed, err
}

// settling is the files of which a batch of answers speaks, so that each is read and
// written once.
type settling struct {
	device message.DeviceID
	known  bool
	files  []*settlingFile
}

type settlingFile struct {
	*outfile
	id message.ID
	at time.Time
}

// settle is Store.settle for an envelope of a file.
func (l *settling) settle(s *Store, a Settled) (changed []Change, err error) {
	f, err := l.file(s, a.Counter)
	if f == nil || err != nil {
		return nil, err
	}
	f.at = a.At
	if f.at.IsZero() {
		f.at = time.Now()
	}
	first, last := a.Receiver, a.Receiver
	if a.Receiver == AllOpen {
		first, last = 0, len(f.receivers)-1
	}
	for i := first; i <= last; i++ {
		if a.State != message.Refused && a.State != message.Expired {
			f.settle(i, a.Counter, a.Counter, a.State)
			continue
		}
		c, err := s.failFile(f.outfile, i, f.id, &a, f.at)
		if err != nil {
			return nil, err
		}
		changed = append(changed, c...)
	}
	return changed, nil
}

func (l *settling) file(s *Store, counter uint64) (*settlingFile, error) {
	for _, f := range l.files {
		if counter >= f.counter && counter <= f.counter+f.parts {
			return f, nil
		}
	}
	if !l.known {
		account, err := scanAccount(s.row(accountQuery))
		if err != nil {
			return nil, err
		}
		l.device, l.known = account.Device, true
	}
	f, err := s.outfileOf(l.device, counter)
	if f == nil || err != nil {
		return nil, err
	}
	var id []byte
	if err := s.row("SELECT id FROM message WHERE seq = ?", f.message).Scan(&id); err != nil {
		return nil, err
	}
	l.files = append(l.files, &settlingFile{outfile: f, id: message.ID(id)})
	return l.files[len(l.files)-1], nil
}

func (l *settling) store(s *Store) (changed []Change, err error) {
	for _, f := range l.files {
		c, err := s.storeOutfile(f.outfile, f.id, f.at)
		if err != nil {
			return nil, err
		}
		changed = append(changed, c...)
	}
	return changed, nil
}

// failFile ends the sending of a file to one receiver: he will not have all of it.
func (s *Store) failFile(f *outfile, position int, id message.ID, why *Settled, at time.Time) ([]Change, error) {
	f.settle(position, f.counter, f.counter+f.parts, message.Held)
	c := Change{ID: id, Counter: f.counter, State: why.State, Code: why.Code, Reason: why.Reason, At: storedTime(at.UnixMilli())}
	err := s.row("UPDATE recipient SET state = ?1, code = ?2, reason = ?3, at = ?4 WHERE message = ?5 AND position = ?6 AND state < ?1 RETURNING receiver",
		why.State, why.Code, why.Reason, at.UnixMilli(), f.message, position).Scan(&c.Receiver)
	if err != nil {
		return nil, ignoreNoRows(err)
	}
	return []Change{c}, nil
}

// raiseFile is raise for the files among the messages of a range.
func (s *Store) raiseFile(p *message.Report, g message.Range, at time.Time) (changed []Change, err error) {
	rows, err := s.query(`SELECT o.message, o.device, o.counter, o.parts, r.position, m.id FROM outfile o
		JOIN recipient r ON r.message = o.message AND r.receiver = ?1 JOIN message m ON m.seq = o.message
		WHERE o.device = ?2 AND o.counter <= ?3 AND o.counter + o.parts >= ?4 AND r.state < ?5 ORDER BY o.counter DESC LIMIT 64`,
		p.Receiver, int64(p.Device), int64(g.Last), int64(g.First), p.State)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	type hit struct {
		outfile
		position int
		id       []byte
	}
	var hits []hit
	for rows.Next() {
		var h hit
		var device int64
		if err := rows.Scan(&h.message, &device, &h.counter, &h.parts, &h.position, &h.id); err != nil {
			return nil, err
		}
		h.device = message.DeviceID(device)
		hits = append(hits, h)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	for _, h := range hits {
		if err := h.readReceivers(s.query); err != nil {
			return nil, err
		}
		var c []Change
		switch p.State {
		case message.Refused, message.Expired:
			c, err = s.failFile(&h.outfile, h.position, message.ID(h.id), &Settled{State: p.State, Code: p.Code, Reason: p.Reason}, at)
		case message.Delivered:
			h.settle(h.position, g.First, g.Last, p.State)
		default: // held tells nothing new; read is of the message, and raised with it
			continue
		}
		if err != nil {
			return nil, err
		}
		more, err := s.storeOutfile(&h.outfile, message.ID(h.id), at)
		if err != nil {
			return nil, err
		}
		changed = append(changed, append(c, more...)...)
	}
	return changed, nil
}

// errFileChanged says that a file is not any more what was to be sent.
var errFileChanged = errors.New("the file is not as it was when it was sent")

// outParts returns up to limit envelopes of files, in the order of their counters,
// from the first after the given one on. A file that has changed or gone is withdrawn
// instead.
func (s *Store) outParts(after uint64, limit int) (all []Pending, err error) {
	files, err := sendFiles(s.db.Query, "o.open = 1 AND o.counter + o.parts > ? ORDER BY o.counter LIMIT 4", int64(after))
	if err != nil {
		return nil, err
	}
	for i := range files {
		f := &files[i]
		if err := f.readReceivers(s.db.Query); err != nil {
			return nil, err
		}
		parts, err := f.pending(after, limit-len(all))
		if errors.Is(err, errFileChanged) {
			if err := s.withdraw(f, err); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if all = append(all, parts...); len(all) >= limit {
			break
		}
	}
	return all, nil
}

// sendFiles returns files that go out, but for what became of them.
func sendFiles(ask query, where string, args ...any) (files []sendFile, err error) {
	rows, err := ask(`SELECT o.message, o.device, o.counter, o.parts, o.lifetime, o.modified, o.unproven, m.id, m.sender, m.created, m.receivers, m.list,
			f.name, f.size, f.hash, f.path FROM outfile o JOIN message m ON m.seq = o.message JOIN file f ON f.message = o.message
		WHERE `+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var f sendFile
		var device, created int64
		var id, hash, list []byte
		var to string
		if err := rows.Scan(&f.message, &device, &f.counter, &f.outfile.parts, &f.envelope.Lifetime, &f.modified, &f.unproven, &id, &f.envelope.From, &created, &to, &list,
			&f.manifest.Name, &f.manifest.Size, &hash, &f.path); err != nil {
			return nil, err
		}
		f.device = message.DeviceID(device)
		f.id = message.ID(id)
		f.envelope.Kind, f.envelope.Priority = message.File, message.Bulk
		f.envelope.Device, f.envelope.Created, f.envelope.To = f.device, uint64(created), split(to)
		copy(f.manifest.Hash[:], hash)
		copy(f.envelope.List[:], list)
		files = append(files, f)
	}
	return files, errors.Join(rows.Err(), rows.Close())
}

// sendFile is a file that is being sent.
type sendFile struct {
	outfile
	id       message.ID
	envelope message.Envelope // of all its envelopes: what they have in common
	manifest message.Manifest
	path     string
	modified int64
	unproven bool
}

// pending makes envelopes.
func (f *sendFile) pending(after uint64, limit int) (all []Pending, err error) {
	file, info, err := openRegular(f.path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errFileChanged, err)
	}
	defer file.Close()
	if info.Size() != f.manifest.Size || info.ModTime().UnixNano() != f.modified {
		return nil, fmt.Errorf("%w: %s was changed since", errFileChanged, f.path)
	}
	number := uint64(0)
	if after >= f.counter {
		number = after - f.counter + 1
	}
	buf := make([]byte, message.PartSize)
	for ; number <= f.outfile.parts && len(all) < limit; number++ {
		var open []int
		next := f.outfile.parts + 1 // the first number that somebody lacks
		for i := range f.receivers {
			if n := f.receivers[i].settled.Missing(number); n == number {
				open = append(open, i)
			} else {
				next = min(next, n)
			}
		}
		if len(open) == 0 {
			number = next - 1
			continue
		}
		e := f.envelope
		e.Counter = f.counter + number
		p := Pending{Counter: e.Counter, Priority: message.Bulk, Created: storedTime(int64(e.Created)), Open: open, Unproven: f.unproven}
		if number == 0 {
			e.Body = f.manifest.Append(nil)
			p.ID = f.id
		} else {
			offset := int64(number-1) * message.PartSize
			data := buf[:min(message.PartSize, f.manifest.Size-offset)]
			if _, err := file.ReadAt(data, offset); err != nil {
				return nil, fmt.Errorf("%w: %w", errFileChanged, err)
			}
			e.Body = (&message.Part{Manifest: f.counter, Data: data}).Append(nil)
		}
		if p.Raw, err = e.Append(nil); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// withdraw gives a file up, and tells those who have a part of it.
func (s *Store) withdraw(f *sendFile, why error) error {
	reason := message.Clean(why.Error(), message.MaxReason)
	return s.write("giving a file up", func() error {
		for i := range f.receivers {
			if f.receivers[i].settled.Count() > f.outfile.parts {
				continue
			}
			if _, err := s.failFile(&f.outfile, i, f.id, &Settled{State: message.Refused, Code: message.CodeInvalid, Reason: reason}, time.Now()); err != nil {
				return err
			}
		}
		if _, err := s.storeOutfile(&f.outfile, f.id, time.Now()); err != nil {
			return err
		}
		withdrawal := message.Withdrawal{Manifest: f.counter, Reason: "the sender has changed or removed the file"}
		_, err := s.enqueue(Outgoing{To: slices.Clone(f.envelope.To), Kind: message.File, Body: withdrawal.Append(nil)})
		return err
	})
}

// OutProgress is how far a file is with the receiver who is behind the others: bytes
// that a server has on disk or a device has, and those that a device has.
func (s *Store) OutProgress(m Message) (settled, delivered int64, err error) {
	if m.File == nil || !m.Out {
		return 0, 0, nil
	}
	f := outfile{message: m.Seq}
	if err := f.readReceivers(s.db.Query); err != nil {
		return 0, 0, s.failed("reading how far a file is", err)
	}
	settled, delivered = m.File.Size, m.File.Size
	for _, p := range f.receivers {
		settled = min(settled, int64(p.settled.Count())*message.PartSize)
		delivered = min(delivered, int64(p.delivered.Count())*message.PartSize)
	}
	return settled, delivered, nil
}
