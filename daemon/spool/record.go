package spool

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/noipchat/noipchat/daemon/message"
)

// A file of the spool is a header and records. A record is
//
//	mark 4 │ length 4 │ checksum 4 │ payload
//
// little-endian. The mark is the low half of the file's salt: after damage, the
// next record is looked for by it. The checksum is CRC-32C over salt, offset and
// payload, so that neither a record of an earlier life of a recycled file nor one
// in the wrong place passes.
const (
	recordHead = 12
	headerSize = 64
	maxRaw     = message.MaxEnvelope + message.MaxPassage
	maxPayload = maxRaw + 512 + maxShare*(maxQueueName+16)
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header begins a file; on disk it ends with the CRC-32C of what is before.
type header struct {
	magic     [8]byte
	salt      uint64
	gen       uint64 // of a journal file: rises
	seq       uint64 // of a journal file: the last entry's when it was begun
	abandoned uint64 // of a journal file: 1 if the one before has no end, because a write or the process failed
}

var (
	journalMagic = [8]byte([]byte("noipjrn1"))
	segmentMagic = [8]byte([]byte("noipseg1"))
)

func newSalt() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

func (h header) append(b []byte) []byte {
	start := len(b)
	b = append(b, h.magic[:]...)
	for _, v := range []uint64{h.salt, h.gen, h.seq, h.abandoned} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	b = append(b, make([]byte, headerSize-4-(len(b)-start))...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

func parseHeader(b []byte, magic [8]byte) (h header, err error) {
	if len(b) < headerSize {
		return h, fmt.Errorf("%w: shorter than a header", ErrDamaged)
	}
	copy(h.magic[:], b)
	if h.magic != magic {
		return h, fmt.Errorf("%w: no such kind of file", ErrDamaged)
	}
	if crc32.Checksum(b[:headerSize-4], castagnoli) != binary.LittleEndian.Uint32(b[headerSize-4:]) {
		return h, fmt.Errorf("%w: the header's checksum is wrong", ErrDamaged)
	}
	for i, p := range []*uint64{&h.salt, &h.gen, &h.seq, &h.abandoned} {
		*p = binary.LittleEndian.Uint64(b[8+8*i:])
	}
	return h, nil
}

func checksum(salt, off uint64, payload []byte) uint32 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], salt)
	binary.LittleEndian.PutUint64(b[8:], off)
	return crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, payload)
}

// sealRecord completes the record b[at:], whose payload is behind recordHead
// free bytes, for its place in the file.
func sealRecord(b []byte, at int, salt, off uint64) {
	payload := b[at+recordHead:]
	binary.LittleEndian.PutUint32(b[at:], uint32(salt))
	binary.LittleEndian.PutUint32(b[at+4:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(b[at+8:], checksum(salt, off, payload))
}

// openRecord returns the payload of the record that b begins with.
func openRecord(b []byte, salt, off uint64) (payload []byte, err error) {
	if len(b) < recordHead {
		return nil, fmt.Errorf("%w: a record is cut off", ErrDamaged)
	}
	n := binary.LittleEndian.Uint32(b[4:])
	if binary.LittleEndian.Uint32(b) != uint32(salt) || n > maxPayload || int(n) > len(b)-recordHead || n == 0 {
		return nil, fmt.Errorf("%w: no record", ErrDamaged)
	}
	payload = b[recordHead : recordHead+n]
	if checksum(salt, off, payload) != binary.LittleEndian.Uint32(b[8:]) {
		return nil, fmt.Errorf("%w: a record's checksum is wrong", ErrDamaged)
	}
	return payload, nil
}

// The kinds of records; the first byte of a payload.
const (
	recBatch byte = 1 // number: begins what one sync covers
	recPut   byte = 2 // queue, lane, seq, born, life, 16 bytes of id, the envelope to the end
	recDone  byte = 3 // queue, lane, count, first seq, and the distances to the next ones
	recEnd   byte = 4 // the journal goes on in the next file
	recShare byte = 5 // lane, born, life, count, queue and seq of each, 16 bytes of id, the envelope to the end
)

const maxQueueName = message.MaxAddress + 1 + 32

// putRecord is the payload of a recPut.
type putRecord struct {
	queue      string
	lane       uint8
	seq        uint64
	born, life uint32
	id         message.ID
	raw        []byte
}

func (p *putRecord) append(b []byte) []byte {
	b = append(b, recPut)
	b = message.AppendString(b, p.queue)
	b = message.AppendUint(b, uint64(p.lane))
	b = message.AppendUint(b, p.seq)
	b = message.AppendUint(b, uint64(p.born))
	b = message.AppendUint(b, uint64(p.life))
	b = append(b, p.id[:]...)
	return append(b, p.raw...)
}

// parse reads a payload, with which p shares its bytes.
func (p *putRecord) parse(payload []byte) error {
	r := message.NewReader(payload[1:])
	p.queue = r.String(maxQueueName)
	p.lane = uint8(r.Uint(message.Priorities - 1))
	p.seq = r.Uint(1<<63 - 1)
	p.born = uint32(r.Uint(1<<32 - 1))
	p.life = uint32(r.Uint(1<<32 - 1))
	if err := r.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	var err error
	if p.id, p.raw, err = cutEnvelope(r.Rest()); err != nil {
		return err
	}
	return checkQueueName(p.queue)
}

// shareRecord is the payload of a recShare: one envelope that several queues got
// at once, as a recPut for each of them would say it, but with its bytes once.
type shareRecord struct {
	lane       uint8
	born, life uint32
	to         []place
	id         message.ID
	raw        []byte
}

// place is an entry's: its queue and number.
type place struct {
	queue string
	seq   uint64
}

// maxShare bounds the places of one record.
const maxShare = message.MaxTo

func (s *shareRecord) append(b []byte) []byte {
	b = append(b, recShare)
	b = message.AppendUint(b, uint64(s.lane))
	b = message.AppendUint(b, uint64(s.born))
	b = message.AppendUint(b, uint64(s.life))
	b = message.AppendArray(b, len(s.to))
	for _, p := range s.to {
		b = message.AppendString(b, p.queue)
		b = message.AppendUint(b, p.seq)
	}
	b = append(b, s.id[:]...)
	return append(b, s.raw...)
}

// parse reads a payload, with which s shares its bytes. It reuses s.to.
func (s *shareRecord) parse(payload []byte) error {
	r := message.NewReader(payload[1:])
	s.lane = uint8(r.Uint(message.Priorities - 1))
	s.born = uint32(r.Uint(1<<32 - 1))
	s.life = uint32(r.Uint(1<<32 - 1))
	n := r.Array(maxShare)
	s.to = s.to[:0]
	for range n {
		p := place{r.String(maxQueueName), r.Uint(1<<63 - 1)}
		if r.Err() == nil && !validQueueName(p.queue) {
			r.Fail("%q is no queue's name", p.queue)
		}
		s.to = append(s.to, p)
	}
	if err := r.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	var err error
	s.id, s.raw, err = cutEnvelope(r.Rest())
	return err
}

// cutEnvelope splits the end of a record: an envelope behind its id.
func cutEnvelope(b []byte) (id message.ID, raw []byte, err error) {
	if len(b) <= len(id) || len(b) > len(id)+maxRaw {
		return id, nil, fmt.Errorf("%w: an envelope of %d bytes", ErrDamaged, len(b)-len(id))
	}
	return message.ID(b), b[len(id):], nil
}

// doneRecord is the payload of a recDone.
type doneRecord struct {
	queue string
	lane  uint8
	seqs  []uint64 // rising
}

// maxDone bounds the seqs of one record.
const maxDone = 512

func (d *doneRecord) append(b []byte) []byte {
	b = append(b, recDone)
	b = message.AppendString(b, d.queue)
	b = message.AppendUint(b, uint64(d.lane))
	b = message.AppendArray(b, len(d.seqs))
	last := uint64(0)
	for _, s := range d.seqs {
		b = message.AppendUint(b, s-last)
		last = s
	}
	return b
}

func (d *doneRecord) parse(payload []byte) error {
	r := message.NewReader(payload[1:])
	d.queue = r.String(maxQueueName)
	d.lane = uint8(r.Uint(message.Priorities - 1))
	n := r.Array(maxDone)
	d.seqs = d.seqs[:0]
	last := uint64(0)
	for range n {
		step := r.Uint(1<<63 - 1)
		if step == 0 || last+step < last {
			r.Fail("the entries do not rise")
			break
		}
		last += step
		d.seqs = append(d.seqs, last)
	}
	if err := r.End(); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return checkQueueName(d.queue)
}

// checkQueueName keeps a damaged or forged name from becoming a path.
func checkQueueName(name string) error {
	if !validQueueName(name) {
		return fmt.Errorf("%w: %q is no queue's name", ErrDamaged, name)
	}
	return nil
}

func validQueueName(name string) bool {
	if server, _ := strings.CutSuffix(name, copies); IsCopies(name) {
		name = server
	}
	destination, device, found := cut(name)
	if found && message.CheckName(device) != nil {
		return false
	}
	a, err := message.ParseAddress(destination)
	return err == nil && found == (a.User() != "")
}

// copies is what the name of a queue ends in that has, for a peer, copies of what no route
// is known for.
const copies = "/copies"

// CopiesFor is the name of the queue of copies for a peer.
func CopiesFor(peer string) string { return peer + copies }

// IsCopies tells whether a queue is one of copies for a peer.
func IsCopies(name string) bool {
	return strings.HasSuffix(name, copies) && !strings.Contains(name, "@")
}

// cut splits "alice@server1/DEVICE".
func cut(name string) (destination, device string, found bool) {
	for i := range len(name) {
		if name[i] == '/' {
			return name[:i], name[i+1:], true
		}
	}
	return name, "", false
}
