package message

import (
	"fmt"
)

// A file travels as envelopes with counters that follow one another: a Manifest,
// then its parts in order. So a part says which file it is of by the counter of the
// manifest, and which part it is by its own, and there can be no part that overlaps
// another one.

// Bounds of files.
const (
	PartSize    = 48 << 10 // bytes of each part but the last one; with 64 receivers it is an envelope still
	MaxFileSize = 1 << 40  // bytes
	MaxFileName = 255      // bytes
)

// The forms of a file's body, its first element.
const (
	formManifest = 1 + iota
	formPart
	formWithdrawal
)

// Manifest says what a file is; it comes before the parts.
//
// On the wire it is an array of 5: 1, name, size, SHA-256 of the whole, and a map.
type Manifest struct {
	Name string // as the sender calls it: not fit for a file system as it is
	Size int64
	Hash [32]byte
}

// Parts returns how many parts a file of so many bytes has.
func Parts(size int64) uint64 { return uint64(size+PartSize-1) / PartSize }

// Part is a piece of a file.
//
// On the wire it is an array of 4: 2, the counter of the manifest, the bytes, and a map.
type Part struct {
	Manifest uint64
	Data     []byte // 1 to PartSize bytes
}

// Withdrawal says that no more parts of a file will come. Its own counter is any.
//
// On the wire it is an array of 4: 3, the counter of the manifest, a reason, and a map.
type Withdrawal struct {
	Manifest uint64
	Reason   string // for people, 1 to 200 bytes
}

// Append appends the body to dst.
func (m *Manifest) Append(dst []byte) []byte {
	dst = AppendUint(AppendArray(dst, 5), formManifest)
	dst = AppendString(dst, Clean(m.Name, MaxFileName))
	dst = AppendUint(dst, uint64(m.Size))
	dst = AppendBytes(dst, m.Hash[:])
	return AppendMap(dst, 0)
}

// Append appends the body to dst.
func (p *Part) Append(dst []byte) []byte {
	dst = AppendUint(AppendArray(dst, 4), formPart)
	dst = AppendUint(dst, p.Manifest)
	dst = AppendBytes(dst, p.Data)
	return AppendMap(dst, 0)
}

// Append appends the body to dst.
func (w *Withdrawal) Append(dst []byte) []byte {
	dst = AppendUint(AppendArray(dst, 4), formWithdrawal)
	dst = AppendUint(dst, w.Manifest)
	dst = AppendString(dst, Clean(w.Reason, MaxReason))
	return AppendMap(dst, 0)
}

// ParseFile reads the body of a file's envelope: a *Manifest, a *Part, whose bytes
// are shared, or a *Withdrawal.
func ParseFile(body []byte) (any, error) {
	r := NewReader(body)
	n := r.Array(5)
	form := r.Uint(127)
	var what any
	switch {
	case form == formManifest && n == 5:
		m := &Manifest{Name: r.Text(MaxFileName), Size: int64(r.Uint(MaxFileSize))}
		if h := r.Bytes(len(m.Hash)); r.err == nil && copy(m.Hash[:], h) < len(m.Hash) {
			r.Fail("a hash of %d bytes", len(h))
		}
		what = m
	case form == formPart && n == 4:
		p := &Part{Manifest: r.Uint(MaxCounter), Data: r.Bytes(PartSize)}
		if r.err == nil && (len(p.Data) == 0 || p.Manifest == 0) {
			r.Fail("an empty part, or one of no file")
		}
		what = p
	case form == formWithdrawal && n == 4:
		w := &Withdrawal{Manifest: r.Uint(MaxCounter), Reason: r.Text(MaxReason)}
		if r.err == nil && (w.Reason == "" || w.Manifest == 0) {
			r.Fail("a withdrawal without a reason, or of no file")
		}
		what = w
	default:
		r.Fail("form %d of a file with %d fields", form, n)
	}
	r.Fields(nil)
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("file: %w", err)
	}
	return what, nil
}
