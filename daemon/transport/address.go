package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Address says where a stream leads, by what, and what its line is like. Its text is
//
//	203.0.113.5:10001
//	KIND[,PROPERTY…]:REMOTE
//
// REMOTE is "ip:port" for tcp, a path for unix, and for exec a command: words
// between spaces, in which '…' and "…" keep spaces together. No shell sees it. The
// properties are those of Properties.String.
type Address struct {
	Kind   string
	Local  string // the address to connect from; "": the system chooses
	Remote string
	Line   Properties // what is known of it
}

// ParseAddress reads an address's text.
func ParseAddress(s string) (Address, error) {
	head, remote, found := strings.Cut(s, ":")
	kindName, properties, some := strings.Cut(head, ",")
	if _, known := kinds[kindName]; !found || !known {
		a := Address{Kind: "tcp", Remote: s}
		if err := checkTCP(s); err != nil {
			return Address{}, fmt.Errorf("%q is not ip:port, and doesn't begin with a kind: %s", clip(s), strings.Join(slices.Sorted(maps.Keys(kinds)), ", "))
		}
		return a, nil
	}
	a := Address{Kind: kindName, Remote: strings.TrimSpace(remote)}
	var err error
	switch a.Line, err = ParseProperties(properties); {
	case some && properties == "":
		err = errors.New("a property is missing after the comma")
	case err == nil:
		err = kinds[kindName].check(a.Remote)
	}
	if strings.ContainsAny(s, "\n\r\x00") {
		err = errors.New("it has a line break, or a zero")
	}
	if err != nil {
		return Address{}, fmt.Errorf("%q: %w", clip(s), err)
	}
	return a, nil
}

func clip(s string) string { return s[:min(len(s), 100)] }

// String returns the text that ParseAddress reads.
func (a Address) String() string {
	line := a.Line.String()
	if a.Kind == "tcp" && line == "" {
		return a.Remote
	}
	if line != "" {
		line = "," + line
	}
	return a.Kind + line + ":" + a.Remote
}

// Dial connects. What a command says on its standard error goes to log.
func (a Address) Dial(ctx context.Context, log *slog.Logger) (Conn, error) {
	k, err := kindOf(a.Kind)
	if err != nil {
		return nil, err
	}
	return k.dial(ctx, a, log)
}

// Properties say what a stream is like. The zero value is a fast line that costs
// nothing, on which sockets are.
type Properties struct {
	Rate      int           // bits per second, of which a byte takes ten; 0: not known, fast
	Latency   time.Duration // of one direction; 0: not known, short
	Metered   bool          // every byte costs: nothing is said unasked
	Exclusive bool          // one side at a time may speak
}

// Bounds of what can be said of a line.
const (
	MinRate    = 50
	MaxRate    = 1_000_000_000_000
	MaxLatency = time.Hour
)

// ParseProperties reads what String writes.
func ParseProperties(s string) (Properties, error) {
	var p Properties
	if s == "" {
		return p, nil
	}
	for word := range strings.SplitSeq(s, ",") {
		name, value, given := strings.Cut(word, "=")
		var err error
		switch {
		case name == "rate" && given:
			p.Rate, err = parseRate(value)
		case name == "latency" && given:
			if p.Latency, err = time.ParseDuration(value); err == nil && (p.Latency < 0 || p.Latency > MaxLatency) {
				err = fmt.Errorf("must be between 0 and %v", MaxLatency)
			}
		case word == "metered":
			p.Metered = true
		case word == "exclusive":
			p.Exclusive = true
		default:
			err = errors.New("what is known of a line is rate=1200, latency=2.5s, metered, exclusive")
		}
		if err != nil {
			return Properties{}, fmt.Errorf("%q: %w", clip(word), err)
		}
	}
	return p, nil
}

// parseRate takes 1200, 9.6k or 2M.
func parseRate(s string) (int, error) {
	factor := 1.0
	if n := len(s); n > 0 {
		switch s[n-1] {
		case 'k':
			s, factor = s[:n-1], 1e3
		case 'M':
			s, factor = s[:n-1], 1e6
		}
	}
	rate, err := strconv.ParseFloat(s, 64)
	if err != nil || !(rate*factor >= MinRate && rate*factor <= MaxRate) {
		return 0, fmt.Errorf("a rate is a number of bits per second from %d on, as 1200, 9.6k or 2M", MinRate)
	}
	return int(math.Round(rate * factor)), nil
}

// String returns what is known, as "rate=1200,latency=2.5s,metered,exclusive".
func (p Properties) String() string {
	var words []string
	if p.Rate > 0 {
		words = append(words, fmt.Sprintf("rate=%d", p.Rate))
	}
	if p.Latency > 0 {
		words = append(words, "latency="+p.Latency.String())
	}
	if p.Metered {
		words = append(words, "metered")
	}
	if p.Exclusive {
		words = append(words, "exclusive")
	}
	return strings.Join(words, ",")
}

// Quiet tells that nothing may be sent on it that nobody asked for.
func (p Properties) Quiet() bool { return p.Rate > 0 && p.Rate < 100_000 || p.Metered || p.Exclusive }

// Slow tells that it must be shared with care: a large message holds up the others.
func (p Properties) Slow() bool { return p.Quiet() || p.Rate > 0 && p.Rate < 1_000_000 }

// Time is how long so many bytes take; 0 if the rate isn't known.
func (p Properties) Time(bytes int) time.Duration {
	if p.Rate == 0 {
		return 0
	}
	return time.Duration(bytes) * 10 * time.Second / time.Duration(p.Rate)
}

// Patience is how long to wait for the answer to so many bytes, there and back
// together: four times what it should take, and never less than least.
func (p Properties) Patience(least time.Duration, bytes int) time.Duration {
	return max(least, 4*(2*p.Latency+p.Time(bytes)))
}

// With is what both sides know of a line: the worse of each.
func (p Properties) With(o Properties) Properties {
	if p.Rate == 0 || o.Rate > 0 && o.Rate < p.Rate {
		p.Rate = o.Rate
	}
	return Properties{p.Rate, max(p.Latency, o.Latency), p.Metered || o.Metered, p.Exclusive || o.Exclusive}
}
