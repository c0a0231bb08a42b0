package transport

import (
	"io"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAddress(t *testing.T) {
	for _, c := range []struct {
		text string
		want Address
	}{
		{"203.0.113.5:10001", Address{Kind: "tcp", Remote: "203.0.113.5:10001"}},
		{"[2001:db8::1]:10001", Address{Kind: "tcp", Remote: "[2001:db8::1]:10001"}},
		{"tcp,metered:203.0.113.5:10001", Address{Kind: "tcp", Remote: "203.0.113.5:10001", Line: Properties{Metered: true}}},
		{"unix:/run/chat", Address{Kind: "unix", Remote: "/run/chat"}},
		{"unix,rate=9600:/run/a:b", Address{Kind: "unix", Remote: "/run/a:b", Line: Properties{Rate: 9600}}},
		{"exec:ssh -T noipchat@server2 noipchatd --stdio", Address{Kind: "exec", Remote: "ssh -T noipchat@server2 noipchatd --stdio"}},
		{"exec,rate=1200,latency=2.5s,metered,exclusive:radio 'north hill'", Address{Kind: "exec", Remote: "radio 'north hill'",
			Line: Properties{Rate: 1200, Latency: 2500 * time.Millisecond, Metered: true, Exclusive: true}}},
	} {
		a, err := ParseAddress(c.text)
		if err != nil || a != c.want || a.String() != c.text {
			t.Errorf("%s: %+v, %v, again %s", c.text, a, err, a)
		}
	}
	if a, err := ParseAddress("tcp:203.0.113.5:10001"); err != nil || a.String() != "203.0.113.5:10001" {
		t.Errorf("the longer spelling: %v, %v", a, err)
	}
	for text, want := range map[string]string{
		"":                                 "ip:port",
		"server1":                          "ip:port",
		"server1:10001":                    "ip:port",
		"pigeon:coop":                      "exec, tcp, unix",
		"unix:":                            "1 to 107 bytes",
		"unix:" + strings.Repeat("x", 108): "1 to 107 bytes",
		"exec:":                            "no command",
		"exec:ssh 'x":                      "has no end",
		"exec:a\nb":                        "line break",
		"exec,rate=fast:x":                 "bits per second",
		"exec,rate=1:x":                    "bits per second",
		"exec,rate=NaN:x":                  "bits per second",
		"exec,latency=-1s:x":               "between 0",
		"exec,latency=9h:x":                "between 0",
		"exec,latency=long:x":              "invalid duration",
		"exec,cheap:x":                     "what is known of a line",
		"exec,:x":                          "is missing",
		"tcp,metered:here:80":              "ip:port",
	} {
		if a, err := ParseAddress(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v", text, a, err)
		}
	}
	for rate, want := range map[string]int{"9.6k": 9600, "2M": 2_000_000, "50": 50} {
		if p, err := ParseProperties("rate=" + rate); err != nil || p.Rate != want {
			t.Errorf("%s: %v, %v", rate, p, err)
		}
	}
}

func FuzzAddress(f *testing.F) {
	for _, text := range []string{
		"203.0.113.5:10001", "[2001:db8::1]:10001", "unix,rate=9600:/run/a:b", "exec,rate=1.2k,latency=2.5s,metered,exclusive:radio 'north hill'",
		"", "server1:10001", "pigeon:coop", "exec:ssh 'x", "exec,rate=NaN:x", "exec,:x",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseAddress(text)
		if err != nil {
			return
		}
		if again, err := ParseAddress(a.String()); err != nil || again != a {
			t.Fatalf("%q is %+v, and that %q, which is %+v, %v", text, a, a, again, err)
		}
		if a.Kind == "exec" {
			if argv, err := words(a.Remote); err != nil || len(argv) == 0 {
				t.Fatalf("%q has the words %q, %v", text, argv, err)
			}
		}
	})
}

func TestProperties(t *testing.T) {
	radio := Properties{Rate: 1200, Latency: 2500 * time.Millisecond, Exclusive: true}
	if d := radio.Time(120); d != time.Second {
		t.Errorf("120 bytes take %v", d)
	}
	if d := radio.Patience(10*time.Second, 400); d.Round(time.Millisecond) != 33333*time.Millisecond {
		t.Errorf("400 bytes and their answer are waited for %v", d)
	}
	if d := (Properties{}).Patience(10*time.Second, 400); d != 10*time.Second {
		t.Errorf("on a fast line %v", d)
	}
	both := radio.With(Properties{Rate: 9600, Latency: time.Second, Metered: true})
	if both != (Properties{Rate: 1200, Latency: radio.Latency, Metered: true, Exclusive: true}) || both != both.With(Properties{}) || both != (Properties{}).With(both) {
		t.Errorf("together: %v", both)
	}
	for p, want := range map[Properties]bool{{}: false, {Latency: time.Hour}: false, {Rate: 500_000}: true, {Rate: 1_000_000}: false, {Metered: true}: true} {
		if p.Slow() != want {
			t.Errorf("%v: slow is %v", p, !want)
		}
	}
}

// TestMemoryLine: bytes take their time, and what was written before the end arrives.
func TestMemoryLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Memory
		line := Properties{Rate: 1200, Latency: 2 * time.Second, Exclusive: true}
		l, err := m.Listen("far")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		a, err := m.DialLine(t.Context(), "far", line)
		if err != nil {
			t.Fatal(err)
		}
		b, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if a.Properties() != line || b.Properties() != (Properties{}) {
			t.Errorf("%v, %v", a.Properties(), b.Properties())
		}
		start := time.Now()
		send(t, a, strings.Repeat("a", 120))
		send(t, b, strings.Repeat("b", 240)) // one side at a time
		send(t, a, "the end")
		a.Close()
		b.Read(make([]byte, 200))
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("120 bytes arrive after %v", d)
		}
		if rest, err := io.ReadAll(b); string(rest) != "the end" || err != nil {
			t.Errorf("%q, %v", rest, err)
		}
		if d := time.Since(start).Round(time.Millisecond); d != 5058*time.Millisecond {
			t.Errorf("the end arrives after %v", d)
		}
		b.Close()
	})
}

// TestTold: who knows the line behind a Unix socket says so by its name.
func TestTold(t *testing.T) {
	l, err := Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, want := range []Properties{{}, {Rate: 1200, Latency: 2500 * time.Millisecond, Exclusive: true}, {Metered: true}} {
		a, err := Address{Kind: "unix", Remote: l.Addr().String(), Line: want}.Dial(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if a.Properties() != want || b.Properties() != want {
			t.Errorf("%v is told as %v, and known as %v", want, b.Properties(), a.Properties())
		}
		a.Close()
		b.Close()
	}
}
