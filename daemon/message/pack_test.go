package message

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/tinylib/msgp/msgp"
)

// canonical reads any MessagePack with another implementation, which is not
// strict, and writes it again with ours.
func canonical(dst, b []byte) (out, rest []byte, err error) {
	switch msgp.NextType(b) {
	case msgp.UintType, msgp.IntType:
		v, rest, err := msgp.ReadUint64Bytes(b)
		return AppendUint(dst, v), rest, err
	case msgp.StrType:
		v, rest, err := msgp.ReadStringZC(b)
		return AppendString(dst, string(v)), rest, err
	case msgp.BinType:
		v, rest, err := msgp.ReadBytesZC(b)
		return AppendBytes(dst, v), rest, err
	case msgp.NilType:
		rest, err := msgp.ReadNilBytes(b)
		return AppendNil(dst), rest, err
	case msgp.ArrayType, msgp.MapType:
		var n uint32
		if msgp.NextType(b) == msgp.ArrayType {
			n, rest, err = msgp.ReadArrayHeaderBytes(b)
			dst = AppendArray(dst, int(n))
		} else {
			n, rest, err = msgp.ReadMapHeaderBytes(b)
			dst = AppendMap(dst, int(n))
			n *= 2
		}
		for ; n > 0 && err == nil; n-- {
			dst, rest, err = canonical(dst, rest)
		}
		return dst, rest, err
	}
	return nil, nil, fmt.Errorf("type %v does not occur", msgp.NextType(b))
}

// checkCanonical fails if b, which a decoder of ours has taken, is not the one
// encoding of what it says.
func checkCanonical(t *testing.T, b []byte) {
	t.Helper()
	again, rest, err := canonical(nil, b)
	if err != nil || len(rest) != 0 || !bytes.Equal(again, b) {
		t.Fatalf("taken as canonical: %x\nbut again it is  %x, %d bytes too many, %v", b, again, len(rest), err)
	}
}

// edges are the numbers around which a form changes.
var edges = []uint64{0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x10000, math.MaxUint32, math.MaxUint32 + 1, math.MaxInt64, math.MaxInt64 + 1, math.MaxUint64}

func TestUint(t *testing.T) {
	for _, v := range edges {
		b := AppendUint(nil, v)
		if len(b) != UintSize(v) {
			t.Errorf("%d takes %d bytes, and UintSize says %d", v, len(b), UintSize(v))
		}
		if !bytes.Equal(b, msgp.AppendUint64(nil, v)) {
			t.Errorf("%d is %x; msgp says %x", v, b, msgp.AppendUint64(nil, v))
		}
		r := NewReader(b)
		if got := r.Uint(v); got != v || r.End() != nil {
			t.Errorf("%x is read as %d, %v", b, got, r.Err())
		}
		if v > 0 {
			r = NewReader(b)
			if r.Uint(v-1) != 0 || !errors.Is(r.Err(), ErrMalformed) {
				t.Errorf("%d is not above %d", v, v-1)
			}
		}
		for n := range b {
			r = NewReader(b[:n])
			if r.Uint(math.MaxUint64) != 0 || r.Err() == nil {
				t.Errorf("%x is taken for a number", b[:n])
			}
		}
	}
	for _, form := range []struct {
		code  byte
		size  int
		least uint64
	}{{0xcc, 1, 0x80}, {0xcd, 2, 0x100}, {0xce, 4, 0x10000}, {0xcf, 8, 1 << 32}} {
		for _, v := range []uint64{0, form.least - 1} {
			b := []byte{form.code}
			for i := form.size - 1; i >= 0; i-- {
				b = append(b, byte(v>>(8*i)))
			}
			r := NewReader(b)
			if r.Uint(math.MaxUint64); r.Err() == nil || !strings.Contains(r.Err().Error(), "shortest") {
				t.Errorf("%x is taken: %v", b, r.Err())
			}
		}
	}
}

func TestLengths(t *testing.T) {
	kinds := []struct {
		name   string
		append func(b []byte, n int) []byte
		oracle func(b []byte, n int) []byte
		read   func(r *Reader, max int) int
	}{
		{"string", func(b []byte, n int) []byte { return AppendString(b, strings.Repeat("a", n)) },
			func(b []byte, n int) []byte { return msgp.AppendString(b, strings.Repeat("a", n)) },
			func(r *Reader, max int) int { return len(r.String(max)) }},
		{"bytes", func(b []byte, n int) []byte { return AppendBytes(b, make([]byte, n)) },
			func(b []byte, n int) []byte { return msgp.AppendBytes(b, make([]byte, n)) },
			func(r *Reader, max int) int { return len(r.Bytes(max)) }},
		{"array", func(b []byte, n int) []byte { return append(AppendArray(b, n), make([]byte, n)...) },
			func(b []byte, n int) []byte { return append(msgp.AppendArrayHeader(b, uint32(n)), make([]byte, n)...) },
			func(r *Reader, max int) int {
				n := r.Array(max)
				for range n {
					r.Uint(0)
				}
				return n
			}},
	}
	for _, k := range kinds {
		for _, n := range []int{0, 1, 15, 16, 31, 32, 255, 256, 65535} {
			b := k.append(nil, n)
			if !bytes.Equal(b, k.oracle(nil, n)) {
				t.Errorf("%s of %d begins with %x; msgp's with %x", k.name, n, b[:min(len(b), 5)], k.oracle(nil, n)[:min(len(b), 5)])
			}
			r := NewReader(b)
			if got := k.read(&r, n); got != n || r.End() != nil {
				t.Errorf("%s of %d is read as %d, %v", k.name, n, got, r.Err())
			}
			if r = NewReader(b); n > 0 && (k.read(&r, n-1) != 0 || r.Err() == nil) {
				t.Errorf("%s of %d is not longer than %d", k.name, n, n-1)
			}
			for _, cut := range []int{0, 1, 2, 3, len(b) - 1} {
				r = NewReader(b[:min(cut, len(b)-1)])
				if k.read(&r, 65535); r.Err() == nil {
					t.Errorf("%s of %d, cut off after %d, is taken", k.name, n, cut)
				}
			}
		}
		r := NewReader(k.append(nil, 65536))
		if k.read(&r, math.MaxInt32); r.Err() == nil {
			t.Errorf("%s of 65,536 has a form that is taken", k.name)
		}
	}
}

// TestRefused has the forms that MessagePack allows and we don't.
func TestRefused(t *testing.T) {
	read := map[string]func(r *Reader){
		"uint":   func(r *Reader) { r.Uint(math.MaxUint64) },
		"string": func(r *Reader) { r.String(65535) },
		"text":   func(r *Reader) { r.Text(65535) },
		"bytes":  func(r *Reader) { r.Bytes(65535) },
		"array":  func(r *Reader) { r.Array(65535) },
		"fields": func(r *Reader) { r.Fields(func(uint64) bool { return false }) },
		"ranges": func(r *Reader) { r.Ranges(nil, 1, 3) },
	}
	for _, c := range []struct{ what, bytes, want string }{
		{"uint", "d001", "type 0xd0"},       // signed
		{"uint", "ff", "type 0xff"},         // -1
		{"uint", "ca00000000", "type 0xca"}, // a float
		{"uint", "c3", "type 0xc3"},         // true
		{"uint", "c0", "type 0xc0"},         // nil
		{"string", "d90161", "shortest"},    // 1 byte of length for 1
		{"string", "da000161", "shortest"},  // 2 bytes of length for 1
		{"string", "da00ff" + strings.Repeat("61", 255), "shortest"},
		{"string", "db00000001ff", "type 0xdb"}, // 4 bytes of length
		{"string", "dbffffffff", "type 0xdb"},   // and 4 GiB
		{"string", "c40161", "type 0xc4"},       // bytes
		{"string", "a1ff", "UTF-8"},             //
		{"string", "a2c080", "UTF-8"},           // NUL in two bytes
		{"string", "a3eda080", "UTF-8"},         // half a surrogate pair
		{"text", "a10a", "control"},             // line feed
		{"text", "a11b", "control"},             // escape
		{"text", "a17f", "control"},             // delete
		{"text", "a2c29b", "control"},           // U+009B, which is escape and [
		{"bytes", "c5000161", "shortest"},       //
		{"bytes", "c600000001ff", "type 0xc6"},  //
		{"bytes", "a161", "type 0xa1"},          // a string
		{"array", "dc000101", "shortest"},       //
		{"array", "dd0000000101", "type 0xdd"},  //
		{"array", "9f" + strings.Repeat("00", 14), "cut off"},
		{"array", "dcffff00", "cut off"},         // 65,535 elements in one byte
		{"array", "80", "type 0x80"},             // a map
		{"fields", "de0000", "type 0xde"},        // a map in its longer form
		{"fields", "8240014001", "do not rise"},  // one key twice
		{"fields", "8241014001", "do not rise"},  //
		{"fields", "813f01", "unknown field 63"}, // critical
		{"fields", "8140", "have the end"},       //
		{"fields", "8140c0", "type 0xc0"},        // nil as a value
		{"fields", "814090", "type 0x90"},        // an array as a value
		{"fields", "8140a1ff", "UTF-8"},          //
		{"fields", "81cd010001", "above 255"},    //
		{"fields", "81a14001", "type 0xa1"},      // a string as a key
		{"ranges", "9101", "no ranges"},          //
		{"ranges", "920001", "not apart"},        // below the least
		{"ranges", "920100", "empty"},            //
		{"ranges", "9401010201", "not apart"},    // touches
		{"ranges", "9405010101", "not apart"},    // falls
		{"ranges", "9202cf7fffffffffffffff", "large"},
		{"ranges", "98" + "0101" + "0301" + "0501" + "0701", "longer than"},
	} {
		b, err := hex.DecodeString(c.bytes)
		if err != nil {
			t.Fatal(c, err)
		}
		r := NewReader(b)
		read[c.what](&r)
		if err := r.Err(); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v; want %q", c.what, c.bytes, err, c.want)
		}
	}
}

func TestSkipsUnknownFields(t *testing.T) {
	for _, b := range []string{"80", "814007", "8140cfffffffffffffffff", "8140a0", "8140a3616263", "8140c403ffffff", "834001" + "41a161" + "ccffc400"} {
		raw, _ := hex.DecodeString(b)
		r := NewReader(raw)
		if r.Fields(nil); r.End() != nil {
			t.Errorf("%s: %v", b, r.Err())
		}
	}
}

// TestFirstErrorStays: what comes after an error changes and reads nothing.
func TestFirstErrorStays(t *testing.T) {
	r := NewReader([]byte{0xff, 1, 0xa1, 'a', 0xc4, 0, 0x90, 0x80})
	r.Uint(9)
	first := r.Err()
	if r.Uint(9) != 0 || r.String(9) != "" || r.Text(9) != "" || len(r.Bytes(9)) != 0 || r.Array(9) != 0 || r.Nil() || r.Address(true) != "" ||
		len(r.Ranges(nil, 0, 9)) != 0 {
		t.Error("something was read after an error")
	}
	r.Fields(func(uint64) bool { t.Error("a field after an error"); return true })
	r.Fail("another")
	if r.Err() != first || r.End() != first {
		t.Errorf("%v became %v", first, r.Err())
	}
}

// TestNoMemoryByLength: a head that claims more than is there costs nothing.
func TestNoMemoryByLength(t *testing.T) {
	var e Envelope
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, head := range []string{"\xdc\xff\xff", "\xda\xff\xff", "\xc5\xff\xff", "\xdd\xff\xff\xff\xff"} {
		for at := range 12 { // in the place of each field
			b := append([]byte("\x9c\x01\x01\x01\xa3a@a\x01\x01\x01\x01\x91\xa3b@b\x00"), "\xc4\x00\x80"...)[:1+at]
			e.Parse(append(b, head...))
			new(Report).Parse(append([]byte("\x95\x02\xa3b@b\x01"), head...))
		}
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 100<<10 { // of the errors
		t.Errorf("%d bytes were allocated", n)
	}
}

// mutate changes b in one of the ways in which bytes go wrong.
func mutate(r *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	i := r.IntN(len(b))
	switch r.IntN(6) {
	case 0:
		b[i] ^= 1 << r.IntN(8)
	case 1:
		b[i] = []byte{0, 0x7f, 0x80, 0x90, 0xa0, 0xc0, 0xc4, 0xcc, 0xcd, 0xd9, 0xda, 0xdc, 0xff}[r.IntN(13)]
	case 2:
		b = append(b[:i], b[i+1:]...)
	case 3:
		b = append(b[:i], append([]byte{byte(r.IntN(256))}, b[i:]...)...)
	case 4:
		b = append(b, b[i:]...)
	case 5:
		b = b[:i]
	}
	return b
}
