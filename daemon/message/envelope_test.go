package message

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tinylib/msgp/msgp"
)

// anEnvelope makes a valid envelope by chance, bounds more often than not.
func anEnvelope(r *rand.Rand) Envelope {
	number := func(max uint64) uint64 { return min(max, edges[r.IntN(len(edges))]+uint64(r.IntN(2))) }
	name := func() string {
		return fmt.Sprintf("%c%s%d", 'a'+r.IntN(26), strings.Repeat("-", r.IntN(58)), r.IntN(10))
	}
	e := Envelope{
		Kind: Kind(1 + r.IntN(127)), From: Join(name(), name()), Device: DeviceID(number(1<<64 - 1)), Counter: max(1, number(1<<63-1)),
		Created: number(1<<48 - 1), Lifetime: uint32(number(MaxLifetime)), Sealing: Sealing(r.IntN(2) * r.IntN(128)),
	}
	if r.IntN(4) == 0 {
		e.From = Address(name())
	}
	e.Priority = max(e.Kind.Least(), Priority(r.IntN(Priorities)))
	for range 1 + r.IntN(MaxTo) {
		if a := Join(name(), name()); !slices.Contains(e.To, a) {
			e.To = append(e.To, a)
		}
	}
	e.Body = []byte(strings.Repeat("é", []int{0, 1, 15, 16, 127, 128, 20000}[r.IntN(7)]))
	return e
}

// TestEnvelopeOracle has another implementation of MessagePack read what we write.
func TestEnvelopeOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		e := anEnvelope(r)
		raw, err := e.Append([]byte("before"))
		if err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
		raw = raw[len("before"):]
		v, rest, err := msgp.ReadIntfBytes(raw)
		if err != nil || len(rest) != 0 {
			t.Fatalf("msgp: %v, %d bytes too many", err, len(rest))
		}
		var to []any
		for _, a := range e.To {
			to = append(to, string(a))
		}
		want := []any{uint64(1), uint64(e.Kind), uint64(e.Priority), string(e.From), uint64(e.Device), e.Counter, e.Created,
			uint64(e.Lifetime), to, uint64(e.Sealing), e.Body, map[string]any{}}
		if got := v.([]any); fmt.Sprintf("%v", got) != fmt.Sprintf("%v", want) {
			t.Fatalf("msgp reads %v\nwant       %v", got, want)
		}
		checkCanonical(t, raw)
		again := Envelope{}
		if err := again.Parse(raw); err != nil {
			t.Fatal(err)
		}
		e.Raw = raw
		if len(e.Body) == 0 {
			e.Body, again.Body = nil, nil
		}
		if !reflect.DeepEqual(e, again) {
			t.Fatalf("%+v\nbecame %+v", e, again)
		}
	}
}

// TestEnvelopeMutated: an envelope with a mistake in it is refused, or is the
// only encoding of something else.
func TestEnvelopeMutated(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	taken := 0
	for range 30_000 {
		e := anEnvelope(r)
		e.To = e.To[:min(len(e.To), 3)]
		if len(e.Body) > 200 {
			e.Body = nil
		}
		raw, err := e.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if checkEnvelope(t, mutate(r, raw)) {
			taken++
		}
	}
	if taken < 1000 {
		t.Errorf("only %d were taken: the test tests little", taken)
	}
}

// checkEnvelope tells whether raw is an envelope, and fails if it is one in part.
func checkEnvelope(t *testing.T, raw []byte) bool {
	t.Helper()
	e := Envelope{Raw: []byte("old"), To: make([]Address, 0, 4)}
	if err := e.Parse(raw); err != nil {
		if !errors.Is(err, ErrMalformed) || e.Raw != nil {
			t.Fatalf("refused by %v, Raw is %q", err, e.Raw)
		}
		return false
	}
	if !bytes.Equal(e.Raw, raw) {
		t.Fatal("Raw is not what was parsed")
	}
	checkCanonical(t, raw)
	for i, a := range e.To {
		if _, err := ParseUser(string(a)); err != nil || i > 0 && a <= e.To[i-1] {
			t.Fatalf("receivers %q", e.To)
		}
	}
	// What a later version adds is in the map, and we don't write it.
	again, err := e.Append(nil)
	body := again[:len(again)-len(e.appendMap(nil))]
	if err != nil || !bytes.HasPrefix(raw, body) || raw[len(body)] == again[len(body)] && !bytes.Equal(raw, again) {
		t.Fatalf("%x\nbecame %x, %v", raw, again, err)
	}
	return true
}

func FuzzEnvelope(f *testing.F) {
	for _, name := range []string{"envelopes", "malformed"} {
		b, err := os.ReadFile("../wire/testdata/vectors/" + name + ".json")
		if err != nil {
			f.Fatal(err)
		}
		var vectors []struct{ Bytes, Envelope string } // the good ones, and the malformed
		if err := json.Unmarshal(b, &vectors); err != nil {
			f.Fatal(err)
		}
		for _, v := range vectors {
			raw, err := hex.DecodeString(v.Bytes + v.Envelope)
			if err != nil || len(raw) == 0 {
				f.Fatalf("a vector in %s has %x: %v", name, raw, err)
			}
			f.Add(raw)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) { checkEnvelope(t, raw) })
}

func TestEnvelopeRules(t *testing.T) {
	good := func() Envelope {
		return Envelope{Kind: Text, Priority: Normal, From: "alice@a", Counter: 1, To: []Address{"bob@b"}, Body: []byte("hello")}
	}
	for _, c := range []struct {
		name   string
		change func(e *Envelope)
		want   string // "" if it is good
	}{
		{"as it is", func(e *Envelope) {}, ""},
		{"receivers unsorted", func(e *Envelope) { e.To = []Address{"c@b", "b@b", "a@b"} }, ""},
		{"a receiver twice", func(e *Envelope) { e.To = []Address{"b@b", "b@b"} }, "twice"},
		{"no receiver", func(e *Envelope) { e.To = nil }, "no receiver"},
		{"65 receivers", func(e *Envelope) { e.To = make([]Address, 65) }, "at most 64 receivers"},
		{"65,537 receivers", func(e *Envelope) { e.To = slices.Repeat([]Address{"b@b"}, 65537) }, "at most 64 receivers"},
		{"a receiver that is a server", func(e *Envelope) { e.To = []Address{"b"} }, "no user"},
		{"a receiver that is none", func(e *Envelope) { e.To = []Address{"B@b"} }, "not an address"},
		{"a receiver of 65,541 bytes", func(e *Envelope) { e.To = []Address{Address("bob@b" + strings.Repeat("x", 65536))} }, "longer than 61440"},
		{"no author", func(e *Envelope) { e.From = "" }, "not an address"},
		{"a server as author", func(e *Envelope) { e.From = "a" }, ""},
		{"kind 0", func(e *Envelope) { e.Kind = 0 }, "kind 0"},
		{"kind 127", func(e *Envelope) { e.Kind = 127 }, ""},
		{"kind 128", func(e *Envelope) { e.Kind = 128 }, "above 127"},
		{"urgent text", func(e *Envelope) { e.Priority = Urgent }, "above what kind"},
		{"text in bulk", func(e *Envelope) { e.Priority = Bulk }, ""},
		{"normal file", func(e *Envelope) { e.Kind = File }, "above what kind"},
		{"an urgent receipt", func(e *Envelope) { e.Kind, e.Priority = Receipt, Urgent }, ""},
		{"priority 3", func(e *Envelope) { e.Priority = 3 }, "above 2"},
		{"counter 0", func(e *Envelope) { e.Counter = 0 }, "counter 0"},
		{"the last counter", func(e *Envelope) { e.Counter = 1<<63 - 1 }, ""},
		{"a counter too far", func(e *Envelope) { e.Counter = 1 << 63 }, "above"},
		{"a counter that it had", func(e *Envelope) { e.Counter, e.Formerly = 7, 6 }, ""},
		{"a counter that it has still", func(e *Envelope) { e.Counter, e.Formerly = 7, 7 }, "it was counter 7"},
		{"to a list", func(e *Envelope) { e.List = ListID{1}; e.Counter, e.Formerly = 9, 1 }, ""},
		{"the last millisecond", func(e *Envelope) { e.Created = 1<<48 - 1 }, ""},
		{"a time too far", func(e *Envelope) { e.Created = 1 << 48 }, "above"},
		{"bad UTF-8", func(e *Envelope) { e.Body = []byte{0xff} }, "UTF-8"},
		{"sealed bytes", func(e *Envelope) { e.Body, e.Sealing = []byte{0xff}, 1 }, ""},
		{"no text", func(e *Envelope) { e.Body = nil }, ""},
		{"a body of 60 KiB", func(e *Envelope) { e.Body = make([]byte, MaxEnvelope) }, "longer than 61440"},
		{"a body of 64 KiB", func(e *Envelope) { e.Body = make([]byte, 1<<16) }, "at most 64 receivers and 61440 bytes"},
	} {
		e := good()
		c.change(&e)
		raw, err := e.Append(nil)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		case err == nil && !checkEnvelope(t, raw):
			t.Errorf("%s: it is not taken again", c.name)
		}
	}
}

// TestLargestEnvelope has exactly as many bytes as are allowed.
func TestLargestEnvelope(t *testing.T) {
	e := Envelope{Kind: Text, Priority: Normal, From: "alice@a", Counter: 1, To: []Address{"bob@b"}, Body: make([]byte, 60000)}
	raw, err := e.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Body = make([]byte, 60000+MaxEnvelope-len(raw))
	if raw, err = e.Append(nil); err != nil || len(raw) != MaxEnvelope {
		t.Fatalf("%d bytes, %v", len(raw), err)
	}
	e.Body = append(e.Body, 0)
	if _, err = e.Append(nil); err == nil {
		t.Error("one more is taken")
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	e := Envelope{Kind: Text, Priority: Normal, From: "alice@a", Counter: 1, To: []Address{"bob@b", "carol@b"}, Body: []byte("hello")}
	raw, err := e.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { e.Parse(raw) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
