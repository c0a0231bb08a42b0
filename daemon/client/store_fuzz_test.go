package client

import (
	"reflect"
	"testing"

	"github.com/noipchat/noipchat/daemon/message"
)

// Whatever somebody puts into a receipt or bounce: it is seen once, nobody's
// state falls, and only one receiver's can rise, of whom the sender may know.
func FuzzReceiveReport(f *testing.F) {
	s := aliceStore(f)
	for range 3 {
		enqueue(f, s, Outgoing{To: to(bob, carol)})
	}
	senders := to(bob, "server2", carol, "server1", alice, "server3")
	counter := uint64(0)
	f.Fuzz(func(t *testing.T, sender, kind byte, body []byte) {
		from := senders[int(sender)%len(senders)]
		counter++
		e := message.Envelope{Kind: message.Kind(kind % 128), Priority: message.Bulk, From: from, Device: 1, Counter: counter, To: to(alice), Body: body}
		raw, err := e.Append(nil)
		if err != nil {
			return // it never gets as far as here
		}
		e = message.Envelope{}
		check(t, e.Parse(raw))
		in := Incoming{Envelope: &e}

		before, err := s.History(Query{Only: Out})
		check(t, err)
		r := receive(t, s, in, in)
		if !r[0].New || r[1].New || len(r[1].Changes) != 0 {
			t.Fatalf("received %+v and then %+v", r[0], r[1])
		}
		if e.Kind == message.File || e.Kind == message.Members {
			return // what they say is for message.FuzzParseFile and FuzzRoster
		}
		report := e.Kind == message.Receipt || e.Kind == message.Bounce
		if report == (r[0].Message.Seq != 0) || !report && (r[0].Err != nil || r[0].Changes != nil) {
			t.Fatalf("kind %d gave %+v", e.Kind, r[0])
		}
		after, err := s.History(Query{Only: Out})
		check(t, err)
		risen := 0
		for i, m := range after {
			for j, now := range m.Recipients {
				was := before[i].Recipients[j]
				mayKnow := from == now.Address || string(from) == now.Address.Server() || from == "server1" && now.State != message.Read
				way := !reflect.DeepEqual(now.Path, was.Path)
				was.Path = now.Path
				rises := !reflect.DeepEqual(now, was)
				if rises {
					risen++
				}
				if (way || rises) && !mayKnow || rises && now.State <= was.State {
					t.Errorf("%s made %+v out of %+v", from, now, was)
				}
			}
		}
		if risen != len(r[0].Changes) || risen > 3 || risen > 0 && r[0].Err != nil {
			t.Errorf("%d states rose, and Receive told of %+v", risen, r[0])
		}
	})
}
