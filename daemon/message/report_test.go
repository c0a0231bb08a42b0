package message

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/tinylib/msgp/msgp"
)

func aReport(r *rand.Rand) Report {
	p := Report{State: Held + State(r.IntN(int(Read))), Receiver: "bob@server2", Device: DeviceID(r.Uint64() >> r.IntN(64))}
	p.State = min(p.State, Read)
	for next, n := uint64(1), 1+r.IntN(20); n > 0; n-- {
		first := next + r.Uint64()>>(20+r.IntN(40))
		last := first + r.Uint64()>>(20+r.IntN(40))
		p.Counters = append(p.Counters, Range{first, last})
		next = last + 2
	}
	if p.State.failed() {
		p.Code, p.Reason = Code(1+r.IntN(127)), strings.Repeat("ß", r.IntN(3))
	}
	for range r.IntN(3) {
		p.Path = p.Path.And(fmt.Sprint("server", r.IntN(9)), r.Uint32()>>r.IntN(32))
	}
	return p
}

func TestReportOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 300 {
		p := aReport(r)
		body := p.Append(nil)
		checkCanonical(t, body)
		v, rest, err := msgp.ReadIntfBytes(rekeyed(t, body))
		if err != nil || len(rest) != 0 {
			t.Fatal(err, len(rest))
		}
		var counters []any
		for _, g := range p.Counters {
			counters = append(counters, g.First, g.Last-g.First+1)
		}
		more := map[string]any{}
		if p.Code != 0 {
			more["1"] = uint64(p.Code)
		}
		if p.Reason != "" {
			more["2"] = p.Reason
		}
		if len(p.Path) > 0 {
			var path []any
			for _, c := range p.Path.Unpack() {
				path = append(path, c.Server, c.Age)
			}
			more["3"] = path
		}
		want := []any{uint64(p.State), string(p.Receiver), uint64(p.Device), counters, more}
		if fmt.Sprint(v) != fmt.Sprint(want) {
			t.Fatalf("msgp reads %v\nwant       %v", v, want)
		}
		var again Report
		if err := again.Parse(body); err != nil || !reflect.DeepEqual(p, again) {
			t.Fatalf("%+v\nbecame %+v, %v", p, again, err)
		}
		if n := p.Counters.Count(); n < uint64(len(p.Counters)) {
			t.Fatalf("%d numbers in %d ranges", n, len(p.Counters))
		}
	}
}

// rekeyed makes the keys of the map at a report's end strings, because msgp's
// generic reader takes no others.
func rekeyed(t *testing.T, body []byte) []byte {
	rest := body[1:]
	var err error
	for range 4 {
		if rest, err = msgp.Skip(rest); err != nil {
			t.Fatal(err)
		}
	}
	out := append(bytes.Clone(body[:len(body)-len(rest)]), rest[0])
	for rest = rest[1:]; len(rest) > 0; {
		out = AppendString(out, fmt.Sprint(rest[0]))
		after, err := msgp.Skip(rest[1:])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, rest[1:len(rest)-len(after)]...)
		rest = after
	}
	return out
}

func checkReport(t *testing.T, body []byte) bool {
	t.Helper()
	var p Report
	if err := p.Parse(body); err != nil {
		if !errors.Is(err, ErrMalformed) {
			t.Fatal(err)
		}
		return false
	}
	checkCanonical(t, body)
	for i, g := range p.Counters {
		if g.First == 0 || g.Last < g.First || g.Last >= 1<<63 || i > 0 && g.First <= p.Counters[i-1].Last+1 {
			t.Fatalf("ranges %v", p.Counters)
		}
	}
	if p.State.failed() != (p.Code != 0) || len(p.Counters) == 0 || p.State < Held {
		t.Fatalf("%+v", p)
	}
	again := p.Append(nil)
	if !bytes.Equal(again, body) && len(again) >= len(body) { // what a later version adds is not written again
		t.Fatalf("%x\nbecame %x", body, again)
	}
	return true
}

func TestReportMutated(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	taken := 0
	for range 20_000 {
		p := aReport(r)
		if checkReport(t, mutate(r, p.Append(nil))) {
			taken++
		}
	}
	if taken < 500 {
		t.Errorf("only %d were taken: the test tests little", taken)
	}
}

func FuzzReport(f *testing.F) {
	for _, p := range []Report{
		{State: Delivered, Receiver: "bob@server2", Device: 1, Counters: Ranges{{3, 7}, {9, 9}}},
		{State: Expired, Receiver: "b@c", Counters: Ranges{{1, 1<<63 - 1}}, Code: CodeExpired, Path: Path{{"server1", 0}, {"server2", 300}}.Pack()},
		{State: Refused, Receiver: "b@c", Counters: Ranges{{1, 1}}, Code: CodeQuota, Reason: "full"},
		{State: Read, Receiver: "b@c"},                                 // about nothing
		{State: Held, Receiver: "c", Counters: Ranges{{1, 2}, {3, 4}}}, // nobody's, and not apart
	} {
		body := p.Append(nil)
		f.Add(body)
		f.Add(body[:len(body)-1])
	}
	f.Fuzz(func(t *testing.T, body []byte) { checkReport(t, body) })
}

func TestReportRules(t *testing.T) {
	ranges := func(n int) (s Ranges) {
		for i := range n {
			s = append(s, Range{uint64(2*i + 1), uint64(2*i + 1)})
		}
		return s
	}
	for _, c := range []struct {
		p    Report
		want string
	}{
		{Report{State: Held, Receiver: "b@c", Counters: ranges(1)}, ""},
		{Report{State: Read, Receiver: "b@c", Counters: ranges(MaxRanges)}, ""},
		{Report{State: Read, Receiver: "b@c", Counters: ranges(MaxRanges + 1)}, "longer than 512"},
		{Report{State: Read, Receiver: "b@c"}, "about nothing"},
		{Report{State: Queued, Receiver: "b@c", Counters: ranges(1)}, "nothing to report"},
		{Report{State: Read + 1, Receiver: "b@c", Counters: ranges(1)}, "above 6"},
		{Report{State: Held, Receiver: "c", Counters: ranges(1)}, "no user"},
		{Report{State: Expired, Receiver: "b@c", Counters: ranges(1)}, "code 0"},
		{Report{State: Expired, Receiver: "b@c", Counters: ranges(1), Code: CodeExpired}, ""},
		{Report{State: Refused, Receiver: "b@c", Counters: ranges(1), Code: CodeQuota, Reason: "full"}, ""},
		{Report{State: Refused, Receiver: "b@c", Counters: ranges(1), Code: 100, Reason: "of a later version"}, ""},
		{Report{State: Refused, Receiver: "b@c", Counters: ranges(1), Code: CodeQuota, Reason: strings.Repeat("\x1b\xffé", 200)}, ""},
		{Report{State: Held, Receiver: "b@c", Counters: ranges(1), Code: CodeQuota, Reason: "left out"}, ""},
		{Report{State: Held, Receiver: "b@c", Counters: Ranges{{1, 2}, {3, 4}}}, "not apart"},
		{Report{State: Held, Receiver: "b@c", Counters: Ranges{{1, 1<<63 - 1}}}, ""},
		{Report{State: Held, Receiver: "b@c", Counters: Ranges{{2, 1 << 63}}}, "large"},
	} {
		var again Report
		err := again.Parse(c.p.Append(nil))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v; want %q", c.p, err, c.want)
		}
		if err == nil && (again.State != c.p.State || again.Counters.Count() != c.p.Counters.Count()) {
			t.Errorf("%+v became %+v", c.p, again)
		}
	}
}
