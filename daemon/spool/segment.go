package spool

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"regexp"

	"github.com/noipchat/noipchat/daemon/message"
)

// A queue file has the entries of one queue and priority, in order, and an index
// at its end, so that a start reads the index only:
//
//	header │ put records … │ index: 44 bytes each │ offset 8, count 4, checksum 4, magic 8
//
// It is written whole by atomic rename and never changed. Its name is the
// priority, the first and last entry's numbers (20 digits), and the salt (16 hex
// digits): a file that replaces others may have the numbers of one of them, for
// entries become durable out of order, but never its name.
const (
	indexEntry = 44
	footerSize = 24
)

var footerMagic = [8]byte([]byte("noipidx1"))

func segmentName(lane uint8, first, last, salt uint64) string {
	return fmt.Sprintf("%d-%020d-%020d-%016x", lane, first, last, salt)
}

// segmentWriter makes a queue file in memory.
type segmentWriter struct {
	salt  uint64
	lane  uint8
	first uint64
	b     []byte
	index []byte
}

func newSegmentWriter(lane uint8) *segmentWriter {
	w := &segmentWriter{salt: newSalt(), lane: lane}
	w.b = header{magic: segmentMagic, salt: w.salt}.append(nil)
	return w
}

// add appends an entry and returns the place of its record.
func (w *segmentWriter) add(p *putRecord) (off, rec uint32) {
	if w.first == 0 {
		w.first = p.seq
	}
	at := len(w.b)
	w.b = p.append(append(w.b, make([]byte, recordHead)...))
	sealRecord(w.b, at, w.salt, uint64(at))
	off, rec = uint32(at), uint32(len(w.b)-at)
	w.index = binary.LittleEndian.AppendUint64(w.index, p.seq)
	w.index = append(w.index, p.id[:]...)
	for _, v := range []uint32{off, rec, uint32(len(p.raw)), p.born, p.life} {
		w.index = binary.LittleEndian.AppendUint32(w.index, v)
	}
	return off, rec
}

// finish returns the whole file.
func (w *segmentWriter) finish() []byte {
	at := len(w.b)
	count := len(w.index) / indexEntry
	b := append(w.b, w.index...)
	sum := crc32.Checksum(w.index, castagnoli)
	b = binary.LittleEndian.AppendUint64(b, uint64(at))
	b = binary.LittleEndian.AppendUint32(b, uint32(count))
	b = binary.LittleEndian.AppendUint32(b, sum)
	return append(b, footerMagic[:]...)
}

// openSegment reads a queue file's header and index: the entries, without their
// envelopes.
func openSegment(path string) (*store, []Entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	size := info.Size()
	if size > 1<<32-1 {
		return nil, nil, fmt.Errorf("%w: larger than a queue file can be", ErrDamaged)
	}
	var head [headerSize]byte
	f.ReadAt(head[:], 0) // what is missing fails the checksum
	h, err := parseHeader(head[:], segmentMagic)
	if err != nil {
		return nil, nil, err
	}
	s := &store{segment: true, path: path, salt: h.salt}
	entries, err := readIndex(f, size, s)
	if err != nil {
		return s, nil, err
	}
	return s, entries, nil
}

func readIndex(f *os.File, size int64, s *store) ([]Entry, error) {
	lane := filepath.Base(s.path)[0] - '0'
	var foot [footerSize]byte
	if size < headerSize+footerSize {
		return nil, fmt.Errorf("%w: shorter than a queue file can be", ErrDamaged)
	}
	if _, err := f.ReadAt(foot[:], size-footerSize); err != nil {
		return nil, err
	}
	at, count := int64(binary.LittleEndian.Uint64(foot[:])), int64(binary.LittleEndian.Uint32(foot[8:]))
	if [8]byte(foot[16:]) != footerMagic || at < headerSize || at > size || at+count*indexEntry != size-footerSize {
		return nil, fmt.Errorf("%w: the end is not that of a queue file", ErrDamaged)
	}
	index := make([]byte, count*indexEntry)
	if _, err := f.ReadAt(index, at); err != nil {
		return nil, err
	}
	if crc32.Checksum(index, castagnoli) != binary.LittleEndian.Uint32(foot[12:]) {
		return nil, fmt.Errorf("%w: the index's checksum is wrong", ErrDamaged)
	}
	entries := make([]Entry, count)
	last := uint64(0)
	for i := range entries {
		b, e := index[i*indexEntry:], &entries[i]
		e.seq = binary.LittleEndian.Uint64(b)
		e.id = message.ID(b[8:24])
		e.off, e.rec = binary.LittleEndian.Uint32(b[24:]), binary.LittleEndian.Uint32(b[28:])
		e.size, e.born, e.life = binary.LittleEndian.Uint32(b[32:]), binary.LittleEndian.Uint32(b[36:]), binary.LittleEndian.Uint32(b[40:])
		e.lane, e.store, e.flags = lane, s, isDurable
		if e.seq <= last || int64(e.off)+int64(e.rec) > at || e.rec > recordHead+maxPayload {
			return nil, fmt.Errorf("%w: the index is not one", ErrDamaged)
		}
		last = e.seq
	}
	return entries, nil
}

// scanSegment finds the entries of a queue file whose index is damaged, by their
// records.
func scanSegment(s *store) ([]Entry, error) {
	b, err := os.ReadFile(s.path)
	if err != nil {
		return nil, err
	}
	lane := filepath.Base(s.path)[0] - '0'
	var entries []Entry
	last := uint64(0)
	for off := headerSize; ; {
		at, ok := findRecord(b, s.salt, off)
		if !ok {
			return entries, nil
		}
		payload, _ := openRecord(b[at:], s.salt, uint64(at))
		rec := recordHead + len(payload)
		off = at + rec
		var p putRecord
		if payload[0] != recPut || p.parse(payload) != nil || p.seq <= last {
			continue
		}
		last = p.seq
		entries = append(entries, Entry{
			seq: p.seq, id: p.id, off: uint32(at), rec: uint32(rec), size: uint32(len(p.raw)),
			born: p.born, life: p.life, lane: lane, store: s, flags: isDurable,
		})
	}
}

var segmentNames = regexp.MustCompile(`^[0-9]-[0-9]{20}-[0-9]{20}-[0-9a-f]{16}$`)

func isSegmentName(name string) bool {
	return segmentNames.MatchString(name) && name[0] < '0'+message.Priorities
}
