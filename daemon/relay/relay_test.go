package relay_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/relay"
	"github.com/noipchat/noipchat/daemon/spool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// office is a relay on a real spool, and somebody who is told what becomes of
// what he brings.
type office struct {
	*relay.Relay
	t    *testing.T
	sp   *spool.Spool
	mu   sync.Mutex
	told map[uint64]string
	news chan struct{}
}

func open(t *testing.T, dir string) *office {
	t.Helper()
	sp, err := spool.Open(dir, spool.Options{JournalFile: 1 << 18, Moment: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sp.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &office{Relay: relay.New("server1", sp), t: t, sp: sp, told: map[uint64]string{}, news: make(chan struct{})}
}

func (o *office) Settled(_ *spool.Turn, token uint64, s message.State, no *message.Refusal) {
	o.mu.Lock()
	defer o.mu.Unlock()
	what := s.String()
	if no != nil {
		what += " " + no.Code.String()
	}
	if before := o.told[token]; before != "" {
		o.t.Errorf("%d is told %s, after %s", token, what, before)
	}
	o.told[token] = what
	close(o.news)
	o.news = make(chan struct{})
}

// hears waits until a token was told.
func (o *office) hears(token uint64) string {
	o.t.Helper()
	late := time.After(time.Minute)
	for {
		o.mu.Lock()
		what, news := o.told[token], o.news
		o.mu.Unlock()
		if what != "" {
			return what
		}
		select {
		case <-news:
		case <-late:
			o.t.Fatalf("%d is told nothing", token)
		}
	}
}

// accept brings a text of alice's, whose tokens begin at 100 times its counter.
func (o *office) accept(counter, open uint64, to ...message.Address) {
	o.t.Helper()
	o.bring(&message.Envelope{Kind: message.Text, Priority: message.Normal, From: "alice@server1", Device: 7, Counter: counter, To: to, Body: []byte("hi")}, open)
}

func (o *office) bring(e *message.Envelope, open uint64) {
	o.t.Helper()
	raw, err := e.Append(nil)
	if err != nil {
		o.t.Fatal(err)
	}
	if err := e.Parse(raw); err != nil {
		o.t.Fatal(err)
	}
	var turn spool.Turn
	o.Accept(&turn, e, relay.Arrival{Open: open}, o, e.Counter*100)
	turn.Run()
}

// device is a pump in the hands of a test.
type device struct{ o *office }

func (device) Due() bool { return false }
func (device) Pump()     {}

// take gives a device everything that waits in its queue, and acks it. It returns
// the envelopes.
func (o *office) take(user message.Address, id message.DeviceID, l *relay.Ledger) (all []message.Envelope) {
	o.t.Helper()
	q := o.sp.Queue(relay.QueueName(user, id))
	var turn spool.Turn
	p := &device{o}
	q.Attach(p)
	for {
		e, raw, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
		if e == nil {
			break
		}
		var env message.Envelope
		if err := env.Parse(slices.Clone(raw)); err != nil {
			o.t.Fatal(err)
		}
		all = append(all, env)
		if q.Done(&turn, e) {
			o.Delivered(&turn, l, q, e)
		}
	}
	o.Close(&turn, l)
	q.Detach(&turn, p)
	turn.Run()
	return all
}

// TestDecisions: each receiver has a fate of his own, and only those that are open.
func TestDecisions(t *testing.T) {
	o := open(t, t.TempDir())
	o.SetUser("bob@server1", []message.DeviceID{1}, nil)
	o.SetUser("carol@server1", nil, nil)
	// Receivers are sorted: bob, carol, dave, eve.
	o.accept(1, 0, "bob@server1", "carol@server1", "dave@server1", "eve@server2")
	for token, want := range map[uint64]string{100: "held", 101: "held", 102: "refused no-such-user", 103: "refused no-route"} {
		if have := o.hears(token); have != want {
			t.Errorf("receiver %d is told %s, not %s", token-100, have, want)
		}
	}
	o.accept(2, 1<<2|1<<0, "bob@server1", "carol@server1", "dave@server1")
	o.hears(200)
	if len(o.told) != 6 || o.told[202] == "" {
		t.Errorf("with two receivers open, all that was told is %v", o.told)
	}
	if n := o.Stats().Accepted.Load(); n != 2 {
		t.Errorf("%d were accepted", n)
	}
	o.RemoveUser("bob@server1")
	o.accept(3, 0, "bob@server1")
	if have := o.hears(300); have != "refused no-such-user" {
		t.Errorf("a removed user: %s", have)
	}
	if n := o.Stats().Accepted.Load(); n != 2 {
		t.Errorf("%d were accepted, and the last one went nowhere", n)
	}
}

// TestBranches: a user with two devices is safe when both queues have it, and the
// sender is told once.
func TestBranches(t *testing.T) {
	o := open(t, t.TempDir())
	o.SetUser("bob@server1", []message.DeviceID{1, 2}, nil)
	o.accept(1, 0, "bob@server1")
	if have := o.hears(100); have != "held" {
		t.Error(have)
	}
	var l relay.Ledger
	for id := range message.DeviceID(2) {
		if have := o.take("bob@server1", id+1, &l); len(have) != 1 || have[0].Counter != 1 {
			t.Errorf("device %d gets %v", id+1, have)
		}
	}
}

// report is what a receipt or bounce says.
func (o *office) report(e message.Envelope) message.Report {
	o.t.Helper()
	var p message.Report
	if err := p.Parse(e.Body); err != nil {
		o.t.Fatal(err)
	}
	return p
}

// TestCopies: what a device writes goes to the author's other devices, which are told
// the fate of each receiver; a copy makes no receipt.
func TestCopies(t *testing.T) {
	o := open(t, t.TempDir())
	o.SetUser("alice@server1", []message.DeviceID{7, 8}, nil)
	o.SetUser("bob@server1", []message.DeviceID{1}, nil)
	o.accept(1, 0, "bob@server1", "nobody@server1")
	o.accept(2, 0, "bob@server1", "nobody@server1")
	for token, want := range map[uint64]string{100: "held", 101: "refused no-such-user", 200: "held", 201: "refused no-such-user"} {
		if have := o.hears(token); have != want {
			t.Errorf("%d is told %s, not %s", token, have, want)
		}
	}
	var l relay.Ledger
	var texts []uint64
	bounced := 0 // by one bounce or by two, before the texts or behind them: whoever decides writes it a moment later
	for late := time.Now().Add(time.Minute); (bounced < 2 || len(texts) < 2) && time.Now().Before(late); {
		for _, e := range o.take("alice@server1", 8, &l) {
			if e.Kind != message.Bounce {
				texts = append(texts, e.Counter)
				continue
			}
			p := o.report(e)
			if p.State != message.Refused || p.Receiver != "nobody@server1" || p.Device != 7 || p.Code != message.CodeNoUser {
				t.Errorf("it is told %+v", p)
			}
			bounced += int(p.Counters.Count())
		}
	}
	if bounced != 2 || !slices.Equal(texts, []uint64{1, 2}) {
		t.Fatalf("the other device is told of %d bounces, and gets %d", bounced, texts)
	}
	if got := o.take("alice@server1", 7, &l); len(got) != 0 {
		t.Errorf("the device that wrote it gets %v", got)
	}
	o.take("bob@server1", 1, &l)
	for device := range message.DeviceID(2) {
		if got := o.take("alice@server1", 7+device, &l); len(got) != 1 || got[0].Kind != message.Receipt {
			t.Errorf("device %d is told %v", 7+device, got)
		}
	}
	if entries, _ := o.sp.Waiting(); entries != 0 {
		t.Errorf("%d wait", entries)
	}
	// To himself: each device gets it once.
	o.accept(3, 0, "alice@server1")
	o.hears(300)
	if got := o.take("alice@server1", 8, &l); len(got) != 1 {
		t.Errorf("a note to himself is there %d times", len(got))
	}
}

// TestStrays: what waits for a device that was removed is his whom Heir names.
func TestStrays(t *testing.T) {
	dir := t.TempDir()
	o := open(t, dir)
	o.SetUser("bob@server1", nil, nil)
	o.accept(1, 0, "bob@server1")
	o.hears(100)
	names := func(heir message.DeviceID, strays []*spool.Queue) string {
		s := heir.String()[12:]
		for _, q := range strays {
			s += " " + strings.TrimPrefix(q.Name(), "bob@server1/")
		}
		return s
	}
	for _, c := range []struct {
		active, suspended []message.DeviceID
		want              string
	}{
		{[]message.DeviceID{1}, nil, "0001 no-device"},
		{[]message.DeviceID{1, 2}, nil, "0001 no-device"},
		{[]message.DeviceID{2}, []message.DeviceID{1}, "0002 no-device"},
		{[]message.DeviceID{2}, nil, "0002 no-device"},
		{[]message.DeviceID{2, 3}, nil, "0002 no-device"},
		{[]message.DeviceID{3}, nil, "0003 0000000000000002 no-device"},
		{nil, nil, "0000 0000000000000002 0000000000000003"},
	} {
		o.SetUser("bob@server1", c.active, c.suspended)
		if have := names(o.Heir("bob@server1")); have != c.want {
			t.Errorf("with %v and %v: %s, not %s", c.active, c.suspended, have, c.want)
		}
	}
}

// TestOverfull: a queue that takes nothing more is told of only if the receiver has
// another one; and if one takes nothing for now, the sender keeps it.
func TestOverfull(t *testing.T) {
	o := open(t, t.TempDir())
	var full []string
	o.OnOverfull(func(user message.Address, device message.DeviceID, why string) {
		full = append(full, fmt.Sprint(user, " ", uint64(device)))
	})
	o.sp.SetLimits(spool.Limits{Quota: 100, Total: 1 << 20, Hand: 1 << 20, MaxAge: time.Hour})
	o.SetUser("bob@server1", []message.DeviceID{1}, nil)
	o.accept(1, 0, "bob@server1")
	o.hears(100)
	o.SetUser("bob@server1", []message.DeviceID{1, 2}, nil)
	o.accept(2, 0, "bob@server1")
	o.hears(200)
	o.SetUser("bob@server1", []message.DeviceID{1, 2, 3}, nil)
	o.accept(3, 0, "bob@server1")
	if have := o.hears(300); have != "held" || fmt.Sprint(full) != "[bob@server1 1]" {
		t.Errorf("%s, and overfull is %v", have, full)
	}
	o.SetUser("bob@server1", []message.DeviceID{1}, nil)
	o.accept(4, 0, "bob@server1")
	if have := o.hears(400); have != "refused quota" || len(full) != 1 {
		t.Errorf("%s, and overfull is %v", have, full)
	}
	o.sp.SetLimits(spool.Limits{Quota: 1000, Total: 1, Hand: 1 << 20, MaxAge: time.Hour})
	o.SetUser("bob@server1", []message.DeviceID{1, 2}, nil)
	o.accept(5, 0, "bob@server1")
	if have := o.hears(500); have != "refused disk-full" {
		t.Error(have)
	}
}

// TestReceipts: many acks at once make one receipt, for the sender, about him alone.
func TestReceipts(t *testing.T) {
	dir := t.TempDir()
	o := open(t, dir)
	o.SetUser("alice@server1", []message.DeviceID{7}, nil)
	o.SetUser("bob@server1", []message.DeviceID{1}, nil)
	for n := uint64(1); n <= 50; n++ {
		o.accept(n, 0, "bob@server1")
	}
	for n := uint64(1); n <= 50; n++ {
		if have := o.hears(n * 100); have != "held" {
			t.Fatal(have)
		}
	}
	o.bring(&message.Envelope{Kind: message.Text, Priority: message.Normal, From: "zoe@server1", Device: 9, Counter: 60, To: []message.Address{"bob@server1"}}, 0)
	o.hears(6000)
	var l relay.Ledger
	got := o.take("bob@server1", 1, &l)
	if len(got) != 51 {
		t.Fatalf("bob gets %d", len(got))
	}
	receipts := o.take("alice@server1", 7, &l)
	if len(receipts) != 1 || receipts[0].Kind != message.Receipt || receipts[0].From != "server1" || receipts[0].Priority != message.Urgent {
		t.Fatalf("alice gets %+v", receipts)
	}
	var report message.Report
	if err := report.Parse(receipts[0].Body); err != nil {
		t.Fatal(err)
	}
	want := message.Report{State: message.Delivered, Receiver: "bob@server1", Device: 7, Counters: message.Ranges{{First: 1, Last: 50}}}
	if fmt.Sprint(report) != fmt.Sprint(want) {
		t.Errorf("the receipt says %+v", report)
	}
	// zoe is no user: her receipt can't be sent, and her message is forgotten all the same.
	if n := o.Stats().Receipts.Load(); n != 1 {
		t.Errorf("%d receipts", n)
	}
	if entries, _ := o.sp.Waiting(); entries != 0 {
		t.Errorf("%d wait", entries)
	}
	if steps := o.Trail(message.IDOf(got[0].Raw)); len(steps) != 1 || steps[0].State != message.Delivered || steps[0].Receiver != "bob@server1" {
		t.Errorf("the trail of the first is %+v", steps)
	}
}

// TestLateReceipts: a receipt that the spool doesn't take is sent later, and what it
// is about stays on disk until then.
func TestLateReceipts(t *testing.T) {
	o := open(t, t.TempDir())
	o.SetUser("alice@server1", []message.DeviceID{7}, nil)
	o.SetUser("bob@server1", []message.DeviceID{1}, nil)
	o.accept(1, 0, "bob@server1")
	o.hears(100)
	limits := spool.Limits{Quota: 1 << 20, Total: 1, Hand: 1 << 20, MaxAge: time.Hour}
	o.sp.SetLimits(limits)
	var l relay.Ledger
	if got := o.take("bob@server1", 1, &l); len(got) != 1 {
		t.Fatalf("bob gets %v", got)
	}
	var turn spool.Turn
	for range 2 { // the first time in vain
		select {
		case <-o.Late():
		default:
			t.Fatal("nothing is late")
		}
		if got := o.take("alice@server1", 7, &l); len(got) != 0 {
			t.Fatalf("alice gets %v", got)
		}
		o.Retry(&turn)
		turn.Run()
	}
	limits.Total = 1 << 20
	o.sp.SetLimits(limits)
	o.Retry(&turn)
	turn.Run()
	if got := o.take("alice@server1", 7, &l); len(got) != 1 || got[0].Kind != message.Receipt {
		t.Errorf("alice gets %v", got)
	}
}

// TestBounces: what is given up is told with its reason; nothing is said of
// receipts and bounces themselves.
func TestBounces(t *testing.T) {
	o := open(t, t.TempDir())
	o.SetUser("alice@server1", []message.DeviceID{7}, nil)
	o.SetUser("bob@server1", []message.DeviceID{1}, nil)
	o.accept(1, 0, "bob@server1")
	o.hears(100)
	receipt := message.Report{State: message.Read, Receiver: "alice@server1", Device: 1, Counters: message.Ranges{{First: 1, Last: 1}}}
	o.bring(&message.Envelope{Kind: message.Receipt, From: "alice@server1", Device: 7, Counter: 2, To: []message.Address{"bob@server1"}, Body: receipt.Append(nil)}, 0)
	o.hears(200)
	q := o.sp.Queue(relay.QueueName("bob@server1", 1))
	var turn spool.Turn
	var l relay.Ledger
	no := message.Refuse(message.CodeRemoved, "an admin removed it")
	if n := q.Clear(func(e *spool.Entry) { o.Bounce(&turn, &l, q, e, message.Refused, no) }); n != 2 {
		t.Fatalf("%d were taken out", n)
	}
	o.Close(&turn, &l)
	turn.Run()
	bounces := o.take("alice@server1", 7, &l)
	if len(bounces) != 1 || bounces[0].Kind != message.Bounce {
		t.Fatalf("alice gets %+v", bounces)
	}
	var report message.Report
	if err := report.Parse(bounces[0].Body); err != nil {
		t.Fatal(err)
	}
	if report.State != message.Refused || report.Code != message.CodeRemoved || report.Reason != no.Reason || report.Counters.Count() != 1 {
		t.Errorf("the bounce says %+v", report)
	}
	if n := o.Stats().Bounces.Load(); n != 1 {
		t.Errorf("%d bounces", n)
	}
}
