package message

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"unicode"
	"unicode/utf8"
	"unsafe"
)

// Canonical MessagePack, as far as NoIPChat uses it: unsigned integers, strings,
// byte strings, arrays, maps and nil, each in its shortest form. Floats, signed
// integers, booleans and extension types do not occur.

// ErrMalformed is wrapped by every error of a Reader.
var ErrMalformed = errors.New("malformed")

// AppendUint appends v in its shortest form.
func AppendUint(b []byte, v uint64) []byte {
	switch {
	case v < 0x80:
		return append(b, byte(v))
	case v <= 0xff:
		return append(b, 0xcc, byte(v))
	case v <= 0xffff:
		return append(b, 0xcd, byte(v>>8), byte(v))
	case v <= 0xffffffff:
		return binary.BigEndian.AppendUint32(append(b, 0xce), uint32(v))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xcf), v)
}

// UintSize is the length of what AppendUint appends: 1 to 9 bytes.
func UintSize(v uint64) int {
	if v < 0x80 {
		return 1
	}
	switch n := bits.Len64(v); {
	case n <= 8:
		return 2
	case n <= 16:
		return 3
	case n <= 32:
		return 5
	}
	return 9
}

// AppendString appends s. What is longer than the 65,535 bytes that have a form
// here gets a head that no Reader takes.
func AppendString(b []byte, s string) []byte {
	switch n := len(s); {
	case n < 32:
		b = append(b, 0xa0|byte(n))
	case n <= 0xff:
		b = append(b, 0xd9, byte(n))
	case n <= 0xffff:
		b = append(b, 0xda, byte(n>>8), byte(n))
	default:
		b = append(b, invalid)
	}
	return append(b, s...)
}

// AppendBytes appends a byte string, bounded as AppendString's.
func AppendBytes(b, s []byte) []byte {
	switch n := len(s); {
	case n <= 0xff:
		b = append(b, 0xc4, byte(n))
	case n <= 0xffff:
		b = append(b, 0xc5, byte(n>>8), byte(n))
	default:
		b = append(b, invalid)
	}
	return append(b, s...)
}

// AppendArray begins an array of n elements, bounded as AppendString's.
func AppendArray(b []byte, n int) []byte {
	switch {
	case n < 16:
		return append(b, 0x90|byte(n))
	case n <= 0xffff:
		return append(b, 0xdc, byte(n>>8), byte(n))
	}
	return append(b, invalid)
}

// invalid is the one byte that MessagePack gives no meaning.
const invalid = 0xc1

// AppendMap begins a map of n pairs, at most 15.
func AppendMap(b []byte, n int) []byte { return append(b, 0x80|byte(n)) }

// AppendNil appends nil.
func AppendNil(b []byte) []byte { return append(b, 0xc0) }

// A Reader decodes canonical MessagePack from a byte slice without copying. The
// first error stays: later calls return zero values, and Err tells it. A length
// is checked against what is there before anything is done with it.
type Reader struct {
	all []byte
	off int
	err error
}

// NewReader reads b, which must not change while its results are in use.
func NewReader(b []byte) Reader { return Reader{all: b} }

// Err returns the first error: what was wrong and at which byte.
func (r *Reader) Err() error { return r.err }

// Rest returns what was not read.
func (r *Reader) Rest() []byte { return r.all[r.off:] }

// Fail records an error of the caller's at the present place, unless there is one.
func (r *Reader) Fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w at byte %d: %s", ErrMalformed, r.off, fmt.Sprintf(format, args...))
	}
}

// End fails if there is more.
func (r *Reader) End() error {
	if r.err == nil && r.off != len(r.all) {
		r.Fail("%d bytes too many", len(r.all)-r.off)
	}
	return r.err
}

// Uint reads an unsigned integer of at most max.
func (r *Reader) Uint(max uint64) uint64 {
	if r.err == nil && r.off < len(r.all) {
		if c := r.all[r.off]; c < 0x80 && uint64(c) <= max {
			r.off++
			return uint64(c)
		}
	}
	return r.uintSlow(max)
}

func (r *Reader) uintSlow(max uint64) uint64 {
	if r.err != nil {
		return 0
	}
	b := r.all[r.off:]
	if len(b) == 0 {
		r.Fail("want a number, have the end")
		return 0
	}
	var v, least uint64
	size := 1
	switch b[0] {
	case 0xcc:
		size, least = 2, 0x80
	case 0xcd:
		size, least = 3, 0x100
	case 0xce:
		size, least = 5, 0x10000
	case 0xcf:
		size, least = 9, 0x100000000
	default:
		if b[0] >= 0x80 {
			r.Fail("want a number, have type %#x", b[0])
			return 0
		}
		v = uint64(b[0])
	}
	if len(b) < size {
		r.Fail("a number is cut off")
		return 0
	}
	for _, c := range b[1:size] {
		v = v<<8 | uint64(c)
	}
	if v < least {
		r.Fail("the number %d is not in its shortest form", v)
		return 0
	}
	if v > max {
		r.Fail("the number %d is above %d", v, max)
		return 0
	}
	r.off += size
	return v
}

// length reads the head of a string, byte string, array or map: small is the
// type byte of the short form, whose low bits under mask are the length; one and
// two are the type bytes of the forms with 1 and 2 bytes of length, 0 for none.
func (r *Reader) length(what string, small, mask, one, two byte, max int) int {
	if r.err != nil {
		return 0
	}
	b := r.all[r.off:]
	if len(b) == 0 {
		r.Fail("want %s, have the end", what)
		return 0
	}
	n, size := 0, 0
	switch c := b[0]; {
	case mask != 0 && c&^mask == small:
		n, size = int(c&mask), 1
	case one != 0 && c == one && len(b) >= 2:
		n, size = int(b[1]), 2
		if mask != 0 && n <= int(mask) {
			r.Fail("the length %d of %s is not in its shortest form", n, what)
			return 0
		}
	case two != 0 && c == two && len(b) >= 3:
		n, size = int(b[1])<<8|int(b[2]), 3
		if (one != 0 && n <= 0xff) || n <= int(mask) {
			r.Fail("the length %d of %s is not in its shortest form", n, what)
			return 0
		}
	case c == one && one != 0 || c == two && two != 0:
		r.Fail("the length of %s is cut off", what)
		return 0
	default:
		r.Fail("want %s, have type %#x", what, c)
		return 0
	}
	if n > max {
		r.Fail("%s of length %d is longer than %d", what, n, max)
		return 0
	}
	r.off += size
	return n
}

func (r *Reader) take(what string, n int) []byte {
	if r.err != nil {
		return nil
	}
	if len(r.all)-r.off < n {
		r.Fail("%s of %d bytes is cut off after %d", what, n, len(r.all)-r.off)
		return nil
	}
	r.off += n
	return r.all[r.off-n : r.off : r.off]
}

// String reads valid UTF-8 of at most max bytes. The string shares the bytes.
func (r *Reader) String(max int) string {
	b := r.take("a string", r.length("a string", 0xa0, 0x1f, 0xd9, 0xda, max))
	if len(b) == 0 {
		return ""
	}
	s := unsafe.String(&b[0], len(b))
	if !utf8.ValidString(s) {
		r.off -= len(b)
		r.Fail("a string is not valid UTF-8")
		return ""
	}
	return s
}

// Text reads a string for people, which has no control characters (U+0000 to
// U+001F, U+007F to U+009F), so that it can be put in a log or on a terminal.
func (r *Reader) Text(max int) string {
	start := r.off
	s := r.String(max)
	if strings.ContainsFunc(s, unicode.IsControl) {
		r.off = start
		r.Fail("a text has control characters")
		return ""
	}
	return s
}

// Bytes reads a byte string of at most max bytes. The slice shares the bytes.
func (r *Reader) Bytes(max int) []byte {
	return r.take("a byte string", r.length("a byte string", 0, 0, 0xc4, 0xc5, max))
}

// Array reads the head of an array of at most max elements, each of which takes
// at least one byte, so that the count is checked against what is there.
func (r *Reader) Array(max int) int {
	n := r.length("an array", 0x90, 0x0f, 0, 0xdc, max)
	if r.err == nil && n > len(r.all)-r.off {
		r.Fail("an array of %d elements is cut off", n)
		return 0
	}
	return n
}

// Tuple reads the head of an array that must have n elements.
func (r *Reader) Tuple(n int) {
	if have := r.Array(n); r.err == nil && have != n {
		r.Fail("want an array of %d elements, have %d", n, have)
	}
}

// Nil reports whether nil comes next, and reads it if so.
func (r *Reader) Nil() bool {
	if r.err == nil && r.off < len(r.all) && r.all[r.off] == 0xc0 {
		r.off++
		return true
	}
	return false
}

// Name reads a name, as CheckName wants it.
func (r *Reader) Name() string {
	s := r.String(MaxName)
	if err := CheckName(s); r.err == nil && err != nil {
		r.Fail("%v", err)
	}
	return s
}

// Address reads an address; with user false it may be a server's.
func (r *Reader) Address(user bool) Address {
	start := r.off
	s := r.String(MaxAddress)
	if r.err != nil {
		return ""
	}
	if !validAddress(s) {
		r.off = start
		r.Fail("%q is not an address", clip(s))
		return ""
	}
	a := Address(s)
	if user && a.User() == "" {
		r.off = start
		r.Fail("%q has no user", clip(s))
	}
	return a
}

// Critical is the first key of a map that a reader may skip when it doesn't
// know it. A key below must be known.
const Critical = 64

// Fields reads a map of at most 15 pairs whose keys are numbers in rising
// order, and calls field for each, which reads the value and returns true, or
// returns false if it doesn't know the key. Unknown keys from Critical on are
// skipped; their values are numbers, strings or byte strings.
func (r *Reader) Fields(field func(key uint64) bool) {
	n := r.length("a map", 0x80, 0x0f, 0, 0, 15)
	for i, last := 0, uint64(0); i < n && r.err == nil; i++ {
		key := r.Uint(255)
		if r.err != nil {
			return
		}
		if i > 0 && key <= last {
			r.Fail("the keys of a map do not rise: %d after %d", key, last)
			return
		}
		last = key
		if field != nil && field(key) || r.err != nil {
			continue
		}
		if key < Critical {
			r.Fail("unknown field %d", key)
			return
		}
		r.skip()
	}
}

func (r *Reader) skip() {
	if r.off >= len(r.all) {
		r.Fail("want a value, have the end")
		return
	}
	switch c := r.all[r.off]; {
	case c < 0x80 || c >= 0xcc && c <= 0xcf:
		r.Uint(1<<64 - 1)
	case c&0xe0 == 0xa0 || c == 0xd9 || c == 0xda:
		r.String(0xffff)
	default:
		r.Bytes(0xffff)
	}
}
