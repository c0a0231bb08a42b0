package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/message"
)

// filesFolder, below the profile's, has the bytes of files that came in.
const filesFolder = "files"

// ErrNoSpace says that there is no space for a file. Texts still go in.
var ErrNoSpace = errors.New("no space for a file")

// spareBytes are left to texts.
const spareBytes = 64 << 20

// Bounds of what is kept of a sender's files whose manifests have not come: an honest
// server keeps the order, so there are few.
const (
	maxHeadless      = 16
	maxHeadlessBytes = 16 << 20
)

// errContradicts ends a file.
var errContradicts = errors.New("it contradicts itself")

// infile is a file that comes in.
type infile struct {
	seq      int64
	manifest []byte // the whole envelope; nil until it is here
	size     int64
	got      message.Ranges
	bytes    int64
	ended    string
}

// arrivals is the files that one batch adds to: they are synced and written once.
type arrivals struct {
	files map[int64]*arriving
	gone  []string // to be removed when the disk says that they aren't needed
}

type arriving struct {
	infile
	f *os.File
}

func (s *Store) filePath(seq int64) string {
	return filepath.Join(filepath.Dir(s.path), filesFolder, strconv.FormatInt(seq, 10))
}

// receiveFile takes an envelope of a file. wrong is why it has no effect.
func (s *Store) receiveFile(in *Incoming, at time.Time, all *arrivals) (complete bool, wrong, err error) {
	e := in.Envelope
	what, wrong := message.ParseFile(e.Body)
	if wrong != nil {
		return false, wrong, nil
	}
	counter := e.Counter
	switch b := what.(type) {
	case *message.Part:
		counter = b.Manifest
	case *message.Withdrawal:
		counter = b.Manifest
	}
	a, wrong, err := s.arriving(in, counter, at, all)
	if a == nil || wrong != nil || err != nil {
		return false, wrong, err
	}
	if a.ended != "" {
		return false, fmt.Errorf("file %d of %s has ended: %s", counter, e.From, a.ended), nil
	}
	switch b := what.(type) {
	case *message.Withdrawal:
		return false, nil, s.endFile(a, all, strings.Clone(b.Reason))
	case *message.Manifest:
		wrong, err = s.takeManifest(a, e, b)
	case *message.Part:
		wrong, err = s.takePart(a, e.Counter-b.Manifest, e.Counter > b.Manifest, b.Data)
	}
	if errors.Is(wrong, errContradicts) {
		err = s.endFile(a, all, wrong.Error())
	}
	if wrong != nil || err != nil {
		return false, wrong, err
	}
	return a.manifest != nil && a.got.Count() == 1+message.Parts(a.size), nil, nil
}

// arriving returns the file with this manifest, and makes it if it is new.
func (s *Store) arriving(in *Incoming, counter uint64, at time.Time, all *arrivals) (a *arriving, wrong, err error) {
	e := in.Envelope
	a = &arriving{}
	var got []byte
	err = s.row("SELECT seq, manifest, size, got, bytes, ended FROM infile WHERE sender = ? AND device = ? AND counter = ?",
		e.From, int64(e.Device), int64(counter)).Scan(&a.seq, &a.manifest, &a.size, &got, &a.bytes, &a.ended)
	if err := ignoreNoRows(err); err != nil {
		return nil, nil, err
	}
	if err == nil {
		if known := all.files[a.seq]; known != nil {
			return known, nil, nil
		}
		a.got, err = readRanges(got)
	} else {
		if e.Counter != counter {
			if wrong, err = s.mayBeHeadless(e.From); wrong != nil || err != nil {
				return nil, wrong, err
			}
		}
		err = s.row("INSERT INTO infile (sender, device, counter, server, unverified, got, bytes, began) VALUES (?, ?, ?, ?, ?, ?, 0, ?) RETURNING seq",
			e.From, int64(e.Device), int64(counter), in.Server, in.Unverified, message.AppendRanges(nil, nil), at.UnixMilli()).Scan(&a.seq)
	}
	if err != nil {
		return nil, nil, err
	}
	if all.files == nil {
		all.files = map[int64]*arriving{}
	}
	all.files[a.seq] = a
	return a, nil, nil
}

// mayBeHeadless tells whether one more file of a sender's may begin without its
// manifest.
func (s *Store) mayBeHeadless(sender message.Address) (wrong, err error) {
	var n, bytes int64
	err = s.row("SELECT count(*), ifnull(sum(bytes), 0) FROM infile WHERE sender = ? AND manifest IS NULL", sender).Scan(&n, &bytes)
	if err == nil && (n >= maxHeadless || bytes >= maxHeadlessBytes) {
		wrong = fmt.Errorf("%s has begun %d files without saying what they are", sender, n)
	}
	return wrong, err
}

func (s *Store) takeManifest(a *arriving, e *message.Envelope, m *message.Manifest) (wrong, err error) {
	parts := message.Parts(m.Size)
	if n := len(a.got); n > 0 && a.got[n-1].Last > parts {
		return fmt.Errorf("%w: of %d parts, part %d is here", errContradicts, parts, a.got[n-1].Last), nil
	}
	a.manifest, a.size = append([]byte(nil), e.Raw...), m.Size
	a.got.AddRange(message.Range{})
	_, err = s.exec("UPDATE infile SET manifest = ?, name = ?, size = ? WHERE seq = ?", a.manifest, strings.Clone(m.Name), m.Size, a.seq)
	return nil, err
}

// takePart writes a part's bytes. They are synced before the transaction ends.
func (s *Store) takePart(a *arriving, number uint64, after bool, data []byte) (wrong, err error) {
	switch {
	case !after || number > message.Parts(message.MaxFileSize):
		return fmt.Errorf("part %d of no file", int64(number)), nil
	case a.manifest == nil && a.bytes >= maxHeadlessBytes:
		return errors.New("too much of a file came without its manifest"), nil
	case len(a.got) >= maxScattered-1 && a.got.Missing(number) == number:
		return errors.New("the parts of a file came in too great a disorder"), nil
	}
	offset := int64(number-1) * message.PartSize
	if a.manifest != nil && (number > message.Parts(a.size) || int64(len(data)) != min(message.PartSize, a.size-offset)) {
		return fmt.Errorf("%w: part %d has %d bytes, in a file of %d", errContradicts, number, len(data), a.size), nil
	}
	if a.f == nil {
		if err := s.openPart(a); err != nil {
			return nil, err
		}
	}
	if _, err := a.f.WriteAt(data, offset); err != nil {
		return nil, noSpace(err)
	}
	a.got.AddRange(message.Range{First: number, Last: number})
	a.bytes += int64(len(data))
	return nil, nil
}

func (s *Store) openPart(a *arriving) error {
	path := s.filePath(a.seq)
	var st syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(s.path), &st); err == nil && int64(st.Bavail)*int64(st.Bsize) < spareBytes {
		return fmt.Errorf("%w: %d MiB are left to texts", ErrNoSpace, spareBytes>>20)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = durable.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
		}
	}
	if err != nil {
		return noSpace(err)
	}
	a.f = f
	if a.bytes == 0 { // it may be new: its name must be on disk too
		return durable.SyncDir(filepath.Dir(path))
	}
	return nil
}

func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// store makes durable what has come of files, within the transaction that says so.
func (all *arrivals) store(s *Store) error {
	for _, a := range all.files {
		if a.f != nil {
			if err := a.f.Sync(); err != nil {
				return noSpace(err)
			}
		}
		complete := a.manifest != nil && a.ended == "" && a.got.Count() == 1+message.Parts(a.size)
		if _, err := s.exec("UPDATE infile SET got = ?, bytes = ?, complete = ? WHERE seq = ?",
			message.AppendRanges(nil, a.got), a.bytes, complete, a.seq); err != nil {
			return err
		}
	}
	return nil
}

func (all *arrivals) close(stored bool) {
	if stored {
		for _, path := range all.gone {
			os.Remove(path) // if it stays, it is only in the way
		}
	}
	for _, a := range all.files {
		if a.f != nil {
			a.f.Close()
		}
	}
}

// endFile has what still comes of a file dropped, and what came removed.
func (s *Store) endFile(a *arriving, all *arrivals, why string) error {
	a.ended, a.got, a.bytes = why, nil, 0
	all.gone = append(all.gone, s.filePath(a.seq))
	_, err := s.exec("UPDATE infile SET ended = ? WHERE seq = ?", why, a.seq)
	return err
}

// FinishFiles checks the files that have come whole, and puts them into the history.
func (s *Store) FinishFiles(ctx context.Context) (finished []Message, err error) {
	rows, err := s.db.Query("SELECT seq, manifest, server, unverified FROM infile WHERE complete = 1 ORDER BY seq")
	if err != nil {
		return nil, s.failed("reading what files have come", err)
	}
	defer rows.Close()
	type whole struct {
		seq      int64
		manifest []byte
		server   string

		unverified bool
	}
	var all []whole
	for rows.Next() {
		var w whole
		if err := rows.Scan(&w.seq, &w.manifest, &w.server, &w.unverified); err != nil {
			return nil, s.failed("reading what files have come", err)
		}
		all = append(all, w)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, s.failed("reading what files have come", err)
	}
	for _, w := range all {
		m, err := s.finishFile(ctx, w.seq, w.manifest, w.server, w.unverified)
		if err != nil {
			return finished, err
		}
		finished = append(finished, m)
	}
	return finished, nil
}

func (s *Store) finishFile(ctx context.Context, seq int64, raw []byte, server string, unverified bool) (m Message, err error) {
	var e message.Envelope
	if err := e.Parse(raw); err != nil {
		return m, fmt.Errorf("the manifest of file %d: %w", seq, err)
	}
	what, err := message.ParseFile(e.Body)
	manifest, ok := what.(*message.Manifest)
	if err != nil || !ok {
		return m, fmt.Errorf("the manifest of file %d is a %T: %w", seq, what, err)
	}
	file := File{Name: manifest.Name, Size: manifest.Size, Hash: manifest.Hash, Path: filepath.Join(filesFolder, strconv.FormatInt(seq, 10))}
	if file.Damage, err = s.checkFile(ctx, seq, manifest); err != nil {
		return m, err
	}
	err = s.write("storing a file that has come", func() error {
		account, err := scanAccount(s.row(accountQuery))
		if err != nil {
			return err
		}
		m = Message{ID: message.IDOf(raw), From: e.From, Device: e.Device, Counter: e.Counter, To: e.To, State: message.Delivered.String(),
			Out: ofOurs(&account, &e), Kind: e.Kind, Created: storedTime(int64(e.Created)), At: storedTime(time.Now().UnixMilli()),
			Server: server, Body: file.Name, File: &file, Unverified: unverified, listID: e.List}
		var reading any
		if !m.Out {
			reading = notShown
		}
		if m.First, err = s.stranger(m.From, account.Address); err != nil {
			return err
		}
		if m.Seq, err = s.insertMessage(&m, int64(e.Created), reading, m.Body); err != nil {
			return err
		}
		if _, err := s.exec("DELETE FROM infile WHERE seq = ?", seq); err != nil {
			return err
		}
		if !m.Out {
			return s.addFile(&m)
		}
		return s.addOurFile(&m)
	})
	return m, err
}

// checkFile compares a file's hash; damage is what is wrong with it.
func (s *Store) checkFile(ctx context.Context, seq int64, m *message.Manifest) (damage string, err error) {
	f, err := os.Open(s.filePath(seq))
	if errors.Is(err, fs.ErrNotExist) && m.Size == 0 {
		if f, err = s.createEmpty(seq); err != nil {
			return "", err
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "its bytes were removed", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	n, err := io.Copy(hash, &watched{ctx: ctx, r: f})
	switch {
	case err != nil:
		return "", err
	case n != m.Size:
		return fmt.Sprintf("it has %d bytes instead of %d", n, m.Size), nil
	case [32]byte(hash.Sum(nil)) != m.Hash:
		return "its hash is wrong: it was changed while it was sent", nil
	}
	return "", nil
}

func (s *Store) createEmpty(seq int64) (*os.File, error) {
	path := s.filePath(seq)
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := durable.WriteFile(path, nil, 0o600); err != nil {
		return nil, noSpace(err)
	}
	return os.Open(path)
}

// addOurFile adds what is known of the receivers of a file that another device of
// ours has sent.
func (s *Store) addOurFile(m *Message) error {
	if err := s.addOurs(m); err != nil {
		return err
	}
	f := outfile{message: m.Seq, device: m.Device, counter: m.Counter, parts: message.Parts(m.File.Size)}
	if err := s.addOutfile(m, f, 0, time.Time{}, false); err != nil {
		return err
	}
	f.receivers = make([]outpart, len(m.To))
	for i, to := range m.To {
		if m.Recipients[i].State == message.Delivered { // the manifest is; and the rest?
			if _, err := s.exec("UPDATE recipient SET state = ? WHERE message = ? AND position = ?", message.Held, m.Seq, i); err != nil {
				return err
			}
		}
		f.settle(i, f.counter, f.counter+f.parts, message.Held) // it came from a server
		delivered, err := s.earlyDelivered(f.device, to, f.counter, f.counter+f.parts)
		if err != nil {
			return err
		}
		for _, g := range delivered {
			f.settle(i, g.First, g.Last, message.Delivered)
		}
	}
	_, err := s.storeOutfile(&f, m.ID, m.At)
	return err
}

func (s *Store) earlyDelivered(device message.DeviceID, receiver message.Address, first, last uint64) (all message.Ranges, err error) {
	rows, err := s.query("SELECT max(first, ?3), min(last, ?4) FROM early WHERE device = ?1 AND receiver = ?2 AND state = ?5 AND first <= ?4 AND last >= ?3",
		int64(device), receiver, int64(first), int64(last), message.Delivered)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var g message.Range
		if err := rows.Scan(&g.First, &g.Last); err != nil {
			return nil, err
		}
		all.AddRange(g)
	}
	return all, errors.Join(rows.Err(), rows.Close())
}

// Coming is a file of which a part is here.
type Coming struct {
	From  message.Address `json:"from"`
	Name  string          `json:"name"`
	Size  int64           `json:"size"` // 0 also if nobody knows yet
	Bytes int64           `json:"bytes"`
	Began time.Time       `json:"began"`
	Ended string          `json:"ended,omitempty"` // why no more comes
}

// Coming returns the files that are coming in, oldest first.
func (s *Store) Coming() (all []Coming, err error) {
	rows, err := s.db.Query("SELECT sender, name, size, bytes, began, ended FROM infile WHERE ended = '' ORDER BY seq")
	if err != nil {
		return nil, s.failed("reading what files are coming", err)
	}
	defer rows.Close()
	for rows.Next() {
		var c Coming
		var began int64
		if err := rows.Scan(&c.From, &c.Name, &c.Size, &c.Bytes, &began, &c.Ended); err != nil {
			return nil, s.failed("reading what files are coming", err)
		}
		c.Began = storedTime(began)
		all = append(all, c)
	}
	if err := rows.Err(); err != nil {
		return nil, s.failed("reading what files are coming", err)
	}
	return all, nil
}

// FilePath is where the file of a message is.
func (s *Store) FilePath(f *File) string {
	if filepath.IsAbs(f.Path) {
		return f.Path
	}
	return filepath.Join(filepath.Dir(s.path), f.Path)
}

// MovedFile notes that a message's file is somewhere else now.
func (s *Store) MovedFile(m Message, path string) error {
	return s.write("noting where a file is", func() error {
		_, err := s.exec("UPDATE file SET path = ? WHERE message = ?", path, m.Seq)
		return err
	})
}
