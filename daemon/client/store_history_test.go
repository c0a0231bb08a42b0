package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

func TestHistory(t *testing.T) {
	s := aliceStore(t)
	at := func(in Incoming, minutes int) Incoming {
		in.At = testTime.Add(time.Duration(minutes) * time.Minute)
		return in
	}
	carols := func(counter uint64, body string) Incoming {
		return incoming(t, message.Envelope{Kind: message.Text, From: carol, Device: 3, Counter: counter, To: to(alice, bob), Body: []byte(body)})
	}
	receive(t, s, at(textFrom(t, 1, "bob 1"), 1), at(carols(1, "carol 1"), 2), at(textFrom(t, 2, "bob 2"), 3))
	enqueue(t, s, Outgoing{To: to(bob, carol), Body: []byte("to both")})
	enqueue(t, s, Outgoing{To: to(bob), Body: []byte("to bob")})
	enqueue(t, s, Outgoing{To: to(bob), Kind: message.Receipt})
	receive(t, s, at(carols(2, "carol 2"), 4))

	for name, c := range map[string]struct {
		q    Query
		want string
	}{
		"all":            {Query{}, "bob 1,carol 1,bob 2,to both,to bob,carol 2"},
		"in":             {Query{Only: In}, "bob 1,carol 1,bob 2,carol 2"},
		"out":            {Query{Only: Out}, "to both,to bob"},
		"bob":            {Query{With: bob}, "bob 1,bob 2,to both,to bob"},
		"from bob":       {Query{With: bob, Only: In}, "bob 1,bob 2"},
		"to bob":         {Query{With: bob, Only: Out}, "to both,to bob"},
		"carol":          {Query{With: carol}, "carol 1,to both,carol 2"},
		"nobody":         {Query{With: "dave@server1"}, ""},
		"last two":       {Query{Limit: 2}, "to bob,carol 2"},
		"grep":           {Query{Grep: regexp.MustCompile("[12]$")}, "bob 1,carol 1,bob 2,carol 2"},
		"grep, limit":    {Query{Grep: regexp.MustCompile("b.*1|^to"), Limit: 2, With: bob}, "to both,to bob"},
		"before":         {Query{Before: testTime.Add(3 * time.Minute)}, "bob 1,carol 1"},
		"since":          {Query{Since: testTime.Add(3 * time.Minute), Only: In}, "bob 2,carol 2"},
		"an hour":        {Query{Since: testTime.Add(2 * time.Minute), Before: testTime.Add(4 * time.Minute)}, "carol 1,bob 2"},
		"an empty one":   {Query{Since: testTime.Add(5 * time.Minute), Before: testTime.Add(6 * time.Minute)}, ""},
		"word":           {Query{Search: "carol"}, "carol 1,carol 2"},
		"word, bob":      {Query{Search: "bob", With: bob}, "bob 1,bob 2,to bob"},
		"word, to bob":   {Query{Search: "to", With: bob, Only: Out}, "to both,to bob"},
		"word, to carol": {Query{Search: "to", With: carol}, "to both"},
		"word, from bob": {Query{Search: "bob", With: bob, Only: In}, "bob 1,bob 2"},
		"word, in":       {Query{Search: "bob", Only: In}, "bob 1,bob 2"},
		"word, limit":    {Query{Search: "bob", Limit: 2}, "bob 2,to bob"},
		"word, grep":     {Query{Search: "bob", Grep: regexp.MustCompile("1$")}, "bob 1"},
		"word, time":     {Query{Search: "carol", Before: testTime.Add(4 * time.Minute)}, "carol 1"},
		"before, bob":    {Query{Before: testTime.Add(3 * time.Minute), With: bob}, "bob 1"},
	} {
		all, err := s.History(c.q)
		check(t, err)
		if have := strings.Join(bodies(all), ","); have != c.want {
			t.Errorf("%s: %q, want %q", name, have, c.want)
		}
		for _, m := range all {
			if (len(m.Recipients) > 0) != m.Out || m.State == "" {
				t.Errorf("%s: %+v", name, m)
			}
		}
		var walked []Message
		check(t, s.Walk(c.q, func(m Message) error { walked = append(walked, m); return nil }))
		if !reflect.DeepEqual(walked, all) {
			t.Errorf("%s: Walk gives %q, History %q", name, bodies(walked), bodies(all))
		}
	}
}

func TestStatusByPrefix(t *testing.T) {
	s := aliceStore(t)
	var ids []message.ID
	for range 20 {
		ids = append(ids, enqueue(t, s, Outgoing{To: to(bob)}).ID)
	}
	for _, id := range ids {
		for _, n := range []int{6, 7, 31, 32} {
			if m, found, err := s.StatusByPrefix(id.String()[:n]); !found || err != nil || m.ID != id || len(m.Recipients) != 1 {
				t.Errorf("%d digits of %v: %+v, %v, %v", n, id, m, found, err)
			}
		}
	}
	if m, found, err := s.StatusByPrefix("ffffff0"); found || err != nil {
		t.Errorf("an unknown one: %+v, %v", m, err)
	}
	for _, bad := range []string{"", "abcde", "abcdefg", "ABCDEF", strings.Repeat("a", 33), "%a%a%a%"} {
		if _, _, err := s.StatusByPrefix(bad); err == nil {
			t.Errorf("%q is no prefix", bad)
		}
	}
	// The same id twice (a note to oneself) is one message; two ids are too many.
	twin := ids[0]
	twin[15]++
	_, err := s.writer.ExecContext(t.Context(), "INSERT INTO message SELECT NULL, ?, 0, sender, device, counter, kind, created, at, server, receivers, shown, body, NULL, first, unverified FROM message WHERE id = ?", ids[0][:], ids[0][:])
	check(t, err)
	if m, found, err := s.StatusByPrefix(ids[0].String()[:8]); !found || err != nil || !m.Out {
		t.Errorf("twice the same id: %+v, %v, %v", m, found, err)
	}
	_, err = s.writer.ExecContext(t.Context(), "UPDATE message SET id = ? WHERE id = ?", twin[:], ids[1][:])
	check(t, err)
	if m, found, err := s.StatusByPrefix(ids[0].String()[:8]); found || !errors.Is(err, ErrMisuse) || !strings.Contains(err.Error(), "more than one") {
		t.Errorf("two ids: %+v, %v, %v", m, found, err)
	}
	if m := status(t, s, twin); m.ID != twin {
		t.Errorf("the whole id: %+v", m)
	}
}

func TestMessageJSON(t *testing.T) {
	s := aliceStore(t)
	m := enqueue(t, s, Outgoing{To: to(bob), Body: []byte("hi"), Created: testTime})
	settle(t, s, Settled{Counter: 1, State: message.Held, At: testTime})
	m = status(t, s, m.ID)
	m.At = testTime
	have, err := json.Marshal(m)
	check(t, err)
	want := fmt.Sprintf(`{"seq":1,"id":"%v","out":true,"from":"alice@server1","device":"a11ce00000000001","counter":1,"to":["bob@server2"],`+
		`"recipients":[{"address":"bob@server2","state":"held","at":"2026-03-01T12:00:00Z","held":"2026-03-01T12:00:00Z"}],"state":"held","kind":"text",`+
		`"created":"2026-03-01T12:00:00Z","at":"2026-03-01T12:00:00Z","text":"hi"}`, m.ID)
	if string(have) != want {
		t.Errorf("JSON is\n%s, want\n%s", have, want)
	}
	a, err := json.Marshal(aliceAccount())
	if err != nil || strings.Contains(string(a), "eed") {
		t.Errorf("an account in JSON: %s, %v", a, err)
	}
}

// TestWalk reads more than is in hand at once, and ends when it is told to.
func TestWalk(t *testing.T) {
	s := aliceStore(t)
	fill(t, s, 3*pageSize)
	enough := errors.New("enough")
	for _, q := range []Query{{}, {Search: "number"}, {Only: Out}, {Grep: regexp.MustCompile("[02468]$")}} {
		all, err := s.History(q)
		check(t, err)
		var last int64
		n := 0
		check(t, s.Walk(q, func(m Message) error {
			if n++; m.Seq <= last {
				t.Fatalf("%d comes after %d", m.Seq, last)
			}
			last = m.Seq
			return nil
		}))
		if n != len(all) || n < pageSize {
			t.Errorf("%+v: %d of %d", q, n, len(all))
		}
		n = 0
		if err := s.Walk(q, func(Message) error { n++; return enough }); err != enough || n != 1 {
			t.Errorf("it goes on after %v: %d", err, n)
		}
	}
}

// The queries that a long history must not slow down use their indexes.
func TestPlans(t *testing.T) {
	s := aliceStore(t)
	plan := func(text string, args ...any) string {
		rows, err := s.db.Query("EXPLAIN QUERY PLAN "+text, args...)
		check(t, err)
		defer rows.Close()
		var plan []string
		for rows.Next() {
			var a, b, c int
			var step string
			check(t, rows.Scan(&a, &b, &c, &step))
			plan = append(plan, step)
		}
		check(t, rows.Err())
		return strings.Join(plan, "\n")
	}
	everything := regexp.MustCompile(`(?m)^SCAN (m|r|o|c|f|message|contact|recipient|outbox)\b|TEMP B-TREE|VIRTUAL TABLE INDEX [0-9]+:$`)
	for _, only := range []Direction{InAndOut, In, Out} {
		for _, q := range []Query{{Only: only}, {With: bob, Only: only}, {Search: "word", Only: only}, {Search: "word", With: bob, Only: only}} {
			for _, from := range []end{oldest, newest} {
				text, args := q.sql(span{1, 100}, from)
				if p := plan(text, args...); everything.MatchString(p) {
					t.Errorf("%+v%s reads or sorts everything:\n%s", q, from, p)
				}
			}
		}
	}
	if p := plan(spanQuery, 1, 2); !strings.Contains(p, "COVERING INDEX message_at (at>? AND at<?)") {
		t.Errorf("a time is looked up by\n%s", p)
	}
	for text, args := range map[string][]any{addresseeQuery: {1, 1, 1, 1, 1}, strangerQuery: {bob}} {
		if p := plan(text, args...); everything.MatchString(p) {
			t.Errorf("%s reads or sorts everything:\n%s", text, p)
		}
	}
	// What the test looks for is what SQLite says of a bad one.
	for _, bad := range []string{"SELECT * FROM message m WHERE body = 'x'", "SELECT * FROM message ORDER BY body", "SELECT * FROM word ORDER BY rowid"} {
		if p := plan(bad); !everything.MatchString(p) {
			t.Errorf("%s is no scan:\n%s", bad, p)
		}
	}
}
