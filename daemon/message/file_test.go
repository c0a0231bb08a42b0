package message

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

var fileBodies = []interface{ Append([]byte) []byte }{
	&Manifest{Name: "a photo.jpg", Size: 3 * PartSize, Hash: [32]byte{1, 2}},
	&Manifest{Name: "", Size: 0},
	&Manifest{Name: strings.Repeat("n", MaxFileName), Size: MaxFileSize},
	&Part{Manifest: 7, Data: []byte("data")},
	&Part{Manifest: MaxCounter, Data: make([]byte, PartSize)},
	&Withdrawal{Manifest: 7, Reason: "it has changed"},
}

func TestFileBodies(t *testing.T) {
	for _, want := range fileBodies {
		body := want.Append(nil)
		have, err := ParseFile(body)
		if err != nil || fmt.Sprintf("%T %+v", have, have) != fmt.Sprintf("%T %+v", want, want) {
			t.Errorf("%T: %v, %v", want, have, err)
		}
		for n := range body {
			if what, err := ParseFile(body[:n]); err == nil {
				t.Errorf("%d bytes of %T are %v", n, want, what)
			}
		}
	}
	for want, bad := range map[string]interface{ Append([]byte) []byte }{
		"above":         &Manifest{Name: "n", Size: MaxFileSize + 1},
		"an empty part": &Part{Manifest: 7},
		"of no file":    &Part{Data: []byte("x")},
		"longer":        &Part{Manifest: 7, Data: make([]byte, PartSize+1)},
		"without":       &Withdrawal{Manifest: 7},
	} {
		if what, err := ParseFile(bad.Append(nil)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, %v; want %q", bad, what, err, want)
		}
	}
}

// TestPartFits: a part for as many receivers as there may be, all with the longest
// names, is an envelope.
func TestPartFits(t *testing.T) {
	long := strings.Repeat("n", MaxName)
	e := Envelope{Kind: File, Priority: Bulk, From: Join(long, long), Device: 1<<64 - 1, Counter: MaxCounter, Created: 1<<48 - 1, Lifetime: MaxLifetime,
		Body: (&Part{Manifest: MaxCounter, Data: make([]byte, PartSize)}).Append(nil), Formerly: MaxCounter - 1, List: ListID{1}}
	for i := range MaxTo {
		e.To = append(e.To, Join(fmt.Sprintf("%02d", i)+long[2:], long))
	}
	if _, err := e.Append(nil); err != nil {
		t.Error(err)
	}
}

func FuzzParseFile(f *testing.F) {
	for _, b := range fileBodies {
		if body := b.Append(nil); len(body) < 1000 {
			f.Add(body)
			f.Add(body[:len(body)-1])
		}
	}
	f.Add((&Part{Manifest: 7}).Append(nil)) // an empty part
	f.Fuzz(func(t *testing.T, body []byte) {
		what, err := ParseFile(body)
		if err != nil {
			return
		}
		// Later versions may add to the map.
		again := what.(interface{ Append([]byte) []byte }).Append(nil)
		if !bytes.HasPrefix(body, again[:len(again)-1]) {
			t.Fatalf("%x became %x", body, again)
		}
	})
}

func TestRoster(t *testing.T) {
	l := Roster{Name: "friends", Members: []Address{"carol@server1", "alice@server1", "bob@server2", "alice@server1"}}
	body := l.Append(nil)
	var have Roster
	if err := have.Parse(body); err != nil || fmt.Sprint(have) != "{friends [alice@server1 bob@server2 carol@server1]}" || have.ID() != l.ID() || l.ID() == (ListID{}) {
		t.Errorf("%v, %v", have, err)
	}
	many := Roster{Name: "many"}
	for i := range MaxMembers + 1 {
		many.Members = append(many.Members, Join(fmt.Sprint("u", i), "server1"))
	}
	for want, bad := range map[string]*Roster{
		"nobody":    {Name: "n"},
		"name":      {Name: "No Name", Members: []Address{"a@b"}},
		"longer":    &many,
		"malformed": {Name: "n", Members: []Address{"b"}},
	} {
		if err := have.Parse(bad.Append(nil)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if err := have.Parse(many.Append(nil)[:5000]); err == nil {
		t.Error("a part of a list is one")
	}
}

func FuzzRoster(f *testing.F) {
	for _, l := range []Roster{
		{Name: "friends", Members: []Address{"alice@server1", "bob@server2"}},
		{Name: "n"},
		{Name: "No Name", Members: []Address{"a@b"}},
		{Name: "n", Members: []Address{"b"}},
	} {
		f.Add(l.Append(nil))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var l Roster
		if l.Parse(body) == nil {
			if again := l.Append(nil); !bytes.HasPrefix(body, again[:len(again)-1]) {
				t.Fatalf("%x became %x", body, again)
			}
		}
	})
}
