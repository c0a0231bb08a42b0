package spool

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/noipchat/noipchat/daemon/message"
)

// FuzzRecord takes any bytes for a record's payload. What is taken is written
// again as it was.
func FuzzRecord(f *testing.F) {
	f.Fuzz(func(t *testing.T, payload []byte) {
		if len(payload) == 0 || len(payload) > maxPayload {
			return
		}
		var again []byte
		var err error
		switch payload[0] {
		case recPut:
			var p putRecord
			if err = p.parse(payload); err == nil {
				again = p.append(nil)
			}
		case recShare:
			var s shareRecord
			if err = s.parse(payload); err == nil {
				again = s.append(nil)
			}
		case recDone:
			var d doneRecord
			if err = d.parse(payload); err == nil {
				again = d.append(nil)
			}
		default:
			return
		}
		if err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
		if err == nil && !bytes.Equal(again, payload) {
			t.Fatalf("%x\nis written again as %x", payload, again)
		}
		b := append(make([]byte, recordHead), payload...)
		sealRecord(b, 0, 7, 64)
		if have, err := openRecord(b, 7, 64); err != nil || !bytes.Equal(have, payload) {
			t.Fatalf("it is opened as %x, %v", have, err)
		}
		for _, place := range [][2]uint64{{8, 64}, {7, 65}} {
			if _, err := openRecord(b, place[0], place[1]); err == nil {
				t.Fatal("it is opened in another place, or another life of the file")
			}
		}
	})
}

// damage changes a file: cuts it, puts bytes over it, and doubles a part of it.
func damage(b []byte, at, cut, from uint16, over []byte) []byte {
	b = bytes.Clone(b)
	scale := func(n uint16) int { return int(n) * len(b) / (1 << 16) }
	copy(b[scale(at):], over)
	if from > 0 { // a part of the file again, as a misdirected write would leave it
		copy(b[scale(at):], bytes.Clone(b[scale(from):min(len(b), scale(from)+1500)]))
	}
	if cut > 0 {
		b = b[:scale(cut)]
	}
	return b
}

// opens has a spool open a folder in which one file is not as it was, and checks
// that what it gives out is what once went in, in order and each once; and that it
// is at work: what comes now is held. It returns what was there.
func opens(t *testing.T, dir string) (have []uint64) {
	t.Helper()
	r := open(t, dir, Options{})
	q := r.sp.Queue(aliceQueue)
	p := &tap{}
	q.Attach(p)
	last := uint64(0)
	for {
		e, raw, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
		if e == nil {
			break
		}
		n := counterOf(t, raw)
		if n <= last || n > fuzzed || !bytes.Equal(raw, envelope(t, n, fuzzedSize)) {
			t.Fatalf("%d after %d, or it was never written", n, last)
		}
		last, have = n, append(have, n)
	}
	var turn Turn
	q.Detach(&turn, p)
	r.put(q, fuzzed+1, 10)
	if s := r.await(fuzzed + 1); s != message.Held {
		t.Fatalf("after the damage it is %v with everything", s)
	}
	r.end()
	return have
}

const (
	fuzzed     = 12  // entries in the files that are damaged
	fuzzedSize = 300 // bytes of each one's text
)

// files are a journal file and a queue file, as they should be. They are made once
// in a process, and have nothing of chance but their salts.
var files = sync.OnceValues(func() (map[string][]byte, error) {
	dir, err := os.MkdirTemp("", "noipchat-fuzz-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	var t holder
	all := map[string][]byte{}
	r := open(&t, dir, Options{Quiet: 1 << 40})
	for n := uint64(1); n <= fuzzed; n++ {
		r.put(r.sp.Queue(aliceQueue), n, fuzzedSize)
		r.await(n)
	}
	path := filepath.Join("journal", fmt.Sprintf("%020d", 1))
	if all[path], err = os.ReadFile(filepath.Join(dir, path)); err != nil {
		return nil, err
	}
	all[path] = all[path][:8<<10] // the rest is zeros
	r.end()
	found, _ := filepath.Glob(filepath.Join(dir, "queues", "*", "*", "*"))
	if len(found) != 1 {
		return nil, fmt.Errorf("%d queue files", len(found))
	}
	path, _ = filepath.Rel(dir, found[0])
	all[path], err = os.ReadFile(found[0])
	return all, err
})

// holder is a testing.TB for what outlives the test that comes first.
type holder struct{ testing.TB }

func (holder) Helper()               {}
func (holder) Cleanup(func())        {}
func (holder) Error(a ...any)        { panic(fmt.Sprint(a...)) }
func (holder) Fatal(a ...any)        { panic(fmt.Sprint(a...)) }
func (holder) Errorf(string, ...any) { panic("a spool that nobody has damaged") }
func (holder) Fatalf(string, ...any) { panic("a spool that nobody has damaged") }

// fuzzFile damages the file of a kind, or puts any bytes in its place.
func fuzzFile(f *testing.F, kind string) {
	f.Fuzz(func(t *testing.T, whole bool, at, cut, from uint16, bytes []byte) {
		all, err := files()
		if err != nil {
			t.Fatal(err)
		}
		dir := inMemory(t)
		for path, b := range all {
			if filepath.Dir(path) != kind && kind == "journal" || filepath.Dir(path) == "journal" && kind != "journal" {
				continue
			}
			untouched := !whole && at == 0 && cut == 0 && from == 0 && len(bytes) == 0
			if whole {
				b = bytes
			} else {
				b = damage(b, at, cut, from, bytes)
			}
			path = filepath.Join(dir, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			have := opens(t, dir)
			if untouched && len(have) != fuzzed {
				t.Fatalf("nothing is damaged, and there are %d of %d", len(have), fuzzed)
			}
		}
	})
}

// inMemory is a folder on no disk, where there is one: parsing is what is tested.
func inMemory(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "noipchat-fuzz-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// FuzzJournal damages a journal file.
func FuzzJournal(f *testing.F) { fuzzFile(f, "journal") }

// FuzzQueueFile damages a queue file.
func FuzzQueueFile(f *testing.F) { fuzzFile(f, "queues") }
