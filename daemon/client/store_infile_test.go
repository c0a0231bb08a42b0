package client

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/noipchat/noipchat/daemon/message"
)

// body is a body of a file's envelope.
type body interface{ Append([]byte) []byte }

// ofFile is an envelope of a file, from a sender's device.
func ofFile(t testing.TB, from message.Address, counter uint64, b body) Incoming {
	t.Helper()
	e := message.Envelope{Kind: message.File, Priority: message.Bulk, From: from, Device: bobDevice, Counter: counter, To: to(alice), Body: b.Append(nil)}
	raw, err := e.Append(nil)
	check(t, err)
	check(t, e.Parse(raw))
	return Incoming{Envelope: &e, Server: "server1"}
}

// envelopesOf are a file's, the manifest first, with counters from base on.
func envelopesOf(t testing.TB, base uint64, name string, data []byte) []Incoming {
	t.Helper()
	all := []Incoming{ofFile(t, bob, base, &message.Manifest{Name: name, Size: int64(len(data)), Hash: sha256.Sum256(data)})}
	for len(data) > 0 {
		n := min(len(data), message.PartSize)
		all = append(all, ofFile(t, bob, base+uint64(len(all)), &message.Part{Manifest: base, Data: data[:n]}))
		data = data[n:]
	}
	return all
}

func random(size int) []byte {
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(data)
	return data
}

// finished are the files that have come whole.
func finished(t testing.TB, s *Store) []Message {
	t.Helper()
	all, err := s.FinishFiles(t.Context())
	check(t, err)
	return all
}

func filesLeft(t testing.TB, s *Store) int {
	t.Helper()
	left, err := filepath.Glob(s.filePath(0)[:len(s.filePath(0))-1] + "*")
	check(t, err)
	return len(left)
}

// TestFileInAnyOrder: a file whose envelopes come in any order, some again and again,
// in batches of any size, is what it was.
func TestFileInAnyOrder(t *testing.T) {
	data := random(20*message.PartSize + 77)
	for seed := range uint64(8) {
		s := aliceStore(t)
		r := rand.New(rand.NewPCG(seed, 0))
		all := envelopesOf(t, 1000, "in any order", data)
		all = append(all, all[:10]...)
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		whole := 0
		for len(all) > 0 {
			n := 1 + r.IntN(min(len(all), 7))
			for _, result := range receive(t, s, all[:n]...) {
				if result.Err != nil {
					t.Fatalf("seed %d: %v", seed, result.Err)
				}
				if result.Whole {
					whole++
				}
			}
			all = all[n:]
		}
		got := finished(t, s)
		if len(got) != 1 || whole != 1 {
			t.Fatalf("seed %d: %d files are finished, %d times it was whole", seed, len(got), whole)
		}
		b, err := os.ReadFile(s.FilePath(got[0].File))
		if err != nil || !bytes.Equal(b, data) || got[0].File.Damage != "" {
			t.Errorf("seed %d: %d bytes, %q, %v", seed, len(b), got[0].File.Damage, err)
		}
		next, err := s.Next("c", 10)
		if check(t, err); len(next) != 1 || next[0].File == nil || next[0].File.Name != "in any order" || next[0].State != "delivered" {
			t.Errorf("seed %d: new is %+v", seed, next)
		}
		if again := finished(t, s); len(again) > 0 {
			t.Errorf("seed %d: it is finished twice", seed)
		}
	}
}

// TestHostileFiles: what contradicts itself, has no end, no beginning or no size is
// refused with a reason, takes a bounded amount of disk, and harms no other file.
func TestHostileFiles(t *testing.T) {
	data := random(3 * message.PartSize)
	part := func(counter, manifest uint64, size int) Incoming {
		return ofFile(t, bob, counter, &message.Part{Manifest: manifest, Data: make([]byte, size)})
	}
	huge := ofFile(t, bob, 100, &message.Manifest{Name: "huge", Size: message.MaxFileSize})
	for name, c := range map[string]struct {
		batch []Incoming
		want  string // of the last one
		left  int    // files with bytes
	}{
		"a short part in the middle":  {[]Incoming{huge, part(101, 100, 5)}, "contradicts itself", 0},
		"a part beyond the end":       {append(envelopesOf(t, 100, "n", data), part(104, 100, 10)), "contradicts itself", 0},
		"parts before a smaller file": {[]Incoming{part(150, 100, message.PartSize), envelopesOf(t, 100, "n", data)[0]}, "contradicts itself", 0},
		"more after it has ended":     {[]Incoming{huge, part(101, 100, 5), part(102, 100, message.PartSize)}, "has ended", 0},
		"a part before its manifest":  {[]Incoming{huge, part(99, 100, 5)}, "of no file", 0},
		"a part that is the manifest": {[]Incoming{part(100, 100, 5)}, "of no file", 0},
		"a part far away":             {[]Incoming{part(1<<62, 100, 5)}, "of no file", 0},
		"one of a billion parts":      {[]Incoming{huge, part(100+22_000_000, 100, message.PartSize)}, "", 1},
		"withdrawn":                   {[]Incoming{huge, part(101, 100, message.PartSize), ofFile(t, bob, 500, &message.Withdrawal{Manifest: 100, Reason: "no"})}, "", 0},
		"more after that":             {[]Incoming{huge, ofFile(t, bob, 500, &message.Withdrawal{Manifest: 100, Reason: "no"}), part(101, 100, 1)}, "has ended: no", 0},
		"no file's body":              {[]Incoming{ofFile(t, bob, 1, &message.Manifest{Name: "n", Size: message.MaxFileSize + 1})}, "malformed", 0},
		"another one's file":          {[]Incoming{huge, ofFile(t, carol, 101, &message.Part{Manifest: 100, Data: []byte{1}})}, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := aliceStore(t)
			mine := envelopesOf(t, 10_000, "honest", data)
			receive(t, s, mine[:2]...)
			results := receive(t, s, c.batch...)
			last := results[len(results)-1]
			if (c.want == "") != (last.Err == nil) || last.Err != nil && !strings.Contains(last.Err.Error(), c.want) || last.Whole {
				t.Errorf("the last one: %+v", last)
			}
			if n := filesLeft(t, s); n != 1+c.left {
				t.Errorf("%d files have bytes, not %d", n, 1+c.left)
			}
			var disk int64
			for i := range int64(20) {
				if info, err := os.Stat(s.filePath(i)); err == nil {
					disk += blocks(info) * 512
				}
			}
			if disk > 1<<20 {
				t.Errorf("it takes %d bytes of disk", disk)
			}
			receive(t, s, mine[2:]...)
			if got := finished(t, s); len(got) != 1 || got[0].File.Name != "honest" || got[0].File.Damage != "" {
				t.Errorf("the honest file: %+v", got)
			}
		})
	}
}

// TestHeadlessFiles: one sender may begin only so many files without saying what they
// are, and so much of each.
func TestHeadlessFiles(t *testing.T) {
	s := aliceStore(t)
	refused := 0
	for i := range uint64(maxHeadless + 5) {
		if receive(t, s, ofFile(t, bob, 1000*i+2, &message.Part{Manifest: 1000*i + 1, Data: []byte{1}}))[0].Err != nil {
			refused++
		}
	}
	if refused != 5 {
		t.Errorf("%d were refused", refused)
	}
	if r := receive(t, s, ofFile(t, carol, 2, &message.Part{Manifest: 1, Data: []byte{1}}))[0]; r.Err != nil {
		t.Errorf("another sender: %v", r.Err)
	}
	s = aliceStore(t)
	refused = 0
	for i := range uint64(maxHeadlessBytes/message.PartSize + 5) {
		if receive(t, s, ofFile(t, bob, i+2, &message.Part{Manifest: 1, Data: make([]byte, message.PartSize)}))[0].Err != nil {
			refused++
		}
	}
	if refused == 0 || refused > 5 {
		t.Errorf("%d parts were refused", refused)
	}
}

// TestScatteredFile: a hostile order of parts doesn't make the notes of them grow.
func TestScatteredFile(t *testing.T) {
	s := aliceStore(t)
	receive(t, s, ofFile(t, bob, 1, &message.Manifest{Name: "scattered", Size: message.MaxFileSize}))
	var got message.Ranges
	for i := range uint64(maxScattered - 2) {
		got.Add(2 * i)
	}
	_, err := s.db.Exec("UPDATE infile SET got = ?", message.AppendRanges(nil, got))
	check(t, err)
	part := func(number uint64) error {
		return receive(t, s, ofFile(t, bob, 1+number, &message.Part{Manifest: 1, Data: make([]byte, message.PartSize)}))[0].Err
	}
	if err := part(100_000); err != nil {
		t.Errorf("the last that may be apart: %v", err)
	}
	if err := part(200_000); err == nil || !strings.Contains(err.Error(), "disorder") {
		t.Errorf("one too many: %v", err)
	}
}

// TestDamagedFile: the hash of the whole is compared, and bytes that are gone are told.
func TestDamagedFile(t *testing.T) {
	data := random(2 * message.PartSize)
	for want, spoil := range map[string]func(path string) error{
		"hash":    func(path string) error { return os.WriteFile(path, random(2*message.PartSize-1), 0o600) },
		"removed": os.Remove,
	} {
		s := aliceStore(t)
		all := envelopesOf(t, 1, "damaged", data)
		if want == "hash" {
			all[0] = ofFile(t, bob, 1, &message.Manifest{Name: "damaged", Size: int64(len(data))})
		} else {
			receive(t, s, all...)
			check(t, spoil(s.filePath(1)))
		}
		receive(t, s, all...)
		got := finished(t, s)
		if len(got) != 1 || !strings.Contains(got[0].File.Damage, want) {
			t.Errorf("%s: %+v", want, got)
		}
	}
}

// TestFileWithoutSpace: what has no space is not acked, and what came with it and has
// space is another transaction's.
func TestFileWithoutSpace(t *testing.T) {
	s := aliceStore(t)
	check(t, os.WriteFile(filepath.Join(filepath.Dir(s.path), filesFolder), nil, 0o600)) // in the way
	all := envelopesOf(t, 1, "n", random(100))
	if _, err := s.Receive(all[:1]); err != nil {
		t.Fatal(err) // of the manifest nothing is stored there
	}
	if _, err := s.Receive(all); err == nil || fmt.Sprint(count(t, s, "seen WHERE last = 2")) != "0" {
		t.Errorf("a part was taken that is nowhere: %v", err)
	}
}

func blocks(info os.FileInfo) int64 { return info.Sys().(*syscall.Stat_t).Blocks }
